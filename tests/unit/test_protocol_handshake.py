"""The handshake: whoever knows the secret gets in, and nobody else by any trick."""

from __future__ import annotations

import hmac
from collections.abc import Callable

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dispy.errors import AuthenticationError, DispyError, RemoteProtocolError, VersionError
from dispy.protocol import limits
from dispy.protocol.frames import CONTROL, header
from dispy.protocol.handshake import (
    MAGIC,
    REFUSAL,
    TLS_REFUSAL,
    Challenge,
    Handshake,
    Hello,
    Proof,
    Refused,
    find_fault,
)
from dispy.security.keys import Keys, alone

KEY = alone(bytes(range(32)))
OTHER_KEY = alone(bytes(range(1, 33)))

NOW = 1.8e9
"""The present (seconds since the epoch)."""

encode = msgspec.msgpack.Encoder().encode


def dialer(
    key: Keys = KEY, role: str = "client", peer_role: str = "node", nonce: int = 1, channel: bytes = b""
) -> Handshake:
    return Handshake(key, role, peer_role, bytes([nonce]) * 32, is_dialer=True, now=NOW, channel=channel)


def listener(
    key: Keys = KEY, role: str = "node", peer_role: str = "client", nonce: int = 2, channel: bytes = b""
) -> Handshake:
    return Handshake(key, role, peer_role, bytes([nonce]) * 32, is_dialer=False, now=NOW, channel=channel)


def unchanged(index: int, message: bytes) -> bytes:
    return message


def talk(
    dials: Handshake, listens: Handshake, change: Callable[[int, bytes], bytes] = unchanged
) -> list[bytes]:
    """Let two sides talk to the end; ``change`` gets each message on its way, with its index.

    Returns:
        The messages as they were sent.
    """
    sent = []
    message = dials.start()
    while message is not None:
        sent.append(message)
        side = dials if len(sent) % 2 == 0 else listens
        message = side.receive(change(len(sent) - 1, message))
    return sent


def hello(magic: str = MAGIC, versions: list[int] | None = None, nonce: bytes = b"n" * 32) -> bytes:
    return encode(Hello(magic, [limits.VERSION] if versions is None else versions, "client", nonce))


def test_two_who_know_the_secret_prove_it_in_four_messages() -> None:
    dials, listens = dialer(), listener()
    assert len(talk(dials, listens)) == 4
    assert (dials.done, listens.done) == (True, True)


def test_nobody_is_done_before_the_peer_has_proved_itself() -> None:
    dials, listens = dialer(), listener()
    states = []

    def look(index: int, message: bytes) -> bytes:
        states.append((dials.done, listens.done))
        return message

    talk(dials, listens, look)
    assert states == [(False, False), (False, False), (False, False), (False, True)]


def test_only_the_dialer_begins() -> None:
    assert dialer().start() is not None
    assert listener().start() is None


def test_a_dialer_in_another_role_is_refused_at_once() -> None:
    with pytest.raises(AuthenticationError, match="'scheduler', not a client"):
        listener().receive(dialer(role="scheduler").start() or b"")


def test_a_listener_in_another_role_than_expected_proves_nothing() -> None:
    """It knows the secret, and may be asked by somebody who takes it for something else."""
    with pytest.raises(AuthenticationError):
        talk(dialer(peer_role="relay"), listener(role="node"))


def test_a_listener_does_not_say_what_it_is() -> None:
    challenge = listener(role="particular").receive(dialer().start() or b"")
    assert b"particular" not in (challenge or b"")


def test_a_listener_refuses_another_secret_without_proving_its_own() -> None:
    dials, listens = dialer(OTHER_KEY), listener()
    with pytest.raises(AuthenticationError):
        talk(dials, listens)
    assert (dials.done, listens.done) == (False, False)


