"""What a hostile job does to every directory that its account can reach, in tight loops.

    python -I attacker.py SETTINGS SEED ROLE

A script of its own, with the standard library alone: it runs as the jobs' account, inside jobs and beside them (as
a process does that a job has left behind). SETTINGS is a file of JSON that the fuzzer writes anew all the time:
``tops`` (directories that the account owns, in directories that it does not), ``used`` (those that the node works
in now), ``canaries`` (directories outside), ``secrets`` (files outside that the account cannot read), ``reports``
(a directory for what this process tells), ``links_to_root``, ``only`` (not empty: no attacks but those of the
role). It ends when the file is gone.

Each turn is one *attack*, drawn by chance, of some hundredths of a second. The first two are the known ways by which
a process that is more than the account was once led outside; they know what the node is going to do.
"""

from __future__ import annotations

import ctypes
import itertools
import json
import os
import random
import socket
import stat
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress

_AT_FDCWD, _EXCHANGE = -100, 2
_libc = ctypes.CDLL(None, use_errno=True)

BURST_S = (0.02, 0.1, 0.3, 0.6)
"""How long one attack goes on."""

FOCUS = 0.7
"""Share of its attacks that are those of its role: a machine may be too busy for all kinds to be tried often."""

DEPTH_MAX = 6
"""Levels of directories that are looked through below a top."""

ENTRIES_MAX = 400
"""Entries of one top that are looked at."""

HOLE_SIZES = (1 << 16, 1 << 20, 1 << 26)
"""Sizes of files that are nothing but a hole."""


def exchange(path: str, other: str) -> bool:
    """Let two names change places in one step: nobody ever finds either missing."""
    done = _libc.renameat2(_AT_FDCWD, os.fsencode(path), _AT_FDCWD, os.fsencode(other), _EXCHANGE)
    return bool(done == 0)


