"""A place of its own for every test, and the check that nothing of a test stays behind."""

from __future__ import annotations

import faulthandler
import gc
import json
import logging
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from types import FrameType
from typing import Any

import cloudpickle
import pytest
import uvloop

import dispy
from dispy import config
from dispy.client.engine.engine import stop_engine
from dispy.client.session import failures
from dispy.net.discovery import running_nodes

from .helpers import NODE_PYTHON, PYTHON, Node, Place, Program, descendants, describe, wait_for, wait_gone
from .node_template import NodeTemplate
from .others import find_python, public_directory, public_place
from .pem import Files
from .schedulers import EXCEPTIONS, IS_SHARED, Schedulers

TEST_S = 30
"""A test that hangs is ended after this time (seconds)."""

# The modules of tests go by value: each node that imported one would import pytest with it (0.2 s).
cloudpickle.register_pickle_by_value(sys.modules[__package__])

_UNREAD = "what is typed has no source before Python 3.13, and goes to no other version"

OTHER_PYTHON_EXCEPTIONS = {
    "test_code_that_is_typed[prompt]": _UNREAD,
    "test_code_that_is_typed[stdin]": _UNREAD,
    "test_what_a_function_gives_here_it_gives_in_a_job[classes-99]": "a class has other names in dir()",
    "test_what_a_function_gives_here_it_gives_in_a_job[reports-36]": "partials in enumerations differ",
    "test_what_programs_expect[changes]": "a file that was changed is no source of what runs",
}
"""Tests that are skipped with nodes of another minor version of Python, with the reason."""

MakeCluster = Callable[..., dispy.JobCluster]
StartNode = Callable[..., Node]
RunProgram = Callable[..., Program]


@pytest.fixture(scope="session", autouse=True)
def _libuv() -> None:
    """Has libuv open the pipe that it keeps for the life of a process, so that no test is blamed for it."""
    uvloop.new_event_loop().close()


@pytest.fixture(autouse=True)
def _deadline() -> Iterator[None]:
    def on_alarm(number: int, frame: FrameType | None) -> None:
        faulthandler.dump_traceback(file=sys.__stderr__)
        pytest.fail(f"hangs for {TEST_S} s")

    before = signal.signal(signal.SIGALRM, on_alarm)
    signal.alarm(TEST_S)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def _descriptors() -> dict[int, str]:
    found = {}
    for entry in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            found[int(entry)] = os.readlink(f"/proc/self/fd/{entry}")
    return found


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    """Certificates."""
    return Files(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="session")
def python_for_all() -> Iterator[str]:
    """An interpreter that the account ``others.NAME`` can run, too."""
    yield from find_python()


@pytest.fixture
def jobs_account(request: pytest.FixtureRequest) -> str:
    """Account that jobs of nodes run as; empty: ours. Tests that run with both are marked ``with_accounts``."""
    return str(getattr(request, "param", ""))


@pytest.fixture
def place_root(tmp_path: Path, jobs_account: str) -> Iterator[Path]:
    """Where ``place`` is; modules may have another."""
    if not jobs_account:
        yield tmp_path
        return
    with public_directory() as directory:
        yield directory


