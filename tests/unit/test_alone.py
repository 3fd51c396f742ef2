"""The tests send nothing to other machines."""

from __future__ import annotations

import os
import socket

import pytest

from alone import MARK
from dispy.net.beacons.interfaces import interfaces
from dispy.security import key_text, secrets
from dispy.security.reach import may_announce


def test_there_is_nobody_else_on_the_network_of_the_tests() -> None:
    """Loopback is all there is; where that cannot be had, no beacon is made."""
    if os.environ[MARK] == "namespace":
        assert [name for _, name in socket.if_nameindex()] == ["lo"]
        assert interfaces() == interfaces(uses_multicast=True) == []
    else:
        assert not may_announce(secrets.choose(key_text.generate()))


@pytest.mark.parametrize(
    ("text", "setting", "may"),
    [(key_text.generate(), "on", True), (key_text.generate(), "off", False), ("some words", "on", False)],
    ids=["random", "off", "typed"],
)
def test_who_may_be_on_the_air(monkeypatch: pytest.MonkeyPatch, text: str, setting: str, may: bool) -> None:
    monkeypatch.setenv("DISPY_BEACONS", setting)
    assert may_announce(secrets.choose(text)) == may
    monkeypatch.delenv("DISPY_SECRET", raising=False)
    assert not may_announce(secrets.own())
