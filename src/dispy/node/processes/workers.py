"""Workers: starting them, giving them records (lists of jobs), watching where they are, taking in their results,
burying them.

A worker is a process that runs the jobs of one record after another. Its *position* is one number for the record and
the job in it that it runs (``protocol.worker.claim``).

The functions before "Packets of workers" perform actions of the core. A worker that is not in ``_owners`` has ended,
or could not be started: actions for it have no effect, as the core is about to be told.
"""

from __future__ import annotations

import contextlib
import logging

import msgspec

from dispy.core import execution as core
from dispy.core.execution.ids import WorkerId
from dispy.core.execution.retention import segments_held
from dispy.node import guard
from dispy.node.processes.worker_channels import WorkerHandle
from dispy.node.state import Loaded, NodeState
from dispy.protocol import limits
from dispy.protocol import worker as worker_protocol

logger = logging.getLogger("dispy.node")

TICK_S = 0.01
"""Seconds between two ticks while a job runs: at each, the core is told the positions of all workers. A long job
delays by this much those behind it in its record, until the core takes them back for other workers."""

INTERRUPT_S = 0.1
"""Seconds after which a job that has not noticed its interrupt is interrupted again. A signal that comes just before
Python enters a system call does not end that call: about one in 500 cancels of jobs that have only begun to sleep."""

FORK_S = 0.2
"""Seconds until the core is told that a worker could not be started: the pause before the next attempt."""

SETUP_GRACE_S = 1.0
"""Seconds that ``setup`` has, after its time is over and an exception was raised in it, to end by itself and report
where it was. Then its process is killed, and the reason says only that it took too long."""

CLEANUP_S = 5.0
"""Seconds after which a host or worker that was told to end is killed: ``cleanup`` that still runs is cut off."""

_encode = msgspec.msgpack.Encoder().encode

assert limits.INLINE_MAX < worker_protocol.RECORD_BYTES_MAX


# Actions of the core.


def fork(service: NodeState, action: core.ForkWorker) -> None:
    """Have a host start a worker. If that fails the core is told ``WorkerExited`` after ``FORK_S``."""
    loaded = service.loaded[action.key]
    try:
        handle = loaded.host.fork(action.worker)
    except OSError as error:
        # Until it is told, the core leaves jobs with this worker: so there is a pause before the next attempt.
        logger.warning("no worker can be started: %s", error)
        guard.later(
            service, FORK_S, action.key, _fail_fork, service, action, f"it cannot be started: {error}"
        )
        return
    service.owners[action.worker] = (loaded, handle)
    guard.watch(service, handle.replies, action.key, _on_replies, service, handle)
    if loaded.per_worker and loaded.limit_s:
        guard.later(service, loaded.limit_s + SETUP_GRACE_S, action.key, _end_late_worker, service, handle)


def _fail_fork(service: NodeState, action: core.ForkWorker, reason: str) -> None:
    """Tell the core the end of a worker that could not be started. The core queues that worker's jobs again."""
    service.handle(core.WorkerExited(action.worker, reason, 0, 0.0, 0.0, []))


def offer(service: NodeState, action: core.Offer) -> None:
    """Give a worker a record of jobs at once. If its one job brings files, give it when these are in place."""
    owner = service.owners.get(action.worker)
    if owner is None:
        return  # it could not be started; the core is about to be told its end
    brought = owner[0].brought
    if brought is not None and brought.offer(action.worker, action.record):
        service.bringing[action.worker] = brought
    else:
        give(service, action.worker, action.record)
    _schedule_tick(service)


def give(service: NodeState, worker: WorkerId, record: worker_protocol.Record) -> None:
    """Send a record of jobs to its worker; without effect if that has ended.

    A worker that takes no record is killed; its end gives its jobs back to the core.
    """
    owner = service.owners.get(worker)
    if owner is None:
        return
    try:
        owner[1].jobs.send(_encode(record))
    except OSError as error:
        # Two records always fit into the buffer, so the worker or its host is broken. Its end brings the jobs back.
        logger.error("worker %d takes no jobs: %s", worker, error)
        kill(service, core.KillWorker(worker))