def test_a_dialer_refuses_a_listener_that_cannot_prove_itself() -> None:
    dials = dialer()
    start = dials.start()
    assert start is not None
    dials.receive(encode(Challenge(limits.VERSION, b"x" * 32)))
    with pytest.raises(AuthenticationError):
        dials.receive(encode(Proof(b"m" * 32)))
    assert not dials.done


def test_another_channel_on_each_side_means_somebody_is_in_between() -> None:
    with pytest.raises(AuthenticationError):
        talk(dialer(channel=b"a" * 32), listener(channel=b"b" * 32))


def test_the_same_channel_on_both_sides_is_fine() -> None:
    dials, listens = dialer(channel=b"a" * 32), listener(channel=b"a" * 32)
    talk(dials, listens)
    assert dials.done
    assert listens.done


def test_a_channel_on_one_side_only_is_refused() -> None:
    with pytest.raises(AuthenticationError):
        talk(dialer(channel=b"a" * 32), listener())


def test_what_a_dialer_once_said_is_worth_nothing_later() -> None:
    recorded = talk(dialer(), listener(nonce=2))
    later = listener(nonce=3)
    later.receive(recorded[0])
    with pytest.raises(AuthenticationError):
        later.receive(recorded[2])


def test_what_a_listener_once_said_is_worth_nothing_later() -> None:
    recorded = talk(dialer(nonce=1), listener())
    later = dialer(nonce=4)
    later.start()
    later.receive(recorded[1])
    with pytest.raises(AuthenticationError):
        later.receive(recorded[3])


def test_a_proof_sent_back_to_its_dialer_proves_nothing() -> None:
    dials = dialer()
    proof = b""

    def reflect(index: int, message: bytes) -> bytes:
        nonlocal proof
        if index == 2:
            proof = message
        return proof if index == 3 else message

    with pytest.raises(AuthenticationError):
        talk(dials, listener(), reflect)
    assert not dials.done


def test_a_listeners_proof_cannot_be_sent_to_another_listener() -> None:
    recorded = talk(dialer(), listener(nonce=2))
    other = listener(nonce=2)
    other.receive(recorded[0])
    with pytest.raises(AuthenticationError):
        other.receive(recorded[3])


def test_a_dialer_that_hears_itself_does_not_answer() -> None:
    dials = dialer()
    start = dials.start()
    assert start is not None
    with pytest.raises(RemoteProtocolError, match="Hello out of turn"):
        dials.receive(start)


def test_a_listener_that_hears_itself_does_not_answer() -> None:
    listens = listener()
    challenge = listens.receive(hello())
    assert challenge is not None
    with pytest.raises(RemoteProtocolError, match="Challenge out of turn"):
        listens.receive(challenge)


@pytest.mark.parametrize(("side", "index"), [(listener, 0), (dialer, 1)], ids=["hello", "challenge"])
def test_no_message_is_taken_twice(side: Callable[[], Handshake], index: int) -> None:
    message = talk(dialer(), listener())[index]
    receiver = side()
    receiver.start()
    receiver.receive(message)
    with pytest.raises(RemoteProtocolError, match="out of turn"):
        receiver.receive(message)


@pytest.mark.parametrize("versions", [[], [limits.VERSION + 1], [0, 65535]])
def test_a_dialer_without_our_version_is_refused(versions: list[int]) -> None:
    with pytest.raises(VersionError, match=f"we speak {limits.VERSION}"):
        listener().receive(hello(versions=versions))


def test_a_dialer_may_speak_other_versions_too() -> None:
    answer = listener().receive(hello(versions=[limits.VERSION + 1, limits.VERSION]))
    assert answer is not None
    assert msgspec.msgpack.decode(answer, type=Challenge).version == limits.VERSION


def test_a_listener_that_chose_another_version_is_refused() -> None:
    dials = dialer()
    dials.start()
    with pytest.raises(VersionError):
        dials.receive(encode(Challenge(limits.VERSION + 1, b"x" * 32)))


