"""How the options of all commands may be written."""

from __future__ import annotations

import re
from typing import Any

import click


class Underscores(click.Command):
    """A command whose options may be written with hyphens or underscores."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        end = args.index("--") if "--" in args else len(args)  # behind it are no options
        return super().parse_args(ctx, [*map(_normal, args[:end]), *args[end:]])


def _normal(argument: str) -> str:
    if not argument.startswith("--"):
        return argument
    name, equals, value = argument.partition("=")
    return name.replace("-", "_").replace("__", "--", 1) + equals + value


class Size(click.ParamType):  # type: ignore[type-arg]  # generic in newer versions only
    """A number of bytes: digits, and k, m, g or t for powers of 1024."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """The number."""
        found = re.fullmatch(r"(\d+)([kmgt]?)", str(value).strip().lower())
        if found is None:
            self.fail(f"{value!r} is no size: digits, and k, m, g or t, as in 500m", param, ctx)
        size = int(found[1]) << 10 * " kmgt".index(found[2] or " ")
        if size >= 1 << 62:
            self.fail(f"{value!r} is more than any disk holds", param, ctx)
        return size


class ZombieInterval(click.ParamType):  # type: ignore[type-arg]  # likewise
    """Minutes, from 1; 0 for no end."""

    name = "minutes"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The number."""
        try:
            minutes = float(value)
        except ValueError:
            minutes = -1.0
        if minutes != 0 and not 1 <= minutes <= 1e6:
            self.fail(f"{value!r} is not a number of minutes from 1, or 0", param, ctx)
        return minutes
