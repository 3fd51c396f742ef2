"""``dispy secret derive`` and ``dispy secret revoke``: what they make, what they refuse, and why."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from dispy.cli.main import command
from dispy.errors import UsageError
from dispy.security import key_text, secrets
from dispy.security.identities import ROLES, Revoked


@pytest.fixture
def master(tmp_path: Path) -> Path:
    path = tmp_path / "master.secret"
    path.write_text(key_text.generate() + "\n")
    path.chmod(0o600)
    return path


def run(*arguments: Any) -> Result:
    return CliRunner().invoke(command, ["secret", *map(str, arguments)])


def fault(*arguments: Any) -> str:
    """What a command says that refuses."""
    done = run(*arguments)
    assert done.exit_code != 0
    assert isinstance(done.exception, (UsageError, SystemExit))
    return str(done.exception) if isinstance(done.exception, UsageError) else done.stderr


@pytest.mark.parametrize("role", ROLES)
def test_a_key_for_each_role_is_made_and_read(role: str, master: Path, tmp_path: Path) -> None:
    path = tmp_path / "key"
    done = run("derive", role, "n7", master, "-o", path)
    assert done.exit_code == 0
    assert f"{path} holds the key of {role} n7; copy it" in done.stdout
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    secret = secrets.choose(secret_file=str(path))
    assert secret.keys.identity is not None
    assert (secret.keys.identity.role, secret.keys.identity.name) == (role, "n7")
    assert secret.fingerprint() == secrets.choose(secret_file=str(master)).fingerprint()
    assert path.read_text().strip() not in done.stdout + done.stderr


def test_the_same_command_makes_the_same_key(master: Path) -> None:
    one, other = run("derive", "user", "alice", master), run("derive", "user", "alice", master)
    assert one.stdout == other.stdout
    assert one.stderr == "the key of user alice\n"
    assert run("derive", "user", "bob", master).stdout != one.stdout


@pytest.mark.parametrize(
    ("until", "said", "shown"),
    [
        ("2999-01-31", "29990201T000000Z", "2999-02-01 00:00:00 UTC"),
        ("2999-12-31", "30000101T000000Z", "3000-01-01 00:00:00 UTC"),
        ("2999-01-31T18:30", "29990131T183000Z", "2999-01-31 18:30:00 UTC"),
    ],
)
def test_a_day_counts_whole_and_a_moment_as_it_is(until: str, said: str, shown: str, master: Path) -> None:
    done = run("derive", "user", "alice", master, "--until", until)
    assert f":until={said}:" in done.stdout
    assert f"not valid from {shown} on" in done.stderr


@pytest.mark.parametrize("until", ["2020-01-01", "tomorrow", "2999-02-30", "9999-12-31", "2999-1-1x", ""])
def test_a_time_that_is_none_or_over_is_refused(until: str, master: Path) -> None:
    assert "is over" in (said := fault("derive", "user", "a", master, "--until", until)) or "UTC" in said


@pytest.mark.parametrize("name", ["", "-x", "al ice", "a/b", "a:b", "é", "a" * 65, "a\n"])
def test_names_that_do_not_stand_everywhere_are_refused(name: str, master: Path) -> None:
    assert "letters, digits" in fault("derive", "--", "user", name, master)


def test_only_users_are_direct(master: Path) -> None:
    assert ":direct:" in run("derive", "user", "alice", master, "--direct").stdout
    assert "--direct is for users" in fault("derive", "node", "n7", master, "--direct")


@pytest.mark.parametrize(
    "typed", ["pass", "correct horse battery staple orbit", "dispy1-typed-" + "ab" * 32]
)
def test_nothing_is_derived_from_a_typed_secret_and_it_says_why(typed: str, tmp_path: Path) -> None:
    path = tmp_path / "typed"
    path.write_text(typed)
    path.chmod(0o600)
    said = fault("derive", "user", "alice", path)
    assert "could try words" in said
    assert "dispy secret new" in said
    assert typed not in said


def test_nothing_is_derived_from_a_derived_key(master: Path, tmp_path: Path) -> None:
    run("derive", "user", "alice", master, "-o", tmp_path / "key")
    assert "that is a key of user alice" in fault("derive", "user", "bob", tmp_path / "key")
    assert "revokes nothing" in fault("revoke", "user", "bob", tmp_path / "key")


def test_a_file_is_not_overwritten(master: Path, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("mine")
    assert "exists already" in fault("derive", "user", "alice", master, "-o", tmp_path / "key")
    assert (tmp_path / "key").read_text() == "mine"


def test_a_revoked_key_is_followed_by_one_with_the_next_serial_number(master: Path) -> None:
    before = master.read_text()
    assert ":serial=" not in run("derive", "user", "alice", master).stdout
    for last in range(3):
        done = run("revoke", "user", "alice", master)
        assert done.exit_code == 0
        assert f"with serial numbers up to {last} are revoked" in done.stdout
        assert f":serial={last + 1}:" in run("derive", "user", "alice", master).stdout
    assert ":serial=" not in run("derive", "node", "alice", master).stdout
    assert master.read_text() == before + "".join(f"revoked user alice {last}\n" for last in range(3))
    assert stat.S_IMODE(master.stat().st_mode) == 0o600
    assert f"{before}revoked" in master.read_text(), "the secret itself is untouched"
    assert os.listdir(master.parent) == ["master.secret"]


def test_all_keys_of_a_name_may_be_revoked_for_good(master: Path) -> None:
    run("revoke", "node", "n7", master, "--all")
    assert secrets.choose(secret_file=str(master)).keys.revoked == (Revoked("node", "n7"),)
    assert "for good" in fault("derive", "node", "n7", master)
    assert "for good" in fault("revoke", "node", "n7", master)
    assert "are revoked already" in fault("revoke", "node", "n7", master, "--serial", 5)
    assert "are revoked" in fault("derive", "node", "n7", master, "--serial", 9999)


def test_a_revoked_serial_number_is_not_made_again(master: Path) -> None:
    run("revoke", "user", "alice", master, "--serial", 4)
    assert "are revoked; give a higher --serial" in fault("derive", "user", "alice", master, "--serial", 4)
    assert ":serial=5:" in run("derive", "user", "alice", master).stdout
    assert "are revoked already" in fault("revoke", "user", "alice", master, "--serial", 3)


def test_of_several_secrets_the_first_one_is_derived_from(master: Path, tmp_path: Path) -> None:
    new = tmp_path / "new"
    new.write_text(f"{key_text.generate()}\n{master.read_text()}")
    new.chmod(0o600)
    fingerprint = secrets.choose(secret_file=str(new)).fingerprint()
    assert f":key={fingerprint}:" in run("derive", "user", "alice", new).stdout
    assert fingerprint != secrets.choose(secret_file=str(master)).fingerprint()


def test_without_a_file_the_secret_is_that_of_the_environment_or_this_users_own(
    home: Path, master: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = run("derive", "user", "alice")
    assert f":key={secrets.own().fingerprint()}:" in own.stdout
    monkeypatch.setenv("DISPY_SECRET", master.read_text().strip())
    assert run("derive", "user", "alice").stdout == run("derive", "user", "alice", master).stdout


def test_what_a_key_is_is_shown(master: Path, tmp_path: Path) -> None:
    run("derive", "user", "alice", master, "--until", "2999-01-31", "-o", tmp_path / "key")
    done = run("show", "--secret_file", tmp_path / "key")
    assert "a key of user alice, not valid from 2999-02-01 00:00:00 UTC on; fingerprint" in done.stderr


def test_help_says_what_each_role_does(master: Path) -> None:
    said = run("derive", "-h").stdout
    for role in ROLES:
        assert role in said
    assert "derive" in CliRunner().invoke(command, ["secret", "-h"]).stdout


@pytest.mark.parametrize("page", ["explanation/security", "how-to/shared"])
def test_the_commands_of_the_documents_work(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As they stand there, in their order; secrets that a page has made elsewhere are there already."""
    monkeypatch.chdir(tmp_path)
    for name in ("people.secret", "nodes.secret"):
        Path(name).write_text(key_text.generate())
        Path(name).chmod(0o600)
    text = (Path(__file__).parents[2] / "docs" / f"{page}.md").read_text()
    lines = [
        line.partition("#")[0].split()[2:] for line in text.splitlines() if line.startswith("dispy secret ")
    ]
    used = [words[0] for words in lines]
    assert {"derive", "revoke"} < set(used)
    for words in lines:
        if words[0] == "new" and words[1:]:
            Path(words[1]).unlink(missing_ok=True)
        done = run(*words)
        assert done.exit_code == 0, (words, done.stderr, done.exception)
    assert secrets.choose(secret_file="alice.secret").keys.identity is not None
    assert secrets.choose(secret_file="n7.secret").keys.identity is not None