class Attacker:
    """One process that attacks.

    Args:
        settings_path: See the module.
        seed: Of all chance.
        role: What it does most of the time: "swapper", "racer" or "all".
    """

    def __init__(self, settings_path: str, seed: str, role: str) -> None:
        self._path = settings_path
        self._chance = random.Random(seed)
        self._numbers = itertools.count(1)
        self._counts: Counter[str] = Counter()
        self._settings: dict[str, list[str]] = {}
        self._highest: dict[str, int] = {}
        """Highest number of an object that was seen in a directory; objects go, and numbers are not used again."""
        self._attacks = [
            self.swap_parents,
            self.race_new_files,
            self.flip_names,
            self.storm,
            self.change_modes,
            self.replace_all,
            self.dig_deep,
            self.write_to_what_is_not_ours,
        ]
        roles = {
            "swapper": [self.swap_parents],
            "racer": [self.race_new_files, self.race_new_files, self.flip_names],
            "all": self._attacks,
        }
        self._own = roles[role]

    def run(self) -> None:
        """Attack until the settings are gone."""
        report_at = 0.0
        while self._read_settings():
            attack = self._chance.choice(
                self._own if self._settings["only"] or self._chance.random() < FOCUS else self._attacks
            )
            until = time.monotonic() + self._chance.choice(BURST_S)
            top = self._pick(self._fitting(attack))
            if top:
                with suppress(OSError, RecursionError):
                    attack(top, until)
            if time.monotonic() > report_at:
                report_at = time.monotonic() + 0.2
                self._report()
            time.sleep(self._chance.choice([0.001, 0.01, 0.03]))
        self._report()

    def _fitting(self, attack: Callable[[str, float], None]) -> list[str]:
        """Tops at which an attack can hurt: nested directories, or those in which the node makes files. Often any."""
        tops = self._settings["tops"]
        if self._chance.random() < 0.2:
            return tops
        if attack == self.swap_parents:
            return self._settings["used"] or tops
        if attack in (self.race_new_files, self.flip_names):
            return self._latest([top for top in tops if "/dev/shm/" in top or "/large/" in top]) or tops
        return tops

    def _latest(self, tops: list[str]) -> list[str]:
        """Those in which something was made or removed last: there the node is at work."""
        found = []
        for top in tops:
            with suppress(OSError):
                found.append((os.stat(top).st_mtime_ns, top))
        return [top for _, top in sorted(found)[-2:]]

    def _read_settings(self) -> bool:
        try:
            with open(self._path) as file:
                self._settings = json.load(file)
        except FileNotFoundError:
            return False
        self._try_secrets()
        return True

    def _report(self) -> None:
        directory = self._settings["reports"][0]
        with suppress(OSError):
            temporary = f"{directory}/.{os.getpid()}"
            with open(temporary, "w") as file:
                json.dump(self._counts, file)
            os.rename(temporary, f"{directory}/{os.getpid()}")

    def _try_secrets(self) -> None:
        path = self._pick(self._settings["secrets"])
        with suppress(OSError):
            os.close(os.open(path, os.O_RDONLY | os.O_NOFOLLOW))
            self._counts[f"READ {path}"] += 1
        with suppress(OSError):
            os.close(os.open(path, os.O_WRONLY | os.O_NOFOLLOW))
            self._counts[f"WROTE {path}"] += 1

    def _pick(self, items: list[str]) -> str:
        return self._chance.choice(items) if items else ""

    def _name(self) -> str:
        return f".x-{os.getpid()}-{next(self._numbers)}"

    def _target(self) -> str:
        """Where a link leads: a canary directory, a file in it, a secret, or all of the machine."""
        way = self._chance.random()
        if way < 0.08 and self._settings["links_to_root"]:
            return "/"
        if way < 0.5:
            return self._pick(self._settings["canaries"])
        if way < 0.9:
            return self._pick(self._settings["secrets"])
        return self._chance.choice(
            [".", "..", "../..", "/dev/null", "/proc/self/fd/0", "missing", "x" * 200]
        )

    # What is there.

    def _directories(self, top: str) -> list[str]:
        """Directories below a top, the top itself left out; links are not followed."""
        found: list[str] = []
        waiting = [(top, 0)]
        while waiting and len(found) < ENTRIES_MAX:
            path, depth = waiting.pop()
            with suppress(OSError), os.scandir(path) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        found.append(entry.path)
                        if depth < DEPTH_MAX:
                            waiting.append((entry.path, depth + 1))
        return found

    # The attacks. Each gets a top, and the time at which it ends (monotonic).

    def swap_parents(self, top: str, until: float) -> None:
        """A directory on the way to another one and a link to a canary directory change places, again and again."""
        directories = self._directories(top)
        # Those of the node with directories in them are on its way.
        inner = [
            path
            for path in directories
            if "/.x-" not in path and any(other.startswith(path + "/") for other in directories)
        ]
        if not directories:
            return
        path = self._pick(inner) if inner and self._chance.random() < 0.8 else self._pick(directories)
        link = f"{os.path.dirname(path)}/{self._name()}"
        trees = self._settings["canaries"]
        target = (
            "/" if self._settings["links_to_root"] and self._chance.random() < 0.05 else self._pick(trees)
        )
        os.symlink(target, link)
        try:
            while time.monotonic() < until:
                if not exchange(path, link):
                    break
                self._counts["directories swapped"] += 1
                for _ in range(self._chance.choice([0, 1, 20, 200])):
                    pass
        finally:
            if os.path.islink(path):
                exchange(path, link)
            if os.path.islink(link):
                os.unlink(link)

    def race_new_files(self, top: str, until: float) -> None:
        """A file that appears is replaced by a link at once, before its maker is done with it."""
        place = self._pick([top, top, *self._directories(top)])
        known = set(os.listdir(place))
        ready: list[str] = []
        while time.monotonic() < until:
            if not ready:
                link = f"{place}/{self._name()}"
                os.symlink(self._target(), link)
                ready.append(link)
                known.add(os.path.basename(link))
            for name in os.listdir(place):
                if name not in known and ready:
                    os.rename(ready.pop(), f"{place}/{name}")
                    known.add(name)
                    self._counts["new files replaced"] += 1
        for link in ready:
            os.unlink(link)

    def flip_names(self, top: str, until: float) -> None:
        """Names that the node is going to use are links at one moment and free at the next."""
        names = os.listdir(top)
        objects = [int(name[7:]) for name in names if name.startswith("object-") and name[7:].isdecimal()]
        numbers = [int(name) for name in names if name.isdecimal()]
        highest = self._highest[top] = max(*objects, self._highest.get(top, 0), 0)
        wanted = [f"object-{highest + step}" for step in (1, 2, 3)]
        wanted += [str(max(numbers, default=1) + step) for step in (1, 2)]
        wanted += [
            "code",
            "lock",
            *("passwd", "tool.sh", "data.txt", "sub", "w3", "etc"),
        ]
        name = self._pick(wanted)
        if name in names:
            return
        target = self._target()
        while time.monotonic() < until:
            link = f"{top}/{self._name()}"
            os.symlink(target, link)
            os.rename(link, f"{top}/{name}")
            self._counts["names flipped"] += 1
            with suppress(OSError):
                os.unlink(f"{top}/{name}")

    def storm(self, top: str, until: float) -> None:
        """All kinds of things appear under all kinds of names, and what is there is renamed."""
        while time.monotonic() < until:
            place = self._pick([top, *self._directories(top)])
            with suppress(OSError):
                names = os.listdir(place)[:ENTRIES_MAX]
                name = self._pick(names) if names and self._chance.random() < 0.7 else self._name()
                self._chance.choice([self._rename, self._link, self._hard, self._pipe, self._hole])(
                    f"{place}/{name}", place, names
                )
                self._counts["things made and moved"] += 1

    def _rename(self, path: str, place: str, names: list[str]) -> None:
        other = (
            f"{place}/{self._pick(names)}"
            if names and self._chance.random() < 0.5
            else f"{place}/{self._name()}"
        )
        (exchange if self._chance.random() < 0.5 else os.rename)(path, other)

    def _link(self, path: str, place: str, names: list[str]) -> None:
        new = f"{place}/{self._name()}"
        os.symlink(self._target(), new)
        os.rename(new, path)

    def _hard(self, path: str, place: str, names: list[str]) -> None:
        if not names:
            return
        new = f"{place}/{self._name()}"
        os.link(f"{place}/{self._pick(names)}", new, follow_symlinks=False)
        if self._chance.random() < 0.5:
            os.rename(new, path)

    def _pipe(self, path: str, place: str, names: list[str]) -> None:
        new = f"{place}/{self._name()}"
        if self._chance.random() < 0.5:
            os.mkfifo(new)
        else:
            with socket.socket(socket.AF_UNIX) as made:
                made.bind(new)
        os.rename(new, path)

    def _hole(self, path: str, place: str, names: list[str]) -> None:
        new = f"{place}/{self._name()}"
        with open(new, "wb") as file:
            file.truncate(self._chance.choice(HOLE_SIZES))
        os.rename(new, path)

    def change_modes(self, top: str, until: float) -> None:
        """Directories are closed to everybody, or opened to all, for a moment."""
        while time.monotonic() < until:
            path = self._pick([top, *self._directories(top)])
            with suppress(OSError):
                os.chmod(path, self._chance.choice([0, 0o111, 0o777, 0o1777, 0o500]))
                time.sleep(self._chance.choice([0, 0.001, 0.01]))
                os.chmod(path, 0o700)
            self._counts["modes changed"] += 1

    def replace_all(self, top: str, until: float) -> None:
        """Everything in a directory becomes a link, or goes."""
        place = self._pick([top, *self._directories(top)])
        for name in os.listdir(place)[:ENTRIES_MAX]:
            if time.monotonic() > until:
                break
            path = f"{place}/{name}"
            with suppress(OSError):
                away = f"{place}/{self._name()}"
                os.rename(path, away)
                os.symlink(self._target(), path)
                if not stat.S_ISDIR(os.lstat(away).st_mode):
                    os.unlink(away)
                self._counts["entries replaced"] += 1

    def dig_deep(self, top: str, until: float) -> None:
        """A tree that is deeper than paths may be long, with a link at its end."""
        if self._chance.random() < 0.7:
            return
        descriptor = os.open(top, os.O_RDONLY | os.O_DIRECTORY)
        try:
            for _ in range(self._chance.choice([30, 300, 1500])):
                if time.monotonic() > until:
                    break
                with suppress(FileExistsError):
                    os.mkdir("d", dir_fd=descriptor)
                below = os.open("d", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=descriptor)
                os.close(descriptor)
                descriptor = below
            os.symlink(self._target(), self._name(), dir_fd=descriptor)
            self._counts["deep trees"] += 1
        finally:
            os.close(descriptor)

    def write_to_what_is_not_ours(self, top: str, until: float) -> None:
        """Files of others that lie here (lent by the node) are opened to write, and changed if that works."""
        for place in [top, *self._directories(top)]:
            with suppress(OSError):
                for name in os.listdir(place)[:ENTRIES_MAX]:
                    status = os.lstat(f"{place}/{name}")
                    if stat.S_ISREG(status.st_mode) and status.st_uid != os.getuid():
                        self._counts["files of others tried"] += 1
                        with suppress(OSError), open(f"{place}/{name}", "r+b") as file:
                            file.write(b"changed by a hostile job")
                            self._counts[f"WROTE {place}/{name}"] += 1
            if time.monotonic() > until:
                break


if __name__ == "__main__":
    Attacker(*sys.argv[1:4]).run()
