"""References to data that many jobs of a cluster read: what ``JobCluster.put`` returns."""

from __future__ import annotations

import itertools
import weakref
from typing import TYPE_CHECKING

from dispy import payload
from dispy.core import scheduling as core
from dispy.errors import UsageError
from dispy.system import process_identity
from dispy.system.wording import counted

if TYPE_CHECKING:
    from dispy.client.session.state import ClusterState

_numbers = itertools.count(1)
_refs: weakref.WeakValueDictionary[int, Ref] = weakref.WeakValueDictionary()


class Ref(payload.Reference):
    """Stands for an object that was put into a cluster; as an argument or inside one, jobs get the object.

    The object is freed on all nodes when the reference is gone, from the program and from the
    arguments of jobs that have not ended.

    Attributes:
        size: Of the object as it travels (bytes).
    """

    __slots__ = ("__weakref__", "_cluster", "_inner", "size")

    def __init__(self, cluster: ClusterState, size: int, inner: list[Ref]) -> None:
        self._cluster = cluster
        self._inner = inner
        """References inside the object."""
        super().__init__(next(_numbers))
        self.size = size
        _refs[self._number] = self

    def __del__(self) -> None:
        cluster = getattr(self, "_cluster", None)
        if cluster is not None:
            try:  # where the interpreter ends, modules are empty
                _drop_later(cluster, self._number)
            except (AttributeError, TypeError):
                pass

    def __repr__(self) -> str:
        return f"<Ref {self._number} of cluster {self._cluster.name}: {counted(self.size, 'byte')}>"


def check_used(cluster: ClusterState) -> list[Ref]:
    """The references that were just pickled, to be kept as long as what they are in.

    Raises:
        UsageError: One is another cluster's.
    """
    used: list[Ref] = payload.take_used()
    for ref in used:
        if ref._cluster is not cluster:
            raise UsageError(
                f"{ref!r} cannot be used in cluster {cluster.name}",
                hint="put the object into the cluster whose jobs read it",
            )
    return used


def hold(cluster: ClusterState, number: int) -> None:
    """A job was pickled with references in it: they live until it has ended."""
    used = check_used(cluster)
    if used:
        cluster._held[number] = list(used)


def _drop_later(cluster: ClusterState, number: int) -> None:
    """A reference is gone; on any thread, and in the middle of anything."""
    if cluster._pid == process_identity.pid:
        cluster._dropped.append(number)
        cluster._engine.post(drop_refs, cluster)


def drop_refs(cluster: ClusterState) -> None:
    """Have nodes let go of what nobody refers to any more; on the loop."""
    numbers = [cluster._dropped.popleft() for _ in range(len(cluster._dropped))]
    if numbers and not cluster._is_closed:
        if cluster._journal is not None:
            cluster._journal.drop_objects(numbers)
        cluster._engine.service.handle(core.DropObjects(cluster._number, numbers))
        if cluster._engine.service.memory is not None:
            cluster._engine.service.memory.trim()


payload.object_references.find_object = _refs.__getitem__
payload.object_references.reference_type = Ref
