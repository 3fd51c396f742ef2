"""Hostile jobs against a node of root's with ``--user``: nothing outside their directories may change or be read.

A *round* is an honest program (``honest_program``) on the node for some seconds, with attackers (``attacker``) in
jobs and beside them; in every second round the node is killed and another one started. Canaries are looked at all
the time, and completely after each round.
"""

from __future__ import annotations

import json
import os
import pwd
import random
import re
import signal
import stat
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.integration.helpers import Place, Program
from tests.integration.others import NAME

from .canaries import MARKER, Canaries, differences, find_marker
from .nodes import FuzzNode

PROGRAM = Path(__file__).with_name("honest_program.py")
"""The honest program."""

FILES = ("passwd", "tool.sh", "data.txt", "sub/passwd", "sub/deeper/module.py", "large.bin")
"""Files that the honest program sends, below its current directory. Canaries have the same names."""

ROUND_S = 9.0
"""Seconds of one round, beside the start of its programs."""

ROLES = ("swapper", "racer")
"""Roles of the attackers beside jobs; one with all roles runs in a job. A small machine has no room for more."""

LOOK_S = 0.1
"""Seconds between two looks at the canaries."""

DEPTH = 4
"""Levels below the bases at which directories of the account begin."""


@dataclass(slots=True)
class Outcome:
    """What came of it."""

    seconds: float = 0.0
    rounds: int = 0
    kills: int = 0
    attacks: Counter[str] = field(default_factory=Counter)
    honest: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    rss_max_kb: int = 0
    found_after_s: float = 0.0

    @property
    def inputs(self) -> int:
        """What attackers have done, and what the honest program has asked of the node meanwhile."""
        return self.attacks.total() + self.honest.total()

    def __str__(self) -> str:
        return (
            f"{self.inputs:,} inputs in {self.seconds:.1f} s ({self.inputs / max(self.seconds, 1e-9):,.0f}/s), "
            f"{self.rounds} rounds, {self.kills} nodes killed, RSS of a node at most {self.rss_max_kb:,} kB, "
            f"{len(self.faults)} faults\n"
            f"  attacks: {dict(self.attacks.most_common())}\n  honest: {dict(self.honest.most_common())}"
        )


