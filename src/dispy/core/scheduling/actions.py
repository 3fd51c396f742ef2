"""Actions of the scheduling core, which its shell carries out: messages to nodes, news for clients.

Where an action has these fields, ``client`` is the client that opened the computation, to which the action is
addressed, ``computation`` the number of the computation at that client, and ``node`` the node that the news is about.
Lists of jobs are in the order in which the jobs were reported or queued.
"""

from __future__ import annotations

from msgspec import Struct

from dispy.core.scheduling.ids import ClientId, NodeId
from dispy.protocol.node import (
    Ended,
    Printed,
    Provisional,
    Started,
    ToNode,
)
from dispy.protocol.views import PlacementView


class Send(Struct):
    """Send a message to a node. Dropped if the connection is broken: after a reconnect both sides compare which jobs
    they have, and what was lost is sent again."""

    node: NodeId
    message: ToNode


class TellEnded(Struct):
    """Tell a client that jobs have ended on a node, with their results (``ended``). Told once for each job.

    The core has forgotten the jobs. A job that is retried after the death of its process is not told here.
    """

    client: ClientId
    computation: int
    node: NodeId
    ended: list[Ended]


class TellEndedHere(Struct):
    """Tell a client that jobs (by number) have ended without a result from a node: cancelled, abandoned, or without
    a node that can run them.

    All of these jobs have the final status ``status`` and the ``reason``, in words. Told once for each job.
    """

    client: ClientId
    computation: int
    numbers: list[int]
    status: int
    reason: str


class TellStarted(Struct):
    """Tell a client that jobs are running on a node, and since when. Most jobs that run for less than two ticks of
    the node (10 ms each) are never told as started."""

    client: ClientId
    computation: int
    node: NodeId
    started: list[Started]


class TellRequeued(Struct):
    """Tell a client that jobs (by number) are no longer on a node, and wait for one again as new attempts.

    Sent when a node gives jobs back, when their process died, when their node is lost or taken away, and when they
    never arrived at a node that has to load the computation first.
    """

    client: ClientId
    computation: int
    numbers: list[int]


class TellValue(Struct):
    """Tell a client a provisional result of a running job, or a part of a file that the job sends (``value.file``).

    The client answers with ``AnswerValue`` once it has the value, or has written or refused the part: the job waits
    for that.
    """

    client: ClientId
    computation: int
    node: NodeId
    value: Provisional


class TellPrinted(Struct):
    """Tell a client what running jobs have newly printed: jobs named by ``WatchJobs``, or any job of a computation
    that was opened with ``Compute.live``.

    The client answers with ``AnswerPrinted`` and the same ``serial`` (a number, unique for the computation) once it
    has the output: until then the node reads no more of this computation. If the connection to the node breaks
    before that, the same output is told again, with another ``serial``.
    """

    client: ClientId
    computation: int
    node: NodeId
    printed: list[Printed]
    serial: int


class TellNode(Struct):
    """Tell a client that a node became usable for a computation, or is not any more.

    ``reason`` is in words: a warning of a usable node, or why it is not usable; empty if there is nothing to say.
    """

    client: ClientId
    computation: int
    node: NodeId
    is_usable: bool
    reason: str = ""


class TellVacated(Struct):
    """Tell a client that a computation has left a node to which it wants to come back (``Vacate.returns``).

    The client answers with ``Allocate``; until then jobs pinned to the node wait.
    """

    client: ClientId
    computation: int
    node: NodeId


class TellFiles(Struct):
    """Tell the client of a computation that the files of the ``SendFiles`` with this ``request`` number are in the
    working directory on the node.

    With a ``reason`` (in words) they are not, and will not be: the client has to send them again if it wants to.
    """

    client: ClientId
    computation: int
    node: NodeId
    request: int
    reason: str


class TellPlacement(Struct):
    """Tell a client how its computation is on a node now: what it may show to people, and choose nodes by.

    Sent when anything in ``view`` has changed but the counts of jobs, so never for a job: the shell brings the counts
    up to date when it is asked (``views.refresh``). After GONE the placement is forgotten. When the client itself
    closes the computation it is told nothing.
    """

    client: ClientId
    computation: int
    node: NodeId
    view: PlacementView


Action = (
    Send
    | TellEnded
    | TellEndedHere
    | TellStarted
    | TellRequeued
    | TellValue
    | TellPrinted
    | TellNode
    | TellVacated
    | TellPlacement
    | TellFiles
)
Outbox = list[Action]
"""Actions in the order in which the shell does them; handlers append to it."""
