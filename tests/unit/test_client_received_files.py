"""Files that jobs send: nothing of them lands where it should not, whatever nodes say."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispy.client.session import received_files
from dispy.client.session.received_files import Arrivals
from dispy.protocol import limits
from dispy.protocol.node import AcknowledgeProvisional, FilePart, Provisional
from dispy.worker.job_api.send_file import name_for

pieces = st.sampled_from(
    [
        "..",
        ".",
        "",
        "a",
        "b",
        "out",
        "file",
        "/",
        "~",
        "a\\b",
        "x\0y",
        "in",
        ".dispy-x",
        "loop",
        "%",
        "a" * 300,
    ]
)
paths = st.lists(pieces, min_size=1, max_size=6).map("/".join) | st.text(min_size=1, max_size=40)


def snapshot(directory: Path) -> list[tuple[str, str]]:
    """All there is, with the content of files."""
    return sorted(
        (str(path), path.read_text() if path.is_file() and not path.is_symlink() else "")
        for path in directory.rglob("*")
    )


@pytest.fixture
def arrivals(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Takes parts at once; gives what is answered."""
    answers: list[AcknowledgeProvisional] = []
    made = Arrivals(lambda _, told: answers.append(told), lambda _, number: number < 100)

    def take(part: FilePart, data: bytes = b"content", number: int = 7) -> AcknowledgeProvisional:
        made._take("compute", Provisional(1, number, 0, 1, data, 0, 0, part), b"node")  # type: ignore[arg-type]
        return answers.pop()

    take.made = made  # type: ignore[attr-defined]
    return take


@given(path=paths, transfer=st.integers(1, 1 << 62))
def test_nothing_lands_outside_the_directory(path: str, transfer: int) -> None:
    """Not by names, and not through links that are there."""
    with tempfile.TemporaryDirectory() as place:
        root, outside = Path(place, "root"), Path(place, "outside")
        for directory in (root, outside, root / "a"):
            directory.mkdir()
        (outside / "file").write_text("before")
        (root / "out").symlink_to(outside)
        (root / "a" / "out").symlink_to("../../outside")
        (root / "file").symlink_to(outside / "file")
        (root / "loop").symlink_to("loop")
        before = snapshot(outside)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(received_files, "_root", str(root))
            answers: list[AcknowledgeProvisional] = []
            made = Arrivals(lambda _, told: answers.append(told), lambda *_: True)
            part = FilePart(transfer, path, 7, 0o777, 1, 2, 0)
            made._take("c", Provisional(1, 7, 0, 1, b"content", 0, 0, part), b"node")  # type: ignore[arg-type]
        (told,) = answers
        assert snapshot(outside) == before
        assert sorted(os.listdir(place)) == ["outside", "root"]
        assert told.delivered is not bool(told.reason)
        if told.delivered:
            landed = root / path
            assert landed.read_text() == "content"
            assert not landed.is_symlink()
        else:
            assert "content" not in [content for _, content in snapshot(root)]


def test_parts_come_in_order_or_again(
    arrivals: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(received_files, "_root", str(tmp_path))
    monkeypatch.setattr(limits, "FILE_PART", 4)
    parts = [FilePart(3, "file", 10, 0o600, 1, 2, offset) for offset in (0, 4, 8)]
    data = [b"abcd", b"efgh", b"ij"]
    late = arrivals(parts[1], data[1])
    assert (late.delivered, late.reason) == (False, "its beginning was given up here")
    for at in (0, 0, 1, 0, 1):
        assert arrivals(parts[at], data[at]).delivered
    short = arrivals(parts[2], b"i")
    assert (short.delivered, short.reason) == (False, ""), "it may be sent again"
    assert os.listdir(tmp_path) == []
    for _ in range(2):  # its acknowledgement was lost
        assert arrivals(parts[2], data[2]).delivered
        assert (tmp_path / "file").read_bytes() == b"abcdefghij"
    (tmp_path / "file").write_text("changed by the program")
    assert arrivals(parts[2], data[2]).delivered
    assert (tmp_path / "file").read_text() == "changed by the program"
    arrivals.made._tidy()
    assert len(arrivals.made._arrived) == 1


def test_what_jobs_that_have_ended_did_not_send_to_its_end_is_let_go(
    arrivals: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(received_files, "_root", str(tmp_path))
    monkeypatch.setattr(limits, "FILE_PART", 4)
    monkeypatch.setattr(received_files, "OPEN_MAX", 2)
    before = set(os.listdir("/proc/self/fd"))
    for number in (7, 200):
        assert arrivals(FilePart(1, "file", 10, 0o600, 1, 2, 0), b"abcd", number).delivered
    full = arrivals(FilePart(2, "other", 10, 0o600, 1, 2, 0), b"abcd")
    assert (full.delivered, full.reason) == (False, "")
    arrivals.made._tidy()
    assert [key.number for key in arrivals.made._arriving] == [7]
    arrivals.made._drop_all()
    assert set(os.listdir("/proc/self/fd")) == before
    assert os.listdir(tmp_path) == []


def test_a_directory_that_is_gone_is_said(
    arrivals: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = FilePart(1, "file", 7, 0o600, 1, 2, 0)
    monkeypatch.setattr(received_files, "_root", str(tmp_path / "gone"))
    assert "No such file" in arrivals(part).reason
    monkeypatch.setattr(received_files, "_root", "")
    assert "was gone when it made its first cluster" in arrivals(part).reason


def test_what_a_file_is_called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work = tmp_path / "work"
    (work / "a").mkdir(parents=True)
    (tmp_path / "link").symlink_to(work)
    (work / "out").symlink_to(tmp_path)
    monkeypatch.chdir(work)
    for path, name in [
        ("b", "b"),
        ("a/b", "a/b"),
        ("a/../b", "b"),
        (str(work / "a/b"), "a/b"),
        (str(tmp_path / "link/a/b"), "a/b"),
        ("../other", "other"),
        ("out/other", "other"),
        ("out/work/a/b", "a/b"),
        ("out", "out"),
        ("/etc/hostname", "hostname"),
        (str(tmp_path / "work2"), "work2"),
    ]:
        assert name_for(path, str(work)) == name


def test_only_so_many_files_are_remembered(
    arrivals: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of jobs that go on; what a job sends after that is refused, and it is told why."""
    monkeypatch.setattr(received_files, "_root", str(tmp_path))
    monkeypatch.setattr(limits, "ARRIVED_MAX", 2)
    answers = [arrivals(FilePart(n, f"file {n}", 7, 0o600, 1, 2, 0)) for n in (1, 2, 3)]
    assert [told.delivered for told in answers] == [True, True, False]
    assert answers[2].reason == "jobs that have not ended have sent 2 files; put more into an archive"
    assert sorted(os.listdir(tmp_path)) == ["file 1", "file 2"]
