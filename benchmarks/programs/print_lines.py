"""A plain process that prints what so many jobs of ``output.py`` print; tells on stderr how long it took.

python print_lines.py JOBS
"""

from __future__ import annotations

import sys
import time


def print_lines(value: int) -> int:
    """Print 100 lines."""
    for line in range(100):
        print("line", line, "of a job that has something to say")
    return value


def main(count: int) -> None:
    """Print the lines of so many jobs, flushed after each."""
    start = time.perf_counter()
    for number in range(count):
        print_lines(number)
        sys.stdout.flush()
    print(time.perf_counter() - start, file=sys.stderr)


if __name__ == "__main__":
    main(int(sys.argv[1]))
