"""The working directories of computations, and the files put there: for all jobs, for single jobs, and sent later."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from dispy.core import execution as core
from dispy.core.execution.ids import ClientId, Key, WorkerId
from dispy.core.staging import SupplierId
from dispy.files.fetching.wanted_files import Stage
from dispy.files.store import Store
from dispy.net.connection import Connection
from dispy.node.processes.workers import give
from dispy.node.results.delivery import release, send_to
from dispy.node.staging.job_files import Brought, Work
from dispy.node.state import Loaded, NodeState, Prepared
from dispy.protocol import node
from dispy.protocol import worker as worker_protocol


def place_name(key: Key) -> str:
    """Returns the name of the directories of a computation: part of the client's id, and its number there.

    Clients compute this name, too, so it must not change.
    """
    return f"{key[0].hex()[:8]}-{key[1]}"


def name_of_owner(owner: bytes, address: str) -> str:
    """Returns the name of the directory that an owner (``Compute.owner``) has for its named working directories.

    Of one that has named no owner: the client's ``address``. Several users may come from one address, as those of one
    scheduler do. The name tells nothing of the owner's bytes, which are secret.
    """
    return hashlib.sha256(b"dispy dest_path\0" + owner).hexdigest()[:16] if owner else address


def store_of(service: NodeState, client: ClientId, owner: bytes) -> Store:
    """Returns the store with the files of an owner (``Compute.owner``); of the client itself if it has named none."""
    account = service.accounts.of(owner or client)
    return service.stores.of(client, owner, account.name if account is not None else "")


def open_work(
    service: NodeState, key: Key, compute: node.Compute, action: core.StartHost | core.StageFiles
) -> Path | None:
    """Returns the working directory of a computation: the one that it has, or a new one.

    None: a thread opens it, as another account does the work; the action is performed again when it is open.

    Raises:
        OSError: The directory cannot be made, or the one around it is open to other users.
        ValueError: The name that the client gave leads elsewhere.
    """
    before = service.loaded.get(key)
    if before is not None:
        return before.work
    prepared = service.prepared.get(key)
    if prepared is not None:
        return prepared.work
    opened = service.opened.pop(key, None)
    if isinstance(opened, Exception):
        raise opened
    if opened is not None:
        return opened
    name, account = place_name(key), service.accounts.of(compute.owner or key[0])
    is_kept = compute.keep and not service.settings.force_cleanup
    if not compute.dest_path and not is_kept:
        return service.workspace.open(name, account)
    connection = service.clients.get(key[0])
    whose = name_of_owner(compute.owner, connection.peer_address if connection is not None else "")
    name = compute.dest_path or name
    if account is None:
        return service.workspace.open_named(whose, name, is_kept=is_kept)
    service.dropping.add(key)
    service.waiting[key] = action
    service.with_files(
        account,
        lambda: service.workspace.open_named(whose, name, account, is_kept=is_kept),
        partial(_on_opened, service, key),
    )
    return None


def _on_opened(service: NodeState, key: Key, result: Path | Exception) -> None:
    """Perform the action that has waited for a working directory; give the directory up if there is none any more.

    Args:
        service: The node.
        key: The computation.
        result: The directory, or the reason why there is none.
    """
    service.dropping.discard(key)
    waiting = service.waiting.pop(key, None)
    if waiting is not None and not service.stopped.is_set():
        service.opened[key] = result
        service.perform(waiting)
        result = service.opened.pop(key, OSError())
    if isinstance(result, Path):
        drop_work(service, key, result)


def drop_work(service: NodeState, key: Key, work: Path) -> None:
    """Remove a working directory that no computation uses, once no thread puts files there.

    Until then the computation's key is in ``_dropping``: if the computation comes back, its files wait for that.
    """
    service.dropping.add(key)
    service.stager.leave(work, partial(_remove_work, service, key, work))


def _remove_work(service: NodeState, key: Key, work: Path) -> None:
    """Remove a working directory, unless others use or keep it."""
    service.with_files(
        service.workspace.account_at(work),
        partial(service.workspace.leave, work),
        partial(_on_removed, service, key),
    )


def _on_removed(service: NodeState, key: Key, _: object) -> None:
    """Perform the action of the core that has waited until the directory of the computation's earlier generation is
    gone, if there is one."""
    service.dropping.discard(key)
    waiting = service.waiting.pop(key, None)
    if waiting is not None and not service.stopped.is_set():
        service.perform(waiting)


def drop_places(service: NodeState, key: Key) -> None:
    """Remove the working directory and the segments of a computation that has ended, and whose host is dead.

    A computation that is not in ``_loaded`` any more is fine.
    """
    loaded = service.loaded.pop(key, None)
    if loaded is not None:
        drop_brought(service, loaded)
        service.segments.directories.drop(loaded.segments)
        drop_work(service, key, loaded.work)


# Files of all jobs.


def stage_files(service: NodeState, action: core.StageFiles) -> None:
    """Put the files of a computation into its working directory; ``FilesReady`` or ``FilesFailed`` follows.

    If the directory of an earlier generation of it on this node is still being removed, the action waits for that.
    """
    key, compute = action.key, action.compute
    fault = _why_too_many(service, key[0], 0)
    if fault:
        service.loop.call_soon(service.handle, core.FilesFailed(key, compute.life, fault))
        return
    if key in service.leaving or key in service.dropping:
        service.waiting[key] = action
        return
    try:
        work = open_work(service, key, compute, action)
        if work is None:
            return
    except (OSError, ValueError) as error:
        reason = f"node {service.name} has no working directory for the computation: {error}"
        service.loop.call_soon(service.handle, core.FilesFailed(key, compute.life, reason))
        return
    done = partial(_on_staged, service, key, compute.life)
    store = store_of(service, key[0], compute.owner)
    stage = Stage(store, SupplierId(key[0]), key[1], compute.files, work, done)
    service.prepared[key] = Prepared(work, stage)
    service.stager.stage(stage)


def _why_too_many(service: NodeState, client: ClientId, more: int) -> str:
    """Returns why no more lists of files are kept for a client; empty if they are.

    A list takes memory. At more than ``settings.listed_max`` files in all lists of a client, new ones are refused.

    Args:
        service: The service of the node.
        client: The client that has sent the lists.
        more: Number of files to be listed besides those of its computations and jobs here.
    """
    count = more
    for key, computation in service.machine.state.computations.items():
        if key[0] == client:
            count += len(computation.spec.files)
            loaded = service.loaded.get(key)
            if loaded is not None:
                count += loaded.brought.count if loaded.brought is not None else 0
                sent = [loaded.stages.get(-request) for request in loaded.requests]
                count += sum(len(stage.entries) for stage in sent if stage is not None)
    if count <= service.settings.listed_max:
        return ""
    return (
        f"node {service.name} would have {count} files of this program, and takes {service.settings.listed_max}; "
        "close other clusters, or send archives that are unpacked there"
    )


def _on_staged(service: NodeState, key: Key, life: int, reason: str) -> None:
    """Tell the core that the files of a computation are there, or, with a reason, give its directory up."""
    if not reason:
        service.handle(core.FilesReady(key, life))
        return
    drop_prepared(service, key)
    service.handle(core.FilesFailed(key, life, f"node {service.name}: {reason}"))


def drop_prepared(service: NodeState, key: Key) -> None:
    """Give up the files on their way and the working directory of a computation without a host, if there are any.

    Called when a computation is closed, or cannot run here.
    """
    prepared = service.prepared.pop(key, None)
    if prepared is not None:
        service.stager.drop(prepared.stage)
        drop_work(service, key, prepared.work)


# Files of single jobs.


def stage_job(service: NodeState, action: core.StageJob) -> None:
    """Fetch the files of a job into the store; ``JobFilesReady`` follows, with a reason if the files cannot be had.

    The files are put into the working directory when the job starts.
    """
    key, number = action.key, action.number
    loaded = service.loaded.get(key)
    if loaded is None:
        reason = "its computation is not here any more"
        service.loop.call_soon(service.handle, core.JobFilesReady(key, number, action.attempt, reason))
        return
    brought = _brought(service, loaded)
    forget_brought(service, key)
    brought.note(number, action.files)
    fault = _why_too_many(service, key[0], 0)
    if fault:
        brought.forget(number)
        service.loop.call_soon(service.handle, core.JobFilesReady(key, number, action.attempt, fault))
        return

    def done(reason: str) -> None:
        loaded.stages.pop(number, None)
        if not reason and len(stage.entries) < len(action.files):
            brought.note(number, stage.entries)
        if reason:
            reason = f"node {service.name}: {reason}"
        service.handle(core.JobFilesReady(key, number, action.attempt, reason))

    store = store_of(service, key[0], loaded.owner)
    stage = Stage(store, SupplierId(key[0]), key[1], action.files, None, done, around=loaded.work)
    loaded.stages[number] = service.stager.stage(stage)


def _brought(service: NodeState, loaded: Loaded) -> Brought:
    """Returns the object that keeps the files of a computation's jobs apart (``job_files``); made on first use."""
    if loaded.brought is None:
        supplier, computation = SupplierId(loaded.key[0]), loaded.key[1]
        store = store_of(service, loaded.client, loaded.owner)
        loaded.brought = Brought(
            partial(_in_directory, service, loaded),
            lambda files, done: service.stager.stage(
                Stage(store, supplier, computation, files, loaded.work, done)
            ),
            service.stager.drop,
            partial(give, service),
            partial(_fail_offer, service),
        )
    return loaded.brought