class HostileJobs:
    """All rounds.

    Args:
        place: Where everything runs.
        python: Interpreter that the account can run.
        seed: Of all chance.
        links_to_root: Whether links may lead to ``/`` (only where nothing there can be changed).
        role: The only role of attackers; empty: all.
    """

    def __init__(
        self, place: Place, python: str, seed: int, *, links_to_root: bool, role: str = ""
    ) -> None:
        self._place = place
        self._python = python
        self._seed = seed
        self._links_to_root = links_to_root
        self._role = role
        self._account = pwd.getpwnam(NAME)
        self.outcome = Outcome()
        self._node = FuzzNode(place, python, NAME, is_sabotaged=True)
        self._canaries = Canaries(place.root / "canaries")
        self._canaries.make()
        self._here = place.root / "here"
        self._here.mkdir(mode=0o700)
        self._make_files()
        public = place.root / "public"
        public.mkdir(mode=0o755)
        self._hints = place.root / "hints"
        self._hints.mkdir()
        self._reports = public / "reports"
        self._reports.mkdir()
        self._reports.chmod(0o1777)
        self._attacks = public / "attacks.json"
        self._script = public / "attacker.py"
        self._script.write_bytes(Path(__file__).with_name("attacker.py").read_bytes())
        self._script.chmod(0o644)
        self._start = 0.0

    def _make_files(self) -> None:
        for name in FILES:
            path = self._here / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"x = 1  # honest\n" if name != "large.bin" else os.urandom(3 << 20))

    def run(self, seconds: float, inputs: int) -> Outcome:
        """Rounds until the time is up, so many inputs were made, or there is a fault."""
        outcome = self.outcome
        self._start = time.monotonic()
        self._node.start()
        before: dict[str, object] = dict(self._canaries.snapshot())
        try:
            while not outcome.faults:
                left_s = seconds - (time.monotonic() - self._start)
                if left_s <= 0 or outcome.inputs >= inputs:
                    break
                self._round(outcome.rounds, min(ROUND_S, max(1.0, left_s)))
                outcome.rounds += 1
                self._judge(before)
        finally:
            self._attacks.unlink(missing_ok=True)
            self._end(before)
            outcome.seconds = time.monotonic() - self._start
            outcome.rss_max_kb = self._node.rss_max_kb
            self._canaries.close()
        return outcome

    def _break(self, what: str) -> None:
        if not self.outcome.faults:
            self.outcome.found_after_s = time.monotonic() - self._start
        if what[:200] not in {fault[:200] for fault in self.outcome.faults}:
            self.outcome.faults.append(what)

    # One round.

    def _round(self, number: int, seconds: float) -> None:
        self._aim()
        seed = f"{self._seed}/{number}"
        program = self._start_program(seed, seconds)
        attackers = [
            self._start_attacker(f"{seed}/{role}", role) for role in ([self._role] if self._role else ROLES)
        ]
        chance = random.Random(seed)
        kill_at = time.monotonic() + (seconds * chance.uniform(0.3, 0.9) if number % 2 == 1 else 1e9)
        end_at = time.monotonic() + seconds + 8
        glance = self._canaries.glance()
        while program.process.poll() is None and time.monotonic() < end_at and not self.outcome.faults:
            self._aim()
            self._look(glance)
            if time.monotonic() > kill_at:
                kill_at = 1e9
                self._replace_node()
            time.sleep(LOOK_S)
        self._attacks.unlink(missing_ok=True)
        self._end_program(program)
        for attacker in attackers:
            with suppress(subprocess.TimeoutExpired):
                attacker.wait(3)
            attacker.kill()
            attacker.wait()
        self._look(glance)
        self._collect()

    def _start_program(self, seed: str, seconds: float) -> Program:
        settings = {
            "secret_file": str(self._node.secret_file),
            "seed": seed,
            "seconds": seconds,
            "python": self._python,
            "script": str(self._script),
            "attacks": str(self._attacks),
            "role": self._role or "all",
            "hints": str(self._hints),
            "marker": MARKER,
            "files": list(FILES),
        }
        command = [sys.executable, str(PROGRAM), json.dumps(settings)]
        return Program(command, self._place, cwd=self._here)

    def _start_attacker(self, seed: str, role: str) -> subprocess.Popen[bytes]:
        """A process of the account beside the node: what a job leaves behind that has hidden itself."""
        return subprocess.Popen(
            [self._python, "-I", str(self._script), str(self._attacks), seed, role],
            user=self._account.pw_uid,
            group=self._account.pw_gid,
            extra_groups=[],
            cwd="/",
            env={"PATH": os.defpath},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def _replace_node(self) -> None:
        """Kill the node in the midst of all; the next one removes what it has left, while attackers go on."""
        for fault in self._node.faults():
            self._break(fault)
        self._node.kill()
        self.outcome.kills += 1
        self._node.start()

    def _end_program(self, program: Program) -> None:
        if program.process.poll() is None:
            program.send(signal.SIGKILL)
        with suppress(AssertionError):
            program.wait(5)
        for line in program.stdout.splitlines():
            if line.startswith("LEAK"):
                self._break(f"the program was given a secret: {line}")
            elif line.startswith("{"):
                self.outcome.honest.update(json.loads(line))
        if re.search(r"^Traceback", program.stderr, re.MULTILINE):
            self.outcome.honest["programs with a traceback"] += 1
        program.end()

    def _aim(self) -> None:
        """Tell attackers what there is: they know every directory that the account has."""
        tops = sorted(self._tops())
        used = set(self._hinted())
        settings = {
            "tops": tops,
            "used": [top for top in tops if os.path.basename(top) in used],
            "canaries": [str(path) for path in self._canaries.trees],
            "secrets": [str(path) for path in self._canaries.secrets],
            "reports": [str(self._reports)],
            "links_to_root": ["yes"] if self._links_to_root else [],
            "only": [self._role] if self._role else [],
        }
        temporary = self._attacks.with_suffix(".new")
        temporary.write_text(json.dumps(settings))
        temporary.chmod(0o644)
        temporary.rename(self._attacks)

    def _hinted(self) -> Iterator[str]:
        for path in self._hints.iterdir():
            with suppress(FileNotFoundError):
                yield path.read_text()

    def _tops(self) -> set[str]:
        """Directories of the account in directories that are not: where its jobs can write."""
        found: set[str] = set()

        def look(path: str, depth: int) -> None:
            with suppress(OSError), os.scandir(path) as entries:
                for entry in entries:
                    with suppress(OSError):
                        status = entry.stat(follow_symlinks=False)
                        if not stat.S_ISDIR(status.st_mode):
                            continue
                        if status.st_uid == self._account.pw_uid:
                            found.add(entry.path)
                        elif depth < DEPTH:
                            look(entry.path, depth + 1)

        for base in (*self._place.temporary.glob("dispy-*"), *Path("/dev/shm").glob("dispy-*")):
            look(str(base), 0)
        return found

    # What must be true.

    def _look(self, before: dict[str, tuple[int, ...]]) -> None:
        """What can be seen at any moment: who was opened, what has another owner, mode, size or time."""
        opened = self._canaries.opened()
        if opened:
            self._break(f"opened, though the account cannot: {opened[:5]}")
        changed = differences(dict(before), dict(self._canaries.glance()))
        if changed:
            self._break("outside:\n" + "\n".join(changed[:10]))
        for fault in self._node.faults():
            self._break(fault)

    def _collect(self) -> None:
        """Add up what attackers have told, and see whether one of them could do what none can."""
        for path in self._reports.iterdir():
            if path.name.startswith("."):
                continue
            with suppress(ValueError, OSError):
                counts = json.loads(path.read_text())
                self.outcome.attacks.update(counts)
                for what in counts:
                    if what.startswith(("READ", "WROTE")):
                        self._break(f"an attacker has: {what}")
            path.unlink(missing_ok=True)

    def _judge(self, before: dict[str, object]) -> None:
        """Compare everything with the time before the first round."""
        opened = self._canaries.opened()
        if opened:
            self._break(f"opened, though the account cannot: {opened[:5]}")
        changed = differences(before, dict(self._canaries.snapshot()))
        if changed:
            self._break("outside:\n" + "\n".join(changed[:10]))
        tops = [str(self._place.temporary), str(self._here), "/dev/shm"]
        leaked = find_marker(tops, self._account.pw_uid)
        if leaked:
            self._break(f"secrets of canaries are in {leaked[:5]}")
        self._judge_store()

    def _judge_store(self) -> None:
        """Files that are kept by their content have it, and the account may not write to any of them."""
        for path in self._place.state.rglob("*"):
            if re.fullmatch(r"[0-9a-f]{64}", path.name):
                with suppress(FileNotFoundError):
                    status = path.lstat()
                    if status.st_uid == self._account.pw_uid or status.st_mode & 0o022:
                        self._break(f"the account may write to {path}, a file of the store: {status}")

    def _end(self, before: dict[str, object]) -> None:
        """Everything ends: nothing but named directories may be left."""
        for fault in self._node.stop():
            self._break(fault)
        if self._node.starts and not self.outcome.faults:
            # What killed nodes have left is for the next one.
            self._node.start()
            for fault in self._node.stop():
                self._break(fault)
            left = self._node.left()
            if left:
                self._break(f"left behind: {left[:20]}")
            self._judge(before)


__all__ = ["HostileJobs", "Outcome"]
