"""Exceptions of jobs on their way to the client: as text, and pickled where possible."""

from __future__ import annotations

import traceback
from typing import Any

from dispy import payload
from dispy.errors import DispyError, PicklingError, ProgramError, UnpicklingError
from dispy.protocol import limits
from dispy.protocol.output import cut_reason
from dispy.system.escaping import sendable
from dispy.system.wording import of_error
from dispy.worker.job_api.job_namespace import note_missing
from dispy.worker.map_chunk import Chunk


def describe(
    error: BaseException, step: str, value: Any, where: tuple[str, str], depth: int = 1
) -> tuple[bytes, str]:
    """Returns the exception of a job for its client: pickled, and as a traceback, cut to some 32 KiB.

    The pickled one is empty if it cannot be pickled or has 64 KiB or more: then the client has the text alone.

    Args:
        error: Exception that was raised.
        step: Step at which it was raised: "arguments", "result", or empty for the job itself.
        value: Result of the job; only looked at if ``step`` is "result", for the part that cannot be pickled.
        where: The node's name, and the working directory of jobs: for the note on a file or module that is missing.
        depth: Number of frames of the worker above those of the job, which the traceback leaves out.
    """
    if step == "result" and isinstance(
        error, Exception
    ):  # else it is an exit, as if the job had called for it
        culprit = payload.find_culprit(value, "the result") or of_error(error)
        return _describe_ours(PicklingError(f"the job's result cannot be sent: {culprit}"))
    if step == "arguments":
        note_missing(error, *where)
        cause = "; ".join([of_error(error), *getattr(error, "__notes__", ())])
        return _describe_ours(
            UnpicklingError(f"the job's arguments cannot be rebuilt on the node: {cause}")
        )
    if isinstance(error, ProgramError):
        return _describe_ours(error)
    note_missing(error, *where)
    frames = error.__traceback__
    for _ in range(depth):
        frames = frames.tb_next if frames else None
    lines = traceback.format_exception(type(error), error, frames)
    text = cut_reason(sendable("".join(lines)))
    data = payload.dump_exception(error)
    return (data if len(data) < limits.INLINE_MAX else b""), text


def describe_in_chunk(
    error: BaseException, step: str, chunk: Chunk, where: tuple[str, str]
) -> tuple[bytes, str]:
    """Returns the exception of an item of a ``map`` for the client: pickled, and as a traceback.

    The results of the items before it are pickled with it, so that the client has them although their chunk has
    failed.

    Args:
        error: Exception that was raised.
        step: As for ``describe``.
        chunk: The chunk that the item is in.
        where: As for ``describe``.
    """
    value = chunk.cut_at_unsendable() if step == "result" else chunk.results
    data, reason = describe(error, step, value, where, depth=2)
    try:
        return payload.dump_failure(chunk.results, data), reason
    except Exception as unsendable:
        # The first error counts: a result that cannot be sent, of an item before.
        data, reason = describe(unsendable, "result", chunk.cut_at_unsendable(), where)
        return payload.dump_failure(chunk.results, data), reason


def _describe_ours(error: DispyError) -> tuple[bytes, str]:
    """Returns an error of dispy's own (PicklingError or ProgramError), pickled and as a traceback without frames.

    Frames would be those of dispy, which say nothing to the user.

    The message is cut to 8,192 characters.
    """
    message = sendable(str(error))[: limits.REASON_MAX // 8]
    text = f"Traceback (most recent call last):\ndispy.errors.{type(error).__name__}: {message}\n"
    return payload.dump_exception(type(error)(message)), text
