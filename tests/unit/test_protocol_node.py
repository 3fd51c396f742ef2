"""What scheduler and node say to each other: understood as it was meant, or refused."""

from __future__ import annotations

from typing import Any, get_args

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dispy.protocol import limits, node
from dispy.protocol.files import FileEntry
from dispy.protocol.node import Attempt, Ended, HeldJobs, Job, Started, from_node_decoder, to_node_decoder

encode = msgspec.msgpack.Encoder().encode

CLIENT = bytes(range(16))
ENTRY = FileEntry("a/b", bytes(range(32)), 100, 0o755, 1_700_000_000_000_000_000)

TO_NODE: list[Any] = [
    node.Attach(CLIENT, "program", 7),
    node.Reconcile([HeldJobs(5, [Attempt(1, 2), Attempt(3, 4)])], {5: 6}),
    node.Compute(1, "compute", b"code", 2, True, 0.5, "there", True, True, 7),
    node.RunJobs(
        1,
        [
            Job(1, 0, b"call"),
            Job(2, 3, b"", node.Streamed(9)),
            Job(3, 0, b"", node.Given(1 << 40)),
            Job(4, 0, b"", node.Segment(1)),
        ],
        [2],
    ),
    node.CancelJobs(1, [Attempt(1, 0)]),
    node.TakeBack(1, 10),
    node.CloseComputation(1),
    node.Acknowledge(12),
    node.AcknowledgeProvisional(1, 2, 3, 4),
    node.AcknowledgeProvisional(1, 2, 3, 4, False, "the disk is full"),
    node.ShareMemory(),
    node.PutObject(1, 2, b"data", 3, 4),
    node.DropObjects(1, [2, 3]),
    node.WatchJobs(1, [2, 3], False),
    node.AcknowledgePrinted(1),
    node.Recover([1, 2]),
    node.LimitCpus(3),
    node.SetPulse(0.25),
    node.ListJobs(1, 2),
    node.Compute(1, "compute", b"code", files=[ENTRY], keep=True, owner=bytes(32)),
    node.RunJobs(1, [Job(1, 0, b"call")], [], [node.JobFiles(1, [ENTRY])]),
    node.FileData(1, [node.FilePiece(ENTRY.digest, 5, b"data"), node.FilePiece(ENTRY.digest, 9, b"", 2)]),
    node.FileUnreadable(1, ENTRY.digest, "it is gone"),
    node.PlaceFiles(1, 2, [ENTRY]),
    node.Detach(),
]
FROM_NODE: list[Any] = [
    node.Welcome(CLIENT, "host", 8, "Linux", True),
    node.Welcome(CLIENT, "host", 8, "Linux", True, 7, [5, 7], [CLIENT]),
    node.Welcome(CLIENT, "host", 8, "Linux", available=node.Available(99.5, 1 << 33, 1 << 40, 100.0)),
    node.Held([node.HeldJobs(1, [Attempt(2, 3)])], [4, 5], [node.HeldJobs(6, [Attempt(7, 8)])]),
    node.ComputationReady(1, 2),
    node.ComputationFailed(1, "no such module", 2),
    node.NodeCredit(4, 1, "shared"),
    node.Credit(1, 4, 8, "", 100),
    node.JobsStarted(1, [Started(1, 0, 1.5)]),
    node.JobsEnded(
        3, 1, [Ended(1, 0, node.FINISHED, 1.5, 2.5, b"value", 0, "", b"out", b"err", 1, 2, False)]
    ),
    node.JobsReturned(1, [Attempt(1, 0)], "full"),
    node.Provisional(1, 2, 3, 4, b"value", 5),
    node.Provisional(1, 2, 3, 4, b"part", 5, 0, node.FilePart(6, "a/b", 7, 0o644, 8, 9, 10)),
    node.Reconciled([HeldJobs(1, [Attempt(1, 0)])], [1]),
    node.Leaving("service hours"),
    node.NodeCpus(2),
    node.NeedFiles(1, [node.Piece(ENTRY.digest, 5, 6)]),
    node.FilesProgress(1, 2, 3, 4, 5),
    node.FilesPlaced(1, 2, "no room"),
    node.ObjectStored(1, 2, "no room"),
    node.JobsListed(1, 2, [Attempt(1, 0)]),
    node.Available(0.0, 0, 1 << 40, 50.0),
    node.JobsPrinted(1, [node.Printed(1, 2, True, 3, b"out", 4, b"err")]),
]


def names(messages: list[Any]) -> list[str]:
    return [type(message).__name__ for message in messages]


