"""``dispy.progress``, and bars of others: on terminals of every kind, in logs, in loops that are left."""

from __future__ import annotations

import logging
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tqdm import tqdm

import dispy
from dispy.client.shown import progress as drawing
from dispy.errors import UsageError

from . import jobs
from .conftest import MakeCluster, RunProgram, StartNode
from .helpers import Place, wait_for
from .screens import OnTerminal

HEAD = """
import os, sys, time
import dispy

def compute(n):
    if n == 3:
        raise ValueError("bad [red]x[/red] \\x1b]0;owned\\x07")
    return n

def until(path):
    import os, time
    while not os.path.exists(path):
        time.sleep(0.01)

"""

OnTerminalMaker = Callable[..., OnTerminal]

tqdm.monitor_interval = 0  # no thread of its own, which would stay behind


@pytest.fixture
def terminal(place: Place) -> Iterator[OnTerminalMaker]:
    """Starts programs, each on a terminal of its own."""
    started: list[OnTerminal] = []

    def start(source: str, **options: Any) -> OnTerminal:
        started.append(OnTerminal(HEAD + source, place, **options))
        return started[-1]

    yield start
    for one in started:
        one.end()


# Bars of others.


def test_tqdm_over_a_map(make_cluster: MakeCluster) -> None:
    with open(os.devnull, "w") as out, make_cluster(jobs.name_and) as cluster:
        bar = tqdm(cluster.map(range(1000)), total=1000, file=out)
        assert [n for _, n in bar] == list(range(1000))
        assert bar.n == 1000


def test_tqdm_over_jobs(make_cluster: MakeCluster) -> None:
    with open(os.devnull, "w") as out, make_cluster(jobs.name_and) as cluster:
        several = [cluster.submit(n) for n in range(50)]
        bar = tqdm(dispy.as_completed(several), total=50, file=out)
        assert {job.result[1] for job in bar} == set(range(50))
        assert bar.n == 50


# On a terminal.


def test_what_a_terminal_shows_in_the_end(terminal: OnTerminalMaker) -> None:
    """The bar is below all that was printed, nothing of others reaches the terminal as a control character."""
    shown = terminal("""
compute.__name__ = "[red]\\x1b[2Jx"
cluster = dispy.JobCluster(compute)
jobs = [cluster.submit(n) for n in range(6)]
for job in dispy.progress(jobs):
    print("got", job.id, "[red]", flush=True)
    sys.stderr.write(f"err {job.id}\\n")
print("after", type(sys.stdout).__module__, type(sys.stderr).__module__)
[job.exception for job in jobs]
""")
    assert shown.wait() == 0, shown.screen.text
    lines = [line for line in shown.screen.lines if not line.startswith("dispy: ")]
    for number in range(1, 7):
        assert f"got {number} [red]" in lines
        assert f"err {number}" in lines
    assert lines[-2:] == ["after _io _io", ""], "what is printed later is below, and not rich's any more"
    drawn = "\n".join(lines[lines.index(next(line for line in lines if "100 %" in line)) :])
    assert re.match(r"\[red\]\\x1b\[2Jx +\S+ +100 %", drawn)
    assert "  5 done, 1 failed; 1 node, " in drawn
    assert "the first failure: ValueError: bad [red]x[/red] \\x1b]0;owned\\x07" in drawn
    assert shown.screen.odd == []
    assert shown.screen.shows_cursor
    assert shown.screen.text.count("100 %") == 1, "it is drawn over what was drawn before"


def test_a_block_with_a_map(terminal: OnTerminalMaker) -> None:
    shown = terminal("""
cluster = dispy.JobCluster(lambda n: n)
with dispy.progress(cluster):
    print("sum", sum(cluster.map(range(500))))
with dispy.progress(cluster):
    cluster.submit(1)()
""")
    assert shown.wait() == 0, shown.screen.text
    assert "sum 124750" in shown.screen.lines
    counts = re.findall(r"^  (\d+) done; 1 node", shown.screen.text, re.MULTILINE)
    assert counts == ["500", "1"], "items are counted, and each block counts its own"


