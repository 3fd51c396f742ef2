"""Reference of the exceptions, made of the source of ``dispy.errors``: one group for each who can act on them."""

from __future__ import annotations

import ast
import re
from typing import NamedTuple


class Group(NamedTuple):
    """Exceptions on which the same party can act.

    Attributes:
        title: Comment above them: who can act.
        names: Classes, in the order of the source.
    """

    title: str
    names: list[str]


def groups(source: str) -> list[Group]:
    """Returns the exceptions of a module by the comments that stand between them; those above the first: "All".

    Args:
        source: Text of the module.
    """
    titles = {
        number: line[2:].rstrip(".")
        for number, line in enumerate(source.splitlines(), 1)
        if line.startswith("# ")
    }
    found = [Group("All", [])]
    for node in ast.parse(source).body:
        if isinstance(node, ast.ClassDef):
            above = [number for number in titles if number < node.lineno]
            title = titles[above[-1]] if above else "All"
            if title != found[-1].title:
                found.append(Group(title, []))
            found[-1].names.append(node.name)
    return found


def described(source: str, module: str) -> str:
    """Returns the reference of a module's exceptions (Markdown), each from its docstring.

    Args:
        source: Text of the module.
        module: Its name.
    """
    parts = []
    for group in groups(source):
        parts.append(f"## {group.title}")
        parts.append(documented([f"{module}.{name}" for name in group.names], kind="autoexception"))
    return "\n\n".join(parts)


def documented(names: list[str], *, kind: str = "autoclass") -> str:
    """Returns the block that has Sphinx write down objects from their docstrings.

    Args:
        names: Dotted names.
        kind: Directive of Sphinx for such objects.
    """
    blocks = []
    for name in names:
        options = "   :members:\n   :show-inheritance:\n" if re.search(r"class|exception", kind) else ""
        blocks.append(f".. {kind}:: {name}\n{options}")
    return "```{eval-rst}\n" + "\n".join(blocks) + "```"
