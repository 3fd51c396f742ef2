"""How the options of all commands may be written."""

from __future__ import annotations

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
