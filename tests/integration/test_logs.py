"""What nodes and programs log: who comes and goes at INFO, every message at DEBUG, and nothing that is users' own."""

from __future__ import annotations

import logging
import os
import re
import shutil
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import dispy
from dispy.client import logger as log

from . import jobs
from .conftest import MakeCluster, RunProgram, StartNode
from .helpers import PYTHON, STOP_S, Place, wait_for

SECRET = "dispy1-" + "5ec4e7" * 10 + "beef"

SESSION = """
import sys
import dispy

class Value:
    def __init__(self, text): self.text = text

def compute(value, fails=False):
    import sys
    variable_in_code = value.text
    print("OUTPUTVALUE"); print("ERRORVALUE", file=sys.stderr)
    with open("brought.txt") as file: brought = file.read()
    if len(brought) != 12: raise ValueError("brought")
    dispy_provisional_result("PROVISIONALVALUE")
    open("made.txt", "w").write("MADEVALUE")
    dispy_send_file("made.txt")
    if fails:
        raise ValueError("RAISEDVALUE " + value.text)
    return "RESULTVALUE" + value.text * len(value.text)

def broken(value):
    import nothing_of_this_name

def setup(text):
    global kept
    kept = text
    raise RuntimeError("SETUPVALUE " + text) if text.startswith("BAD") else None
    return 0

seen = []
with open("brought.txt", "w") as file: file.write("BROUGHTVALUE")
with dispy.JobCluster(compute, depends=["brought.txt"], secret=sys.argv[1], nodes=[("127.0.0.1", int(sys.argv[2]))],
                      loglevel=dispy.logger.DEBUG, job_status=seen.append, job_output=lambda *a: None) as cluster:
    ref = cluster.put(b"PUTVALUE" * 20_000)
    some = [cluster.submit(Value("ARGVALUE" * n), n % 2 == 0) for n in range(1, 4)]
    some.append(cluster.submit(Value("LARGEVALUE" * 20_000)))
    some.append(cluster.submit(Value(""), fails=True, dispy_job_id="JOBIDVALUE"))
    for job in some: job()
    print([job.status == dispy.DispyJob.Finished for job in some])
bad = dispy.NodeAllocate("127.0.0.1", int(sys.argv[2]), setup_args=("BADSETUPARGUMENT",))
with dispy.JobCluster(lambda: 1, setup=setup, nodes=[bad], secret=sys.argv[1], loglevel=10) as cluster:
    job = cluster.submit()
    import time
    while "setup" not in cluster.why(job): time.sleep(0.02)
    cluster.cancel(job)
print("done")
"""

USERS_OWN = [
    "ARGVALUE", "LARGEVALUE", "RESULTVALUE", "RAISEDVALUE", "PROVISIONALVALUE", "OUTPUTVALUE", "ERRORVALUE",
    "BROUGHTVALUE", "MADEVALUE", "PUTVALUE", "JOBIDVALUE", "variable_in_code", "nothing_of_this_name",
]  # fmt: skip


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_debug_shows_each_message_and_nothing_of_users(
    start_node: StartNode, run_program: RunProgram, tls: bool
) -> None:
    """With ``-d`` on one side and ``loglevel=DEBUG`` on the other: no argument, result, output, code or secret."""
    node = start_node("-d", *(["--tls"] if tls else []), "--secret", SECRET)
    source = SESSION.replace("secret=sys.argv[1],", "secret=sys.argv[1], tls=True,") if tls else SESSION
    program = run_program(source, SECRET, str(node.port))
    assert program.wait(25) == 0, program.stderr
    node.stop()
    shown = [line for line in program.stderr.splitlines() if " DEBUG dispy." in line]
    for side, log_text in (("node", node.stderr), ("program", "\n".join(shown))):
        for word in [*USERS_OWN, SECRET, SECRET.removeprefix("dispy1-"), "SETUPVALUE", "BADSETUPARGUMENT"]:
            found = [line for line in log_text.splitlines() if word in line]
            assert not found, (side, word, found[:3])
        assert max(map(len, log_text.splitlines())) < 2000, "a line is not short"
    for message in (
        "Attach",
        "Compute",
        "RunJobs",
        "JobsEnded",
        "Provisional",
        "PutObject",
        "FileData",
        "Detach",
    ):
        assert re.search(rf"DEBUG dispy.node - client .* (says|is told).* {message}\b", node.stderr), (
            message
        )
        assert any(re.search(rf"node .* (says|is told).* {message}\b", line) for line in shown), message
    for told in (
        "WorkerStarted worker=1 pid=",
        "Offer worker=1",
        "Ran worker=1",
        "has ended with exit code 0",
    ):
        assert told in node.stderr, told
    for told in ("is dialed", "has proved itself", "Allocate client=0 computation=1", "looks for nodes="):
        assert any(told in line for line in shown), told


