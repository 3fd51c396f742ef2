"""Paths that people give: relative ones, those that are missing, and such as cannot be used."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

import dispy
from dispy.security.key_text import generate

from .conftest import MakeCluster, RunProgram, StartNode
from .helpers import PYTHON, Node, Place
from .others import as_other, needs_root
from .pem import Files, options


def where() -> str:
    return os.getcwd()


def refused(node: Node) -> str:
    """What a node says that does not start."""
    try:
        assert node.wait() == 2, (node.stdout, node.stderr)
        assert "Traceback" not in node.stderr
        return node.stderr
    finally:
        node.end()


@pytest.mark.parametrize("given", ["files", "relx/y", "./a/b/c/", "../elsewhere/x", "a b/é"])
def test_a_directory_is_made_and_relative_to_where_the_node_is_started(
    start_node: StartNode, make_cluster: MakeCluster, here: Path, given: str
) -> None:
    """Private, whatever the umask; gone is only what the node put there."""
    node = start_node("--dest_path_prefix", given, cwd=here, umask=0o077 if "a" in given else 0)
    expected = here / given
    assert make_cluster(where).submit()().startswith(str(Path(os.path.normpath(expected)).resolve()))
    for directory in (expected, Path(os.path.normpath(expected))):
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    node.stop()
    assert not list(Path(expected, f"dispy-node-{os.getuid()}").iterdir())


def test_a_home_directory_that_no_shell_has_replaced(
    start_node: StartNode, make_cluster: MakeCluster, place: Place, here: Path
) -> None:
    home = place.root / "home"
    (home / "dir").mkdir(parents=True)
    (home / "secret").write_text(generate())
    (home / "secret").chmod(0o600)
    start_node(
        "--dest_path_prefix=~/files/x", "--secret_file=~/dir/../secret",
        env={**place.environment, "HOME": str(home)}, cwd=here,
    )  # fmt: skip
    found = make_cluster(where, secret_file=str(home / "secret")).submit()()
    assert found.startswith(str(home / "files" / "x"))
    assert list(here.iterdir()) == []


@pytest.mark.parametrize("secret", ["dispy.secret", "~/dispy.secret"])
def test_a_program_may_change_its_directory(
    start_node: StartNode, run_program: RunProgram, place: Place, here: Path, files: Files, secret: str
) -> None:
    """All files were found where it made the cluster: also those that are read when a node is found, or later."""
    (here / "dispy.secret").write_text(generate())
    (here / "dispy.secret").chmod(0o600)
    (here / "certificates").symlink_to(files.ours)
    named = {
        name: {
            option: os.path.join("certificates", Path(path).name)
            for option, path in files.parameters(name, "ours").items()
        }
        for name in ("node", "client")
    }
    program = run_program(
        "import os, dispy\n"
        "def compute():\n"
        "    with open('data.txt') as file:\n"
        "        return file.read()\n"
        "with open('data.txt', 'w') as file:\n"
        "    file.write('data')\n"
        "os.environ['HOME'] = os.getcwd()\n"
        "dispy.config.LocalNode = False\n"
        "cluster = dispy.JobCluster(compute, depends=['data.txt'],\n"
        f"    secret_file={secret!r}, recover_file='journal', **{named['client']!r})\n"
        "os.chdir('/')\n"
        "print('made', flush=True)\n"
        "input()\n"
        "job = cluster.submit()\n"
        "print(job(), job.exception, flush=True)\n",
        cwd=here, stdin=subprocess.PIPE,
    )  # fmt: skip
    program.wait_line("made")
    start_node(*options(named["node"]), "--secret_file", "dispy.secret", cwd=here)
    assert program.process.stdin is not None
    program.process.stdin.write(b"\n")
    program.process.stdin.close()
    assert program.wait(20) == 0, program.stderr
    assert "data None" in program.stdout


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("/dev/null/x", "'/dev/null/x' cannot be made, as '/dev/null' is not a directory"),
        ("dangling", "dangling' is not a directory"),
        ("x" * 300, "cannot be made: File name too long"),
        ("x/" * 2045, "cannot be made: File name too long"),
        (
            "/proc/self/x",
            "'/proc/self/x' cannot be made, as '/proc/self' cannot be written to by this user",
        ),
    ],
    ids=["file", "link", "name", "path", "proc"],
)
def test_a_directory_that_cannot_be(place: Place, here: Path, given: str, says: str) -> None:
    (here / "dangling").symlink_to("nowhere")
    said = refused(Node(place, "--listen_port", "0", "--dest_path_prefix", given, cwd=here, is_forked=True))
    assert f"dispynode: dest_path_prefix: {''}" in said
    assert says in said
    assert [path.name for path in here.iterdir()] == ["dangling"], "nothing is made of what cannot be"


def test_a_directory_that_was_removed(place: Place, here: Path) -> None:
    script = 'mkdir gone; cd gone; rmdir ../gone; exec "$@"'
    command = ["sh", "-c", script, "sh", *PYTHON, "-m", "dispy.cli.node"]
    said = refused(Node(place, "--listen_port", "0", "--dest_path_prefix", "x", command=command, cwd=here))
    assert (
        "dest_path_prefix 'x' is relative to the current directory, and that was removed; give an abs"
        in said
    )


# Files with secrets.


@pytest.mark.parametrize(
    ("make", "advises"),
    [
        ("printf secret > file; chmod 644 file", True),
        ("printf 'two\\nlines\\n' > file; chmod 644 file", False),
        ("head -c 5000 /dev/zero | tr '\\0' x > file; chmod 644 file", False),
        ("ln -s /etc/passwd file", False),
        ("ln -s /dev/zero file", False),
        ("ln -s /usr file", False),
        ("mkfifo -m 644 file", False),
    ],
)
def test_advice_about_modes_is_for_what_may_be_a_secret(here: Path, make: str, advises: bool) -> None:
    subprocess.run(["sh", "-c", make], check=True)
    with pytest.raises(dispy.DispyError) as caught:
        dispy.JobCluster(where, secret_file="file")
    assert ("chmod 600" in str(caught.value)) is advises
    assert "'dispy secret new NEW_FILE'" in str(caught.value) or advises


@needs_root
def test_no_advice_about_files_of_others(here: Path) -> None:
    (here / "file").write_text("secret")
    os.chown("file", as_other()["user"], -1)
    (here / "file").chmod(0o644)
    with pytest.raises(dispy.DispyError, match="can be read by others; give another file") as caught:
        dispy.JobCluster(where, secret_file="file")
    assert "chmod" not in str(caught.value)


@pytest.mark.parametrize("program", ["node", "cluster"])
def test_a_full_disk_where_the_secret_would_be(place: Place, program: str) -> None:
    """To write to a file fails at a limit as it does on a full disk."""
    script = (
        ["-m", "dispy.cli.node", "--listen_port", "0"]
        if program == "node"
        else [
            "-c",
            "import dispy\ntry: dispy.JobCluster(print)\nexcept dispy.DispyError as error: exit(str(error))",
        ]
    )
    done = subprocess.run(
        ["sh", "-c", 'ulimit -f 0; exec "$@"', "sh", sys.executable, *script],
        env=place.environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, timeout=20, check=False,
    )  # fmt: skip
    assert done.returncode in (1, 2)
    assert (
        f"this user's own secret cannot be written to {place.secret_file}: File too large; make"
        in done.stderr
    )
    assert "Traceback" not in done.stderr
