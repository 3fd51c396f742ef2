"""What a stranger's bytes reach, one target after the other, and what must hold whatever they are.

A target has one conversation with one fresh object, says things made by a ``Mutator``, and raises ``Fault``
if something is not as it must be. What must hold is said again here and in ``talks``, slowly and
obviously, and not asked of the code under test: what a listener may have said before the proof is compared
byte by byte, and a connection may be ready only if the right proof was among the bytes it got.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from dispy.errors import DispyError, RemoteProtocolError
from dispy.protocol import frames, limits, node
from dispy.protocol.connection.machine import ConnectionMachine
from dispy.protocol.frames import FrameReader, guess_protocol
from dispy.protocol.handshake import NONCE_SIZE, REFUSAL, TLS_REFUSAL, Handshake, Proof, find_fault
from dispy.security.keys import alone
from dispy.system.escaping import line

from .mutations import (
    CLIENT_HELLO,
    EVERYTHING,
    FROM_NODE,
    HANDSHAKE,
    HEADER,
    LENGTHS,
    ON_NODE,
    OPENINGS,
    SERVER_HELLO,
    STREAMS,
    TO_NODE,
    Message,
    Mutator,
    encode,
)
from .talks import (
    KEY,
    OTHER,
    OTHER_KEY,
    PROVED_BUFFER_MAX,
    STRANGER_BUFFER_MAX,
    Fault,
    Talk,
    dialing,
    framed,
    listening,
)

REASON_MAX = 400
"""Characters of a reason that is logged: a stranger cannot make it long."""

SIGHT = 1024
"""Bytes that a listener looks at."""

TLS_MAX = 4 * limits.KIB
"""Bytes that a listener's TLS says to a stranger: its certificate and little else."""

