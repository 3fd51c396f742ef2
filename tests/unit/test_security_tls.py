"""What a proof is bound to under TLS: equal at both ends of a session, and in no other one."""

from __future__ import annotations

import ssl

import pytest

from dispy.errors import InternalError
from dispy.security.tls import Cipher, DialerTls, ListenerTls, Tls, dialer_tls, listener_tls


@pytest.fixture(scope="module")
def listens() -> ListenerTls:
    """A listener with one certificate for all sessions."""
    return listener_tls(Tls())


@pytest.fixture(scope="module")
def dials() -> DialerTls:
    """A dialer that takes any certificate."""
    return dialer_tls(Tls())


def establish(listens: ListenerTls, dials: DialerTls) -> tuple[Cipher, Cipher]:
    """A session: the listener's end and the dialer's."""
    listener, dialer = listens.cipher(), dials.cipher("node")
    dialer.feed(b"")
    while not (listener.is_established and dialer.is_established):
        listener.feed(dialer.pending())
        dialer.feed(listener.pending())
    return listener, dialer


def test_both_ends_have_one_channel_and_each_session_another(
    listens: ListenerTls, dials: DialerTls
) -> None:
    channels = set()
    for _ in range(20):
        listener, dialer = establish(listens, dials)
        assert listener._object.version() == "TLSv1.3"
        assert listens.channel_of(listener) == dials.channel_of(dialer)
        channels.add(listens.channel_of(listener))
    assert len(channels) == 20
    assert {len(channel) for channel in channels} == {80}


def test_the_channel_stays_when_bytes_have_been_sent(listens: ListenerTls, dials: DialerTls) -> None:
    listener, dialer = establish(listens, dials)
    before = listens.channel_of(listener)
    listener.feed(dialer.encrypt(b"said"))
    dialer.feed(listener.encrypt(b"heard"))
    buffer = memoryview(bytearray(100))
    assert (listener.read_into(buffer), dialer.read_into(buffer)) == (4, 5)
    assert listens.channel_of(listener) == dials.channel_of(dialer) == before


def test_somebody_in_between_with_the_same_certificate_has_two_channels(
    listens: ListenerTls, dials: DialerTls
) -> None:
    """He has the key of the certificate, as whoever stole it: its fingerprint is equal, the sessions are not."""
    _, to_him = establish(listens, dials)
    to_node, _ = establish(listens, dials)
    assert dials.channel_of(to_him)[:32] == listens.channel_of(to_node)[:32] == listens.fingerprint
    assert dials.channel_of(to_him) != listens.channel_of(to_node)


def test_no_session_is_resumed(listens: ListenerTls, dials: DialerTls) -> None:
    """Which Finished the channel is would depend on it."""
    for _ in range(2):
        for cipher in establish(listens, dials):
            assert cipher._object.session_reused is False
    assert listens.context.num_tickets == 0


def test_without_a_session_there_is_nothing_to_bind_to(listens: ListenerTls) -> None:
    cipher = listens.cipher()
    with pytest.raises(InternalError, match="no session"):
        cipher.session()
    assert isinstance(cipher._object, ssl.SSLObject)