def _in_directory(service: NodeState, loaded: Loaded, work: Work, then: Callable[[Any], None]) -> None:
    """Have something done in the working directory of a computation, and call ``then`` with the result, or with the
    exception that was raised."""

    def do() -> Any:
        with service.workspace.tree(loaded.work) as directory:
            return work(directory)

    service.with_files(service.workspace.account_at(loaded.work), do, then)


def _fail_offer(service: NodeState, worker: WorkerId, record: worker_protocol.Record, reason: str) -> None:
    """End the one job of a record that was not given to its worker: it counts as terminated, without having run.

    Args:
        service: The service of the node.
        worker: The worker that was to run the job.
        record: The record; it has one job.
        reason: Why its files are not there; the client is told.
    """
    job = record.jobs[0]
    now = service.clock.time()
    ended = node.Ended(job.number, job.attempt, node.TERMINATED, now, now, b"", reason=reason, ran=False)
    owner = service.owners.get(worker)
    if owner is not None and type(job.where) is node.Segment:
        release(service, core.Release(owner[0].key, [job.where.number]))
    service.handle(core.Ran(worker, record.record, 1, True, False, [ended]))


def unstage_jobs(service: NodeState, action: core.UnstageJobs) -> None:
    """Stop fetching the files of jobs that have left the node, and forget their lists of files."""
    loaded = service.loaded.get(action.key)
    if loaded is None:
        return
    for number in action.numbers:
        if loaded.brought is not None:
            loaded.brought.forget(number)
        stage = loaded.stages.pop(number, None)
        if stage is not None:
            service.stager.drop(stage)


