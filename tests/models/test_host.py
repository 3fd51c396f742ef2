"""The model of a host against a real one: the same messages, and the same answers."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dispy.protocol import worker as protocol
from dispy.protocol.worker import FromHost, Interrupt, Kill, LoadFailed, Unbuffer, WorkerStarted
from tests.models.host import Host
from tests.models.real import RealHost, real_host, receive
from tests.models.worker import Channels, Worker


def make_functions() -> dict[str, Callable[[], Any]]:
    """Functions of computations. Defined here, so that they go by value."""

    def nothing() -> None:
        pass

    def fail() -> None:
        raise ZeroDivisionError

    def be_without_forks() -> None:
        import errno
        import os

        def refuse() -> int:
            raise OSError(errno.EAGAIN, "no more")

        os.fork = refuse  # type: ignore[assignment]

    return {"nothing": nothing, "fail": fail, "be_without_forks": be_without_forks}


FUNCTIONS = make_functions()


def without_words(message: FromHost) -> FromHost:
    """A message without what only a real host has: pids, and its own words for a reason."""
    match message:
        case LoadFailed():
            return LoadFailed("…")
        case WorkerStarted(worker):
            return WorkerStarted(worker, 0)
        case protocol.WorkerExited(worker, code, reason):
            return protocol.WorkerExited(worker, code, reason and "…")
        case _:
            return message


def assert_same(host: RealHost, expected: list[FromHost | None]) -> None:
    """The real host says what its model has said."""
    said = [without_words(message) for message in expected if message is not None]
    assert [without_words(host.heard()) for _ in said] == said


@pytest.mark.parametrize(("setup", "limit_s", "per_worker"), [
    ("nothing", 0.0, False),
    ("be_without_forks", 5.0, False),
    ("fail", 5.0, False),
    ("nothing", 5.0, True),
    ("fail", 5.0, True),
])  # fmt: skip
def test_a_host_sets_up_as_its_model(tmp_path: Path, setup: str, limit_s: float, per_worker: bool) -> None:
    """And so does its first worker, which cannot be started if ``setup`` has seen to that."""
    with real_host(tmp_path, FUNCTIONS["nothing"], FUNCTIONS[setup]) as host:
        reason = "…" if setup == "fail" else ""
        model: Host[Worker] = Host()
        said = [model.begin_load(host.load(setup_timeout_s=limit_s, setup_per_worker=per_worker))]
        if model.is_setting_up:
            said.append(model.end_setup(reason))
        assert_same(host, said)
        if not model.is_loaded:
            return
        handle = host.fork()
        if setup == "be_without_forks":
            assert_same(host, [model.refuse_fork(handle.id, "…")])
            return
        worker = Worker(Channels(), per_worker)
        assert_same(host, [model.fork(handle.id, worker, 0)])
        if per_worker:
            packet, told = worker.set_up(reason), receive(handle)
            assert told[:1] == packet[:1]
            assert bool(protocol.unpack_set_up(memoryview(told))) == bool(reason)
        if worker.exit_code is not None:
            assert_same(host, [model.reap(handle.id, worker.exit_code)])


def test_a_host_whose_code_cannot_be_had_does_not_call_setup(tmp_path: Path) -> None:
    with real_host(tmp_path, FUNCTIONS["nothing"], FUNCTIONS["nothing"]) as host:
        (tmp_path / "code").unlink()
        model: Host[None] = Host()
        assert_same(host, [model.begin_load(host.load(setup_timeout_s=5.0), "…")])


def test_a_host_answers_for_its_workers_as_its_model(tmp_path: Path) -> None:
    """Messages for a worker that has ended, or never was, have no effect and no answer."""
    with real_host(tmp_path, FUNCTIONS["nothing"]) as host:
        model: Host[int] = Host()
        assert_same(host, [model.begin_load(host.load(setup_timeout_s=5.0), has_setup=False)])
        first, second = host.fork(), host.fork()
        assert_same(host, [model.fork(first.id, 1, 0), model.fork(second.id, 2, 0)])
        for message in (Interrupt(first.id), Unbuffer(first.id), Interrupt(99), Kill(99), Kill(first.id)):
            host.process.tell(message)
            if model.find(message.worker) and type(message) is Kill:
                assert_same(host, [model.reap(message.worker, -signal.SIGKILL)])
        host.process.tell(Kill(first.id))
        host.process.tell(Interrupt(first.id))
        third = host.fork()
        assert_same(host, [model.fork(third.id, 3, 0)])
        third.jobs.close()
        third.jobs_copy.close()
        assert_same(host, [model.reap(third.id, 0)])
        assert model.reap(third.id, 0) is None
        assert list(model.workers) == [second.id]
