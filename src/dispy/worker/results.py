"""Parts of a job's result besides its value: the output, the reason of a failure, the id that the program gave it."""

from __future__ import annotations

from typing import Any

from dispy import payload
from dispy.protocol import limits
from dispy.protocol.node import TERMINATED, Ended
from dispy.worker.segments import Segments

_ID_MAX = 1024
"""Largest id of a job that travels with its result (bytes, pickled). A larger one is left out: a program that
recovers the result then does not learn the id."""


def add_words(ended: Ended, reason: str, stdout: bytes, stderr: bytes, segments: Segments) -> None:
    """Add a reason and output to a result, in place. Output of ``INLINE_MAX`` bytes or more goes into a segment.

    If the segment cannot be written, the job has failed: its status becomes ``TERMINATED``, and its value is dropped.

    Args:
        ended: The result.
        reason: Traceback or sentence that says why the job failed; for a chunk of a ``map`` that has stopped before
            its end, the number of its results; empty otherwise.
        stdout: Output of the job on descriptor 1.
        stderr: Output of the job on descriptor 2.
        segments: Takes output too large for a packet.
    """
    ended.reason = reason
    ended.stdout_size = len(stdout)
    try:
        if len(stdout) + len(stderr) + len(reason) * 4 < limits.INLINE_MAX:
            ended.stdout, ended.stderr = stdout, stderr
        else:
            ended.output_stream = segments.put(stdout + stderr)
    except OSError as error:
        ended.status = TERMINATED
        ended.payload = b""
        ended.stream = 0
        ended.reason = f"the job's output cannot be held on this node: {error}"


def ids_of(call: Any, number: int) -> tuple[Any, bytes]:
    """Returns the id that a job sees, and the pickled id that travels with its result.

    Args:
        call: Unpickled call, with at least three parts: the third is the id that the program gave the job, or None.
        number: Number of the job, its id if the program gave none. A chunk of a ``map`` has no id then.
    """
    given = call[2]
    if given is None:
        return (None if len(call) >= payload.CHUNK_PARTS else number), b""
    return given, _dump_id(given)


def _dump_id(value: Any) -> bytes:
    """Pickle the id that a program gave a job, for a program that recovers its result.

    Returns:
        The pickled id; empty if it cannot be pickled, or is larger than ``_ID_MAX``.
    """
    try:
        # Jobs have ids of the program's numbering, which are not their numbers if it has several clusters.
        data = payload.dump_int(value) if type(value) is int else bytes(payload.whole(payload.dump(value)))
    except Exception:
        return b""
    return data if len(data) <= _ID_MAX else b""
