"""Parameters of a cluster: what is used, refused, warned about, or comes later."""

from __future__ import annotations

import inspect
import logging
import warnings
from typing import Any

import pytest

import dispy
from dispy import config
from dispy.errors import UsageError

from .conftest import MakeCluster, StartNode
from .helpers import Place, wait_for
from .jobs import name_and


@pytest.mark.parametrize(
    ("old", "value", "new"),
    [
        ("ip_addr", "127.0.0.1", "host"),
        ("ext_ip_addr", ["127.0.0.1"], "ext_host"),
        ("callback", print, "job_status"),
        ("port", 9700, "dispy_port"),
        ("node_port", 9701, "config.NodePort"),
    ],
)
def test_old_names_warn(place: Place, old: str, value: Any, new: str) -> None:
    with pytest.warns(DeprecationWarning, match=f"{old}.*{new}") as caught:
        cluster = dispy.JobCluster(name_and, **{old: value})
    assert caught[0].filename == __file__
    cluster.shutdown()


@pytest.mark.parametrize(
    "wrong",
    [
        {"nodes": 5},
        {"nodes": [5.0]},
        {"nodes": [{"hots": "127.0.0.1"}]},
        {"dispy_port": "x"},
        {"dispy_port": 70000},
        {"ping_interval": 0},
        {"ping_interval": 2000},
        {"poll_interval": 1},
        {"pulse_interval": 0.05},
        {"pulse_interval": 1001},
        {"pulse_interval": True},
        {"pulse_interval": "1"},
        {"secret": b"bytes"},
        {"host": "no.such.host.invalid"},
        {"keyfile": "k"},
        {"certfile": "c"},
        {"cafile": "c"},
        {"nodes": ["192.0.2.1"]},
        {"nodes": [("127.0.0.1", 9701, 1, [], "no tuple")]},
    ],
    ids=str,
)
def test_parameters_that_cannot_be(place: Place, wrong: dict[str, Any]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        with pytest.raises(UsageError):
            dispy.JobCluster(name_and, **wrong)
    assert place.processes() == [], "a node was started for a cluster that was refused"


@pytest.mark.parametrize("host", ["0.0.0.0", "127.0.0.1", "localhost", "::", ["127.0.0.1", "0.0.0.0"]])
def test_host_is_accepted(make_cluster: MakeCluster, host: Any) -> None:
    """A client listens nowhere, so that any address will do."""
    assert make_cluster(name_and, host=host).submit(1)()[1] == 1


def test_parameters_that_are_warned_about(make_cluster: MakeCluster) -> None:
    with pytest.warns(UserWarning, match="reentrant"):
        make_cluster(name_and, reentrant=1)
    with pytest.warns(UserWarning, match="port"):
        make_cluster(name_and, nodes=[("127.0.0.1", -1)])
    with pytest.warns(UserWarning, match="not used|ignored"):
        make_cluster(name_and, nodes=["127.0.0.1", 5])


def test_constructor_has_the_documented_parameters() -> None:
    assert list(inspect.signature(dispy.JobCluster).parameters)[:24] == [
        "computation", "nodes", "depends", "job_status", "cluster_status", "host", "dispy_port",
        "ext_host", "ip_addr", "ext_ip_addr", "ipv4_udp_multicast", "dest_path", "loglevel", "callback",
        "setup", "cleanup", "ping_interval", "pulse_interval", "poll_interval", "reentrant", "secret",
        "keyfile", "certfile", "recover_file",
    ]  # fmt: skip


def test_loglevel(make_cluster: MakeCluster) -> None:
    make_cluster(name_and, loglevel=dispy.logger.DEBUG)
    assert logging.getLogger("dispy").level == logging.DEBUG


def test_node_allocate_decides(make_cluster: MakeCluster, start_node: StartNode) -> None:
    start_node("--name", "yes", "--cpus", "2")
    start_node("--name", "no", "--cpus", "2")
    asked: list[tuple[Any, ...]] = []

    class Mine(dispy.NodeAllocate):
        def allocate(
            self,
            cluster: Any,
            ip_addr: str,
            name: str,
            cpus: int,
            avail_info: Any = None,
            platform: str = "",
        ) -> int:
            asked.append((cluster.name, ip_addr, name, cpus, bool(platform)))
            return 1 if name == "yes" else 0

    cluster = make_cluster(name_and, nodes=[Mine("127.0.0.1")])
    jobs = [cluster.submit(n, 0.01) for n in range(8)]
    assert {job()[0] for job in jobs} == {"yes"}
    wait_for(lambda: sorted(asked), lambda seen: len(seen) == 2, what="asked once for each node")
    assert sorted(asked) == [("name_and", "127.0.0.1", name, 2, True) for name in ("no", "yes")]
    assert [(node.name, node.cpus) for node in cluster.status().nodes] == [("yes", 1)]


def test_no_node_of_its_own_if_switched_off(
    make_cluster: MakeCluster, start_node: StartNode, place: Place
) -> None:
    config.LocalNode = False
    cluster = make_cluster(name_and)
    job = cluster.submit(1)
    assert not job.wait(0.3)
    assert place.incarnations() == []
    start_node("--name", "by hand")
    assert job() == ("by hand", 1)


def test_node_started_by_hand_takes_over_from_its_own(
    make_own_cluster: MakeCluster, start_node: StartNode, place: Place
) -> None:
    """The program's own node takes nothing new once another one of this machine is there."""
    cluster = make_own_cluster(name_and)
    own = cluster.submit()()[0]
    start_node("--name", "by hand")
    wait_for(
        lambda: [job()[0] for job in [cluster.submit() for _ in range(4)]],
        lambda names: set(names) == {"by hand"},
        what="all jobs run on the node that was started by hand",
    )
    assert own != "by hand"
