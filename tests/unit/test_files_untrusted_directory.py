"""Files in directories that others use at the same time."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from dispy.files.checkout import put_files
from dispy.files.store import Store
from dispy.files.untrusted_directory import Tree
from dispy.protocol.files import FileEntry


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
        return put_files(store, [entry], work, None)

    with ThreadPoolExecutor(4) as pool:
        for _ in range(20):
            assert list(pool.map(put, range(4))) == [{}] * 4
            assert (work / "a" / "b").read_bytes() == content
            assert os.listdir(work / "a") == ["b"]
            os.unlink(work / "a" / "b")


def test_what_lay_there_comes_back(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("first")
    with Tree(tmp_path) as tree:
        assert tree.set_aside("a", 1)
        assert not tree.set_aside("a", 2)
        assert not (tmp_path / "a").exists()
        tree.put_back("a", 1)
        tree.put_back("a", 2)
        assert tree.missing_directories("x/y/z") == ["x/y", "x"]
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
        assert put_files(store, [entry], work, None) == {}
        command = [sys.executable, "-c", "import package.module"]
        printed = subprocess.run(command, cwd=work, capture_output=True, check=True).stdout
        assert printed.strip() == content[6:7]
        assert os.listdir(work / "package" / "__pycache__")
