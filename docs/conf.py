"""How Sphinx builds the site of this folder. ``python -m docs_site`` calls it."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # docs_site, which is not installed

from sphinx.application import Sphinx
from sphinx.errors import ExtensionError
from sphinx.ext.napoleon import Config, GoogleDocstring

import dispy
from docs_site.pages import REPOSITORY, UnknownPlace, filled

project = "dispy"
author = "the authors of dispy"
copyright = author  # noqa: A001  # the name that Sphinx wants
version = release = dispy.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc"]
exclude_patterns = ["conf.py"]
root_doc = "index"
smartquotes = False  # --host stays as it is typed

myst_heading_anchors = 4  # links such as files.md#limits, as on a forge
myst_enable_extensions = ["deflist"]

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_class_signature = "mixed"
python_maximum_signature_line_length = 88
docstrings = Config(
    napoleon_numpy_docstring=False,
    napoleon_use_ivar=True,  # attributes as a list: some are documented below their own names, too
)

html_theme = "furo"
html_title = "dispy"
html_static_path = ["_static"]
html_show_sourcelink = False
html_copy_source = False
html_theme_options = {
    "source_view_link": f"{REPOSITORY}/docs/{{filename}}",
    "top_of_page_buttons": ["view"],
}
pygments_style = "default"
pygments_dark_style = "github-dark"


def _fill(app: Sphinx, name: str, content: list[str]) -> None:
    """Fill the places of a page. Called for each page before it is parsed."""
    try:
        content[0] = filled(content[0], Path(app.srcdir) / f"{name}.md")
    except UnknownPlace as error:
        raise ExtensionError(str(error)) from error


def _read_docstring(
    app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]
) -> None:
    """Turn a docstring in Google's form into what Sphinx reads. Called for each object that is documented.

    Napoleon as an extension would take "Callback for each end of a job; None: none." of a property for a type and a
    text. So properties are read like methods.
    """
    kind = "method" if what in ("attribute", "data", "property") else what
    lines[:] = GoogleDocstring(list(lines), docstrings, app, kind, name, obj, options).lines()


def _short_signature(
    app: Sphinx,
    what: str,
    name: str,
    obj: object,
    options: object,
    signature: str | None,
    returned: str | None,
) -> tuple[str | None, str | None] | None:
    """Leave out the parameters of classes that dispy alone makes objects of. Called for each object with some."""
    return ("", None) if what == "class" and "_session" in (signature or "") else None


def setup(app: Sphinx) -> None:
    """Connect the functions above. Sphinx calls this."""
    app.connect("source-read", _fill)
    app.connect("autodoc-process-docstring", _read_docstring)
    app.connect("autodoc-process-signature", _short_signature)
