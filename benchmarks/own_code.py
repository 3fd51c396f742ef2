"""Programs of a user's own, written into a directory: a script, with or without twenty modules beside it.

The text differs from run to run, so that no node finds in its store what another run has left there.
"""

from __future__ import annotations

import compileall
from pathlib import Path
from typing import Literal

Form = Literal["none", "global", "inside"]
"""Without modules; with modules that the script imports; with modules that the job's function imports."""

MODULES = 20
FUNCTIONS = 8
"""In each module, beside its classes: some 150 lines together."""

HEAD = '''\
"""Module {number} of a program, written in run {run}."""

from __future__ import annotations

import collections
import dataclasses
import enum
import functools
import json
import math
import re
from collections.abc import Iterator

{imports}

LIMIT = 1_000 + {number}
WORDS = re.compile(r"[a-z]+")


@functools.lru_cache(maxsize=64)
def root(value: int) -> float:
    """Worked out once."""
    return math.sqrt(value)


class Colour(enum.Enum):
    """Some names."""

    RED = 1
    GREEN = 2
    BLUE = 3


@dataclasses.dataclass
class Point:
    """A place."""

    x: int
    y: float
    name: str = "point"
    tags: list[str] = dataclasses.field(default_factory=list)

    def moved(self, by: int) -> Point:
        """Another place."""
        return dataclasses.replace(self, x=self.x + by, y=self.y + by)

    def length(self) -> float:
        """How far it is away."""
        return math.hypot(self.x, self.y)


class Shape:
    """Some places."""

    colour = Colour.RED

    def __init__(self, points: list[Point]) -> None:
        self.points = points

    def __iter__(self) -> Iterator[Point]:
        return iter(self.points)

    @property
    def size(self) -> float:
        """How long it is."""
        return sum(point.length() for point in self)

    def as_text(self) -> str:
        """For people."""
        return json.dumps([dataclasses.asdict(point) for point in self.points])


class Coloured(Shape):
    """Some places of one colour."""

    def __init__(self, points: list[Point], colour: Colour = Colour.BLUE) -> None:
        super().__init__(points)
        self.colour = colour

    def as_text(self) -> str:
        """For people."""
        return f"{{self.colour.name}} {{super().as_text()}}"
'''

FUNCTION = '''

def step_{index}(value: int, times: int = {index}) -> int:
    """Step {index} of module {number}."""
    counted = collections.Counter(WORDS.findall(f"step {index} of {{value}}"))
    for turn in range(times):
        value = (value * {factor} + turn + len(counted)) % LIMIT
    return value
'''

TAIL = '''

def work(value: int) -> int:
    """All of this module, and something of those that it imports."""
    shape = Coloured([Point(value, 1.5).moved(turn) for turn in range(3)])
    total = int(shape.size + root(abs(value))) + len(shape.as_text())
    for step in ({steps}):
        total += step(value)
    return total{others}
'''

SCRIPT = """\
import json
import sys
import time
{top}
from dispy import JobCluster


def compute(value):
{inside}
    return value + {calls}


if __name__ == "__main__":
    cluster = JobCluster(compute)
    job = cluster.submit(1)
    result = job()
    when, cpu_s = time.monotonic(), time.process_time()
    from benchmarks.programs.code_marks import mark

    assert job.status == job.Finished, job.exception
    code = getattr(getattr(cluster, "_computation", None), "code", b"")
    mark(when=when, cpu_s=cpu_s, code_bytes=len(code))
    assert result == compute(1)
"""


def write(directory: Path, form: Form, run: str) -> Path:
    """Write a program, its modules compiled as they are from the second run on.

    Args:
        directory: An empty one.
        form: What modules it has, and where they are imported.
        run: A text that no other program has in its modules.

    Returns:
        The script.
    """
    names = [] if form == "none" else [f"own{number:02}" for number in range(MODULES)]
    for number, name in enumerate(names):
        (directory / f"{name}.py").write_text(_module(number, names, run))
    imports = [f"import {name}" for name in names]
    text = SCRIPT.format(
        top="\n".join(imports) if form == "global" else "",
        inside="\n".join(f"    {line}" for line in imports) if form == "inside" else "",
        calls=" + ".join(f"{name}.work(value)" for name in names) or "1",
    )
    script = directory / "program.py"
    script.write_text(text)
    compileall.compile_dir(directory, quiet=1)
    return script


def _module(number: int, names: list[str], run: str) -> str:
    """A module that imports up to two of those before it."""
    before = names[max(0, number - 2) : number]
    functions = [
        FUNCTION.format(index=index, number=number, factor=3 + 2 * index) for index in range(FUNCTIONS)
    ]
    tail = TAIL.format(
        steps=", ".join(f"step_{index}" for index in range(FUNCTIONS)),
        others="".join(f" + {name}.step_1(value) + len({name}.Shape([]).as_text())" for name in before),
    )
    imports = "\n".join(f"import {name}" for name in before)
    return HEAD.format(number=number, run=run, imports=imports) + "".join(functions) + tail