def test_what_an_administrator_reads(start_node: StartNode, run_program: RunProgram, place: Place) -> None:
    """At INFO: a program comes, loads something, leaves; another is killed; and why the node ends."""
    node = start_node("--cpus", "1")
    source = (
        "import os, signal, sys, dispy\n"
        "def f(n):\n    return 1 // n\n"
        "c = dispy.JobCluster(f, cleanup=False, setup_timeout=9)\n"
        "for j in [c.submit(n) for n in (1, 0, 2)]: j()\n"
        "if len(sys.argv) > 1: os.kill(os.getpid(), signal.SIGKILL)\n"
        "c.close()\n"
    )
    first = run_program(source, name="first.py")
    assert first.wait() == 0, first.stderr
    second = run_program(source, "killed", name="second.py")
    assert second.wait() == -signal.SIGKILL
    node.wait_line("second.py .* has lost its connection; ", stream="stderr")
    node.wait_line("second.py .* is taken for dead: ", stream="stderr", deadline_s=10)
    assert node.stop() == 0
    user = f" of [^ ]+@{re.escape(socket.gethostname())}"
    for fact in (
        rf"first\.py \(\d+\){user} has come from 127\.0\.0\.1, admitted by its secret$",
        r"computation f of first\.py \(\d+\) is ready after \d+\.\d\d s; host \d+$",
        r"computation f of first\.py \(\d+\) has left: 2 jobs finished, 1 failed or .*; its files stay in /",
        r"first\.py \(\d+\) has left for good: 2 jobs finished, 1 failed",
        r"SIGTERM: the node ends; nothing runs here$",
    ):
        found = re.findall(rf"^\S+ \S+ INFO dispy\.node - {fact}", node.stderr, re.MULTILINE)
        assert len(found) == 1, (fact, node.stderr)
    for kept in place.temporary.glob("dispy-files-*"):
        shutil.rmtree(kept)


def test_a_computation_that_cannot_run_is_logged_without_its_words(
    start_node: StartNode, make_cluster: MakeCluster
) -> None:
    def prepare(text: str) -> int:
        raise RuntimeError(f"SETUPVALUE {text}")

    node = start_node()
    where = dispy.NodeAllocate("127.0.0.1", setup_args=("ARGVALUE",))
    cluster = make_cluster(lambda: 1, setup=prepare, nodes=[where])
    cluster.submit()
    node.wait_line("INFO .* cannot run here: ", stream="stderr")
    assert "cannot run here: setup failed on " in node.stderr
    assert ": RuntimeError; its program is told all of it" in node.stderr
    assert "VALUE" not in node.stderr


def test_refusals_are_bounded(start_node: StartNode) -> None:
    """Ten lines a kind and minute, whatever comes from how many addresses; then the count."""
    node = start_node()
    said = [b"GET / HTTP/1.1\r\n\r\n", b"\0" * 40, b"\x16\x03\x01" + bytes(60)]
    for n in range(400):
        with socket.socket() as link:
            link.bind((f"127.0.{n % 200 + 1}.1", 0))
            link.connect((node.host, node.port))
            link.sendall(said[n % len(said)])
            link.settimeout(5)
            link.recv(100)
    node.stop()
    refused = [line for line in node.stderr.splitlines() if "refused a connection" in line]
    assert len(refused) == 10
    counts = [
        int(n) for n in re.findall(r"connections refused that .*: (\d+) more within 60 s", node.stderr)
    ]
    assert sum(counts) == 390


def test_a_node_whose_log_nobody_reads_goes_on(place: Place, make_cluster: MakeCluster) -> None:
    """Its stderr is a full pipe, and it logs each message: lines are lost, jobs are not."""
    ours, theirs = os.pipe()
    node = subprocess.Popen(
        [*PYTHON, "-m", "dispy.cli.node", "--listen_port", "0", "-d"],
        stdout=subprocess.PIPE,
        stderr=theirs,
        env=place.environment,
    )
    os.close(theirs)
    try:
        assert node.stdout is not None
        node.stdout.readline()
        cluster = make_cluster(jobs.name_and)
        for _ in range(5):
            assert len([job() for job in [cluster.submit(n) for n in range(500)]]) == 500
        logging_job = make_cluster(lambda: dispynode_logger.error("x" * 60_000))
        for _ in range(5):
            assert logging_job.submit().wait(5)
        assert cluster.submit(1).wait(5)
        node.terminate()
        assert node.wait(STOP_S + 3) == 0
    finally:
        node.kill()
        node.wait()
        os.close(ours)
        assert node.stdout is not None
        node.stdout.close()


class Broken(logging.Handler):
    """Raises, or blocks until it is let go."""

    def __init__(self, gate: threading.Event | None) -> None:
        super().__init__()
        self.gate = gate

    def handle(self, record: logging.LogRecord) -> bool:
        if self.gate is None:
            raise RuntimeError("this handler is broken")
        self.gate.wait(20)
        return True


