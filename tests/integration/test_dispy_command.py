"""The ``dispy`` command: what it makes, what it prints where, and how it says that it cannot."""

from __future__ import annotations

import os
import re
import shlex
import ssl
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import dispy
from dispy.security import secrets

from .conftest import MakeCluster, StartNode
from .helpers import Place, Program

GENERATED = re.compile(r"dispy1-[0-9a-f]{64}\n")
Done = subprocess.CompletedProcess[str]


class Command:
    """Runs ``dispy`` in a place until it ends."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.usual = place.state / "dispy" / "certificates"

    def run(self, *arguments: str, code: int = 0, shell: str = ":", **options: Any) -> Done:
        """Run it and see that it ends with ``code``.

        Args:
            shell: What a shell does before it runs it.
            options: Of the process, instead of the usual ones.
        """
        python = [sys.executable, "-W", "error", "-m", "dispy.cli.main"]
        done = subprocess.run(
            ["/bin/sh", "-c", f'{shell}; exec "$@"', "sh", *python, *arguments],
            **{
                "stdin": subprocess.DEVNULL,
                "stdout": subprocess.PIPE,
                "stderr": subprocess.PIPE,
                "text": True,
                "env": self.place.environment,
                "cwd": self.place.root,
                "timeout": 20,
                "check": False,
                **options,
            },
        )
        assert done.returncode == code, (done.stdout, done.stderr)
        assert "Traceback" not in done.stderr, done.stderr
        assert "Warning" not in done.stderr, done.stderr
        return done

    def refused(self, *arguments: str, **options: Any) -> str:
        """What it says in one line on stderr about something that cannot be, and nothing on stdout."""
        done = self.run(*arguments, code=2, **options)
        assert not done.stdout
        assert re.fullmatch(r"dispy: .+\n", done.stderr), done.stderr
        return done.stderr


@pytest.fixture
def command(place: Place) -> Command:
    return Command(place)


@pytest.fixture
def ca(command: Command) -> Path:
    """Directory of a CA, the usual one."""
    command.run("cert", "new", "ca")
    return command.usual


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


# Secrets.


def test_new_secrets_are_printed_and_differ(command: Command) -> None:
    first, second = command.run("secret", "new"), command.run("secret", "new")
    assert GENERATED.fullmatch(first.stdout)
    assert GENERATED.fullmatch(second.stdout)
    assert first.stdout != second.stdout
    assert first.stderr == ""
    assert list(command.place.state.iterdir()) == []


@pytest.mark.parametrize("umask", [0o000, 0o077])
def test_a_new_secret_in_a_file(command: Command, umask: int) -> None:
    done = command.run("secret", "new", "shared secret", umask=umask)
    path = command.place.root / "shared secret"
    assert GENERATED.fullmatch(path.read_text())
    assert mode(path) == 0o600
    assert done.stdout.count("\n") == 1
    assert path.read_text().strip() not in done.stdout + done.stderr
    for words in (
        "shared secret",
        "copy it",
        "dispynode --secret_file",
        "JobCluster(..., secret_file='shared secret')",
    ):
        assert words in done.stdout


def test_a_new_secret_in_a_file_is_one_that_nodes_and_clusters_take(
    command: Command, start_node: StartNode, make_cluster: MakeCluster
) -> None:
    path = command.place.root / "shared"
    command.run("secret", "new", str(path))
    start_node("--name", "guarded", "--secret_file", str(path))
    assert make_cluster(lambda: dispy_node_name, secret_file=str(path)).submit()() == "guarded"


def test_a_secret_is_not_overwritten(command: Command) -> None:
    path = command.place.root / "shared"
    command.run("secret", "new", "shared")
    before = path.read_bytes()
    assert "shared exists already; " in command.refused("secret", "new", "shared")
    assert path.read_bytes() == before


def test_a_secret_is_not_written_through_a_link(command: Command) -> None:
    (command.place.root / "link").symlink_to("target")
    assert "exists already" in command.refused("secret", "new", "link")
    assert not (command.place.root / "target").exists()


def test_a_file_whose_name_looks_like_an_option(command: Command) -> None:
    command.run("secret", "new", "--", "--my-secret")
    assert GENERATED.fullmatch((command.place.root / "--my-secret").read_text())


def test_a_file_whose_name_is_no_text(command: Command) -> None:
    name = os.fsdecode(b"stra\xdfe")
    command.run("secret", "new", name)
    assert GENERATED.fullmatch((command.place.root / name).read_text())


def test_the_users_own_secret_is_shown_and_made_if_missing(command: Command) -> None:
    path = command.place.secret_file
    assert command.run("secret", "path").stdout == f"{path}\n"
    assert not path.exists()
    done = command.run("secret", "show")
    assert GENERATED.fullmatch(done.stdout)
    assert path.read_text() == done.stdout
    assert mode(path) == 0o600
    assert str(path) in done.stderr
    assert secrets.own().fingerprint() in done.stderr
    assert done.stdout.strip() not in done.stderr
    assert command.run("secret", "show").stdout == done.stdout


@pytest.mark.parametrize("option", ["--secret_file", "--secret-file"])
def test_the_secret_of_a_file_is_shown(command: Command, option: str) -> None:
    path = command.place.root / "file-of_mine"
    path.write_text("  öffne dich\n")
    path.chmod(0o600)
    environment = command.place.environment | {"DISPY_SECRET": "another", "PYTHONIOENCODING": "ascii"}
    done = command.run("secret", "show", f"{option}=file-of_mine", env=environment, encoding="utf-8")
    assert done.stdout == "öffne dich\n"
    assert "file-of_mine" in done.stderr
    assert secrets.choose("öffne dich").fingerprint() in done.stderr
    assert not command.place.secret_file.exists()


def test_the_secret_of_the_environment_is_shown(command: Command) -> None:
    done = command.run("secret", "show", env=command.place.environment | {"DISPY_SECRET": " open sesame"})
    assert done.stdout == " open sesame\n"
    assert "DISPY_SECRET" in done.stderr
    assert secrets.choose(" open sesame").fingerprint() in done.stderr
    assert not command.place.secret_file.exists()


def test_equal_secrets_have_equal_fingerprints(command: Command) -> None:
    shown = command.run("secret", "show")
    same = command.run(
        "secret", "show", env=command.place.environment | {"DISPY_SECRET": shown.stdout.strip()}
    )
    assert shown.stderr.split()[-1] == same.stderr.split()[-1]


@pytest.mark.parametrize(
    ("text", "bits", "message"),
    [
        (None, 0o600, "cannot be read"),
        (b"", 0o600, "is empty"),
        (b"\xff\xfe", 0o600, "is not text"),
        (b"secret", 0o644, "run 'chmod 600 "),
    ],
)
def test_a_secret_file_that_programs_would_refuse(
    command: Command, text: bytes | None, bits: int, message: str
) -> None:
    path = command.place.root / "file"
    if text is not None:
        path.write_bytes(text)
        path.chmod(bits)
    assert message in command.refused("secret", "show", "--secret_file", "file")


def test_a_variable_that_is_no_text(command: Command) -> None:
    environment = command.place.environment | {"DISPY_SECRET": os.fsdecode(b"stra\xdfe")}
    assert "DISPY_SECRET is not text; " in command.refused("secret", "show", env=environment)


def test_an_own_secret_that_others_can_read(command: Command) -> None:
    command.run("secret", "show")
    command.place.secret_file.chmod(0o644)
    assert "this user alone; remove it" in command.refused("secret", "show")


# Certificates.


def test_a_ca_and_what_it_signs(command: Command) -> None:
    where = command.usual
    ca = command.run("cert", "new", "ca")
    node = command.run("cert", "new", "node", "node-1.example", "192.0.2.7")
    client = command.run("cert", "new", "client", "me")
    made = [*ca.stdout.splitlines(), *node.stdout.splitlines(), *client.stdout.splitlines()]
    assert made == [
        str(where / name)
        for name in (
            "ca.pem",
            "ca-key.pem",
            "node-node-1.example.pem",
            "node-node-1.example-key.pem",
            "client-me.pem",
            "client-me-key.pem",
        )
    ]
    assert sorted(map(str, where.iterdir())) == sorted(made)
    assert [mode(Path(path)) for path in made] == [0o644, 0o600] * 3
    assert mode(where) == 0o700
    assert "dispy cert new node" in ca.stderr
    assert "dispy cert new client" in ca.stderr
    secret = where / "dispy.secret"
    assert f"\n  dispy secret new {secret}  # once, here\n" in node.stderr
    files = f"--certfile {made[2]} --keyfile {made[3]} --cafile {made[0]}"
    assert f"\n  dispynode --host 0.0.0.0 --secret_file {secret} {files}\n" in node.stderr
    used = f"JobCluster(..., certfile={made[4]!r}, keyfile={made[5]!r}, cafile={made[0]!r})\n"
    assert used in client.stderr


@pytest.mark.parametrize("names", [["node-1.example", "127.0.0.1"], ["localhost", "127.0.0.1", "::1"]])
def test_commands_that_are_advised_work(
    command: Command, ca: Path, start_node: StartNode, make_cluster: MakeCluster, names: list[str]
) -> None:
    """Literally, on this machine; beyond loopback if the node's names are."""
    advised = command.run("cert", "new", "node", *names).stderr.splitlines()[1:]
    *before, start = [line.strip() for line in advised]
    for line in before:
        program, *arguments = shlex.split(line, comments=True)
        assert program == "dispy"
        command.run(*arguments)
    program, *arguments = shlex.split(start)
    assert program == "dispynode"
    node = start_node(*arguments)
    assert node.host == ("0.0.0.0" if before else "127.0.0.1")
    said = command.run("cert", "new", "client", "me").stderr.splitlines()[-1].strip()
    given = eval(said.replace("JobCluster(..., ", "dict("))
    assert make_cluster(lambda: 1, nodes=[("127.0.0.1", node.port)], **given).submit()() == 1
    again = command.run("cert", "new", "node", "other.example").stderr
    assert ("dispy secret new" in again) is not bool(before), "the secret is made once"


