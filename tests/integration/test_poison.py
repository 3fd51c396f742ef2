"""No byte that is said before the proof reaches anything that builds objects or runs code; in a scheduler none ever.

Node, client and scheduler run with every unpickler and evaluator poisoned (``poison.py``): a call is recorded, and
raises. Strangers then say pickles, in the clear, in frames and in messages, and thousands of things that a fuzzer
made of the handshake. Nothing may be recorded; that something would be is shown afterwards.
"""

from __future__ import annotations

import os
import pickle
import random
import signal
import socket
import ssl
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

import msgspec
import pytest

import dispy
from dispy.protocol import frames, limits
from dispy.protocol.handshake import Challenge, Proof
from dispy.security.tls import Tls, dialer_tls
from fuzz.mutations import HANDSHAKE, HELLO, Mutator

from .conftest import RunProgram, StartNode
from .helpers import Node, Place, Program, Scheduler, wait_for

POISON = str(Path(__file__).with_name("poison.py"))

encode = msgspec.msgpack.encode


class Bomb:
    """Unpickled, it does something."""

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return os.system, ("touch exploded",)


def framed(body: bytes, kind: int = frames.CONTROL, stream: int = 0) -> bytes:
    return frames.header(kind, len(body), stream) + body


def nasty() -> list[bytes]:
    """Pickles, and code, wherever somebody might look for them."""
    pickles = [pickle.dumps(Bomb(), protocol) for protocol in range(pickle.HIGHEST_PROTOCOL + 1)]
    texts = ["__import__('os').system('touch exploded')", "!!python/object/apply:os.system ['true']"]
    found = list(pickles)
    for item in (*pickles, *(text.encode() for text in texts)):
        found += [
            framed(item),
            framed(item, frames.CHUNK, 1),
            framed(encode(item)),
            framed(encode([1, item])),
            framed(encode([1, "dispy", [limits.VERSION], "client", item])),
            framed(encode([1, "dispy", [item], "client", bytes(32)])),
            framed(encode([1, "dispy", [limits.VERSION], "client", bytes(32), item])),
            framed(encode([2, limits.VERSION, item])),
            framed(encode([2, limits.VERSION, bytes(32), item])),
            framed(encode([3, item[:32].ljust(32, b".")])),
            framed(encode([4, [item]])),
            framed(encode(msgspec.msgpack.Ext(1, item))),
            framed(encode([1, msgspec.msgpack.Ext(-1, item)])),
            framed(encode(HELLO)) + framed(item),
            framed(encode(HELLO)) + framed(encode([3, item[:32].ljust(32, b".")])),
            framed(encode(HELLO)) + framed(encode([4, 1, [[1, 1, item]]])),
        ]
    return found


def fuzzed(count: int) -> Iterator[bytes]:
    mutator = Mutator(random.Random("poison"))
    for _ in range(count):
        yield mutator.blob(HANDSHAKE)


def say(node: Node, data: bytes, context: ssl.SSLContext | None = None) -> None:
    """Say something to a node, and wait until it has closed or had enough time to look at it."""
    with ExitStack() as stack, suppress(OSError):
        link = stack.enter_context(socket.create_connection((node.host, node.port), timeout=8))
        if context is not None:
            link = stack.enter_context(context.wrap_socket(link, server_hostname="node"))
        link.sendall(data)
        link.shutdown(socket.SHUT_WR)
        while link.recv(4096):
            pass


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_a_node_loads_nothing_before_the_proof(start_node: StartNode, place: Place, tls: bool) -> None:
    recorded, armed = place.root / "recorded", place.root / "armed"
    node = start_node(
        "--tls" if tls else "--no_tls", python=[sys.executable, POISON, str(recorded), str(armed)]
    )
    assert node.uses_tls == tls
    armed.touch()
    context = dialer_tls(Tls(wanted=True)).context if tls else None
    for data in (*nasty(), *fuzzed(100 if tls else 800)):
        say(node, data, context)
    for data in (*nasty()[::7], *fuzzed(200)):
        say(node, b"\x16" + data if tls else data)
    assert not recorded.exists(), recorded.read_text()
    node.send(signal.SIGRTMIN)
    text = wait_for(
        lambda: recorded.read_text() if recorded.exists() else "",
        lambda text: "dispy.payload is" in text,
        what="the poison works",
    )
    assert "NOT POISONED" not in text
    for name in (
        "pickle.loads",
        "_pickle.loads",
        "pickle.Unpickler",
        "cloudpickle.loads",
        "marshal.loads",
        "exec",
    ):
        assert name in text
    assert "dispy.payload is not loaded" in text
    assert not (place.root / "exploded").exists()


