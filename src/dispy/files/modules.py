"""Modules and packages in ``depends``: the files that they stand for, and their paths in the working directory."""

from __future__ import annotations

import os
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from dispy.errors import UsageError
from dispy.files.directory_listing import place_of, walk
from dispy.files.distributions import LIBRARIES, Distribution, is_package_directory, owner_of


class Part(NamedTuple):
    """A file of a module or package, and where it goes on nodes.

    Attributes:
        path: Path of the file on this machine.
        target: Path relative to the working directory of jobs.
        package: Number that all files of one installed package share (``FileEntry.package``): a node that has the
            package with equal content does not fetch them. 0: the user's own module.
        is_beside: True if the file was installed with the package, but lies outside of the package's directory, as
            shared libraries do. If another file of the manifest has this target, that one is sent instead; and if
            this file cannot be sent, it is left out, with a warning.
    """

    path: str
    target: str
    package: int = 0
    is_beside: bool = False


def parts_of(module: ModuleType, base: Path | None) -> Iterator[Part]:
    """Yields the files that a node needs to import a module: those of the whole package that the module is in.

    Modules that come with Python yield none. Files of the user's own modules below the directory ``base`` are yielded
    a second time, at their place relative to it: programs may look for them there. ``base`` None: they are not.

    Raises:
        UsageError: The module has no files that could be sent, or they cannot be read.
    """
    name = module.__name__
    if name == "__main__":
        raise UsageError(
            "the main program cannot be in depends as a module",
            hint="list the functions that jobs need, or move them into a module",
        )
    top = name.partition(".")[0]
    package = sys.modules.get(top, module) if top != name else module
    if _comes_with_python(package):
        return
    installed = _find_installed(package, module)
    if installed is not None:
        yield from _parts_of_installed(installed)
        return
    places = _places(package)
    if not places:
        path = _file(package)
        if not path:
            raise UsageError(
                f"module {name!r} has no file that could be sent", hint="leave it out of depends"
            )
        target = _target_of_file(path, top)
        yield Part(path, target)
        yield from _where_it_lies(path, target, base)
    for place in places:
        _check_directory(top, place)
        for path, below in walk(place):
            yield Part(path, f"{top}/{below}")
            yield from _where_it_lies(path, f"{top}/{below}", base)
        libraries = f"{os.path.dirname(place)}/{top}{LIBRARIES}"
        for path, below in walk(libraries) if os.path.isdir(libraries) else ():
            yield Part(path, f"{top}{LIBRARIES}/{below}")


def _places(module: ModuleType) -> list[str]:
    """Returns paths of the directories of a package; empty for a module that is a file."""
    return [str(place) for place in getattr(module, "__path__", ())]


def _file(module: ModuleType) -> str:
    """Returns the path of the file that a module was loaded from; empty for a namespace or a built-in module."""
    return str(getattr(module, "__file__", None) or "")


def _check_directory(name: str, place: str) -> None:
    """Raise UsageError if the place of a package is no directory but, say, a zip archive: it cannot be sent."""
    if not os.path.isdir(place):
        raise UsageError(
            f"package {name!r} is not in a directory but in {place!r}",
            hint="unpack it, or install it on the nodes",
        )


def _target_of_file(path: str, top: str) -> str:
    """Returns the name that the only file of module ``top`` must have on a node, so that ``import top`` finds it.

    The file keeps its own name if that begins with ``top.``; otherwise it becomes ``top.py``.
    """
    # The name of a compiled module says what it was compiled for, and is kept.
    name = os.path.basename(path)
    return name if name.startswith(f"{top}.") else f"{top}.py"


def _where_it_lies(path: str, importable: str, base: Path | None) -> Iterator[Part]:
    """Yields a module's file once more, with its path relative to ``base`` as the target.

    Nothing is yielded if that path is ``importable``, the target at which the file is sent already, or if the file
    would lie at the top of the working directory.
    """
    target = place_of(path, base)
    if "/" in target and target != importable:
        yield Part(path, target)


# Installed packages.


class _Installed(NamedTuple):
    """An installed package, or an installed module that is a single file.

    Attributes:
        name: Name by which it is imported, such as "google.protobuf".
        module: Its module object.
        site: Path of the directory into which the package was installed.
        owners: Distributions that have installed the package, and the module below it that was asked for. Each
            once, so at most two; empty if they are not known.
    """

    name: str
    module: ModuleType
    site: str
    owners: list[Distribution]


def _find_installed(package: ModuleType, module: ModuleType) -> _Installed | None:
    """Returns the installed package that a module is in; None if the package is the user's own.

    The package is the outermost one around the module that has a file of its own. So a namespace that several
    distributions share, such as ``google``, is not sent as a whole, but only the package below it.
    """
    name = module.__name__
    for end in [at for at, letter in enumerate(name) if letter == "."] + [len(name)]:
        outer = package if end == len(package.__name__) else sys.modules.get(name[:end], module)
        if _file(outer):
            break
    else:
        return None
    site = os.path.dirname(_file(outer))
    for _ in range(outer.__name__.count(".") + bool(_places(outer))):
        site = os.path.dirname(site)
    owners = []
    for each in (outer, module):
        path = _file(each)
        owner = owner_of(site, os.path.relpath(path, site)) if path else None
        if owner is not None and owner not in owners:
            owners.append(owner)
    if not owners and not is_package_directory(_file(outer)):
        return None
    return _Installed(outer.__name__, outer, site, owners)


def _parts_of_installed(installed: _Installed) -> Iterator[Part]:
    """Yields the files of an installed package, and then other files of its distributions (``Part.is_beside``).

    All have one ``package`` number, made from the label of the first distribution, or else the package's name.
    """
    name, module, site, owners = installed
    label = owners[0].label if owners else name
    number = zlib.crc32(label.encode()) or 1
    directory = name.replace(".", "/")
    sent = set()
    if not _places(module):
        parent, _, last = name.rpartition(".")
        target = _target_of_file(_file(module), last)
        sent.add(f"{parent.replace('.', '/')}/{target}" if parent else target)
        yield Part(_file(module), next(iter(sent)), number)
    for place in _places(module):
        _check_directory(name, place)
        for path, below in walk(place, follows_links=True):
            sent.add(f"{directory}/{below}")
            yield Part(path, f"{directory}/{below}", number)
    beside = [file for owner in owners for file in owner.files]
    if not any(owner.is_recorded for owner in owners):
        libraries = f"{site}/{name}{LIBRARIES}"
        beside += (
            [f"{name}{LIBRARIES}/{below}" for _, below in walk(libraries)]
            if os.path.isdir(libraries)
            else []
        )
    for file in dict.fromkeys(beside):
        if file not in sent and os.path.isfile(f"{site}/{file}"):
            yield Part(f"{site}/{file}", file, number, is_beside=True)


def _comes_with_python(module: ModuleType) -> bool:
    """True if a module comes with Python, so that each node has it."""
    if module.__name__ in sys.builtin_module_names:
        return True
    origin = _file(module) or next(iter(_places(module)), None)
    if origin is None:
        return getattr(getattr(module, "__spec__", None), "origin", None) in ("built-in", "frozen")
    import sysconfig  # imported only when needed: it takes 8 ms

    path = os.path.realpath(origin)
    libraries = {os.path.realpath(sysconfig.get_path(which)) for which in ("stdlib", "platstdlib")}
    return not is_package_directory(path) and any(
        path.startswith(library + os.sep) for library in libraries
    )
