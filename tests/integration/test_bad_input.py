"""What bad input gets: the right type of error, which names the culprit and says what to do next; never a hang."""

from __future__ import annotations

import functools
import logging
import os
import threading
import traceback
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import dispy
from dispy import DispyJob, JobCluster, NodeAllocate
from dispy.errors import DispyError, NoSchedulerError, PicklingError, UsageError

from .conftest import MakeCluster, StartNode
from .jobs import name_and


class Tried(NamedTuple):
    """What is called wrongly."""

    cluster: JobCluster
    job: DispyJob


Call = Callable[[Tried], Any]


@pytest.fixture(autouse=True)
def _no_own_node(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispy.config, "LocalNode", False)


def check(caught: pytest.ExceptionInfo[DispyError], culprit: str) -> None:
    error = caught.value
    assert culprit in str(error), str(error)
    assert error.hint, f"what to do next is not said: {error}"
    assert str(error).endswith(error.hint)


class Odd:
    """What shows itself badly."""

    def __repr__(self) -> str:
        raise RuntimeError("no")


CALLS: list[tuple[str, Call, str]] = [
    ("submit_node number", lambda t: t.cluster.submit_node(5, 1), "not by 5"),
    ("submit_node None", lambda t: t.cluster.submit_node(None, 1), "not by None"),
    ("submit_node empty", lambda t: t.cluster.submit_node("", 1), "not by ''"),
    ("submit_node odd", lambda t: t.cluster.submit_node(Odd(), 1), "a Odd that cannot be shown"),
    ("submit_job_id_node", lambda t: t.cluster.submit_job_id_node(1, b"x"), "not by b'x'"),
    ("cancel number", lambda t: t.cluster.cancel(5), "cancel takes a job, or several, not 5"),
    ("cancel None", lambda t: t.cluster.cancel(None), "not None"),
    ("cancel text", lambda t: t.cluster.cancel("1"), "not '1'"),
    ("cancel list", lambda t: t.cluster.cancel([t.job, 5]), "cancel takes jobs, not 5"),
    ("wait text", lambda t: t.cluster.wait("1"), "timeout must be a number of seconds, not '1'"),
    ("wait nan", lambda t: t.cluster.wait(float("nan")), "not nan"),
    ("wait True", lambda t: t.cluster.wait(True), "not True"),
    ("close text", lambda t: t.cluster.close("1"), "timeout must be a number of seconds, not '1'"),
    ("close terminate", lambda t: t.cluster.close(0, "yes"), "terminate must be True or False, not 'yes'"),
    ("print_status", lambda t: t.cluster.print_status("1"), "wall_time must be a number of seconds, not '1'"),
    ("why number", lambda t: t.cluster.why(5), "why takes a job, not 5"),
    ("map nothing", lambda t: t.cluster.map(), "map takes at least one iterable"),
    ("map number", lambda t: t.cluster.map([1], 5), "argument 2 of map must be an iterable, not 5"),
    ("map timeout", lambda t: t.cluster.map([1], timeout="1"), "timeout must be a number of seconds, not '1'"),
    ("node_jobs number", lambda t: t.cluster.node_jobs(5), "not by 5"),
    ("node_jobs flag", lambda t: t.cluster.node_jobs("x", "yes"), "from_node must be True or False, not 'yes'"),
    ("discover number", lambda t: t.cluster.discover_nodes(5), "nodes must be a list of hosts, not int"),
    ("discover remote", lambda t: t.cluster.discover_nodes(["192.0.2.1"]), "192.0.2.1 is beyond this machine"),
    ("allocate number", lambda t: t.cluster.allocate_node(5), "nodes must be a list of hosts, not int"),
    ("allocate key", lambda t: t.cluster.allocate_node({"hots": "x"}), "unknown key 'hots'"),
    ("allocate long", lambda t: t.cluster.allocate_node([("x", 1, 1, [], (), 6)]), "has more than host, port"),
    ("allocate remote", lambda t: t.cluster.allocate_node("192.0.2.1"), "192.0.2.1 is beyond this machine"),
    ("deallocate number", lambda t: t.cluster.deallocate_node(5), "not by 5"),
    ("close_node None", lambda t: t.cluster.close_node(None), "not by None"),
    ("close_node flag", lambda t: t.cluster.close_node("x", 1), "terminate_pending must be True or False, not 1"),
    ("resetup number", lambda t: t.cluster.resetup_node(5), "not by 5"),
    ("resetup flag", lambda t: t.cluster.resetup_node("x", "y"), "terminate_pending must be True or False, not 'y'"),
    ("resetup args", lambda t: t.cluster.resetup_node("x", setup_args=1), "setup_args must be a tuple, not 1"),
    ("set_node_cpus node", lambda t: t.cluster.set_node_cpus(5, 1), "not by 5"),
    ("set_node_cpus text", lambda t: t.cluster.set_node_cpus("x", "1"), "cpus must be a number of CPUs, not '1'"),
    ("set_node_cpus float", lambda t: t.cluster.set_node_cpus("x", 1.5), "not 1.5"),
    ("job.wait", lambda t: t.job.wait("1"), "timeout must be a number of seconds, not '1'"),
    ("dispy.wait number", lambda _: dispy.wait(5), "wait takes several jobs, not 5"),
    ("dispy.wait job", lambda t: dispy.wait(t.job), "wait takes several jobs"),
    ("dispy.wait list", lambda t: dispy.wait([t.job, []]), "wait takes jobs, not []"),
    ("dispy.wait timeout", lambda t: dispy.wait([t.job], "1"), "timeout must be a number of seconds, not '1'"),
    ("dispy.wait when", lambda t: dispy.wait([t.job], 1, "ANY"), "return_when='ANY' is unknown"),
    ("as_completed number", lambda _: dispy.as_completed(5), "as_completed takes several jobs, not 5"),
    ("as_completed list", lambda _: dispy.as_completed([5]), "as_completed takes jobs, not 5"),
    ("as_completed timeout", lambda t: dispy.as_completed([t.job], []), "timeout must be a number of seconds"),
    ("recover file", lambda _: dispy.recover_jobs(5), "recover_file must be a path, not 5"),
    ("recover timeout", lambda _: dispy.recover_jobs(timeout="1"), "timeout must be a number of seconds"),
    ("recover flag", lambda _: dispy.recover_jobs(terminate_pending=2), "terminate_pending must be True or"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "culprit"), [case[1:] for case in CALLS], ids=[case[0] for case in CALLS])
