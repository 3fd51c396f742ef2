"""What a link makes of what a node says."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from dispy.protocol import node
from dispy.scheduler.link import Link, Target


def test_a_result_that_is_gone_was_lost_and_its_job_may_run_again() -> None:
    """A node says where it lies, is killed, and another tidies up before we look."""
    service: Any = SimpleNamespace(memory=None, identity=bytes(16))
    link = Link(service, Target("127.0.0.1", 1, b""))
    ended = node.Ended(1, 0, node.FINISHED, 1.0, 2.0, b"", segment=5)
    link._take_shared(ended, 1)
    assert (ended.status, ended.died) == (node.TERMINATED, True)
    assert "lost on its way" in ended.reason
