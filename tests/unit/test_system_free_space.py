"""Large data goes where there is room: memory first, others being left some of it, then disk."""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from dispy.system import free_space
from dispy.system.free_space import NoRoomError, Room

MIB = 1 << 20

Sizes = Callable[..., None]


@pytest.fixture
def there(tmp_path: Path) -> Room:
    """Two directories."""
    for name in ("memory", "disk"):
        (tmp_path / name).mkdir()
    return Room(str(tmp_path / "memory"), str(tmp_path / "disk"))


@pytest.fixture
def sizes(there: Room, monkeypatch: pytest.MonkeyPatch) -> Sizes:
    """Says how large file systems are and what is free of them (MiB), and what control groups allow."""

    def say(
        memory: tuple[float, float] = (64, 64), disk: tuple[float, float] = (1000, 1000), limit: float = 0
    ) -> None:
        def statvfs(path: str) -> SimpleNamespace:
            total, free = memory if os.path.basename(path) == "memory" else disk
            return SimpleNamespace(
                f_frsize=4096, f_blocks=int(total * MIB) // 4096, f_bavail=int(free * MIB) // 4096
            )

        monkeypatch.setattr(os, "statvfs", statvfs)
        monkeypatch.setattr(free_space, "memory_max", lambda: int(limit * MIB))

    say()
    return say


@pytest.mark.parametrize(
    ("memory", "limit", "size", "fits"),
    [
        ((64, 64), 0, 56, True),
        ((64, 64), 0, 57, False),  # an eighth is for others
        ((64, 30), 0, 22, True),
        ((64, 30), 0, 23, False),
        ((64, 0), 0, 0.001, False),
        ((16_000, 16_000), 0, 15_936, True),  # and no more than 64 MiB
        ((16_000, 16_000), 0, 15_937, False),
        ((0, 0), 0, 100_000, True),  # tmpfs with size=0 has no limit
        ((0, 0), 256, 224, True),
        ((0, 0), 256, 225, False),
        ((2000, 2000), 256, 224, True),  # the container would be killed for more
        ((2000, 2000), 256, 225, False),
        ((2000, 1800), 256, 24, True),
        ((2000, 1800), 256, 25, False),
        ((2000, 100), 256, 0.001, False),
    ],
    ids=str,
)
def test_memory_is_used_as_far_as_others_are_left_some(
    there: Room, sizes: Sizes, memory: tuple[float, float], limit: float, size: float, fits: bool
) -> None:
    sizes(memory, (0, 0), limit)
    assert free_space.fits_in_memory(there.memory, int(size * MIB)) is fits
    assert free_space.places(there, int(size * MIB)) == ([there.memory] if fits else []) + [there.disk]


def test_where_there_is_one_place_only_it_is_tried(there: Room, sizes: Sizes) -> None:
    sizes((64, 0))
    assert free_space.places(Room(there.memory, ""), MIB) == [there.memory]
    assert free_space.places(Room("", there.disk), MIB) == [there.disk]


def test_a_directory_that_is_gone_has_no_room(tmp_path: Path) -> None:
    assert not free_space.fits_in_memory(str(tmp_path / "gone"), 1)
    assert free_space.kept_max(str(tmp_path / "gone"), 10) == 0


@pytest.mark.parametrize(("total", "kept"), [(64, 16), (16_000, 512), (0, 512)])
def test_what_is_kept_to_be_used_again_is_a_quarter_at_most(
    there: Room, sizes: Sizes, total: float, kept: float
) -> None:
    sizes((total, total))
    assert free_space.kept_max(there.memory, 512 * MIB) == kept * MIB


def write(data: bytes) -> Callable[[int], None]:
    return lambda descriptor: [None, os.write(descriptor, data)][0]