def test_a_killed_node_shows_the_reason(
    terminal: OnTerminalMaker, start_node: StartNode, place: Place, gate: Path
) -> None:
    node = start_node("--cpus", "1", "--name", "poor")
    shown = terminal(f"""
dispy.config.LocalNode = False
cluster = dispy.JobCluster(until, nodes=["127.0.0.1"], reentrant=True)
for job in dispy.progress([cluster.submit({str(gate)!r})]):
    pass
""", columns=300)  # fmt: skip
    shown.wait_shown(r"1 running.*\n  node poor 127.0.0.1: 1 of 1 CPU busy")
    place.is_swept = True
    os.kill(node.pid, signal.SIGKILL)
    shown.wait_shown(
        r"1 waiting, 0 done; no node\n  node poor 127.0.0.1: no CPU in use, .*(lost|gone|closed|broken)"
    )
    shown.wait_shown("1 job of cluster until waits: no node of nodes=127.0.0.1 can be used")
    gate.touch()
    other = start_node("--cpus", "1", "--name", "rich")
    shown.wait_shown("node rich")
    assert shown.wait() == 0, shown.screen.text
    assert "1 done; 1 node" in shown.screen.text
    assert other.pid


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        pytest.param("Ctrl-C", -signal.SIGINT, id="Ctrl-C"),
        pytest.param("raise RuntimeError('in the block')", 1, id="exception"),
        pytest.param("sys.exit(3)", 3, id="exit"),
        pytest.param(
            "left = iter(dispy.progress(jobs)); next(left); [].append(left)", 0, id="loop that is kept"
        ),
    ],
)
def test_however_it_ends_the_terminal_is_clean(terminal: OnTerminalMaker, how: str, expected: int) -> None:
    body = "cluster.submit('/nonexistent')()" if how == "Ctrl-C" else how
    shown = terminal(f"""
cluster = dispy.JobCluster(until)
jobs = [cluster.submit("/")]
with dispy.progress(cluster):
    print("begun")
    {body}
""")
    if how == "Ctrl-C":
        shown.wait_shown("begun")
        shown.wait_shown("1 running")
        shown.type("\x03")
    code = shown.wait()
    assert code == expected or (how == "Ctrl-C" and code in (130, 1)), shown.screen.text
    assert shown.screen.shows_cursor
    assert shown.screen.odd == ["\x03"] * 0
    assert shown.screen.lines[-1] == "", "the next prompt is on a line of its own"
    drawn = max(number for number, line in enumerate(shown.screen.lines) if " done" in line)
    if expected == 1:
        assert drawn < shown.screen.lines.index("RuntimeError: in the block")


def test_a_terminal_that_becomes_narrow(terminal: OnTerminalMaker, gate: Path) -> None:
    shown = terminal(f"""
cluster = dispy.JobCluster(until)
for job in dispy.progress([cluster.submit({str(gate)!r})]):
    pass
""")
    shown.wait_shown("1 running")
    shown.resize(30)
    shown.wait_shown(r"(?m)^  node .{0,22}…$")
    gate.touch()
    assert shown.wait() == 0
    assert "1 done; 1 node" in shown.screen.text


def test_a_terminal_that_is_closed(terminal: OnTerminalMaker, place: Place, gate: Path) -> None:
    """The work goes on: a drawing that fails is none of its business."""
    shown = terminal(f"""
import signal
signal.signal(signal.SIGHUP, signal.SIG_IGN)
cluster = dispy.JobCluster(until)
for job in dispy.progress([cluster.submit({str(gate)!r})]):
    open("done", "w").write(str(job.status))
""")
    shown.wait_shown("1 running")
    shown.hang_up()
    gate.touch()
    code = wait_for(lambda: shown.process.poll(), lambda code: code is not None, what="its end")
    assert code in (0, 120), "120: Python could not write the rest of its output to the terminal"
    assert (place.root / "done").read_text() == str(dispy.DispyJob.Finished)
    (place.root / "done").unlink()


