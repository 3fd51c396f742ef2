"""Sends 2 GiB each way through a slow line with hiccups while small jobs and cancels pass, and checks promises.

    python -m tests.large
    python -m tests.large --mib 64

The measuring is that of ``benchmarks.large_beside``. The exit code is 1 if half of the small jobs or of the cancels
took more than a tenth of a second, or one side held more than twice what was under way. How long the slowest of a
hundred took, and how full the line was, depends on what else the machine does: those figures are for a quiet one.
"""

from __future__ import annotations

import argparse
import sys

import psutil

from benchmarks import large_beside

MIB = 1 << 20
RATE = 50e6

SHARE = 5
"""Of the memory that is there each array may take so large a part: both are at both ends."""


def main() -> None:
    """Entry of ``python -m tests.large``."""
    parser = argparse.ArgumentParser(prog="tests.large", description="Large data on a slow line.")
    parser.add_argument("--mib", type=int, default=2048, help="how much each way")
    size = parser.parse_args().mib * MIB
    room = psutil.virtual_memory().available // SHARE
    if room < size:
        print(f"there is memory for {room // MIB} MiB each way only")
        size = room
    broken = 0
    for row in large_beside.measure(size, RATE):
        bound = f"{row.bar.kind} {row.bar.limit:g}" if row.bar else ""
        is_broken = row.met_bar is False and "p99" not in row.claim and "how full" not in row.claim
        broken += is_broken
        print(f"{row.claim:60} {row.value:9.3g} {row.unit:3} {bound:8} {'BROKEN' if is_broken else ''}")
    sys.exit(1 if broken else 0)


if __name__ == "__main__":
    main()