def forget_brought(service: NodeState, key: Key) -> None:
    """Forget the lists of files of a computation's jobs that have ended, as ``settings.listed_max`` limits lists."""
    loaded = service.loaded.get(key)
    computation = service.machine.state.computations.get(key)
    if loaded is None or loaded.brought is None or computation is None:
        return
    for number in [number for number in loaded.brought.entries if number not in computation.open]:
        loaded.brought.forget(number)


def drop_brought(service: NodeState, loaded: Loaded) -> None:
    """Give up all files on their way for a computation that leaves, and remove files that its jobs have brought."""
    for stage in loaded.stages.values():
        service.stager.drop(stage)
    loaded.stages.clear()
    brought, loaded.brought = loaded.brought, None
    if brought is not None:
        brought.close()
        service.bringing = {worker: b for worker, b in service.bringing.items() if b is not brought}


# Files that are sent later.


def place_files(
    service: NodeState, connection: Connection, client: ClientId, message: node.PlaceFiles
) -> None:
    """Put files that a client sends later into a working directory, in which jobs may run, to stay there.

    ``FilesPlaced`` answers when the files are there, or with the reason why they cannot be placed. No answer is sent
    if the computation is not here. A request that is under way already is not started again.
    """
    key = (client, message.computation)
    loaded = service.loaded.get(key)
    # A computation that is not here is sent again if it is wanted, and this message after it.
    if loaded is None or message.request in loaded.requests:
        return
    fault = _why_too_many(service, client, len(message.files))
    if fault:
        send_to(service, client, node.FilesPlaced(message.computation, message.request, fault))
        return
    loaded.requests.add(message.request)

    def fetched(reason: str) -> None:
        loaded.stages.pop(-message.request, None)
        # Another host may hold it by now.
        current = service.loaded.get(key)
        if reason or current is None:
            done(reason)
        else:
            _brought(service, current).put(stage.entries, done)

    def done(reason: str) -> None:
        loaded.requests.discard(message.request)
        if reason:
            reason = f"node {service.name}: {reason}"
        send_to(service, client, node.FilesPlaced(message.computation, message.request, reason))

    store = store_of(service, client, loaded.owner)
    stage = Stage(
        store, SupplierId(client), message.computation, message.files, None, fetched, around=loaded.work
    )
    loaded.stages[-message.request] = service.stager.stage(stage)