@pytest.mark.parametrize("magic", ["", "Dispy", "pycos", "dispy5"])
def test_another_magic_is_refused(magic: str) -> None:
    with pytest.raises(RemoteProtocolError):
        listener().receive(hello(magic=magic))


@pytest.mark.parametrize("size", [0, 31, 33])
def test_a_nonce_of_another_size_is_refused(size: int) -> None:
    with pytest.raises(RemoteProtocolError):
        listener().receive(hello(nonce=bytes(size)))


@pytest.mark.parametrize(
    "message",
    [encode(Challenge(limits.VERSION, b"x" * 32)), encode(Proof(b"m" * 32)), REFUSAL],
    ids=["challenge", "proof", "refusal"],
)
def test_a_listener_takes_only_a_hello_first(message: bytes) -> None:
    with pytest.raises(RemoteProtocolError, match="out of turn"):
        listener().receive(message)


@pytest.mark.parametrize("message", [hello(), encode(Proof(b"m" * 32))], ids=["hello", "proof"])
def test_a_dialer_takes_only_a_challenge_first(message: bytes) -> None:
    dials = dialer()
    dials.start()
    with pytest.raises(RemoteProtocolError, match="out of turn"):
        dials.receive(message)


def test_a_dialer_told_the_refusal_knows_that_its_secret_is_wrong() -> None:
    dials = dialer()
    dials.start()
    with pytest.raises(AuthenticationError, match="refused our secret"):
        dials.receive(REFUSAL)


def test_a_dialer_refused_by_another_version_knows_which_one() -> None:
    dials = dialer()
    dials.start()
    with pytest.raises(VersionError, match="77"):
        dials.receive(encode(Refused([77])))


def test_the_refusal_tells_versions_and_tls_and_nothing_else() -> None:
    assert msgspec.msgpack.decode(REFUSAL) == [4, [limits.VERSION], False]
    assert msgspec.msgpack.decode(TLS_REFUSAL) == [4, [limits.VERSION], True]


def test_a_dialer_without_tls_is_told_that_it_is_wanted() -> None:
    dials = dialer()
    dials.start()
    with pytest.raises(AuthenticationError, match="give tls=True"):
        dials.receive(TLS_REFUSAL)


def test_honest_messages_fit_a_frame_before_the_proof() -> None:
    sent = talk(dialer(role="\N{SNOWMAN}" * 16), listener(peer_role="\N{SNOWMAN}" * 16))
    assert max(map(len, sent)) <= limits.HANDSHAKE_FRAME_MAX


@pytest.mark.parametrize("index", range(4))
def test_a_truncated_message_is_refused(index: int) -> None:
    size = len(talk(dialer(), listener())[index])
    for length in range(size):
        with pytest.raises(RemoteProtocolError):
            talk(dialer(), listener(), lambda i, message, n=length: message[:n] if i == index else message)


@pytest.mark.parametrize("index", range(4))
def test_any_changed_byte_in_any_message_ends_the_handshake(index: int) -> None:
    size = len(talk(dialer(), listener())[index])
    for position in range(size):
        for mask in (0x01, 0x80, 0xFF):

            def flip(i: int, message: bytes, position: int = position, mask: int = mask) -> bytes:
                if i != index:
                    return message
                changed = bytearray(message)
                changed[position] ^= mask
                return bytes(changed)

            with pytest.raises(DispyError):
                talk(dialer(), listener(), flip)


@settings(deadline=None, max_examples=300)
@given(index=st.integers(0, 3), position=st.integers(0, 200), mask=st.integers(1, 255))
@example(index=0, position=2, mask=0x80)
def test_any_change_of_any_byte_is_noticed(index: int, position: int, mask: int) -> None:
    dials, listens = dialer(), listener()

    def flip(i: int, message: bytes) -> bytes:
        changed = bytearray(message)
        changed[position % len(message)] ^= mask
        return bytes(changed) if i == index else message

    with pytest.raises(DispyError):
        talk(dials, listens, flip)
    assert not dials.done