def test_wrong_types_and_ranges(make_own_cluster: MakeCluster, call: Call, culprit: str) -> None:
    """Before any node is there, and beside a job that waits for one: it is no worse for it."""
    cluster = make_own_cluster(name_and)
    job = cluster.submit(1)
    with pytest.raises(UsageError) as caught:
        call(Tried(cluster, job))
    check(caught, culprit)
    assert job.status == DispyJob.Created
    assert cluster.status().jobs_pending == 1


def takes_two(first: int, second: int) -> int:
    return first + second


async def awaits(number: int) -> int:
    return number


async def awaits_and_yields(number: int) -> AsyncIterator[int]:
    yield number


def yields(number: int) -> Iterator[int]:
    yield number


PARAMETERS: list[tuple[str, Any, str]] = [
    ("computation", awaits, "computation awaits is asynchronous"),
    ("computation", awaits_and_yields, "computation awaits_and_yields is asynchronous"),
    ("computation", yields, "computation yields is a generator"),
    ("computation", functools.partial(yields, 1), "computation partial is a generator"),
    ("computation", None, "computation must be a function"),
    ("computation", 5, "computation must be a function"),
    ("nodes", 5, "nodes must be a list of hosts, not int"),
    ("nodes", [5], "none of nodes=[5] can be used"),
    ("depends", 5, "depends must be a list, not int"),
    ("depends", [5], "5 in depends is not a function"),
    ("depends", ["a\0b"], "'a\\x00b' is no path of a file"),
    ("computation", "a\0b", "program 'a\\x00b' is neither a file here nor a program in PATH"),
    ("job_status", 5, "job_status must be callable, not 5"),
    ("job_status", takes_two, "job_status cannot be called with (job)"),
    ("cluster_status", takes_two, "cluster_status cannot be called with (status, node, job)"),
    ("job_output", takes_two, "job_output cannot be called with (job, stream, text)"),
    ("callback", takes_two, "job_status cannot be called with (job)"),
    ("host", 5, "host must be a name or an address, or a list of them, not 5"),
    ("host", ["127.0.0.1", None], "host must be a name or an address, or a list of them, not None"),
    ("host", "no-such-host.invalid", "host 'no-such-host.invalid' cannot be resolved"),
    ("ext_host", [5], "ext_host must be a name or an address, or a list of them, not 5"),
    ("dispy_port", "9700", "dispy_port must be a port number from 1 to 64999, not '9700'"),
    ("dispy_port", 70000, "not 70000"),
    ("node_port", 0, "node_port must be a port number from 1 to 64999, not 0"),
    ("port", -1, "dispy_port must be a port number from 1 to 64999, not -1"),
    ("loglevel", "DEBUG", "loglevel must be a number, not 'DEBUG'"),
    ("setup", 5, "setup must be a function, not int"),
    ("cleanup", "x", "cleanup must be a function, not str"),
    ("ping_interval", 0, "ping_interval must be from 1 to 1000 seconds, not 0"),
    ("pulse_interval", "1", "pulse_interval must be from 0.1 to 1000 seconds, not '1'"),
    ("poll_interval", float("nan"), "poll_interval must be from 5 to 1000 seconds, not nan"),
    ("secret", b"x", "secret must be a text, not b'x'"),
    ("secret_file", 5, "secret_file must be a path, not 5"),
    ("secret_file", "/no/such/file", "secret file /no/such/file cannot be read"),
    ("certfile", 5, "certfile must be a path, not 5"),
    ("certfile", "/no/such/file", "/no/such/file"),
    ("keyfile", "/no/such/file", "keyfile is given without certfile"),
    ("recover_file", 5, "recover_file must be a path, not 5"),
    ("recover_file", "/no/such/directory/file", "/no/such/directory/file"),
    ("max_queued", 0, "max_queued must be a number of jobs from 1, not 0"),
    ("max_queued", "5", "not '5'"),
    ("isolate", "yes", "isolate must be True or False, not 'yes'"),
    ("exclusive", 1, "exclusive must be True or False, not 1"),
    ("durable", 1, "durable must be True or False, not 1"),
    ("tls", "no", "tls must be True or False, not 'no'"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "value", "culprit"),
    PARAMETERS,
    ids=[f"{name}-{n}" for n, (name, _, _) in enumerate(PARAMETERS)],
)
@pytest.mark.filterwarnings("ignore")
def test_parameters_of_a_cluster(
    monkeypatch: pytest.MonkeyPatch, name: str, value: Any, culprit: str
) -> None:
    """What is refused has changed nothing."""
    base = dispy.config.DispyPort
    level = logging.getLogger("dispy").level
    with pytest.raises(UsageError) as caught:
        dispy.JobCluster(**{"computation": name_and, "loglevel": logging.CRITICAL, name: value})
    check(caught, culprit)
    assert dispy.config.DispyPort == base
    assert logging.getLogger("dispy").level == level


