"""Public names beside clusters: what they do, what they refuse, and where old ones have gone."""

from __future__ import annotations

import itertools
import pickle
import socket
import subprocess
import sys
from typing import Any

import pytest

import dispy
from dispy import config
from dispy.errors import UsageError

CONFIG_NAMES = [
    "ClientPort", "DispyPort", "HTTPServerPort", "IPv4MulticastGroup", "IPv6MulticastGroup", "MaxFileSize",
    "MsgTimeout", "NodePort", "SharedSchedulerPort",
]  # fmt: skip

NAMES = [
    "ClusterStatus", "DispyJob", "DispyNode", "DispyNodeAvailInfo", "JobCluster", "NodeAllocate",
    "SharedJobCluster", "config", "host_addrinfo", "logger", "num_max", "num_min", "recover_jobs",
]  # fmt: skip


@pytest.fixture(autouse=True)
def _kept(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DispyPort", "MsgTimeout", "MaxFileSize"):
        monkeypatch.setattr(config, name, getattr(config, name))
    monkeypatch.setitem(vars(config), "NodePort", config.NodePort)
    del vars(config)["NodePort"]


@pytest.mark.parametrize("name", NAMES)
def test_documented_names_are_there(name: str) -> None:
    assert getattr(dispy, name) is not None
    assert name in dir(dispy)


@pytest.mark.parametrize("name", CONFIG_NAMES)
def test_documented_values_are_there(name: str) -> None:
    assert getattr(config, name) is not None


def test_ports_follow_from_the_base_port() -> None:
    def ports() -> tuple[int, int, int, int]:
        return config.ClientPort, config.NodePort, config.SharedSchedulerPort, config.node_port()

    assert ports() == (9700, 9701, 9702, 9701)
    config.DispyPort = 20000
    assert ports() == (20000, 20001, 20002, 20001)
    config.NodePort = 7
    assert ports() == (20000, 7, 20002, 7)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("NodePort", "9701", "dispy.config.NodePort must be a port number, not '9701'"),
        ("NodePort", 0, "dispy.config.NodePort must be a port number, not 0"),
        ("DispyPort", 65001, "dispy.config.DispyPort must be a port number up to 65000, not 65001"),
        ("DispyPort", None, "dispy.config.DispyPort must be a port number up to 65000, not None"),
    ],
)
def test_ports_that_are_none(monkeypatch: pytest.MonkeyPatch, name: str, value: Any, said: str) -> None:
    monkeypatch.setitem(vars(config), name, value)
    with pytest.raises(UsageError, match=said):
        config.node_port()


@pytest.mark.parametrize("value", ["10", None, 0, -1, float("nan"), float("inf"), True])
def test_a_timeout_that_is_none(value: Any) -> None:
    config.MsgTimeout = value
    with pytest.raises(UsageError, match=r"dispy\.config\.MsgTimeout must be a number of seconds"):
        config.message_timeout_s()


@pytest.mark.parametrize("name", ["MsgTimeout", "MaxFileSize"])
def test_values_that_have_moved_can_be_read_and_assigned(name: str) -> None:
    with pytest.warns(
        DeprecationWarning, match=f"dispy.{name} is now called dispy.config.{name}"
    ) as warned:
        setattr(dispy, name, 17)
    assert warned[0].filename == __file__
    assert getattr(config, name) == 17
    with pytest.warns(DeprecationWarning, match=name):
        assert getattr(dispy, name) == 17


def test_what_is_gone_says_why() -> None:
    with pytest.raises(
        AttributeError, match=r"'auth_code': nobody sends a code .* docs/explanation/security.md"
    ):
        _ = dispy.auth_code  # type: ignore[attr-defined]
    with pytest.raises(AttributeError, match=r"has no attribute 'no_such_name'$"):
        _ = dispy.no_such_name  # type: ignore[attr-defined]


def test_the_module_can_be_pickled() -> None:
    assert pickle.loads(pickle.dumps(dispy)) is dispy


def test_to_import_dispy_is_cheap() -> None:
    """Neither asyncio nor anything of a cluster is loaded."""
    heavy = "('asyncio', 'msgspec', 'psutil', 'dispy.client')"
    script = f"import sys, dispy; print([m for m in {heavy} if m in sys.modules])"
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert said.strip() == "[]"


def test_ids_of_jobs_come_from_where_the_program_says(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(next(dispy.DispyJob.id_iter), int)
    monkeypatch.setattr(dispy.DispyJob, "id_iter", itertools.count(500))
    assert next(dispy.DispyJob.id_iter) == 500


@pytest.mark.parametrize(
    ("values", "least", "most"),
    [((), None, None), ((None,), None, None), ((3,), 3, 3), ((3, None, 1.5, 7), 1.5, 7), ((0, None), 0, 0)],
)
def test_numbers_and_none(values: tuple[Any, ...], least: Any, most: Any) -> None:
    assert (dispy.num_min(*values), dispy.num_max(*values)) == (least, most)


@pytest.mark.parametrize("function", [dispy.num_min, dispy.num_max])
def test_what_is_no_number_is_refused(function: Any) -> None:
    with pytest.raises(UsageError, match="'4' is not a number; None stands for no number"):
        function(3, "4")


def test_addresses_of_this_machine() -> None:
    own = dispy.host_addrinfo()
    assert own.family in (socket.AF_INET, socket.AF_INET6)
    assert dispy.host_addrinfo(own.ip) == own
    loopback = dispy.host_addrinfo("localhost", socket_family=socket.AF_INET)
    assert (loopback.ip, loopback.netmask) == ("127.0.0.1", "255.0.0.0")
    grouped = dispy.host_addrinfo("127.0.0.1", ipv4_multicast=True)
    assert grouped.broadcast == config.IPv4MulticastGroup
    other = dispy.host_addrinfo("192.0.2.250")
    assert (other.ip, other.ifn, other.netmask) == ("192.0.2.250", 0, "")
    assert dispy.host_addrinfo("::1", socket.AF_INET6).broadcast == config.IPv6MulticastGroup


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("no-such-host.invalid",), "host 'no-such-host.invalid' cannot be resolved.*check its spelling"),
        ((5,), "host must be a name or an address, not 5; or leave it out"),
        (("",), "host must be a name or an address, not ''"),
        (("127.0.0.1", 99), "socket_family must be socket.AF_INET or AF_INET6, not 99; or leave it out"),
        (("127.0.0.1", socket.AF_INET6), "host '127.0.0.1' has no IPv6 address.*leave socket_family out"),
    ],
)
def test_addresses_that_cannot_be(arguments: tuple[Any, ...], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        dispy.host_addrinfo(*arguments)
