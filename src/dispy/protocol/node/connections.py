"""Messages about connections: introduction, reconciliation, recovery, signs of life, and what the node offers."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from dispy.protocol import limits
from dispy.protocol.node.fields import Count, Identity, Name, Number, Percent, Reason
from dispy.protocol.node.jobs import Attempt


class Attach(Struct, array_like=True, tag=1):
    """Who is speaking: sent once per connection, first.

    ``client`` stays the same over all connections of one scheduler. ``received`` is the number of
    the last batch of results that it has; the node sends again what came after.
    """

    client: Identity
    name: Name
    received: Number = 0
    origin: Name = ""
    """User and machine of the program, as it says itself: "alice@ws7". For logs."""


class Reconcile(Struct, array_like=True, tag=2):
    """All attempts that the scheduler believes to be on the node: sent after ``Welcome``.

    The node ends what is not in it and answers with what it does not know.
    ``computations``: of those that are to be there the number and the life (see ``Compute``).
    """

    attempts: Annotated[list[Attempt], Meta(max_length=limits.OPEN_JOBS_MAX)]
    computations: Annotated[dict[Number, Number], Meta(max_length=limits.BATCH_MAX)]


class ShareMemory(Struct, array_like=True, tag=11):
    """The client sees the node's directory on the memory file system: large results may stay there."""


class Recover(Struct, array_like=True, tag=20):
    """What of these computations is there? Said after ``Welcome``, in place of ``Reconcile``, by who fetches
    what a dead scheduler had there, in its name; answered by ``Held``.

    From then on, ``CloseComputation`` drops results that were not acknowledged, too.
    """

    computations: Annotated[list[Number], Meta(max_length=limits.BATCH_MAX)]


class Detach(Struct, array_like=True, tag=10):
    """The scheduler goes and will not come back: the node forgets it and all it gave."""


class SetPulse(Struct, array_like=True, tag=17):
    """Give a sign of life, and expect one, at least so often on this connection (seconds)."""

    pulse_s: Annotated[float, Meta(ge=0.01, le=3600)]


class LimitCpus(Struct, array_like=True, tag=16):
    """Run at most so many jobs of this scheduler at once. What runs above that goes on.

    Holds until the next one, over all connections; the node's own offer is the bound in any case.
    """

    cpus: Count


class Available(Struct, array_like=True, tag=61):
    """What the node has to spare: told in ``Welcome``, and from time to time."""

    cpu: Percent
    """Idle CPU."""
    memory: Number
    """Bytes that programs can have without swapping."""
    disk: Number
    """Bytes where working directories are."""
    swap: Percent
    """Free swap."""


class Welcome(Struct, array_like=True, tag=32):
    """Who answers. ``node`` is new with every start of the node: its incarnation.

    ``known`` tells that this incarnation knows the client already, so that both sides reconcile. Results that
    it keeps for the client are sent right after this: those batches of ``kept``, of which ``last`` batches
    were ever made. ``before`` names incarnations whose results it has taken over, from their spool: whatever
    else they had is gone with them.
    """

    node: Identity
    name: Name
    cpus: Count
    platform: Name
    known: bool = False
    last: Number = 0
    kept: Annotated[list[Number], Meta(max_length=limits.OPEN_JOBS_MAX)] = []
    before: Annotated[list[Identity], Meta(max_length=limits.BATCH_MAX)] = []
    available: Available | None = None


class Reconciled(Struct, array_like=True, tag=40):
    """What the node does not have of what ``Reconcile`` named: to be sent again."""

    attempts: Annotated[list[Attempt], Meta(max_length=limits.OPEN_JOBS_MAX)]
    computations: Annotated[list[Number], Meta(max_length=limits.BATCH_MAX)]


class Leaving(Struct, array_like=True, tag=41):
    """The node stops now. Jobs it did not report have been killed."""

    reason: Reason = ""


class HeldJobs(Struct, array_like=True):
    """Some attempts of a computation."""

    computation: Number
    attempts: Annotated[list[Attempt], Meta(max_length=limits.OPEN_JOBS_MAX)]


class Held(Struct, array_like=True, tag=52):
    """What is there for a client that recovers: results follow for those that are open, or have been sent as
    ``batches``. ``lost`` were open when an earlier incarnation of the node ended; they ended with it. With
    ``has_gaps`` it was not written down what was, and others may have been lost.
    """

    open: Annotated[list[HeldJobs], Meta(max_length=limits.BATCH_MAX)]
    batches: Annotated[list[Number], Meta(max_length=limits.OPEN_JOBS_MAX)]
    lost: Annotated[list[HeldJobs], Meta(max_length=limits.BATCH_MAX)]
    has_gaps: bool = False


class NodeCpus(Struct, array_like=True, tag=42):
    """The node offers another number of CPUs from now on; ``reason`` says why these are 0, if somebody wants that."""

    cpus: Count
    reason: Reason = ""


DRAINING = "it is being drained: it takes no new jobs, and leaves when those that run have ended"
"""The reason that a node gives while it is drained."""