def test_output_in_a_pipe_stays_as_it_is(terminal: OnTerminalMaker) -> None:
    shown = terminal("""
cluster = dispy.JobCluster(compute)
for job in dispy.progress([cluster.submit(n) for n in range(3)]):
    print("x" * 300)
""", stdout=subprocess.PIPE)  # fmt: skip
    assert shown.wait() == 0
    assert shown.process.stdout is not None
    assert shown.process.stdout.read() == b"x" * 300 + b"\n" + (b"x" * 300 + b"\n") * 2
    shown.process.stdout.close()
    assert "3 done" in shown.screen.text


@pytest.mark.parametrize(
    ("before", "others"),
    [
        pytest.param("sys.modules['rich'] = None", {}, id="no rich"),
        pytest.param("", {"TERM": "dumb"}, id="dumb terminal"),
        pytest.param("", {"TERM": ""}, id="no TERM"),
    ],
)
def test_a_plain_line_where_no_bar_can_be(
    terminal: OnTerminalMaker, before: str, others: dict[str, str]
) -> None:
    shown = terminal(f"""
{before}
cluster = dispy.JobCluster(compute)
for job in dispy.progress([cluster.submit(n) for n in range(3)]):
    pass
""", others=others)  # fmt: skip
    assert shown.wait() == 0
    assert re.search(
        r"^dispy: compute: 3 of 3 done; 1 node, \d+ CPUs?; \S+/s$", shown.screen.text, re.MULTILINE
    )
    assert "\x1b" not in shown.raw


def test_a_second_one_draws_no_second_bar(terminal: OnTerminalMaker) -> None:
    shown = terminal("""
first, second = dispy.JobCluster(compute), dispy.JobCluster(until)
with dispy.progress(first), dispy.progress(second):
    first.submit(1)(), second.submit("/")()
with dispy.progress(second):
    second.submit("/")()
""")
    assert shown.wait() == 0
    assert len(re.findall("100 %", shown.screen.text)) == 2
    assert "dispy: until: 1 of 1 done" in shown.screen.text


def test_a_fork_in_the_block(terminal: OnTerminalMaker) -> None:
    """Whatever the child does, the display is the parent's."""
    shown = terminal("""
import warnings; warnings.simplefilter("ignore")
cluster = dispy.JobCluster(compute)
try:
    with dispy.progress(cluster):
        if not os.fork():
            sys.exit(0)
        assert os.wait()[1] == 0
        cluster.submit(1)()
finally:
    pass
""")
    assert shown.wait() == 0, shown.screen.text
    assert shown.screen.text.count("100 %") == 1


# Where there is no terminal.

PLAIN = """
cluster = dispy.JobCluster(compute)
jobs = [cluster.submit(n) for n in range(3)]
"""


def test_a_line_in_the_end(run_program: RunProgram) -> None:
    program = run_program(HEAD + PLAIN + "print(sum(job.result for job in dispy.progress(jobs)))")
    assert program.wait(15) == 0, program.stderr
    assert program.stdout == "3\n"
    assert re.search(
        r"^dispy: compute: 3 of 3 done; 1 node, \d+ CPUs?; \S+/s$", program.stderr, re.MULTILINE
    )
    assert program.stderr.count("\n") == 2, "the notice of the node, and the end"


def test_quiet_is_quiet(run_program: RunProgram) -> None:
    program = run_program(
        HEAD + PLAIN + "print(sum(job.result for job in dispy.progress(jobs, quiet=True)))"
    )
    assert program.wait(15) == 0, program.stderr
    assert (program.stdout, program.stderr.count("\n")) == ("3\n", 1)