NODES: list[tuple[str, Callable[[], Any], str]] = [
    ("host", lambda: NodeAllocate(5), "host of a node must be a name, an address or a pattern, not 5"),  # type: ignore[arg-type]
    ("no host", lambda: NodeAllocate(""), "not ''"),
    ("setup_args", lambda: NodeAllocate("*", setup_args=[1]), "setup_args of node * must be a tuple, not [1]"),  # type: ignore[arg-type]
    ("depends", lambda: NodeAllocate("*", depends="data.csv"), "depends of node * must be a list of files"),
]  # fmt: skip


@pytest.mark.parametrize(("make", "culprit"), [case[1:] for case in NODES], ids=[case[0] for case in NODES])
def test_nodes_to_allocate(make: Callable[[], Any], culprit: str) -> None:
    with pytest.raises(UsageError) as caught:
        make()
    check(caught, culprit)


class Forgetful(NodeAllocate):
    def __init__(self) -> None:
        self.host = "*"


def test_a_subclass_that_forgets_its_base() -> None:
    with pytest.raises(UsageError) as caught:
        dispy.JobCluster(name_and, [Forgetful()])
    check(caught, "nodes: Forgetful was made without NodeAllocate.__init__")


STEERING: list[tuple[str, Call]] = [
    ("submit_node", lambda t: t.cluster.submit_node("127.0.0.1", 1)),
    ("submit_job_id_node", lambda t: t.cluster.submit_job_id_node(7, "127.0.0.1", 1)),
    ("node_jobs", lambda t: t.cluster.node_jobs("127.0.0.1")),
    ("node_jobs from_node", lambda t: t.cluster.node_jobs("127.0.0.1", from_node=True)),
    ("deallocate_node", lambda t: t.cluster.deallocate_node("127.0.0.1")),
    ("close_node", lambda t: t.cluster.close_node("127.0.0.1")),
    ("resetup_node", lambda t: t.cluster.resetup_node("127.0.0.1")),
    ("set_node_cpus", lambda t: t.cluster.set_node_cpus("127.0.0.1", 1)),
]

OTHERS: list[tuple[str, Call]] = [
    ("submit", lambda t: t.cluster.submit(1)),
    ("submit_job_id", lambda t: t.cluster.submit_job_id(7, 1)),
    ("map", lambda t: t.cluster.map([1])),
    ("put", lambda t: t.cluster.put([1])),
    ("cancel", lambda t: t.cluster.cancel(t.job)),
    ("discover_nodes", lambda t: t.cluster.discover_nodes("*")),
    ("allocate_node", lambda t: t.cluster.allocate_node("*")),
    ("with", lambda t: t.cluster.__enter__()),
]