def test_python_loads_what_was_made(command: Command, ca: Path) -> None:
    command.run("cert", "new", "node", "localhost")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(ca / "node-localhost.pem", ca / "node-localhost-key.pem")
    context.load_verify_locations(ca / "ca.pem")
    (loaded,) = context.get_ca_certs()
    assert loaded["subject"] == ((("commonName", "dispy CA"),),)


def test_options_of_certificates(command: Command) -> None:
    directory = command.place.root / "my cas" / "first"
    done = command.run("cert", "new", "ca", "--dir", str(directory), "--days=20", "--name", "Büro-CA_1")
    assert f"--dir {shlex.quote(str(directory))} " in done.stderr
    command.run("cert", "new", "node", "--dir", str(directory), "--days", "20", "n")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(directory / "ca.pem")
    (loaded,) = context.get_ca_certs()
    assert loaded["subject"] == ((("commonName", "Büro-CA_1"),),)
    said = command.refused("cert", "new", "node", "m", "--days", "21", "--dir", str(directory))
    assert "21 days are longer than the CA is valid" in said
    assert "; give at most 20, or make another CA" in said
    assert not command.usual.exists()


def test_nothing_is_overwritten(command: Command, ca: Path) -> None:
    command.run("cert", "new", "client", "me")
    before = {path: path.read_bytes() for path in ca.iterdir()}
    assert "ca.pem exists already; " in command.refused("cert", "new", "ca")
    assert "client-me.pem exists already; " in command.refused("cert", "new", "client", "me")
    assert {path: path.read_bytes() for path in ca.iterdir()} == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["node", "*"], r"'\*' stands for more than one; give each"),
        (["node", ""], r"name is empty; "),
        (["node", "good", "a b"], r"'a b' is neither a host name nor an address; "),
        (["node", "a\nb"], r"'a\\nb' has characters"),
        (["node", os.fsdecode(b"stra\xdfe")], r"'stra\\udcdfe' has characters"),
        (["client", "x" * 254], r"254 characters; give at most 253"),
        (["ca", "--name", "", "--dir", "other"], r"name is empty; "),
        (["ca", "--dir", "file/below"], r"file/below cannot be made: .*; give another"),
        (["node", "n", "--dir", "missing"], r"no CA in missing; make a CA: 'dispy cert new ca'"),
    ],
)
def test_what_cannot_be(command: Command, ca: Path, arguments: list[str], message: str) -> None:
    (command.place.root / "file").write_text("x")
    said = command.refused("cert", "new", *arguments)
    assert re.search(message, said), said
    assert sorted(path.name for path in ca.iterdir()) == ["ca-key.pem", "ca.pem"]
    assert not (command.place.root / "other").exists()


