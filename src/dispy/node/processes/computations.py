"""Life cycle of computations on a node: a host loads the code, calls ``setup``, ends, and is cleared away.

State of a computation: the tables of the service (``_prepared``, ``_loaded`` …) that have its key. Events and actions
that are not listed change nothing. "core:" is the event that the execution core is told.

================= ======================== ================= =============================================
State             Event                    Next state        Done
================= ======================== ================= =============================================
none, prepared    ``StartHost``            loaded            ``Load`` is sent to the spare or a new host
loaded, host dead ``StartHost``            loaded            ``Load`` is sent; directories are the same
any of these      ``StartHost`` fails      unchanged         core: ``HostFailed`` (``has_died``)
loaded            host says ``Loaded``     loaded            core: ``HostReady``
loaded            host says ``LoadFailed`` leaving           core: ``HostFailed``; the host is told to end
loaded            host dies                loaded, host dead core: ``HostFailed``, with ends of workers
loaded, host dead the core gives it up     dropping          directories are removed
prepared          ``StopHost``             dropping          its files are not fetched any more
loaded            ``StopHost``             leaving           the host is told to end
loaded, host dead ``StopHost``             dropping          directories are removed
leaving           host has ended           dropping          strays of the host are killed
dropping          no thread writes there   none              the working directory is removed
leaving, dropping start or ``StageFiles``  unchanged         the action waits until the state is none
================= ======================== ================= =============================================

A host is started ahead, as a spare, so that the next computation finds one that has done its imports; on a program's
own node from the program's second computation on.
"""

from __future__ import annotations

import logging
import signal
from functools import partial
from pathlib import Path
from typing import assert_never

from dispy.core import execution as core
from dispy.core.execution.ids import Key, WorkerId
from dispy.node import guard, reporting, tracing
from dispy.node.machine.accounts import Account
from dispy.node.processes.hosts import HostProcess
from dispy.node.processes.workers import (
    CLEANUP_S,
    SETUP_GRACE_S,
    bury,
    collect,
    drain,
    give_up,
    on_worker_exited,
    setup_is_late,
)
from dispy.node.staging.working_directories import (
    drop_brought,
    drop_places,
    drop_prepared,
    drop_work,
    open_work,
    place_name,
)
from dispy.node.state import Loaded, NodeState
from dispy.protocol import node
from dispy.protocol import worker as worker_protocol
from dispy.system.addresses import outward
from dispy.system.escaping import block, line, lines
from dispy.system.processes import describe_exit

logger = logging.getLogger("dispy.node")

REAP_S = 0.05
"""Seconds between two checks whether a host that was told to end has ended."""

SPARE_S = 2.0
"""Seconds from the start of a computation to the start of the spare host for the next one. That start takes 0.1 s of
a CPU, which the first jobs want, too. A computation that comes earlier waits for its own host's imports."""


def start_host(service: NodeState, action: core.StartHost) -> None:
    """Have a host load a computation: now, or after ``action.delay_s``, which the core sets for a retry.

    Nothing is done while the node stops.
    """
    if service.stopped.is_set():
        # All hosts have been told to end; a new one would be left over.
        return
    if action.delay_s:
        guard.later(service, action.delay_s, action.key, _restart_host, service, action)
    else:
        _load(service, action)


def _restart_host(service: NodeState, action: core.StartHost) -> None:
    """Load a computation after the delay that the core has set, as its host has died or could not be started.

    Nothing is done if the computation has left meanwhile or was closed and opened again, or if the node stops.
    """
    computation = service.machine.state.computations.get(action.key)
    if computation is not None and computation.spec is action.compute and not service.stopped.is_set():
        _load(service, action)


