"""Failures of jobs: in a line, counted by kind, said once if nobody looked; and files that are with the program."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import dispy
from dispy.client.job import ABANDONED, CANCELLED, FINISHED, TERMINATED, DispyJob
from dispy.client.session import failures, missing_files
from dispy.client.session.failures import KINDS_MAX, SUMMARY_MAX, Tally, summary
from dispy.client.session.status_table import print_table
from dispy.errors import JobError
from dispy.worker.job_api import job_namespace


def raised(function: Callable[[], object]) -> tuple[BaseException, str]:
    """What a function raises, and its traceback."""
    try:
        function()
    except BaseException as error:
        return error, "".join(traceback.format_exception(error))
    raise AssertionError("nothing was raised")


def raising(error: BaseException) -> Callable[[], object]:
    def function() -> None:
        raise error

    return function


def chained() -> None:
    try:
        {}["first"]
    except KeyError:
        raise ValueError("second") from None


def in_turn() -> None:
    try:
        {}["first"]
    except KeyError:
        int("second")


def noted() -> None:
    error = ValueError("with a note")
    error.add_note("Traceback is not what this is")
    raise error


TRACEBACKS: dict[str, tuple[Callable[[], object], str]] = {
    "plain": (raising(ValueError("bad")), "ValueError: bad"),
    "without words": (raising(AssertionError()), "AssertionError"),
    "several lines": (raising(ValueError("one\ntwo")), "ValueError: one"),
    "blank first line": (raising(ValueError("\ntwo")), "ValueError:"),
    "chained": (chained, "ValueError: second"),
    "in turn": (in_turn, "ValueError: invalid literal for int() with base 10: 'second'"),
    "with a note": (noted, "ValueError: with a note"),
    "deep": (
        lambda: (lambda f: f(f))(lambda f: f(f)),
        "RecursionError: maximum recursion depth exceeded",
    ),
    "syntax": (lambda: compile("a b", "x", "exec"), "SyntaxError: invalid syntax"),
    "group": (
        raising(ExceptionGroup("several", [ValueError(1), ExceptionGroup("deeper", [KeyError(2)])])),
        "ExceptionGroup: several (2 sub-exceptions)",
    ),
    "control characters": (raising(ValueError("\x1b[31mred\r.")), "ValueError: \\x1b[31mred\\r."),
}


@pytest.mark.parametrize(("function", "expected"), TRACEBACKS.values(), ids=TRACEBACKS)
def test_a_traceback_in_a_line(function: Callable[[], object], expected: str) -> None:
    assert summary(raised(function)[1]) == expected


def test_other_reasons_in_a_line() -> None:
    assert summary("") == ""
    assert summary("the job's process ended with signal 9 (SIGKILL)") == (
        "the job's process ended with signal 9 (SIGKILL)"
    )
    text = raised(raising(ImportError("no x")))[1]
    assert summary(f"the computation cannot be loaded on n:\n{text}") == (
        "the computation cannot be loaded on n: ImportError: no x"
    )
    assert (
        summary(f"setup failed on n: ImportError: no x\n{text}") == "setup failed on n: ImportError: no x"
    )
    indented = text.strip().replace("\n", "\n    ")
    assert summary(f"no node can run this: it cannot be loaded on n:\n    {indented}\n") == (
        "no node can run this: it cannot be loaded on n: ImportError: no x"
    )
    assert summary("the last that it said:\n    one\n    two") == "the last that it said: one"
    assert summary("Traceback (most recent call last):\n") == "Traceback (most recent call last):"
    long = summary("ValueError: " + "x" * 10_000)
    assert len(long) == SUMMARY_MAX
    assert long.endswith("x ...")


# Counting.


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[str]]:
    """Lines that were said since the last call."""
    monkeypatch.setattr(failures, "_closed", [])
    monkeypatch.setattr(failures, "notice", lambda text, _level: print(text, file=sys.stderr))
    return lambda: capsys.readouterr().err.splitlines()


Said = Callable[[], list[str]]


def tally_of(*reasons: str, name: str = "f", ended: int = 10) -> Tally:
    tally = Tally(name)
    tally.ended = ended
    for reason in reasons:
        tally.add(TERMINATED, reason, is_wanted=False)
    return tally


def ended_job(tally: Tally, reason: str, status: int = TERMINATED) -> DispyJob:
    cluster = SimpleNamespace(
        tally=tally, shipped=SimpleNamespace(base=None), options=SimpleNamespace(files=[])
    )
    return DispyJob(1, 1, cluster, 0.0, status, _exception=reason, _error=b"", _is_final=True)


def test_nobody_looked(said: Said) -> None:
    failures.leave(tally_of(*["ValueError: 1", "ValueError: 2", "KeyError: 3"]))
    assert said() == [], "jobs can be looked at when their cluster is closed"
    failures.say_all()
    assert said() == ["3 of 10 jobs of f failed and nobody looked at why; the first: ValueError: 1"]
    failures.say_all()
    assert said() == []


def test_a_single_one(said: Said) -> None:
    failures.leave(tally_of("ValueError: 1", ended=1))
    failures.say_all()
    assert said() == ["1 of 1 job of f failed and nobody looked at why: ValueError: 1"]


def gets(job: DispyJob) -> None:
    with pytest.raises(JobError):
        job.get()


LOOKS: dict[str, Callable[[DispyJob], object]] = {
    "exception": lambda job: job.exception,
    "error": lambda job: job.error,
    "status": lambda job: job.status,
    "get": gets,
    "frame": lambda job: dispy.frame([job]),
}


@pytest.mark.parametrize("look", LOOKS.values(), ids=LOOKS)
def test_whoever_looks_is_not_told(said: Said, look: Callable[[DispyJob], object]) -> None:
    tally = tally_of("ValueError: 1", "ValueError: 2")
    failures.leave(tally)
    look(ended_job(tally, "ValueError: 2"))
    failures.say_all()
    assert said() == []


@pytest.mark.parametrize("name", ["result", "id", "stdout", "ip_addr", "finish"])
def test_other_attributes_are_no_look(said: Said, name: str) -> None:
    tally = tally_of("ValueError: 1")
    failures.leave(tally)
    job = ended_job(tally, "ValueError: 1")
    getattr(job, name)
    assert job() is None
    assert job.wait()
    assert "ValueError" in repr(job)
    assert "ValueError" in job._repr_html_()
    failures.say_all()
    assert len(said()) == 1


def test_one_kind_is_not_another(said: Said) -> None:
    tally = tally_of("ValueError: 1", "KeyError: 2", "KeyError: 3")
    assert callable(ended_job(tally, "ValueError: 1").get), "which is not called"
    assert len(tally.unheard()) == 2
    assert ended_job(tally, "ValueError: 7").exception
    failures.leave(tally)
    failures.say_all()
    assert said() == ["2 of 10 jobs of f failed and nobody looked at why; the first: KeyError: 2"]


def test_what_was_looked_at_before_the_others_failed(said: Said) -> None:
    tally = tally_of("ValueError: 1")
    assert ended_job(tally, "ValueError: 1").exception
    tally.add(TERMINATED, "ValueError: 2", is_wanted=False)
    tally.add(ABANDONED, "node n is lost", is_wanted=False)
    failures.leave(tally)
    failures.say_all()
    assert said() == ["1 of 10 jobs of f failed and nobody looked at why: node n is lost"]


def test_what_the_program_ends_itself_is_no_news(said: Said) -> None:
    tally = tally_of()
    tally.add(ABANDONED, "the cluster was closed", is_wanted=True)
    failures.leave(tally)
    failures.say_all()
    assert said() == []
    assert tally.failed == tally.abandoned == 1


def test_clusters_of_one_computation_have_one_line(said: Said) -> None:
    for number in range(50):
        failures.leave(tally_of(f"ValueError: {number}"))
    failures.leave(tally_of("KeyError: 1", name="g"))
    failures.say_all()
    assert said() == [
        "50 of 500 jobs of f failed and nobody looked at why; the first: ValueError: 0",
        "1 of 10 jobs of g failed and nobody looked at why: KeyError: 1",
    ]


def test_many_computations(said: Said) -> None:
    for number in range(failures.SAID_MAX + 2):
        failures.leave(tally_of("ValueError", name=f"f{number}"))
    failures.say_all()
    lines = said()
    assert len(lines) == failures.SAID_MAX + 1
    assert lines[-1] == "2 jobs of 2 more computations failed, too, and nobody looked at why"


def test_at_a_prompt_it_is_said_when_the_cluster_closes(said: Said, monkeypatch: Any) -> None:
    monkeypatch.setattr(sys, "ps1", ">>> ", raising=False)
    failures.leave(tally_of("ValueError: 1"))
    assert len(said()) == 1
    failures.say_all()
    assert said() == []


def test_nothing_grows_with_failures(said: Said) -> None:
    tally = Tally("f")
    for number in range(10_000):
        tally.add(TERMINATED, f"Error{number}: x", is_wanted=False)
    assert len(tally.kinds) <= KINDS_MAX + 1
    assert sum(kind.count for kind in tally.kinds.values()) == 10_000
    assert ended_job(tally, "Error9999: x").exception
    assert sum(kind.count for kind in tally.unheard()) == KINDS_MAX
    for number in range(3 * failures.CLOSED_MAX):
        failures.leave(tally_of("ValueError", name=str(number)))
    assert len(failures._closed) <= failures.CLOSED_MAX


def test_a_bad_name_stays_in_its_line(said: Said) -> None:
    failures.leave(tally_of("ValueError: 1", name="f\n\x1b"))
    failures.say_all()
    assert said() == ["1 of 10 jobs of f\\n\\x1b failed and nobody looked at why: ValueError: 1"]


def test_the_first_failure_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    tally_of("ValueError: 1", "ValueError: 2", "KeyError: 3")
    assert [record.getMessage() for record in caplog.records] == [
        "jobs of cluster f fail; the first: ValueError: 1"
    ]


# Shown.


def test_the_table(capsys: pytest.CaptureFixture[str], said: Said) -> None:
    tally = tally_of("ValueError: 1", "ValueError: 2")
    tally.add(ABANDONED, "node n is lost", is_wanted=False)
    tally.cancelled = 4
    print_table(tally, [], 5, 1.0, 1.0)
    out = capsys.readouterr().out
    assert "\nJobs failed: 3, 1 of them abandoned; the first: ValueError: 1\n" in out
    assert "\nJobs cancelled: 4\n" in out
    assert "\nJobs pending: 5\n" in out
    failures.leave(tally)
    failures.say_all()
    assert said() == [], "it is in the table"


def test_the_table_is_as_ever_without_failures(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(Tally("f"), [], 0, 1.0, 1.0)
    out = capsys.readouterr().out
    assert "ailed" not in out
    assert "Jobs" in out.splitlines()[1]
    assert "cancelled" not in out


def test_repr_says_why() -> None:
    text = raised(raising(ValueError("x" * 1000 + "\n\x07")))[1]
    shown = repr(ended_job(Tally("f"), text))
    assert shown.startswith("<DispyJob id=1 status=Terminated: ValueError: xxx")
    assert len(shown) < SUMMARY_MAX + 50
    assert shown.isprintable()
    assert repr(DispyJob(1, _status=FINISHED, _is_final=True)) == "<DispyJob id=1 status=Finished>"
    assert repr(DispyJob(1)) == "<DispyJob id=1 status=Created>"
    assert (
        repr(ended_job(Tally("f"), "cancelled", CANCELLED)) == "<DispyJob id=1 status=Cancelled: cancelled>"
    )


# Files that are missing there and are here.


class Error(Exception):
    """Of a user."""


class Refusing(FileNotFoundError):
    """Its attributes cannot be read."""

    @property
    def filename(self) -> str:  # type: ignore[override]
        raise ValueError


class Place:
    """A directory of the program, and one of jobs, which is the current one."""

    def __init__(self, root: Path) -> None:
        self.here, self.there = root / "here", root / "node" / "there"
        (self.here / "sub").mkdir(parents=True)
        self.there.mkdir(parents=True)
        for name in ("data.csv", "sub/x.txt", "run.sh", "it's"):
            (self.here / name).write_text("1")
        self.cluster: Any = SimpleNamespace(
            shipped=SimpleNamespace(base=self.here), options=SimpleNamespace(files=[]), tally=Tally("f")
        )

    def reason(self, function: Callable[[], object]) -> str:
        """Why a job has failed that calls a function."""
        error, _ = raised(function)
        job_namespace.note_missing(error, "n", str(self.there))
        return "".join(traceback.format_exception(error))

    def explain(self, text: str, ip_addr: str | None) -> str:
        """The reason with advice, as a job of this cluster gets it."""
        return missing_files.explain(text, self.here, self.cluster.options.files, ip_addr)

    def added(self, function: Callable[[], object], ip_addr: str | None = "127.0.0.1") -> list[str]:
        """What is added to that, here and there."""
        text = self.explain(self.reason(function), ip_addr)
        assert self.explain(text, ip_addr) == text
        return [line for line in text.splitlines() if line.startswith("dispy: ")]

    def send(self, *paths: str) -> None:
        """Have files in ``depends``."""
        self.cluster.options.files = [SimpleNamespace(path=path) for path in paths]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    made = Place(tmp_path)
    monkeypatch.chdir(made.there)
    return made


def caused() -> None:
    try:
        os.stat("data.csv")
    except OSError as error:
        raise Error("no configuration") from error


FOUND: dict[str, tuple[Callable[[], object], str]] = {
    "stat": (lambda: os.stat("data.csv"), "data.csv"),
    "bytes": (lambda: os.stat(b"data.csv"), "data.csv"),
    "Path": (lambda: Path("sub/x.txt").read_text(), "sub/x.txt"),
    "quotes": (lambda: os.stat("it's"), "it's"),
    "dots": (lambda: os.stat("./sub/../data.csv"), "data.csv"),
    "listdir": (lambda: os.listdir("sub"), "sub"),
    "absolute": (lambda: os.stat(os.path.abspath("data.csv")), "data.csv"),
    "caused": (caused, "data.csv"),
    "without a name": (raising(FileNotFoundError("data.csv not found.")), "data.csv"),
    "quoted": (raising(FileNotFoundError("cannot open (name = 'data.csv', errno = 2)")), "data.csv"),
    "script": (lambda: subprocess.run(["./run.sh"], check=True), "run.sh"),
    "its directory": (lambda: subprocess.run(["ls"], cwd="sub", check=True), "sub"),
    "shell": (lambda: subprocess.run(["sh", "run.sh"], check=True, stderr=subprocess.DEVNULL), "run.sh"),
    "text": (lambda: subprocess.run("sh 'run.sh' 2>&-", shell=True, check=True), "run.sh"),
}


@pytest.mark.parametrize(("function", "name"), FOUND.values(), ids=FOUND)
def test_a_file_that_the_program_has(place: Place, function: Callable[[], object], name: str) -> None:
    added = place.added(function)
    assert added[-1] == (
        f"dispy: this program has {str(place.here / name)!r}: list it in depends (for a single job in "
        "dispy_job_depends); or give jobs its absolute path, if nodes share that file system"
    )
    assert len(added) <= 2
    place.send(name if name != "sub" else "sub/x.txt")
    assert len(place.added(function)) < len(added), "it was sent"


def test_a_file_that_nobody_has(place: Place) -> None:
    assert place.added(lambda: os.stat("other")) == [
        "dispy: node n has no 'other' in the working directory of its jobs"
    ]


def test_a_program_that_is_not_installed(place: Place) -> None:
    (place.here / "no-such-program").write_text("1")
    assert place.added(lambda: subprocess.run(["no-such-program"], check=True)) == [
        "dispy: node n has no program 'no-such-program' in its PATH: install it there"
    ]


def test_a_file_beside_the_program(place: Place) -> None:
    (place.here.parent / "far").mkdir()
    (place.here.parent / "far" / "away.txt").write_text("1")
    (added,) = place.added(lambda: os.stat("../far/away.txt"))
    assert added.startswith(f"dispy: this program has {str(place.here.parent / 'far' / 'away.txt')!r}")
    assert ", and jobs find it as 'away.txt'; or" in added
    place.send("away.txt")
    assert place.added(lambda: os.stat("../far/away.txt")) == [
        f"dispy: this program has {str(place.here.parent / 'far' / 'away.txt')!r}, and jobs find it as 'away.txt'"
    ]


def test_an_absolute_path_on_another_machine(place: Place) -> None:
    gone = place.here / "data.csv"
    function = raising(FileNotFoundError(2, "No such file or directory", str(gone)))
    assert place.added(function) == [], "the node is on this machine, and so is its absence"
    assert place.added(function, None) == []
    assert place.added(function, "192.0.2.1") == [
        f"dispy: this program has {str(gone)!r}: list it in depends (for a single job in dispy_job_depends), and "
        "jobs find it as 'data.csv'; or put it on a file system that the node shares"
    ]


NOTHING: dict[str, Callable[[], object]] = {
    "another error": raising(PermissionError(13, "Permission denied", "data.csv")),
    "another exception": raising(ValueError("'data.csv'")),
    "its exit code": lambda: subprocess.run(["sh", "-c", "exit 5", "run.sh"], check=True),
    "no words": raising(FileNotFoundError()),
    "a descriptor": raising(FileNotFoundError(2, "x", 7)),
    "an empty name": raising(FileNotFoundError(2, "x", "")),
    "here": raising(FileNotFoundError(2, "x", ".")),
    "a null": raising(FileNotFoundError(2, "x", "data.csv\0")),
    "a long name": raising(FileNotFoundError("'" + "x" * 100_000 + "'")),
    "an open quote": raising(FileNotFoundError("'data.csv")),
    "an escape": raising(FileNotFoundError("'\\N{no such}' '\\x'")),
    "refusing": raising(Refusing("x")),
    "halves": raising(FileNotFoundError("no '\\udc80'")),
}


@pytest.mark.parametrize("function", NOTHING.values(), ids=NOTHING)
def test_nothing_is_added(place: Place, function: Callable[[], object]) -> None:
    assert [line for line in place.added(function) if "this program has" in line] == []


def test_a_module_is_not_a_file(place: Place) -> None:
    assert place.added(lambda: __import__("no_such_module")) == [
        "dispy: node n has no module 'no_such_module': list it in depends, or install it there"
    ]


def test_notes_of_the_user_stay(place: Place) -> None:
    error = FileNotFoundError(2, "No such file or directory", "data.csv")
    error.add_note("mine")
    assert len(place.added(raising(error))) == 2
    assert error.__notes__[0] == "mine"


def test_the_exception_has_the_advice_too(place: Place) -> None:
    reason = place.reason(lambda: os.stat("data.csv"))
    job = DispyJob(1, 1, place.cluster, 0.0, TERMINATED, _exception=reason, _error=b"", _is_final=True)
    assert "list it in depends" in (job.exception or "")
    assert "list it in depends" in str(job.error)
