"""A program of each minor version of Python with a node of each, over a scheduler of each.

``DISPY_PYTHONS`` names the interpreters, each of which can import dispy, separated by ``:``. CI sets it.
"""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.conftest import RunProgram, StartNode
from tests.integration.helpers import Place, Scheduler

HERE = Path(__file__).parent
INTERPRETERS = [path for path in os.environ.get("DISPY_PYTHONS", "").split(":") if path]
PAIRS = list(itertools.product(INTERPRETERS, INTERPRETERS))
CODE = HERE.parents[1] / "integration" / "code"

pytestmark = pytest.mark.skipif(
    len(INTERPRETERS) < 2, reason="DISPY_PYTHONS does not name two interpreters of different versions"
)


def version(python: str) -> str:
    """Minor version of an interpreter."""
    done = subprocess.run(
        [python, "-c", "import sys; print(*sys.version_info[:2], sep='.')"],
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


VERSIONS = {python: version(python) for python in INTERPRETERS}


def named(pair: object) -> str:
    return "-".join(VERSIONS[python] for python in pair) if isinstance(pair, tuple) else str(pair)


def text_of(python: str) -> str:
    return f"({VERSIONS[python].replace('.', ', ')})"


@pytest.mark.parametrize("pair", PAIRS, ids=named)
def test_sixty_constructs_are_equal(
    pair: tuple[str, str], start_node: StartNode, run_program: RunProgram
) -> None:
    program_python, node_python = pair
    start_node("--cpus", "2", python=[node_python])
    program = run_program((HERE / "constructs.py").read_text(), python=[program_python])
    assert program.wait(25) == 0, program.stderr
    assert program.stdout.splitlines() == [
        f"62 constructs, 0 differ, {text_of(program_python)} {text_of(node_python)}"
    ]


@pytest.mark.parametrize("pair", PAIRS, ids=named)
def test_code_goes_every_way(pair: tuple[str, str], start_node: StartNode, run_program: RunProgram) -> None:
    program_python, node_python = pair
    start_node("--cpus", "2", python=[node_python])
    same = ["same"] if VERSIONS[program_python] == VERSIONS[node_python] else []
    program = run_program((HERE / "surroundings.py").read_text(), *same, python=[program_python])
    assert program.wait(25) == 0, program.stderr
    assert program.stdout.splitlines() == [f"done {text_of(program_python)} {text_of(node_python)}"]


def test_the_interpreters_differ() -> None:
    assert len(set(VERSIONS.values())) == len(INTERPRETERS) >= 2, VERSIONS
    assert sys.version_info >= (3, 11)


def test_several_versions_in_one_cluster(start_node: StartNode, run_program: RunProgram) -> None:
    """Jobs whose functions were pickled for the first node end there; those that come later run on all nodes."""
    first, *others = INTERPRETERS
    start_node("--cpus", "1", "--name", "first", python=[first])
    text = (HERE / "growing.py").read_text()
    program = run_program(text, "5", str(len(INTERPRETERS)), python=[first], stdin=subprocess.PIPE)
    program.wait_line("ready")
    for number, python in enumerate(others):
        start_node("--cpus", "1", "--name", f"other{number}", python=[python])
    program.process.stdin.write(b"go\n")
    program.process.stdin.close()
    assert program.wait(25) == 0, program.stderr
    assert program.stdout.splitlines()[-1] == str(
        sorted(tuple(map(int, version.split("."))) for version in VERSIONS.values())
    )


DYING = """
import os, signal, sys
import dispy
from constructs import Point


def run(n, function):
    return function(n), Point(n)


cluster = dispy.JobCluster(run, durable=True)
jobs = [cluster.submit(n, lambda x: x * 2) for n in range(6)]
jobs[0].get(20)
os.kill(os.getpid(), signal.SIGKILL)
"""

RECOVERING = """
import dispy
from constructs import Point

if __name__ == "__main__":
    jobs = dispy.recover_jobs(timeout=20, resume=True)
    results = sorted(job.result for job in jobs)
    assert results == [(n * 2, Point(n)) for n in range(6)], [job.exception for job in jobs]
    print("all")
"""


@pytest.mark.parametrize("pair", PAIRS, ids=named)
def test_recovery_by_another_version(
    pair: tuple[str, str], start_node: StartNode, run_program: RunProgram, place: Place
) -> None:
    """The node has the version of the recovering program; the dead one has another."""
    dead_python, python = pair
    start_node("--cpus", "1", python=[python])
    directory = place.root / "programs"
    directory.mkdir(exist_ok=True)
    (directory / "constructs.py").write_text((HERE / "constructs.py").read_text())
    dead = run_program(DYING, name="dead.py", python=[dead_python])
    assert dead.wait(25) == -9, dead.stderr
    program = run_program(RECOVERING, python=[python])
    assert program.wait(25) == 0, program.stderr
    assert program.stdout == "all\n"


SHARED = """
import sys
import dispy


def call(function):
    return function()


if __name__ == "__main__":
    cluster = dispy.SharedJobCluster(call, scheduler_host="127.0.0.1", scheduler_port=int(sys.argv[1]))
    print(cluster.submit(lambda: sys.version_info[:2]).get(20), list(cluster.map([lambda: 1, lambda: 2])))
    cluster.close()
"""


@pytest.mark.parametrize("pair", PAIRS, ids=named)
def test_a_shared_scheduler_of_a_third_version(
    pair: tuple[str, str], start_node: StartNode, run_program: RunProgram, place: Place
) -> None:
    program_python, node_python = pair
    between = next((python for python in INTERPRETERS if python not in pair), node_python)
    start_node("--cpus", "1", python=[node_python])
    scheduler = Scheduler(place, "--listen_port", "0", python=[between]).wait_listens()
    try:
        program = run_program(SHARED, str(scheduler.port), python=[program_python])
        assert program.wait(25) == 0, program.stderr
        assert program.stdout == f"{text_of(node_python)} [1, 2]\n"
    finally:
        scheduler.stop()
        scheduler.end()


REFUSED = """
import sys
import dispy
SOURCE


def call(function, *args):
    return function(*args)


if __name__ == "__main__":
    cluster = dispy.JobCluster(WHAT)
    job = cluster.submit(*ARGS)
    job.wait()
    print(job.exception)
    cluster.close()
"""
NEWER = "def newer[T](x: T) -> T:\n    return x"
OLDEST, NEWEST = (INTERPRETERS[0], INTERPRETERS[-1]) if INTERPRETERS else ("", "")
UNREADABLE = "exec('def made(x):\\n    return x')"
EDITED = """
import linecache


def edited(x):
    return x


linecache.cache[__file__] = (0, None, [line.replace("return x", "return y") for line in open(__file__)], __file__)
"""


@pytest.mark.parametrize(
    ("program_python", "node_python", "source", "name", "reason"),
    [
        (NEWEST, OLDEST, NEWER, "newer", "uses syntax that Python {node} does not have"),
        (OLDEST, NEWEST, UNREADABLE, "made", "its source cannot be read"),
        (OLDEST, NEWEST, EDITED, "edited", "its source is not what runs"),
    ],
    ids=["newer syntax", "no source", "edited source"],
)
@pytest.mark.parametrize("is_argument", [False, True], ids=["computation", "argument"])
def test_what_cannot_go_is_refused_by_name(
    program_python: str,
    node_python: str,
    source: str,
    name: str,
    reason: str,
    is_argument: bool,
    start_node: StartNode,
    run_program: RunProgram,
) -> None:
    start_node("--cpus", "1", python=[node_python])
    what, args = ("call", f"({name}, 1)") if is_argument else (name, "(1,)")
    text = REFUSED.replace("SOURCE", source).replace("WHAT", what).replace("ARGS", args)
    program = run_program(text, python=[program_python])
    assert program.wait(25) == 0, program.stderr
    told = program.stdout
    assert f"function {name} " in told, told
    assert reason.format(node=VERSIONS[node_python]) in told, told
    assert VERSIONS[program_python] in told, told
    assert VERSIONS[node_python] in told, told


MISSING = """
import sys
import dispy


class Gone:
    def __reduce__(self):
        return find, ("only_there",)


def find(name):
    import importlib
    return importlib.import_module(name)


def call(value):
    return value


if __name__ == "__main__":
    cluster = dispy.JobCluster(call)
    job = cluster.submit(Gone())
    job.wait()
    print(job.exception)
    cluster.close()
"""


def test_an_import_that_fails_there_names_module_and_versions(
    start_node: StartNode, run_program: RunProgram
) -> None:
    start_node("--cpus", "1", python=[NEWEST])
    program = run_program(MISSING, python=[OLDEST])
    assert program.wait(25) == 0, program.stderr
    for word in ("only_there", f"Python {VERSIONS[NEWEST]}", f"on {VERSIONS[OLDEST]}"):
        assert word in program.stdout, program.stdout


@pytest.mark.parametrize("pair", list(itertools.permutations(INTERPRETERS, 2)), ids=named)
def test_functions_of_the_standard_library_come_back_equal(pair: tuple[str, str], place: Place) -> None:
    """Forty modules, as files of the user's: each function goes to another version, and comes back as it was."""
    one, other = pair
    done = subprocess.run(
        [one, str(HERE / "standard_library.py"), other, str(place.root)],
        capture_output=True, text=True, timeout=25, check=False, env=place.environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    counts = dict(word.split("=") for word in done.stdout.split())
    assert int(counts["modules"]) == 40, done.stdout
    assert int(counts["equal"]) > 2000, done.stdout
    assert int(counts["refused"]) < 10, done.stdout
    assert counts["different"] == "0", done.stdout
