"""Code arrives as it is: programs of ``code/`` give in jobs what they give here, however they are started."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from .conftest import RunProgram, StartNode
from .helpers import PYTHON, Place

CODE = Path(__file__).parent / "code"


@pytest.fixture
def code(place: Place) -> Path:
    """The programs, in a directory of the test's own."""
    directory = place.root / "programs"
    shutil.copytree(CODE, directory, ignore=shutil.ignore_patterns("__pycache__"))
    return directory


@pytest.mark.parametrize(
    ("name", "least"),
    [("enums", 57), ("classes", 99), ("functions", 81), ("state", 30), ("reports", 36)],
)
def test_what_a_function_gives_here_it_gives_in_a_job(
    code: Path, run_program: RunProgram, start_node: StartNode, name: str, least: int
) -> None:
    """As a dependency, as an argument, and once more when the worker has seen it."""
    start_node("--cpus", "2")
    program = run_program((code / f"{name}.py").read_text(), name=f"{name}.py")
    assert program.wait(25) == 0, program.stderr
    assert "DIFFERS" not in program.stdout, program.stdout
    found = re.search(r"(\d+) outcomes compared", program.stdout)
    assert found is not None
    assert int(found[1]) >= least


@pytest.mark.parametrize("name", ["changes", "names"])
def test_what_programs_expect(
    code: Path, run_program: RunProgram, start_node: StartNode, name: str
) -> None:
    """What has changed since it was sent; the names that jobs find, in each of the user's functions."""
    start_node("--cpus", "1")
    program = run_program(
        (code / f"{name}.py").read_text(), name=f"{name}.py", cwd=code, warnings=("ignore",)
    )
    assert program.wait(25) == 0, program.stderr
    assert program.stdout == "done\n"


def test_a_module_of_a_job_takes_the_place_of_the_computations(
    code: Path, run_program: RunProgram, start_node: StartNode
) -> None:
    start_node("--cpus", "1")
    (code / "lib.py").write_text("K = 1\n")
    program = run_program(
        "import dispy\ndef work():\n    import lib\n    return lib.K\n"
        "with dispy.JobCluster(work) as cluster:\n    print(cluster.submit()())\n"
        "    open('lib.py', 'w').write('K = 22222')\n"
        "    print(cluster.submit(dispy_job_depends=['lib.py'])(), cluster.submit()())\n",
        cwd=code,
        warnings=("ignore",),
    )
    assert program.wait(20) == 0, program.stderr
    assert program.stdout == "1\n22222 1\n"


def test_threads_that_a_module_starts_when_it_is_imported_are_told(
    code: Path, run_program: RunProgram, start_node: StartNode
) -> None:
    """Forked workers do not have them; with a worker's own import they do."""
    start_node("--cpus", "1")
    (code / "side.py").write_text(
        "from concurrent.futures import ThreadPoolExecutor\nPOOL = ThreadPoolExecutor(1)\n"
        "POOL.submit(pow, 2, 3).result()\ndef f(x):\n    return POOL.submit(abs, x).result()\n"
    )
    program = run_program(
        "import dispy, side\nwith dispy.JobCluster(side.f, setup_per='worker') as cluster:\n"
        "    print(cluster.submit(-4)())\ncluster = dispy.JobCluster(lambda: side.__name__)\n"
        "print(cluster.submit()())\ncluster.close()\n",
        warnings=("ignore",),
    )
    assert program.wait(20) == 0, program.stderr
    assert program.stdout == "4\nside\n"
    assert "importing your modules has started threads" in program.stderr


def test_a_script_without_a_guard_that_a_job_spawns(run_program: RunProgram, start_node: StartNode) -> None:
    """The process that runs the script once more is refused a cluster, and so on without end."""
    start_node("--cpus", "1")
    program = run_program(
        "import dispy, multiprocessing\nfrom concurrent.futures import ProcessPoolExecutor\n"
        "def square(x):\n    return x * x\ndef work():\n"
        "    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context('spawn')) as pool:\n"
        "        return list(pool.map(square, [1, 2]))\n"
        "cluster = dispy.JobCluster(work)\njob = cluster.submit()\njob()\n"
        "print('BrokenProcessPool' in job.exception)\ncluster.close()\n",
        warnings=("ignore",),
    )
    assert program.wait(25) == 0, program.stderr
    assert program.stdout == "True\n"


