"""Nodes of this machine: listed while they live, where programs of their user look, and forgotten when they died."""

from __future__ import annotations

import os
import re
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import msgspec
import pytest

from dispy.errors import StateDirectoryError
from dispy.net import discovery, loopback
from dispy.net.discovery import Entry, Listing, Lookout, places, running_nodes, where_looked
from dispy.system.liveness import Process, is_alive, this_process

NOWHERE = Process(1)
"""One that cannot be seen from here."""


def listing(
    node: str, fingerprint: str = "ours", process: Process | None = None, port: int = 9701
) -> Listing:
    return Listing(
        node, "127.0.0.1", port, False, f"name of {node}", 2, process or this_process(), fingerprint
    )


@pytest.fixture
def opened(home: Path) -> Iterator[ExitStack]:
    """Entries that are closed at the end."""
    with ExitStack() as stack:
        yield stack


def directory(home: Path) -> Path:
    (found,) = (home / "state" / "dispy" / "nodes").iterdir()
    return found


def put(home: Path, one: Listing) -> Path:
    """A file as a node has left it that was killed."""
    entry = Entry(one)
    assert entry.path.parent == directory(home)
    return entry.path


@pytest.fixture
def dead() -> Process:
    """A process that has ended, and been waited for."""
    child = subprocess.Popen(["true"])
    child.wait()
    return Process(child.pid, 1, this_process().namespace)


@pytest.fixture
def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


