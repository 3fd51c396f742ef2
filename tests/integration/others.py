"""Another account of this machine, what it takes to run Python as it, and a place that it can look into."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

import dispy

from .helpers import Place, Watch

NAME = "nobody"

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")

with_accounts = pytest.mark.parametrize(
    "jobs_account",
    [pytest.param("", id="own"), pytest.param(NAME, marks=needs_root, id=NAME)],
    indirect=True,
)
"""Tests run once with jobs that run as our account, and once with ``dispynode --user``."""

_TEMPORARY = tempfile.gettempdir()  # now: tests have one of their own


def account() -> pwd.struct_passwd:
    """The other account."""
    return pwd.getpwnam(NAME)


def as_other() -> dict[str, Any]:
    """Options of ``subprocess`` for a process of the other account."""
    return {"user": account().pw_uid, "group": account().pw_gid, "extra_groups": []}


def run_as_other(*command: str) -> subprocess.CompletedProcess[str]:
    """Run a command as the other account, and wait for it."""
    return subprocess.run(
        command,
        **as_other(),
        cwd="/",
        env={"PATH": os.defpath},
        capture_output=True,
        text=True,
        check=False,
    )


def give(path: Path) -> Path:
    """Make a file, directory or link the other account's."""
    os.lchown(path, account().pw_uid, account().pw_gid)
    return path


def remove(path: Path) -> None:
    """Remove a file or directory, however deep that is (unlike ``shutil.rmtree`` of Python 3.11)."""
    subprocess.run(["rm", "-rf", "--", path], check=True)


@contextmanager
def public_directory() -> Iterator[Path]:
    """A directory that everybody can look into; pytest's own ones nobody else can."""
    path = Path(tempfile.mkdtemp(prefix="dispy-test-", dir=_TEMPORARY))
    path.chmod(0o755)
    try:
        yield path
    finally:
        remove(path)


@contextmanager
def public_place(place: Place) -> Iterator[None]:
    """Opens the directories of a place, as the system's own are; looks what nodes with the other account leave."""
    place.temporary.chmod(0o1777)
    place.runtime.chmod(0o755)
    place.state.chmod(0o755)
    for_other = place.temporary / f"dispy-node-{os.getuid()}-accounts"
    for_other.mkdir()
    for_other.chmod(0o711)
    of_other = place.temporary / f"dispy-node-{account().pw_uid}"
    of_other.mkdir(mode=0o700)
    give(of_other)
    watches = [(directory, Watch(directory)) for directory in (for_other, of_other)]
    yield
    left: list[str] = []
    for directory, watch in watches:
        memory = Path("/dev/shm") / directory.name.replace("-node", "")
        left += [str(memory / name) for name in watch.names() if (memory / name).exists()]
        left += map(str, directory.iterdir())
        watch.close()
        remove(directory)
    for path in left:
        remove(Path(path))
    assert left == [], "left behind"


def environment_of_other(place: Place) -> dict[str, str]:
    """What a program of the other account runs with: directories of its own."""
    home = place.root / "other home"
    if not home.exists():
        for directory in (home, home / "run", home / "state"):
            directory.mkdir(mode=0o700)
            give(directory)
    mine = {"HOME": str(home), "XDG_RUNTIME_DIR": str(home / "run"), "XDG_STATE_HOME": str(home / "state")}
    return {**place.environment, **mine}


def find_python() -> Iterator[str]:
    """An interpreter with dispy that the other account can run: ours, or one like it made of the system's."""
    if _can_run(sys.executable):
        yield sys.executable
        return
    system = shutil.which(f"python3.{sys.version_info.minor}", path=os.defpath)
    if system is None:
        pytest.skip(f"{NAME} cannot run {sys.executable}")
    with public_directory() as directory:
        subprocess.run([system, "-m", "venv", "--without-pip", directory], check=False)
        paths = [str(Path(module.__file__ or "").parents[1]) for module in (dispy, msgspec)]
        for packages in directory.glob("lib/python3*/site-packages"):
            (packages / "tested.pth").write_text("\n".join(paths))
        made = str(directory / "bin" / "python")
        if not _can_run(made):
            pytest.skip(f"{NAME} can run neither {sys.executable} nor {system} with dispy")
        yield made


def _can_run(python: str) -> bool:
    try:
        return (
            run_as_other(python, "-P", "-c", "import dispy.worker.host, dispy.node.daemon").returncode == 0
        )
    except OSError:
        return False


def reachable(paths: Iterable[Path]) -> list[str]:
    """Those of the paths that the other account can read, write or pass through."""
    test = 'for p; do if [ -r "$p" ] || [ -w "$p" ] || [ -x "$p" ]; then printf "%s\\n" "$p"; fi; done'
    done = run_as_other("sh", "-c", test, "sh", *map(str, paths))
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()
