"""Talks with daemons that run, one after the other and several at once, and what must be true all the time."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from dispy.protocol import limits
from tests.integration.helpers import Place, Program

from .nodes import FuzzDaemon

TALKERS = 8
"""Connections at once, beside those of a talk that are replaced."""

MUST_HEAR_S = 15.0
"""Seconds after which all was heard that has to be."""

STALL_S = 30.0
"""The honest program's jobs have to go on within this time: on a busy machine hosts take seconds to start."""

PROGRAM = Path(__file__).with_name("steady_program.py")
"""The honest program."""

JOBS = Path(__file__).with_name("client_jobs.py")
"""Computations of those who are hostile."""


@dataclass(slots=True)
class Outcome:
    """What came of it."""

    seconds: float = 0.0
    messages: int = 0
    talks: int = 0
    honest: int = 0
    by_type: Counter[str] = field(default_factory=Counter)
    heard: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    peaks: str = ""

    def __str__(self) -> str:
        return (
            f"{self.messages:,} inputs in {self.talks:,} talks, {self.seconds:.1f} s "
            f"({self.messages / max(self.seconds, 1e-9):,.0f}/s), {self.honest:,} honest jobs beside, {self.peaks}, "
            f"{len(self.faults)} faults\n"
            f"  said: {dict(self.by_type.most_common())}\n  heard: {dict(self.heard.most_common())}"
        )


def load_codes(place: Place) -> list[bytes]:
    """Pickled computations, made by a script of its own: a fuzzer's modules would go to nodes with its functions."""
    done = subprocess.run(
        [sys.executable, JOBS],
        env=place.environment,
        cwd=place.root,
        capture_output=True,
        text=True,
        check=True,
    )
    codes = [bytes.fromhex(line) for line in done.stdout.split()]
    assert codes
    assert max(map(len, codes)) < limits.INLINE_MAX, "they would have to be streams"
    return codes


class Campaign:
    """All talks with some daemons, beside an honest program. Subclasses say how one talk goes.

    Args:
        place: Where everything runs.
        seed: Of all chance.
        daemons: What is looked at all the time.
        must_hear: Types of messages, by name, that must have been heard after ``MUST_HEAR_S``: else nothing that was
            said got as far as it should.

    Attributes:
        outcome: What came of it so far.
    """

    def __init__(
        self, place: Place, seed: int, daemons: list[FuzzDaemon], must_hear: tuple[str, ...]
    ) -> None:
        self.place = place
        self.seed = seed
        self.daemons = daemons
        self.outcome = Outcome()
        self._must_hear = must_hear
        self._begun = time.monotonic()

    async def talk(self, number: int) -> None:
        """Have one talk."""
        raise NotImplementedError

    async def detach_all(self) -> None:
        """All identities leave for good."""
        raise NotImplementedError

    def start_program(self, settings: dict[str, object]) -> Program:
        """Start the honest program, and wait until jobs of it have ended."""
        program = Program(
            [sys.executable, str(PROGRAM), json.dumps(settings)], self.place, cwd=self.place.root
        )
        program.wait_line("^1 ", deadline_s=STALL_S)
        return program

    def report(self, fault: str) -> None:
        """Note a fault, once."""
        if fault[:200] not in {known[:200] for known in self.outcome.faults}:
            self.outcome.faults.append(fault)

    async def talk_until(self, program: Program, until: float, inputs: int) -> None:
        """Talk until a time (monotonic seconds), or so many inputs, or a fault."""

        def is_over() -> bool:
            enough = self.outcome.messages >= inputs or time.monotonic() > until
            return enough or bool(self.outcome.faults)

        async def talk(number: int) -> None:
            while not is_over():
                await self.talk(number)
                self.outcome.talks += 1
                number += TALKERS

        watch = asyncio.create_task(self._watch(program, is_over))
        await asyncio.gather(*[talk(number) for number in range(TALKERS)])
        await watch
        if not self.outcome.faults:
            await self.detach_all()
            await self._wait_honest(program)
            unheard = [name for name in self._must_hear if not self.outcome.heard[name]]
            if unheard and time.monotonic() - self._begun > MUST_HEAR_S:
                self.report(f"{unheard} were never heard: this fuzzer does not reach what says them")

    async def _watch(self, program: Program, is_over: Callable[[], bool]) -> None:
        """Look all the time at what must be true."""
        counted, since = 0, time.monotonic()
        while not is_over():
            self._look()
            text = program.stdout
            if len(text) != counted:
                if "WRONG" in text[counted:]:
                    self.report(f"the honest program: {text[text.index('WRONG') :][:3000]}")
                counted, since = len(text), time.monotonic()
            if program.process.poll() is not None:
                self.report(f"the honest program has ended: {program.stderr[-3000:]}")
            if time.monotonic() - since > STALL_S:
                last = [daemon.process.stderr[-2000:] for daemon in self.daemons]
                self.report("\n".join([f"no honest job has ended for {STALL_S:g} s; last words:", *last]))
            await asyncio.sleep(0.2)

    async def _wait_honest(self, program: Program) -> None:
        """Have the honest program go on once nobody else is there: it may have been stopped just before."""
        text, until = program.stdout, time.monotonic() + STALL_S
        while program.stdout == text and time.monotonic() < until:
            await asyncio.sleep(0.02)
        if program.stdout == text:
            self.report(f"no honest job has ended for {STALL_S:g} s after all others had left")

    def _look(self) -> None:
        for daemon in self.daemons:
            for fault in daemon.faults():
                self.report(fault)

    def end_program(self, program: Program) -> None:
        """End the honest program in order."""
        lines = program.stdout.splitlines()
        self.outcome.honest = sum(int(line.split()[1]) for line in lines if line[:1].isdigit())
        program.process.terminate()
        with suppress(AssertionError):
            program.wait(10)
        program.end()

    def end(self) -> None:
        """Count what is to be shown, once all has ended."""
        self.outcome.seconds = time.monotonic() - self._begun
        self.outcome.peaks = ", ".join([daemon.peak() for daemon in self.daemons])
