"""Distributions that are installed in a directory: whose a file is, and what else came with it.

One distribution may have several modules, and libraries beside them: ``pillow`` has ``PIL`` and ``pillow.libs``. The
``RECORD`` of each says which files are its own (PEP 376, PEP 627). Some installers write none (Debian, old
setuptools): then names have to do.
"""

from __future__ import annotations

import csv
import functools
import os
import re
from importlib.machinery import EXTENSION_SUFFIXES
from typing import NamedTuple

from dispy.files.directory_listing import is_compiled_python

METADATA = (".dist-info", ".egg-info")
"""Endings of the directories, or files, that say what a distribution is."""

LIBRARIES = ".libs"
"""Ending of directories of shared libraries, named after their distribution (``auditwheel``)."""

_SAID = ("METADATA", "PKG-INFO", "entry_points.txt")
"""Files of metadata that packages ask for when they are imported (``importlib.metadata``), and that are the same
wherever a wheel is installed."""


class Distribution(NamedTuple):
    """A distribution: files that were installed together.

    Attributes:
        label: Name and version.
        files: Those that jobs may need, relative to the directory into which it was installed.
        is_recorded: Whether that is all of them; otherwise the modules are missing.
    """

    label: str
    files: tuple[str, ...]
    is_recorded: bool


def is_package_directory(path: str) -> bool:
    """Whether a file is in a directory that belongs to installers."""
    return any(
        part in f"{place}/"
        for place in (path, os.path.realpath(path))
        for part in ("/site-packages/", "/dist-packages/")
    )


def owner_of(site: str, relative: str) -> Distribution | None:
    """The distribution that has installed a file; None if that is not known.

    Args:
        site: The directory into which it was installed.
        relative: The file, relative to that.
    """
    try:
        changed = os.stat(site).st_mtime_ns
    except OSError:
        return None
    return _owner_of(site, relative, changed)


@functools.lru_cache(256)
def _owner_of(site: str, relative: str, changed: int) -> Distribution | None:
    """The owner of a file of a site directory; ``changed`` is when something was installed there last (ns)."""
    unrecorded = []
    for name in sorted(os.listdir(site)):
        if not name.endswith(METADATA):
            continue
        record = _read(f"{site}/{name}/RECORD")
        if record and _has_line(record, relative.encode()):
            return Distribution(_label(name), _eligible(record, name), is_recorded=True)
        if not record:
            unrecorded.append(name)
    if is_package_directory(site):
        top = relative.partition("/")[0].partition(".")[0]
        for name in unrecorded:
            if _names_top(site, name, top):
                return Distribution(_label(name), _by_names(site, name, top), is_recorded=False)
    return None


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        return b""


def _has_line(record: bytes, relative: bytes) -> bool:
    return record.startswith(relative + b",") or b"\n" + relative + b"," in record


def _label(metadata: str) -> str:
    """Name and version, from the name of the directory with the metadata."""
    name, _, version = os.path.splitext(metadata)[0].partition("-")
    return f"{name} {version}".strip()


def _eligible(record: bytes, metadata: str) -> tuple[str, ...]:
    """The files of a record that may be needed to import its modules."""
    lines = record.decode("utf-8", "replace").splitlines()
    paths = [row[0] for row in csv.reader(lines) if row]
    return tuple(path for path in paths if _is_eligible(path, metadata))


def _is_eligible(path: str, metadata: str) -> bool:
    top, slash, below = path.partition("/")
    if is_compiled_python(path) or ".." in path.split("/"):
        return False
    if not slash:
        return path.endswith((".py", *EXTENSION_SUFFIXES))
    if top == metadata:
        return below in _SAID
    return top.isidentifier() or top.endswith(LIBRARIES)


def _names_top(site: str, metadata: str, top: str) -> bool:
    """Whether a distribution without a record has a module, by what it says or by its name."""
    said = _read(f"{site}/{metadata}/top_level.txt").decode("utf-8", "replace").split()
    return top in said if said else _plain(_label(metadata).partition(" ")[0]) == _plain(top)


def _by_names(site: str, metadata: str, top: str) -> tuple[str, ...]:
    """Metadata, and files of directories of libraries, that have the name of a distribution or its module."""
    wanted = {_plain(top), _plain(_label(metadata).partition(" ")[0])}
    found = [f"{metadata}/{name}" for name in _SAID if os.path.isfile(f"{site}/{metadata}/{name}")]
    for name in sorted(os.listdir(site)):
        if name.endswith(LIBRARIES) and _plain(name.removesuffix(LIBRARIES)) in wanted:
            found += [f"{name}/{file}" for file in sorted(os.listdir(f"{site}/{name}"))]
    return tuple(found)


def _plain(name: str) -> str:
    """A name as it is compared (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()
