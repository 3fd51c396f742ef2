"""Programs as computations: found, sent, started with their arguments, heard, interrupted."""

from __future__ import annotations

import os
import re
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

import dispy
from dispy import NodeAllocate, config
from dispy.errors import ProgramError, UsageError

from .conftest import MakeCluster, RunProgram, StartNode
from .filing import stored
from .helpers import Place, wait_for, wait_gone

FINISHED, TERMINATED = dispy.DispyJob.Finished, dispy.DispyJob.Terminated


@pytest.fixture
def write(tmp_path: Path) -> Any:
    """Writes a program, with its executable bits."""

    def make(text: str, name: str = "program", mode: int = 0o755) -> str:
        path = tmp_path / name
        path.write_text(text)
        path.chmod(mode)
        return str(path)

    return make


def test_a_program_has_its_arguments_as_texts_and_its_output_is_bytes(
    make_cluster: MakeCluster, start_node: StartNode
) -> None:
    start_node("--cpus", "1")
    cluster = make_cluster("/bin/echo")
    job = cluster.submit(1, "two", b"three", Path("four"), 5.5, None, ignored=6)
    assert job() == 0
    assert (job.status, job.exception) == (FINISHED, None)
    assert (job.stdout, job.stderr) == (b"1 two three four 5.5 None\n", b"")
    assert cluster.name == "/bin/echo"


def test_any_exit_code_is_a_result(make_cluster: MakeCluster, start_node: StartNode) -> None:
    start_node("--cpus", "1")
    cluster = make_cluster("sh")
    for code in (0, 1, 77, 255):
        job = cluster.submit("-c", f"printf '\\377' >&2; exit {code}")
        assert (job(), job.status, job.stderr) == (code, FINISHED, b"\xff")
    # Signals that Python ignores are not ignored; those of whoever runs the tests may be. Those above 31 are the C
    # library's.
    job = cluster.submit("-c", "grep -E 'Sig(Ign|Blk)' /proc/self/status")
    assert job() == 0
    blocked, ignored = (int(mask, 16) & 0x7FFFFFFF for mask in job.stdout.split()[1::2])
    assert blocked == 0
    ours = re.search(r"SigIgn:\s*(\w+)", Path("/proc/self/status").read_text())
    assert ours is not None
    by_python = 1 << signal.SIGPIPE - 1 | 1 << signal.SIGXFSZ - 1
    assert not ignored & by_python
    assert not ignored & ~int(ours[1], 16)


def test_how_programs_are_started(
    make_cluster: MakeCluster, start_node: StartNode, monkeypatch: pytest.MonkeyPatch, write: Any
) -> None:
    """By themselves, with the node's Python, with Java."""
    monkeypatch.setattr(config, "Java", "/bin/sh")
    start_node("--cpus", "1")
    python = "import sys; print('here', *sys.argv[1:], sys.executable)"
    for name, text, mode, said in [
        ("script", "#!/bin/sh\necho here $1", 0o755, "here now\n"),
        ("script.py", python, 0o644, f"here now {sys.executable}\n"),
        ("Main.java", "echo here $1", 0o644, "here now\n"),
        ("Main.JAVA", "echo here $1", 0o644, "here now\n"),
    ]:
        job = make_cluster(write(text, name, mode)).submit("now")
        assert (job(), job.stdout) == (0, said.encode()), job.exception


def prepare(level: int) -> None:
    global label, answer, _hidden, ratio, dispy_level
    label, answer, _hidden, ratio, dispy_level = "a label", 42, "no", 0.5, level


def forget(level: int) -> None:
    with open(os.environ["TMPDIR"] + "/forgotten", "w") as file:
        file.write(f"{label} {level}")


def test_where_they_run_and_what_they_find_in_their_environment(
    make_cluster: MakeCluster, start_node: StartNode, place: Place
) -> None:
    node = start_node("--cpus", "1", "--name", "here")
    cluster = make_cluster(
        "sh", setup=prepare, cleanup=forget, nodes=[NodeAllocate("127.0.0.1", node.port, setup_args=(3,))]
    )
    job = cluster.submit("-c", "pwd; env")
    assert job() == 0, job.exception
    lines = job.stdout.decode().splitlines()
    directory, found = lines[0], dict(line.split("=", 1) for line in lines[1:] if "=" in line)
    assert found["dispy_job_path"] == directory
    assert found["PATH"].split(os.pathsep)[0] == directory
    assert (found["dispy_node_name"], found["dispy_node_ip_addr"]) == ("here", "127.0.0.1")
    assert (found["label"], found["answer"], found["dispy_level"]) == ("a label", "42", "3")
    assert found["dispy_job_id"] == str(job.id)
    assert found["dispy_job_seed"].isdecimal()
    assert found.keys().isdisjoint({"_hidden", "ratio", "prepare"})
    assert found["HOME"] == os.environ["HOME"]
    cluster.close()
    forgotten = place.temporary / "forgotten"
    assert wait_for(lambda: forgotten.exists() and forgotten.read_text(), what="cleanup") == "a label 3"
    forgotten.unlink()


