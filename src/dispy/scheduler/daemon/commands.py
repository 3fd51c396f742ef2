"""Commands of programs, given to the core. A program reaches only its own clusters, by its own numbers.

Commands that name a cluster which is not open are dropped: it was closed here before the program knew.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from dispy.core import scheduling as core
from dispy.core.scheduling.ids import NodeId
from dispy.core.scheduling.lines.clients import room_in_queue
from dispy.errors import RemoteProtocolError
from dispy.protocol import node as node_messages
from dispy.protocol import shared
from dispy.protocol.files import FileEntry, check_number
from dispy.protocol.limits import BATCH_MAX, OBJECTS_MAX, OPEN_JOBS_MAX
from dispy.protocol.node import CANCELLED, TERMINATED
from dispy.scheduler.daemon import windows
from dispy.scheduler.daemon.needed_files import note_sent
from dispy.scheduler.daemon.programs import Program, SharedCluster
from dispy.system.addresses import can_be_dialed

if TYPE_CHECKING:
    from dispy.protocol.views import NodeInfo
    from dispy.scheduler.daemon.news import News
    from dispy.scheduler.daemon.node_search import NodeSearch
    from dispy.scheduler.service import SchedulerService

CLUSTERS_MAX = BATCH_MAX
"""Open clusters of all programs: a node takes so many of a scheduler after a reconnect (``node.Reconcile``)."""

_HELD = f"its program has more than {windows.HELD_MAX >> 30} GiB of code and objects here; close clusters"
"""Reason that a program is given for a cluster that is refused, or closed."""

_LISTS: dict[type[Any], str] = {
    shared.Submit: "jobs",
    shared.CancelJobs: "numbers",
    shared.WatchJobs: "numbers",
    shared.Discover: "wishes",
    shared.OpenCluster: "wishes",
}
"""Attribute with the list of a command, each item of which may cause news or work, by its type."""

NO_MEMORY = "the scheduler has not enough memory for the job's arguments"


class Hub(Protocol):
    """The hub, as commands see it (``hub.Hub``)."""

    is_closing: bool
    is_cooperative: bool
    is_strict: bool
    cleans_nodes: bool
    on_last_closed: Callable[[], None] | None

    def count_clusters(self) -> int: ...
    @property
    def service(self) -> SchedulerService: ...
    @property
    def search(self) -> NodeSearch: ...
    def new_wire(self) -> int: ...
    def find(self, node_id: NodeId) -> NodeInfo | None: ...
    @property
    def news(self) -> News: ...


def perform(hub: Hub, program: Program, command: Any) -> None:
    """Do what a command says.

    Raises:
        RemoteProtocolError: The program breaks the rules: its connection must end.
    """
    windows.check_heard(program, len(getattr(command, _LISTS.get(type(command), ""), ())))
    if type(command) is shared.OpenCluster:
        _open(hub, program, command)
        return
    cluster = program.clusters.get(command.cluster)
    if cluster is not None:
        _HANDLERS[type(command)](hub, program, cluster, command)
    elif type(command) is shared.CloseCluster:
        # It may never have been opened, as its code waits.
        program.channel.forget_cluster(command.cluster)


def _open(hub: Hub, program: Program, command: shared.OpenCluster) -> None:
    number = command.cluster
    if not number or number in program.clusters or command.compute.computation != number:
        raise RemoteProtocolError(f"cluster {number} is opened twice, or has two numbers")
    _check_files(command.compute.files)
    _check_wishes(command.wishes)
    reason = _why_refused(hub, program, command)
    cluster = SharedCluster(number, command.compute.name, command.wishes)
    if not reason:
        held = len(command.compute.code) + windows.files_size(command.compute.files)
        reason = "" if windows.hold(program, cluster, held) else _HELD
    if reason:
        program.channel.send(shared.Refused(0, number, reason))
        return
    compute = command.compute
    # Without an owner's key the files are the program's alone, whatever other programs there are.
    owner = compute.owner or hashlib.sha256(b"program" + program.identity).digest()
    compute = msgspec.structs.replace(compute, computation=hub.new_wire(), owner=owner, stream=0, life=0)
    if hub.cleans_nodes:
        compute.keep = False
    program.clusters[number] = cluster
    is_alone = hub.is_strict and compute.exclusive
    if is_alone:
        # Nodes would have exclusive clusters wait for each other in the order in which each node has got them.
        compute.exclusive = False
    hub.service.handle(core.AddComputation(program.client, number, compute, command.is_reentrant, is_alone))
    program.files.want(number, compute.files)
    hub.news.offer_all(program, cluster)
    hub.search.look(program)


def _why_refused(hub: Hub, program: Program, command: shared.OpenCluster) -> str:
    """Returns in words why a cluster cannot be opened; empty: it can."""
    if command.compute.code is None:
        return "the scheduler has not enough memory for its code"
    if hub.is_closing:
        return "the scheduler is closing"
    if len(program.clusters) >= windows.CLUSTERS_MAX or hub.count_clusters() >= CLUSTERS_MAX:
        most = f"{windows.CLUSTERS_MAX} of a program, {CLUSTERS_MAX} in all"
        return f"too many clusters are open, of {most}; close some"
    if _count_wishes(program, command.cluster) + len(command.wishes) > windows.WISHES_MAX:
        return f"the program's clusters name more than {windows.WISHES_MAX} nodes; use a pattern"
    return ""


def _count_wishes(program: Program, but: int) -> int:
    """Returns the number of nodes that a program's clusters name, but for one cluster."""
    return sum([len(each.wishes) for each in program.clusters.values() if each.number != but])


