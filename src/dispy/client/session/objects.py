"""Objects that many jobs of a cluster read: ``put`` sends one to all nodes and returns a ``Ref``.

Life of an object. The program holds its ``Ref``; an unfinished job holds the references in its arguments
(``session.held``), and a ``Ref`` holds those inside its own object. When the last holder is gone, ``Ref.__del__``
notes the number, and the loop tells the nodes to free the object. ``__del__`` may run on any thread and inside any
code, so it only appends to a deque and posts a call.
"""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from dispy import payload
from dispy.client.session.inbox import take_inbox
from dispy.errors import UsageError
from dispy.protocol.limits import OBJECTS_MAX
from dispy.protocol.node import PutObject
from dispy.system import process_identity
from dispy.system.wording import brief, counted

if TYPE_CHECKING:
    from dispy.client.code.shipped_files import Held
    from dispy.client.session.state import Session

_numbers = itertools.count(1)
"""Source of numbers of objects, from 1: unique in the process, never reused."""

_refs: weakref.WeakValueDictionary[int, Ref] = weakref.WeakValueDictionary()
"""Living references by the number of their object. A reference that comes back in a result becomes the same ``Ref``;
if that is gone, unpickling the result fails."""


if TYPE_CHECKING:
    # A checker takes a reference for an argument of any type, since jobs get the object in its place.
    class _Reference(payload.Reference, Any):  # type: ignore[misc]  # ``Any`` as a base is the point
        """Reference of any type."""
else:
    _Reference = payload.Reference


class Ref(_Reference):
    """Reference to an object that was put into a cluster. A job that gets it in an argument sees the object instead.

    The object is freed on all nodes when the reference is gone from the program and from the arguments of unfinished
    jobs.

    Attributes:
        size: Size of the pickled object, as it travels (bytes).
    """

    __slots__ = ("__weakref__", "_inner", "_session", "size")

    def __init__(self, session: Session, size: int, inner: list[Ref]) -> None:
        self._session = session
        self._inner = inner
        """References inside the object. Held so that their objects stay on the nodes as long as this one."""
        super().__init__(next(_numbers))
        self.size = size
        _refs[self.number] = self

    def __del__(self) -> None:
        session = getattr(self, "_session", None)
        if session is not None:
            try:  # at the interpreter's end the globals of modules are None already
                _drop_later(session, self.number)
            except (AttributeError, TypeError):
                pass

    def is_of(self, session: Session) -> bool:
        """True if the object was put into this cluster."""
        return self._session is session

    def __repr__(self) -> str:
        session = self._session
        state = ", gone with its cluster, which is closed" if session.is_closed else ""
        return f"<Ref {self.number} of cluster {brief(session.name)}: {counted(self.size, 'byte')}{state}>"


def put(session: Session, value: Any) -> Ref:
    """Send an object to all nodes of a cluster: the work of ``JobCluster.put``; on the caller's thread.

    The object is pickled now: later changes of it do not reach the jobs. It stays on the nodes until the ``Ref`` that
    is returned is gone.

    Raises:
        PicklingError: The object cannot be sent.
        UsageError: The cluster is closed, it has ``OBJECTS_MAX`` objects, or ``value`` refers to another cluster.
    """
    session.check_open()
    shown = payload.random_generators.shared(value, "workers") if session.options.seeding.is_on else value
    data = payload.dump_object(shown, session.computation.known)
    ref = Ref(session, len(data), check_used(session))
    message = PutObject(session.number, ref.number, data)  # type: ignore[arg-type]  # a view, as in ``submission``
    session.engine.call(_put, session, message)
    return ref


def _put(session: Session, message: PutObject) -> None:
    """Hand an object over to the scheduler, which sends it to all nodes, after the jobs of the inbox. On the loop.

    Raises:
        UsageError: The cluster has ``OBJECTS_MAX`` objects.
    """
    take_inbox(session)
    drop_refs(session)
    if len(session.objects) >= OBJECTS_MAX:
        raise UsageError(
            f"{OBJECTS_MAX} objects are put into cluster {session.name}",
            hint="let go of references, or put fewer and larger objects",
        )
    if session.journal is not None:
        session.journal.put_object(message.number, message.payload)
    session.objects.add(message.number)
    session.backend.put(message)


def check_used(session: Session) -> list[Ref]:
    """Returns the references inside what this thread has just pickled; empty if there are none.

    A second call returns none. The caller keeps them alive as long as the pickle may be used: otherwise nodes free
    the objects.

    Raises:
        UsageError: One of them is a reference of another cluster.
    """
    used: list[Ref] = payload.take_used()
    for ref in used:
        if not ref.is_of(session):
            raise UsageError(
                f"{ref!r} cannot be used in cluster {session.name}",
                hint="put the object into the cluster whose jobs read it",
            )
    return used


def hold(session: Session, number: int, holders: Iterable[Ref | Held]) -> None:
    """Keep references in a job's arguments, or holders of its files, in ``held`` until the job has ended.

    Otherwise nodes could free the objects before the job reads them, or ask for bytes of files that are gone.

    Args:
        session: Cluster of the job.
        number: Number of the job or chunk.
        holders: References of ``check_used``, or holders of files.
    """
    session.held[number] = [*session.held.get(number, ()), *holders]


def _drop_later(session: Session, number: int) -> None:
    """Note in ``dropped`` that the reference to the object ``number`` is gone, and wake the loop; nothing in a fork.

    Called by ``Ref.__del__``, on any thread, between any two instructions of it: so this function takes no lock.
    """
    if session.pid == process_identity.pid:
        session.dropped.append(number)
        session.engine.post(drop_refs, session)


def drop_refs(session: Session) -> None:
    """Tell nodes to free the objects in ``session.dropped``, to which no reference is left. On the loop.

    Only empties the list for a closed cluster, whose objects nodes have freed.
    """
    numbers = [session.dropped.popleft() for _ in range(len(session.dropped))]
    if numbers and not session.is_closed:
        if session.journal is not None:
            session.journal.drop_objects(numbers)
        session.objects.difference_update(numbers)
        session.backend.drop(session.number, numbers)


if (
    payload.object_references.is_nowhere()
):  # a job that imports this goes on to see the objects of its worker
    payload.object_references.find_object = _refs.__getitem__
payload.object_references.reference_type = Ref