@pytest.mark.parametrize("message", TO_NODE, ids=names(TO_NODE))
def test_a_message_to_a_node_arrives_as_it_was_sent(message: Any) -> None:
    assert to_node_decoder.decode(encode(message)) == message


@pytest.mark.parametrize("message", FROM_NODE, ids=names(FROM_NODE))
def test_a_message_from_a_node_arrives_as_it_was_sent(message: Any) -> None:
    assert from_node_decoder.decode(encode(message)) == message


def test_every_message_is_among_these_examples() -> None:
    assert {*map(type, TO_NODE)} == {*get_args(node.ToNode)}
    assert {*map(type, FROM_NODE)} == {*get_args(node.FromNode)}


@pytest.mark.parametrize("message", FROM_NODE, ids=names(FROM_NODE))
def test_a_node_does_not_take_what_only_nodes_say(message: Any) -> None:
    with pytest.raises(msgspec.ValidationError):
        to_node_decoder.decode(encode(message))


@pytest.mark.parametrize("message", TO_NODE, ids=names(TO_NODE))
def test_a_scheduler_does_not_take_what_only_schedulers_say(message: Any) -> None:
    with pytest.raises(msgspec.ValidationError):
        from_node_decoder.decode(encode(message))


@pytest.mark.parametrize(
    ("raw", "wanted"),
    [
        ([1, CLIENT, "p"], node.Attach(CLIENT, "p", 0)),
        ([3, 1, "f", b"code"], node.Compute(1, "f", b"code", 0, False, 5.0, "")),
        ([4, 1, [[1, 0, b"call"]]], node.RunJobs(1, [Job(1, 0, b"call", None)])),
    ],
    ids=["Attach", "Compute", "RunJobs"],
)
def test_fields_that_an_older_peer_leaves_out_have_their_defaults(raw: list[Any], wanted: Any) -> None:
    assert to_node_decoder.decode(encode(raw)) == wanted


def test_fields_that_only_a_newer_peer_knows_are_passed_over() -> None:
    assert to_node_decoder.decode(encode([6, 1, 10, "new", {"more": 1}])) == node.TakeBack(1, 10)


TOO_MANY = limits.BATCH_MAX + 1

REFUSED_TO_NODE = {
    "client id too short": [1, bytes(15), "p"],
    "client id too long": [1, bytes(17), "p"],
    "name too long": [1, CLIENT, "n" * (limits.NAME_MAX + 1)],
    "received negative": [1, CLIENT, "p", -1],
    "received too large": [1, CLIENT, "p", (1 << 62) + 1],
    "too many open attempts": [2, [[0, 0]] * (limits.OPEN_JOBS_MAX + 1), []],
    "too many computations": [2, [], [0] * TOO_MANY],
    "computation negative": [3, -1, "f", b""],
    "code too large to be inline": [3, 1, "f", bytes(limits.INLINE_MAX + 1)],
    "stream negative": [3, 1, "f", b"", -1],
    "grace negative": [3, 1, "f", b"", 0, False, -0.1],
    "grace longer than a day": [3, 1, "f", b"", 0, False, 86400.5],
    "grace not a number": [3, 1, "f", b"", 0, False, float("nan")],
    "grace without end": [3, 1, "f", b"", 0, False, float("inf")],
    "destination too long": [3, 1, "f", b"", 0, False, 1.0, "p" * (limits.NAME_MAX + 1)],
    "too many jobs": [4, 1, [[0, 0, b""]] * TOO_MANY],
    "job number negative": [4, 1, [[-1, 0, b""]]],
    "attempt negative": [4, 1, [[1, -1, b""]]],
    "attempt too large": [4, 1, [[1, (1 << 31) + 1, b""]]],
    "arguments too large to be inline": [4, 1, [[1, 0, bytes(limits.INLINE_MAX + 1)]]],
    "job stream negative": [4, 1, [[1, 0, b"", -1]]],
    "job without arguments": [4, 1, [[1, 0]]],
    "job not a job": [4, 1, [7]],
    "arguments as text": [4, 1, [[1, 0, "call"]]],
    "too many cancelled": [5, 1, [[0, 0]] * TOO_MANY],
    "take back a negative count": [6, 1, -1],
    "close a negative computation": [7, -1],
    "acknowledge a negative batch": [8, -1],
    "acknowledge a negative serial": [9, 1, 2, 3, -1],
    "number as float": [8, 1.5],
    "no such message": [99],
    "nothing": [],
    "not an array": {"a": 1},
}