CLIENT = """
import os, sys, time
import dispy

armed, go, *ports = sys.argv[1:]
*strange, honest = [("127.0.0.1", int(port)) for port in ports]
cluster = dispy.JobCluster(len, nodes=strange)
jobs = [cluster.submit("abc") for _ in range(3)]
open(armed, "w").close()
while not os.path.exists(go):
    cluster.discover_nodes([])  # now, and not once in two seconds
    time.sleep(0.01)
print("nothing", [job.status for job in jobs], flush=True)
for job in jobs:
    cluster.cancel(job)
cluster.close()
other = dispy.JobCluster(len, nodes=[honest])
job = other.submit("abc")
try:
    print("result", job(), flush=True)
except Exception as error:
    print("raises", type(error).__name__, error, flush=True)
other.close()
"""


class Hostile:
    """What a client dials instead of a node: each connection hears something else."""

    def __init__(self, said: Sequence[bytes]) -> None:
        self._said = said
        self.count = 0
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=100)
        self.port: int = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, name="hostile")
        self._thread.start()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                link, _ = self._socket.accept()
                with link, suppress(OSError):
                    link.settimeout(8)
                    link.recv(4096)
                    link.sendall(self._said[self.count % len(self._said)])
                    link.shutdown(socket.SHUT_WR)
                    while link.recv(4096):
                        pass
                self.count += 1

    def close(self) -> None:
        """Stop."""
        self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._socket.close()


def test_a_client_loads_nothing_before_the_proof(
    start_node: StartNode, run_program: RunProgram, place: Place
) -> None:
    """And then it loads a result, which is recorded: so the poison works."""
    challenge = framed(encode(Challenge(limits.VERSION, bytes(32))))
    proof = framed(encode(Proof(bytes(32))))
    said = [data for each in nasty() for data in (each, challenge + each, challenge + proof + each)]
    said += [each if number % 2 else challenge + each for number, each in enumerate(fuzzed(600))]
    recorded, armed, go = (place.root / name for name in ("recorded", "armed", "go"))
    node = start_node()
    with ExitStack() as stack:
        servers = [Hostile(said[number::8]) for number in range(8)]
        for server in servers:
            stack.callback(server.close)
        ports = [server.port for server in servers]
        program = place.root / "client.py"
        program.write_text(CLIENT)
        client = run_program(
            Path(POISON).read_text(),
            *map(str, (recorded, armed, program, armed, go, *ports, node.port)),
            name="poisoned.py",
        )
        wait_for(
            lambda: (sum(server.count for server in servers), client.process.poll(), client.stderr[-2000:]),
            lambda seen: seen[0] > len(said) or seen[1] is not None,
            what="everything was said",
            deadline_s=15,
        )
        assert not recorded.exists(), recorded.read_text()
        go.touch()
        client.wait_line("^nothing ")
        assert client.wait(10) == 0, client.stderr
    assert "raises" in client.stdout or "result None" in client.stdout
    text = recorded.read_text()
    assert "payload.load" in text or "pickle.loads" in text
    assert not (place.root / "exploded").exists()


def work(data: bytes, fails: bool) -> bytes:
    dispy_provisional_result(len(data))  # type: ignore[name-defined]
    print("done")
    if fails:
        raise ValueError(len(data))
    return data


def test_a_shared_scheduler_loads_nothing_at_all(start_node: StartNode, place: Place) -> None:
    """Code, arguments, objects, results, provisional ones and exceptions pass it, small and large."""
    recorded, armed = place.root / "recorded", place.root / "armed"
    start_node()
    command = [sys.executable, POISON, str(recorded), str(armed), "-m", "dispy.dispyscheduler"]
    scheduler = Program([*command, "--listen_port", "0"], place)
    try:
        port = int(scheduler.wait_line(Scheduler.LINE)[3])
        with dispy.SharedJobCluster(work, scheduler_host="127.0.0.1", scheduler_port=port) as cluster:
            assert cluster.submit(b"", False)() == b""
            armed.touch()
            large = cluster.put(bytes(1_000_000))
            assert len(cluster.submit(large, False)()) == 1_000_000
            for size in (10, 1_000_000):
                assert cluster.submit(bytes(size), False)() == bytes(size)
                failing = cluster.submit(bytes(size), True)
                assert failing() is None
                assert f"ValueError: {size}" in (failing.exception or "")
        assert not recorded.exists(), recorded.read_text()
        scheduler.send(signal.SIGRTMIN)
        wait_for(
            lambda: recorded.read_text() if recorded.exists() else "",
            lambda text: "dispy.payload is not loaded" in text and "NOT POISONED" not in text,
            what="the poison works",
        )
    finally:
        armed.unlink(missing_ok=True)
        scheduler.send(signal.SIGTERM)
        scheduler.wait()
        scheduler.end()
