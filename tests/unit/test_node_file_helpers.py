"""Processes that work with files as an account: with its rights and no others, whatever lies in the way."""

from __future__ import annotations

import errno
import hashlib
import os
import pwd
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dispy.files.checkout import BATCH, put_files
from dispy.files.copy_in_progress import Following
from dispy.files.installed_packages import Installed
from dispy.files.store import Store
from dispy.files.untrusted_directory import COPY_MAX
from dispy.node.processes import file_helpers
from dispy.node.processes.file_helpers import FileHelper, FileHelpers, LentTree
from dispy.node.processes.spared import Spared
from dispy.protocol import file_helper as protocol
from dispy.protocol.files import FileEntry

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another account")

NOBODY = pwd.getpwnam("nobody")
IDS = (NOBODY.pw_uid, NOBODY.pw_gid)


class Place:
    """A directory of the account in one of ours, and its helper."""

    def __init__(self, tmp_path: Path) -> None:
        for above in (tmp_path, *tmp_path.parents):
            if above.stat().st_uid == os.getuid() and above != Path("/"):
                above.chmod(above.stat().st_mode | 0o011)
        self.root = tmp_path / "work"
        self.root.mkdir(mode=0o700)
        os.chown(self.root, *IDS)
        self.ours = tmp_path / "ours"
        self.ours.mkdir(mode=0o755)
        (self.ours / "secret").write_bytes(b"not theirs")
        (self.ours / "secret").chmod(0o600)
        self.store = Store(tmp_path / "store")
        self.spared = Spared()
        self.helper = FileHelper(IDS, (), "mark", self.spared)
        self.descriptor = os.open(self.root, os.O_RDONLY)

    def tree(self) -> LentTree:
        return LentTree(self.helper, self.descriptor)

    def add(self, path: str, content: bytes, mode: int = 0o640) -> FileEntry:
        """A file of the store."""
        digest = hashlib.sha256(content).digest()
        if not self.store.has(digest, len(content)):
            self.store.add(digest, content)
        return FileEntry(path, digest, len(content), mode, 10**18)

    def put(self, *entries: FileEntry, is_wanted: Callable[[], bool] = lambda: True) -> None:
        with self.tree() as tree:
            assert put_files(self.store, entries, tree, is_wanted) == {}

    def as_account(self, *commands: str) -> list[int]:
        """Exit codes of commands of a shell that the account runs."""
        return [
            subprocess.run(
                ["/bin/sh", "-c", command], user=IDS[0], group=IDS[1], extra_groups=(), cwd="/",
                capture_output=True, check=False, timeout=60,
            ).returncode
            for command in commands
        ]  # fmt: skip

    @property
    def pid(self) -> int:
        """Of the helper's process."""
        (pid,) = self.spared.pids
        return pid


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path)
    yield made
    made.helper.close()
    os.close(made.descriptor)
    assert not made.spared.pids


def seen(directory: Path) -> list[tuple[str, int, int, bytes]]:
    """All that is there: name, owner, mode, content."""
    found = []
    for path in sorted(directory.rglob("*")):
        status = path.lstat()
        content = path.read_bytes() if stat.S_ISREG(status.st_mode) else b""
        found.append((str(path.relative_to(directory)), status.st_uid, status.st_mode, content))
    return found


def test_it_has_the_rights_of_the_account_and_no_way_back(place: Place) -> None:
    place.put(place.add("a", b"x"))
    status = dict(
        line.split(":\t", 1) for line in Path(f"/proc/{place.pid}/status").read_text().splitlines()
    )
    real, effective, saved, files = map(int, status["Uid"].split())
    assert effective == files == IDS[0]
    assert 0 not in (real, saved)
    assert set(map(int, status["Gid"].split())) == {IDS[1]}
    assert status["Groups"].split() == []
    for kind in ("CapPrm", "CapEff", "CapInh", "CapAmb"):
        assert int(status[kind], 16) == 0
    assert status["NoNewPrivs"] == "1"


def test_jobs_of_the_account_can_neither_stop_nor_read_it(place: Place) -> None:
    place.put(place.add("a", b"x"))
    proc = f"/proc/{place.pid}"
    refused = [f"kill -9 {place.pid}", f"kill -STOP {place.pid}", f"head -c 1 {proc}/mem", f"ls {proc}/fd"]
    assert 0 not in place.as_account(*refused)
    assert place.as_account("true", f"cat {proc}/status") == [0, 0]
    place.put(place.add("b", b"y"))


