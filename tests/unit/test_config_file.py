"""Options in a file: what is written is read again, and nothing in it is run."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from dispy.cli import config_file
from dispy.cli.scheduler import command
from dispy.errors import UsageError

KEYS = {"pulse_s": "pulse_interval"}


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "scheduler.ini"
    arguments = [
        "--node", "10.0.0.1:9999", "--node", "*", "--node_secret", "a%b = [c]; 'd'", "--host", "::1",
        "--pulse_interval", "2.5", "--cooperative", "--no_tls", "--zombie_interval", "0",
    ]  # fmt: skip
    given = command.make_context("dispyscheduler", arguments).params
    usual = command.make_context("dispyscheduler", []).params
    config_file.save(str(path), given, usual, KEYS)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    read = usual | config_file.load(str(path), command, KEYS)
    for name in ("nodes", "hosts", "node_secret", "pulse_s", "cooperative", "zombie_interval", "tls"):
        assert read[name] == given[name], name


def test_no_file_is_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "scheduler.ini"
    path.write_text("mine")
    with pytest.raises(UsageError, match="exists already"):
        config_file.save(str(path), {"port": 9800}, {"port": 9700}, KEYS)
    assert path.read_text() == "mine"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[DEFAULT]\nport = much\n", "port: 'much' is not a port number"),
        ("[DEFAULT]\nwhat = 1\n", "there is no option 'what'"),
        ("[DEFAULT]\nnodes = [__import__('os').getpid()]\n", "nodes: "),
        ("[DEFAULT]\nnodes = [1, 2\n", "nodes: "),
        ("port = 1\n", "no section headers"),
        ("\0", "no section headers"),
    ],
)
def test_what_is_wrong_in_a_file_is_said(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "scheduler.ini"
    path.write_text(text)
    with pytest.raises(UsageError) as caught:
        config_file.load(str(path), command, KEYS)
    assert says in str(caught.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        config_file.load(str(tmp_path / "none"), command, KEYS)


def test_lists_of_dispy_4_are_read(tmp_path: Path) -> None:
    """It wrote lists as Python does, and read them cut at commas."""
    path = tmp_path / "scheduler.ini"
    path.write_text("[DEFAULT]\nnodes = ['a', 'b']\nhosts = 127.0.0.1, ::1\n")
    read = config_file.load(str(path), command, KEYS)
    assert (read["nodes"], read["hosts"]) == (("a", "b"), ("127.0.0.1", "::1"))
