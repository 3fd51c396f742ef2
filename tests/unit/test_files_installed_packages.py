"""Packages that a node has already are not sent: when they are the same, and when not."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dispy.files.installed_packages import Installed
from dispy.protocol.files import FileEntry
from tests.trees import open_tree

PACKAGE = {
    "disinst/__init__.py": b"VERSION = 1\n",
    "disinst/_fast.so": b"\x7fELF" + bytes(5000),
    "disinst/inner/table.csv": b"",
    "disinst.libs/libx-12.so.1": b"\x7fELF",
    "disinst-1.dist-info/METADATA": b"Name: disinst\n",
}


def entry(path: str, content: bytes, package: int = 7) -> FileEntry:
    return FileEntry(path, hashlib.sha256(content).digest(), len(content), 0o644, 10**18, package)


FILES = [entry(path, content) for path, content in PACKAGE.items()]


class Site:
    """Where a node has packages."""

    def __init__(self, tmp_path: Path) -> None:
        self.root = tmp_path / "site"
        self.work = tmp_path / "work"
        self.work.mkdir()
        self.paths = [str(tmp_path / "missing"), str(tmp_path / "first"), str(self.root)]
        for path, content in PACKAGE.items():
            self.write(path, content)
        self.installed = Installed()

    def write(self, path: str, content: bytes) -> None:
        place = self.root / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content)

    def missing(self, files: list[FileEntry] = FILES) -> list[str]:
        with open_tree(self.work) as work:
            missing = self.installed.missing(files, self.paths, work.has_names)
        return [each.path for each in missing]


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def test_what_is_here_is_not_missing(site: Site) -> None:
    """What lies beside it is, and is put there."""
    own = entry("data.csv", b"1", 0)
    assert site.missing([*FILES, own]) == ["data.csv"]
    assert site.missing([own]) == ["data.csv"]
    assert site.missing([]) == []


def _remove(path: str) -> Callable[[Site], object]:
    return lambda site: (site.root / path).unlink()


def _write(path: str, content: bytes) -> Callable[[Site], object]:
    return lambda site: site.write(path, content)


@pytest.mark.parametrize(
    "change",
    [
        _remove("disinst/__init__.py"),
        _remove("disinst/inner/table.csv"),
        _remove("disinst.libs/libx-12.so.1"),
        _write("disinst/__init__.py", b"VERSION = 10\n"),
        _write("disinst/__init__.py", b"VERSION = 2\n"),
        _write("disinst/_fast.so", b"\x7fELF" + bytes(4999) + b"1"),
        lambda site: site.paths.clear(),
        lambda site: site.write("../first/disinst/__init__.py", b"VERSION = 3\n"),
        lambda site: site.write("../first/disinst.py", b"VERSION = 3\n"),
        lambda site: (site.work / "disinst").mkdir(),
        lambda site: ((site.root / "disinst/_fast.so").unlink(), (site.root / "disinst/_fast.so").mkdir()),
        lambda site: (
            (site.root / "disinst/_fast.so").unlink(),
            os.mkfifo(site.root / "disinst/_fast.so"),
        ),
    ],
)
def test_what_differs_is_missing_as_a_whole(site: Site, change: Callable[[Site], object]) -> None:
    """Another content of any file, also of the same size; another one that is imported first; what is in the way."""
    change(site)
    assert site.missing() == list(PACKAGE)


def test_a_change_is_noticed_the_next_time(site: Site) -> None:
    assert site.missing() == []
    site.write("disinst/__init__.py", b"VERSION = 2\n")
    assert site.missing() == list(PACKAGE)
    site.write("disinst/__init__.py", PACKAGE["disinst/__init__.py"])
    assert site.missing() == []


@pytest.mark.parametrize(
    "path", ["disinst-1.dist-info/METADATA", "disinst/more.py", "disinst/__pycache__/x.pyc"]
)
def test_what_the_node_has_besides_does_not_matter(site: Site, path: str) -> None:
    """Tools note in the metadata how they have installed it; compiled files come with the first import."""
    site.write(path, b"other")
    assert site.missing() == []


def test_it_does_not_mix_with_files_of_the_users(site: Site) -> None:
    """A module of theirs in a directory of its name would be imported without the rest."""
    own = entry("disinst/own.py", b"1", 0)
    assert site.missing([*FILES, own]) == [*PACKAGE, "disinst/own.py"]


def test_each_package_is_judged_by_itself(site: Site) -> None:
    other = [entry("disother/__init__.py", b"1", 8), entry("disother.libs/liby.so", b"2", 8)]
    assert site.missing([*FILES, *other]) == ["disother/__init__.py", "disother.libs/liby.so"]
    site.write("disother/__init__.py", b"1")
    assert site.missing([*FILES, *other]) == ["disother/__init__.py", "disother.libs/liby.so"]
    site.write("disother.libs/liby.so", b"2")
    assert site.missing([*FILES, *other]) == []


def test_parts_of_a_namespace(site: Site, tmp_path: Path) -> None:
    """Its directories may be on several paths, and the first one that has the part counts."""
    files = [entry("disns/part/__init__.py", b"1"), entry("disns/part/leaf.py", b"2")]
    assert site.missing(files) == ["disns/part/__init__.py", "disns/part/leaf.py"]
    site.write("../first/disns/else/__init__.py", b"")
    for file, content in zip(files, (b"1", b"2"), strict=True):
        site.write(file.path, content)
    assert site.missing(files) == []
    site.write("../first/disns/part/__init__.py", b"other")
    assert site.missing(files) == ["disns/part/__init__.py", "disns/part/leaf.py"]


def test_modules_that_are_files(site: Site) -> None:
    files = [entry("dissix.py", b"1"), entry("_disback.cpython-311-x86_64-linux-gnu.so", b"2")]
    assert len(site.missing(files)) == 2
    site.write("dissix.py", b"1")
    assert len(site.missing(files)) == 2


def test_libraries_alone_are_no_package(site: Site) -> None:
    """Nothing would be imported there that finds them."""
    files = [FILES[3], FILES[4]]
    assert site.missing(files) == [files[0].path, files[1].path]


def test_what_jobs_cannot_read_is_missing(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """This process runs as they do."""
    unreadable = site.root / "disinst" / "_fast.so"
    real = os.open

    def refuse(path: Any, *more: Any, **named: Any) -> int:
        if path == str(unreadable):
            raise PermissionError(errno.EACCES, "refused")
        return real(path, *more, **named)

    monkeypatch.setattr(os, "open", refuse)
    assert site.missing() == [each.path for each in FILES]


def test_nobody_looks_on_when_it_is_not_wanted(site: Site) -> None:
    assert (
        site.installed.missing(FILES, site.paths, lambda names: [False] * len(names), lambda: False)
        == FILES
    )


@pytest.mark.parametrize("path", ["/dev/null", "/proc/self/mem", "relative", "", "\udcff"])
def test_odd_places_on_the_path(site: Site, path: str) -> None:
    site.paths.insert(0, path)
    assert site.missing() == []
