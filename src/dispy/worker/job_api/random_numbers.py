"""Random numbers of jobs: generators that a worker inherits from its host, and seeds that jobs can ask for.

A fork copies the state of generators, so that all workers would draw the same numbers: each worker, or the process of
each isolated job, reseeds them.
"""

from __future__ import annotations

import itertools
import os
import types
from typing import Any

from dispy.payload import random_generators
from dispy.payload.random_generators import UNSEEDED, Seeding, seed_of

_CHUNKS = -1
"""Group of seeds (see ``seed_of``) of chunks of maps, so that they differ from those of jobs (group 0) and of items
of a map (the map's number, from 1)."""


class Randomness:
    """The generators of this process, and the way in which they are seeded. There is one object for each process."""

    def __init__(self) -> None:
        self._generators: list[object] = []
        """Random generators that the user's code had made when ``take`` looked: each worker or isolated job reseeds
        its copies."""
        self._seeding = UNSEEDED
        """Seed of the cluster, number of its first job, and whether generators are reseeded at all (``is_on``)."""
        self._key = b""
        """Bytes from which the streams of random numbers of this process are made: random in a worker, made of the
        cluster's seed and the job in the process of one job. Empty in the host and if dispy does not seed: generators
        keep their state."""
        self._arrivals = itertools.count()
        """Counter of the keys for generators that arrive after the start (in modules, globals and values): a part of
        each key, so that no two keys of this process are equal."""
        random_generators.key_here = self._next_key
        random_generators.globals_arrived = self._globals_arrived

    def take(self, seeding: Seeding, is_isolated: bool) -> str:
        """Look for generators that the user's code has made; call this before anything is forked from here.

        Args:
            seeding: The cluster's seed, and whether dispy seeds at all.
            is_isolated: True if each job has a process of its own.

        Returns:
            Message for the user that names the generators; empty if there are none.
        """
        self._seeding = seeding
        if not seeding.is_on:
            return ""
        self._generators = random_generators.found()
        names = random_generators.describe(self._generators)
        where = "job" if is_isolated else "worker"
        return f"random generators have a stream of their own in each {where}: {names}" if names else ""

    def begin_process(self) -> None:
        """Give the generators of a worker streams of random numbers that no other process has."""
        if self._seeding.is_on:
            self._key = os.urandom(16)
            random_generators.reseed(self._generators, self._key)
            random_generators.reseed_shared()

    def begin_job(self, number: int) -> None:
        """Give the generators in the process of one job streams that depend on its number and the cluster's seed."""
        if self._seeding.is_on:
            index = number - self._seeding.first
            # Chunks of maps have numbers of their own, far above: their lower 32 bits are those of jobs, too.
            seed = seed_of(self._seeding.seed, index, 0 if index < 1 << 32 else _CHUNKS)
            self._key = b"%d %d" % (self._seeding.seed, index)
            self._arrivals = itertools.count()
            random_generators.reseed(self._generators, self._key)
            random_generators.reseed_shared(seed)

    def imported(self, module: types.ModuleType) -> None:
        """Reseed the generators of a module of the user's that a job has imported; does nothing in the host."""
        if self._key:
            random_generators.reseed(
                random_generators.held_by(vars(module), module.__name__), self._next_key()
            )

    def _globals_arrived(self, values: list[Any]) -> None:
        """Reseed generators among globals that came with the arguments of a job; does nothing in the host. Called by
        ``payload`` with the values of these globals, when they have been unpickled."""
        if self._key:
            random_generators.reseed(random_generators.held_by(values), self._next_key())

    def job_seed(self, number: int) -> int:
        """Returns the seed of a job (32 bits): made of the cluster's seed and the job's number, counted from the
        cluster's first job."""
        return seed_of(self._seeding.seed, number - self._seeding.first)

    def item_seed(self, mapping: int, item: int) -> int:
        """Returns the seed of an item of a map (32 bits), whatever chunk the item is in.

        Args:
            mapping: Number of the map in its cluster.
            item: Number of the item in the map, from 0.
        """
        return seed_of(self._seeding.seed, item, mapping)

    def _next_key(self) -> bytes:
        """Returns a key for generators that arrive after the start: ``_key`` and the number of the call, from 0."""
        return b"%s %d" % (self._key, next(self._arrivals))