def _load(service: NodeState, action: core.StartHost) -> None:
    """Have a host load a computation, once an earlier generation of it on this node is cleared away.

    If there is no process, memory or directory for it, the core is told ``HostFailed``.
    """
    if action.key in service.leaving or action.key in service.dropping:
        # The computation needs its directory, and needs it empty.
        service.waiting[action.key] = action
        return
    before = service.loaded.get(action.key)
    had_work = before is not None or action.key in service.prepared
    account = service.accounts.of(action.compute.owner or action.key[0])
    host = work = segments = None
    try:
        work = open_work(service, action.key, action.compute, action)
        if work is None:
            return  # the action comes again
        host = _take_spare(service, account) or _new_host(service, account)
        segments = service.segments.directories.open(place_name(action.key), account)
        code_path = service.segments.put_code(segments, action.compute.code)
    except (OSError, ValueError) as error:
        if segments is not None and before is None:
            service.segments.directories.drop(segments)
        if work is not None and not had_work:
            drop_work(service, action.key, work)
        _fail_start(service, action.key, host, error)
        return
    loaded = Loaded(action.key, host, work, segments, action.compute)
    if before is not None:
        loaded.brought, loaded.stages = before.brought, before.stages
        loaded.requests = before.requests
    loaded.computation = service.machine.state.computations.get(action.key)
    loaded.since = service.clock.monotonic()
    service.loaded[action.key] = loaded
    service.prepared.pop(action.key, None)
    guard.watch(service, host.output, action.key, _on_output, service, host)
    guard.watch(service, host.control, action.key, _on_host_readable, service, action.key, loaded)
    logger.debug("host %d loads computation %s", host.process.pid, line(action.compute.name))
    _tell_load(service, loaded, action.compute, code_path)
    if not service.settings.owner or service.hosts_started > 1:
        # The next computation finds a host that has done its imports already. For a program's own node there is none
        # before the second one: most programs have one cluster, and a host takes 0.2 s of CPU time and 25 MB.
        guard.later(service, SPARE_S, None, _start_spare, service)


def _new_host(service: NodeState, account: Account | None) -> HostProcess:
    """Start a host, and count it (``NodeState.new_host``)."""
    host = service.new_host(account)
    service.hosts_started += 1
    return host


def _take_spare(service: NodeState, account: Account | None) -> HostProcess | None:
    """Returns the spare host, which is then no spare any more; None if none of this account lives, so that one has to
    be started."""
    if service.spare is None or service.spare.account != account:
        return None
    spare, service.spare = service.spare, None
    service.loop.remove_reader(spare.control)
    service.loop.remove_reader(spare.output)
    return spare if not spare.is_dead else None


def _fail_start(service: NodeState, key: Key, host: HostProcess | None, error: Exception) -> None:
    """Clear away a start that has failed, and tell the core ``HostFailed`` from the loop's next turn.

    The core, which is in the middle of its actions now, then decides whether another host is tried after a delay.

    Args:
        service: The node.
        key: The computation.
        host: Host that was to load it, which is killed; None: none could be started.
        error: Cause, for the client.
    """
    if host is not None:
        host.kill()
        host.process.wait()
        close_host(service, host)
    reason = f"node {service.name} cannot start a process for the computation: {error}"
    # has_died: the core tries again, as memory or descriptors that are short now may be there again in a moment.
    guard.soon(service, key, drop_failed, service, core.HostFailed(key, reason, has_died=True))
    guard.later(service, SPARE_S, None, _start_spare, service)


def _tell_load(service: NodeState, loaded: Loaded, compute: node.Compute, code_path: Path) -> None:
    """Send ``Load`` to a computation's host: paths, names and limits. ``code_path``: file with the pickled code."""
    loaded.host.tell(
        worker_protocol.Load(
            name=compute.name,
            code_path=str(code_path),
            work_path=str(loaded.work),
            segment_path=str(loaded.segments),
            node_name=service.name,
            node_ip_addr=outward(service.entrance.address[0]),
            isolate=compute.isolate,
            free_path=service.segments.free,
            message_timeout_s=compute.message_timeout_s,
            setup_per_worker=loaded.per_worker,
            setup_timeout_s=loaded.limit_s,
            file_max=service.settings.max_file_size,
            disk_path=service.segments.directories.disk_path(loaded.segments),
        )
    )


# Messages of hosts.


def _on_host_readable(service: NodeState, key: Key, loaded: Loaded) -> None:
    """Read messages that a host has sent. A host that is gone, or has sent what is no message, is buried
    (``bury_host``)."""
    if loaded.host.read(partial(_on_host_message, service, key, loaded)):
        return
    service.loop.remove_reader(loaded.host.control)
    bury_host(service, key, loaded)


