"""How messages are shown in logs: types, names and numbers, and of what users own the size."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from dispy.core import execution as execution
from dispy.core import scheduling as scheduling
from dispy.core.execution.ids import ClientId, WorkerId
from dispy.core.scheduling.ids import NodeId
from dispy.protocol import node, worker
from dispy.protocol.describe import TEXT_MAX, describe
from dispy.protocol.files import FileEntry

ME = bytes(range(16))
SECRET = b"SECRET"
JOB = node.Job(7, 0, SECRET)
ENDED = node.Ended(7, 1, node.TERMINATED, 1.0, 1.5, SECRET, reason="SECRET", stdout=SECRET, stderr=SECRET)


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        (
            node.Attach(ME, "a.py (1)", 0, "me@here"),
            "Attach client=00010203 name='a.py (1)' origin='me@here'",
        ),
        (node.RunJobs(1, [JOB, node.Job(8, 2, b"")]), "RunJobs computation=1 jobs=[7 (6 bytes), 8.2]"),
        (
            node.RunJobs(1, [node.Job(n, 0, b"x") for n in range(64)]),
            "RunJobs computation=1 jobs=[0 (1 byte), 1 (1 byte), 2 (1 byte), 3 (1 byte), and 60 more]",
        ),
        (
            node.JobsEnded(3, 1, [ENDED]),
            "JobsEnded batch=3 computation=1 ended=[7.1 terminated in 0.5 s (6 bytes)]",
        ),
        (
            node.Compute(1, "f", SECRET, exclusive=True),
            "Compute computation=1 name='f' code=<6 bytes> exclusive=True",
        ),
        (
            node.ComputationFailed(1, "SECRET of one line"),
            "ComputationFailed computation=1 reason=<18 characters>",
        ),
        (node.Leaving("stopped"), "Leaving reason='stopped'"),
        (
            node.JobsReturned(1, [], "Traceback\nSECRET"),
            "JobsReturned computation=1 attempts=[] reason=<2 lines>",
        ),
        (node.PutObject(1, 2, SECRET), "PutObject computation=1 number=2 payload=<6 bytes>"),
        (node.Detach(), "Detach"),
        (node.NodeCpus(0), "NodeCpus cpus=0"),
        (
            node.Reconcile([node.HeldJobs(1, [node.Attempt(7, 1)])], {1: 0}),
            "Reconcile attempts=[HeldJobs(computation=1, attempts=[7.1])] computations=[1]",
        ),
        (
            execution.Offer(WorkerId(3), worker.Record(5, [JOB])),
            "Offer worker=3 record=Record(record=5, jobs=[7 (6 bytes)])",
        ),
        (execution.ForkWorker((ClientId(ME), 4), WorkerId(3)), "ForkWorker key=00010203/4 worker=3"),
        (
            scheduling.NodeUp(NodeId(ME), "big", 4, False),
            "NodeUp node=00010203 name='big' cpus=4 known=False",
        ),
        (worker.WorkerExited(3, -9, "x"), "WorkerExited worker=3 code=-9 reason='x'"),
        (worker.LoadFailed("SECRET"), "LoadFailed reason=<6 characters>"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_messages_as_a_log_shows_them(message: Any, shown: str) -> None:
    assert describe(message) == shown


def _filled(kind: Any, depth: int = 0) -> Any:
    """A struct in which all bytes and reasons are secret."""
    values: dict[str, Any] = {}
    for field in msgspec.structs.fields(kind):
        match str(field.type):
            case text if "Identity" in text or "min_length=16" in text:
                values[field.name] = ME
            case text if "bytes" in text and "list" not in text and "dict" not in text:
                values[field.name] = SECRET
    plain = {
        field.name: _plain(field)
        for field in msgspec.structs.fields(kind)
        if field.name not in values and field.required
    }
    return kind(**values, **plain)


def _plain(field: Any) -> Any:
    text = str(field.type)
    if "list" in text:
        return []
    if "dict" in text:
        return {}
    if "str" in text:
        return "name"
    return 9 if field.name == "status" else 0


@pytest.mark.parametrize(
    "kind",
    [*node.ToNode.__args__, *node.FromNode.__args__, *worker.ToHost.__args__, *worker.FromHost.__args__],
    ids=lambda kind: kind.__name__,
)
def test_no_message_shows_bytes_of_users(kind: Any) -> None:
    """Also none that will be added: what it shows is decided by the types of its fields."""
    shown = describe(_filled(kind))
    assert shown.startswith(kind.__name__)
    assert "SECRET" not in shown
    assert len(shown) < 1000


def test_text_of_strangers_is_one_short_line() -> None:
    evil = "\x1b]0;owned\x07\u202e" * 100
    shown = describe(node.Attach(ME, evil))
    assert shown.isprintable()
    assert "…" in shown
    assert len(shown) < 10 * TEXT_MAX
    assert describe(node.Attach(ME, "a\nb")) == "Attach client=00010203 name=<2 lines>"


def test_lists_and_depth_are_bounded() -> None:
    files = [FileEntry(f"f{n}", bytes(32), 5, 0o644, 0) for n in range(50)]
    shown = describe(node.PlaceFiles(1, 2, files))
    assert len(shown) < 2000
    held = node.Held([node.HeldJobs(1, [node.Attempt(n, 0) for n in range(9)])] * 9, list(range(99)), [])
    assert len(describe(held)) < 500
