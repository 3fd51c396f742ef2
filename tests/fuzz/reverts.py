"""Known faults, put back into a copy of the source one at a time: a fuzzer that does not find them is none.

A mutation is a text in a file that becomes another one. The copy is made anew for each, and the fuzzer runs against
it in a process of its own, which must fail.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from .nodes import ROOT, copy_source


@dataclass(frozen=True, slots=True)
class Mutation:
    """A fault.

    Attributes:
        name: What is wrong with it.
        kind: The fuzzer that must find it: "client", "program", "jobs" or "keys".
        changes: File below ``src``, the text that is there exactly once, and what takes its place.
        options: Of the fuzzer, besides.
    """

    name: str
    kind: str
    changes: tuple[tuple[str, str, str], ...]
    options: tuple[str, ...] = ()


MUTATIONS = [
    Mutation(
        "a directory that the account has already cannot be opened again, and that stops the node",
        "client",
        (
            (
                "dispy/node/staging/job_directories.py",
                "        elif account is None or status.st_uid != account.uid:\n",
                "        else:\n",
            ),
            (
                "dispy/node/staging/job_directories.py",
                'raise OSError(errno.EPERM, f"{path} belongs to another user")',
                'raise RuntimeError("not ours")',
            ),
            (
                "dispy/node/staging/job_directories.py",
                "            if held is None:\n                self._held[path]",
                "            if True:\n                self._held[path]",
            ),
            ("dispy/node/state.py", "if not self._contain_action(action, error):", "if True:"),
        ),
        ("--user", "nobody"),
    ),
    Mutation(
        "root puts files into a directory that it opens by path",
        "jobs",
        (
            (
                "dispy/node/staging/job_directories.py",
                "            held = self.at(path)\n            return self._tree_of(held)\n",
                "            return Tree(os.open(path, DIRECTORY))\n",
            ),
        ),
        ("--role", "swapper"),
    ),
    Mutation(
        "root gives an object another owner and mode by path",
        "jobs",
        (
            (
                "dispy/node/payloads/segments.py",
                "            _give(path, os.getuid(), account.gid, 0o440)\n"
                "        self._move_in(path, directory, name)\n",
                "            pass\n        self._move_in(path, directory, name)\n        if account is not None:\n"
                "            os.chown(directory / name, os.getuid(), account.gid)\n"
                "            (directory / name).chmod(0o440)\n",
            ),
        ),
        ("--role", "racer"),
    ),
    Mutation(
        "an empty payload is mapped",
        "client",
        (("dispy/system/shared_memory.py", "if not free or not size:", "if not free:"),),
    ),
    Mutation(
        "a program reaches the clusters of others by their numbers",
        "program",
        (
            (
                "dispy/scheduler/daemon/commands.py",
                "    cluster = program.clusters.get(command.cluster)\n",
                "    cluster = program.clusters.get(command.cluster)\n"
                "    if cluster is None:\n"
                "        others = [each for each in hub.programs.values() if command.cluster in each.clusters]\n"
                "        program = others[0] if others else program\n"
                "        cluster = program.clusters.get(command.cluster)\n",
            ),
        ),
    ),
    Mutation(
        "a payload is announced for a place that its message does not have",
        "program",
        (
            (
                "dispy/net/links/channel.py",
                "if large.index >= len(items) or large.field >= len(fields):",
                "if False:",
            ),
        ),
    ),
    Mutation(
        "an object that is not there is dropped",
        "program",
        (
            (
                "dispy/scheduler/daemon/commands.py",
                "windows.hold(program, cluster, -cluster.objects.pop(number, 0))",
                "windows.hold(program, cluster, -cluster.objects.pop(number))",
            ),
        ),
    ),
    Mutation(
        "a program that has left is not forgotten",
        "program",
        (
            (
                "dispy/scheduler/daemon/hub.py",
                "        self.programs.pop(program.client, None)\n",
                "",
            ),
        ),
    ),
    Mutation(
        "a close is overtaken by large code that is on its way to a node",
        "program",
        (
            (
                "dispy/scheduler/service.py",
                "                node_link.large_code.give_up(number)\n",
                "",
            ),
        ),
    ),
    Mutation(
        "a program names a node by what is no address",
        "program",
        (
            (
                "dispy/scheduler/daemon/commands.py",
                "if wish.ip_addr and not can_be_dialed(wish.ip_addr, wish.host):",
                "if False:",
            ),
        ),
    ),
    Mutation(
        "a key that has expired is taken",
        "keys",
        (
            (
                "dispy/security/keys.py",
                "if identity.until is not None and has_expired(identity, now):",
                "if False:",
            ),
        ),
    ),
    Mutation(
        "a key is valid for one second too long",
        "keys",
        (("dispy/security/keys.py", "now >= identity.until", "now > identity.until"),),
    ),
    Mutation(
        "a key of any role comes to a scheduler as a user",
        "keys",
        (("dispy/security/identities.py", 'return identity.role == "user"', "return True"),),
    ),
    Mutation(
        "a key of any role is a node, or a scheduler",
        "keys",
        (("dispy/security/identities.py", "return identity.role == role", "return True"),),
    ),
    Mutation(
        "each user may use nodes directly",
        "keys",
        (
            (
                "dispy/security/identities.py",
                'identity.role == "scheduler" or identity.is_direct',
                'identity.role in ("scheduler", "user")',
            ),
        ),
    ),
    Mutation(
        "keys of one role are the same, whatever the name",
        "keys",
        (
            (
                "dispy/security/keys.py",
                "_DERIVED + identity.encode()",
                '_DERIVED + identity.split(":")[0].encode()',
            ),
        ),
    ),
    Mutation(
        "the name that a dialer claims is believed without its key",
        "keys",
        (
            (
                "dispy/protocol/handshake.py",
                'if hmac.compare_digest(proof.mac, self._mac(b"dialer", key)) and found is None:',
                "if found is None:",
            ),
        ),
    ),
    Mutation(
        "the name that a listener claims is believed without its key",
        "keys",
        (
            (
                "dispy/protocol/handshake.py",
                'if not hmac.compare_digest(proof.mac, self._mac(b"listener", self._key)):',
                "if False:",
            ),
        ),
    ),
    Mutation(
        "revoked keys are taken",
        "keys",
        (
            (
                "dispy/security/keys.py",
                "return any(each.covers(identity) for each in self.revoked)",
                "return False",
            ),
        ),
    ),
    Mutation(
        "revoking does not look at serial numbers",
        "keys",
        (("dispy/security/identities.py", "identity.serial <= self.serial", "True"),),
    ),
    Mutation(
        "the key that stands in for an unknown one counts",
        "keys",
        (
            (
                "dispy/protocol/handshake.py",
                "if found is None or (self._claim and claimed is None):",
                "if found is None:",
            ),
        ),
    ),
    Mutation(
        "keys are derived from typed secrets",
        "keys",
        (("dispy/security/keys.py", "and not line.is_typed ", ""),),
    ),
    Mutation(
        "who claims nothing is let in by a key that opens nothing here",
        "keys",
        (
            (
                "dispy/protocol/handshake.py",
                "if self.used is not None and claimed is None and (fault := self._fault_of_ours(self.used)):",
                "if False:",
            ),
        ),
    ),
]
"""All of them. Each is a fault that there was, or of a program one that there nearly was. Those of kind "jobs" run
with the ``--role`` that finds them."""


def apply(mutation: Mutation, source: Path) -> None:
    """Change a copy of the source (the directory with ``dispy`` in it).

    Raises:
        ValueError: A text is not there exactly once: the source has changed, and so must the mutation.
    """
    for name, old, new in mutation.changes:
        path = source / name
        text = path.read_text()
        if text.count(old) != 1:
            raise ValueError(f"{mutation.name}: {name} has the text {text.count(old)} times:\n{old}")
        path.write_text(text.replace(old, new))


def try_all(kind: str, seconds: float, seed: int) -> int:
    """Run the fuzzer of this kind against each of its mutations; returns the exit code: 1 if one was not found."""
    missed = []
    chosen = [mutation for mutation in MUTATIONS if mutation.kind == kind]
    for mutation in chosen:
        with tempfile.TemporaryDirectory(prefix="dispy-mutated-") as directory:
            os.chmod(directory, 0o755)
            copy_source(Path(directory))
            apply(mutation, Path(directory))
            command = [
                sys.executable,
                "-m",
                "tests.fuzz",
                kind,
                "--seconds",
                str(seconds),
                "--seed",
                str(seed),
            ]
            done = subprocess.run(
                [*command, *mutation.options],
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": os.pathsep.join([directory, str(ROOT)])},
                capture_output=True,
                text=True,
                check=False,
            )
        is_found = done.returncode == 1 and "FAULT:" in done.stdout
        print(f"{'found' if is_found else 'MISSED'}: {mutation.name}", flush=True)
        if not is_found:
            missed.append(mutation.name)
            print(done.stdout[-3000:], done.stderr[-3000:])
    if not chosen:
        print(f"there is no mutation for {kind}")
    return 1 if missed or not chosen else 0