@pytest.fixture(autouse=True)
def place(
    place_root: Path,
    monkeypatch: pytest.MonkeyPatch,
    _deadline: None,
    jobs_account: str,
    node_template: NodeTemplate,
) -> Iterator[Place]:
    """Directories of its own; afterwards no process, file, descriptor or thread is left."""
    here = Place(place_root, node_template)
    for name in list(os.environ):
        if name.startswith("DISPY_"):
            monkeypatch.delenv(name)
    for name, value in here.variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(tempfile, "tempdir", str(here.temporary))
    monkeypatch.setattr(config, "DispyPort", config.DispyPort)
    monkeypatch.setattr(config, "LocalNode", True)
    monkeypatch.setattr(config, "CancelGrace", 0.5)
    level = logging.getLogger("dispy").level
    threads_before = set(threading.enumerate())
    children_before = set(descendants(os.getpid()))
    descriptors_before = _descriptors()
    faults: list[str] = []
    with ExitStack() as opened:
        if jobs_account:
            opened.enter_context(public_place(here))
        yield here
    try:
        stop_engine()
    except BaseException as error:
        faults.append(f"the engine does not stop: {error!r}")
    logging.getLogger("dispy").setLevel(level)
    failures._closed.clear()  # nothing is to be said of this test when all tests end
    vars(config).pop("NodePort", None)  # it follows from the base port again
    checks: list[tuple[str, Callable[[], list[str]]]] = [
        ("threads", lambda: [t.name for t in threading.enumerate() if t not in threads_before]),
        ("descriptors", lambda: _new_descriptors(descriptors_before)),
        ("children", lambda: _new_children(children_before)),
        ("processes", lambda: [describe(pid) for pid in here.processes()]),
        ("files", here.files),
    ]
    for name, look in checks:
        try:
            wait_for(look, lambda left: not left, what=f"no {name} left behind", deadline_s=3)
        except AssertionError as error:
            faults.append(str(error))
    here.close()
    if faults:
        for pid in here.processes():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        pytest.fail("\n".join(faults))


def _new_children(before: set[int]) -> list[str]:
    return [describe(pid) for pid in descendants(os.getpid()) if pid not in before]


def _new_descriptors(before: dict[int, str]) -> list[str]:
    gc.collect()
    return [f"{fd} -> {target}" for fd, target in _descriptors().items() if before.get(fd) != target]


@pytest.fixture(scope="session", autouse=True)
def node_template() -> Iterator[NodeTemplate]:
    """Forks nodes, which saves what each would import."""
    template = NodeTemplate()
    yield template
    template.close()


def _can_fork(place: Place, options: dict[str, Any]) -> bool:
    """Whether a node with these options of ``Node`` is the same if it is forked."""
    wanted, usual = [
        {name: value for name, value in variables.items() if name.startswith("PYTHON")}
        for variables in (options.get("env", place.environment), place.environment)
    ]
    return options.keys() <= {"env", "cwd"} and wanted == usual


@pytest.fixture
def start_node(place: Place, jobs_account: str, request: pytest.FixtureRequest) -> Iterator[StartNode]:
    """Starts ``dispynode --listen_port 0`` with further options, and waits until it listens.

    It is forked from ``node_template``, unless options say how the interpreter is to be started.
    """
    started: list[Node] = []

    def start(*arguments: str, wait: bool = True, port: str | None = "0", **options: Any) -> Node:
        where = [] if port is None else ["--listen_port", port]
        if jobs_account:
            where += ["--user", jobs_account]
            options.setdefault("python", [request.getfixturevalue("python_for_all")])
        if NODE_PYTHON != PYTHON:
            options.setdefault("python", NODE_PYTHON)
        if _can_fork(place, options):
            options["is_forked"] = True
        node = Node(place, *where, *arguments, **options)
        started.append(node)
        return node.wait_listens() if wait else node

    yield start
    if place.is_swept:
        start()
        running_nodes("")
    faults = []
    for node in started:
        try:
            node.stop()
            if "Warning" in node.stderr or "Traceback" in node.stderr:
                faults.append(f"node {node.name} complains: {node.stderr}")
        except AssertionError as error:
            faults.append(str(error))
        finally:
            node.end()
    if faults:
        pytest.fail("\n".join(faults))


@pytest.fixture
def a_node(start_node: StartNode) -> Node:
    """A node for a program to find, which is forked: its own would be a new interpreter, with imports of 0.3 s."""
    return start_node("--cpus", "2")