def test_no_standard_error(run_program: RunProgram) -> None:
    for stream in ("sys.stderr.close()", "sys.stderr = None"):
        program = run_program(
            HEAD + PLAIN + f"{stream}\nprint(sum(j.result for j in dispy.progress(jobs)))"
        )
        assert program.wait(15) == 0
        assert program.stdout == "3\n"


def test_lines_now_and_then(
    make_cluster: MakeCluster, gate: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """In the log of a program that has one."""
    monkeypatch.setattr(drawing.Lines, "least_s", 0.02)
    monkeypatch.setattr(drawing, "SHARE", 0)
    caplog.set_level(logging.INFO, "dispy")
    cluster = make_cluster(jobs.until)

    def said() -> list[str]:
        return [record.message for record in caplog.records if record.message.startswith("until: ")]

    with dispy.progress(cluster):
        job = cluster.submit(str(gate))
        wait_for(said, lambda lines: len(lines) > 2 and "1 running" in lines[-1], what="lines")
        gate.touch()
        job()
    assert re.match(r"until: 1 of 1 done; 1 node, \d+ CPUs?; .*/s$", said()[-1])


class Slow:
    """A surface that takes 20 ms of a CPU to draw."""

    least_s = 0.01

    def __init__(self) -> None:
        self.count = 0

    def show(self, shown: Any) -> None:
        until = time.thread_time() + 0.02
        while time.thread_time() < until:
            pass
        self.count += 1

    def close(self, shown: Any) -> None:
        pass


def test_a_display_takes_no_more_than_its_share(
    make_cluster: MakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that takes long is drawn less often: without its pauses it would be drawn twenty times here."""
    surface = Slow()
    monkeypatch.setattr(drawing, "choose_surface", lambda _: surface)
    cluster = make_cluster(jobs.name_and)
    with dispy.progress(cluster):
        wait_for(lambda: surface.count, lambda count: count >= 2, what="two states")
        cluster.submit(1, 0.6)()
        assert surface.count <= 3


class Broken(Slow):
    """A surface that cannot be drawn on."""

    def show(self, shown: Any) -> None:
        self.count += 1
        raise OSError("no terminal")

    close = show


def test_a_surface_that_fails_is_left_alone(
    make_cluster: MakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    surface = Broken()
    monkeypatch.setattr(drawing, "choose_surface", lambda _: surface)
    cluster = make_cluster(jobs.name_and)
    assert [job.result[1] for job in dispy.progress([cluster.submit(n, 0.05) for n in range(3)])]
    assert surface.count == 2, "the first state and the last one"


def test_loops_that_are_left(make_cluster: MakeCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread ends with the loop; the place of the test would find it."""
    with make_cluster(jobs.name_and) as cluster:
        several = [cluster.submit(n) for n in range(20)]
        for job in dispy.progress(several):
            assert job.result is not None
            break
        wait_for(
            lambda: [thread.name for thread in threading.enumerate() if thread.name == "dispy progress"],
            lambda left: not left,
            what="the thread is gone",
        )
        with pytest.raises(ZeroDivisionError):
            [1 // 0 for _ in dispy.progress(several)]
        again = dispy.progress(several)
        assert len(list(again)) == len(list(again)) == 20
        with again as shown:
            assert len(list(shown)) == 20
            assert "20 of 20 done" in repr(shown)
        executor = dispy.Executor(cluster=make_cluster(dispy.integrations.executor.payload.CALL))
        with executor, dispy.progress(executor):
            assert executor.submit(len, "abc").result() == 3


@pytest.mark.parametrize(
    ("what", "said"),
    [
        (lambda _: 5, "progress takes several jobs, not 5; give a cluster, or a list of jobs"),
        (lambda _: [5], "progress takes jobs, not 5"),
        (lambda cluster: cluster.submit(1), "progress takes several jobs; put the job into a list"),
        (lambda cluster: cluster.map([1]), "not the results of a map; with dispy.progress.cluster."),
        (lambda _: dispy.JobCluster, "progress takes several jobs, not <class"),
    ],
)
def test_what_cannot_be_drawn(make_cluster: MakeCluster, what: Callable[..., Any], said: str) -> None:
    with make_cluster(jobs.name_and) as cluster, pytest.raises(UsageError, match=said):
        dispy.progress(what(cluster))


def test_a_cluster_is_no_loop_over_jobs(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(jobs.name_and)
    with pytest.raises(UsageError, match=r"keeps none that have ended; for job in dispy.progress\(jobs\)"):
        iter(dispy.progress(cluster))
    with pytest.raises(UsageError, match="quiet must be True or False"):
        dispy.progress(cluster, quiet="yes")  # type: ignore[arg-type]
    cluster.close()
    with pytest.raises(UsageError, match="is closed"):
        dispy.progress(cluster)


def test_it_says_when_nothing_was_drawn(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(jobs.name_and)
    with pytest.warns(RuntimeWarning, match="nothing was drawn: write 'with dispy.progress"):
        dispy.progress(cluster)


# A look at a cluster.


def test_to_look_does_not_wait(make_cluster: MakeCluster) -> None:
    """The engine stands still, and its last state is shown; on its own thread, too, and when it has stopped."""
    cluster = make_cluster(jobs.name_and)
    assert cluster.submit(1)() is not None
    engine = cluster._session.engine
    begun, goes_on = threading.Event(), threading.Event()
    engine.post(lambda: (begun.set(), goes_on.wait(20)))
    assert begun.wait(5)
    looked = repr(cluster)
    assert not goes_on.is_set(), "the loop still stands"
    goes_on.set()
    assert looked.startswith("<")
    assert "name_and: 1 done" in looked
    assert engine.call(repr, cluster).endswith(looked.partition(":")[2])
    assert "1 done" in cluster._repr_html_()
    cluster.shutdown()
    assert "closed; 1 done" in repr(cluster)
    assert "closed" in cluster._repr_html_()


def test_a_map_says_how_far_it_is(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(jobs.name_and)
    results = cluster.map(range(50), chunksize=5)
    assert re.fullmatch(r"<results of a map of name_and: \d+ items to end, \d+ chunks sent>", repr(results))
    assert [n for _, n in results] == list(range(50))
    assert repr(results) == "<results of a map of name_and: all taken, or ended by an error>"
    assert "50 done" in repr(cluster)
    endless = cluster.map(iter(int, 1), chunksize=1)
    assert "at least" in repr(endless)
    assert "+ waiting" in repr(cluster)
    assert next(endless)[1] == 0
    endless.close()  # type: ignore[attr-defined]
    ref = cluster.put([1])
    assert repr(ref).startswith("<Ref ")
    cluster.close()
    assert repr(ref).endswith(", gone with its cluster, which is closed>")


def test_a_prompt_without_a_notebook(make_cluster: MakeCluster) -> None:
    """IPython asks for more than ``repr``; a cluster that was never made says so."""
    from IPython.core.formatters import DisplayFormatter

    cluster = make_cluster(jobs.name_and)
    formatter = DisplayFormatter()
    formatter.active_types = formatter.format_types
    data, _ = formatter.format(cluster)
    assert data["text/plain"].startswith("<JobCluster name_and: ") or data["text/plain"].startswith(
        "<SharedJob"
    )
    assert "<b>name_and</b>" in data["text/html"]
    unmade = object.__new__(dispy.JobCluster)
    assert repr(unmade) == "<JobCluster that was not made>"


@pytest.mark.parametrize("stream", ["sys.stdout.close()", "sys.stdout = None", "sys.stdout = object()"])
def test_output_that_is_none(terminal: OnTerminalMaker, stream: str) -> None:
    shown = terminal(f"""
cluster = dispy.JobCluster(compute)
kept = sys.stdout
{stream}
for job in dispy.progress([cluster.submit(n) for n in range(3)]):
    pass
cluster.shutdown()
os._exit(0)
""")
    assert shown.wait() == 0, shown.screen.text
    assert "  3 done; 1 node" in shown.screen.text
