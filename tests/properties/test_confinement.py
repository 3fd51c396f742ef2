"""Nothing lands outside a directory, whatever a path says and whatever lies in its way; on both sides."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dispy.errors import UsageError
from dispy.files.checkout import put_files
from dispy.files.manifest import Manifest, collect
from dispy.files.store import Store
from dispy.protocol.files import FileEntry, check_entries, check_path
from tests.trees import open_tree


def put_into(
    store: Store, entries: list[FileEntry], work: Path, *more: Any, **named: Any
) -> dict[bytes, int]:
    """Put files into a directory, given its path."""
    with open_tree(work) as tree:
        return put_files(store, entries, tree, *more, **named)


CONTENT = b"what is sent"
DIGEST = hashlib.sha256(CONTENT).digest()
SECRET = b"not to be changed"

some = settings(max_examples=settings.default.max_examples // 3)
"""Each example makes and removes some twenty files."""

names = st.sampled_from(["a", "b", "..", ".", "", "out", "in", "pipe", "file", "~", "x" * 239, "\\", "é"])
odd = st.text(st.characters(), max_size=8)
paths = st.lists(st.one_of(names, odd), min_size=0, max_size=5).map("/".join)
"""With names of what ``crooked`` has put there."""


@contextmanager
def crooked() -> Iterator[tuple[Path, Path]]:
    """A directory full of what jobs may leave there, and one outside to which all of it leads."""
    base = Path(tempfile.mkdtemp())
    inside, outside = base / "inside", base / "outside"
    for directory in (inside, outside, inside / "in", outside / "a"):
        directory.mkdir()
    for path in (outside / "file", outside / "a" / "file"):
        path.write_bytes(SECRET)
    for directory in (inside, inside / "in"):
        (directory / "out").symlink_to(outside)
        (directory / "file").symlink_to(outside / "file")
        (directory / "~").symlink_to(f"{'../' * 3}outside/a")
        os.mkfifo(directory / "pipe")
    try:
        yield inside, outside
    finally:
        shutil.rmtree(base)


def seen(outside: Path) -> list[tuple[str, int, bytes]]:
    """All that is there."""
    return sorted(
        (
            str(path.relative_to(outside)),
            path.stat().st_mtime_ns if path.is_file() else 0,
            path.read_bytes() if path.is_file() else b"",
        )
        for path in [outside, *outside.rglob("*")]
    )


def plain_files(directory: Path) -> dict[str, bytes]:
    """Files below a directory that are none of its links."""
    found = {}
    for above, _, files in os.walk(directory):
        for name in files:
            path = Path(above, name)
            if stat.S_ISREG(path.lstat().st_mode):
                found[str(path.relative_to(directory))] = path.read_bytes()
    return found


@some
@given(paths, st.integers(0, 0o777))
@example("../outside/file", 0o644)
@example("out/file", 0o644)
@example("in/out/a/file", 0o644)
@example("in/~/new", 0o644)
@example("file", 0o644)
@example("pipe", 0o644)
@example("in/new/deep", 0o755)
def test_a_node_puts_files_inside_or_nowhere(path: str, mode: int) -> None:
    with crooked() as (inside, outside):
        store = Store(outside.parent / "store")
        store.add(DIGEST, CONTENT)
        before = seen(outside)
        entry = FileEntry(path, DIGEST, len(CONTENT), mode, 10**18)
        try:
            put_into(store, [entry], inside)
        except (OSError, ValueError):
            assert plain_files(inside) == {}
        else:
            assert plain_files(inside) == {"/".join(check_path(path)): CONTENT}
            assert stat.S_IMODE((inside / path).lstat().st_mode) == mode
        assert seen(outside) == before


@some
@given(paths)
@example("out/file")
@example("../outside/file")
@example("in/out/a/file")
def test_nothing_outside_is_moved_or_removed(path: str) -> None:
    """What jobs bring is taken away again, and what they find is moved aside and back."""
    with crooked() as (inside, outside):
        before = seen(outside)
        with open_tree(inside) as tree:
            for do in (
                lambda: tree.release([(path, 1, tree.reserve([(path, 1)])[0])]),
                lambda: tree.release([(path, 1, ["in", "out"])], was_put=False),
                lambda: tree.remove_directory(path),
                lambda: tree.empty() and None,
                lambda: tree.holds(FileEntry(path, DIGEST, 1, 0o644, 0)),
            ):
                with suppress(ValueError):
                    do()
        assert seen(outside) == before


@some
@given(paths)
@example("/etc/passwd")
@example("a/../../b")
def test_a_client_lists_what_a_node_would_take_and_nothing_else(path: str) -> None:
    with crooked() as (inside, _):
        (inside / "sent").write_bytes(CONTENT)
        manifest = Manifest()
        try:
            manifest.add(str(inside / "sent"), path)
            entries = manifest.listed()
        except UsageError:
            with pytest.raises(ValueError):
                check_path(path)
        else:
            check_entries(msgspec.msgpack.decode(msgspec.msgpack.encode(entries), type=list[FileEntry]))
            assert os.path.normpath(inside / path).startswith(f"{inside}/")


@some
@given(paths)
@example("in")
@example("out")
@example("pipe")
@example("file")
def test_a_client_sends_what_was_named_and_nothing_that_lies_elsewhere(path: str) -> None:
    """Directories with links that lead out of them, pipes, and what is not there are refused."""
    with crooked() as (inside, _), suppress(UsageError, ValueError):
        named = os.path.realpath(f"{inside}/{path}")
        manifest = collect([f"{inside}/{path}"], inside)
        for source in manifest.sources.values():
            real = os.path.realpath(source.path)
            assert real == named or real.startswith(f"{named}/")
            assert stat.S_ISREG(os.stat(real).st_mode)


@given(st.integers(-1, 1 << 16))
def test_no_mode_has_more_than_permissions(mode: int) -> None:
    raw = msgspec.msgpack.encode(["a", DIGEST, 1, mode, 0])
    if 0 <= mode <= 0o777:
        assert msgspec.msgpack.decode(raw, type=FileEntry).mode == mode
    else:
        with pytest.raises(msgspec.ValidationError):
            msgspec.msgpack.decode(raw, type=FileEntry)