REFUSALS = (DispyError, msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What may be wrong with what a peer says; anything else is a crash."""

GUESSES = {"TLS", "SSH", "HTTP", "dispy's protocol", "another protocol"}

REFUSAL_FRAME = framed(REFUSAL)
PROOF_SPANS = Message.of(Proof(bytes(32))).spans


@dataclass(frozen=True, slots=True)
class Suspects:
    """The code under test; tests of the fuzzer put something broken in its place."""

    connection: type[ConnectionMachine] = ConnectionMachine
    handshake: type[Handshake] = Handshake
    reader: type[FrameReader] = FrameReader
    guess: Callable[[bytes], str] = guess_protocol
    look: Callable[..., tuple[str, bytes] | None] = find_fault


class Targets:
    """All targets, over one source of chance.

    Args:
        source: Where chance is from; also of the nonces of the connections. TLS has its own, so that what is
            encrypted differs from run to run.
        suspects: The code under test.
    """

    def __init__(self, source: random.Random, suspects: Suspects) -> None:
        self._source = source
        self._suspects = suspects
        self.mutator = Mutator(source)
        self.said: list[bytes] = []
        """What the present input consists of."""
        self._table: list[tuple[float, Callable[[], None]]] = [
            (0.16, self.dialer),
            (0.16, self.handshake),
            (0.15, self.reader),
            (0.06, self.guess),
            (0.22, self.decoders),
            (0.015, self.proved),
            (0.006, self.tls_listener),
            (0.003, self.tls_dialer),
            (0.0007, self.inside_tls),
            (0.0003, self.damaged_tls),
            (0.0005, self.proved_inside_tls),
        ]
        """Share and target; what is left is the listener's."""

    def run(self) -> str:
        """Drive one target once, with a new input; returns its name.

        Raises:
            Fault: Something was not as it must be. Any other exception is a crash.
        """
        self.said = []
        target = self._pick()
        target()
        return target.__name__

    def _pick(self) -> Callable[[], None]:
        chance = self.mutator.chance()
        for share, target in self._table:
            chance -= share
            if chance < 0:
                return target
        return self.listener

    # Connections.

    def _talk(self, *, is_dialer: bool, tls: bool = False, is_peer_encrypting: bool = False) -> Talk:
        context = (dialing() if is_dialer else listening()) if tls else None
        # Who dials is a client, as a rule; it need not be.
        is_client = is_dialer != (self.mutator.chance() < 0.2)
        talk = Talk(
            self.mutator,
            self._suspects.connection,
            self._source.randbytes(NONCE_SIZE),
            "client" if is_client else "node",
            is_dialer=is_dialer,
            tls=context,
            is_peer_encrypting=is_peer_encrypting,
        )
        self.said = talk.said
        return talk

    def _check_state(self, talk: Talk) -> None:
        """A connection waits, or was refused with a reason; it is ready only by the right proof."""
        connection, error = talk.machine, talk.machine.error
        if talk.is_proven and talk.peer_mac() not in b"".join(talk.said):
            raise Fault("ready without the right proof")
        if connection.is_ready != (talk.is_proven and error is None):
            raise Fault(f"ready: {connection.is_ready}, told so: {talk.is_proven}, {error!r}")
        if (error is not None) != talk.is_over:
            raise Fault(f"refused with {error!r}, over: {talk.is_over}")
        if error is None:
            return
        if not isinstance(error, REFUSALS):
            raise Fault(f"refused with {error!r}")
        if not talk.is_proven:
            reason = line(str(error))
            if not isinstance(error, DispyError) or len(reason) > REASON_MAX or not reason.isascii():
                raise Fault(f"refused before the proof with {error!r}")

    def listener(self) -> None:
        """A stranger connects to us."""
        self._to_listener(self._talk(is_dialer=False))

    def inside_tls(self) -> None:
        """Likewise, or we to a stranger, with TLS that is in order."""
        is_dialer = self.mutator.chance() < 0.4
        talk = self._talk(is_dialer=is_dialer, tls=True, is_peer_encrypting=True)
        if is_dialer:
            self._to_dialer(talk)
        else:
            self._to_listener(talk)

    def damaged_tls(self) -> None:
        """TLS is in order, and then somebody on the way changes what is said, before the proof."""
        mutator = self.mutator
        talk = self._talk(is_dialer=mutator.chance() < 0.5, tls=True, is_peer_encrypting=True)
        if mutator.chance() < 0.5:
            talk.say(talk.peer_opening())
        talk.say(framed(encode(Proof(talk.peer_mac()))), is_damaged=True)
        self._check_state(talk)
        if talk.is_proven and not talk.said[1:]:
            raise Fault("ready by half a handshake")
        if not talk.is_over:
            self._pass_deadline(talk)
        talk.end()

    def _to_listener(self, talk: Talk) -> None:
        mutator = self.mutator
        if mutator.chance() < 0.6:
            first = mutator.blob(HANDSHAKE)
            talk.say(first)
            # Of less than a header the connection may wait for more.
            is_refused = (
                not talk.is_encrypting
                and len(first) >= frames.HEADER_SIZE
                and self._is_refused_at_sight(first, tls=False)
            )
            if is_refused and not talk.is_over:
                raise Fault(f"refused at sight, and not after reading: {first.hex()}")
        else:
            talk.say(talk.peer_opening())
            if talk.hear() != framed(talk.challenge()):
                raise Fault(f"answered {talk.hear().hex()} to an honest Hello")
        if not talk.is_over and mutator.chance() < 0.8:
            talk.say(self._doubtful_proof(talk) if talk.hear() else mutator.blob(HANDSHAKE))
        self._check_state(talk)
        self._check_told(talk)
        if not talk.is_proven:
            if not talk.is_over:
                self._pass_deadline(talk)
                self._check_told(talk)
            if mutator.chance() < 0.1:
                talk.say_late(self._late(talk))
        talk.end()

    def _is_refused_at_sight(self, data: bytes, *, tls: bool) -> bool:
        """Whether the listener would have refused it by its first bytes; it says one of two things then."""
        fault = self._suspects.look(data[:SIGHT], tls=tls) if data else None
        if fault is None:
            return False
        reason, refusal = fault
        if (
            refusal not in ((TLS_REFUSAL, b"") if tls else (REFUSAL,))
            or not reason.isascii()
            or len(reason) > REASON_MAX
        ):
            raise Fault(f"refused at sight with {fault!r}")
        return True

    def _check_told(self, talk: Talk) -> None:
        """A stranger gets a challenge at most, and the one refusal."""
        challenge = framed(talk.challenge())
        heard = talk.hear()
        if talk.is_proven:
            if not heard.startswith(challenge + framed(talk.own_proof())):
                raise Fault(f"told {heard.hex()} to somebody with the right proof")
            return
        end = REFUSAL_FRAME if talk.is_over else b""
        if heard not in (end, challenge + end):
            raise Fault(f"told {heard.hex()} to a stranger")

    def _late(self, talk: Talk) -> bytes:
        if self.mutator.chance() < 0.5:
            return framed(encode(Proof(talk.peer_mac())))
        return framed(self.mutator.pick(TO_NODE).data)

    def _doubtful_proof(self, talk: Talk) -> bytes:
        """A frame with the right proof, or with something like it."""
        mutator = self.mutator
        way = mutator.chance()
        if way < 0.05:
            return framed(encode(Proof(talk.peer_mac(OTHER_KEY))))
        if way < 0.1:
            return framed(encode(Proof(talk.peer_mac(channel=b"" if talk.is_encrypting else bytes(32)))))
        right = encode(Proof(talk.peer_mac()))
        if way < 0.2:
            return framed(right)
        if way < 0.4:
            return framed(mutator.damage(right))
        if way < 0.5:
            return mutator.damage(framed(right))
        if way < 0.6:
            return mutator.frame(right)
        if way < 0.7:
            return mutator.blob(HANDSHAKE) + framed(right)
        if way < 0.75:
            return talk.hear()
        if way < 0.8:
            return framed(talk.own_proof())
        return mutator.frame(mutator.body(Message(right, PROOF_SPANS)))

    def dialer(self) -> None:
        """We connect to a stranger."""
        self._to_dialer(self._talk(is_dialer=True))

    def _to_dialer(self, talk: Talk) -> None:
        mutator = self.mutator
        hello = framed(talk.hello())
        if talk.hear() != hello:
            raise Fault(f"began with {talk.hear().hex()}")
        talk.say(mutator.blob(HANDSHAKE) if mutator.chance() < 0.5 else talk.peer_opening())
        if not talk.is_over and mutator.chance() < 0.8:
            talk.say(self._doubtful_proof(talk) if talk.hear() != hello else mutator.blob(HANDSHAKE))
        self._check_state(talk)
        heard = talk.hear()
        if heard != hello and heard != hello + framed(talk.own_proof()):
            raise Fault(f"told {heard.hex()} to a stranger")
        if not talk.is_proven:
            if not talk.is_over:
                self._pass_deadline(talk)
            if mutator.chance() < 0.1:
                talk.say_late(self._late(talk))
        talk.end()

    def _pass_deadline(self, talk: Talk) -> None:
        """The peer has not proved itself in time."""
        talk.machine.refuse(RemoteProtocolError("no proof in time"))
        talk.send_all()
        if not isinstance(talk.machine.error, RemoteProtocolError):
            raise Fault(f"after the deadline: {talk.machine.error!r}")
        self._check_state(talk)

    def tls_listener(self) -> None:
        """A stranger, who may begin TLS or not, connects to a listener with TLS."""
        mutator = self.mutator
        talk = self._talk(is_dialer=False, tls=True)
        way = mutator.chance()
        data = mutator.tls(CLIENT_HELLO) if way < 0.4 else mutator.blob(HANDSHAKE)
        if not data.startswith(b"\x16") and way < 0.5:
            data = b"\x16" + data[1:]
        talk.say(data)
        # Whoever gets a certificate for it has said what TLS begins with.
        is_honest = len(b"".join(talk.written)) > 100
        self._check_state(talk)
        if not talk.is_over:
            self._pass_deadline(talk)
        if talk.is_proven:
            raise Fault("ready without TLS")
        self._check_records(talk)
        talk.end()
        if not self._is_refused_at_sight(data, tls=True):
            if data[:1] not in (b"", b"\x16"):
                raise Fault(f"taken for TLS: {data.hex()}")
        elif is_honest:
            raise Fault(f"a good ClientHello is refused at sight: {data.hex()}")

    def tls_dialer(self) -> None:
        """We connect with TLS to a stranger, who may speak it or not."""
        mutator = self.mutator
        talk = self._talk(is_dialer=True, tls=True)
        talk.say(mutator.tls(SERVER_HELLO) if mutator.chance() < 0.6 else mutator.blob(HANDSHAKE))
        self._check_state(talk)
        self._check_records(talk)
        if not talk.is_over:
            self._pass_deadline(talk)
        talk.end()

    def _check_records(self, talk: Talk) -> None:
        """What was written is records of TLS, and not many."""
        said = written = b"".join(talk.written)
        if len(written) > TLS_MAX or KEY in written:
            raise Fault(f"{len(written)} bytes of TLS to a stranger: {written.hex()}")
        while written:
            # An alert, 21, repeats what version the stranger claimed.
            is_version = written[1:2] == b"\x03" or written[:1] == b"\x15"
            if len(written) < 5 or written[0] not in range(0x14, 0x18) or not is_version:
                raise Fault(f"no TLS: {said.hex()}")
            written = written[5 + int.from_bytes(written[3:5]) :]

    def proved(self) -> None:
        """A peer has proved itself, and then talks nonsense."""
        self._say_nonsense(self._talk(is_dialer=self.mutator.chance() < 0.5))

    def proved_inside_tls(self) -> None:
        """Likewise with TLS, where somebody on the way changes bytes, too."""
        is_dialer = self.mutator.chance() < 0.5
        self._say_nonsense(self._talk(is_dialer=is_dialer, tls=True, is_peer_encrypting=True))

    def _say_nonsense(self, talk: Talk) -> None:
        mutator = self.mutator
        talk.say(talk.peer_opening())
        talk.say(framed(encode(Proof(talk.peer_mac()))))
        if not talk.machine.is_ready:
            raise Fault(f"the right proof is refused: {talk.machine.error!r}")
        if mutator.chance() < 0.1:
            talk.send_large(_LARGE)
        for _ in range(1 + mutator.below(4)):
            is_damaged = talk.is_encrypting and mutator.chance() < 0.3
            talk.say(self._nonsense(FROM_NODE if talk.role == "client" else TO_NODE), is_damaged=is_damaged)
            # Both sides go on as if nothing had happened, until they are told otherwise.
            talk.machine.send(node.Detach())
            talk.machine.look()
            talk.send_all()
        self._check_state(talk)
        talk.end()

    def _nonsense(self, corpus: Sequence[Message]) -> bytes:
        mutator = self.mutator
        way = mutator.chance()
        if way < 0.4:
            return mutator.blob(corpus)
        if way < 0.6:
            return mutator.frame(mutator.pick(corpus).data)
        stream = mutator.pick(STREAMS)
        number = mutator.pick(LENGTHS)
        if number > 1 << 16 and way > 0.65:
            number = mutator.below(200)
        said = b""
        for _ in range(1 + mutator.below(4)):
            kind = mutator.pick(_STREAM_KINDS)
            body = b""
            if kind in (frames.OPEN, frames.GRANT):
                body = number.to_bytes(8, "big") * (1 if kind == frames.OPEN else 2)
            elif kind == frames.CHUNK:
                body = bytes(min(number, 1 << 16))
            said += HEADER.pack(kind, b"\0\0\0", stream, len(body)) + body
        return mutator.damage(said) if mutator.chance() < 0.3 else said

    # Parts.

    def handshake(self) -> None:
        """Messages of any size to a handshake, without a frame around them."""
        mutator = self.mutator
        is_dialer = mutator.chance() < 0.5
        role = "client" if is_dialer != (mutator.chance() < 0.2) else "node"
        side = self._suspects.handshake(
            alone(KEY), role, OTHER[role], bytes(32), is_dialer=is_dialer, now=0.0
        )
        side.start()
        for _ in range(3):
            message = mutator.pick(HANDSHAKE if mutator.chance() < 0.9 else EVERYTHING)
            body = message.data if mutator.chance() < 0.4 else mutator.body(message)
            if mutator.chance() < 0.3:
                body = mutator.damage(body)
            self.said.append(body)
            try:
                side.receive(body)
            except DispyError:
                break
        if side.done:
            raise Fault("done without a proof")

    def reader(self) -> None:
        """Bytes cut into frames: as a slow and obvious reader does it, however they are split."""
        mutator = self.mutator
        is_wide, widens = mutator.chance() < 0.2, mutator.chance() < 0.2
        control_max = limits.CONTROL_FRAME_MAX if is_wide else limits.HANDSHAKE_FRAME_MAX
        reader = self._suspects.reader(control_max)
        data = mutator.blob(EVERYTHING)
        if mutator.chance() < 0.3:
            data += self._nonsense(EVERYTHING)
        self.said.append(data)
        buffer_max = PROVED_BUFFER_MAX if is_wide or widens else STRANGER_BUFFER_MAX
        found: list[tuple[int, int, bytes]] = []
        is_refused = False
        try:
            for frame in self._read(reader, data, buffer_max):
                found.append(frame)
                if widens:
                    reader.widen()
        except RemoteProtocolError:
            is_refused = True
        if (found, is_refused) != slow_frames(data, is_wide=is_wide, widens=widens):
            raise Fault(f"read {found}, refused: {is_refused}; wide: {is_wide}, widens: {widens}")

    def _read(self, reader: FrameReader, data: bytes, buffer_max: int) -> Iterator[tuple[int, int, bytes]]:
        step = self.mutator.step(len(data))
        at = 0
        while at < len(data):
            buffer = reader.writable()
            if not 0 < len(buffer) <= buffer_max:
                raise Fault(f"a buffer of {len(buffer)} bytes")
            part = data[at : at + min(step, len(buffer))]
            buffer[: len(part)] = part
            reader.received(len(part))
            while (frame := reader.next_frame()) is not None:
                kind, stream, body = frame
                yield kind, stream, bytes(body)
            at += len(part)

    def guess(self) -> None:
        """The first bytes of whoever has taken the wrong port."""
        first = self.mutator.damage(self.mutator.pick(OPENINGS))[: frames.HEADER_SIZE]
        self.said.append(first)
        if self._suspects.guess(first) not in GUESSES:
            raise Fault("a guess that nobody knows")

    def decoders(self) -> None:
        """Messages of peers and processes that may be trusted, and yet are not what they should be."""
        mutator = self.mutator
        way = mutator.chance()
        decode: Callable[[bytes], Any]
        if way < 0.3:
            decode, message = node.to_node_decoder.decode, mutator.pick(TO_NODE)
        elif way < 0.6:
            decode, message = node.from_node_decoder.decode, mutator.pick(FROM_NODE)
        else:
            decode, message = mutator.pick(ON_NODE)
        body = mutator.body(message)
        if mutator.chance() < 0.5:
            body = mutator.damage(body)
        self.said.append(body)
        try:
            decode(body)
        except REFUSALS:
            pass


_LARGE = bytes(limits.STREAM_WINDOW + limits.MIB)
"""A payload that does not fit a stream's window."""

_STREAM_KINDS = (frames.OPEN, frames.CHUNK, frames.CHUNK, frames.GRANT, frames.ABORT, frames.PING)

_NARROW = {frames.CONTROL: limits.HANDSHAKE_FRAME_MAX}
_WIDE = {
    frames.CONTROL: limits.CONTROL_FRAME_MAX,
    frames.OPEN: 8,
    frames.CHUNK: limits.CHUNK_MAX,
    frames.GRANT: 16,
    frames.ABORT: 0,
    frames.PING: 0,
}


def slow_frames(data: bytes, *, is_wide: bool, widens: bool) -> tuple[list[tuple[int, int, bytes]], bool]:
    """The frames in ``data``, and whether it is refused for what comes behind them."""
    found: list[tuple[int, int, bytes]] = []
    while len(data) >= frames.HEADER_SIZE:
        kind, _, stream, length = HEADER.unpack_from(data)
        allowed = _WIDE if is_wide or (widens and found) else _NARROW
        if length > allowed.get(kind, -1):
            return found, True
        end = frames.HEADER_SIZE + length
        if len(data) < end:
            break
        found.append((kind, stream, data[frames.HEADER_SIZE : end]))
        data = data[end:]
    return found, False
