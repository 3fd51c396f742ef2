"""Options of a program in a file: INI, section ``[DEFAULT]``, one key for each option.

Values are texts: numbers as on the command line, "True" and "False", and lists as Python writes them. They are parsed
and never evaluated. ``save`` makes the file with mode 0600, as secrets may be in it.
"""

from __future__ import annotations

import ast
import configparser
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from dispy.errors import UsageError
from dispy.security.new_files import NewFile, write_new


def save(path: str, given: Mapping[str, Any], usual: Mapping[str, Any], aliases: Mapping[str, str]) -> None:
    """Write options into a new file.

    Args:
        path: The file, which must not exist.
        given: Values by option name.
        usual: The values that the options have if they are not given; equal ones are left out of the file.
        aliases: Keys in the file of options that have another name there, by option name.

    Raises:
        UsageError: The file exists, or cannot be written.
    """
    parser = configparser.ConfigParser(interpolation=None)
    for name, value in given.items():
        if value != usual[name]:
            shown = repr(list(value)) if isinstance(value, (tuple, list)) else str(value)
            parser["DEFAULT"][aliases.get(name, name)] = shown
    text = "".join(f"{key} = {value}\n" for key, value in parser["DEFAULT"].items())
    write_new([NewFile(Path(path), f"[DEFAULT]\n{text}".encode(), 0o600)], hint="give another name")


def load(path: str, command: click.Command, aliases: Mapping[str, str]) -> dict[str, Any]:
    """Read options from a file.

    Args:
        path: The file.
        command: Command whose options they are: each value is checked as on the command line.
        aliases: As in ``save``.

    Returns:
        Values by option name.

    Raises:
        UsageError: The file cannot be read, has an unknown key, or a value that the option does not take.
    """
    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read_string(Path(path).read_text())
    except (OSError, UnicodeDecodeError, configparser.Error) as error:
        raise UsageError(f"--config {path}: {error}", hint="--save_config FILE writes one") from error
    options = {aliases.get(str(option.name), str(option.name)): option for option in command.params}
    found: dict[str, Any] = {}
    faults = []
    for key, text in parser["DEFAULT"].items():
        option = options.get(key)
        if option is None:
            faults.append(f"there is no option {key!r}")
            continue
        try:
            found[str(option.name)] = _value(option, text)
        except (click.BadParameter, ValueError, SyntaxError) as error:
            faults.append(f"{key}: {getattr(error, 'message', error)}")
    if faults:
        raise UsageError(
            f"--config {path}: {'; '.join(faults)}", hint="--save_config FILE writes such a file"
        )
    return found


def _value(option: click.Parameter, text: str) -> Any:
    """Returns the value of an option that a text stands for.

    Raises:
        ValueError: The text is no list where the option takes several values.
        click.BadParameter: The option does not take it.
    """
    context = click.Context(click.Command("config"))
    if option.multiple:
        parsed = ast.literal_eval(text) if text.strip().startswith("[") else text.split(",")
        if not isinstance(parsed, list):
            raise ValueError("it is no list")
        return tuple(option.type.convert(str(each).strip(), option, context) for each in parsed)
    if text in ("None", ""):
        return None if option.default is None else option.type.convert(text, option, context)
    return option.type.convert(text, option, context)