def _end_bringing(service: NodeState, worker: WorkerId) -> None:
    """Remove the files that a worker's job has brought, as the job has ended. Without effect if it brought none."""
    brought = service.bringing.pop(worker, None)
    if brought is not None:
        brought.release(worker)


def recall(service: NodeState, action: core.Recall) -> None:
    """Take back records of jobs that a worker has not taken, and tell the core their numbers (``Recalled``).

    The core has the jobs of these records run elsewhere; records that the worker has taken stay with it.
    """
    owner = service.owners.get(action.worker)
    if owner is not None:
        untaken = owner[1].untaken()
        brought = service.bringing.get(action.worker)
        if brought is not None:
            untaken = brought.withdraw(action.worker, untaken)
        service.handle(core.Recalled(action.worker, untaken))


def cut(service: NodeState, action: core.Cut) -> None:
    """Have a worker end its record before the job at ``action.position`` (number for a record and a job in it).

    If the worker has begun that job already, the record ends before the job after the running one. The jobs that are
    cut off are not run by this worker; the core places them anew.
    """
    owner = service.owners.get(action.worker)
    if owner is not None:
        owner[1].words[worker_protocol.SLOT_LIMIT] = action.position


def interrupt(service: NodeState, action: core.InterruptWorker) -> None:
    """Raise ``KeyboardInterrupt`` in the job at ``action.position``: one number for a record and a job in it.

    No other job of the worker gets it. The exception is raised again each ``INTERRUPT_S`` while the job runs and has
    not noticed.
    """
    owner = service.owners.get(action.worker)
    if owner is not None:
        owner[1].words[worker_protocol.SLOT_INTERRUPT] = action.position
        owner[0].host.tell(worker_protocol.Interrupt(action.worker))
        guard.later(service, INTERRUPT_S, owner[0].key, _interrupt_again, service, action)


def _interrupt_again(service: NodeState, action: core.InterruptWorker) -> None:
    """Interrupt a job once more, ``INTERRUPT_S`` after the last time, if it still runs and has not noticed."""
    owner = service.owners.get(action.worker)
    if owner is not None:
        words = owner[1].words
        if words[worker_protocol.SLOT_INTERRUPT] == words[worker_protocol.SLOT_CLAIM] == action.position:
            interrupt(service, action)


def kill(service: NodeState, action: core.KillWorker) -> None:
    """Have a worker killed by its host, with all processes that it started; ``WorkerExited`` follows."""
    owner = service.owners.get(action.worker)
    if owner is not None:
        owner[0].host.tell(worker_protocol.Kill(action.worker))


def end(service: NodeState, action: core.EndWorker) -> None:
    """Tell a worker to end that has no jobs, and have it killed if it has not ended after ``CLEANUP_S``."""
    owner = service.owners.get(action.worker)
    if owner is not None:
        owner[1].end()
        guard.later(service, CLEANUP_S, owner[0].key, _end_slow_worker, service, action.worker)


def _end_slow_worker(service: NodeState, worker: WorkerId) -> None:
    """Kill a worker whose ``cleanup`` takes too long. One that is still in ``setup`` has the time for that first."""
    owner = service.owners.get(worker)
    if owner is None:
        return
    loaded, handle = owner
    if loaded.per_worker and not handle.is_set_up:
        guard.later(service, CLEANUP_S, loaded.key, _end_slow_worker, service, worker)
    else:
        kill(service, core.KillWorker(worker))


def unbuffer(service: NodeState, action: core.Unbuffer) -> None:
    """Have the job at ``action.position`` (number for a record and a job in it) print without a buffer.

    A client watches its output, and is to see it at once.
    """
    owner = service.owners.get(action.worker)
    if owner is not None:
        owner[1].words[worker_protocol.SLOT_UNBUFFER] = action.position
        owner[0].host.tell(worker_protocol.Unbuffer(action.worker))


def look(service: NodeState, action: core.Look) -> None:
    """Have output of running jobs read as soon as all actions are performed (``_handle_and_look``)."""
    service.looks.append(action)


