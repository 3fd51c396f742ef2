"""What a machine has to spare: read when it is asked for, and not too often."""

from __future__ import annotations

from pathlib import Path

import msgspec
import psutil
import pytest

from dispy.node.machine.availability import FRESH_S, Gauge
from dispy.protocol import node


class Hand:
    """A clock that is set by hand."""

    now = 100.0

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return self.now


def test_what_is_read_can_be_sent(tmp_path: Path) -> None:
    read = Gauge(str(tmp_path), Hand()).read()
    assert 0 <= read.cpu <= 100
    assert 0 <= read.swap <= 100
    assert 0 < read.memory <= psutil.virtual_memory().total
    assert 0 < read.disk <= psutil.disk_usage(str(tmp_path)).total
    assert node.from_node_decoder.decode(msgspec.msgpack.encode(read)) == read


def test_it_is_read_again_after_a_while_only(tmp_path: Path) -> None:
    clock = Hand()
    gauge = Gauge(str(tmp_path), clock)
    first = gauge.read()
    clock.now += FRESH_S / 2
    assert gauge.read() is first
    clock.now += FRESH_S / 2
    second = gauge.read()
    assert second is not first
    assert gauge.read() is second


def test_a_directory_that_is_gone_has_no_room(tmp_path: Path) -> None:
    assert Gauge(str(tmp_path / "gone"), Hand()).read().disk == 0


@pytest.mark.parametrize(
    ("load", "busy", "first", "later"),
    [(0.0, 3.26, 100.0, 96.7), (1e9, 250.0, 0.0, 0.0), (0.0, -1.0, 100.0, 100.0)],
)
def test_cpu_is_what_is_idle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, load: float, busy: float, first: float, later: float
) -> None:
    """By the load of the last minute at first, then by what was measured; whatever the system says, it is a share."""
    monkeypatch.setattr(psutil, "getloadavg", lambda: (load, 0.0, 0.0))
    monkeypatch.setattr(psutil, "cpu_percent", lambda _: busy)
    clock = Hand()
    gauge = Gauge(str(tmp_path), clock)
    assert gauge.read().cpu == first
    clock.now += FRESH_S
    assert gauge.read().cpu == later
