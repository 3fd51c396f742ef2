"""What peers and jobs write about themselves: nothing of it is obeyed by a terminal or passes for a line of a log."""

from __future__ import annotations

import logging
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import msgspec
import pytest

import dispy
from dispy.net.loopback import plain_channel
from dispy.protocol import frames, node
from dispy.protocol.frames import FrameReader
from dispy.protocol.handshake import NONCE_SIZE, Handshake
from dispy.security.secrets import choose

from .conftest import MakeCluster, RunProgram, StartNode
from .helpers import Place, wait_for

SECRET = "of this test"

EVIL = "\x1b]0;owned\x07\x9b2J\x1b[31m\x08\x7f\u202eexe\r\x00\u2028"
"""Obeyed by some terminals: a window's name, a colour, a cleared screen, a cursor moved, a direction."""

FORGED = f"{EVIL}\n2026-01-01 00:00:00,000 dispy.node - forged{EVIL}\n"

DANGEROUS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
"""All but line ends and tabs."""


class Peer:
    """The other side of a connection: knows the secret, and says what it likes.

    Args:
        link: Connected.
        role: What it pretends to be.
        peer_role: What it talks to.
        is_dialer: Whether it made the connection.
    """

    def __init__(self, link: socket.socket, role: str, peer_role: str, *, is_dialer: bool) -> None:
        self._link = link
        self._reader = FrameReader()
        channel = plain_channel(link.getsockname(), link.getpeername(), is_dialer=is_dialer)
        handshake = Handshake(
            choose(SECRET).keys,
            role,
            peer_role,
            bytes(range(NONCE_SIZE)),
            is_dialer=is_dialer,
            now=time.time(),
            channel=channel,
        )
        first = handshake.start()
        if first is not None:
            self.say_encoded(first)
        while not handshake.done:
            answer = handshake.receive(self.hear_encoded())
            if answer is not None:
                self.say_encoded(answer)

    def say_encoded(self, body: bytes) -> None:
        """Send one message."""
        self._link.sendall(frames.header(frames.CONTROL, len(body)) + body)

    def say(self, message: Any) -> None:
        """Send one message."""
        self.say_encoded(msgspec.msgpack.encode(message))

    def hear_encoded(self) -> bytes:
        """The next message.

        Raises:
            ConnectionError: The other side has gone.
        """
        while True:
            while (frame := self._reader.next_frame()) is not None:
                kind, _, body = frame
                if kind == frames.CONTROL:
                    return bytes(body)
            count = self._link.recv_into(self._reader.writable())
            if not count:
                raise ConnectionError("gone")
            self._reader.received(count)


Answer = Callable[[Peer, Any], None]


@contextmanager
def false_node(answer: Answer, name: str = f"evil{EVIL}\nname", platform: str = EVIL) -> Iterator[int]:
    """A node that answers as it likes; yields its port."""
    server = socket.create_server(("127.0.0.1", 0))
    links: list[socket.socket] = []

    def serve() -> None:
        with suppress(OSError):
            while True:
                link, _ = server.accept()
                links.append(link)
                talk(Peer(link, "node", "client", is_dialer=False))

    def talk(peer: Peer) -> None:
        with suppress(ConnectionError):
            while True:
                message = node.to_node_decoder.decode(peer.hear_encoded())
                if isinstance(message, node.Attach):
                    peer.say(node.Welcome(b"false node......", name, 1, platform))
                elif isinstance(message, node.Compute):
                    peer.say(node.ComputationReady(message.computation))
                    peer.say(node.Credit(message.computation, 1, 0))
                answer(peer, message)

    thread = threading.Thread(target=serve, name="false node")
    thread.start()
    try:
        yield server.getsockname()[1]
    finally:
        server.shutdown(socket.SHUT_RDWR)
        for link in links:
            with suppress(OSError):
                link.shutdown(socket.SHUT_RDWR)
        thread.join(8)
        for opened in (server, *links):
            opened.close()


def ends_all(peer: Peer, message: Any) -> None:
    if isinstance(message, node.RunJobs):
        ended = [
            node.Ended(job.number, job.attempt, node.TERMINATED, 1.0, 2.0, b"", reason=f"Traceback:\n\t{FORGED}")
            for job in message.jobs
        ]  # fmt: skip
        peer.say(node.JobsEnded(1, message.computation, ended))


def refuses(peer: Peer, message: Any) -> None:
    if isinstance(message, node.Compute):
        peer.say(node.ComputationFailed(message.computation, f"Traceback:\n\t{FORGED}"))


