"""The fuzzer finds nothing, and would find something."""

from __future__ import annotations

import hmac
import random
import re
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from dispy.errors import RemoteProtocolError
from dispy.protocol import limits
from dispy.protocol.connection.machine import ConnectionMachine
from dispy.protocol.connection.outgoing_streams import OutgoingStreams
from dispy.protocol.connection.states import PROVEN, Signal, State
from dispy.protocol.frames import Frame, FrameReader
from dispy.protocol.handshake import Challenge, Handshake, Proof
from dispy.security.tls import ListenerTls, Tls, dialer_tls

from . import strangers
from .mutations import EVERYTHING, Mutator, encode
from .talks import Talk, framed, listening
from .targets import GUESSES, Suspects, Targets

INPUTS = 20_000

SOON = 20_000
"""Inputs in which something plainly broken must have been found."""


TLS_SAID_MAX = 80 * limits.KIB
"""Bytes that a stranger may say in TLS: certificates take 30 kB."""


@pytest.fixture(autouse=True)
def _temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A certificate is in a file for a moment; not in everybody's directory."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


def test_nothing_is_found() -> None:
    report = strangers.run(20, INPUTS)
    assert not report.faults, "\n".join([str(report), *report.examples.values()])
    assert report.inputs == INPUTS
    assert set(report.by_target) >= {
        "listener",
        "dialer",
        "handshake",
        "reader",
        "decoders",
        "tls_listener",
    }


def test_the_same_seed_gives_the_same_inputs() -> None:
    def said(seed: str) -> list[list[bytes]]:
        targets = Targets(random.Random(seed), Suspects())
        found = []
        for _ in range(300):
            # What is encrypted has chance of its own.
            if "tls" not in targets.run():
                found.append(targets.said)
        return found

    assert said("one") == said("one")
    assert said("one") != said("two")


class TakesAnyProof(Handshake):
    def _on_dialers_proof(self, proof: Proof) -> bytes:
        self.done = True
        return encode(Proof(self._mac(b"listener", self._key)))

    def _on_listeners_proof(self, proof: Proof) -> None:
        self.done = True


class ProvesItselfFirst(Handshake):
    def _on_hello(self, hello: Any, body: bytes) -> bytes:
        super()._on_hello(hello, body)
        return encode(Proof(self._mac(b"listener", self._key)))


class AnswersChallengesTwice(Handshake):
    def _on_challenge(self, challenge: Challenge, body: bytes) -> bytes:
        answer = super()._on_challenge(challenge, body)
        self._expects = Challenge
        return answer


def with_handshake(broken: type[Handshake]) -> type[ConnectionMachine]:
    class Broken(ConnectionMachine):
        def _begin_proof(self, channel: bytes, advice: str = "") -> None:
            super()._begin_proof(channel, advice)
            assert self._stranger is not None
            self._stranger.handshake.__class__ = broken

    return Broken


class ReadyAtOnce(ConnectionMachine):
    def _on_handshake(self, *arguments: Any) -> Signal:
        event = super()._on_handshake(*arguments)
        if event is not PROVEN:
            self._enter(State.READY)
        return PROVEN


class Crashes(ConnectionMachine):
    def _blame(self, error: Exception, what: str, now: float | None) -> None:
        super()._blame({"a frame of kind 1": error}[str(error)], what, now)


class Explains(ConnectionMachine):
    def refuse(self, error: Exception) -> None:
        self._write_control(str(error).encode())
        super().refuse(error)


class TellsNothing(ConnectionMachine):
    def refuse(self, error: Exception) -> None:
        self.error = self.error or error
        self._enter(State.ENDED)


class GoesOn(ConnectionMachine):
    def refuse(self, error: Exception) -> None:
        state = self.state
        super().refuse(error)
        self._enter(state)


class GoesOnLate(ConnectionMachine):
    def received(self, count: int) -> None:
        if self.is_over and self._stranger is not None:
            self._enter(State.PROOF)
        super().received(count)


class KeepsPayloads(ConnectionMachine):
    def closed(self) -> None:
        self.outgoing = OutgoingStreams()
        super().closed()


class TakesLargeFrames(ConnectionMachine):
    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._reader.control_max = limits.CONTROL_FRAME_MAX


class HasNoLimits(FrameReader):
    def _check(self, kind: int, length: int) -> None:
        if length > limits.CONTROL_FRAME_MAX:
            super()._check(kind, length)


class LosesFrames(FrameReader):
    def next_frame(self) -> Frame | None:
        frame = super().next_frame()
        if frame is None and self._end - self._start == 1:
            self._start = self._end
        return frame


def guess_by_table(first: bytes) -> str:
    return {guess[:1]: guess for guess in GUESSES}.get(chr(first[0]), "TLS") if first[3:] else str(first[2])


