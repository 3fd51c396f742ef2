"""Distributions in a site directory: which one has installed a file, and its other files, which are sent with it.

One distribution may have several modules, and libraries beside them: ``pillow`` has ``PIL`` and ``pillow.libs``. The
``RECORD`` of a distribution lists its files (PEP 376, PEP 627). Some installers write none (Debian, old
setuptools): then files are found by their names.
"""

from __future__ import annotations

import functools
import os
import re
from importlib.machinery import EXTENSION_SUFFIXES
from typing import NamedTuple

from dispy.files.directory_listing import is_compiled_python

METADATA = (".dist-info", ".egg-info")
"""Endings of the names of directories (or files) in a site directory that hold the metadata of a distribution."""

LIBRARIES = ".libs"
"""Ending of the names of directories with shared libraries, which ``auditwheel`` names after their distribution, such
as ``pillow.libs``. They are sent with the modules that need them."""

_SAID = ("METADATA", "PKG-INFO", "entry_points.txt")
"""Names of files in a metadata directory that packages read when they are imported (``importlib.metadata``). No other
metadata is sent. Their content is the same wherever a wheel is installed."""


class Distribution(NamedTuple):
    """A distribution: files that were installed together.

    Attributes:
        label: Name and version, such as "pillow 10.0". Packages of equal label get one ``FileEntry.package``.
        files: Paths of files that jobs may need, relative to the site directory, in the order of ``RECORD``.
        is_recorded: True if ``files`` is complete, since it is from a ``RECORD``. False: ``files`` was found by
            names, and has metadata and shared libraries, but no modules.
    """

    label: str
    files: tuple[str, ...]
    is_recorded: bool


def is_package_directory(path: str) -> bool:
    """True if a path lies in ``site-packages`` or ``dist-packages``, as it is named or with links resolved.

    A module there counts as installed, and not as the user's own, even if no distribution is known to have it.
    """
    return any(
        part in f"{place}/"
        for place in (path, os.path.realpath(path))
        for part in ("/site-packages/", "/dist-packages/")
    )


def owner_of(site: str, relative: str) -> Distribution | None:
    """Returns the distribution that has installed a file; None if no distribution is known to have done so.

    If several list the file, the alphabetically first counts.

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
    """Returns the distribution that has installed file ``relative`` of directory ``site``, None if not known.

    The last 256 answers are remembered by all arguments. ``changed`` is the time at which the site directory was last
    changed (ns since the epoch), so an installation there makes old answers void.
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
    """Returns the content of a metadata file; empty if the file is missing or cannot be read."""
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        return b""


def _has_line(record: bytes, relative: bytes) -> bool:
    """True if the content of a ``RECORD`` lists a file, given by its path relative to the site directory."""
    return record.startswith(relative + b",") or b"\n" + relative + b"," in record


def _label(metadata: str) -> str:
    """Returns the label of a distribution from the name of its metadata: "pillow-10.0.dist-info" is "pillow 10.0"."""
    name, _, version = os.path.splitext(metadata)[0].partition("-")
    return f"{name} {version}".strip()


def _eligible(record: bytes, metadata: str) -> tuple[str, ...]:
    """Returns the paths in a ``RECORD`` of files that an import may need (``_is_eligible``), in the order of lines.

    Args:
        record: Content of the ``RECORD``: lines of CSV, with a path relative to the site directory in front.
        metadata: Name of the metadata directory that the ``RECORD`` lies in, such as "pillow-10.0.dist-info".
    """
    import csv  # rare, and each program and node would load it

    lines = record.decode("utf-8", "replace").splitlines()
    paths = [row[0] for row in csv.reader(lines) if row]
    return tuple(path for path in paths if _is_eligible(path, metadata))


def _is_eligible(path: str, metadata: str) -> bool:
    """True if an import may need the file at this path of a ``RECORD``.

    That is so for modules, shared libraries, and files with a name of ``_SAID`` in the directory ``metadata``. Left
    out are compiled Python, scripts, and all that lies outside of the site directory.
    """
    top, slash, below = path.partition("/")
    if is_compiled_python(path) or ".." in path.split("/"):
        return False
    if not slash:
        return path.endswith((".py", *EXTENSION_SUFFIXES))
    if top == metadata:
        return below in _SAID
    return top.isidentifier() or top.endswith(LIBRARIES)


def _names_top(site: str, metadata: str, top: str) -> bool:
    """True if a distribution without a ``RECORD`` provides module ``top``.

    Its ``top_level.txt`` decides; if it has none, whether its own name is that of the module (``_plain``).
    """
    said = _read(f"{site}/{metadata}/top_level.txt").decode("utf-8", "replace").split()
    return top in said if said else _plain(_label(metadata).partition(" ")[0]) == _plain(top)


def _by_names(site: str, metadata: str, top: str) -> tuple[str, ...]:
    """Returns files of a distribution without a ``RECORD``: its metadata, and then shared libraries.

    Libraries are found by the name of their directory: that of the distribution or of its module ``top``. The paths
    are relative to the site directory.
    """
    wanted = {_plain(top), _plain(_label(metadata).partition(" ")[0])}
    found = [f"{metadata}/{name}" for name in _SAID if os.path.isfile(f"{site}/{metadata}/{name}")]
    for name in sorted(os.listdir(site)):
        if name.endswith(LIBRARIES) and _plain(name.removesuffix(LIBRARIES)) in wanted:
            found += [f"{name}/{file}" for file in sorted(os.listdir(f"{site}/{name}"))]
    return tuple(found)


def _plain(name: str) -> str:
    """Returns the form of a distribution's name for comparisons (PEP 503): ``Foo_Bar`` is ``foo-bar``."""
    return re.sub(r"[-_.]+", "-", name).lower()
