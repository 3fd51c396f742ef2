"""What a scheduler's link makes of what a node says."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

from dispy.errors import InternalError
from dispy.net.dialing import Target
from dispy.protocol import node
from dispy.scheduler.node_link import NodeLink
from dispy.scheduler.payloads import stop_jobs
from dispy.scheduler.result_payloads import take_shared
from dispy.security.keys import alone

TARGET = Target("127.0.0.1", 1, alone(b""))


def owner(**more: Any) -> Any:
    """The owner of a link, without more than it asks for."""
    return SimpleNamespace(clock=time, pulse_s=1.0, tracer=None, memory=None, identity=bytes(16), **more)


def test_a_result_that_is_gone_was_lost_and_its_job_may_run_again() -> None:
    """A node says where it lies, is killed, and another tidies up before we look."""
    node_link = NodeLink(owner(), TARGET)
    ended = node.Ended(1, 0, node.FINISHED, 1.0, 2.0, b"", segment=5)
    take_shared(ended, 1, node_link._adopt)
    assert (ended.status, ended.died) == (node.TERMINATED, True)
    assert "lost on its way" in ended.reason


def test_a_node_to_which_something_cannot_be_said_is_lost() -> None:
    """After a reconnect the same would be said again, and again."""
    failed: list[Exception] = []
    node_link = NodeLink(owner(link_failed=lambda _, error: failed.append(error)), TARGET)
    known: Any = SimpleNamespace(bytes_sent=0, bytes_received=0)
    node_link.link.connection, node_link.link.is_known = known, True
    error = InternalError("a RunJobs of 9000000 bytes was to be sent")
    node_link.link.on_closed(known, error)
    assert failed == [error]
    assert node_link.link.is_closed


def test_a_cancel_stops_the_arguments_of_its_own_job_only() -> None:
    """A job of another computation may have the same number."""
    node_link = NodeLink(owner(), TARGET)
    given_up: list[Any] = []

    def give_up(group: Any) -> bool:
        given_up.append(group)
        return True

    groups = iter(["first", "second"])
    connection: Any = SimpleNamespace(send_streamed=lambda *_: next(groups), give_up=give_up)
    for computation in (1, 2):
        message = node.RunJobs(computation, [], [], [])
        node_link.large_arguments.send(connection, (computation, 7, 0), [], message)
    cancel = node.CancelJobs(1, [node.Attempt(7, 0), node.Attempt(8, 0)])
    assert stop_jobs(node_link, cancel) == ([node.Attempt(7, 0)], node.CancelJobs(1, [node.Attempt(8, 0)]))
    assert stop_jobs(node_link, cancel) == ([], cancel)
    node_link.large_arguments.give_up_all(lambda key: key[0] == 2)
    assert given_up == ["first", "second"]