def _on_host_message(
    service: NodeState, key: Key, loaded: Loaded, message: worker_protocol.FromHost
) -> None:
    """Take in a message of a computation's host.

    The table of this module has what follows from ``Loaded`` and ``LoadFailed``. ``SettingUp`` starts the time limit
    of ``setup``, ``WorkerStarted`` brings a worker's pid, ``WorkerExited`` a worker's end (``on_worker_exited``).
    """
    if service.entrance.tracer is not None:
        tracing.host_message(loaded.host, message)
    match message:
        case worker_protocol.SettingUp():
            guard.later(service, loaded.limit_s + SETUP_GRACE_S, key, _end_late_setup, service, loaded)
        case worker_protocol.Loaded(warning):
            loaded.is_loaded = True
            if warning and not service.settings.owner:  # a private node's program warns its user itself
                logger.warning("%s", block(warning))
            reporting.on_loaded(service, loaded)
            service.handle(core.HostReady(key, warning))
        case worker_protocol.LoadFailed(reason):
            if loaded.computation is not None:
                reporting.on_failed(service, loaded.computation, reason)
                loaded.computation = None
            service.handle(core.HostFailed(key, reason))
            stop_host(service, core.StopHost(key))
        case worker_protocol.WorkerStarted(worker, pid):
            if worker in loaded.host.workers:
                loaded.host.workers[WorkerId(worker)].pid = pid
        case worker_protocol.WorkerExited(worker, code, reason):
            # Only of the host's own workers: a job can make its host send anything.
            if worker in loaded.host.workers:
                reason = reason or f"the job's process ended with {describe_exit(code)}"
                on_worker_exited(service, WorkerId(worker), reason)
        case _:
            assert_never(message)


def _end_late_setup(service: NodeState, loaded: Loaded) -> None:
    """Give a computation up if its host's ``setup`` still runs: it has ignored the exception for being late.

    Called ``SETUP_GRACE_S`` after the time for ``setup`` is over.
    """
    if not loaded.is_loaded:
        give_up(service, loaded, setup_is_late(service, loaded))


def _on_output(service: NodeState, host: HostProcess) -> bool:
    """Print whole lines that a host, or code that it loads, has printed. Called when its output pipe is readable.

    Returns:
        True if something was printed, so that there may be more. False if nothing is there, or no line is whole.
    """
    said = host.read_output()
    if said is None:
        service.loop.remove_reader(host.output)
    elif said:
        service.say(lines(said))
    return bool(said)


def _print_rest(service: NodeState, host: HostProcess) -> None:
    """Print all that is left in the output pipe of a host that has ended."""
    while _on_output(service, host):
        pass


# Ends of hosts.


def stop_host(service: NodeState, action: core.StopHost) -> None:
    """End a computation: its host is told to end, or killed after ``CLEANUP_S``, and its directories are removed."""
    service.waiting.pop(action.key, None)
    drop_prepared(service, action.key)
    loaded = service.loaded.get(action.key)
    if loaded is None:
        return
    reporting.on_left(service, loaded)
    drop_brought(service, loaded)
    host = loaded.host
    if host.is_dead:
        drop_places(service, action.key)
        return
    service.loop.remove_reader(host.control)
    for handle in list(host.workers.values()):
        service.loop.remove_reader(handle.replies)
        service.owners.pop(handle.id, None)
        host.forget(handle)
    host.end()
    service.ending.append(host)
    service.segments.directories.drop(loaded.segments)
    # The working directory stays until the host has ended: ``cleanup`` may use it.
    service.leaving[action.key] = service.loaded.pop(action.key)
    deadline = service.clock.monotonic() + CLEANUP_S
    guard.later(service, REAP_S, action.key, _reap_host, service, host, deadline, action.key)


def _reap_host(service: NodeState, host: HostProcess, deadline: float, key: Key) -> None:
    """Clear away a host that was told to end, if it has ended; otherwise look again after ``REAP_S``.

    Args:
        service: The node.
        host: The host.
        deadline: Time after which it is killed (monotonic, seconds).
        key: Its computation.
    """
    if host.process.poll() is None:
        if service.clock.monotonic() > deadline:
            host.kill()
        guard.later(service, REAP_S, key, _reap_host, service, host, deadline, key)
        return
    leaving = service.leaving.get(key)
    if leaving is not None and leaving.host is host:
        del service.leaving[key]
    if host in service.ending:
        service.ending.remove(host)
    tracing.host_ended(host)
    close_host(service, host)
    service.strays.kill(own_children(service))
    if leaving is not None and leaving.host is host:
        drop_work(service, key, leaving.work)


