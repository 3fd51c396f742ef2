"""Bad lines and men in the middle between a client and a node: noticed, told, and got over.

What must never be is a wrong result or a hang. Before the proof any change of any byte is noticed, since the
proof covers it. After the proof TLS notices; a plain link does not, which one test here shows. On loopback
nobody can pass a plain link on, as its proof is bound to both ends' ports; so the lines here have TLS.
"""

from __future__ import annotations

import logging
import os
import random
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec
import pytest

import dispy
from dispy.protocol import frames, node
from dispy.protocol.handshake import Proof
from dispy.security.tls import Tls, dialer_tls, listener_tls

from .conftest import MakeCluster, StartNode
from .helpers import RANDOM, Place, outer_address, wait_for
from .pem import Files, options
from .proxy import (
    At,
    Change,
    Direction,
    Proxy,
    by_chance,
    bytewise,
    clean,
    cut,
    delay,
    duplicate,
    flip,
    insert,
    lose,
    proxy,
    reset,
)

encode = msgspec.msgpack.encode

RETRIED_S = 12.0
"""A connection that waits for what never comes has its deadline after 5 s, and is tried anew 2 s later."""

LATE_S = 4.0
"""Whoever waits for a node is told within two seconds what is wrong; a busy machine may add to it."""


Between = Callable[..., Proxy]


@pytest.fixture
def between() -> Iterator[Between]:
    """Starts proxies. Is asked for before ``make_cluster``, so that they end after the clusters."""
    with ExitStack() as stack:
        yield lambda *args, **kwargs: stack.enter_context(proxy(*args, **kwargs))


def result_of(job: dispy.DispyJob) -> Any:
    """A job's result, if it has one in time."""
    assert job.wait(RETRIED_S), f"{job.status} after {RETRIED_S:g} s"
    return job()


def triple(number: int) -> int:
    return 3 * number


# Before the proof.

TLS_SIZES: dict[Direction, int] = {"to node": 450, "to client": 750}
"""Bytes of the handshake, frame headers included; about, and a little less."""


def early_faults(count: int, sizes: dict[Direction, int]) -> list[At]:
    """Faults in the messages of the handshake: some in the headers of first and last, some anywhere."""
    chance = random.Random("early")
    found = []
    kinds = [flip(1), flip(0x80), duplicate, lose, cut, reset]
    for number in range(count):
        direction: Direction = "to node" if number % 2 else "to client"
        size = sizes[direction]
        headers = [0, 8, 15, size - 52, size - 37]
        place = chance.choice(headers) if number % 4 < 2 else chance.randrange(size)
        found.append(At(direction, place, kinds[number % len(kinds)]))
    return found


def test_a_handshake_that_is_changed_fails_and_is_tried_again(
    start_node: StartNode, between: Between, make_own_cluster: MakeCluster, caplog: pytest.LogCaptureFixture
) -> None:
    """One cluster, many ways to one node; each of them spoils its first connection only."""
    serving = start_node("--name", "behind")
    faults = early_faults(12, TLS_SIZES)
    proxies = [between(serving.port, lambda number, f=fault: clean if number else f) for fault in faults]
    with caplog.at_level(logging.WARNING, "dispy"):
        start = time.monotonic()
        cluster = make_own_cluster(triple, nodes=[("127.0.0.1", each.port) for each in proxies])
        job = cluster.submit(14)
        wait_for(
            lambda: [each.port for each in proxies if f"127.0.0.1:{each.port}: " not in caplog.text],
            lambda missing: not missing,
            what="every fault is told",
            deadline_s=LATE_S,
        )
        assert result_of(job) == 42
    assert time.monotonic() - start < RETRIED_S
    assert [shown.name for shown in cluster.status().nodes] == ["behind"]


# At any time.


def echo(data: bytes) -> bytes:
    return data


@pytest.mark.parametrize(
    "kinds",
    [
        [cut, reset, delay(0.1)],
        [flip(1), flip(0x80), duplicate, lose, insert(b"\x17\x03\x03\0\x05hello"), insert(bytes(16))],
    ],
    ids=["broken", "changed"],
)
def test_no_result_is_ever_wrong(
    start_node: StartNode, between: Between, make_own_cluster: MakeCluster, kinds: list[Any]
) -> None:
    """The first connections each get a fault somewhere; jobs that may run again end with their results."""
    serving = start_node("--cpus", "2")
    data = [random.Random(number).randbytes(200) for number in range(300)]
    drawn = [by_chance(f"{len(kinds)} {number}", 20_000, kinds) for number in range(8)]
    passing = between(serving.port, lambda number: drawn[number] if number < len(drawn) else clean)
    cluster = make_own_cluster(echo, nodes=[("127.0.0.1", passing.port)], reentrant=True)
    jobs = [cluster.submit(item) for item in data]
    for item, job in zip(data, jobs, strict=True):
        assert result_of(job) == item, (job.status, job.exception)
    assert drawn[0].has_happened


