"""Distributions that are installed in a site directory: which one a file belongs to, and its other files.

One distribution may have several modules, and libraries beside them: ``pillow`` has ``PIL`` and ``pillow.libs``. The
``RECORD`` of a distribution lists its files (PEP 376, PEP 627). Some installers write none (Debian, old
setuptools): then files are found by their names.
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
"""Endings of directories, or files, with the metadata of a distribution."""

LIBRARIES = ".libs"
"""Ending of directories with shared libraries, which ``auditwheel`` names after their distribution."""

_SAID = ("METADATA", "PKG-INFO", "entry_points.txt")
"""Files of metadata that packages read when they are imported (``importlib.metadata``). They are the same wherever a
wheel is installed."""


class Distribution(NamedTuple):
    """A distribution: files that were installed together.

    Attributes:
        label: Name and version, such as "pillow 10.0".
        files: Paths of files that jobs may need, relative to the site directory.
        is_recorded: True if ``files`` are all of these. False if there is no record: then modules are missing there.
    """

    label: str
    files: tuple[str, ...]
    is_recorded: bool


def is_package_directory(path: str) -> bool:
    """True if a file lies below ``site-packages`` or ``dist-packages``, as it is named or with links resolved."""
    return any(
        part in f"{place}/"
        for place in (path, os.path.realpath(path))
        for part in ("/site-packages/", "/dist-packages/")
    )


def owner_of(site: str, relative: str) -> Distribution | None:
    """Returns the distribution that has installed a file; None if that is not known.

    Args:
        site: The directory into which the file was installed.
        relative: Path of the file, relative to that directory.
    """
    try:
        changed = os.stat(site).st_mtime_ns
    except OSError:
        return None
    return _owner_of(site, relative, changed)


@functools.lru_cache(256)
def _owner_of(site: str, relative: str, changed: int) -> Distribution | None:
    """Returns the owner of a file of a site directory, from a cache.

    The cache is keyed by ``changed``, the time of the last installation there (ns), so an installation makes it void.
    """
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
    """Returns name and version of a distribution, from the name of its metadata directory."""
    name, _, version = os.path.splitext(metadata)[0].partition("-")
    return f"{name} {version}".strip()


def _eligible(record: bytes, metadata: str) -> tuple[str, ...]:
    """Returns the files of a record that may be needed to import its modules."""
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
    """True if a distribution without a record has a module: by its ``top_level.txt``, or else by its own name."""
    said = _read(f"{site}/{metadata}/top_level.txt").decode("utf-8", "replace").split()
    return top in said if said else _plain(_label(metadata).partition(" ")[0]) == _plain(top)


def _by_names(site: str, metadata: str, top: str) -> tuple[str, ...]:
    """Returns metadata, and files of directories of libraries that are named after a distribution or its module."""
    wanted = {_plain(top), _plain(_label(metadata).partition(" ")[0])}
    found = [f"{metadata}/{name}" for name in _SAID if os.path.isfile(f"{site}/{metadata}/{name}")]
    for name in sorted(os.listdir(site)):
        if name.endswith(LIBRARIES) and _plain(name.removesuffix(LIBRARIES)) in wanted:
            found += [f"{name}/{file}" for file in sorted(os.listdir(f"{site}/{name}"))]
    return tuple(found)


def _plain(name: str) -> str:
    """Returns a name in the form in which names of distributions are compared (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()