def pass_on(service: NodeState, action: core.Pass) -> None:
    """Pass ``action.message`` to a worker: its provisional result has arrived at the client, or will not.

    The job that has sent the result waits for this.
    """
    owner = service.owners.get(action.worker)
    if owner is not None:
        with contextlib.suppress(OSError):
            owner[1].replies.send(_encode(action.message))


# Packets of workers.


def _on_replies(service: NodeState, handle: WorkerHandle) -> None:
    """Take in one packet of a worker whose socket is readable, and send at once what its client is told because of
    it. If there will be no more packets the socket is not watched any more."""
    if not _read_reply(service, handle):
        service.loop.remove_reader(handle.replies)
    owner = service.owners.get(handle.id)
    connection = service.clients.get(owner[0].client) if owner is not None else None
    if connection is not None:
        connection.flush()


def _read_reply(service: NodeState, handle: WorkerHandle) -> bool:
    """Take in one packet of a worker. A worker whose packet cannot be decoded is killed.

    Returns:
        False if there will be no more packets: the worker's end of the socket is closed.
    """
    try:
        size = handle.replies.recv_into(service.packet)
    except BlockingIOError:
        return True
    except OSError:
        return False
    if not size:
        return False
    packet = service.packet_view[:size]
    try:
        if packet[0] == worker_protocol.RAN:
            flags, executed, record, ended = worker_protocol.unpack_ran(packet)
            if service.bringing:
                _end_bringing(service, handle.id)
            service.handle(
                core.Ran(
                    handle.id,
                    record,
                    executed,
                    bool(flags & worker_protocol.LAST_OF_RECORD),
                    bool(flags & worker_protocol.RETIRING),
                    ended,
                )
            )
        elif packet[0] == worker_protocol.SET_UP:
            if handle.id in service.owners:
                _on_set_up(service, handle, worker_protocol.unpack_set_up(packet))
        elif packet[0] == worker_protocol.BROKEN:
            handle.failure = worker_protocol.unpack_set_up(packet)
        else:
            value = worker_protocol.provisional_decoder.decode(packet[1:])
            service.handle(
                core.ValueSent(
                    handle.id,
                    value.number,
                    value.attempt,
                    value.serial,
                    value.payload,
                    value.stream,
                    value.file,
                )
            )
    except worker_protocol.NONSENSE as error:
        logger.error("worker %d sent nonsense and is ended: %s", handle.id, error)
        kill(service, core.KillWorker(handle.id))
    return True


def _on_set_up(service: NodeState, handle: WorkerHandle, reason: str) -> None:
    """Take note that a worker has called ``setup``, or failed to.

    If ``setup`` fails before any worker of this host has called it with success, the computation is given up.
    Otherwise only this worker ends, with this reason; the computation goes on with others.

    Args:
        service: The node.
        handle: The worker.
        reason: Cause of the failure, in words; empty: ``setup`` was called with success.
    """
    loaded, _ = service.owners[handle.id]
    handle.is_set_up = True
    handle.failure = reason
    if not reason:
        loaded.was_set_up = True
    elif not loaded.was_set_up:
        give_up(service, loaded, reason)


def _end_late_worker(service: NodeState, handle: WorkerHandle) -> None:
    """Kill a worker whose ``setup`` takes too long, and has ignored the exception raised in it.

    The computation is given up, too, if no worker of this host has called ``setup`` with success.
    """
    if handle.id in service.owners and not handle.is_set_up:
        _on_set_up(service, handle, setup_is_late(service, service.owners[handle.id][0]))
        kill(service, core.KillWorker(handle.id))


def give_up(service: NodeState, loaded: Loaded, reason: str) -> None:
    """Give a computation up: kill its host, with its workers and all that ``setup`` has started.

    When the host is dead, the core is told ``reason`` (``HostFailed``), and starts no other host.
    """
    loaded.failure = reason
    loaded.host.kill()


def setup_is_late(service: NodeState, loaded: Loaded) -> str:
    """Returns the reason for giving up a computation whose ``setup`` takes too long."""
    return f"setup failed on {service.name}: it took longer than setup_timeout, {loaded.limit_s:g} s"


# Positions of workers.


