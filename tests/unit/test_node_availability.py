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


def kernel(directory: Path, *, load: float, times: str, memory: str = "") -> str:
    """Files as the kernel has them in ``/proc``."""
    (directory / "loadavg").write_text(f"{load} 0.50 0.25 2/80 1234\n")
    (directory / "stat").write_text(f"cpu  {times}\ncpu0 {times}\nintr 0\n")
    (directory / "meminfo").write_text(memory)
    return str(directory)


@pytest.mark.parametrize(
    ("load", "times", "first", "later"),
    [
        # user, nice, system, idle, waiting for disks, interrupts (2), stolen, guests (2, in user and nice as well)
        (0.0, "110 0 20 300 70 0 0 0 10 0", 100.0, 85.0),
        (1e9, "1000 0 0 0 0 0 0 0 0 0", 0.0, 0.0),
        (0.0, "100 0 0 200 0 0 0 0 0 0", 100.0, 100.0),  # nothing has passed
        (0.0, "10 0 0 20 0 0 0 0 0 0", 100.0, 100.0),  # counters that jumped back
        (0.0, "100 0 0 300", 100.0, 100.0),  # an old kernel
    ],
)
def test_cpu_is_what_is_idle(tmp_path: Path, load: float, times: str, first: float, later: float) -> None:
    """By the load of the last minute at first, then by what was measured; whatever the system says, it is a share."""
    clock = Hand()
    proc = kernel(tmp_path, load=load, times="100 0 0 200 0 0 0 0 0 0")
    gauge = Gauge(str(tmp_path), clock, proc)
    assert gauge.read().cpu == first
    kernel(tmp_path, load=load, times=times)
    clock.now += FRESH_S
    assert gauge.read().cpu == later


@pytest.mark.parametrize(
    ("memory", "available", "swap"),
    [
        (
            "MemTotal: 8 kB\nMemFree: 1 kB\nMemAvailable:   3 kB\nSwapTotal: 0 kB\nSwapFree: 0 kB\n",
            3072,
            100.0,
        ),
        ("MemFree: 1 kB\nSwapTotal: 1000 kB\nSwapFree: 250 kB\nHugePages_Total:       0\n", 1024, 25.0),
        ("", 0, 100.0),
        ("nonsense\nMemAvailable:\n", 0, 100.0),
    ],
)
def test_memory_and_swap(tmp_path: Path, memory: str, available: int, swap: float) -> None:
    read = Gauge(str(tmp_path), Hand(), kernel(tmp_path, load=0.0, times="0", memory=memory)).read()
    assert (read.memory, read.swap) == (available, swap)


def test_numbers_are_those_of_psutil(tmp_path: Path) -> None:
    read = Gauge(str(tmp_path), Hand()).read()
    assert read.memory == pytest.approx(psutil.virtual_memory().available, rel=0.2)
    assert read.disk == pytest.approx(psutil.disk_usage(str(tmp_path)).free, rel=0.2)


def test_a_kernel_that_shows_nothing(tmp_path: Path) -> None:
    """As in a container that hides it: all is idle, and nothing is known to be free."""
    clock = Hand()
    gauge = Gauge(str(tmp_path), clock, str(tmp_path / "none"))
    clock.now += FRESH_S
    assert (gauge.read().cpu, gauge.read().memory, gauge.read().swap) == (100.0, 0, 100.0)