def _check_files(files: list[FileEntry]) -> None:
    """Check that a list of files fits into a message to a node, which is longer than that of the program.

    Raises:
        RemoteProtocolError: The list is too long.
    """
    try:
        check_number(files)
    except ValueError as error:
        raise RemoteProtocolError(str(error)) from error


def _check_wishes(wishes: list[shared.Wish]) -> None:
    """Check that nodes which are named by address can be dialed.

    Raises:
        RemoteProtocolError: One cannot be, as no honest program would name it.
    """
    for wish in wishes:
        if wish.ip_addr and not can_be_dialed(wish.ip_addr, wish.host):
            raise RemoteProtocolError(
                f"{wish.ip_addr[:100]!r} of {wish.host[:100]!r} is no address of a node"
            )


def close(hub: Hub, program: Program, cluster: SharedCluster) -> None:
    """Close a cluster: nothing more is told of it."""
    program.channel.forget_cluster(cluster.number)
    windows.close(program, cluster)
    hub.service.handle(core.CloseComputation(program.client, cluster.number))
    program.clusters.pop(cluster.number, None)
    program.files.on_closed(cluster.number)
    if hub.is_closing and hub.on_last_closed is not None and not hub.count_clusters():
        hub.on_last_closed()


def _close(hub: Hub, program: Program, cluster: SharedCluster, command: shared.CloseCluster) -> None:
    close(hub, program, cluster)


def _submit(hub: Hub, program: Program, cluster: SharedCluster, command: shared.Submit) -> None:
    jobs = command.jobs
    numbers = [job.number for job in jobs]
    if not cluster.open.keys().isdisjoint(numbers) or len(set(numbers)) < len(numbers):
        raise RemoteProtocolError(f"a job of cluster {cluster.number} was submitted twice")
    if any(job.attempt or job.where is not None for job in jobs):  # it would name what is another's
        raise RemoteProtocolError(f"a job of cluster {cluster.number} names another place of its arguments")
    if command.large and any(job.payload is None for job in jobs):
        program.channel.send(shared.EndedHere(0, cluster.number, numbers, TERMINATED, NO_MEMORY))
        return
    files = {each.number: each.files for each in command.files}
    for entries in files.values():
        _check_files(entries)
    if not files.keys() <= set(numbers):
        raise RemoteProtocolError(f"files of a job of cluster {cluster.number} that was not submitted")
    for number, entries in files.items():
        program.files.want(cluster.number, entries, number)
    windows.take(program, cluster, jobs, room_in_queue(hub.service.state, program.client), files)
    node = NodeId(command.node) if command.node else None
    if node is None and not files:
        hub.service.submit(core.SubmitJobs(program.client, cluster.number, jobs))
    else:
        hub.service.handle(core.SubmitJobs(program.client, cluster.number, jobs, node, files))
    hub.service.schedule_tick()


def _cancel(hub: Hub, program: Program, cluster: SharedCluster, command: shared.CancelJobs) -> None:
    """Cancel jobs that are open, and those whose arguments have not arrived, which the core does not know."""
    wanted = set(command.numbers)
    waiting = program.channel.take_waiting(
        cluster.number,
        lambda message: (
            type(message) is shared.Submit and not wanted.isdisjoint(job.number for job in message.jobs)
        ),
    )
    gone = [job.number for message in waiting for job in message.jobs]
    if gone:
        program.channel.send(shared.EndedHere(0, cluster.number, gone, CANCELLED, "cancelled"))
    numbers = [number for number in command.numbers if number in cluster.open]
    if numbers:
        hub.service.handle(core.CancelJobs(program.client, cluster.number, numbers))


def _watch(hub: Hub, program: Program, cluster: SharedCluster, command: shared.WatchJobs) -> None:
    """Watch jobs: also those that are submitted later, or whose arguments have not arrived."""
    known = hub.service.state.computations[program.client, cluster.number]
    if len(known.watched) + len(command.numbers) > OPEN_JOBS_MAX:
        raise RemoteProtocolError(f"too many jobs of cluster {cluster.number} are watched")
    wanted = core.WatchJobs(program.client, cluster.number, command.numbers, command.is_wanted)
    hub.service.handle(wanted)


def _answer_value(hub: Hub, program: Program, cluster: SharedCluster, command: shared.AnswerValue) -> None:
    command.answer.computation = cluster.number
    hub.service.handle(core.AnswerValue(program.client, NodeId(command.node), command.answer))


def _answer_printed(
    hub: Hub, program: Program, cluster: SharedCluster, command: shared.AnswerPrinted
) -> None:
    node = NodeId(command.node)
    hub.service.handle(core.AnswerPrinted(program.client, cluster.number, node, command.serial))


