"""Reference of the commands, made of the objects that parse their options."""

from __future__ import annotations

import re
from collections.abc import Iterator

import click


def commands(command: click.Command, name: str) -> Iterator[tuple[str, click.Command]]:
    """Yield a command and all below it, as they are typed: ``dispy``, ``dispy secret``, ``dispy secret new``, …"""
    yield name, command
    if isinstance(command, click.Group):
        for below in sorted(command.commands):
            yield from commands(command.commands[below], f"{name} {below}")


def described(command: click.Command, name: str) -> str:
    """Returns the reference of a command and of all below it (Markdown), with a heading for each.

    Args:
        command: The command.
        name: How it is typed.
    """
    return "\n\n".join(_one(each, typed) for typed, each in commands(command, name))


def _one(command: click.Command, name: str) -> str:
    context = click.Context(command, info_name=name, help_option_names=["-h", "--help"])
    usage = " ".join(command.collect_usage_pieces(context))
    options = [each for each in command.get_params(context) if isinstance(each, click.Option)]
    parts = [f"## `{name}`", _paragraphs(command.help or ""), f"```text\n{name} {usage}\n```"]
    shown = [each for each in options if not each.hidden]
    old = [each for each in options if each.hidden]
    if shown:
        parts.append(_table([(_written(each, context), _explained(each, context)) for each in shown]))
    if old:
        names = ", ".join(f"`{each}`" for option in old for each in option.opts)
        parts.append(
            f"Options of dispy 4 that have no effect any more, or none yet: {names}. "
            "[Coming from dispy 4](../how-to/coming-from-dispy-4.md) says what each does now."
        )
    return "\n\n".join(part for part in parts if part)


def _written(option: click.Option, context: click.Context) -> str:
    """Returns how an option is typed: all its names, and what it takes."""
    names = ", ".join(f"`{each}`" for each in option.opts)
    if option.secondary_opts:
        names += " / " + ", ".join(f"`{each}`" for each in option.secondary_opts)
    if option.is_flag or option.count:
        return names
    return f"{names} {_escaped(option.make_metavar(context))}"


def _explained(option: click.Option, context: click.Context) -> str:
    """Returns what an option does, with its default where it has one that says something."""
    text = " ".join((option.help or "").split())
    shown = option.show_default
    if shown:
        value = shown if isinstance(shown, str) else option.get_default(context)
        text += f" Default: {', '.join(map(str, value)) if isinstance(value, (list, tuple)) else value}."
    return _escaped(text)


def _paragraphs(text: str) -> str:
    """Returns a command's help without the marks and line ends that are for terminals."""
    return "\n\n".join(" ".join(part.split()) for part in re.split(r"\n\s*\n", text.replace("\b", "")))


def _escaped(text: str) -> str:
    """Returns a text that stays as it is in a cell of a table."""
    return re.sub(r"([|*_<>\[\]])", r"\\\1", text)


def _table(rows: list[tuple[str, str]]) -> str:
    lines = ["| option | what it does |", "| --- | --- |"]
    return "\n".join([*lines, *(f"| {first} | {second} |" for first, second in rows)])