def _schedule_tick(service: NodeState) -> None:
    """Have ``_on_tick`` called after ``TICK_S``, unless it will be anyway."""
    if service.tick is None:
        service.tick = guard.later(service, TICK_S, None, _on_tick, service)


def _on_tick(service: NodeState) -> None:
    """Tell the core the positions of workers with a record, and take in results that wait in arenas behind long jobs.

    The next tick follows after ``TICK_S`` if a worker still has a record.
    """
    service.tick = None
    owners = [
        service.owners[worker] for worker in service.machine.state.running if worker in service.owners
    ]
    positions = {
        handle.id: (handle.words[worker_protocol.SLOT_CLAIM], handle.started()) for _, handle in owners
    }
    for loaded, handle in owners:
        position = positions[handle.id][0]
        if handle.last_position == position and handle.words[worker_protocol.SLOT_COUNT]:
            guard.run(service, loaded.key, _take_waiting, service, handle, position)
        handle.last_position = position
    service.handle_and_look(core.Tick(positions))
    if service.machine.state.busy:
        _schedule_tick(service)


def _take_waiting(service: NodeState, handle: WorkerHandle, position: int) -> None:
    """Take in results that wait in a worker's arena (shared memory) while a long job of the same record runs.

    The worker sends them again with its record. The core knows by then that these jobs have ended, and drops them.

    Args:
        service: The node.
        handle: The worker.
        position: Position of the worker at this tick and at the last one.
    """
    packet = handle.committed()
    # A worker writes to the arena only after it has moved on: at the same position, the copy is whole.
    if packet and handle.words[worker_protocol.SLOT_CLAIM] == position:
        with contextlib.suppress(*worker_protocol.NONSENSE):
            _, _, _, ended = worker_protocol.unpack_ran(packet)
            service.handle(core.Ran(handle.id, 0, 0, False, False, ended))


# Ends of workers.


def on_worker_exited(service: NodeState, worker: WorkerId, reason: str) -> None:
    """Take in results and output that a dead worker left, tell the core its end, and remove its segments.

    The core decides what becomes of the job that the worker ran, and has jobs of records that it had not taken run
    elsewhere.

    Args:
        service: The node.
        worker: Number of the worker.
        reason: How its process has ended, in words. If the worker itself has said why, its own words count.
    """
    owner = service.owners.get(worker)
    if owner is None:
        return
    loaded, handle = owner
    guard.run(service, loaded.key, drain, service, handle)
    service.handle_and_look(core.WorkerDying(worker, handle.words[worker_protocol.SLOT_CLAIM]))
    service.handle(bury(service, handle, handle.failure or reason))
    collect(service, loaded)


def collect(service: NodeState, loaded: Loaded) -> None:
    """Remove segments that dead processes of a computation have left, but not those with results for the client.

    Called after a worker or the host of the computation has died.
    """
    held = segments_held(service.machine.state, loaded.key) | set(loaded.values.values())
    service.segments.collect(loaded.segments, held)


def drain(service: NodeState, handle: WorkerHandle) -> None:
    """Take in what a dead worker left: packets in its socket, then results in its arena (shared memory).

    Call it before ``bury``, which closes both.
    """
    service.loop.remove_reader(handle.replies)
    while service.has_reply(handle):
        if not _read_reply(service, handle):
            break
    packet = handle.committed()
    if packet:
        with contextlib.suppress(*worker_protocol.NONSENSE):
            _, _, _, ended = worker_protocol.unpack_ran(packet)
            service.handle(core.Ran(handle.id, 0, 0, False, True, ended))


def bury(service: NodeState, handle: WorkerHandle, reason: str) -> core.WorkerExited:
    """Forget a drained worker, and close its channels.

    Returns:
        Event that the caller tells the core. It has the numbers of the records that the worker has not taken, also of
        those that the core has offered while the worker was drained: the core runs their jobs elsewhere.
    """
    loaded, _ = service.owners.pop(handle.id)
    _end_bringing(service, handle.id)
    exited = core.WorkerExited(
        handle.id,
        reason,
        handle.words[worker_protocol.SLOT_CLAIM],
        handle.started(),
        service.clock.time(),
        handle.untaken(),
    )
    loaded.host.forget(handle)
    return exited
