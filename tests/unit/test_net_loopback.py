"""What a plain link's proof is bound to: equal at both ends of one connection, different at those of two."""

from __future__ import annotations

import socket

import pytest

from dispy.net import loopback
from dispy.net.loopback import SAME_USER, plain_channel


def both(dialer: tuple[str, int], listener: tuple[str, int]) -> tuple[bytes, bytes]:
    """What the two ends of one connection see."""
    return (
        plain_channel(dialer, listener, is_dialer=True),
        plain_channel(listener, dialer, is_dialer=False),
    )


def test_both_ends_of_a_connection_on_loopback_see_the_same() -> None:
    ours, theirs = both(("127.0.0.1", 40000), ("127.0.0.1", 9701))
    assert ours == theirs != b""
    assert len(ours) > len(SAME_USER)


def test_both_ends_of_real_sockets_see_the_same() -> None:
    for family, host in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
        with (
            socket.create_server((host, 0), family=family) as server,
            socket.create_connection(server.getsockname()[:2]) as dialer,
        ):
            accepted, _ = server.accept()
            with accepted:
                ours = plain_channel(dialer.getsockname(), dialer.getpeername(), is_dialer=True)
                theirs = plain_channel(accepted.getsockname(), accepted.getpeername(), is_dialer=False)
        assert ours == theirs != b""


@pytest.mark.parametrize(
    "other",
    [
        (("127.0.0.1", 40000), ("127.0.0.1", 9702)),
        (("127.0.0.1", 40001), ("127.0.0.1", 9701)),
        (("127.0.0.2", 40000), ("127.0.0.1", 9701)),
        (("127.0.0.1", 9701), ("127.0.0.1", 40000)),
        (("192.0.2.1", 40000), ("192.0.2.2", 9701)),
    ],
)
def test_another_connection_has_another_channel(other: tuple[tuple[str, int], tuple[str, int]]) -> None:
    """So has the second connection of somebody in between, also if it leaves loopback."""
    assert both(*other)[0] != both(("127.0.0.1", 40000), ("127.0.0.1", 9701))[0]


def test_another_loopback_has_another_channel(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two helpers on two machines can choose equal ports."""
    here = both(("127.0.0.1", 40000), ("127.0.0.1", 9701))[0]
    monkeypatch.setattr(loopback, "here", lambda: "0123456789abcdef-1")
    assert both(("127.0.0.1", 40000), ("127.0.0.1", 9701))[0] != here


def test_beyond_loopback_routers_may_change_addresses() -> None:
    assert both(("192.0.2.1", 40000), ("192.0.2.2", 9701)) == (b"", b"")


def test_a_unix_socket_has_the_word_of_the_kernel() -> None:
    assert (
        plain_channel("", "", is_dialer=True) == plain_channel("/a/path", "", is_dialer=False) == SAME_USER
    )
