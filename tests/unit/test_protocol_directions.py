"""Who dials and who is what are separate: each property of the proof holds in both directions.

A *direction* is the role of the dialer and that of the listener. Each case is an attack, or honest talk, between two
machines; all are tried in both directions, without TLS and with it where that makes a difference.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from typing import Any

import pytest

from dispy.errors import AuthenticationError, DispyError, RemoteProtocolError
from dispy.protocol import frames, limits, node
from dispy.protocol.connection.machine import ConnectionMachine
from dispy.protocol.connection.states import HANDLED, PROVEN
from dispy.protocol.connection.stranger import BUFFER
from dispy.protocol.handshake import REFUSAL, TLS_REFUSAL, Handshake
from dispy.security.keys import Keys, alone
from dispy.security.tls import Cipher, Tls, TlsError, dialer_tls, explain, listener_tls

KEY = alone(bytes(range(32)))
OTHER_KEY = alone(bytes(range(1, 33)))

NOW = 1.8e9
"""The present (seconds since the epoch)."""

LISTENS = listener_tls(Tls(wanted=True))
DIALS = dialer_tls(Tls(wanted=True))

DIRECTIONS = [("client", "node"), ("node", "client")]
"""Role of the dialer, role of the listener."""

PEER = {"client": "node", "node": "client"}
LANGUAGE = {"client": node.from_node_decoder, "node": node.to_node_decoder}
"""Decoder of what a role is told."""
SAYS = {"client": node.Acknowledge(7), "node": node.ComputationReady(7)}
"""A message of each role."""

REFUSED = frames.header(frames.CONTROL, len(REFUSAL)) + REFUSAL


class End:
    """One end: a machine, what it was told, what it has said."""

    def __init__(
        self,
        role: str,
        *,
        dials: bool,
        key: Keys = KEY,
        peer: str = "",
        nonce: int = 1,
        channel: bytes = b"",
        tls: bool = False,
    ) -> None:
        secured: dict[str, Any] = {"tls": DIALS if dials else LISTENS, "peer_name": "peer"} if tls else {}
        decoder: Any = LANGUAGE[role if role in LANGUAGE else "node"]
        self.machine = ConnectionMachine(decoder, key, role, peer or PEER[role], is_dialer=dials, **secured)
        self.events: list[Any] = []
        self.said: list[bytes] = []
        self.machine.start(bytes([nonce]) * 32, NOW, channel)

    def hear(self, data: bytes) -> None:
        while data and not self.machine.is_over:
            room = self.machine.writable()
            count = min(len(room), len(data))
            room[:count] = data[:count]
            data = data[count:]
            self.machine.received(count)
            while (event := self.machine.next_event(0.0)) is not None:
                if event is not HANDLED:
                    self.events.append(event)

    def say(self) -> bytes:
        data = self.machine.data_to_send()
        if data:
            self.said.append(data)
        return data

    def is_refused(self, kind: type[DispyError] = DispyError) -> bool:
        """The connection is over by an error of this kind, and was never ready."""
        return self.machine.is_over and not self.events and isinstance(self.machine.error, kind)


Change = Callable[[bool, bytes], bytes]
"""What becomes of bytes on their way: True if they are the dialer's."""


def talk(dialer: End, listener: End, change: Change = lambda _, data: data) -> None:
    """Carry what both say to the other one, until both are silent."""
    while True:
        there, back = dialer.say(), listener.say()
        if not there and not back:
            return
        listener.hear(change(True, there) if there else b"")
        dialer.hear(change(False, back) if back else b"")


@pytest.fixture(params=DIRECTIONS, ids=[" dials ".join(direction) for direction in DIRECTIONS])
def direction(request: pytest.FixtureRequest) -> tuple[str, str]:
    """Role of the dialer, role of the listener."""
    pair: tuple[str, str] = request.param
    return pair


@pytest.fixture(params=[False, True], ids=["plain", "tls"])
def tls(request: pytest.FixtureRequest) -> bool:
    """Whether both ends use TLS."""
    return bool(request.param)


def ends(direction: tuple[str, str], *, tls: bool = False, **listens: Any) -> tuple[End, End]:
    """An honest dialer, and a listener with other options, if any."""
    dialer, listener = direction
    return End(dialer, dials=True, tls=tls), End(
        listener, dials=False, **{"nonce": 2, "tls": tls, **listens}
    )


def test_both_prove_the_secret_and_speak_the_language_of_their_role(
    direction: tuple[str, str], tls: bool
) -> None:
    dialer, listener = ends(direction, tls=tls)
    talk(dialer, listener)
    assert dialer.events == listener.events == [PROVEN]
    for end, role in zip((dialer, listener), direction, strict=True):
        end.machine.send(SAYS[role])
    talk(dialer, listener)
    assert dialer.events[1:] == [SAYS[direction[1]]]
    assert listener.events[1:] == [SAYS[direction[0]]]


