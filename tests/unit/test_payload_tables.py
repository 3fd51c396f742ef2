"""Tables of pandas and Arrow: their buffers lie beside the pickle, too.

Imported by the tests that need them: together they take a second, in every process that collects tests.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from dispy import payload
from dispy.payload import OUT_OF_BAND, Parts

ROWS = 50_000
"""Of eight bytes: each column is large enough to stay out of the pickle."""

PICKLE_MAX = 20_000
"""Bytes of a pickle that has none of the columns in it."""


def sent(value: Any) -> Any:
    """A value as it arrives, after a check that its columns were copied once and into no pickle."""

    dumped = payload.dump(value)
    assert isinstance(dumped, Parts)
    assert len(dumped.pieces[1]) < PICKLE_MAX
    assert sum(len(piece) >= OUT_OF_BAND for piece in dumped.pieces) >= 1
    block = payload.whole(dumped)
    return payload.load(block)


# pandas.


def frame() -> Any:
    import pandas

    return pandas.DataFrame(
        {
            "number": np.arange(ROWS),
            "value": np.linspace(0, 1, ROWS),
            "more": np.linspace(1, 2, ROWS),
        },
        index=np.arange(ROWS) * 2,
    )


def test_a_frame_arrives_and_its_columns_can_be_written_to() -> None:
    import pandas

    before = frame()
    after = sent(before)
    pandas.testing.assert_frame_equal(after, before)
    for name in ("number", "value", "more"):
        after.loc[after.index[0], name] = 7
        after[name] += 1
    assert list(after.loc[0, ["number", "value", "more"]]) == [8, 8, 8]
    assert after["number"].to_numpy()[1] == 2


def test_columns_of_all_kinds_arrive() -> None:
    """Times are copied once more: numpy takes them into the pickle."""
    import pandas

    before = frame()
    before["flag"] = before["number"] % 3 == 0
    before["time"] = pandas.date_range("2020-01-01", periods=ROWS, freq="h")
    before["kind"] = pandas.Categorical.from_codes(np.arange(ROWS) % 2, ["a", "b"])
    before["gaps"] = before["number"].where(before["flag"]).astype("Int64")
    before["object"] = [{"row": number} for number in range(ROWS)]
    after = payload.load(payload.whole(payload.dump(before)))
    pandas.testing.assert_frame_equal(after, before)


def test_a_series_arrives_in_memory_that_can_be_written_to() -> None:
    import pandas

    before = pandas.Series(np.linspace(0, 1, ROWS), name="x")
    after = sent(before)
    pandas.testing.assert_series_equal(after, before)
    after.iloc[3] = 5.0
    assert after[3] == 5.0


def test_columns_of_text_arrive() -> None:
    """How they are kept differs between versions of pandas, and whether Arrow is there."""
    import pandas

    before = pandas.DataFrame(
        {"text": [f"row {number}" for number in range(ROWS)], "number": np.arange(ROWS)}
    )
    pandas.testing.assert_frame_equal(sent(before), before)


def test_a_frame_is_taken_as_it_is_now() -> None:
    before = frame()
    data = payload.dump_call((before,), {})
    before["value"] = 0.0
    (after,) = payload.load_call(data)[0]
    assert after["value"].iloc[-1] == 1.0


# Arrow.


def table() -> Any:
    import pyarrow as arrow

    return arrow.table(
        {
            "number": np.arange(ROWS),
            "value": np.linspace(0, 1, ROWS),
            "gaps": arrow.array([None if number % 7 == 0 else number for number in range(ROWS)]),
            "text": [f"row {number}" for number in range(ROWS)],
        }
    )


def test_a_table_arrives() -> None:
    before = table()
    after = sent(before)
    assert after.equals(before)
    assert after.schema == before.schema


def test_columns_of_a_table_lie_where_they_arrived() -> None:
    """No copy but the one at submit. Arrow's own arrays are never written to, wherever they lie."""
    before = table()
    dumped = payload.dump(before)
    assert isinstance(dumped, Parts)
    block = dumped.copy()
    column = payload.load(block)["value"].chunk(0).to_numpy(zero_copy_only=True)
    assert np.shares_memory(column, np.frombuffer(block, np.uint8))


def test_record_batches_and_slices_arrive() -> None:
    batch = table().to_batches()[0]
    assert sent(batch).equals(batch)
    part = batch.slice(ROWS // 4, ROWS // 2)
    assert sent(part).equals(part)