@pytest.fixture
def as_machine(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Lets this process be on another machine, or in another boot, or in another network."""

    def become(name: str) -> None:
        monkeypatch.setattr(loopback, "here", lambda: name)

    return become


# Listed and found.


def test_without_nodes_none_is_found(home: Path) -> None:
    assert running_nodes("ours") == []
    assert list((home / "state").iterdir()) == [], "looking makes nothing"


def test_a_running_node_is_found_as_it_describes_itself(opened: ExitStack) -> None:
    opened.enter_context(closing(Entry(listing("a"))))
    assert running_nodes("ours") == [listing("a")]


def test_all_running_nodes_are_found_in_a_fixed_order(opened: ExitStack) -> None:
    for node in "bca":
        opened.enter_context(closing(Entry(listing(node))))
    assert [found.node for found in running_nodes("ours")] == ["a", "b", "c"]


def test_looking_does_not_disturb_a_running_node(opened: ExitStack) -> None:
    opened.enter_context(closing(Entry(listing("a"))))
    assert running_nodes("ours") == running_nodes("ours") != []


def test_nodes_with_another_secret_are_passed_over_and_stay(opened: ExitStack) -> None:
    opened.enter_context(closing(Entry(listing("a", "theirs"))))
    assert running_nodes("ours") == []
    assert running_nodes("theirs") == [listing("a", "theirs")]


def test_a_node_that_closed_is_gone(home: Path) -> None:
    entry = Entry(listing("a"))
    entry.close()
    assert running_nodes("ours") == []
    assert list((home / "state" / "dispy" / "nodes").iterdir()) == []


def test_a_node_that_closes_leaves_others_listed(opened: ExitStack) -> None:
    opened.enter_context(closing(Entry(listing("b"))))
    Entry(listing("a")).close()
    assert [found.node for found in running_nodes("ours")] == ["b"]


def test_entries_can_be_read_by_this_user_only(opened: ExitStack, home: Path) -> None:
    opened.enter_context(closing(Entry(listing("a"))))
    assert stat.S_IMODE(directory(home).stat().st_mode) == 0o700
    assert stat.S_IMODE((directory(home) / "a.json").stat().st_mode) == 0o600


def test_closing_an_entry_that_somebody_removed_is_no_fault(home: Path) -> None:
    entry = Entry(listing("a"))
    entry.path.unlink()
    entry.close()
    assert running_nodes("ours") == []


def test_a_node_describes_itself_anew(opened: ExitStack) -> None:
    entry = opened.enter_context(closing(Entry(listing("a"))))
    lookout = Lookout()
    assert [found.cpus for found in lookout.running()] == [2]
    entry.update(msgspec.structs.replace(listing("a"), cpus=7))
    assert [found.cpus for found in lookout.running()] == [7]


def test_a_node_whose_file_was_removed_is_listed_again(opened: ExitStack, home: Path) -> None:
    entry = opened.enter_context(closing(Entry(listing("a"))))
    entry.path.unlink()
    entry.path.parent.rmdir()
    entry.keep()
    assert [found.node for found in running_nodes("ours")] == ["a"]


def test_a_node_that_has_closed_is_not_listed_again(home: Path) -> None:
    entry = Entry(listing("a"))
    entry.close()
    entry.keep()
    assert running_nodes("ours") == []


# Dead or alive.


def test_what_a_dead_node_left_is_not_found_and_is_removed(home: Path, dead: Process) -> None:
    path = put(home, listing("a", process=dead))
    assert running_nodes("") == []
    assert not path.exists()


def test_a_node_of_another_process_is_found_while_it_lives(home: Path) -> None:
    program = (
        "from dispy.net.discovery import Entry, Listing\n"
        "from dispy.system.liveness import this_process\n"
        "entry = Entry(Listing('alive', '127.0.0.1', 9701, False, 'name', 2, this_process(), 'ours'))\n"
        "print('ready', flush=True)\n"
        "input()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        assert [found.node for found in running_nodes("ours")] == ["alive"]
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert running_nodes("ours") == [], "it is dead, though nobody has waited for it"
    finally:
        process.communicate(timeout=60)


def test_another_process_with_the_same_pid_is_not_the_node(home: Path) -> None:
    mine = this_process()
    path = put(home, listing("a", process=Process(mine.pid, mine.started - 1, mine.namespace)))
    assert running_nodes("ours") == []
    assert not path.exists()


def test_whether_processes_live() -> None:
    mine = this_process()
    assert is_alive(mine)
    assert is_alive(Process(mine.pid, mine.started + 1, mine.namespace)) is False
    assert is_alive(Process(1 << 40, 1, mine.namespace)) is False
    assert is_alive(Process(mine.pid, mine.started, "elsewhere")) is None
    assert is_alive(Process(mine.pid)) is None


def test_a_node_that_cannot_be_seen_is_found_if_somebody_listens_there(opened: ExitStack) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        one = listing("a", process=NOWHERE, port=server.getsockname()[1])
        opened.enter_context(closing(Entry(one)))
        assert running_nodes("ours") == [one]
    assert running_nodes("ours") == []


def test_a_node_that_cannot_be_seen_is_removed_if_nobody_listens_there(home: Path, free_port: int) -> None:
    path = put(home, listing("a", process=NOWHERE, port=free_port))
    assert running_nodes("ours") == []
    assert not path.exists()


def test_a_node_that_cannot_be_seen_is_not_connected_to_each_time(opened: ExitStack) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        one = listing("a", process=NOWHERE, port=server.getsockname()[1])
        opened.enter_context(closing(Entry(one)))
        lookout = Lookout()
        for _ in range(10):
            assert lookout.running() == [one]
        server.setblocking(False)
        server.accept()[0].close()
        with pytest.raises(BlockingIOError):
            server.accept()


def test_who_listens_without_the_secret_in_the_place_of_a_node_is_believed_no_more(
    opened: ExitStack,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        one = listing("a", process=NOWHERE, port=server.getsockname()[1])
        opened.enter_context(closing(Entry(one)))
        lookout = Lookout()
        assert lookout.running() == [one]
        assert not lookout.doubt("127.0.0.1", 1)
        assert lookout.doubt(one.host, one.port)
        assert lookout.running() == []


def test_a_node_that_lives_is_not_doubted(opened: ExitStack) -> None:
    opened.enter_context(closing(Entry(listing("a"))))
    lookout = Lookout()
    lookout.running()
    assert not lookout.doubt("127.0.0.1", 9701)
    assert lookout.running() == [listing("a")]


def test_many_that_died_are_removed_at_once(opened: ExitStack, home: Path, dead: Process) -> None:
    opened.enter_context(closing(Entry(listing("alive"))))
    text = msgspec.json.encode(listing("dead", process=dead))
    for number in range(50):
        (directory(home) / f"dead{number}.json").write_bytes(text)
    assert [found.node for found in running_nodes("ours")] == ["alive"]
    assert [path.name for path in directory(home).iterdir()] == ["alive.json"]


# What else may lie there.

GARBAGE = {
    "nothing": b"",
    "half": b"{",
    "list": b"[]",
    "types": b'{"node": 1}',
    "bytes": b"\xff" * 100,
    "deep": b'{"x":' * 700,
    "port": msgspec.json.encode({**msgspec.to_builtins(listing("a")), "port": 70000}),
    "host": msgspec.json.encode({**msgspec.to_builtins(listing("a")), "host": "attacker.example"}),
    "pid": msgspec.json.encode({**msgspec.to_builtins(listing("a")), "process": {"pid": -1}}),
    "long": msgspec.json.encode({**msgspec.to_builtins(listing("a")), "name": "x" * 20_000}),
}


@pytest.mark.parametrize("content", GARBAGE.values(), ids=GARBAGE)
def test_a_file_that_describes_no_node_hides_none(opened: ExitStack, home: Path, content: bytes) -> None:
    opened.enter_context(closing(Entry(listing("b"))))
    (directory(home) / "a.json").write_bytes(content)
    assert [found.node for found in running_nodes("ours")] == ["b"]
    assert (directory(home) / "a.json").exists(), "a later version may know what it is"


@pytest.mark.parametrize("kind", ["pipe", "link", "directory", "loop"])
def test_what_is_no_file_hides_none(opened: ExitStack, home: Path, kind: str) -> None:
    opened.enter_context(closing(Entry(listing("b"))))
    path = directory(home) / "a.json"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
    else:
        path.symlink_to("b.json" if kind == "link" else "a.json")
    before = os.listdir("/proc/self/fd")
    assert [found.node for found in running_nodes("ours")] == ["b"]
    assert os.listdir("/proc/self/fd") == before


# Where.


@pytest.mark.parametrize(
    "change",
    [("XDG_RUNTIME_DIR", None), ("XDG_RUNTIME_DIR", "/there/is/no/such"), ("TMPDIR", "/there/is/no/such")],
)
def test_nodes_are_found_whatever_the_environment_says_of_what_does_not_stay(
    opened: ExitStack, monkeypatch: pytest.MonkeyPatch, change: tuple[str, str | None]
) -> None:
    opened.enter_context(closing(Entry(listing("a"))))
    name, value = change
    if value is None:
        monkeypatch.delenv(name)
    else:
        monkeypatch.setenv(name, value)
    assert running_nodes("ours") == [listing("a")]


def test_nodes_of_other_machines_boots_and_networks_are_no_nodes_of_this_one(
    opened: ExitStack, as_machine: Callable[[str], None], free_port: int
) -> None:
    """Nor are they tidied away: nobody here knows whether they live."""
    as_machine("other")
    opened.enter_context(closing(Entry(listing("a", process=NOWHERE, port=free_port))))
    as_machine("this")
    opened.enter_context(closing(Entry(listing("b"))))
    assert [found.node for found in running_nodes("ours")] == ["b"]
    as_machine("other")
    assert len(discovery._files(places()[0])) == 1


def test_a_place_is_named_after_the_boot_and_the_network() -> None:
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().replace("-", "")[:16]
    network = os.stat("/proc/self/ns/net").st_ino
    assert loopback.here() == f"{boot}-{network}"


def test_without_a_name_of_the_boot_the_machine_has_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loopback, "boot_id", lambda: "")
    assert re.fullmatch(r"[0-9a-f]{16}-\d+", loopback.here())


def test_what_machines_have_left_that_are_no_more_is_removed(
    opened: ExitStack, home: Path, as_machine: Callable[[str], None]
) -> None:
    for name in ("old", "recent"):
        as_machine(name)
        path = put_there = Entry(listing(name)).path
        assert put_there.exists()
        if name == "old":
            os.utime(path.parent, (time.time() - discovery.OLD_S - 60,) * 2)
    as_machine("this")
    entry = opened.enter_context(closing(Entry(listing("a"))))
    entry.tidy()
    left = {path.name for path in (home / "state" / "dispy" / "nodes").iterdir()}
    assert left == {"recent", "this"}


def test_a_clock_that_jumps_removes_nothing_for_long(
    opened: ExitStack, home: Path, as_machine: Callable[[str], None]
) -> None:
    """A directory that seems to be old is another machine's, whose node lists itself again."""
    as_machine("other")
    entry = opened.enter_context(closing(Entry(listing("a"))))
    os.utime(entry.path.parent, (0, 0))
    as_machine("this")
    opened.enter_context(closing(Entry(listing("b")))).tidy()
    as_machine("other")
    assert running_nodes("ours") == []
    entry.keep()
    assert [found.node for found in running_nodes("ours")] == ["a"]
    assert entry.path.parent.stat().st_mtime > time.time() - 60


def test_where_it_was_looked_is_said_in_short(home: Path) -> None:
    assert where_looked() == str(home / "state" / "dispy" / "nodes" / loopback.here())


# Where nothing can be written there.


@pytest.fixture
def unwritable(home: Path) -> Path:
    """A state directory in which no directory can be made, also by root."""
    (home / "state" / "dispy").mkdir(mode=0o700)
    (home / "state" / "dispy" / "nodes").write_text("in the way")
    return home


def test_a_node_without_a_state_directory_is_listed_in_the_runtime_directory(
    unwritable: Path, opened: ExitStack, caplog: pytest.LogCaptureFixture
) -> None:
    opened.enter_context(closing(Entry(listing("a"))))
    assert running_nodes("ours") == [listing("a")]
    (said,) = caplog.messages
    assert f"{unwritable}/run/dispy/nodes" in said
    assert f"{unwritable}/state/dispy/nodes" in said, "it does not say why"
    assert "XDG_RUNTIME_DIR" in said, "it does not say who finds it"
    assert f"{unwritable}/run/dispy/nodes" in where_looked()


def test_a_node_that_can_be_listed_nowhere_says_where_it_tried(unwritable: Path) -> None:
    (unwritable / "run" / "dispy").mkdir(mode=0o700)
    (unwritable / "run" / "dispy" / "nodes").write_text("in the way")
    with pytest.raises(StateDirectoryError, match=r"state/dispy/nodes.*; .*run/dispy"):
        Entry(listing("a"))
    assert running_nodes("ours") == []


def test_what_others_have_put_in_the_place_of_the_runtime_directory_hides_no_node(
    unwritable: Path, opened: ExitStack
) -> None:
    (unwritable / "run" / "dispy").write_text("in the way")
    opened.enter_context(closing(Entry(listing("a"))))
    assert running_nodes("ours") == [listing("a")]
    assert (unwritable / "run" / "dispy").read_text() == "in the way"


def test_a_runtime_directory_that_others_can_write_to_is_not_looked_at(
    unwritable: Path, opened: ExitStack
) -> None:
    opened.enter_context(closing(Entry(listing("a"))))
    (unwritable / "run" / "dispy").chmod(0o770)
    assert running_nodes("ours") == []


def test_without_a_home_it_is_looked_in_the_runtime_directory(
    home: Path, monkeypatch: pytest.MonkeyPatch, opened: ExitStack
) -> None:
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setattr(Path, "home", no_home)
    opened.enter_context(closing(Entry(listing("a"))))
    assert running_nodes("ours") == [listing("a")]
    assert where_looked().startswith(f"{home}/run/dispy/nodes/")


def test_the_socket_of_a_node_is_for_programs_in_its_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Others dial the address: a link must not hide that two networks are apart."""
    mine = msgspec.structs.replace(listing("a"), socket="/a/path", namespace=loopback.namespace())
    assert mine.socket_here() == "/a/path"
    assert msgspec.structs.replace(mine, namespace="net:[1]").socket_here() == ""
    assert msgspec.structs.replace(mine, namespace="").socket_here() == ""
    monkeypatch.setattr(loopback, "namespace", lambda: "")
    assert mine.socket_here() == ""
    assert msgspec.structs.replace(mine, namespace="").socket_here() == "/a/path"
