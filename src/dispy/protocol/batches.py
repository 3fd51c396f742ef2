"""How lists of jobs and results are cut into messages that a peer accepts."""

from __future__ import annotations

from typing import TypeVar

from dispy.protocol.limits import BATCH_MAX, BATCH_SIZE_MAX
from dispy.protocol.node import Ended

T = TypeVar("T")


def cut(items: list[T], sizes: list[int]) -> list[list[T]]:
    """Cut a list into parts of at most ``BATCH_MAX`` items and ``BATCH_SIZE_MAX`` bytes, in their order.

    On the path of every job: a list that need not be cut costs one sum.

    Args:
        items: Jobs or results.
        sizes: Of each item the bytes that vary: what it takes besides has a bound of its own.

    Returns:
        None of them is empty. An item that is larger than a part may be is a part of its own.
    """
    if len(items) <= BATCH_MAX and sum(sizes) <= BATCH_SIZE_MAX:
        return [items] if items else []
    parts = []
    start = total = 0
    for at, size in enumerate(sizes):
        if at > start and (total + size > BATCH_SIZE_MAX or at - start == BATCH_MAX):
            parts.append(items[start:at])
            start, total = at, 0
        total += size
    parts.append(items[start:])
    return parts


def sizes_of(ended: list[Ended]) -> list[int]:
    """Most bytes that the payload, output, reason and id of each result take in a message.

    Most results have a payload only: to look for the rest first takes 60 ns less for each of them.
    """
    return [
        _size_of(result)
        if result.stdout or result.stderr or result.reason or result.job_id
        else len(result.payload)
        for result in ended
    ]


def _size_of(ended: Ended) -> int:
    # A character takes up to four bytes.
    output = len(ended.stdout) + len(ended.stderr)
    return len(ended.payload) + output + len(ended.job_id) + 4 * len(ended.reason)
