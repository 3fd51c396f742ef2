"""Judgement of ``facts`` about one machine. Pure: nothing is measured here."""

from __future__ import annotations

from typing import Any

from dispy.cli.doctor.findings import Finding, bad, note, ok

CLOCK_NOTE_S = 60.0
"""Seconds by which clocks may differ before it is said: times of jobs are by the node's clock."""
CLOCK_BAD_S = 3600.0
"""Seconds by which clocks may differ before beacons are not believed."""

FILES_BAD = 256
"""Descriptors of a process below which a node or program with a few peers has too few."""
FILES_NOTE = 1024
"""Descriptors below which a program with hundreds of nodes has too few."""

PROCESSES_MIN = 64
"""Processes of a user below which a node cannot start its workers beside what else runs."""

MEMORY_NOTE = 256 << 20
"""Bytes of the memory file system below which large data soon does not fit: containers have 64 MB."""

DISK_BAD = 64 << 20
"""Free bytes below which files and results of jobs do not fit."""
DISK_NOTE = 1 << 30


def check_machine(
    facts: dict[str, Any], here: dict[str, Any] | None = None, took_s: float = 0.0
) -> list[Finding]:
    """Judge a machine.

    Args:
        facts: As of ``machine_facts``.
        here: Those of this machine, to compare versions and clocks with; None: ``facts`` are of this machine.
        took_s: Seconds that the question took, by which clocks cannot be compared more exactly.
    """
    found = [] if here is None else [*_compare(facts, here), _clock(facts["time"] - here["time"], took_s)]
    return [*found, *_limits(facts), _memory(facts["memory_size"]), *_disks(facts["disks"])]


def _minor(version: str) -> str:
    return ".".join(version.split(".")[:2])


def _compare(facts: dict[str, Any], here: dict[str, Any]) -> list[Finding]:
    found = []
    if facts["dispy"] != here["dispy"]:
        found.append(
            bad(
                f"dispy {facts['dispy']} there, {here['dispy']} here",
                "install the same dispy on both machines",
            )
        )
    if _minor(facts["python"]) != _minor(here["python"]):
        found.append(
            note(
                f"Python {facts['python']} there, {here['python']} here",
                f"where jobs fail because of that, start dispynode with Python {_minor(here['python'])}",
            )
        )
    return found or [ok(f"dispy {facts['dispy']}, Python {facts['python']}")]


def _clock(difference_s: float, took_s: float) -> Finding:
    off_s = max(0.0, abs(difference_s) - took_s)
    way = "fast" if difference_s > 0 else "slow"
    text = f"the clock there is {_span(off_s)} {way}"
    fix = "have both machines set their clocks (chrony, systemd-timesyncd)"
    if off_s >= CLOCK_BAD_S:
        return bad(f"{text}: beacons are not believed, so the node is found by name only", fix)
    if off_s >= CLOCK_NOTE_S:
        return note(f"{text}: start and end times of jobs are by that clock", fix)
    return ok("clocks agree")


def _span(seconds: float) -> str:
    """Returns a time span in words."""
    if seconds >= 5400:
        return f"{seconds / 3600:.1f} hours"
    return f"{seconds / 60:.0f} minutes" if seconds >= 90 else f"{seconds:.0f} seconds"


def _limits(facts: dict[str, Any]) -> list[Finding]:
    found = []
    files, processes = facts["files_max"], facts["processes_max"]
    fix = "ulimit -n 65536 before the start, or LimitNOFILE=65536 in the systemd unit"
    if 0 <= files < FILES_BAD:
        found.append(bad(f"a process may have {files} open files and connections, which are too few", fix))
    elif 0 <= files < FILES_NOTE:
        found.append(note(f"a process may have {files} open files and connections", fix))
    if 0 <= processes < PROCESSES_MIN:
        found.append(
            bad(
                f"this user may have {processes} processes, which are too few",
                "ulimit -u 4096, or LimitNPROC=",
            )
        )
    return found or [ok("limits on files and processes are high enough")]


def _memory(size: int) -> Finding:
    if size >= MEMORY_NOTE:
        return ok(f"the memory file system has {_size(size)}")
    if not size:
        return note("there is no memory file system: large data is copied", "mount a tmpfs on /dev/shm")
    return note(
        f"the memory file system has {_size(size)} only: more large data than that is copied, which is slow",
        "docker run --shm-size=1g, or mount -o remount,size=1g /dev/shm",
    )


def _disks(free: dict[str, int]) -> list[Finding]:
    found = []
    for directory, size in free.items():
        text = f"{_size(size)} free in {directory}"
        if size < DISK_BAD:
            found.append(bad(f"{text}: files and results of jobs do not fit", "make room there"))
        elif size < DISK_NOTE:
            found.append(note(text, "make room there before jobs bring files"))
    return found or [ok("there is room on the disks")]


def _size(size: int) -> str:
    """Returns a number of bytes in words."""
    for unit, bytes_ in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if size >= bytes_:
            return f"{size / bytes_:.0f} {unit}"
    return f"{size} bytes"