def test_files_become_the_accounts(place: Place) -> None:
    """Small ones and large ones, replaced ones and those that are there, in one go."""
    entries = [place.add(f"deep/er/{n}", b"%d" % n, 0o600 | n % 8) for n in range(BATCH * 2 + 1)]
    large = place.store.begin(hashlib.sha256(bytes(COPY_MAX + 5)).digest(), COPY_MAX + 5)
    large.write(0, bytes(COPY_MAX + 5))
    assert large.finish()
    entries.append(FileEntry("large", large.digest, COPY_MAX + 5, 0o400, 10**18))
    (place.root / "deep").mkdir()
    os.chown(place.root / "deep", *IDS)
    for _ in range(2):
        place.put(*entries)
        for entry in entries:
            status = (place.root / entry.path).stat()
            assert (status.st_uid, status.st_gid, status.st_nlink) == (*IDS, 1)
            assert (status.st_mode & 0o7777, status.st_mtime_ns) == (entry.mode, 10**18)
            assert status.st_size == entry.size
        assert (place.root / "deep" / "er" / "7").read_bytes() == b"7"
        (place.root / "deep" / "er" / "7").write_bytes(b"changed")
    assert (place.root / "deep" / "er").stat().st_uid == IDS[0]
    with place.tree() as tree:
        assert tree.holds_all(entries).count(False) == 1


@pytest.mark.parametrize("where", ["link", "deep/link", "file"])
def test_nothing_outside_is_reached(place: Place, where: str) -> None:
    """Links to directories of ours, at each level, for all that is done to files."""
    (place.root / "deep").mkdir()
    for link in ("link", "deep/link"):
        (place.root / link).symlink_to(place.ours)
    (place.root / "file").symlink_to(place.ours / "secret")
    for path in (place.root / "deep", *place.root.rglob("*")):
        os.chown(path, *IDS, follow_symlinks=False)
    before = seen(place.ours)
    path = where if where == "file" else f"{where}/secret"
    entry = place.add(path, b"of the attacker", 0o777)
    with place.tree() as tree:
        assert tree.holds_all([entry]) == [False]
        if where == "file":
            place.put(entry)  # in place of the link
        else:
            with pytest.raises(OSError, match="no directory"):
                place.put(entry)
        tree.release([(path, 1, tree.reserve([(path, 1)])[0])])
        tree.remove_directory(path)
        with pytest.raises(OSError):
            tree.open_below(tuple(where.split("/")))
        tree.empty()
    assert seen(place.ours) == before
    assert seen(place.root) == []


def test_what_only_root_may_do_is_refused(place: Place) -> None:
    """A directory of ours that was lent by mistake."""
    ours = os.open(place.ours, os.O_RDONLY)
    before = seen(place.ours)
    with LentTree(place.helper, ours) as tree:
        for do in (
            lambda: put_files(place.store, [place.add("new", b"x")], tree),
            lambda: put_files(place.store, [place.add("secret", b"x")], tree),
            lambda: tree.open_below(("made",)),
            lambda: tree.nameless(),
        ):
            with pytest.raises(OSError, match=r"[Pp]ermission"):
                do()
        tree.empty()
    os.close(ours)
    assert seen(place.ours) == before


def test_a_file_that_cannot_be_put_there_is_named(place: Place) -> None:
    (place.root / "taken").write_bytes(b"")
    entries = [place.add("a", b"1"), place.add("taken/b", b"2"), place.add("c", b"3")]
    with pytest.raises(OSError, match=r"taken/b: something is there that is no directory"):
        place.put(*entries)


def test_early_copies_are_completed(place: Place) -> None:
    content = os.urandom(1 << 20)
    digest = hashlib.sha256(content).digest()
    part = place.store.begin(digest, len(content))
    part.write(0, content[: 1 << 19])
    copy = Following(part.path, place.tree)
    copy.advance(lambda: True)
    inode = os.fstat(copy._made).st_ino
    part.write(1 << 19, content[1 << 19 :])
    assert part.finish()
    entry = FileEntry("a/b", digest, len(content), 0o644, 10**18)
    with place.tree() as tree:
        assert put_files(place.store, [entry], tree, begun={digest: copy}) == {}
    status = (place.root / "a" / "b").stat()
    assert (status.st_ino, status.st_uid) == (inode, IDS[0])
    assert (place.root / "a" / "b").read_bytes() == content


