"""Unix sockets of nodes: made, dialed by their user alone, and tidied."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from dispy.errors import StateDirectoryError
from dispy.net import loopback, unix_sockets
from dispy.net.dialing import dial

LONG = "long-" * 30
"""Name of a directory by which the path of a socket is longer than its address may be."""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Directories of its own for this test."""
    for name in ("run", "state", "tmp"):
        (tmp_path / name).mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    return tmp_path


@pytest.fixture
def opened() -> Iterator[ExitStack]:
    """What is closed at the end."""
    with ExitStack() as stack:
        yield stack


def open_at(opened: ExitStack, port: int = 1) -> Path:
    listening, path = unix_sockets.open_at("127.0.0.1", port)
    opened.enter_context(listening)
    return path


def connect(path: Path) -> socket.socket:
    return asyncio.run(unix_sockets.connect(str(path)))


def test_a_socket_is_for_its_user_alone(home: Path, opened: ExitStack) -> None:
    path = open_at(opened)
    assert path == home / "run" / "dispy" / "nodes" / loopback.here() / "127.0.0.1-1.sock"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    while path != home / "run":
        path = path.parent
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
    assert [each.name for each in (home / "run" / "dispy" / "nodes" / loopback.here()).iterdir()] == [
        "127.0.0.1-1.sock"
    ]


def test_it_can_be_dialed_and_both_ends_know_the_user(home: Path, opened: ExitStack) -> None:
    listening, path = unix_sockets.open_at("127.0.0.1", 1)
    with listening, connect(path) as ours:
        theirs, _ = listening.accept()
        with theirs:
            assert unix_sockets.peer_user(ours) == unix_sockets.peer_user(theirs) == os.geteuid()
            ours.sendall(b"said")
            assert theirs.recv(10) == b"said"


def test_a_path_that_is_longer_than_an_address_may_be(
    home: Path, opened: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = home / LONG
    deep.mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(deep))
    path = open_at(opened)
    assert len(str(path)) > unix_sockets.ADDRESS_MAX
    before = len(os.listdir("/proc/self/fd"))
    connect(path).close()
    unix_sockets.tidy()
    assert path.exists()
    assert len(os.listdir("/proc/self/fd")) == before, "descriptors of the directory are closed"


def test_another_user_is_not_talked_to(
    home: Path, opened: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = open_at(opened)
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    with pytest.raises(PermissionError, match=f"user {os.getuid()} listens at {path}"):
        connect(path)


def test_a_full_backlog_is_waited_for(
    home: Path, opened: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unix_sockets, "BACKLOG", 0)
    listening, path = unix_sockets.open_at("127.0.0.1", 1)
    opened.enter_context(listening)
    opened.enter_context(connect(path))

    async def second() -> None:
        waiting = asyncio.create_task(unix_sockets.connect(str(path)))
        await asyncio.sleep(0)
        assert not waiting.done(), "the backlog of the kernel has room for one"
        listening.accept()[0].close()
        (await waiting).close()

    asyncio.run(second())


def test_the_socket_of_a_dead_node_is_replaced(home: Path, opened: ExitStack) -> None:
    dead, path = unix_sockets.open_at("127.0.0.1", 1)
    dead.close()
    with pytest.raises(ConnectionRefusedError):
        connect(path)
    assert open_at(opened) == path
    connect(path).close()


def test_sockets_of_dead_nodes_are_removed_and_others_stay(home: Path, opened: ExitStack) -> None:
    dead, gone = unix_sockets.open_at("127.0.0.1", 2)
    dead.close()
    alive = open_at(opened)
    # Of a container with a network of its own, whose nodes are dead.
    elsewhere = home / "run" / "dispy" / "nodes" / f"{loopback.boot()}-4711"
    elsewhere.mkdir(mode=0o700)
    unix_sockets.bind(elsewhere / "127.0.0.1-9701.sock").close()
    recent, old = (elsewhere.with_name(name) for name in ("0123456789abcdef-1", "0123456789abcdef-2"))
    for directory in (recent, old):
        directory.mkdir(mode=0o700)
        (directory / "127.0.0.1-9701.sock").touch()
    os.utime(old, (0, 0))
    unix_sockets.tidy()
    assert not gone.exists()
    assert alive.exists()
    assert not elsewhere.exists()
    assert recent.exists(), "another machine's, maybe"
    assert not old.exists()


def test_without_a_runtime_directory_nothing_lies_where_others_could_be_first(
    home: Path, opened: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    assert open_at(opened).is_relative_to(home / "state" / "dispy")
    assert list((home / "tmp").iterdir()) == []


def test_a_runtime_directory_that_is_open_to_others_is_passed_over(home: Path, opened: ExitStack) -> None:
    (home / "run" / "dispy").mkdir()
    (home / "run" / "dispy").chmod(0o777)
    assert open_at(opened).is_relative_to(home / "state")


def test_where_none_can_be_made_it_is_said_why(home: Path) -> None:
    for name in ("run", "state"):
        (home / name / "dispy").touch()
    with pytest.raises(StateDirectoryError) as caught:
        unix_sockets.open_at("127.0.0.1", 1)
    for name in ("run", "state"):
        assert str(home / name / "dispy") in str(caught.value)


class Dialed(asyncio.Protocol):
    """How a connection was made; it is closed at once."""

    def __init__(self, is_unix: bool) -> None:
        self.is_unix = is_unix

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.close()


async def dialed(path: str, port: int) -> list[bool]:
    """Over what a node is dialed."""
    made: list[Dialed] = []

    def make(is_unix: bool) -> Dialed:
        made.append(Dialed(is_unix))
        return made[-1]

    await dial(path, "127.0.0.1", port, make)
    await asyncio.sleep(0)  # they are closed
    return [each.is_unix for each in made]


def test_the_socket_is_dialed_and_without_it_the_address(
    home: Path, opened: ExitStack, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = open_at(opened)
    port = opened.enter_context(socket.create_server(("127.0.0.1", 0))).getsockname()[1]
    assert asyncio.run(dialed(str(path), port)) == [True]
    assert asyncio.run(dialed("", port)) == [False]
    assert asyncio.run(dialed(str(path.with_name("of another container's files")), port)) == [False]
    assert caplog.text == ""
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    assert asyncio.run(dialed(str(path), port)) == [False]
    assert f"127.0.0.1:{port} is dialed instead of its socket: user {os.getuid()}" in caplog.text
