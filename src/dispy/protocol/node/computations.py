"""Messages about computations: opening and closing them, credit (how many jobs a node takes), shared objects."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from dispy.protocol import limits
from dispy.protocol.node.fields import Count, Files, Inline, Name, Number, Owner, Reason


class Compute(Struct, array_like=True, tag=3):
    """Open a computation on the node: load its code, so that jobs can run. ``ComputationReady`` or
    ``ComputationFailed`` follows.

    ``computation`` is the number by which all later messages name it. ``code`` is pickled, and the node does not
    unpickle it; large code (``INLINE_MAX`` bytes and more) is stream ``stream`` of the connection instead (0: it is
    not). ``isolate`` True: each job runs in a process of its own. ``grace_s`` is the time (seconds) between the
    interrupt of a cancelled job and its end by force. ``dest_path`` names the working directory, which other
    computations may share; empty: the node chooses one. An ``exclusive`` computation keeps all others from starting
    jobs on the node, from now until it is closed or its client is dead.
    """

    computation: Number
    name: Name
    code: Inline
    stream: Number = 0
    isolate: bool = False
    grace_s: Annotated[float, Meta(ge=0, le=86400)] = 5.0
    dest_path: Name = ""
    live: bool = False
    """True if the client wants the output of all its jobs while they run (``JobsPrinted``)."""
    exclusive: bool = False
    life: Number = 0
    """Generation of the computation on this node, from 0. Raised when it is closed and reopened, so that a node that
    missed both messages (its connection broke) cannot confuse the two."""
    message_timeout_s: Annotated[float, Meta(ge=0, le=1e6)] = 10.0
    """Seconds that a job which sends a value or a file waits for the acknowledgement, unless the call says
    otherwise. The call then fails."""
    setup_per_worker: bool = False
    """True if ``setup`` is called in each worker; False: once, in the host that forks the workers."""
    setup_timeout_s: Annotated[float, Meta(ge=0, le=1e9)] = 0.0
    """Seconds that ``setup`` may take; then it counts as failed. 0: no limit."""
    files: Files = []
    """Files that must be in the working directory before any code runs. The node asks for those that it lacks
    (``NeedFiles``)."""
    keep: bool = False
    """True if the working directory stays when the computation is closed; False: it is removed. The node may be set
    to remove it in any case."""
    owner: Owner = b""
    """Owner of the files of the computation and its jobs: nodes use what they have kept of this owner's files, and of
    no other's. Whoever knows these random bytes is the owner, so they are shown nowhere. Empty: the client alone."""


class CloseComputation(Struct, array_like=True, tag=7):
    """Close a computation (its number): the node ends its unfinished jobs without reports, and forgets it. Batches
    with its results stay until they are acknowledged; only if the client recovers (``Recover``) are they dropped,
    too."""

    computation: Number


class PutObject(Struct, array_like=True, tag=12):
    """Store an object that many jobs of a computation read, under ``number``; answered by ``ObjectStored``.

    ``payload`` is the pickled object. It is empty for a large object (``INLINE_MAX`` bytes and more), which is stream
    ``stream`` of the connection, or the file with number ``given`` that a client on the node's machine has linked
    into the node's directory. 0: not there.
    """

    computation: Number
    number: Number
    payload: Inline
    stream: Number = 0
    given: Number = 0


class DropObjects(Struct, array_like=True, tag=13):
    """Remove the shared objects with these numbers, as no job needs them any more: the node removes their files, and
    its workers forget them. There is no answer."""

    computation: Number
    numbers: Annotated[list[Number], Meta(max_length=limits.OBJECTS_MAX)]


class ComputationReady(Struct, array_like=True, tag=33):
    """The computation is loaded; ``Credit`` follows, and then jobs may be sent.

    ``life`` is the generation in the ``Compute`` that is answered: the scheduler ignores an answer about another one.
    ``warning`` names parts of the code that differ on the node from the program's; empty if there are none.
    """

    computation: Number
    life: Number = 0
    warning: Reason = ""


class ComputationFailed(Struct, array_like=True, tag=34):
    """The computation cannot run on this node, and the node has forgotten it; ``reason`` says why. ``JobsReturned``
    follows with its jobs that have not ended. ``life`` is the generation in the ``Compute`` that has failed: the
    scheduler ignores a message about another one."""

    computation: Number
    reason: Reason
    life: Number = 0


class NodeCredit(Struct, array_like=True, tag=83):
    """How many jobs of this scheduler the node runs at once from now on, of all its computations together
    (back-pressure by credit). Sent before the first ``Credit``, and whenever it has changed.

    ``slots`` jobs start at once. ``waiting`` more have a claim to CPUs that long jobs of others use now: so many may
    wait there, however long they take. What else may wait is said by ``Credit``. Jobs above that stay on the node.
    ``reason`` says why the slots are fewer than the node's CPUs, for the user; empty if they are not.
    """

    slots: Count
    waiting: Count = 0
    reason: Reason = ""


class Credit(Struct, array_like=True, tag=35):
    """Part of the node's credit that one computation may use from now on.

    ``slots``: no more jobs of the computation than that may run at once; 0 while something keeps it from starting
    any, which ``reason`` names for the user. ``backlog``: number of its jobs that may wait on the node so that no CPU
    is idle between two, if no other computation of the scheduler has jobs waiting there: all waiting jobs together
    share one account, of which each fills one part in ``backlog``. Both may fall below the jobs that are there
    already; those stay. ``expected_us`` is the run time of one of its jobs to plan with (microseconds); 0: not known.
    """

    computation: Number
    slots: Count
    backlog: Count
    reason: Reason = ""
    expected_us: Number = 0


class ObjectStored(Struct, array_like=True, tag=43):
    """Object ``number`` is stored, and jobs that start from now on find it; with a ``reason`` it is not stored.

    ``again`` True: send it again when the node gives credit again, as there may be room then. False: it will never
    fit.
    """

    computation: Number
    number: Number
    reason: Reason = ""
    again: bool = False