def test_a_program_finds_files_of_its_directory_by_name(
    make_cluster: MakeCluster, start_node: StartNode, write: Any
) -> None:
    """Itself, for one; with the permission bits that it had."""
    start_node("--cpus", "1")
    text = '#!/bin/sh\n[ -z $1 ] && exec own inner\nstat -c %a "$0"; ls'
    job = make_cluster(write(text, "own", 0o750)).submit()
    assert (job(), job.stdout) == (0, b"750\nown\n")


def test_a_program_that_is_killed_says_by_which_signal(
    make_cluster: MakeCluster, start_node: StartNode
) -> None:
    node = start_node("--cpus", "1")
    cluster = make_cluster("sh")
    for number in (signal.SIGSEGV, signal.SIGKILL, signal.SIGINT):
        job = cluster.submit("-c", f"echo so far; kill -{int(number)} $$")
        assert (job(), job.status, job.stdout) == (None, TERMINATED, b"so far\n")
        assert f"killed by signal {int(number)} ({number.name}) on node {node.name}" in job.exception
        assert isinstance(job.error, ProgramError)


def test_a_program_that_is_killed_runs_again_where_it_may(
    make_cluster: MakeCluster, start_node: StartNode, tmp_path: Path
) -> None:
    start_node("--cpus", "1")
    runs = tmp_path / "runs"
    cluster = make_cluster("sh", reentrant=True)
    job = cluster.submit("-c", "echo x >>$0; [ $(wc -l <$0) = 2 ] || kill -9 $$", runs)
    assert (job(), runs.read_text()) == (0, "x\nx\n")


def test_a_program_that_cannot_be_started_says_why(
    make_cluster: MakeCluster, start_node: StartNode, write: Any
) -> None:
    start_node("--cpus", "1")
    for text, argument, reason in [
        ("#!/nowhere/interpreter\n", "", "the interpreter that its first line names"),
        ("#!/bin/sh\r\n", "", "its lines end as on Windows"),
        ("\0\0\0", "", "made for another platform"),
        ("#!/bin/sh\n", "a\0b", "null character"),
        ("#!/bin/sh\n", "x" * 200_000, "arguments and environment are too long"),
    ]:
        cluster = make_cluster(write(text))
        job = cluster.submit(argument)
        assert (job(), job.status) == (None, TERMINATED)
        assert job.exception.startswith("Traceback (most recent call last)")
        assert "program 'program' cannot be started on node" in job.exception
        assert reason in job.exception
    assert cluster.submit("now it can")() == 0


def test_what_is_no_program_is_refused_at_once(place: Place, write: Any, tmp_path: Path) -> None:
    for given, said in [
        ("/no/such/program", "neither a file here nor a program in PATH"),
        ("no-such-program", "neither a file here nor a program in PATH"),
        (write("", "flat", 0o644), "has no executable bit; chmod"),
        (str(tmp_path), "is not an ordinary file"),
        ("", "neither a file here"),
    ]:
        with pytest.raises(UsageError, match=said):
            dispy.JobCluster(given)


def test_the_file_of_a_program_travels_as_others_do(
    make_cluster: MakeCluster, start_node: StartNode, here: Path, place: Place
) -> None:
    """By its last name, with its mode, beside files that are listed; one that has its name is refused."""
    start_node("--cpus", "1")
    (here / "bin").mkdir()
    (here / "bin" / "tool").write_text("#!/bin/sh\nls -l *\n")
    (here / "bin" / "tool").chmod(0o710)
    (here / "data").write_text("x")
    cluster = make_cluster("bin/tool", depends=["data"])
    job = cluster.submit()
    assert job() == 0
    found = [line.split() for line in job.stdout.decode().splitlines()]
    assert [(words[0][:10], words[-1]) for words in found] == [
        ("-rw-r--r--", "data"),
        ("-rwx--x---", "tool"),
    ]
    kept = [path.stat().st_size for path in stored(place)]
    assert sorted(kept) == [1, (here / "bin/tool").stat().st_size]
    (here / "tool").write_text("another")
    with pytest.raises(UsageError, match=r"files '.*' and '.*' would both be 'tool' on the node"):
        dispy.JobCluster("bin/tool", depends=["tool"])