@pytest.mark.parametrize(
    ("direction", "change"),
    [("to node", flip(4)), ("to client", flip(4)), ("to client", reset)],
    ids=["flip to node", "flip to client", "reset"],
)
def test_a_link_with_tls_is_made_anew(
    start_node: StartNode,
    between: Between,
    make_own_cluster: MakeCluster,
    gate: Path,
    direction: Direction,
    change: Change,
) -> None:
    """A byte that is changed after the proof costs the connection, and no job, although none may run twice."""
    serving = start_node("--cpus", "2", "--tls")
    fault = At(direction, 20_000, change)
    passing = between(serving.port, lambda number: clean if number else fault)
    cluster = make_own_cluster(echo_or_wait, nodes=[("127.0.0.1", passing.port)], tls=True)
    waiting = cluster.submit(b"", str(gate))
    data = [random.Random(number).randbytes(200) for number in range(300)]
    jobs = [cluster.submit(item) for item in data]
    assert [result_of(job) for job in jobs] == data, {job.exception for job in jobs}
    gate.touch()
    assert result_of(waiting) == b"", waiting.exception
    assert fault.has_happened
    assert passing.connections == 2


def echo_or_wait(data: bytes, path: str = "") -> bytes:
    while path and not os.path.exists(path):
        time.sleep(0.005)
    return data


def test_single_bytes_are_as_good_as_packets(
    start_node: StartNode, between: Between, make_own_cluster: MakeCluster
) -> None:
    """A forwarder of bytes, as ``ssh -L``, needs no option: loopback has TLS where it was not found by the list."""
    serving = start_node()
    passing = between(serving.port, lambda _: bytewise)
    cluster = make_own_cluster(triple, nodes=[("127.0.0.1", passing.port)])
    assert [result_of(cluster.submit(number)) for number in range(3)] == [0, 3, 6]
    assert passing.connections == 1


# In the middle.