def test_nobody_waits_for_a_copy_that_is_not_wanted(place: Place) -> None:
    size = 3 * COPY_MAX
    source = os.memfd_create("source")
    os.ftruncate(source, size)
    asked: list[bool] = []

    def is_wanted() -> bool:
        asked.append(True)
        return len(asked) < 2

    with place.tree() as tree, pytest.raises(OSError, match="not wanted"):
        tree.put(FileEntry("a", bytes(32), size, 0o644, 0), source, is_wanted=is_wanted)
    os.close(source)
    assert len(asked) == 2
    assert seen(place.root) == []


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_one_that_was_killed_is_started_again(place: Place, number: int) -> None:
    place.put(place.add("a", b"x"))
    before = place.pid
    os.kill(before, number)
    place.put(place.add("b", b"y"))
    assert place.pid != before
    assert {path.name for path in place.root.iterdir()} == {"a", "b"}


def test_one_that_stands_still_is_killed_and_named(place: Place) -> None:
    place.put(place.add("a", b"x"))
    before = place.pid
    os.kill(before, signal.SIGSTOP)
    while any(task.read_text().split()[2] != "T" for task in Path(f"/proc/{before}/task").glob("*/stat")):
        time.sleep(0.001)
    with pytest.raises(OSError, match=r"has not answered for 0.2 s, and was killed") as raised:
        place.helper.call(protocol.Nameless(), [place.descriptor], 0.2)
    assert raised.value.errno == errno.ETIMEDOUT
    place.put(place.add("b", b"y"))
    assert place.pid != before


def test_it_ends_with_the_node() -> None:
    """However the node ends."""
    program = (
        "import signal\n"
        "from dispy.node.processes.file_helpers import FileHelpers\n"
        "from dispy.node.processes.spared import Spared\n"
        "spared = Spared()\n"
        f"FileHelpers(spared).of({IDS}).start()\n"
        "print(*spared.pids, flush=True)\n"
        "signal.pause()\n"
    )
    node = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert node.stdout is not None
    pid = int(node.stdout.readline())
    node.kill()
    node.wait()
    node.stdout.close()
    deadline = time.monotonic() + 20
    while os.path.exists(f"/proc/{pid}") and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not os.path.exists(f"/proc/{pid}")


def test_packages_are_looked_for_as_the_account(place: Place, tmp_path: Path) -> None:
    """A file that it cannot read is sent."""
    site = tmp_path / "site"
    (site / "pack").mkdir(parents=True)
    files = []
    for name, mode in (("__init__.py", 0o644), ("closed.py", 0o600)):
        (site / "pack" / name).write_bytes(b"1")
        (site / "pack" / name).chmod(mode)
        files.append(FileEntry(f"pack/{name}", hashlib.sha256(b"1").digest(), 1, 0o644, 0, 7))
    with place.tree() as tree:
        assert tree.find_missing(Installed().missing, files, [str(site)], lambda: True) == files
        (site / "pack" / "closed.py").chmod(0o644)
        assert tree.find_missing(Installed().missing, files, [str(site)], lambda: True) == []


def test_each_account_has_one(place: Place) -> None:
    helpers = FileHelpers(place.spared)
    assert helpers.of(IDS) is helpers.of(IDS)
    daemon = pwd.getpwnam("daemon")
    assert helpers.of((daemon.pw_uid, daemon.pw_gid)) is not helpers.of(IDS)
    helpers.close()


def test_removal_goes_on_where_it_was_cut_off(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(300):
        (place.root / str(number)).write_bytes(b"")
    monkeypatch.setattr(file_helpers, "EMPTY_S", 0.0)
    monkeypatch.setattr(file_helpers, "EMPTIES_MAX", 3)
    with place.tree() as tree:
        tree.empty()
        assert len(list(place.root.iterdir())) > 0
        monkeypatch.undo()
        tree.empty()
    assert list(place.root.iterdir()) == []
