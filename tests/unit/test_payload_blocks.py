"""Large payloads: buffers lie beside the pickle, are copied once, and arrive where they lie."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dispy import payload
from dispy.payload import OUT_OF_BAND, Parts

SIZES = st.sampled_from([0, 1, 7, 1000, OUT_OF_BAND - 1, OUT_OF_BAND, OUT_OF_BAND + 1, 3 * OUT_OF_BAND + 5])


@settings(deadline=None, max_examples=100)
@given(st.lists(SIZES, max_size=5))
def test_every_mixture_of_sizes_arrives(sizes: list[int]) -> None:
    arrays = [np.arange(size, dtype=np.uint8) for size in sizes]
    back = payload.load(payload.whole(payload.dump(arrays)))
    assert len(back) == len(arrays)
    for one, other in zip(arrays, back, strict=True):
        np.testing.assert_array_equal(one, other)


def test_large_arrays_are_not_copied_twice() -> None:
    """They are parts of the original before the copy, and parts of the block after it."""
    array = np.arange(100_000.0)
    dumped = payload.dump((array, "small"))
    assert isinstance(dumped, Parts)
    assert any(
        np.shares_memory(np.frombuffer(piece, np.uint8), array) for piece in dumped.pieces[2:] if len(piece)
    )
    block = dumped.copy()
    back, small = payload.load(block)
    assert np.shares_memory(back, np.frombuffer(block, np.uint8))
    assert small == "small"


def test_arrays_arrive_writable_and_aligned() -> None:
    arrays = [np.ones(100_000), np.ones(99_999, dtype=np.float32), np.ones(100_001, dtype=np.uint8)]
    for back in payload.load(payload.whole(payload.dump(arrays))):
        assert back.flags.writeable
        assert back.ctypes.data % 64 == 0
        back += 1


def test_arguments_are_taken_as_they_are_now() -> None:
    array = np.zeros(100_000)
    data = payload.dump_call((array,), {"other": array})
    array[:] = 1
    (one,), kwargs = payload.load_call(data)
    assert not one.any()
    assert kwargs["other"] is one


@pytest.mark.parametrize("size", [10, OUT_OF_BAND, 10 * OUT_OF_BAND])
@pytest.mark.parametrize("make", [bytes, bytearray, lambda n: "x" * n, lambda n: [1.5] * (n // 9)])
def test_other_large_values_arrive(make: Any, size: int) -> None:
    value = make(size)
    back = payload.load(payload.whole(payload.dump(value)))
    assert type(back) is type(value)
    assert back == value


def test_arrays_that_are_no_block_of_memory_arrive() -> None:
    array = np.arange(400_000.0).reshape(400, 1000)
    for view in (array.T, array[::2], array[:, ::3], np.asfortranarray(array), array.astype(object)):
        np.testing.assert_array_equal(payload.load(payload.whole(payload.dump(view))), view)


class Own:
    """An instance of a class of the user's own, with a large array inside."""

    def __init__(self) -> None:
        self.array = np.arange(50_000.0)


def test_objects_of_ones_own_classes_bring_their_arrays_along() -> None:
    dumped = payload.dump_call((Own(),), {})
    (back,), *_ = payload.load_call(dumped)
    np.testing.assert_array_equal(back.array, np.arange(50_000.0))
    assert len(dumped) < 50_000 * 8 + 20_000, "it was copied into the pickle, too"


@pytest.mark.parametrize("make", [bytes, bytearray])
def test_large_bytes_wait_until_they_are_asked_for(make: Any) -> None:
    """They run nobody's code, and need not be copied while others wait."""
    assert payload.is_plain(payload.whole(payload.dump(make(OUT_OF_BAND))))


@pytest.mark.parametrize(
    "value",
    [[1.5] * OUT_OF_BAND, "x" * OUT_OF_BAND, np.zeros(OUT_OF_BAND), [bytes(OUT_OF_BAND)], Own()],
    ids=lambda value: type(value).__name__,
)
def test_what_else_is_large_is_rebuilt_apart(value: Any) -> None:
    """Even if it is plain: it takes long, and may fail."""
    assert not payload.is_plain(payload.whole(payload.dump(value)))


@pytest.mark.parametrize("size", [OUT_OF_BAND, 1_000_003])
def test_large_bytes_are_read_from_a_file_without_another_copy(tmp_path: Path, size: int) -> None:
    value = os.urandom(size)
    ready = read(tmp_path, payload.dump(value))
    assert ready is not None
    assert len(ready) == size
    assert payload.is_plain(ready)
    assert payload.load(ready) == value


@pytest.mark.parametrize(
    "value",
    [bytearray(OUT_OF_BAND), [bytes(OUT_OF_BAND)], np.zeros(OUT_OF_BAND), "x" * OUT_OF_BAND, b""],
    ids=lambda value: type(value).__name__,
)
def test_other_files_are_left_to_others(tmp_path: Path, value: Any) -> None:
    assert read(tmp_path, payload.dump(value)) is None


def test_a_file_that_is_shorter_than_it_says_is_left_to_others(tmp_path: Path) -> None:
    block = bytes(payload.whole(payload.dump(bytes(OUT_OF_BAND))))
    for length in (0, 7, 23, 40, 90, len(block) - 1):
        assert read(tmp_path, block[:length]) is None


def read(directory: Path, dumped: bytes | Parts) -> payload.Ready | None:
    (directory / "block").write_bytes(payload.whole(dumped))
    with open(directory / "block", "rb") as file:
        return payload.read_bytes(file.fileno())