def test_a_cas_key_that_others_can_read(command: Command, ca: Path) -> None:
    (ca / "ca-key.pem").chmod(0o640)
    assert f"; run 'chmod 600 {ca / 'ca-key.pem'}'" in command.refused("cert", "new", "node", "n")


def test_a_broken_ca(command: Command, ca: Path) -> None:
    (ca / "ca.pem").write_bytes(b"\0\xff")
    assert "; make a CA" in command.refused("cert", "new", "node", "n")


def test_an_unsafe_state_directory(command: Command) -> None:
    (command.place.state / "dispy").mkdir()
    (command.place.state / "dispy").chmod(0o777)
    for arguments in (
        ["cert", "new", "ca"],
        ["cert", "new", "node", "n"],
        ["secret", "path"],
        ["secret", "show"],
    ):
        assert "this user alone; " in command.refused(*arguments)


# Faults of the machine.


def test_a_full_disk_leaves_nothing_behind(command: Command, ca: Path) -> None:
    """To write to a file fails at a limit as it does on a full disk."""
    for arguments in (
        ["secret", "new", str(ca / "secret")],
        ["cert", "new", "node", "n"],
        ["cert", "new", "ca", "--dir", "other"],
        ["secret", "show"],
    ):
        said = command.refused(*arguments, shell="ulimit -f 0")
        assert "File too large" in said
    assert sorted(path.name for path in ca.iterdir()) == ["ca-key.pem", "ca.pem"]
    assert list((command.place.root / "other").iterdir()) == []
    assert list(ca.parent.iterdir()) == [ca]