@pytest.mark.parametrize(
    "suspects",
    [
        Suspects(handshake=TakesAnyProof),
        *(
            Suspects(connection=with_handshake(broken))
            for broken in (TakesAnyProof, ProvesItselfFirst, AnswersChallengesTwice)
        ),
        *(
            Suspects(connection=broken)
            for broken in (
                ReadyAtOnce, Crashes, Explains, TellsNothing, GoesOn, GoesOnLate, KeepsPayloads, TakesLargeFrames,
            )
        ),
        Suspects(reader=HasNoLimits),
        Suspects(reader=LosesFrames),
        Suspects(guess=guess_by_table),
    ],
    ids=lambda suspects: next(
        f"{name} {getattr(suspects, name).__name__}"
        for name in ("connection", "handshake", "reader", "guess")
        if getattr(suspects, name) is not getattr(Suspects(), name)
    ),
)  # fmt: skip
def test_what_is_broken_is_found(suspects: Suspects) -> None:
    report = strangers.Report()
    for block in range(SOON // 100):
        strangers.run_block(7, block, 100, suspects, report)
        if report.faults:
            break
    assert report.faults, report
    assert all("seed 7, block" in example for example in report.examples.values())


def test_a_fault_is_found_again_by_its_block() -> None:
    suspects = Suspects(connection=TakesLargeFrames)
    first = strangers.run(7, 3 * strangers.BLOCK, suspects=suspects)
    again = strangers.Report()
    strangers.run_block(7, 2, strangers.BLOCK, suspects, again)
    alone = strangers.run(7, strangers.BLOCK, first=2, suspects=suspects)
    assert again.faults == alone.faults
    assert again.faults <= first.faults


def talk_to(*, is_dialer: bool = False, tls: ListenerTls | None = None) -> Talk:
    """A conversation with a client that dials or a node that listens."""
    role = "client" if is_dialer else "node"
    mutator = Mutator(random.Random(1))
    return Talk(mutator, ConnectionMachine, bytes(32), role, is_dialer=is_dialer, tls=tls)


@pytest.mark.parametrize("is_dialer", [False, True])
def test_half_open_connections_are_small(is_dialer: bool) -> None:
    """Memory of one that has been told everything that may be said before the proof, and waits."""
    count = 200
    kept = []
    tracemalloc.start()
    try:
        for _ in range(count):
            talk = talk_to(is_dialer=is_dialer)
            talk.give(talk.peer_opening() + framed(bytes(512))[:-1])
            assert not talk.is_over
            kept.append(talk)
        size = tracemalloc.get_traced_memory()[0] / count
    finally:
        tracemalloc.stop()
    assert size < 12_000, "bytes of one half-open connection"


def test_every_span_of_every_message_is_a_value() -> None:
    """The fuzzer's own reading of MessagePack is right: what it replaces by nil can be decoded still."""
    import msgspec

    for message in EVERYTHING:
        for start, end in message.spans:
            msgspec.msgpack.decode(message.data[start:end])
            msgspec.msgpack.decode(message.data[:start] + b"\xc0" + message.data[end:])


def key_updates(secret: bytes, count: int) -> Iterator[bytes]:
    """Records of TLS that say nothing but to use other keys from now on (RFC 8446, sections 4.6.3, 5.2, 7.1-7.3)."""

    def derive(label: bytes, size: int) -> bytes:
        label = b"tls13 " + label
        text = size.to_bytes(2, "big") + bytes([len(label)]) + label + b"\0\x01"
        return hmac.digest(secret, text, "sha384")[:size]

    plain = b"\x18\0\0\x01\0" + b"\x16"
    head = b"\x17\x03\x03" + (len(plain) + 16).to_bytes(2, "big")
    for _ in range(count):
        yield head + AESGCM(derive(b"key", 32)).encrypt(derive(b"iv", 12), plain, head)
        secret = derive(b"traffic upd", 48)


def test_messages_of_tls_without_end_are_refused(tmp_path: Path) -> None:
    """Each of 27 bytes costs whoever gets it 20 us, and anybody can say so many as there is time for."""
    log = tmp_path / "keys"
    context = dialer_tls(Tls(wanted=True))
    context.context.keylog_filename = str(log)
    talk = talk_to(tls=listening())
    cipher = context.cipher("node")
    cipher.feed(b"")
    talk.give(cipher.pending())
    cipher.feed(b"".join(talk.written))
    talk.give(cipher.pending())
    assert cipher.is_established
    secret = re.search(r"CLIENT_TRAFFIC_SECRET_0 \w+ (\w{96})$", log.read_text(), re.MULTILINE)
    assert secret is not None, "not the cipher with SHA-384"
    for record in key_updates(bytes.fromhex(secret[1]), 10_000):
        if talk.is_over:
            break
        talk.give(record)
    assert talk.is_over
    assert talk.machine.bytes_received < TLS_SAID_MAX
    assert isinstance(talk.machine.error, RemoteProtocolError), talk.machine.error
    talk.end()


def test_a_hello_of_tls_without_end_is_refused() -> None:
    """OpenSSL takes one of 128 KiB, and keeps all of it until it is complete."""
    talk = talk_to(tls=listening())
    talk.give(b"\x16\x03\x01\x40\0\x01\x01\xf0\0" + bytes(16380))
    while not talk.is_over:
        talk.give(b"\x16\x03\x01\x40\0" + bytes(16384))
    assert talk.machine.bytes_received < TLS_SAID_MAX
    talk.end()
