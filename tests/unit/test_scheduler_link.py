"""What a link makes of what a node says."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from dispy.errors import InternalError
from dispy.protocol import node
from dispy.scheduler.large_arguments import LargeArguments
from dispy.scheduler.link import Link, Target
from dispy.scheduler.result_payloads import take_shared


def test_a_result_that_is_gone_was_lost_and_its_job_may_run_again() -> None:
    """A node says where it lies, is killed, and another tidies up before we look."""
    service: Any = SimpleNamespace(memory=None, identity=bytes(16))
    link = Link(service, Target("127.0.0.1", 1, b""))
    ended = node.Ended(1, 0, node.FINISHED, 1.0, 2.0, b"", segment=5)
    take_shared(ended, 1, link._adopt)
    assert (ended.status, ended.died) == (node.TERMINATED, True)
    assert "lost on its way" in ended.reason


def test_a_node_to_which_something_cannot_be_said_is_lost() -> None:
    """After a reconnect the same would be said again, and again."""
    failed: list[Exception] = []
    owner: Any = SimpleNamespace(link_failed=lambda _, error: failed.append(error))
    link = Link(owner, Target("127.0.0.1", 1, b""))
    known: Any = SimpleNamespace(bytes_sent=0, bytes_received=0)
    link.info, link.connection = known, known
    error = InternalError("a RunJobs of 9000000 bytes was to be sent")
    link.on_closed(known, error)
    assert failed == [error]


def test_a_cancel_stops_the_arguments_of_its_own_job_only() -> None:
    """A job of another computation may have the same number."""
    sent = LargeArguments()
    given_up: list[Any] = []

    def give_up(group: Any) -> bool:
        given_up.append(group)
        return True

    groups = iter(["first", "second"])
    connection: Any = SimpleNamespace(send_streamed=lambda *_: next(groups), give_up=give_up)
    for computation in (1, 2):
        sent.send(connection, computation, node.Job(7, 0, b"large"), [], [])
    cancel = node.CancelJobs(1, [node.Attempt(7, 0)])
    assert sent.give_up(connection, cancel) == cancel.attempts
    assert sent.give_up(connection, cancel) == []
    sent.give_up_all(connection, 2)
    assert given_up == ["first", "second"]