NEWER = """
import typing
import harness

type Pair[T] = tuple[T, T]
type Json = dict[str, Json] | list[Json] | int
type Name = str

def first[T](pair: Pair[T]) -> T:
    return pair[0]

def bounded[T: int](x: T) -> T:
    return x

class Box[T]:
    def __init__(self, item: T):
        self.item = item

    def get[U](self, other: U) -> tuple[T, U]:
        return self.item, other

def check_functions():
    return first((1, 2)), bounded(3), first.__type_params__[0].__name__, str(bounded.__type_params__[0].__bound__)

def check_classes():
    return Box(1).get("x"), Box[int](2).item, Box.__type_params__[0].__name__, str(Box[str])

def check_aliases():
    return str(Name.__value__), str(Pair.__value__), Json.__name__, str(typing.get_args(Json.__value__)[0])

def check_hints():
    return str(typing.get_type_hints(first)), Pair[int].__args__

def call(check):
    return check()

def by_name(name):
    return globals()[name]()

if __name__ == "__main__":
    harness.main(globals(), call, by_name)
"""


@pytest.mark.skipif(sys.version_info < (3, 12), reason="type parameters are of Python 3.12")
def test_type_parameters(code: Path, run_program: RunProgram, start_node: StartNode) -> None:
    start_node("--cpus", "2")
    program = run_program(NEWER, name="newer.py")
    assert program.wait(25) == 0, program.stderr
    assert program.stdout == "12 outcomes compared\n"


PROMPT = """\
import dispy
class Held:
    n = 3

def add(x): return x + Held.n

def fail(): return 1 / 0

first = dispy.JobCluster(add)
second = dispy.JobCluster(fail)
print("=", first.submit(1)())
job = second.submit()
job()
print("=", "ZeroDivisionError" in job.exception, "in fail" in job.exception)
first.close(), second.close()
"""


@pytest.mark.parametrize(
    ("words", "asks"),
    [
        pytest.param(["-i"], True, id="prompt"),
        pytest.param(["-"], False, id="stdin"),
        pytest.param(["-m", "IPython", "--simple-prompt", "--no-banner"], True, id="IPython"),
    ],
)
def test_code_that_is_typed(place: Place, start_node: StartNode, words: list[str], asks: bool) -> None:
    start_node("--cpus", "1")
    text = (
        PROMPT if asks else f"if True:\n{''.join(f'    {line}' + chr(10) for line in PROMPT.splitlines())}"
    )
    done = subprocess.run(
        [*PYTHON, *words],
        input=text,
        env={**place.environment, "IPYTHONDIR": str(place.root / "ipython")},
        cwd=place.root,
        capture_output=True,
        text=True,
        timeout=25,
        check=False,
    )
    assert re.findall(r"= (\d.*|True.*|False.*)", done.stdout) == ["4", "True True"], (
        done.stdout + done.stderr
    )


CELLS = (
    """
import dataclasses, dispy, enum, typing
N = 1
@dataclasses.dataclass
class Tree:
    left: "Leaf"
class Leaf:
    n = 1
class Planet(enum.Enum):
    EARTH = (1, 2)
    def __init__(self, mass, radius):
        self.mass = mass
def work(planet):
    return N, typing.get_type_hints(Tree)["left"] is Leaf, planet.mass
""",
    "first = dispy.JobCluster(work)\nfirst.submit(Planet.EARTH)()",
    "N = 2\ndef work(planet):\n    return N, 'again'",
    "second = dispy.JobCluster(work)\nsecond.submit(1)()",
    "class Leaf:\n    n = 2\n"
    "third = dispy.JobCluster(lambda leaf: (leaf.n, isinstance(leaf, Leaf)))\nthird.submit(Leaf())()",
    "import inspect\nfourth = dispy.JobCluster(lambda: inspect.getsource(work))\nfourth.submit()()",
    "[cluster.close() for cluster in (first, second, third, fourth)]",
)

