"""Nodes as programs name them: which they cover, how many CPUs they take, what is refused."""

from __future__ import annotations

import re
from contextlib import suppress
from typing import Any, cast

import pytest

from dispy.client.cluster import JobCluster
from dispy.client.nodes import DispyNode, NodeAllocate, parse_nodes, say_blind
from dispy.errors import UsageError

NO_CLUSTER = cast(JobCluster, None)  # allocate passes it on to those who override it


def cpus_of(node: NodeAllocate, address: str = "10.0.0.1", offered: int = 4) -> int:
    return node.allocate(NO_CLUSTER, address, "name", offered)


@pytest.mark.parametrize(
    ("pattern", "address", "covered"),
    [
        ("192.168.1.1", "192.168.1.1", True),
        ("192.168.1.1", "192.168.1.10", False),
        ("192.168.1.1", "192.168.101", False),
        ("192.168.1.1", "192x168.1.1", False),
        ("192.168.1.*", "192.168.1.10", True),
        ("192.168.1.*", "192.168.2.10", False),
        ("*.1", "10.0.0.1", True),
        ("*.1", "10.0.0.11", False),
        ("10.*.1", "10.7.7.1", True),
        ("*", "10.0.0.1", True),
        ("*", "::1", True),
        ("fe80::*", "fe80::1", True),
        ("127.0.0.1", "127.0.0.1", True),
        ("127.0.0.1", "127.0.1.1", True),
        ("127.0.0.1", "10.0.0.1", False),
        ("10.0.0.1", "127.0.0.1", False),
    ],
)
def test_a_pattern_covers_whole_addresses(pattern: str, address: str, covered: bool) -> None:
    node = NodeAllocate(pattern)
    assert node.matches(address) is covered
    assert (cpus_of(node, address) > 0) is covered


def test_the_name_of_this_machine_covers_its_loopback() -> None:
    assert NodeAllocate("localhost").matches("127.0.0.1")


@pytest.mark.parametrize(
    ("cpus", "used"), [(0, 4), (1, 1), (4, 4), (9, 4), (-1, 3), (-3, 1), (-4, 4), (-9, 4)]
)
def test_cpus_are_at_most_so_many_or_all_but_so_many(cpus: int, used: int) -> None:
    assert cpus_of(NodeAllocate("*", cpus=cpus)) == used


@pytest.mark.parametrize("cpus", ["2", 1.5, None])
def test_cpus_that_are_no_number_are_warned_about_and_all_are_used(cpus: Any) -> None:
    with pytest.warns(UserWarning, match="cpus"):
        node = NodeAllocate("*", cpus=cpus)
    assert cpus_of(node) == 4


@pytest.mark.parametrize("port", [0, -1, 65536, "9701", 1.5])
def test_a_port_that_is_none_is_warned_about_and_the_default_is_used(port: Any) -> None:
    with pytest.warns(UserWarning, match="port"):
        node = NodeAllocate("*", port=port)
    assert node.port is None


@pytest.mark.parametrize("port", [1, 9701, 65535])
def test_a_port_is_kept(port: int) -> None:
    assert NodeAllocate("*", port=port).port == port


@pytest.mark.parametrize("host", ["", None, 7, b"host"])
def test_a_host_must_be_a_text(host: Any) -> None:
    with pytest.raises(UsageError, match="host of a node"):
        NodeAllocate(host)


def test_arguments_of_setup_must_be_a_tuple() -> None:
    with pytest.raises(UsageError, match="tuple"):
        NodeAllocate("*", setup_args=[1])  # type: ignore[arg-type]


@pytest.mark.parametrize("depends", ["file", b"file", 1, None, {"file": 1}])
def test_depends_must_be_a_list(depends: Any) -> None:
    with pytest.raises(UsageError, match=r"depends of node \* must be a list.*depends=\['data.csv'\]"):
        NodeAllocate("*", depends=depends)


@pytest.mark.parametrize(
    ("depends", "fault"), [([7], "must be files"), (["no such file"], "there is no file")]
)
def test_what_a_node_depends_on_must_be_files(depends: Any, fault: str) -> None:
    with pytest.raises(UsageError, match=fault):
        NodeAllocate("*", depends=depends)


def test_what_a_node_depends_on_is_a_list_of_its_own() -> None:
    given = [__file__]
    allocation = NodeAllocate("*", depends=given)
    given.clear()
    assert allocation.depends == [__file__]


def test_a_host_that_cannot_be_resolved_is_warned_about_and_not_usable() -> None:
    with pytest.warns(UserWarning, match="not used"):
        node = NodeAllocate("no such host!")
    assert not node.is_usable
    assert not node.matches("10.0.0.1")


@pytest.mark.parametrize("nodes", [None, [], ()])
def test_without_nodes_any_node_is_used(nodes: Any) -> None:
    assert [node.host for node in parse_nodes(nodes)] == ["*"]