def test_another_secret_is_refused_by_the_listener_which_proves_nothing(
    direction: tuple[str, str], tls: bool
) -> None:
    dialer, listener = ends(direction, tls=tls, key=OTHER_KEY)
    talk(dialer, listener)
    assert listener.is_refused(AuthenticationError)
    assert dialer.is_refused(AuthenticationError)
    assert str(dialer.machine.error).startswith("the peer refused our secret")
    if not tls:
        assert listener.said[-1] == REFUSED
        assert len(listener.said) == 2, "a challenge and a refusal"


def test_a_dialer_in_another_role_is_refused_at_its_hello(direction: tuple[str, str], tls: bool) -> None:
    listener = End(direction[1], dials=False, nonce=2, tls=tls)
    dialer = End("relay", peer=direction[1], dials=True, tls=tls)
    talk(dialer, listener)
    assert listener.is_refused(AuthenticationError)
    assert f"a 'relay', not a {direction[0]}" in str(listener.machine.error)
    assert dialer.is_refused(AuthenticationError)
    if not tls:
        assert listener.said == [REFUSED]


def test_a_listener_in_another_role_than_expected_proves_nothing(
    direction: tuple[str, str], tls: bool
) -> None:
    dialer = End(direction[0], dials=True, tls=tls)
    listener = End("relay", peer=direction[0], dials=False, nonce=2, tls=tls)
    talk(dialer, listener)
    assert listener.is_refused(AuthenticationError)
    assert dialer.is_refused(AuthenticationError)


def test_two_of_one_role_do_not_come_together(direction: tuple[str, str], tls: bool) -> None:
    """A listener of the other direction is none of this one: each end has a role, and wants the other one."""
    role = direction[0]
    dialer, listener = End(role, dials=True, tls=tls), End(role, dials=False, nonce=2, tls=tls)
    talk(dialer, listener)
    assert listener.is_refused(AuthenticationError)
    assert dialer.is_refused(AuthenticationError)


def test_a_dialer_passed_on_to_a_listener_of_the_other_direction_is_refused(
    direction: tuple[str, str],
) -> None:
    """Somebody in between says that the dialer has the role that is wanted there: that is in the proof as well."""
    role = direction[0]
    dialer, listener = End(role, dials=True), End(role, dials=False, nonce=2)

    def change(from_dialer: bool, data: bytes) -> bytes:
        if not from_dialer or role.encode() not in data:
            return data
        body = data[frames.HEADER_SIZE :].replace(
            bytes([0xA0 + len(role)]) + role.encode(),
            bytes([0xA0 + len(PEER[role])]) + PEER[role].encode(),
        )
        return frames.header(frames.CONTROL, len(body)) + body

    talk(dialer, listener, change)
    assert len(listener.said) == 2, "it took the Hello"
    assert listener.is_refused(AuthenticationError)
    assert dialer.is_refused(AuthenticationError)


def test_who_hears_himself_is_not_convinced(direction: tuple[str, str]) -> None:
    dialer = End(direction[0], dials=True)
    dialer.hear(dialer.say())
    assert dialer.is_refused(RemoteProtocolError)


def test_a_proof_sent_back_proves_nothing(direction: tuple[str, str]) -> None:
    dialer, listener = ends(direction)

    def reflect(from_dialer: bool, data: bytes) -> bytes:
        # The second that the listener says is its proof.
        return data if from_dialer or len(listener.said) < 2 else dialer.said[1]

    talk(dialer, listener, reflect)
    assert dialer.is_refused(AuthenticationError)


@pytest.mark.parametrize("other", ["client", "node"])
def test_two_dialers_do_not_convince_each_other(direction: tuple[str, str], other: str) -> None:
    """Whoever both of them have dialed passes on what they say."""
    one, two = End(direction[0], dials=True), End(other, dials=True, nonce=2)
    talk(one, two)
    assert one.is_refused(RemoteProtocolError)
    assert two.is_refused(RemoteProtocolError)


@pytest.mark.parametrize("other", ["client", "node"])
def test_two_listeners_say_nothing_to_each_other(direction: tuple[str, str], other: str) -> None:
    one, two = End(direction[1], dials=False), End(other, dials=False, nonce=2)
    talk(one, two)
    assert one.said == two.said == []


def test_what_a_dialer_once_said_is_worth_nothing_later(direction: tuple[str, str]) -> None:
    dialer, listener = ends(direction)
    talk(dialer, listener)
    later = End(direction[1], dials=False, nonce=3)
    for said in dialer.said:
        later.hear(said)
    assert later.is_refused(AuthenticationError)


def test_what_a_listener_once_said_is_worth_nothing_later(direction: tuple[str, str]) -> None:
    dialer, listener = ends(direction)
    talk(dialer, listener)
    later = End(direction[0], dials=True, nonce=4)
    for said in listener.said:
        later.say()
        later.hear(said)
    assert later.is_refused(AuthenticationError)


