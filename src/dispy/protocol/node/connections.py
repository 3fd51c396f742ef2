"""Messages about connections: introduction, reconciliation, recovery, heartbeat interval, and what the node offers.

After a reconnect the two sides compare what they hold (``Reconcile``, ``Reconciled``), and the node sends again the
results that were not acknowledged. A program that recovers the jobs of a dead one asks instead (``Recover``,
``Held``).
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from dispy.protocol import limits
from dispy.protocol.node.fields import Count, Identity, Name, Number, Percent, Reason
from dispy.protocol.node.jobs import Attempt


class Attach(Struct, array_like=True, tag=1):
    """The scheduler's introduction: its first message on each connection.

    ``client`` is the same on all connections of one scheduler; a newer connection replaces an older one. ``name`` is
    the program's, for the node's log. The scheduler has all batches of results up to number ``received`` (0: none):
    the node forgets these, and sends later ones again. The node answers with ``Welcome``.
    """

    client: Identity
    name: Name
    received: Number = 0
    origin: Name = ""
    """User and machine of the program, as the program says itself: "alice@ws7". Only for logs; empty: not told."""


class HeldJobs(Struct, array_like=True):
    """Attempts of one computation (its number): an element of ``Reconcile``, ``Reconciled`` and ``Held``. Job numbers
    are unique in a computation only."""

    computation: Number
    attempts: Annotated[list[Attempt], Meta(max_length=limits.OPEN_JOBS_MAX)]


class Reconcile(Struct, array_like=True, tag=2):
    """All attempts that the scheduler believes to be on the node: sent after a ``Welcome`` that is ``known``.

    The node ends all other attempts of this client, and forgets computations that are not named or have another
    generation. It answers with ``Reconciled``: what it lacks. ``attempts``: an item for each computation that has
    some. ``computations``: generation (``Compute.life``) of each computation that should be there, by its number.
    """

    attempts: Annotated[list[HeldJobs], Meta(max_length=limits.BATCH_MAX)]
    computations: Annotated[dict[Number, Number], Meta(max_length=limits.BATCH_MAX)]


class ShareMemory(Struct, array_like=True, tag=11):
    """The client sees the node's directory on the memory file system. From now on, on this connection, large results
    stay there as files (``Ended.segment``), which the client takes over, and are not sent as streams."""


class Recover(Struct, array_like=True, tag=20):
    """The question which jobs and results the node holds of these computations (numbers); answered by ``Held``.

    Sent after ``Welcome``, instead of ``Reconcile``, by a program that fetches the jobs of a dead scheduler in the
    dead one's name. From then on ``CloseComputation`` also drops results that were not acknowledged.
    """

    computations: Annotated[list[Number], Meta(max_length=limits.BATCH_MAX)]


class Detach(Struct, array_like=True, tag=10):
    """The scheduler leaves and will not come back: the node forgets it, and ends and forgets all its jobs."""


class SetPulse(Struct, array_like=True, tag=17):
    """Heartbeat interval of this connection from now on (seconds), for both directions
    (``protocol.connection.heartbeat``).

    Without this message it is ``settings.PULSE_S``. A side that hears nothing for five intervals ends the connection.
    """

    pulse_s: Annotated[float, Meta(ge=0.01, le=3600)]


class LimitCpus(Struct, array_like=True, tag=16):
    """Run at most ``cpus`` jobs of this scheduler at once (0: start none); further jobs wait on the node or go back.

    Jobs that run already go on, even above the limit. Valid until the next ``LimitCpus``, also on later connections.
    The CPUs that the node offers are a limit in any case.
    """

    cpus: Count


class Available(Struct, array_like=True, tag=61):
    """Resources that are free on the node, for the user's information: part of ``Welcome``, and sent at intervals."""

    cpu: Percent
    """Share of the CPU time of all CPUs of the machine that is idle (percent)."""
    memory: Number
    """Memory that programs can get without swapping (bytes)."""
    disk: Number
    """Free space of the file system with the working directories (bytes)."""
    swap: Percent
    """Share of the machine's swap space that is free (percent)."""


class Welcome(Struct, array_like=True, tag=32):
    """The node's introduction: its answer to ``Attach``. ``node`` names its incarnation: each start has a new one.

    ``name`` is the node's, ``cpus`` the number of CPUs that it offers (jobs at once; 0: none for now), ``platform`` a
    text such as ``platform.platform()`` gives. ``known`` is True if this incarnation knows the client already; then
    both sides reconcile. Results that the node keeps for the client follow at once: the batches whose numbers are in
    ``kept``. ``last`` is the number of the last batch of results that was ever made for the client: a batch up to it
    that is not in ``kept`` has arrived before, or is lost. ``before`` names earlier incarnations whose results this
    one has taken over from their spool; all else that they had is lost. ``python`` is the minor version of Python
    that jobs run on, such as "3.12": a program of another one sends its code in another form.
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
    python: Name = ""


class Reconciled(Struct, array_like=True, tag=40):
    """Attempts and computations (numbers) of a ``Reconcile`` that the node does not have: the scheduler sends them
    again. Attempts whose results are still to be acknowledged are not among them."""

    attempts: Annotated[list[HeldJobs], Meta(max_length=limits.BATCH_MAX)]
    computations: Annotated[list[Number], Meta(max_length=limits.BATCH_MAX)]


class Leaving(Struct, array_like=True, tag=41):
    """The node stops now, or gives this client up; ``reason`` says why. Its last message: the scheduler counts the
    node as lost at once, and does not dial again. Jobs whose end it did not report have been killed."""

    reason: Reason = ""


class Held(Struct, array_like=True, tag=52):
    """The jobs that a node holds for a client that recovers: answer to ``Recover``.

    ``open``: attempts that have not ended; their results follow. ``batches``: numbers of the batches that are kept
    with results. ``lost``: attempts that were open when an earlier incarnation of the node ended, and ended with it.
    ``has_gaps`` True: that incarnation had not written down all open attempts, so others may be lost, too.
    """

    open: Annotated[list[HeldJobs], Meta(max_length=limits.BATCH_MAX)]
    batches: Annotated[list[Number], Meta(max_length=limits.OPEN_JOBS_MAX)]
    lost: Annotated[list[HeldJobs], Meta(max_length=limits.BATCH_MAX)]
    has_gaps: bool = False


class NodeCpus(Struct, array_like=True, tag=42):
    """The node offers this number of CPUs (jobs at once, of all its clients) from now on; running jobs above it go
    on.

    ``reason`` says why it is 0 (``DRAINING``); empty if it is not, or no reason is known.
    """

    cpus: Count
    reason: Reason = ""


DRAINING = "it is being drained: it takes no new jobs, and leaves when those that run have ended"
"""Text of the reason in ``NodeCpus`` and ``Credit`` while the node is being drained; shown to the user."""
