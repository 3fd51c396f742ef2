"""Versions of installed packages that a computation uses: noted by the program, compared where jobs run.

The names of the directories with metadata tell the versions, such as ``numpy-2.4.6.dist-info``. Nothing is imported
for that, and no file is read if a distribution has the name of its module.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import re
import sys
from collections.abc import Iterable, Mapping
from itertools import islice

from dispy.payload.modules.origins import Origin, lies_with_packages, origin_of

_METADATA = ".dist-info"
"""Ending of the names of directories with the metadata of installed distributions (``numpy-2.4.6.dist-info``)."""

_LOOKED_AT_MAX = 256 * 1024
"""Size (bytes) of the beginning of a pickle or of marshalled code in which names of packages are looked for.

Large values follow there as a rule. The version of a package that is named only behind them is not compared.
"""

_TEXTS_MAX = 20
"""Largest number of pickles and marshalled codes in which names of packages are looked for: the first ones.

The version of a package that only later ones name is not compared.
"""


def versions_used(texts: Iterable[bytes]) -> dict[str, str]:
    """Returns the installed packages that some code names: distribution (``numpy-2.4.6``) by top name of the module.

    Modules that are not loaded, and those of which no distribution is known, are left out.

    Args:
        texts: The code, pickled or marshalled: all names that it uses stand there.
    """
    data = b"\n".join([text[:_LOOKED_AT_MAX] for text in islice(texts, _TEXTS_MAX)])
    found = {}
    for name in list(sys.modules):
        if "." in name or not _is_named(name, data) or origin_of(name) is not Origin.INSTALLED:
            continue
        site = _site_of(getattr(sys.modules[name], "__file__", None), name)
        distribution = _distribution(site, name) if site else ""
        if distribution:
            found[name] = distribution
    return found


def _is_named(name: str, data: bytes) -> bool:
    """True if pickled or marshalled code (``data``) names a module: alone, or in front of other names (``a.b``)."""
    text = name.encode("utf-8", "replace")
    if text not in data or len(text) > 255:
        return False
    return bytes([len(text)]) + text in data or bool(
        re.search(rb"(?<![\w.])" + re.escape(text) + rb"\.\w", data)
    )


def _site_of(file: str | None, top: str) -> str:
    """Returns the directory into which a module was installed; empty if it lies with no packages.

    Args:
        file: Path of the module's file; None if there is none.
        top: Top name of the module.
    """
    if not file or not lies_with_packages(file):
        return ""
    directory = os.path.dirname(file)
    return os.path.dirname(directory) if os.path.basename(directory) == top else directory


def _distribution(site: str, top: str) -> str:
    """Returns the distribution that has installed a module, as ``name-version``; empty if that is not known.

    Args:
        site: Path of the directory into which it was installed.
        top: Top name of the module.
    """
    try:
        return _find(site, top, os.stat(site).st_mtime_ns)
    except OSError:
        return ""


@functools.lru_cache(1024)
def _find(site: str, top: str, changed: int) -> str:
    """Returns the distribution of a module, as ``_distribution`` does.

    The last 1024 answers are kept. ``changed``, the time of change of the directory ``site`` (nanoseconds), is part
    of their key: after an installation there the answer is made anew.
    """
    installed = [name for name in sorted(os.listdir(site)) if name.endswith(_METADATA)]
    for name in installed:
        if _plain(name.partition("-")[0]) == _plain(top):
            return name.removesuffix(_METADATA)
    begins = (b"\n" + top.encode() + b"/", b"\n" + top.encode() + b".")
    for name in installed:
        try:
            with open(f"{site}/{name}/RECORD", "rb") as file:
                record = b"\n" + file.read()
        except OSError:
            continue
        if any(begin in record for begin in begins):
            return name.removesuffix(_METADATA)
    return ""


def _plain(name: str) -> str:
    """Returns a name for comparison as PEP 503 has it: in lower case, with ``-`` for each run of ``-_.``."""
    return re.sub(r"[-_.]+", "-", name).lower()


def differing(versions: Mapping[str, str]) -> str:
    """Returns a warning that names the packages installed here in other versions; empty if there are none.

    Packages that are not installed here are left out: an import of theirs fails by itself.

    Args:
        versions: Answer of ``versions_used`` in the program.
    """
    texts = {}
    for name, theirs in versions.items():
        ours = _here(name)
        if ours and _plain(ours) != _plain(theirs):
            texts[theirs] = f"{ours.replace('-', ' ', 1)} ({theirs.partition('-')[2]} in the program)"
    if not texts:
        return ""
    what = "it" if len(texts) == 1 else "them"
    return (
        f"installed in another version than the program has: {', '.join(texts.values())}; jobs use what is "
        f"installed: install the same version, or list {what} in depends"
    )


def _here(name: str) -> str:
    """Returns the distribution that has installed a module on this machine (``name-version``); empty if not known.

    The module need not be loaded, and is not imported.
    """
    module = sys.modules.get(name)
    file = getattr(module, "__file__", None)
    if module is None:
        try:
            spec = importlib.util.find_spec(name)
        except Exception:  # raised by a finder of the user's
            return ""
        file = spec.origin if spec is not None and spec.has_location else None
    site = _site_of(file, name)
    return _distribution(site, name) if site else ""
