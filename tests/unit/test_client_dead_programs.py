"""Programs that died: which of them is recovered first, and what is said of them."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from dispy.client.recovery import dead_programs
from dispy.client.recovery.dead_program import open_all
from dispy.client.recovery.dead_programs import DeadProgram, Reached, in_turn, listed, recoverable
from dispy.client.recovery.rebuilt_jobs import unstarted
from dispy.client.recovery.resumed_jobs import begin_session
from dispy.errors import UsageError
from dispy.journal import files
from dispy.journal.rows import Options
from dispy.journal.thread import JournalThread
from dispy.journal.writer import Journal
from dispy.protocol.node import Job
from dispy.security.secrets import choose

DAY_S = 86400.0


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's directories are our own."""
    for name in ("XDG_STATE_HOME", "XDG_RUNTIME_DIR"):
        (tmp_path / name).mkdir(mode=0o700)
        monkeypatch.setenv(name, str(tmp_path / name))
    return tmp_path / "XDG_STATE_HOME"


@pytest.fixture
def answering() -> Iterator[Reached]:
    """A node's place where something listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield Reached("here", "127.0.0.1", server.getsockname()[1], "print")


@pytest.fixture
def refusing() -> Reached:
    """One where nothing does."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return Reached("gone", "127.0.0.1", server.getsockname()[1], "print")


def program(
    name: str, started: float, nodes: list[Reached], jobs: int | None = None, asked: float = 0.0
) -> DeadProgram:
    return DeadProgram(name, started, started, [Path(f"/{name}")], ["run"], nodes, jobs, asked)


def names(programs: list[DeadProgram]) -> list[str]:
    return [each.program for each in in_turn(programs)]


def test_newer_ones_come_first(answering: Reached) -> None:
    assert names([program(f"{n}", n, [answering]) for n in (2, 3, 1)]) == ["3", "2", "1"]


def test_those_that_were_asked_come_last_and_take_turns(answering: Reached) -> None:
    programs = [
        program("new", 9, [answering], asked=200),
        program("older", 5, [answering]),
        program("old", 3, [answering], asked=100),
    ]
    assert names(programs) == ["older", "old", "new"]


def test_those_that_can_have_nothing_now_do_not_block_others(answering: Reached, refusing: Reached) -> None:
    """Of them one is asked, when nobody else has jobs: each would take seconds."""
    trifles = [program(f"trifle {n}", 10 + n, [refusing]) for n in range(30)]
    important = program("important", 5, [refusing, answering])
    noted = program("noted", 4, [refusing], jobs=3)
    unknown = program("unknown", 3, [])
    assert names([*trifles, unknown, important, noted]) == ["important", "noted", "unknown", "trifle 29"]
    assert names(trifles[:1]) == ["trifle 0"]


def test_hosts_that_are_none(answering: Reached) -> None:
    odd = [Reached("x", host, 9, "") for host in ("", "a" * 70, "a..b", "::1")]
    programs = [program(str(n), n + 1, [node]) for n, node in enumerate(odd)]
    assert names([*programs, program("good", 1, [answering])]) == ["good", "3"]


def test_what_is_said() -> None:
    node = Reached("n", "10.0.0.1", 9701, "")
    text = str(program("work.py (12)", 0, [node], jobs=1))
    assert text.startswith("work.py (12): started 19")
    assert text.endswith("; cluster run; 1 job; node n (10.0.0.1:9701); /work.py (12)")
    many = program("many", 0, [node._replace(port=n) for n in range(5)], jobs=2)._replace(
        clusters=["a", "b"]
    )
    assert "; clusters a, b; 2 jobs; nodes n (10.0.0.1:0), n (10.0.0.1:1), n (10.0.0.1:2), …; " in str(many)
    assert listed([many] * 40).count("\n") == 31
    assert "and 10 more: dispy.recoverable() returns all" in listed([many] * 40)


# Journals.


def make(identity: bytes, *, is_full: bool, batches: tuple[int, ...] = ()) -> Path:
    """The journal of a program that is dead."""
    path = files.new_path(identity, is_full=is_full)
    db = files.create(path, is_full=is_full)
    db.execute("INSERT INTO session VALUES (1, ?, 'work.py (7)', 1000.0, '')", (identity,))
    db.execute("INSERT INTO node VALUES (1, ?, '127.0.0.1', 9, '', 'n', 0, 'print', 1)", (identity,))
    db.execute("INSERT INTO computation VALUES (1, 1, 'run', x'80', NULL)")
    for count in batches:
        from msgspec import msgpack

        rows = msgpack.encode([(number, 0, b"x") for number in range(count)])
        db.execute("INSERT INTO submitted (time, pinned, jobs) VALUES (0, 0, ?)", (rows,))
    db.close()
    return path


