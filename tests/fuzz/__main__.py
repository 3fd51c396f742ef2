"""Fuzzers of a real node, or of a real shared scheduler, by who is hostile.

    python -m tests.fuzz client --seconds 20                     an authenticated client says anything
    python -m tests.fuzz client --seconds 20 --user nobody       the same, with jobs of another account
    python -m tests.fuzz program --seconds 20                    an authenticated program, at a shared scheduler
    python -m tests.fuzz jobs --seconds 20                       jobs of another account attack directories (root)
    python -m tests.fuzz keys --seconds 20                       handshakes with any keys, without a node
    python -m tests.fuzz keys --mutations                        each known fault, put back, must be found
    python -m tests.fuzz program --mutations                     each known fault, put back, must be found
    python -m tests.fuzz jobs --mutations                        each known fault, put back, must be found
    python -m tests.fuzz.strangers --inputs 10000000             strangers, without a node

The seed is printed first; the same seed says and does the same again, as far as processes run alike. The exit code is
1 if there were faults.
"""

from __future__ import annotations

import argparse
import logging
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from . import reverts, sandbox
from .key_talks import KeyTalks
from .nodes import open_place, public_root, remove


def main() -> None:
    """Entry of ``python -m tests.fuzz``."""
    options = _options()
    if options.mutations:
        sys.exit(reverts.try_all(options.kind, options.seconds, options.seed))
    if options.kind == "keys":
        print(f"seed {options.seed}", flush=True)
        sys.exit(_try_keys(options))
    if options.inside:
        sys.exit(_run_inside(options, Path(options.inside)))
    if (options.kind == "jobs" or options.user) and os.geteuid() != 0:
        print("skipped: only root can start a node whose jobs are another account's")
        return
    print(f"seed {options.seed}", flush=True)
    root = public_root()
    try:
        # Another process, since this one removes the place, and the other sees everything else as read-only.
        again = [*sys.argv[1:], "--seed", str(options.seed), "--inside", str(root)]
        code = subprocess.run([sys.executable, "-m", "tests.fuzz", *again], check=False).returncode
    finally:
        remove(root)
    sys.exit(code)


def _try_keys(options: argparse.Namespace) -> int:
    talks = KeyTalks(options.seed)
    faults = talks.run(options.seconds, options.inputs)
    print(f"{talks.played.total():,} talks: {dict(talks.played)}, {len(faults)} faults")
    for fault in faults:
        print(f"FAULT: {fault}")
    return 1 if faults else 0


def _run_inside(options: argparse.Namespace, root: Path) -> int:
    faults = _run(options, root)
    for fault in faults:
        print(f"FAULT: {fault}")
    if faults:
        words = [options.kind, *(["--user", options.user] if options.user else [])]
        words += ["--role", options.role] if options.role else []
        print(
            f"again: python -m tests.fuzz {' '.join(words)} --seconds {options.seconds:g} --seed {options.seed}"
        )
    return 1 if faults else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tests.fuzz", description="Fuzz a real node or scheduler.")
    parser.add_argument("kind", choices=["client", "program", "jobs", "keys"])
    parser.add_argument("--seconds", type=float, default=20.0, help="how long at most")
    parser.add_argument(
        "--inputs", type=int, default=sys.maxsize, help="how many, if that is reached before"
    )
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(3)))
    parser.add_argument("--user", default="", help="account of the jobs of client's node (root only)")
    parser.add_argument("--role", default="", help="the only attacks of jobs: swapper or racer")
    parser.add_argument(
        "--mutations", action="store_true", help="put known faults back, each must be found"
    )
    parser.add_argument("--inside", default="", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inputs != sys.maxsize and "--seconds" not in sys.argv:
        options.seconds = float("inf")
    return options


def _run(options: argparse.Namespace, root: Path) -> list[str]:
    tempfile.tempdir = str(root)
    # It warns of each byte that is written to a connection which the other side has just ended.
    logging.getLogger("asyncio").setLevel(logging.ERROR)
    for name in [name for name in os.environ if name.startswith("DISPY_")]:
        del os.environ[name]
    refused = sandbox.enter(root) if os.geteuid() == 0 else "not root"
    if refused:
        print(f"no mount namespace of its own ({refused}): no link leads to /", flush=True)
    from tests.integration.others import find_python  # now: its temporary directory is the place

    finder = find_python() if os.geteuid() == 0 else iter([sys.executable])
    python = next(finder)
    with open_place(root) as place:
        os.environ.update(place.variables)
        if options.kind == "jobs":
            from .hostile import HostileJobs

            hostile = HostileJobs(place, python, options.seed, links_to_root=not refused, role=options.role)
            outcome = hostile.run(options.seconds, options.inputs)
            print(outcome)
            if outcome.faults:
                print(f"found after {outcome.found_after_s:.1f} s")
            found = outcome.faults
        elif options.kind == "program":
            from .programs import HostilePrograms

            programs = HostilePrograms(place, python, options.seed)
            told = programs.run(options.seconds, options.inputs)
            print(told)
            found = told.faults
        else:
            from .clients import HostileClients

            clients = HostileClients(place, python, options.seed, options.user)
            told = clients.run(options.seconds, options.inputs)
            print(told)
            found = told.faults
    next(finder, None)
    return found


if __name__ == "__main__":
    main()