def _put(hub: Hub, program: Program, cluster: SharedCluster, command: shared.PutObject) -> None:
    payload, number = command.put.payload, command.put.number
    if number in cluster.objects or len(cluster.objects) >= OBJECTS_MAX:
        raise RemoteProtocolError(
            f"object {number} of cluster {cluster.number} comes twice, or is one too many"
        )
    reason = "the scheduler has not enough memory for an object" if payload is None else ""
    if not reason and not windows.hold(program, cluster, len(payload)):
        reason = _HELD
    if reason:
        close(hub, program, cluster)
        program.channel.send(shared.Refused(0, cluster.number, reason))
        return
    cluster.objects[number] = len(payload)
    command.put.computation, command.put.stream, command.put.given = cluster.number, 0, 0
    hub.service.handle(core.PutObject(program.client, command.put))


def _drop(hub: Hub, program: Program, cluster: SharedCluster, command: shared.DropObjects) -> None:
    for number in command.numbers:
        windows.hold(program, cluster, -cluster.objects.pop(number, 0))
    hub.service.handle(core.DropObjects(program.client, cluster.number, command.numbers))


def _place(hub: Hub, program: Program, cluster: SharedCluster, command: shared.PlaceFiles) -> None:
    _check_files(command.place.files)
    program.files.want(cluster.number, command.place.files)
    command.place.computation = cluster.number
    hub.service.handle(core.SendFiles(program.client, NodeId(command.node), command.place))


def _send_files(hub: Hub, program: Program, cluster: SharedCluster, command: shared.SendFiles) -> None:
    if not command.node:
        program.files.on_pieces(command.pieces)
        program.files.on_unreadable(command.unreadable)
        return
    program.files.on_answered(cluster.number, command.node, command.pieces, command.unreadable)
    node = NodeId(command.node)
    pieces = [
        node_messages.FilePiece(piece.digest, piece.offset, piece.data)
        for piece in command.pieces
        if piece.data is not None
    ]
    note_sent(cluster, node, pieces)
    if pieces:
        hub.service.send_pieces(node, program.client, cluster.number, pieces)
    for item in command.unreadable:
        item.computation, item.is_passing = cluster.number, False
        cluster.needed.pop((node, item.digest), None)
        hub.service.send_unreadable(node, program.client, item)


def _discover(hub: Hub, program: Program, cluster: SharedCluster, command: shared.Discover) -> None:
    if _count_wishes(program, cluster.number) + len(command.wishes) > windows.WISHES_MAX:
        raise RemoteProtocolError(f"its clusters name more than {windows.WISHES_MAX} nodes")
    _check_wishes(command.wishes)
    _check_wishes(command.now)
    cluster.wishes = command.wishes
    hub.search.discover(program, command.now)


def _allocate(hub: Hub, program: Program, cluster: SharedCluster, command: shared.Allocate) -> None:
    node = NodeId(command.node)
    if command.files is not None:
        _check_files(command.files)
    cluster.answered.add(node)
    if command.code is None or hub.find(node) is None:
        hub.news.tell_view(program, cluster.number, node)
        return
    if command.cpus:
        cluster.allocated[node] = command.cpus
    else:
        cluster.allocated.pop(node, None)
    program.files.want(cluster.number, command.files or ())
    hub.service.handle(
        core.Allocate(
            program.client,
            cluster.number,
            node,
            command.cpus,
            command.is_draining,
            command.code,
            command.files,
        )
    )
    hub.news.tell_view(program, cluster.number, node)


def _limit(hub: Hub, program: Program, cluster: SharedCluster, command: shared.LimitNode) -> None:
    """Limit the CPUs of a node that the program uses; if programs cooperate, those that all of them use."""
    node = NodeId(command.node)
    if hub.find(node) is None:
        return
    if hub.is_cooperative:
        hub.service.handle(core.LimitNode(node, command.cpus))
    else:
        hub.service.handle(core.LimitClient(program.client, node, command.cpus))


def _vacate(hub: Hub, program: Program, cluster: SharedCluster, command: shared.Vacate) -> None:
    node = NodeId(command.node)
    cluster.answered.add(node)
    cluster.allocated.pop(node, None)
    hub.service.handle(
        core.Vacate(program.client, cluster.number, node, command.terminate, command.returns)
    )
    hub.news.tell_view(program, cluster.number, node)


_Handler = Callable[[Hub, Program, SharedCluster, Any], None]

_HANDLERS: dict[type[Any], _Handler] = {
    shared.CloseCluster: _close,
    shared.Submit: _submit,
    shared.CancelJobs: _cancel,
    shared.WatchJobs: _watch,
    shared.AnswerValue: _answer_value,
    shared.AnswerPrinted: _answer_printed,
    shared.PutObject: _put,
    shared.DropObjects: _drop,
    shared.PlaceFiles: _place,
    shared.SendFiles: _send_files,
    shared.Discover: _discover,
    shared.Allocate: _allocate,
    shared.Vacate: _vacate,
    shared.LimitNode: _limit,
}
