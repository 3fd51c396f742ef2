"""Random numbers of jobs: generators that a worker has of its host, and seeds that jobs can ask for."""

from __future__ import annotations

import itertools
import os
import types
from typing import Any

from dispy.payload import random_generators
from dispy.payload.random_generators import UNSEEDED, Seeding, seed_of

_CHUNKS = -1
"""The group of chunks among those of seeds: jobs have 0, maps their numbers from 1 on."""


class Randomness:
    """The generators of this process, and how they are seeded."""

    def __init__(self) -> None:
        self._generators: list[object] = []
        self._seeding = UNSEEDED
        self._key = b""
        self._arrivals = itertools.count()
        random_generators.key_here = self._next_key
        random_generators.globals_arrived = self._globals_arrived

    def take(self, seeding: Seeding, is_isolated: bool) -> str:
        """Look for generators that the user's code has made, before anything is forked from here.

        Args:
            seeding: Of the cluster.
            is_isolated: Each job has a process of its own.

        Returns:
            What is to be said about them; empty for nothing.
        """
        self._seeding = seeding
        if not seeding.is_on:
            return ""
        self._generators = random_generators.found()
        names = random_generators.describe(self._generators)
        where = "job" if is_isolated else "worker"
        return f"random generators have a stream of their own in each {where}: {names}" if names else ""

    def begin_process(self) -> None:
        """Give a worker streams that no other process has."""
        if self._seeding.is_on:
            self._key = os.urandom(16)
            random_generators.reseed(self._generators, self._key)
            random_generators.reseed_shared()

    def begin_job(self, number: int) -> None:
        """Give the process of one job streams that depend on the job's number and the cluster's seed alone."""
        if self._seeding.is_on:
            index = number - self._seeding.first
            # Chunks of maps have numbers of their own, far above: their lower 32 bits are those of jobs, too.
            seed = seed_of(self._seeding.seed, index, 0 if index < 1 << 32 else _CHUNKS)
            self._key = b"%d %d" % (self._seeding.seed, index)
            self._arrivals = itertools.count()
            random_generators.reseed(self._generators, self._key)
            random_generators.reseed_shared(seed)

    def imported(self, module: types.ModuleType) -> None:
        """Give the generators of a module of the user's, which a job has just imported, streams of this process."""
        if self._key:
            random_generators.reseed(
                random_generators.held_by(vars(module), module.__name__), self._next_key()
            )

    def _globals_arrived(self, values: list[Any]) -> None:
        if self._key:
            random_generators.reseed(random_generators.held_by(values), self._next_key())

    def job_seed(self, number: int) -> int:
        """The seed of the job with this number."""
        return seed_of(self._seeding.seed, number - self._seeding.first)

    def item_seed(self, mapping: int, item: int) -> int:
        """The seed of an item of a map.

        Args:
            mapping: Number of the map in its cluster.
            item: Number of the item there.
        """
        return seed_of(self._seeding.seed, item, mapping)

    def _next_key(self) -> bytes:
        return b"%s %d" % (self._key, next(self._arrivals))
