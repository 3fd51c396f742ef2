"""The honest program beside a hostile job: every way by which a node touches directories of an account, at random.

    python honest_program.py SETTINGS

A script beside its module, as users have it: nodes get nothing else. SETTINGS is JSON: ``secret_file``, ``seed``,
``seconds``, and for the hostile cluster ``python``, ``script``, ``attacks`` (settings of the attacker), ``role``,
``marker`` (of canaries), ``files`` (that it sends), and ``hints`` (a directory where it says what it works in). The
current directory has the files that it sends, and gets those that jobs send. It prints how often it did what, and
``LEAK`` with what it was given if that has a canary's secret. Its jobs may fail: jobs of one account can spoil each
other's files, which is no fault of the node.
"""

from __future__ import annotations

import json
import logging
import os
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from honest_jobs import answer, be_hostile, look_around, set_up

import dispy
from dispy import config
from dispy.errors import DispyError

BELOW = ("/w2/etc", "/w2/w3/etc", "/w2/etc", "/w2/w3/etc", "/w2", "")
"""Of working directories: the deeper ones have most directories of the account on the way to them."""

SIZES = (10, 1000, 70_000, 1 << 20)
"""Bytes of objects, values and results: in messages, and in files of their own."""

OBJECT_SIZES = (10, 1000, 60_000, 60_000, 70_000, 1 << 20)
"""Bytes of objects: mostly such as come in messages, of which many come in a second."""

WAIT_S = 2.0
"""What takes longer was spoiled by a hostile job; the program goes on."""


class HonestProgram:
    """One run.

    Args:
        settings: See the module.
    """

    def __init__(self, settings: dict[str, Any]) -> None:
        self._settings = settings
        self._end = time.monotonic() + settings["seconds"]
        self._counts: Counter[str] = Counter()
        self._names: list[str] = settings["files"]

    def run(self) -> None:
        """All threads until the time is up; then what was counted is printed."""
        given = [self._settings[name] for name in ("python", "script", "attacks", "seed", "role")]
        hostile = self._cluster(answer, dest_path="hostile", setup=be_hostile(*given))
        # What the attackers' role is about is done most.
        most = {"swapper": self._send_files, "racer": self._put_objects}.get(self._settings["role"])
        first = [most, most] if most else [self._put_objects, self._send_files]
        bodies: list[Callable[[random.Random], None]] = [*first, self._use_all]
        threads = [
            threading.Thread(
                target=self._repeat, args=(body, f"{self._settings['seed']}/{number}"), name=f"{number}"
            )
            for number, body in enumerate(bodies)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        hostile.close(terminate=True)
        hostile.shutdown()
        print(json.dumps(self._counts), flush=True)

    def _repeat(self, body: Callable[[random.Random], None], seed: str) -> None:
        chance = random.Random(seed)
        while time.monotonic() < self._end:
            try:
                body(chance)
            except DispyError as error:
                self._check(str(error))
                self._counts[f"refused: {type(error).__name__}"] += 1
                time.sleep(0.01)

    def _cluster(self, function: Callable[..., Any], **options: Any) -> dispy.JobCluster:
        return dispy.JobCluster(
            function,
            secret_file=self._settings["secret_file"],
            reentrant=True,
            job_status=self._on_job,
            **options,
        )

    def _on_job(self, job: dispy.DispyJob) -> None:
        with suppress(Exception):  # a result that a hostile job has spoiled
            self._check(job.result)
        self._check(job.exception)
        self._check(job.stderr)

    def _check(self, value: object) -> None:
        """Print that something came here that has a canary's secret."""
        text = value.decode("latin-1") if isinstance(value, bytes) else repr(value)
        if self._settings["marker"] in text:
            print(f"LEAK {text[:2000]}", flush=True)

    def _destination(self, chance: random.Random) -> str | None:
        """A working directory, new or used before, and perhaps spoiled by now; None: the cluster's own."""
        if chance.random() < 0.1:
            return None
        first = chance.choice(["w1", f"w{chance.randrange(2, 1_000_000)}"])
        # Jobs know where they are, and so do attackers.
        Path(self._settings["hints"], threading.current_thread().name).write_text(first)
        return first + chance.choice(BELOW)

    def _turn_s(self, chance: random.Random) -> float:
        return min(self._end, time.monotonic() + chance.choice([1, 2, 3]))

    def _finish(self, chance: random.Random, cluster: dispy.JobCluster) -> None:
        cluster.close(terminate=True)
        cluster.shutdown()
        self._counts["clusters closed"] += 1
        Path(self._settings["hints"], threading.current_thread().name).unlink(missing_ok=True)

    # What honest programs do.

    def _put_objects(self, chance: random.Random) -> None:
        """Objects, one after the other, each used by a job now and then."""
        cluster = self._cluster(
            look_around, dest_path=chance.choice(["objects", self._destination(chance), None])
        )
        cluster.submit(0, b"", [], 10).wait(WAIT_S)
        until = self._turn_s(chance)
        references = []
        while time.monotonic() < until:
            for _ in range(20):
                reference = cluster.put(b"o" * chance.choice(OBJECT_SIZES))
                references = [*references[-5:], reference]
                self._counts["objects put"] += 1
            job = cluster.submit(1, reference, [], chance.choice(SIZES))
            job.wait(WAIT_S if chance.random() < 0.1 else 0.02)
        self._finish(chance, cluster)

    def _send_files(self, chance: random.Random) -> None:
        """Files that are sent while jobs run, with modes that change."""
        cluster = self._cluster(
            look_around, dest_path=self._destination(chance), cleanup=chance.random() < 0.7
        )
        cluster.submit(0, b"", [], 10).wait(WAIT_S)
        until = self._turn_s(chance)
        while time.monotonic() < until:
            name = chance.choice(self._names)
            if chance.random() < 0.3:
                os.chmod(name, chance.choice([0o444, 0o555, 0o644, 0o755, 0o777, 0o600]))
            cluster.send_file(name)
            self._counts["files sent"] += 1
        self._finish(chance, cluster)

    def _use_all(self, chance: random.Random) -> None:
        """Files of the computation, of jobs, values and results of all sizes, and the cluster again and again."""
        depends = chance.sample(self._names, chance.randrange(len(self._names)))
        cluster = self._cluster(
            look_around,
            dest_path=self._destination(chance),
            depends=depends,
            setup=chance.choice([None, set_up]),
            cleanup=chance.random() < 0.7,
        )
        until = self._turn_s(chance)
        while time.monotonic() < until:
            brought = chance.sample(self._names, chance.randrange(3))
            jobs = [
                cluster.submit(
                    number,
                    b"a" * chance.choice(SIZES),
                    [*brought, "passwd"],
                    chance.choice(SIZES),
                    dispy_job_depends=brought,
                )
                for number in range(chance.randrange(1, 5))
            ]
            for job in jobs:
                job.wait(WAIT_S)
            self._counts["jobs with files"] += len(jobs)
        self._finish(chance, cluster)


if __name__ == "__main__":
    config.LocalNode = False
    config.CancelGrace = 0.2
    logging.getLogger("dispy").setLevel(logging.ERROR)
    HonestProgram(json.loads(sys.argv[1])).run()