@pytest.mark.parametrize("raw", REFUSED_TO_NODE.values(), ids=REFUSED_TO_NODE.keys())
def test_a_node_refuses(raw: Any) -> None:
    with pytest.raises(msgspec.ValidationError):
        to_node_decoder.decode(encode(raw))


def ended(**changes: Any) -> list[Any]:
    """A raw ``JobsEnded`` with one job, some of whose fields are changed."""
    fields = {
        "number": 1, "attempt": 0, "status": node.FINISHED, "start": 1.0, "end": 2.0, "payload": b"", "stream": 0,
        "reason": "", "stdout": b"", "stderr": b"", "output_stream": 0, "stdout_size": 0, "ran": True,
    }  # fmt: skip
    return [37, 1, 1, [[*(fields | changes).values()]]]


REFUSED_FROM_NODE = {
    "node id too short": [32, bytes(15), "n", 1, "Linux"],
    "cpus negative": [32, CLIENT, "n", -1, "Linux"],
    "platform too long": [32, CLIENT, "n", 1, "p" * (limits.NAME_MAX + 1)],
    "reason too long": [34, 1, "r" * (limits.REASON_MAX + 1)],
    "slots negative": [35, 1, -1, 0],
    "backlog negative": [35, 1, 0, -1],
    "too many started": [36, 1, [[0, 0, 0.0]] * TOO_MANY],
    "start as text": [36, 1, [[0, 0, "now"]]],
    "too many ended": [37, 1, 1, ended()[3] * TOO_MANY],
    "batch negative": [37, -1, 1, []],
    "status before the final ones": ended(status=node.CANCELLED - 1),
    "status after the final ones": ended(status=node.FINISHED + 1),
    "result too large to be inline": ended(payload=bytes(limits.INLINE_MAX + 1)),
    "stdout too large to be inline": ended(stdout=bytes(limits.INLINE_MAX + 1)),
    "stderr too large to be inline": ended(stderr=bytes(limits.INLINE_MAX + 1)),
    "traceback too long": ended(reason="r" * (limits.REASON_MAX + 1)),
    "output stream negative": ended(output_stream=-1),
    "stdout size negative": ended(stdout_size=-1),
    "too many returned": [38, 1, [[0, 0]] * TOO_MANY],
    "provisional value too large": [39, 1, 2, 3, 4, bytes(limits.INLINE_MAX + 1)],
    "serial negative": [39, 1, 2, 3, -4, b""],
    "node cpus negative": [42, -1],
}


@pytest.mark.parametrize("raw", REFUSED_FROM_NODE.values(), ids=REFUSED_FROM_NODE.keys())
def test_a_scheduler_refuses(raw: Any) -> None:
    with pytest.raises(msgspec.ValidationError):
        from_node_decoder.decode(encode(raw))


def test_an_ended_job_as_these_cases_vary_it_is_accepted() -> None:
    assert isinstance(from_node_decoder.decode(encode(ended())), node.JobsEnded)


def test_what_is_just_within_the_limits_is_accepted() -> None:
    job = Job((1 << 62), 1 << 31, bytes(limits.INLINE_MAX))
    message = node.RunJobs(1 << 62, [job])
    assert to_node_decoder.decode(encode(message)) == message
    attempts = node.CancelJobs(1, [Attempt(0, 0)] * limits.BATCH_MAX)
    assert to_node_decoder.decode(encode(attempts)) == attempts


def test_a_full_batch_of_inline_jobs_below_the_limit_of_a_frame_can_be_sent() -> None:
    count = limits.CONTROL_FRAME_MAX // (limits.INLINE_MAX + 32)
    message = node.RunJobs(1, [Job(i, 0, bytes(limits.INLINE_MAX)) for i in range(count)])
    assert len(encode(message)) <= limits.CONTROL_FRAME_MAX


@settings(deadline=None, max_examples=300)
@given(data=st.binary(max_size=200))
@example(data=b"\x91" * 100_000)
@example(data=b"\xdd\xff\xff\xff\xff")
@example(data=encode(node.Leaving("xy")).replace(b"xy", b"\xff\xff"))
def test_garbage_ends_in_an_error_that_connections_expect(data: bytes) -> None:
    for decoder in (to_node_decoder, from_node_decoder):
        try:
            decoder.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            continue


@pytest.mark.parametrize("message", [*TO_NODE, *FROM_NODE], ids=names([*TO_NODE, *FROM_NODE]))
def test_a_truncated_message_is_refused(message: Any) -> None:
    decoder = to_node_decoder if message in TO_NODE else from_node_decoder
    data = encode(message)
    for length in range(len(data)):
        with pytest.raises(msgspec.DecodeError):
            decoder.decode(data[:length])
