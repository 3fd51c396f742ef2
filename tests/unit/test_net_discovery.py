"""Nodes of this machine find each other by files that tell by a lock whether their node lives."""

from __future__ import annotations

import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from dispy.net.discovery import Entry, Listing, running_nodes


def listing(node: str, fingerprint: str = "ours") -> Listing:
    return Listing(node, "127.0.0.1", 9701, False, f"name of {node}", 2, 1, fingerprint)


@pytest.fixture
def opened(home: Path) -> Iterator[ExitStack]:
    """Entries that are closed at the end."""
    with ExitStack() as stack:
        yield stack


def directory(home: Path) -> Path:
    return home / "run" / "dispy" / "nodes"


def test_without_nodes_none_is_found(home: Path) -> None:
    assert running_nodes("ours") == []


def test_a_running_node_is_found_as_it_describes_itself(opened: ExitStack) -> None:
    opened.enter_context(closing(Entry(listing("a"))))
    assert running_nodes("ours") == [listing("a")]


def test_all_running_nodes_are_found_in_a_fixed_order(opened: ExitStack) -> None:
    for node in "bca":
        opened.enter_context(closing(Entry(listing(node))))
    assert [found.node for found in running_nodes("ours")] == ["a", "b", "c"]


def test_looking_does_not_disturb_a_running_node(opened: ExitStack) -> None:
    opened.enter_context(closing(Entry(listing("a"))))
    assert running_nodes("ours") == running_nodes("ours") != []


def test_nodes_with_another_secret_are_passed_over_and_stay(opened: ExitStack) -> None:
    opened.enter_context(closing(Entry(listing("a", "theirs"))))
    assert running_nodes("ours") == []
    assert running_nodes("theirs") == [listing("a", "theirs")]


def test_a_node_that_closed_is_gone(home: Path) -> None:
    entry = Entry(listing("a"))
    entry.close()
    assert running_nodes("ours") == []
    assert list(directory(home).iterdir()) == []


def test_what_a_dead_node_left_is_not_found_and_is_removed(home: Path) -> None:
    program = (
        "import os\n"
        "from dispy.net.discovery import Entry, Listing\n"
        "entry = Entry(Listing('dead', '127.0.0.1', 9701, False, 'name', 2, 1, 'ours'))\n"
        "os._exit(0)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
    assert [path.name for path in directory(home).iterdir()] == ["dead.json"]
    assert running_nodes("ours") == []
    assert list(directory(home).iterdir()) == []


def test_a_node_of_another_process_is_found_while_it_lives(home: Path) -> None:
    program = (
        "from dispy.net.discovery import Entry, Listing\n"
        "entry = Entry(Listing('alive', '127.0.0.1', 9701, False, 'name', 2, 1, 'ours'))\n"
        "print('ready', flush=True)\n"
        "input()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        assert [found.node for found in running_nodes("ours")] == ["alive"]
    finally:
        process.communicate(b"\n", timeout=60)
    assert running_nodes("ours") == []


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"node": 1}', b"\xff" * 100])
def test_a_file_that_describes_no_node_hides_none(opened: ExitStack, home: Path, content: bytes) -> None:
    opened.enter_context(closing(Entry(listing("b"))))
    broken = Entry(listing("a"))
    opened.callback(broken.close)
    (directory(home) / "a.json").write_bytes(content)
    assert [found.node for found in running_nodes("ours")] == ["b"]


def test_entries_can_be_read_by_this_user_only(opened: ExitStack, home: Path) -> None:
    opened.enter_context(closing(Entry(listing("a"))))
    assert stat.S_IMODE(directory(home).stat().st_mode) == 0o700
    assert stat.S_IMODE((directory(home) / "a.json").stat().st_mode) == 0o600


def test_closing_an_entry_that_somebody_removed_is_no_fault(home: Path) -> None:
    entry = Entry(listing("a"))
    (directory(home) / "a.json").unlink()
    entry.close()
    assert running_nodes("ours") == []
