"""Objects: data that many jobs read. Every node of a computation has it before jobs that may refer to it.

Each object goes to all nodes of its computation at once, in the order of the puts, and while one travels to a node no
jobs are sent there. So no job waits on a node for its data, and neither side keeps account of which job reads what.

An object is in ``Placement.storing`` from its ``PutObject`` to the node's ``ObjectStored``, then in ``stored``. A
drop is not acknowledged: it is remembered in ``dropped`` until the node acknowledges an object that was sent after
it, and repeated if the connection breaks before that.
"""

from __future__ import annotations

from dispy.core.scheduling.actions import Outbox, Send, TellNode
from dispy.core.scheduling.events import DropObjects, PutObject
from dispy.core.scheduling.ids import Seconds
from dispy.core.scheduling.lines.accounts import note_room
from dispy.core.scheduling.placement import end_here, end_if_hopeless, place
from dispy.core.scheduling.state import Computation, Node, Placement, State
from dispy.core.scheduling.views import tell_placement
from dispy.protocol import node
from dispy.protocol.limits import OBJECTS_MAX
from dispy.protocol.node import ABANDONED
from dispy.protocol.views import PlacementStatus as Status


def on_put_object(state: State, out: Outbox, event: PutObject, now: Seconds) -> None:
    """Note an object of a computation, and send it to all nodes that have loaded the computation; other nodes get
    it once they have loaded the computation. A node gets no jobs while the object is on its way there."""
    computation = state.computations.get((event.client, event.message.computation))
    if computation is None:
        return
    computation.objects[event.message.number] = computation.named_for_nodes(event.message)
    for placement in computation.placements.values():
        send_objects(out, placement)


def on_drop_objects(state: State, out: Outbox, event: DropObjects, now: Seconds) -> None:
    """Forget objects that no job needs any more, and tell nodes that have stored them to delete them.

    If an object is still on its way to a node, the node is told once it has acknowledged the object.
    """
    computation = state.computations.get((event.client, event.computation))
    if computation is None:
        return
    for number in event.numbers:
        computation.objects.pop(number, None)
    for placement in computation.placements.values():
        _drop_unwanted(out, placement)


def send_objects(out: Outbox, placement: Placement, again: bool = False) -> None:
    """Send a node the objects of a computation that it does not have, in the order of the puts.

    ``again`` True: also those that were under way when its connection broke. Does nothing while the computation is
    not READY there or the connection is broken. The node gets no jobs before it has stored the objects.
    """
    if placement.status is not Status.READY or not placement.node.is_connected:
        return
    if again:
        placement.storing.clear()
    for number, message in placement.computation.objects.items():
        if number not in placement.stored and number not in placement.storing:
            placement.storing.add(number)
            out.append(Send(placement.node.id, message))
    note_room(placement)


def on_object_stored(
    state: State, out: Outbox, known: Node, message: node.ObjectStored, now: Seconds
) -> None:
    """A node has stored an object, or says with a reason that it has no room for the object.

    No room now (``message.again``): its credit counts as 0 until the node grants another one, and the object is sent
    again then. No room ever: the node gets no more jobs of the computation, whose placement is FAILED.
    """
    placement = known.placements.get(message.computation)
    if placement is None or message.number not in placement.storing:
        return
    placement.storing.discard(message.number)
    if placement.dropped:
        # This object was sent after those drops, so the node has heard them.
        placement.dropped = {n: last for n, last in placement.dropped.items() if last >= message.number}
    computation = placement.computation
    if not message.reason:
        placement.stored.add(message.number)
        _drop_unwanted(out, placement)
    elif message.again:
        placement.granted = (0, 0)
        placement.apply_grant()
        tell_placement(out, placement)
    elif message.number in computation.objects and placement.status is Status.READY:
        _stop_using(out, computation, placement, message.reason)
    note_room(placement)
    place(out, computation, now)


def reconcile_objects(out: Outbox, placement: Placement) -> None:
    """After a reconnect, send again objects that were under way, and requests to delete objects that may be lost."""
    # Objects under way that are not wanted any more may have arrived: they are dropped, too.
    placement.stored.update(placement.storing - placement.computation.objects.keys())
    placement.stored.update(placement.dropped)
    send_objects(out, placement, again=True)
    _drop_unwanted(out, placement)


def _drop_unwanted(out: Outbox, placement: Placement) -> None:
    """Tell a node to delete the objects that it has stored and that no job needs any more.

    Does nothing while the connection is broken; ``reconcile_objects`` calls it again after the reconnect.
    """
    unwanted = sorted(placement.stored - placement.computation.objects.keys())
    if unwanted and placement.node.is_connected:
        placement.stored.difference_update(unwanted)
        # After a reconnect there may be twice as many as a node can have.
        for start in range(0, len(unwanted), OBJECTS_MAX):
            message = _drop(placement, unwanted[start : start + OBJECTS_MAX])
            out.append(Send(placement.node.id, message))


def _drop(placement: Placement, numbers: list[int]) -> node.DropObjects:
    """Returns the message that has a node delete objects (by number), and notes their numbers in
    ``Placement.dropped``. The caller sends the message.

    No node acknowledges the message: the note serves to repeat it if the connection breaks.
    """
    last = max(placement.storing | placement.stored, default=0)
    placement.dropped.update(dict.fromkeys(numbers, max(last, *numbers)))
    return node.DropObjects(placement.computation.wire, numbers)


def _stop_using(out: Outbox, computation: Computation, placement: Placement, reason: str) -> None:
    """Give a node no more jobs of a computation, as it has no room for an object: the placement is FAILED.

    Running jobs go on, jobs that wait on the node are asked back, and unsent jobs that are pinned to it end as
    ``ABANDONED``. The client is told the reason (in words).
    """
    placement.status = Status.FAILED
    placement.reason = reason
    tell_placement(out, placement)
    waiting = len(placement.assigned) - len(placement.started)
    if waiting and placement.node.is_connected:
        out.append(Send(placement.node.id, node.TakeBack(computation.wire, waiting)))
    pinned = [job.number for job in placement.pinned]
    placement.pinned.clear()
    end_here(out, computation, pinned, ABANDONED, reason)
    out.append(TellNode(computation.client, computation.number, placement.node.id, False, reason))
    end_if_hopeless(out, computation)
