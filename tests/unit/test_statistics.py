"""The numbers that long-lived objects say of themselves."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from dispy.client.engine.engine import engine, stop_engine
from dispy.core import execution as core
from dispy.core import scheduling, staging
from dispy.core.execution import Machine
from dispy.core.execution.ids import ClientId
from dispy.files.fetching.stager import Stager
from dispy.journal import files
from dispy.journal.thread import JournalThread
from dispy.journal.writer import Journal
from dispy.net.connection import Connection
from dispy.net.dialing import Target
from dispy.node import reporting
from dispy.node.payloads.segments import Segments
from dispy.node.results.spool import Spool
from dispy.protocol import node
from dispy.protocol.streams import IncomingStreams
from dispy.scheduler.node_link import NodeLink
from dispy.scheduler.service import SchedulerService
from dispy.security.keys import alone
from dispy.system.shared_memory import SHARED_MIN, SharedPool
from dispy.system.wording import facts, named

CLIENT = ClientId(b"c" * 16)


class Observer:
    """Somebody who takes all news, and does nothing."""

    def __getattr__(self, name: str) -> Any:
        return lambda *_: None


def test_a_scheduler_counts_jobs_and_the_traffic_of_its_links() -> None:
    async def play() -> None:
        service = SchedulerService(bytes(16), "p", Observer())
        service.handle(scheduling.AddComputation(scheduling.EMBEDDED, 1, node.Compute(1, "f", b"")))
        jobs = [node.Job(number, 0, b"") for number in range(1, 4)]
        service.submit(scheduling.SubmitJobs(scheduling.EMBEDDED, 1, jobs))
        service.handle(scheduling.CancelJobs(scheduling.EMBEDDED, 1, [2]))
        target = Target("127.0.0.1", 1, alone(b""))
        node_link = service.links.by_target[target] = NodeLink(service.links, target)
        node_link.link.connection = cast(
            Any, SimpleNamespace(bytes_sent=7, bytes_received=8, close=lambda: None)
        )
        node_link.batches.arrived.arrive(1)
        assert node_link.statistics() == {
            "connections": 1, "bytes_sent": 7, "bytes_received": 8, "batches_received": 1,
            "batches_unacknowledged": 1,
        }  # fmt: skip
        assert service.statistics() == {
            "nodes": 0, "links": 1, "computations": 1, "jobs_open": 2, "jobs_queued": 2, "bytes_sent": 7,
            "bytes_received": 8, "batches_unacknowledged": 1,
        }  # fmt: skip
        del service.links.by_target[target]
        service.close()

    asyncio.run(play())


def test_a_node_counts_what_it_has_and_its_parts_theirs() -> None:
    machine = Machine(2)
    machine.handle(core.ClientAttached(CLIENT, "p", 0), 0.0)
    machine.handle(core.FromClient(CLIENT, node.Compute(1, "f", b"")), 0.0)
    machine.handle(
        core.FromClient(CLIENT, node.RunJobs(1, [node.Job(1, 0, b""), node.Job(2, 0, b"")])), 0.0
    )
    part = SimpleNamespace(statistics=lambda: {"bytes": 5})
    connection = SimpleNamespace(statistics=lambda: {"bytes_sent": 1, "bytes_received": 2})
    service = SimpleNamespace(
        machine=machine, connections=[connection], cpus=2, hosts_started=1,
        stager=part, segments=part, spool=None,
    )  # fmt: skip
    found = reporting.statistics(cast(Any, service))
    assert found | {"clients": 1, "computations": 1, "jobs_open": 2, "bytes_received": 2} == found
    assert (found["stager_bytes"], found["segments_bytes"]) == (5, 5)
    assert not any(name.startswith("spool") for name in found)


def test_a_stager_counts_what_is_missing() -> None:
    machine = staging.Machine()
    supplier = staging.SupplierId(b"s" * 16)
    machine.handle(staging.Connected(supplier), 0.0)
    number = staging.StageId(1)
    machine.handle(staging.Want(number, staging.StoreName("s"), supplier, 1, [], None), 0.0)
    machine.handle(staging.Placed(number, {b"d" * 32: 100}), 0.0)
    found = Stager.statistics(cast(Any, SimpleNamespace(machine=machine)))
    assert (found["stages"], found["files_missing"], found["bytes_missing"]) == (1, 1, 100)


def test_segments_count_files_and_what_arrives(tmp_path: Path) -> None:
    segments = Segments("00" * 16)
    try:
        incoming = segments.incoming(1 << 20)
        found = segments.statistics()
        assert (found["payloads_arriving"], found["bytes_arriving"]) == (1, 1 << 20)
        assert found["files_made"] == 1
        incoming.discard()
    finally:
        segments.directories.close()


def test_shared_memory_counts_files_in_use_and_free_ones(tmp_path: Path) -> None:
    pool = SharedPool(str(tmp_path))
    try:
        kept = pool.take(SHARED_MIN)
        pool.take(SHARED_MIN)
        found = pool.statistics()
        assert (found["files"], found["files_free"]) == (2, 1)
        assert found["bytes"] == 2 * found["bytes_free"] >= 2 * SHARED_MIN
        del kept
    finally:
        pool.close()


def test_a_journal_counts_what_is_not_on_disk(tmp_path: Path) -> None:
    path = tmp_path / "journal"

    def post(function: Callable[[], object]) -> None:
        function()

    thread = JournalThread(path, files.create_short, post)
    journal = Journal(thread, is_full=False, wait=True)
    journal.close(remove=True)
    assert thread.statistics() == {"entries_waiting": 0, "bytes_waiting": 0}


def test_a_spool_counts_what_is_on_disk(tmp_path: Path) -> None:
    spool = Spool(tmp_path, b"i" * 16, "n", "", 1 << 20, lambda *_: None, lambda *_: -1)
    spool.close()
    assert spool.statistics() == {"batches": 0, "batches_waiting": 0, "bytes": 0}


def test_a_connection_counts_bytes_and_payloads() -> None:
    async def play() -> None:
        connection = Connection(
            Observer(), node.from_node_decoder, alone(bytes(32)), "client", "node", is_dialer=True
        )
        connection.machine.incoming.open(1, 100)
        connection.machine.start(bytes(32), 0.0)
        sent = len(connection.machine.data_to_send())
        assert sent
        assert connection.statistics() == {"bytes_sent": sent, "bytes_received": 0, "payloads_arriving": 1}

    asyncio.run(play())


def test_payloads_that_arrive_are_counted() -> None:
    streams = IncomingStreams()
    streams.open(1, 100)
    assert streams.count() == 1
    streams.abort(1)
    assert streams.count() == 0


def test_an_engine_says_its_numbers_and_those_of_its_parts_on_any_thread() -> None:
    try:
        found = engine().statistics()
        assert found | {"clusters": 0, "callbacks_left": 0, "nodes": 0, "jobs_open": 0} == found
        assert all(type(number) is int for number in found.values())
        found.clear()
        assert engine().statistics()
    finally:
        stop_engine()


def test_numbers_are_facts_of_one_line() -> None:
    assert facts({"a": 1, "b": 0, "c_bytes": 3}) == "a=1 c_bytes=3"
    assert facts({"a": 0}) == "all are 0"
    assert named("part", {"bytes": 2}) == {"part_bytes": 2}
