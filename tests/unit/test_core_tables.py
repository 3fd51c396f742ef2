"""Whether every event, action and message has somebody who handles it: tables by type, which type checkers cannot see
to be complete."""

from __future__ import annotations

import ast
import asyncio
from pathlib import Path
from typing import Any, get_args

import pytest

import dispy
from dispy.core import execution, scheduling, staging
from dispy.core.execution import machine as execution_machine
from dispy.core.scheduling import machine as scheduling_machine
from dispy.core.staging import machine as staging_machine
from dispy.files.fetching.stager import Stager
from dispy.node.service import NodeService
from dispy.protocol import node
from dispy.scheduler.service import SchedulerService

ROOT = Path(dispy.__file__).parent

EVENTS: list[tuple[Any, dict[Any, Any], set[Any]]] = [
    (scheduling.Event, scheduling_machine._HANDLERS, {scheduling.FromNodeEvent}),
    (execution.Event, execution_machine._HANDLERS, {execution.FromClient}),
    (staging.Event, staging_machine._HANDLERS, set()),
]
"""Union, table, and the event that carries a message, which is looked up by the message."""


@pytest.mark.parametrize(("union", "table", "carriers"), EVENTS, ids=["scheduling", "execution", "staging"])
def test_each_event_has_a_handler(union: Any, table: dict[Any, Any], carriers: set[Any]) -> None:
    assert {*table, *carriers} == {*get_args(union)}


class _Observer:
    """Somebody who takes all news, and does nothing."""

    def __getattr__(self, name: str) -> Any:
        return lambda *_: None


def test_each_action_is_performed() -> None:
    assert {*NodeService.perform_by_type} == {*get_args(execution.Action)}
    assert {*Stager.perform_by_type} == {*get_args(staging.Action)}

    async def play() -> None:
        service = SchedulerService(bytes(16), "p", _Observer())
        assert {*service._perform_by_type} == {*get_args(scheduling.Action)}

    asyncio.run(play())


def test_each_message_of_a_node_has_somebody_who_handles_it() -> None:
    """The core, or the link and the service around it."""
    by_shell = {node.Welcome, node.Leaving, node.Available, node.NeedFiles, node.JobsListed}
    for_recoveries = {node.Held}
    handled = {*scheduling_machine._MESSAGE_HANDLERS}
    assert not handled & (by_shell | for_recoveries)
    assert handled | by_shell | for_recoveries == {*get_args(node.FromNode)}


def test_each_message_of_a_client_has_somebody_who_handles_it() -> None:
    by_shell = {
        node.Attach, node.ShareMemory, node.SetPulse, node.PutObject, node.DropObjects, node.FileData,
        node.FileUnreadable, node.PlaceFiles,
    }  # fmt: skip
    handled = {*execution_machine._MESSAGE_HANDLERS}
    assert not handled & by_shell
    assert handled | by_shell == {*get_args(node.ToNode)}


def _named(pattern: ast.pattern) -> bool:
    """Whether a pattern of a ``match`` is a class or a member of an enum: then the subject is one of a closed set."""
    if isinstance(pattern, ast.MatchOr):
        return any(map(_named, pattern.patterns))
    return isinstance(pattern, (ast.MatchClass, ast.MatchValue))


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT)))
def test_each_match_ends_in_assert_never(path: Path) -> None:
    """Or hands on what is left to a function whose ``match`` does; ``describe`` takes any value."""
    if path.name == "describe.py":
        return
    for found in ast.walk(ast.parse(path.read_text())):
        if not isinstance(found, ast.Match) or not any(_named(case.pattern) for case in found.cases):
            continue
        last = found.cases[-1]
        assert isinstance(last.pattern, ast.MatchAs), f"{path}:{found.lineno} has no last case"
        said = ast.unparse(last)
        assert "assert_never(" in said or "_in_tree(tree, request" in said, f"{path}:{found.lineno}"