def test_a_file_lies_in_memory_or_on_disk_and_is_found(there: Room, sizes: Sizes) -> None:
    assert free_space.write_new(there, "1", 3, write(b"one")) == f"{there.memory}/1"
    sizes((64, 0))
    assert free_space.write_new(there, "2", 3, write(b"two")) == f"{there.disk}/2"
    assert Path(free_space.find(there, "1")).read_bytes() == b"one"
    assert Path(free_space.find(there, "2")).read_bytes() == b"two"
    assert free_space.find(there, "3") == f"{there.memory}/3"
    with pytest.raises(FileExistsError):
        free_space.write_new(there, "2", 3, write(b"new"))
    assert Path(there.disk, "2").read_bytes() == b"two"


def fails_in(there: str, number: int) -> Callable[[int], None]:
    """Writes, and finds in one directory that there is no room after all."""

    def fill(descriptor: int) -> None:
        os.write(descriptor, b"part")
        if os.readlink(f"/proc/self/fd/{descriptor}").startswith(there):
            raise OSError(number, os.strerror(number))

    return fill


def test_what_does_not_fit_after_all_goes_to_disk_from_its_beginning(there: Room, sizes: Sizes) -> None:
    """Somebody else was faster."""
    assert free_space.write_new(there, "1", 4, fails_in(there.memory, errno.ENOSPC)) == f"{there.disk}/1"
    assert Path(there.disk, "1").read_bytes() == b"part"
    assert os.listdir(there.memory) == []


@pytest.mark.parametrize("number", free_space.SHORT)
def test_without_any_room_the_error_says_what_there_is_and_what_to_do(
    there: Room, sizes: Sizes, number: int
) -> None:
    sizes((64, 2), (1000, 300))
    with pytest.raises(NoRoomError) as caught:
        free_space.write_new(there, "1", 100 * MIB, fails_in(there.disk, number))
    said = str(caught.value)
    assert said.startswith("there is no room for 100 MiB on the memory file system /")
    for text in ("2 MiB of 64 MiB free", "300 MiB of 1,000 MiB free", "--shm-size=2g", "TMPDIR"):
        assert text in said
    assert os.listdir(there.disk) == []
    assert caught.value.is_passing


def test_what_does_not_fit_is_not_tried(there: Room, sizes: Sizes) -> None:
    """It would take the last bytes of the disk from others."""
    sizes((64, 2), (1000, 99))
    with pytest.raises(NoRoomError, match="99 MiB of 1,000 MiB free"):
        free_space.write_new(there, "1", 100 * MIB, lambda _: pytest.fail("it is tried"))
    sizes((64, 2), (0, 0))  # which does not tell its size
    assert free_space.places(there, 100 * MIB) == [there.disk]


def test_an_error_of_another_kind_is_told_as_it_is(there: Room, sizes: Sizes) -> None:
    with pytest.raises(OSError, match="Input/output") as caught:
        free_space.write_new(there, "1", 1, fails_in("/", errno.EIO))
    assert not isinstance(caught.value, NoRoomError)


@pytest.mark.parametrize(
    ("memory", "disk", "size", "is_passing"),
    [(64, 1000, 1000, True), (64, 1000, 1001, False), (64, 10, 56, True), (64, 10, 57, False)],
)
def test_what_is_larger_than_all_there_is_never_finds_room(
    there: Room, sizes: Sizes, memory: float, disk: float, size: float, is_passing: bool
) -> None:
    sizes((memory, 0), (disk, 0))
    assert NoRoomError(there, int(size * MIB)).is_passing is is_passing
    assert not free_space.has_room(there, int(size * MIB))


@pytest.mark.parametrize(
    ("memory", "disk", "has"), [(64, 0, True), (0, 11, True), (17, 9, False), (19, 0, True)]
)
def test_there_is_room_again_when_one_of_both_has_some(
    there: Room, sizes: Sizes, memory: float, disk: float, has: bool
) -> None:
    sizes((64, memory), (1000, disk))
    assert free_space.has_room(there, 10 * MIB) is has


def test_a_file_that_is_larger_than_allowed_never_finds_room(there: Room) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(NoRoomError, match="larger than allowed: see 'ulimit -f'") as caught:
            free_space.write_new(there, "1", 1001, lambda descriptor: _write_all(descriptor, bytes(1001)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not caught.value.is_passing


def _write_all(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]
