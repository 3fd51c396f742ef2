"""Files in directories that others use at the same time."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from dispy.files.checkout import put_files
from dispy.files.store import Store
from dispy.protocol.files import FileEntry
from tests.trees import open_tree


def put_into(
    store: Store, entries: list[FileEntry], work: Path, *more: Any, **named: Any
) -> dict[bytes, int]:
    """Put files into a directory, given its path."""
    with open_tree(work) as tree:
        return put_files(store, entries, tree, *more, **named)


def test_threads_put_the_same_file_at_once(tmp_path: Path) -> None:
    """It is there whole, whoever was first, and nothing else is."""
    content = os.urandom(3_000_000)
    store = Store(tmp_path / "store")
    digest = hashlib.sha256(content).digest()
    part = store.begin(digest, len(content))
    part.write(0, content)
    assert part.finish()
    work = tmp_path / "work"
    work.mkdir()
    entry = FileEntry("a/b", digest, len(content), 0o644, 10**18)

    barrier = threading.Barrier(4)

    def put(_: int) -> dict[bytes, int]:
        barrier.wait()
        return put_into(store, [entry], work)

    with ThreadPoolExecutor(4) as pool:
        for _ in range(20):
            assert list(pool.map(put, range(4))) == [{}] * 4
            assert (work / "a" / "b").read_bytes() == content
            assert os.listdir(work / "a") == ["b"]
            os.unlink(work / "a" / "b")


def test_what_lay_there_comes_back(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("first")
    with open_tree(tmp_path) as tree:
        assert tree.reserve([("a", 1), ("x/y/z", 2)]) == [[], ["x/y", "x"]]
        assert not (tmp_path / "a").exists()
        (tmp_path / "a").write_text("second")
        (tmp_path / "x" / "y").mkdir(parents=True)
        (tmp_path / "x" / "y" / "z").write_text("third")
        tree.release([("a", 1, []), ("x/y/z", 2, ["x/y", "x"])])
        tree.release([("b", 3, [])])
    assert (tmp_path / "a").read_text() == "first"
    assert os.listdir(tmp_path) == ["a"]


def test_what_was_not_displaced_stays(tmp_path: Path) -> None:
    """Making way has failed before it came to this file, and nothing was put in its place."""
    (tmp_path / "a").write_text("first")
    with open_tree(tmp_path) as tree:
        tree.release([("a", 1, [])], was_put=False)
    assert (tmp_path / "a").read_text() == "first"


def test_what_was_compiled_of_the_file_before_is_not_used(tmp_path: Path) -> None:
    """Their sizes and times are the same; a script may write both within a second."""
    store = Store(tmp_path / "store")
    work = tmp_path / "work"
    work.mkdir()
    for content in (b"print(1)", b"print(2)"):
        digest = hashlib.sha256(content).digest()
        assert store.add(digest, content)
        entry = FileEntry("package/module.py", digest, len(content), 0o644, 10**18)
        assert put_into(store, [entry], work) == {}
        command = [sys.executable, "-c", "import package.module"]
        printed = subprocess.run(command, cwd=work, capture_output=True, check=True).stdout
        assert printed.strip() == content[6:7]
        assert os.listdir(work / "package" / "__pycache__")