def test_a_man_in_the_middle_of_tls_is_found_out(
    start_node: StartNode,
    between: Between,
    make_cluster: MakeCluster,
    place: Place,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """He speaks TLS with both, each with a certificate, and passes on every byte of what they say in it."""
    serving = start_node("--tls")
    theirs, ours = listener_tls(Tls(wanted=True)), dialer_tls(Tls(wanted=True))
    heard: list[bytes] = []

    def listen_in(direction: Direction, before: int, data: bytes) -> list[bytes]:
        heard.append(data)
        return [data]

    # The first connection only: soon there is another.
    passing = between(
        serving.port,
        lambda number: clean if number else listen_in,
        listens=theirs.context,
        dials=ours.context,
    )
    with caplog.at_level(logging.WARNING, "dispy"):
        cluster = make_cluster(triple, nodes=[("127.0.0.1", passing.port)], tls=True)
        job = cluster.submit(1)
        told = f"node at 127.0.0.1:{passing.port}: the peer refused our secret; give both sides the same secret"
        wait_for(lambda: caplog.text, lambda text: told in text, what="the client tells", deadline_s=LATE_S)
    # The node was the first to notice: the client's proof is about another certificate than its own.
    serving.wait_line(
        r"refused a connection from 127\.0\.0\.1: the peer does not know our secret", stream="stderr"
    )
    assert not job.finish.is_set()
    assert cluster.status().nodes == []
    # Hello, Challenge, a proof that is good for nothing else, and the refusal.
    assert len(b"".join(heard)) < 300
    key = place.secret_file.read_text().strip()
    assert key.removeprefix("dispy1-").encode() not in b"".join(heard)


def test_a_man_in_the_middle_of_tls_who_plays_the_node_is_found_out(
    start_node: StartNode, between: Between, make_cluster: MakeCluster, caplog: pytest.LogCaptureFixture
) -> None:
    """He says the node's part himself as far as he can: the client tells who does not know the secret."""
    serving = start_node("--tls")
    theirs, ours = listener_tls(Tls(wanted=True)), dialer_tls(Tls(wanted=True))

    def lie(direction: Direction, before: int, data: bytes) -> list[bytes]:
        if direction == "to client" and before:
            proof = encode(Proof(bytes(32)))
            return [frames.header(frames.CONTROL, len(proof)) + proof]
        return [data]

    passing = between(serving.port, lambda _: lie, listens=theirs.context, dials=ours.context)
    with caplog.at_level(logging.WARNING, "dispy"):
        cluster = make_cluster(triple, nodes=[("127.0.0.1", passing.port)], tls=True)
        cluster.submit(1)
        told = f"node at 127.0.0.1:{passing.port}: the peer does not know our secret"
        wait_for(lambda: caplog.text, lambda text: told in text, what="the client tells", deadline_s=LATE_S)
    assert cluster.status().nodes == []


def test_a_plain_link_on_loopback_cannot_be_passed_on(
    start_node: StartNode, between: Between, make_cluster: MakeCluster, caplog: pytest.LogCaptureFixture
) -> None:
    """Another user who passes the proof on has two connections, and the proof is bound to the ends of one."""
    serving = start_node("--no_tls")
    passing = between(serving.port, lambda _: clean)
    with caplog.at_level(logging.WARNING, "dispy"):
        cluster = make_cluster(triple, nodes=[("127.0.0.1", passing.port)], tls=False)
        job = cluster.submit(1)
        told = r"the peer refused our secret; give both sides the same secret; if they have, something forwards"
        wait_for(lambda: caplog.text, lambda text: told in text, what="the client tells", deadline_s=LATE_S)
    told = "refused a connection from 127.0.0.1: the peer does not know our secret.*if they have, something forwards"
    serving.wait_line(told, stream="stderr")
    assert not job.finish.is_set()
    assert make_cluster(triple, nodes=[("127.0.0.1", serving.port)], tls=False).submit(2)() == 6


@pytest.mark.parametrize("way", ["certfile", "cafile"])
def test_a_man_in_the_middle_with_the_key_of_the_certificate_is_found_out(
    start_node: StartNode,
    between: Between,
    make_cluster: MakeCluster,
    files: Files,
    caplog: pytest.LogCaptureFixture,
    way: str,
) -> None:
    """He shows both sides a certificate that they believe, and passes on every byte: the proof is about a session."""
    if way == "certfile":
        node_has = client_has = he_has = files.parameters("self-signed")
    else:
        node_has, client_has = files.parameters("node", "ours"), files.parameters("client", "ours")
        he_has = node_has
    serving = start_node(*options(node_has))
    theirs, ours = listener_tls(Tls(**he_has)).context, dialer_tls(Tls(**he_has)).context
    # A listener that asks for no certificate, and a dialer that checks none: he believes everybody.
    for context in (theirs, ours):
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if way == "cafile":
        ours.load_cert_chain(client_has["certfile"], client_has["keyfile"])
    passing = between(serving.port, lambda _: clean, listens=theirs, dials=ours)
    with caplog.at_level(logging.WARNING, "dispy"):
        cluster = make_cluster(triple, nodes=[("127.0.0.1", passing.port)], **client_has)
        job = cluster.submit(1)
        told = f"node at 127.0.0.1:{passing.port}: the peer refused our secret; give both sides the same secret"
        wait_for(lambda: caplog.text, lambda text: told in text, what="the client tells", deadline_s=LATE_S)
    serving.wait_line(
        r"refused a connection from 127\.0\.0\.1: the peer does not know our secret", stream="stderr"
    )
    assert not job.finish.is_set()
    assert cluster.status().nodes == []
    honest = make_cluster(triple, nodes=[("127.0.0.1", serving.port)], **client_has)
    assert result_of(honest.submit(2)) == 6


def test_a_man_in_the_middle_without_tls_is_not_found_out(
    start_node: StartNode, between: Between, make_own_cluster: MakeCluster, caplog: pytest.LogCaptureFixture
) -> None:
    """What plain links do NOT protect: integrity and secrecy of everything after the handshake.

    Somebody who stands in between passes the handshake on as it is, reads all that follows, changes a job
    on its way, so that its result is that of another, and says to the client in the node's name what he likes. That
    is why plain links are for loopback, where proofs are bound to both ends' ports, and why ``tls=False`` for
    other addresses is warned about at every start. What is protected even here is the proof itself: it opens
    this one connection, and no other (``test_secrets``: replay).
    """
    host = outer_address()
    serving = start_node("--name", "honest", "--host", host, "--no_tls", "--secret", RANDOM)
    leaving = encode(node.Leaving("says who stands in between"))
    foreign = frames.header(frames.CONTROL, len(leaving)) + leaving
    wanted = threading.Event()

    def forge(direction: Direction, before: int, data: bytes) -> list[bytes]:
        if direction == "to node":
            return [data.replace(b"what was asked", b"what he wanted")]
        return [data, foreign] if wanted.is_set() else [data]

    passing = between(serving.port, lambda number: clean if number else forge, host=host)
    with caplog.at_level(logging.WARNING, "dispy"):
        cluster = make_own_cluster(echo, nodes=[(host, passing.port)], tls=False, secret=RANDOM)
        assert cluster.submit(b"what was asked")() == b"what he wanted"
        wanted.set()
        cluster.submit(b"")
        wait_for(
            lambda: caplog.text,
            lambda text: "node honest left: says who stands in between" in text,
            what="the client believes what the node never said",
        )