@pytest.mark.parametrize(
    ("nodes", "found"),
    [
        ("10.0.0.1", ("10.0.0.1", None, 0)),
        (["10.0.0.1"], ("10.0.0.1", None, 0)),
        ([("10.0.0.1", 9702)], ("10.0.0.1", 9702, 0)),
        ([["10.0.0.1", 9702, 2]], ("10.0.0.1", 9702, 2)),
        ([{"host": "10.0.0.1", "port": 9702, "cpus": -1}], ("10.0.0.1", 9702, -1)),
        ({"host": "10.0.0.1"}, ("10.0.0.1", None, 0)),
        ([{"cpus": 2}], ("*", None, 2)),
        (NodeAllocate("10.0.0.1", cpus=3), ("10.0.0.1", None, 3)),
        (({"host": "10.0.0.*"},), ("10.0.0.*", None, 0)),
        (DispyNode("10.0.0.1", "name", 4), ("10.0.0.1", None, 0)),
    ],
)
def test_nodes_may_be_given_in_many_forms(nodes: Any, found: tuple[Any, ...]) -> None:
    (node,) = parse_nodes(nodes)
    assert (node.host, node.port, node.cpus) == found


def test_an_object_of_a_class_of_ones_own_is_used_as_it_is() -> None:
    class Mine(NodeAllocate):
        def allocate(self, *arguments: Any, **more: Any) -> int:
            return 1

    mine = Mine("*")
    assert parse_nodes([mine]) == [mine]


def test_the_most_specific_element_is_asked_first() -> None:
    given = ["*", "10.0.0.1", "10.*", "10.0.*"]
    assert [node.host for node in parse_nodes(given)] == ["10.0.0.1", "10.0.*", "10.*", "*"]


def test_what_names_no_node_is_ignored_with_a_warning() -> None:
    with pytest.warns(UserWarning, match="7 in nodes is ignored"):
        nodes = parse_nodes(["10.0.0.1", 7])
    assert [node.host for node in nodes] == ["10.0.0.1"]


def test_a_host_that_cannot_be_resolved_is_left_out() -> None:
    with pytest.warns(UserWarning, match="no such host!"):
        nodes = parse_nodes(["no such host!", "10.0.0.1"])
    assert [node.host for node in nodes] == ["10.0.0.1"]


@pytest.mark.filterwarnings("ignore:.*in nodes is ignored:UserWarning")
def test_nodes_none_of_which_can_be_used_are_refused() -> None:
    with pytest.raises(UsageError, match="none of nodes"):
        parse_nodes([7])


@pytest.mark.parametrize(
    "nodes", [7, {"10.0.0.1"}, b"10.0.0.1", object()], ids=["int", "set", "bytes", "object"]
)
def test_nodes_of_another_type_are_refused(nodes: Any) -> None:
    with pytest.raises(UsageError, match="nodes must be a list"):
        parse_nodes(nodes)


def test_an_unknown_key_is_refused_and_named() -> None:
    with pytest.raises(UsageError, match="'cpu'"):
        parse_nodes([{"host": "10.0.0.1", "cpu": 2}])


def test_too_many_elements_of_a_tuple_are_refused() -> None:
    with pytest.raises(UsageError):
        parse_nodes([("10.0.0.1", 9702, 2, [], (), "one more")])


@pytest.mark.parametrize(
    ("host", "written"),
    [
        ("localhost:9701", "('localhost', 9701)"),
        ("192.168.1.20:9701", "('192.168.1.20', 9701)"),
        ("[::1]:9701", "('::1', 9701)"),
        ("192.168.1.*:9701", "('192.168.1.*', 9701)"),
    ],
)
def test_a_port_beside_a_host_is_said_to_be_written_apart(host: str, written: str) -> None:
    with pytest.warns(UserWarning, match=re.escape(f"write nodes=[{written}]")):
        assert not NodeAllocate(host).is_usable
    with (
        pytest.warns(UserWarning, match="not used"),
        pytest.raises(
            UsageError, match=re.escape(f"none of nodes={host!r} can be used; write nodes=[{written}]")
        ),
    ):
        parse_nodes(host)


@pytest.mark.parametrize("host", ["::1", "fe80::1:9701", "::*", "2001:db8::*"])
def test_addresses_with_colons_have_no_port(host: str) -> None:
    assert NodeAllocate(host).is_usable


@pytest.mark.parametrize("nodes", ["no-such-host.invalid", "localhost:9701", [7], [("127.0.0.1", "x")]])
def test_warnings_point_at_the_line_that_gave_the_nodes(nodes: Any) -> None:
    with pytest.warns(UserWarning, match="node") as caught, suppress(UsageError):
        parse_nodes(nodes)
    assert caught[0].filename == __file__


@pytest.mark.parametrize(
    ("pattern", "is_possible", "said"),
    [
        ("10.77.0.*", False, "it has no such address; name the others: nodes=['10.77.0.2']"),
        (
            "10.*",
            True,
            "no node that runs now: patterns find nodes of this machine only, unless the secret is one of 'dispy "
            "secret new'; name the others: nodes=['10.0.0.2']",
        ),
        ("10.*.3", False, "nodes=['192.168.1.20']"),
        ("fe80::*", False, "nodes=['192.168.1.20']"),
        ("node*", False, "patterns are compared with addresses and not with names"),
        ("node*.lab", False, "nodes=['node1.lab']"),
    ],
)
def test_what_is_said_of_a_pattern_that_matches_nothing(pattern: str, is_possible: bool, said: str) -> None:
    assert said in say_blind(pattern, is_possible)