@settings(deadline=None, max_examples=300)
@given(data=st.binary(max_size=limits.HANDSHAKE_FRAME_MAX))
@example(data=b"\x91" * limits.HANDSHAKE_FRAME_MAX)
@example(data=hello().replace(b"client", b"\xff" * 6))
def test_garbage_is_refused_as_a_protocol_error(data: bytes) -> None:
    dials = dialer()
    dials.start()
    for side in (dials, listener()):
        with pytest.raises(DispyError):
            side.receive(data)
        assert not side.done


def test_a_message_may_lie_in_a_buffer_that_is_used_again() -> None:
    dials, listens = dialer(), listener()
    buffer = bytearray(512)

    def overwrite(message: bytes, side: Handshake) -> bytes | None:
        buffer[: len(message)] = message
        with memoryview(buffer)[: len(message)] as view:
            answer = side.receive(view)
        buffer[:] = bytes(len(buffer))
        return answer

    message = dials.start()
    for side in (listens, dials, listens, dials):
        assert message is not None
        message = overwrite(message, side)
    assert dials.done
    assert listens.done


def test_a_finished_handshake_takes_no_further_proof() -> None:
    dials, listens = dialer(), listener()
    sent = talk(dials, listens)
    for side, proof in ((listens, sent[2]), (dials, sent[3])):
        with pytest.raises(RemoteProtocolError):
            side.receive(proof)


def test_proofs_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the library's function for it, once per side, over two digests of equal length."""
    compared = []
    original = hmac.compare_digest

    def compare(one: bytes, other: bytes) -> bool:
        compared.append((len(one), len(other)))
        return original(one, other)

    monkeypatch.setattr(hmac, "compare_digest", compare)
    talk(dialer(), listener())
    assert compared == [(32, 32), (32, 32)]


# The first look.


def framed(body: bytes) -> bytes:
    return header(CONTROL, len(body)) + body


@pytest.mark.parametrize(
    ("first", "tls", "reason", "told"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", False, "HTTP before the proof", REFUSAL),
        (b"G", False, "another protocol before the proof", REFUSAL),
        (b"SSH-2.0-x\r\n", False, "SSH before the proof", REFUSAL),
        (b"\x16\x03\x01\x00\x80\x01\x00", False, "TLS before the proof", REFUSAL),
        (header(CONTROL, 513), False, "513 bytes", REFUSAL),
        (framed(bytes(100)), False, "does not speak dispy's protocol", REFUSAL),
        (framed(encode(Proof(bytes(32)))), False, "no Hello", REFUSAL),
        (b"GET / HTTP/1.1\r\n\r\n", True, "HTTP instead of TLS", TLS_REFUSAL),
        (framed(hello()), True, "dispy's protocol instead of TLS", TLS_REFUSAL),
        (b"\x16\x02", True, "broken TLS", b""),
        (b"\x16\x03\x01\x00\x80\x02", True, "broken TLS", b""),
        (b"\x16\x03\x01\x00\x80\x01\x01", True, "broken TLS", b""),
    ],
)
def test_strangers_are_known_by_their_first_bytes(
    first: bytes, tls: bool, reason: str, told: bytes
) -> None:
    fault = find_fault(first, tls=tls)
    assert fault is not None
    assert reason in fault[0]
    assert fault[1] == told


@pytest.mark.parametrize(
    ("first", "tls"),
    [
        (framed(hello()), False),
        (framed(hello(versions=[9])), False),
        (framed(hello()) + b"more", False),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", True),
        (b"\x16\x03\x01\x00\x01\x01\x16\x03\x01", True),
    ],
    ids=["a hello", "another version", "and more", "a ClientHello", "one byte to a record"],
)
def test_who_may_be_a_peer_passes_however_little_was_heard(first: bytes, tls: bool) -> None:
    for size in range(1, len(first) + 1):
        assert find_fault(first[:size], tls=tls) is None