def test_the_journals_of_a_program_are_one() -> None:
    paths = [make(b"1" * 16, is_full=False), make(b"1" * 16, is_full=True, batches=(1, 15, 16, 70_000))]
    make(b"2" * 16, is_full=False)
    first, second = recoverable()
    assert (first.jobs, second.jobs) == (None, 70_032)
    assert sorted(second.paths) == sorted(paths)
    assert (second.program, second.started, second.clusters) == ("work.py (7)", 1000.0, ["run"])
    assert second.nodes == [Reached("n", "127.0.0.1", 9, "print")]


def test_a_look_changes_nothing() -> None:
    path = make(b"1" * 16, is_full=False)
    os.utime(path, (1000.0, 2000.0))
    for _ in range(2):
        (found,) = recoverable()
        assert found.noted == 2000.0
        assert found.asked == 0
    assert [each.name for each in path.parent.iterdir()] == [path.name]


def test_what_is_no_journal_is_not_listed(caplog: pytest.LogCaptureFixture) -> None:
    """Each is named; it stays where it is."""
    assert recoverable() == []
    path = make(b"1" * 16, is_full=False)
    damaged = make(b"2" * 16, is_full=True)
    damaged.write_bytes(damaged.read_bytes()[:100] + bytes(100_000))
    (path.parent / "notes.txt").write_text("mine")
    assert [found.paths for found in recoverable()] == [[path]]
    assert str(damaged) in caplog.text
    assert damaged.exists()


def test_rows_of_something_else(caplog: pytest.LogCaptureFixture) -> None:
    path = make(b"1" * 16, is_full=True, batches=(1,))
    with files.looked_at(path) as (db, _):
        db.execute("UPDATE submitted SET jobs = 'text'")
        db.execute("UPDATE session SET started = 'noon'")
    assert recoverable() == []
    assert f"journal {path} is damaged" in caplog.text


def test_old_ones_are_removed_and_that_is_said(caplog: pytest.LogCaptureFixture) -> None:
    """Not those that somebody has asked for since, nor those with jobs."""
    now = time.time()
    old, asked, full, new = (make(bytes([n]) * 16, is_full=n == 3) for n in (1, 2, 3, 4))
    with files.looked_at(asked) as (db, _):
        files.note_asked(db)
    for path in (old, asked, full):
        os.utime(path, (now - 31 * DAY_S, now - 31 * DAY_S))
    files.remove_old(old.parent)
    assert sorted(path.name for path in old.parent.iterdir()) == [path.name for path in (asked, full, new)]
    assert "that nobody asked for in 30 days: work.py (7)" in caplog.text
    assert asked.stat().st_mtime < now - 30 * DAY_S


def test_one_that_lives_is_not_looked_at() -> None:
    path = make(b"1" * 16, is_full=False)
    db = files.take_over(path)
    try:
        with pytest.raises(UsageError, match="in use"), files.looked_at(path):
            pass
        assert recoverable() == []
    finally:
        db.close()
    assert len(recoverable()) == 1


def test_probes_have_a_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that says nothing: here one whose queue of connections is full."""
    monkeypatch.setattr(dead_programs, "PROBE_S", 0.05)
    with socket.create_server(("127.0.0.1", 0), backlog=0) as server, ExitStack() as stack:
        address = server.getsockname()
        for _ in range(4):
            client = stack.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(address)
        silent = Reached("x", *address, "")
        assert names([program(str(n), n, [silent]) for n in (1, 2, 3)]) == ["3"]


def at_once(function: Callable[[], object]) -> None:
    function()


def test_a_session_without_its_computation_does_not_hide_the_one_before(tmp_path: Path) -> None:
    """A program that resumed jobs was killed after its first note: the next one resumes them by the first options."""
    path = tmp_path / "journal"
    given = {"secret": "of all", "secret_file": None}
    options = Options(fingerprint=choose("of all").fingerprint(), reentrant=True)
    journal = Journal(JournalThread(path, files.create, at_once), is_full=True, wait=True)
    journal.begin(b"1" * 16, "first (1)")
    journal.add_computation(1, "work", options, b"code")
    journal.submitted([Job(1, 0, b"call")])
    journal.close(remove=False)
    (one,) = open_all([path], given)
    begin_session(one, at_once, b"2" * 16, "second (2)")
    one.close()
    (one,) = open_all([path], given)
    try:
        assert [session.number for session in one.sessions] == [1, 2]
        assert one.last_options()[1].reentrant
        assert [job.number for job in unstarted(one)] == [1]
    finally:
        one.close()