def test_a_session_of_one_direction_is_worth_nothing_in_the_other(direction: tuple[str, str]) -> None:
    """Even if nonces came twice: the roles in it are others."""
    dialer, listener = ends(direction)
    talk(dialer, listener)
    for_dialer, for_listener = (End(role, dials=dials, nonce=1 + (not dials)) for role, dials in
                                ((direction[1], True), (direction[0], False)))  # fmt: skip
    for said in dialer.said:
        for_listener.hear(said)
    assert for_listener.is_refused(AuthenticationError)
    for said in listener.said:
        for_dialer.say()
        for_dialer.hear(said)
    assert for_dialer.is_refused(AuthenticationError)


def test_ends_of_two_connections_do_not_convince_each_other(direction: tuple[str, str]) -> None:
    """Somebody in between has two connections, so both ends' channels differ."""
    dialer = End(direction[0], dials=True, channel=b"127.0.0.1 4711 127.0.0.1 9701")
    listener = End(direction[1], dials=False, nonce=2, channel=b"127.0.0.1 4712 127.0.0.1 9701")
    talk(dialer, listener)
    assert listener.is_refused(AuthenticationError)
    assert dialer.is_refused(AuthenticationError)


class Relay:
    """Somebody in between who ends TLS on both sides, with the listener's own certificate and key."""

    def __init__(self) -> None:
        self.to_dialer, self.to_listener = LISTENS.cipher(), DIALS.cipher("peer")
        self.to_listener.feed(b"")

    def pass_on(self, dialer: End, listener: End) -> None:
        """Carry what both say to the other one, each in its own session."""
        for _ in range(12):
            listener.hear(self.to_listener.pending())
            there = self._plain(self.to_dialer, dialer.say())
            back = self._plain(self.to_listener, listener.say())
            dialer.hear(self.to_dialer.pending())
            if there:
                listener.hear(self.to_listener.encrypt(there))
            if back:
                dialer.hear(self.to_dialer.encrypt(back))

    @staticmethod
    def _plain(cipher: Cipher, data: bytes) -> bytes:
        if data:
            cipher.feed(data)
        buffer = memoryview(bytearray(BUFFER))
        return bytes(buffer[: cipher.read_into(buffer)])


def test_somebody_in_between_with_the_key_of_the_certificate_is_found_out(
    direction: tuple[str, str],
) -> None:
    dialer, listener = ends(direction, tls=True)
    Relay().pass_on(dialer, listener)
    assert listener.is_refused(AuthenticationError)
    assert "does not know our secret" in str(listener.machine.error)
    assert dialer.is_refused(AuthenticationError)


def test_who_speaks_without_tls_to_one_with_tls_is_told(direction: tuple[str, str]) -> None:
    dialer = End(direction[0], dials=True)
    dialer.hear(frames.header(frames.CONTROL, len(TLS_REFUSAL)) + TLS_REFUSAL)
    assert dialer.is_refused(AuthenticationError)
    advice = {"client": "give tls=True", "node": "start this node without --no_tls"}[direction[0]]
    assert str(dialer.machine.error) == f"the peer speaks TLS only; {advice}"
    other = End(direction[0], dials=True)
    other.hear(b"\x15\x03\x03\0\x02\x02\x46" + bytes(16))
    assert str(other.machine.error) == (
        f"what answers there speaks TLS and is no {direction[1]} of dispy; {advice}"
    )


def test_who_speaks_tls_to_one_without_is_told(direction: tuple[str, str]) -> None:
    _, listener = ends(direction)
    secured = End(direction[0], dials=True, tls=True)
    talk(secured, listener)
    assert secured.is_refused(AuthenticationError)
    advice = "a node that was started with --no_tls is reached with tls=False"
    assert (advice in str(secured.machine.error)) == (direction[0] == "client")
    assert listener.is_refused(RemoteProtocolError)


def test_advice_about_certificates_is_for_the_role_and_not_for_who_dials(
    direction: tuple[str, str],
) -> None:
    dialer, listener = direction
    unknown = ssl.SSLCertVerificationError()
    unknown.reason = "CERTIFICATE_VERIFY_FAILED"
    unknown.verify_message = "unable to get local issuer certificate"
    for role, peer, dials in ((dialer, listener, True), (listener, dialer, False)):
        text = str(explain(TlsError(unknown), role, is_dialer=dials))
        assert f"'dispy cert new {peer} NAME'" in text
        assert ("is addressed here" in text) == dials


def test_the_listeners_role_is_never_said(direction: tuple[str, str]) -> None:
    dialer, listener = ends(direction)
    talk(dialer, listener)
    assert all(direction[1].encode() not in said for said in (*dialer.said, *listener.said))


def test_honest_handshakes_fit_a_frame_before_the_proof(direction: tuple[str, str]) -> None:
    """Whatever the roles are called."""
    long = "\N{SNOWMAN}" * 16
    one = Handshake(KEY, long, direction[1], bytes(32), is_dialer=True, now=NOW)
    other = Handshake(KEY, direction[1], long, bytes([1]) * 32, is_dialer=False, now=NOW)
    message, sides = one.start(), [other, one]
    while message is not None:
        assert len(message) <= limits.HANDSHAKE_FRAME_MAX
        sides.reverse()
        message = sides[1].receive(message)
    assert one.done
    assert other.done
