"""Types of options, shared by all commands: numbers, sizes, paths; and spelling with hyphens or underscores."""

from __future__ import annotations

import re
from collections import Counter
from contextlib import suppress
from typing import Any

import click

from dispy.errors import UsageError
from dispy.system import current_directory


class Underscores(click.Command):
    """A command whose options may be written with hyphens or underscores.

    If an option that takes one value is given several times the last value counts, and a line on stderr says so.
    """

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        end = args.index("--") if "--" in args else len(args)  # no options behind it
        args = [*map(_normal, args[:end]), *args[end:]]
        if not ctx.resilient_parsing:
            _, _, order = self.make_parser(ctx).parse_args(args=list(args))
            for parameter, count in Counter(order).items():
                if count > 1 and _is_replaced(parameter):
                    say(ctx, f"{_name(parameter)} is given {count} times; the last one counts")
        return super().parse_args(ctx, args)


def say(ctx: click.Context, text: str) -> None:
    """Print a line about how the command was typed, on stderr. A closed stderr is no error."""
    with suppress(OSError):
        click.echo(f"{ctx.find_root().info_name}: {text}", err=True)


def _is_replaced(parameter: click.Parameter) -> bool:
    """True if a second value of this parameter replaces the first one: then a line on stderr says so."""
    if not isinstance(parameter, click.Option) or parameter.multiple or parameter.is_eager:
        return False
    return not parameter.is_flag or bool(parameter.secondary_opts)


def _name(parameter: click.Parameter) -> str:
    """Returns all spellings of an option for a message, such as ``--tls/--no_tls``."""
    return "/".join([*parameter.opts, *parameter.secondary_opts])


def _normal(argument: str) -> str:
    """Returns a typed argument, with underscores for the hyphens in an option's name; values stay as they are."""
    if not argument.startswith("--"):
        return argument
    name, equals, value = argument.partition("=")
    return name.replace("-", "_").replace("__", "--", 1) + equals + value


class Number(click.ParamType):  # type: ignore[type-arg]  # generic in newer versions only
    """A number between bounds; any other value is an error that describes the allowed values.

    Args:
        words: Description of the allowed values, for the error text.
        least: The smallest allowed number.
        most: The largest allowed number.
        whole: True: an ``int``; False: a ``float``.
        or_zero: True if 0 is allowed although it is below ``least``.
    """

    name = "number"

    def __init__(
        self, words: str, least: float, most: float, *, whole: bool = False, or_zero: bool = False
    ) -> None:
        self._words = words
        self._bounds = (least, most)
        self._type = int if whole else float
        self._or_zero = or_zero

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Returns the value as a number; ends the command with a usage error if it is none or out of bounds."""
        try:
            number = self._type(value)
        except ValueError:
            number = float("nan")
        least, most = self._bounds
        if not (least <= number <= most or (self._or_zero and number == 0)):
            self.fail(f"{value!r} is not {self._words}", param, ctx)
        return number


class UserPath(click.Path):
    """A path that may begin with ``~``, which no shell replaces in ``--option=~/file``.

    Args:
        or_none: True: an empty text means no path, as in dispy 4. False: it is an error, as a script's variable was
            probably empty.
        options: Arguments of ``click.Path``.
    """

    def __init__(self, *, or_none: bool = False, **options: Any) -> None:
        super().__init__(**options)
        self._or_none = or_none

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Returns the path, with the home directory in place of ``~``; an unusable path ends the command."""
        if value == "":
            if self._or_none:
                return value
            self.fail("the path is empty; give one, or leave the option out", param, ctx)
        try:
            return super().convert(current_directory.expanded(value), param, ctx)
        except UsageError as error:
            self.fail(str(error), param, ctx)


class Size(click.ParamType):  # type: ignore[type-arg]  # generic in newer versions only
    """A number of bytes: digits, and k, m, g or t for powers of 1024."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Returns the number of bytes; ends the command with a usage error if it is none, or 2**62 or more."""
        found = re.fullmatch(r"(\d+)([kmgt]?)", str(value).strip().lower())
        if found is None:
            self.fail(f"{value!r} is no size: digits, and k, m, g or t, as in 500m", param, ctx)
        size = int(found[1]) << 10 * " kmgt".index(found[2] or " ")
        if size >= 1 << 62:
            self.fail(f"{value!r} is more than any disk holds", param, ctx)
        return size