def bury_host(service: NodeState, key: Key, loaded: Loaded) -> None:
    """Bury a host that is gone: kill its workers and their processes, and take in their last results and output.

    The core is told ``HostFailed`` with the ends of the workers: it has another host started, or gives the
    computation up, and decides what becomes of the workers' jobs.
    """
    was_ended = loaded.host.kill()
    loaded.host.process.wait()
    loaded.host.kill_workers()
    tracing.host_ended(loaded.host)
    service.strays.kill(own_children(service))
    reason = _why_dead(service, loaded, was_ended)
    for handle in list(loaded.host.workers.values()):
        guard.run(service, key, drain, service, handle)
        service.handle_and_look(core.WorkerDying(handle.id, handle.words[worker_protocol.SLOT_CLAIM]))
    exits = [bury(service, handle, reason) for handle in list(loaded.host.workers.values())]
    close_host(service, loaded.host)
    loaded.host.is_dead = True
    failed = core.HostFailed(key, loaded.failure or reason, exits, has_died=not loaded.failure)
    drop_failed(service, failed)
    if key in service.loaded:
        collect(service, loaded)


def _why_dead(service: NodeState, loaded: Loaded, was_ended: bool) -> str:
    """Returns words on how a host has ended, for the client; with the host's last output where that tells why.

    Args:
        service: The node.
        loaded: The computation.
        was_ended: True if the node killed the host, because its connection was closed.
    """
    code = loaded.host.process.returncode
    if was_ended:
        reason = "the computation's host closed its connection to the node, and was ended"
    else:
        reason = f"the computation's host ended with {describe_exit(code)}"
    if not loaded.is_loaded:
        reason += ", while it loaded the code or ran setup"
    elif code <= 0:
        # The host has made no error: its last output is of jobs before, and does not tell why it has ended.
        return reason
    guard.run(service, None, _print_rest, service, loaded.host)
    words = loaded.host.last_words() if code != -signal.SIGKILL else ""
    return f"{reason}; the last that it said:\n{words}" if words else reason


def drop_failed(service: NodeState, event: core.HostFailed) -> None:
    """Tell the core that a host has failed. If the core gives the computation up, log it and drop its directories.

    Otherwise the directories stay for the next host.
    """
    computation = service.machine.state.computations.get(event.key)
    service.handle(event)
    loaded = service.loaded.get(event.key)
    # The directories stay if another host is to be started, also after a delay: jobs that wait need what is there.
    is_over = event.key not in service.machine.state.computations
    if is_over:
        if computation is not None:
            reporting.on_failed(service, computation, event.reason)
        if loaded is not None:
            loaded.computation = None
        drop_prepared(service, event.key)
    if loaded is not None and loaded.host.is_dead and is_over:
        drop_places(service, event.key)


def close_host(service: NodeState, host: HostProcess) -> None:
    """Print the last output of a host that has ended, and close its channels and those of its workers."""
    if host.output >= 0:
        guard.run(service, None, _print_rest, service, host)
        service.loop.remove_reader(host.output)
    host.close()


def living_hosts(service: NodeState) -> list[HostProcess]:
    """Returns the hosts of computations that are not known to be dead.

    Not among them are the spare host (``_spare``) and hosts that were told to end (``_ending``).
    """
    return [loaded.host for loaded in service.loaded.values() if not loaded.host.is_dead]


def own_children(service: NodeState) -> set[int]:
    """Returns the pids of all hosts that may live: these, and what is below them, are no strays."""
    hosts = living_hosts(service) + service.ending
    if service.spare is not None:
        hosts.append(service.spare)
    return {host.process.pid for host in hosts}


# The spare host.


def _start_spare(service: NodeState) -> None:
    """Start a spare host, unless there is one or the node stops.

    A failure is only logged: the next computation then starts a host of its own.
    """
    if service.spare is not None or service.stopped.is_set():
        return
    try:
        service.spare = _new_host(service, service.accounts.next())
        logger.debug("host %d is started ahead", service.spare.process.pid)
    except OSError as error:
        # The next computation tries again; if that fails, its program is told.
        logger.warning("no process can be started ahead: %s", error)
        return
    watch_spare(service)


def watch_spare(service: NodeState) -> None:
    """Have the loop notice when the spare host, if there is one, ends or prints something.

    Called when the node starts, and for each spare host that is started later.
    """
    spare = service.spare
    if spare is not None:
        guard.watch(service, spare.control, None, _on_spare_readable, service, spare)
        guard.watch(service, spare.output, None, _on_output, service, spare)


def _on_spare_readable(service: NodeState, spare: HostProcess) -> None:
    """Clear away a spare host that has died. A spare host sends no messages, so a readable socket means its death.

    No other one is started now: the next computation starts its own host, and a new spare one ``SPARE_S`` later.
    """
    service.loop.remove_reader(spare.control)
    spare.is_dead = True
    spare.kill()
    spare.process.wait()
    close_host(service, spare)
    if service.spare is spare:
        service.spare = None
    logger.warning("a spare host ended with %s", describe_exit(spare.process.returncode))