def test_it_is_shown_what_a_program_prints_while_it_runs(
    make_cluster: MakeCluster, start_node: StartNode, write: Any, gate: Path
) -> None:
    """As bytes, also by a Python program, whose output would wait in a buffer otherwise."""
    start_node("--cpus", "1")
    pieces: list[tuple[int, str, Any]] = []
    text = (
        "import os, sys, time\n"
        "print('begun \\xe4')\n"
        "while not os.path.exists(sys.argv[1]): time.sleep(.01)\n"
        "print('over')\n"
    )
    cluster = make_cluster(
        write(text, "slow.py"), job_output=lambda job, *piece: pieces.append((job.id, *piece))
    )
    job = cluster.submit(gate)
    # Such a program writes the end of a line by itself.
    wait_for(
        lambda: b"".join(piece for _, _, piece in pieces),
        lambda shown: shown == "begun \xe4\n".encode(),
        what="it is shown",
    )
    assert {(number, stream) for number, stream, _ in pieces} == {(job.id, "stdout")}
    gate.touch()
    assert job() == 0
    cluster.close()
    assert b"".join(piece for _, _, piece in pieces) == job.stdout == "begun \xe4\nover\n".encode()
    assert list(job.output()) == [("stdout", job.stdout)]


def test_only_so_much_of_the_output_is_kept(make_cluster: MakeCluster, start_node: StartNode) -> None:
    start_node("--cpus", "1")
    job = make_cluster("sh").submit("-c", "head -c 5000000 /dev/zero; printf end")
    assert job() == 0
    assert len(job.stdout) < 1_100_000
    assert job.stdout.endswith(b"end")
    assert b"bytes of output cut here" in job.stdout


TREE = """#!/bin/sh
sleep 1000 &
echo $! >$1.1
setsid sleep 1000 &
echo $! >$1.2
trap '%s' INT
echo $$ >$1.0
wait
wait
"""


@pytest.mark.parametrize(
    ("trap", "result", "status"),
    [
        ("exit 3", None, TERMINATED),
        ("exit 0", 0, FINISHED),
        ("", None, TERMINATED),
        ("kill -9 $$", None, TERMINATED),
    ],
    ids=["fails", "ends in order", "goes on", "dies"],
)
def test_cancelling_ends_the_program_and_all_that_it_started(
    make_cluster: MakeCluster,
    start_node: StartNode,
    write: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    trap: str,
    result: Any,
    status: int,
) -> None:
    if trap:
        # A busy machine takes its time to end what wants to end.
        monkeypatch.setattr(dispy.config, "CancelGrace", 20)
    start_node("--cpus", "1")
    cluster = make_cluster(write(TREE % trap))
    mark = tmp_path / "pid"
    job = cluster.submit(mark)
    files = [Path(f"{mark}.{n}") for n in range(3)]
    pids = [
        wait_for(lambda file=file: file.exists() and int(file.read_text() or "0"), what="it runs")
        for file in files
    ]
    assert cluster.cancel(job) == 0
    assert (job(), job.status) == (result, status)
    assert status == FINISHED or "cancelled" in job.exception
    wait_gone(pids)
    assert cluster.submit(tmp_path / "other").wait(0) is False
    cluster.close(terminate=True)


def test_what_a_program_leaves_behind_is_ended(make_cluster: MakeCluster, start_node: StartNode) -> None:
    start_node("--cpus", "1")
    cluster = make_cluster("sh")
    job = cluster.submit("-c", "setsid sleep 1000 >/dev/null & echo $!")
    assert job() == 0
    wait_gone([int(job.stdout)])
    assert cluster.submit("-c", "exit 4")() == 4


def test_many_programs_and_a_map_over_one(make_cluster: MakeCluster, start_node: StartNode) -> None:
    start_node("--cpus", "2")
    cluster = make_cluster("sh")
    jobs = [cluster.submit("-c", f"exit {n % 200}") for n in range(60)]
    assert [job() for job in jobs] == [n % 200 for n in range(60)]
    assert list(cluster.map(["-c"] * 10, [f"exit {n}" for n in range(10)])) == list(range(10))


DIES = """
import os, signal, sys
import dispy

cluster = dispy.JobCluster("sh", recover_file=sys.argv[1])
jobs = [cluster.submit("-c", f"printf '\\\\377{n}'; exit {n}") for n in (3, 4)]
print([job() for job in jobs], flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_programs_have_printed_is_bytes_after_a_recovery_too(
    run_program: RunProgram, start_node: StartNode, tmp_path: Path
) -> None:
    start_node("--cpus", "1")
    program = run_program(DIES, str(tmp_path / "journal"))
    program.wait()
    assert program.stdout == "[3, 4]\n", program.stderr
    found = [(job.result, job.stdout, job.stderr) for job in dispy.recover_jobs(str(tmp_path / "journal"))]
    assert found == [(3, b"\xff3", b""), (4, b"\xff4", b"")]
