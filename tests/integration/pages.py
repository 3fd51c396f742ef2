"""Pages of the docs as tests read them: their blocks of code, and a comparison of what they show with what came.

The first line of a block of code is a comment that says what it is, so that it is on the page, too:

- ``# pool.py`` or ``# pool.py on a``: a file (in the directory of machine a);
- ``# on b``: commands to type (on machine b), ``# on each machine``; nothing: commands of the only machine;
- ``# on b, in a terminal that stays open``: a command that goes on running while the next blocks are worked through;
- ``# on b: press Ctrl-C in the terminal of dispynode``: a key instead of a command;
- ``# on b: wait for the end of work``: patience; the block after it is all that ``work`` has shown.

A ``text`` block is what the block before it shows. In it ``…`` stands for any text within a line, and a line of
nothing else for any number of lines.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

DOCS = Path(__file__).resolve().parents[2] / "docs"

FENCE = re.compile(r"^```(\S*)\n(.*?)^```$", flags=re.MULTILINE | re.DOTALL)
FILE = re.compile(r"# (\w+\.\w+)(?: on (\w+))?")
TERMINAL = re.compile(r"# (?:on (\w+), )?in a terminal that stays open")
KEY = re.compile(r"# (?:on (\w+): )?press Ctrl-C in the terminal of (\w+)")
END = re.compile(r"# (?:on (\w+): )?wait for the end of (\w+)")
MACHINE = re.compile(r"# on (\w+)(?: machine)?")


class Step(NamedTuple):
    """A block of code of a page.

    Attributes:
        kind: ``file``, ``run`` (commands that end), ``start`` (a command that goes on), ``interrupt`` (Ctrl-C) or
            ``wait`` (for the end of what was started).
        machine: Name of the machine; empty: the page has only one.
        name: Name of the file; a word of the command that is interrupted or waited for.
        text: Content of the file, with its first line; or the commands.
        shown: Text block after it; None: there is none.
    """

    kind: str
    machine: str
    name: str
    text: str
    shown: str | None


def steps(page: str) -> list[Step]:
    """Blocks of code of a page, in order.

    Args:
        page: Its Markdown.

    Raises:
        ValueError: A text block has nothing before it whose output it could be, a file has no name, or the comment of
            a block says something else than those above.
    """
    found: list[Step] = []
    for language, text in FENCE.findall(page):
        if language.startswith("{"):  # a directive of the site, such as its list of pages
            continue
        if language == "text":
            if not found or found[-1].shown is not None:
                raise ValueError(f"a text block shows the output of nothing: {text!r}")
            found[-1] = found[-1]._replace(shown=text)
        else:
            found.append(_step(language, text))
    return found


def _step(language: str, text: str) -> Step:
    first = text.partition("\n")[0]
    if language == "sh":
        if match := TERMINAL.fullmatch(first):
            return Step("start", match[1] or "", "", text, None)
        if match := KEY.fullmatch(first):
            return Step("interrupt", match[1] or "", match[2], text, None)
        if match := END.fullmatch(first):
            return Step("wait", match[1] or "", match[2], text, None)
        match = MACHINE.fullmatch(first)
        if match is None and first.startswith("#"):
            raise ValueError(f"the first line of a block does not say what to do: {first!r}")
        return Step("run", match[1] if match else "", "", text, None)
    match = FILE.fullmatch(first)
    if match is None:
        raise ValueError(f"the first line of a block does not name its file: {first!r}")
    return Step("file", match[2] or "", match[1], text, None)


ANY_LINES = "…"
"""A line of a text block that stands for any number of lines."""


def pattern(line: str) -> str:
    """Regular expression for a line of a text block."""
    return ".*".join(re.escape(part) for part in line.rstrip().split("…")) + " *"


def is_shown(shown: str, output: str, errors: str = "") -> bool:
    """Whether a text block shows all that came, on both streams. Empty lines at the end are not looked at.

    Lines of one stream have to come in the order of the block. Which of two lines comes first that came on different
    streams is not looked at: two threads may have written them.

    Args:
        shown: The block.
        output: Standard output.
        errors: Standard error.
    """
    streams = output.rstrip().splitlines(), errors.rstrip().splitlines()
    # Numbers of lines of both streams that the block has shown so far: all that are possible.
    places = {(0, 0)}
    for line in shown.rstrip().splitlines():
        if line.strip() == ANY_LINES:
            places = {
                (first, second)
                for first in range(len(streams[0]) + 1)
                for second in range(len(streams[1]) + 1)
                if any(first >= one and second >= other for one, other in places)
            }
            continue
        wanted = re.compile(pattern(line))
        begun, places = places, set()
        for first, second in begun:
            if first < len(streams[0]) and wanted.fullmatch(streams[0][first]):
                places.add((first + 1, second))
            if second < len(streams[1]) and wanted.fullmatch(streams[1][second]):
                places.add((first, second + 1))
    return (len(streams[0]), len(streams[1])) in places