KERNEL = """
import json, sys
from jupyter_client.manager import start_new_kernel

manager, client = start_new_kernel(kernel_name="python3")
for cell in json.loads(sys.argv[1]):
    sent, shown = client.execute(cell), "nothing"
    while True:
        message = client.get_iopub_msg(timeout=20)
        if message["parent_header"].get("msg_id") != sent:
            continue
        if message["msg_type"] == "execute_result":
            shown = message["content"]["data"]["text/plain"]
        if message["msg_type"] == "error":
            shown = "".join(message["content"]["traceback"])
        if message["msg_type"] == "status" and message["content"]["execution_state"] == "idle":
            break
    print(shown)
client.stop_channels()
manager.shutdown_kernel()
"""


def test_a_notebook(place: Place, run_program: RunProgram, start_node: StartNode) -> None:
    """With cells that are run again: what they define is taken from there on."""
    import json

    start_node("--cpus", "1")
    environment = {**place.environment, "JUPYTER_ALLOW_INSECURE_WRITES": "1", "HOME": str(place.root)}
    program = run_program(KERNEL, json.dumps(CELLS), warnings=("ignore",), env=environment)
    assert program.wait(28) == 0, program.stderr
    assert program.stdout.splitlines() == [
        "nothing",
        "(1, True, 1)",
        "nothing",
        "(2, 'again')",
        "(2, True)",
        repr("def work(planet):\n    return N, 'again'\n"),
        "[True, True, True, True]",
    ]


TESTED = """
import dataclasses
import dispy
from beside import more

N = 3

@dataclasses.dataclass
class Point:
    x: int

def work(point):
    return point.x + N + more()

def test_it():
    with dispy.JobCluster(work) as cluster:
        job = cluster.submit(Point(1))
        assert job() == 104, job.exception
    with dispy.JobCluster(lambda: Point(5)) as cluster:
        assert cluster.submit()() == Point(5)
"""


@pytest.mark.parametrize("mode", ["prepend", "append", "importlib"])
def test_functions_of_tests(place: Place, start_node: StartNode, mode: str) -> None:
    start_node("--cpus", "1")
    directory = place.root / "tests"
    directory.mkdir()
    (directory / "test_it.py").write_text(TESTED)
    (directory / "beside.py").write_text("def more():\n    return 100\n")
    done = subprocess.run(
        [*PYTHON, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--import-mode={mode}", "tests"],
        env={**place.environment, "PYTHONPATH": str(directory)},
        cwd=place.root,
        capture_output=True,
        text=True,
        timeout=25,
        check=False,
    )
    assert "1 passed" in done.stdout, done.stdout


def test_the_console_script_of_an_editable_install(place: Place, start_node: StartNode) -> None:
    """Its package is the user's own: it is sent, though a distribution of its name is installed here."""
    start_node("--cpus", "1")
    source = place.root / "project" / "src"
    (source / "proj").mkdir(parents=True)
    (source / "proj" / "__init__.py").write_text("import threading\nlock = threading.Lock()\n")
    (source / "proj" / "util.py").write_text("def f(x):\n    return x + 1\n")
    (source / "proj" / "cli.py").write_text(
        "import dispy\nfrom . import lock\nfrom .util import f\n"
        "def work(x):\n    with lock:\n        return f(x), __name__\n"
        "def main():\n    with dispy.JobCluster(work) as cluster:\n"
        "        job = cluster.submit(1)\n        print(job() or job.exception)\n"
    )
    environment = place.root / "environment"
    venv.create(environment, system_site_packages=True, symlinks=True)
    (site,) = (environment / "lib").glob("python*/site-packages")
    outer = [path for path in sys.path if path.endswith("site-packages")]
    # What pip writes for an editable install.
    (site / "proj.pth").write_text("\n".join([str(source), *outer]) + "\n")
    (site / "proj-1.0.dist-info").mkdir()
    (site / "proj-1.0.dist-info" / "RECORD").write_text("proj.pth,,\n")
    script = environment / "bin" / "proj-run"
    script.write_text(
        f"#!{environment}/bin/python\nimport sys\nfrom proj.cli import main\nsys.exit(main())\n"
    )
    script.chmod(0o755)
    import dispy

    path = os.path.dirname(os.path.dirname(dispy.__file__))
    done = subprocess.run(
        [str(script)],
        env={**place.environment, "PYTHONPATH": path},
        cwd=place.root,
        capture_output=True,
        text=True,
        timeout=25,
        check=False,
    )
    assert done.stdout == "(2, 'proj.cli')\n", done.stderr