def leaves(peer: Peer, message: Any) -> None:
    if isinstance(message, node.RunJobs):
        peer.say(node.Leaving(FORGED))


def returns_and_leaves(peer: Peer, message: Any) -> None:
    if isinstance(message, node.RunJobs):
        attempts = [node.Attempt(job.number, job.attempt) for job in message.jobs]
        peer.say(node.JobsReturned(message.computation, attempts, FORGED))
        peer.say(node.Leaving(FORGED))


def talks_nonsense(peer: Peer, message: Any) -> None:
    if isinstance(message, node.RunJobs):
        peer.say([37, EVIL, {EVIL: EVIL}])


def assert_harmless(text: str) -> None:
    """Nothing in it is obeyed by a terminal; what is left of the evil text can be read."""
    assert not DANGEROUS.search(text), ascii(text)


def assert_not_forged(log: list[str]) -> None:
    """Every line of a record after the first is indented."""
    for message in log:
        assert_harmless(message)
        assert "\n2026" not in message, message


@pytest.mark.parametrize("answer", [ends_all, refuses, leaves, returns_and_leaves, talks_nonsense])
def test_false_node(
    make_cluster: MakeCluster,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
    answer: Answer,
) -> None:
    asked: list[str] = []
    told: list[str] = []

    class Mine(dispy.NodeAllocate):
        def allocate(self, cluster: Any, *args: Any, **kwargs: Any) -> int:
            asked.extend(map(str, args))
            return 1

    def note(status: int, shown: dispy.DispyNode | None, job: dispy.DispyJob | None) -> None:
        told.append(f"{status} {shown} {job and job.exception}")

    with false_node(answer) as port, caplog.at_level(logging.DEBUG, "dispy"):
        cluster = make_cluster(
            lambda: None,
            nodes=[Mine("127.0.0.1", port)],
            secret=SECRET,
            tls=False,
            cluster_status=note,
        )
        job = cluster.submit()
        if answer in (ends_all, refuses):
            assert job.wait(8)
        else:
            wait_for(
                lambda: [r for r in caplog.records if r.levelno >= logging.WARNING],
                bool,
                what="the node is lost, and that is told",
            )
        cluster.print_status()
        for shown in cluster.status().nodes:
            assert_harmless(f"{shown} {shown.name}")
            assert "\n" not in shown.name
            assert "name" in shown.name
        cluster.close(terminate=True)
        assert_harmless(f"{job.exception} {job.error} {job.error!r}")
        if answer is ends_all:
            assert "\\x1b[31m" in job.exception
            assert "Traceback:\n\t" in job.exception
        cluster.shutdown()
    printed = capsys.readouterr()
    assert_harmless(printed.out + printed.err)
    assert len(asked) >= 4
    for text in asked:
        assert_harmless(text)
        assert "\n" not in text
    assert_harmless("".join(told))
    assert_not_forged(caplog.messages)


@pytest.mark.parametrize(
    "said", [b"SSH-2.0-" + EVIL.encode(), EVIL.encode() * 50, b"HTTP/1.1 200 \x1b[31m\r\n\r\n"]
)
def test_what_is_no_node_at_all(
    make_cluster: MakeCluster, caplog: pytest.LogCaptureFixture, said: bytes
) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        caplog.at_level(logging.WARNING, "dispy"),
    ):
        cluster = make_cluster(lambda: None, nodes=[("127.0.0.1", server.getsockname()[1])], tls=False)
        link, _ = server.accept()
        with link:
            link.sendall(said)
            wait_for(lambda: caplog.messages, bool, what="it is told that this is no node")
        cluster.shutdown()
    assert_not_forged(caplog.messages)


def lines_of(log: str) -> list[str]:
    """The lines of a node's log that have no time in front."""
    return [
        line
        for line in log.splitlines()
        if not re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} [A-Z]+ \S+ - ", line)
    ]


def assert_log_harmless(log: str) -> None:
    """Not obeyed, and each line is a record of its own or indented."""
    assert_harmless(log)
    assert [line for line in lines_of(log) if not line.startswith("    ")] == []
    assert not re.search(r"^2026-01-01", log, re.MULTILINE), log