@pytest.mark.parametrize("how", ["raises", "blocks"])
def test_a_handler_of_the_program_does_no_harm(
    start_node: StartNode, make_cluster: MakeCluster, how: str, capsys: pytest.CaptureFixture[str]
) -> None:
    gate = threading.Event() if how == "blocks" else None
    handler = Broken(gate)
    logger = logging.getLogger("dispy")
    logger.addHandler(handler)
    try:
        node = start_node()
        cluster = make_cluster(jobs.name_and, loglevel=dispy.logger.DEBUG)
        started = time.monotonic()
        assert [job() for job in [cluster.submit(n) for n in range(300)]] == [
            (node.name, n) for n in range(300)
        ]
        assert cluster.submit(1)()[1] == 1
        assert cluster.close_node("127.0.0.7") == -1  # a warning
        assert time.monotonic() - started < 8
    finally:
        if gate is not None:
            gate.set()
        cluster.shutdown()
        logger.removeHandler(handler)


def test_a_handler_may_use_dispy(start_node: StartNode, make_cluster: MakeCluster) -> None:
    """What logs waits for the engine, which does not wait for it."""
    start_node()
    cluster: Any = None
    seen = []

    class Asking(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if cluster is not None:
                seen.append(cluster.status().jobs_pending)

    handler = Asking()
    logging.getLogger("dispy").addHandler(handler)
    try:
        cluster = make_cluster(jobs.name_and, loglevel=dispy.logger.INFO)
        assert cluster.submit(3)()[1] == 3
        cluster.close_node("127.0.0.7")
        wait_for(lambda: seen, bool, what="the handler was called")
    finally:
        logging.getLogger("dispy").removeHandler(handler)


def test_ten_thousand_jobs_are_debugged(
    start_node: StartNode, run_program: RunProgram, place: Place
) -> None:
    """It may be slow, and lines may be left out; all jobs run, and nobody is taken for dead."""
    node = start_node("-d")
    program = run_program(
        "import dispy\n"
        "with dispy.JobCluster(abs, loglevel=dispy.logger.DEBUG) as c:\n"
        "    print(sum(j() for j in [c.submit(-1) for _ in range(10_000)]))\n"
    )
    assert program.wait(25) == 0, program.stderr[-2000:]
    assert program.stdout.strip() == "10000"
    assert "lost" not in node.stderr


LEVELS = """
import logging, sys
import dispy
{before}
with dispy.JobCluster(abs, {loglevel}) as c:
    c.submit(-1)()
"""


@pytest.mark.parametrize(
    ("before", "loglevel", "shown"),
    [
        ("", "", ""),
        ("", "loglevel=dispy.logger.WARNING", ""),
        ("", "loglevel=dispy.logger.INFO", "INFO"),
        ("", "loglevel=dispy.logger.DEBUG", "DEBUG"),
        ("logging.basicConfig(level=logging.DEBUG)", "loglevel=dispy.logger.DEBUG", "DEBUG:dispy"),
        ("logging.basicConfig(level=logging.DEBUG)", "", "INFO:dispy"),
        ("dispy.logger.setLevel(dispy.logger.DEBUG); logging.basicConfig()", "", "DEBUG:dispy"),
        ("sys.stderr = None", "loglevel=dispy.logger.DEBUG", ""),
    ],
)
def test_levels(
    start_node: StartNode, run_program: RunProgram, before: str, loglevel: str, shown: str
) -> None:
    start_node()
    program = run_program(LEVELS.format(before=before, loglevel=loglevel))
    assert program.wait() == 0, program.stderr
    lines = program.stderr.splitlines()
    assert program.stdout == ""
    if not shown:
        assert lines == []
        return
    assert any(shown in line for line in lines)
    if shown.startswith("INFO"):
        assert not any("DEBUG" in line for line in lines)
    # Where the program has handlers nothing is shown twice.
    assert not (":dispy" in shown and any(re.match(r"\d{4}-", line) for line in lines))


def test_a_level_of_one_cluster_is_not_lost_by_the_next(
    make_cluster: MakeCluster, start_node: StartNode
) -> None:
    start_node()
    make_cluster(jobs.name_and, loglevel=dispy.logger.DEBUG)
    make_cluster(jobs.name_and)
    assert log.is_debugging()


def test_a_fork_of_a_program_that_logs_can_log(
    start_node: StartNode, run_program: RunProgram, tmp_path: Path
) -> None:
    start_node()
    program = run_program(
        "import os, dispy\n"
        "with dispy.JobCluster(abs, loglevel=dispy.logger.DEBUG) as c:\n"
        "    c.submit(-1)()\n"
        "    pid = os.fork()\n"
        "    if not pid:\n"
        "        with dispy.JobCluster(abs) as d:\n"
        "            assert d.submit(-2)() == 2\n"
        "        dispy.logger.warning('from the fork')\n"
        "        os._exit(0)\n"
        "    assert os.waitpid(pid, 0)[1] == 0\n",
        warnings=("error", "ignore::DeprecationWarning"),
    )
    assert program.wait() == 0, program.stderr
    assert "from the fork" in program.stderr
