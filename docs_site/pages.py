"""Pages of the reference: places in them are filled with what the source says."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from dispy.cli.main import command as dispy_command
from dispy.cli.node import command as node_command
from dispy.cli.scheduler import command as scheduler_command
from docs_site import commands, exceptions, settings_table

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "dispy"

REPOSITORY = "https://github.com/pgiri/dispy/blob/main"
"""Address of files that are not part of the site, such as CONTRIBUTING.md."""

PLACE = re.compile(r"^<!-- filled from the source: ([\w ]+?) -->$", flags=re.MULTILINE)
"""Line of a page that is replaced: a comment, so that the page reads well where nothing fills it."""


class UnknownPlace(Exception):
    """A page has a place that nothing fills; the text names both."""


def _source(module: str) -> str:
    return (SOURCE / module).read_text()


FILLERS: dict[str, Callable[[], str]] = {
    "dispy": lambda: commands.described(dispy_command, "dispy"),
    "dispynode": lambda: commands.described(node_command, "dispynode"),
    "dispyscheduler": lambda: commands.described(scheduler_command, "dispyscheduler"),
    "settings": lambda: settings_table.table(_source("config.py")),
    "exceptions": lambda: exceptions.described(_source("errors.py"), "dispy.errors"),
}
"""Functions that write a part of a page (Markdown), by the name of the place."""


def filled(text: str, page: Path) -> str:
    """Returns a page with its places filled, and its links to files outside of ``docs/`` made absolute.

    Args:
        text: Markdown of the page.
        page: Path of the page.

    Raises:
        UnknownPlace: A place has a name that nothing fills.
    """
    unknown = [name for name in PLACE.findall(text) if name not in FILLERS]
    if unknown:
        raise UnknownPlace(
            f"{page.name}: nothing fills the place {', '.join(map(repr, unknown))}; docs_site/pages.py fills "
            f"{', '.join(FILLERS)}"
        )
    text = PLACE.sub(lambda found: FILLERS[found[1]](), text)
    return re.sub(r"\]\(((?:\.\./)+[^)#\s]+)(#[^)\s]*)?\)", lambda found: _link(found, page), text)


def _link(found: re.Match[str], page: Path) -> str:
    target = (page.parent / found[1]).resolve()
    if target.is_relative_to(ROOT / "docs") or not target.is_relative_to(ROOT):
        return found[0]
    return f"]({REPOSITORY}/{target.relative_to(ROOT).as_posix()}{found[2] or ''})"