def test_false_client(start_node: StartNode, make_cluster: MakeCluster) -> None:
    """One that has the secret: its name, a computation's name, and code that cannot be loaded."""
    running = start_node("--debug", "--no_tls", "--secret", SECRET)
    with socket.create_connection((running.host, running.port), timeout=8) as link:
        peer = Peer(link, "client", "node", is_dialer=True)
        peer.say(node.Attach(b"false client....", FORGED))
        peer.say(node.Compute(1, FORGED, FORGED.encode(), dest_path=FORGED))
        while True:
            answer = node.from_node_decoder.decode(peer.hear_encoded())
            if isinstance(answer, node.ComputationFailed):
                break
        peer.say([4, FORGED, {FORGED: FORGED}])
        with suppress(ConnectionError):
            while True:
                peer.hear_encoded()
    assert make_cluster(lambda: 1, secret=SECRET).submit()() == 1
    running.stop()
    assert_log_harmless(running.stderr)


@pytest.mark.parametrize("role", [EVIL[:16], "\x1b[31m", "\n2026-01-01"])
def test_stranger_with_an_evil_role(start_node: StartNode, role: str) -> None:
    running = start_node()
    with socket.create_connection((running.host, running.port), timeout=8) as link:
        body = msgspec.msgpack.encode([1, "dispy", [1], role, bytes(NONCE_SIZE)])
        link.sendall(frames.header(frames.CONTROL, len(body)) + body)
        running.wait_line("refused a connection", stream="stderr")
    assert_log_harmless(running.stderr)


def writes_to_the_log(text: str) -> None:
    dispynode_logger.info("seen: %s", text)
    dispynode_logger.error("seen: " + text)


def test_log_of_a_job(start_node: StartNode, make_cluster: MakeCluster) -> None:
    """``dispynode_logger`` writes to the node's log, and nothing but lines of a log."""
    running = start_node()
    job = make_cluster(writes_to_the_log).submit(FORGED)
    job()
    assert job.exception is None
    wait_for(
        lambda: running.stderr.count("seen: \\x1b]0;owned"),
        lambda count: count == 2,
        what="both are logged",
    )
    assert_log_harmless(running.stderr)


LOADED = """
import sys
import dispy

class Loud:
    def __init__(self, text):
        self.text = text

    def __setstate__(self, state):
        self.text = state["text"]
        if {host!r} in sys.argv[0]:
            import os
            print("printed " + self.text, flush=True)
            print("complained " + self.text, file=sys.stderr, flush=True)
            os.write(1, ("written " + self.text).encode())
            os.system("echo run by a shell; printf '\\\\033[2J'")

loud = Loud({text!r})

def compute():
    return len(loud.text)

cluster = dispy.JobCluster(compute, depends=[Loud])
print(cluster.submit()())
"""


def test_output_of_code_that_is_being_loaded(
    start_node: StartNode, run_program: RunProgram, place: Place
) -> None:
    """A computation's code runs before any job does; what it prints is a peer's text, too."""
    running = start_node()
    client = run_program(LOADED.format(host="dispy", text=EVIL))
    assert client.wait(15) == 0, client.stderr
    assert client.stdout.strip() == str(len(EVIL))
    running.stop()
    assert_harmless(running.stdout)
    assert_harmless(running.stderr)


def test_output_that_ends_with_the_worker(start_node: StartNode, make_cluster: MakeCluster) -> None:
    """Faults that Python itself reports, to whatever it takes for the terminal."""

    def compute(text: str) -> None:
        import faulthandler
        import signal
        import sys

        print(text, file=sys.__stderr__)
        print(text, file=sys.__stdout__)
        sys.excepthook(ValueError, ValueError(text), None)
        faulthandler.enable()
        os.kill(os.getpid(), signal.SIGABRT)

    running = start_node()
    job = make_cluster(compute).submit(EVIL)
    assert job() is None
    assert "SIGABRT" in job.exception
    running.stop()
    assert_harmless(running.stdout + running.stderr)


MUCH = """
import sys
import dispy

class Loud:
    def __getstate__(self):
        return {}

    def __setstate__(self, state):
        if sys.argv[0] == "dispy":
            for stream in (sys.stdout, sys.stderr):
                print("x" * 300_000, file=stream, flush=True)

loud = Loud()

def compute():
    return type(loud).__name__

print(dispy.JobCluster(compute, depends=[Loud]).submit()())
"""


def test_much_output_of_code_that_is_being_loaded(run_program: RunProgram) -> None:
    """Somebody takes it in, also on the program's own node, whose stdout nobody reads."""
    program = run_program(MUCH)
    assert program.wait(15) == 0, program.stderr[:1000]
    assert program.stdout == "Loud\n"