@pytest.fixture
def tuned_node(place: Place) -> Iterator[Callable[..., Node]]:
    """Starts nodes with settings that have no options, such as after what silence a program is dead."""
    started: list[Node] = []
    script = (
        "import sys\n"
        "from dispy.node.daemon import run\n"
        "from dispy.settings import settings_decoder\n"
        "sys.exit(run(settings_decoder.decode(sys.argv[1])))\n"
    )

    def start(**settings: Any) -> Node:
        given = json.dumps({"listen_port": 0, **settings})
        node = Node(place, given, command=[*NODE_PYTHON, "-W", "error", "-c", script])
        started.append(node)
        return node.wait_listens()

    yield start
    for node in started:
        node.stop()
        node.end()


@pytest.fixture
def schedulers(place: Place, start_node: StartNode) -> Iterator[Schedulers]:
    """Shared schedulers of a test; they end before its nodes."""
    running = Schedulers(place)
    yield running
    running.close()


@pytest.fixture
def make_cluster(place: Place, start_node: StartNode, schedulers: Schedulers) -> Iterator[MakeCluster]:
    """Makes clusters that are shut down after the test, whatever became of it.

    Asks for ``start_node`` so that the nodes end after the clusters. With ``DISPY_TEST_BACKEND=shared`` in the
    environment the clusters are ones of a shared scheduler.
    """
    yield from _make_clusters(schedulers.make_cluster if IS_SHARED else dispy.JobCluster)


@pytest.fixture
def make_own_cluster(place: Place, start_node: StartNode) -> Iterator[MakeCluster]:
    """Makes clusters with the scheduler in this process, whatever the environment says.

    For tests of what lies below the seam: how a program finds, dials and proves itself to nodes, its own node, its
    journal.
    """
    yield from _make_clusters(dispy.JobCluster)


def _make_clusters(kind: MakeCluster) -> Iterator[MakeCluster]:
    made: list[dispy.JobCluster] = []

    def make(*args: Any, **kwargs: Any) -> dispy.JobCluster:
        cluster = kind(*args, **kwargs)
        made.append(cluster)
        return cluster

    yield make
    for cluster in made:
        cluster.close(terminate=True)
    for cluster in made:
        cluster.shutdown()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Over a shared scheduler only tests that make clusters are run, without those that are named as exceptions.

    With nodes of another version of Python ``OTHER_PYTHON_EXCEPTIONS`` are skipped.
    """
    for item in items if NODE_PYTHON != PYTHON else ():
        reason = OTHER_PYTHON_EXCEPTIONS.get(item.name)
        if reason:
            item.add_marker(pytest.mark.skip(reason=reason))
    if not IS_SHARED:
        return
    kept = [item for item in items if "make_cluster" in getattr(item, "fixturenames", ())]
    config.hook.pytest_deselected(items=[item for item in items if item not in set(kept)])
    items[:] = kept
    for item in items:
        reason = EXCEPTIONS.get(getattr(item, "originalname", ""))
        if reason is not None:
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current directory of our own."""
    directory = tmp_path / "here"
    directory.mkdir()
    monkeypatch.chdir(directory)
    return directory


@pytest.fixture
def run_program(place: Place) -> Iterator[RunProgram]:
    """Writes a program to a file and starts it with Python, warnings being errors."""
    started: list[Program] = []

    def run(
        source: str,
        *arguments: str,
        name: str = "program.py",
        python: Sequence[str] = PYTHON,
        warnings: Sequence[str] = ("error",),
        **options: Any,
    ) -> Program:
        filters = [word for one in warnings for word in ("-W", one)]
        directory = place.root / "programs"
        directory.mkdir(exist_ok=True)
        path = directory / name
        path.write_text(source)
        program = Program([*python, *filters, str(path), *arguments], place, **options)
        started.append(program)
        return program

    yield run
    below: list[int] = []
    for program in started:
        below += program.descendants()
        program.end()
    wait_gone(below, deadline_s=3)


@pytest.fixture
def gate(place: Place) -> Iterator[Path]:
    """A file that lets ``jobs.until`` end; made in the end so that nothing hangs."""
    path = place.root / "gate"
    yield path
    path.touch()
