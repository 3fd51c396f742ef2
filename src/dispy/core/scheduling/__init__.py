"""The scheduler's decisions: which job runs where and when, and what happens when a node or a process is lost.

``Machine.handle(event, now)`` changes the state and returns actions. The same machine serves one program
(``JobCluster``) or many (``dispyscheduler``). Its state holds computations, nodes, and a *placement* for each
computation on each node.

Where to look: ``jobs`` has the life of a job, ``retries`` whether it runs again, ``placement`` the dispatch of
waiting jobs to nodes, ``computations`` the life of a computation on a node, ``withdrawal`` how it leaves one,
``nodes`` the connections to nodes, ``lines`` who comes first where several computations wait, ``objects`` and
``files`` the data that must be there before jobs are, ``views`` what clients are told of placements, ``explain`` why
a job waits.
"""

from dispy.core.scheduling.actions import (
    Action,
    Outbox,
    Send,
    TellEnded,
    TellEndedHere,
    TellFiles,
    TellNode,
    TellPlacement,
    TellPrinted,
    TellRequeued,
    TellStarted,
    TellVacated,
    TellValue,
)
from dispy.core.scheduling.events import (
    AddClient,
    AddComputation,
    Allocate,
    AnswerPrinted,
    AnswerValue,
    CancelJobs,
    CloseComputation,
    DropObjects,
    Event,
    FromNodeEvent,
    LimitClient,
    LimitNode,
    LimitUser,
    NodeLost,
    NodeSilent,
    NodeUp,
    PutObject,
    RemoveClient,
    SendFiles,
    SubmitJobs,
    Tick,
    Vacate,
    WatchJobs,
)
from dispy.core.scheduling.ids import (
    EMBEDDED,
    ClientId,
    Key,
    NodeId,
    Seconds,
)
from dispy.core.scheduling.machine import (
    Machine,
)
from dispy.core.scheduling.state import (
    Computation,
    Node,
    Placement,
    Policy,
    State,
)
from dispy.core.scheduling.views import refresh
from dispy.protocol.views import PlacementStatus as Status

__all__ = [
    "EMBEDDED",
    "Action",
    "AddClient",
    "AddComputation",
    "Allocate",
    "AnswerPrinted",
    "AnswerValue",
    "CancelJobs",
    "ClientId",
    "CloseComputation",
    "Computation",
    "DropObjects",
    "Event",
    "FromNodeEvent",
    "Key",
    "LimitClient",
    "LimitNode",
    "LimitUser",
    "Machine",
    "Node",
    "NodeId",
    "NodeLost",
    "NodeSilent",
    "NodeUp",
    "Outbox",
    "Placement",
    "Policy",
    "PutObject",
    "RemoveClient",
    "Seconds",
    "Send",
    "SendFiles",
    "State",
    "Status",
    "SubmitJobs",
    "TellEnded",
    "TellEndedHere",
    "TellFiles",
    "TellNode",
    "TellPlacement",
    "TellPrinted",
    "TellRequeued",
    "TellStarted",
    "TellVacated",
    "TellValue",
    "Tick",
    "Vacate",
    "WatchJobs",
    "refresh",
]