@pytest.mark.parametrize(("name", "call"), STEERING, ids=[name for name, _ in STEERING])
def test_before_there_are_nodes(make_cluster: MakeCluster, caplog: Any, name: str, call: Call) -> None:
    """What old programs are told by numbers is said in the log, too."""
    cluster = make_cluster(name_and)
    caplog.set_level(logging.WARNING, "dispy")
    result = call(Tried(cluster, cluster.submit(1)))
    assert result == (None if name.startswith("submit") else -1)
    assert "node 127.0.0.1 is not in use by cluster name_and" in caplog.text


@pytest.mark.parametrize(("name", "call"), STEERING + OTHERS, ids=[name for name, _ in STEERING + OTHERS])
def test_after_close(make_cluster: MakeCluster, name: str, call: Call) -> None:
    cluster = make_cluster(name_and)
    job = cluster.submit(1)
    assert cluster.close(terminate=True) is True
    with pytest.raises(UsageError) as caught:
        call(Tried(cluster, job))
    check(caught, "cluster name_and is closed")


def test_what_still_works_after_close(make_cluster: MakeCluster, capsys: Any) -> None:
    cluster = make_cluster(name_and)
    job = cluster.submit(1)
    cluster.close(terminate=True)
    assert cluster.close() is None
    assert cluster.wait(0) is True
    assert (cluster.status().jobs_pending, job(), job.status) == (0, None, DispyJob.Cancelled)
    assert cluster.why(job) == "it has ended: Cancelled"
    cluster.print_status()
    assert "Node" in capsys.readouterr().out
    cluster.shutdown()


def test_from_a_forked_child(make_cluster: MakeCluster) -> None:
    """Nothing hangs there, and nothing that the child does touches its parent's jobs."""
    cluster = make_cluster(name_and)
    job = cluster.submit(1)
    calls = [*STEERING, *OTHERS, ("wait", lambda t: t.cluster.wait()), ("status", lambda t: t.cluster.status()),
             ("close", lambda t: t.cluster.close()), ("job", lambda t: t.job())]  # fmt: skip
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        told = ""
        try:
            for name, call in calls:
                try:
                    told += f"{name} returned {call(Tried(cluster, job))!r}\n"
                except UsageError as error:
                    if "fork" not in str(error) or not error.hint:
                        told += f"{name}: {error}\n"
        except BaseException:
            told += traceback.format_exc()
        os.write(writing, told.encode()[:60000] or b"fine")
        os._exit(0)
    os.close(writing)
    with open(reading, "rb") as pipe:
        told = pipe.read().decode()
    os.waitpid(pid, 0)
    assert told == "fine"
    assert cluster.status().jobs_pending == 1


def test_jobs_of_another_cluster(make_cluster: MakeCluster) -> None:
    one, other = make_cluster(name_and), make_cluster(name_and)
    job = one.submit(1)
    assert other.cancel(job) == -1
    assert job.status == DispyJob.Created
    with pytest.raises(UsageError) as caught:
        other.why(job)
    check(caught, "is not a job of cluster name_and")


def test_inside_a_job(make_own_cluster: MakeCluster, start_node: StartNode) -> None:
    """A cluster stays where it was made: that is said where it is tried to take it along."""
    start_node("--cpus", "1")
    cluster = make_own_cluster(name_and)

    def use(n: int) -> Any:
        return cluster.submit(n)

    with pytest.raises(PicklingError) as caught:
        make_own_cluster(use)
    assert "cluster name_and cannot be sent to a node" in str(caught.value)
    assert "have the job return what is to be submitted" in str(caught.value)
    with pytest.raises(PicklingError) as caught:
        cluster.submit(cluster)
    assert "cluster name_and cannot be sent to a node" in str(caught.value)
    assert cluster.submit(5)()[1] == 5


@pytest.mark.parametrize(
    ("argument", "culprit"),
    [(threading.Lock(), "lock"), ((n for n in "x"), "generator")],
    ids=["lock", "generator"],
)
def test_arguments_that_cannot_be_sent(make_cluster: MakeCluster, argument: Any, culprit: str) -> None:
    cluster = make_cluster(name_and)
    for call in (cluster.submit, cluster.put, lambda value: cluster.submit_job_id(1, value)):
        with pytest.raises(PicklingError, match=culprit):
            call(argument)
    assert cluster.status().jobs_pending == 0


def test_a_cluster_that_finds_no_scheduler_leaves_no_journal(tmp_path: Path) -> None:
    """The next attempt can use the same path."""
    path = tmp_path / "jobs.journal"
    for _ in range(2):
        with pytest.raises(NoSchedulerError, match="start 'dispyscheduler'"):
            dispy.SharedJobCluster(
                name_and, scheduler_host="127.0.0.1", scheduler_port=64001, recover_file=path
            )
    assert not path.exists()