@pytest.mark.parametrize(
    "arguments", [["secret", "new"], ["secret", "show"], ["secret", "path"], ["cert", "new", "ca"]]
)
def test_output_that_cannot_be_written(command: Command, arguments: list[str]) -> None:
    with open("/dev/full", "w") as full:
        assert "No space left on device" in command.refused(*arguments, stdout=full)


def test_a_place_without_permission(command: Command) -> None:
    """Not even root may write there."""
    assert "cannot be written: " in command.refused("secret", "new", "/proc/secret")
    assert "cannot be made: " in command.refused("cert", "new", "ca", "--dir", "/proc/certificates")


def test_a_reader_that_goes_away(command: Command) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "w") as broken:
        done = command.run("secret", "new", stdout=broken, code=1)
    assert done.stderr == ""


def test_closed_streams(command: Command) -> None:
    done = command.run("secret", "new", "shared", shell="exec >&- 2>&-")
    assert done.stderr == ""
    assert GENERATED.fullmatch((command.place.root / "shared").read_text())


# The command line.


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["bogus"], "No such command 'bogus'"),
        (["secret", "bogus"], "No such command 'bogus'"),
        (["secret", "new", "a", "b"], "unexpected extra argument"),
        (["cert", "new", "node"], "Missing argument 'NAMES...'"),
        (["cert", "new", "client"], "Missing argument 'NAME'"),
        (["cert", "new", "client", "a", "b"], "unexpected extra argument"),
        (["cert", "new", "ca", "--days", "0"], "--days"),
        (["cert", "new", "ca", "--days", "36501"], "--days"),
        (["cert", "new", "ca", "--days", "many"], "--days"),
        (["cert", "new", "ca", "--bogus"], "--bogus"),
    ],
)
def test_a_line_that_is_wrong(command: Command, arguments: list[str], message: str) -> None:
    done = command.run(*arguments, code=2)
    assert message in done.stderr
    assert list(command.place.state.iterdir()) == []


@pytest.mark.parametrize("option", ["-h", "--help"])
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["secret", "cert", "--version"]),
        (["secret"], ["new", "show", "path"]),
        (["secret", "new"], ["FILE", "0600"]),
        (["secret", "show"], ["--secret_file", "DISPY_SECRET", "fingerprint"]),
        (["cert", "new"], ["ca", "node", "client"]),
        (["cert", "new", "ca"], ["--name", "--dir", "--days", "3650"]),
        (["cert", "new", "node"], ["NAMES...", "--dir", "--days", "730"]),
        (["cert", "new", "client"], ["NAME", "--dir", "--days"]),
    ],
)
def test_help(command: Command, option: str, arguments: list[str], words: list[str]) -> None:
    done = command.run(*arguments, option)
    for word in words:
        assert word in done.stdout
    assert list(command.place.state.iterdir()) == []


def test_version(command: Command) -> None:
    assert dispy.__version__ in command.run("--version").stdout


def test_the_command_starts_without_what_it_seldom_needs(command: Command) -> None:
    program = "import sys, dispy.cli.main; print(*{name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=20, check=True
    )
    loaded = set(done.stdout.split())
    assert "click" in loaded
    assert not loaded & {"cryptography", "uvloop", "asyncio", "ssl", "rich", "psutil"}


def test_installed_command(place: Place) -> None:
    """``dispy`` beside the interpreter is the same program."""
    installed = Path(sys.executable).with_name("dispy")
    if not installed.exists():
        pytest.skip("dispy is not installed here")
    program = Program([str(installed), "--version"], place)
    assert program.wait() == 0, program.stderr
    assert dispy.__version__ in program.stdout
    program.end()
