"""The scheduler's decisions: which job runs where and when, and what happens when a node or a process is lost.

``Machine.handle(event, now)`` changes the state and returns actions. The same machine serves one program
(``JobCluster``) or many (``dispyscheduler``). Its state holds computations, nodes, and a *placement* for each
computation on each node.

Where to look: ``jobs`` has the life of a job, ``retries`` whether it runs again, ``placement`` the dispatch of
waiting jobs to nodes, ``computations`` the life of a computation on a node, ``withdrawal`` how it leaves one,
``nodes`` the connections to nodes, ``objects`` and ``files`` the data that must be there before jobs are, ``explain``
why a job waits.
"""

from dispy.core.scheduling.actions import (
    Action as Action,
)
from dispy.core.scheduling.actions import (
    Outbox as Outbox,
)
from dispy.core.scheduling.actions import (
    Send as Send,
)
from dispy.core.scheduling.actions import (
    TellCredit as TellCredit,
)
from dispy.core.scheduling.actions import (
    TellEnded as TellEnded,
)
from dispy.core.scheduling.actions import (
    TellEndedHere as TellEndedHere,
)
from dispy.core.scheduling.actions import (
    TellFiles as TellFiles,
)
from dispy.core.scheduling.actions import (
    TellNode as TellNode,
)
from dispy.core.scheduling.actions import (
    TellPrinted as TellPrinted,
)
from dispy.core.scheduling.actions import (
    TellRequeued as TellRequeued,
)
from dispy.core.scheduling.actions import (
    TellStarted as TellStarted,
)
from dispy.core.scheduling.actions import (
    TellVacated as TellVacated,
)
from dispy.core.scheduling.actions import (
    TellValue as TellValue,
)
from dispy.core.scheduling.events import (
    AddComputation as AddComputation,
)
from dispy.core.scheduling.events import (
    Allocate as Allocate,
)
from dispy.core.scheduling.events import (
    AnswerValue as AnswerValue,
)
from dispy.core.scheduling.events import (
    CancelJobs as CancelJobs,
)
from dispy.core.scheduling.events import (
    CloseComputation as CloseComputation,
)
from dispy.core.scheduling.events import (
    DropObjects as DropObjects,
)
from dispy.core.scheduling.events import (
    Event as Event,
)
from dispy.core.scheduling.events import (
    FromNodeEvent as FromNodeEvent,
)
from dispy.core.scheduling.events import (
    LimitNode as LimitNode,
)
from dispy.core.scheduling.events import (
    NodeLost as NodeLost,
)
from dispy.core.scheduling.events import (
    NodeSilent as NodeSilent,
)
from dispy.core.scheduling.events import (
    NodeUp as NodeUp,
)
from dispy.core.scheduling.events import (
    PutObject as PutObject,
)
from dispy.core.scheduling.events import (
    SendFiles as SendFiles,
)
from dispy.core.scheduling.events import (
    SubmitJobs as SubmitJobs,
)
from dispy.core.scheduling.events import (
    Tick as Tick,
)
from dispy.core.scheduling.events import (
    Vacate as Vacate,
)
from dispy.core.scheduling.events import (
    WatchJobs as WatchJobs,
)
from dispy.core.scheduling.ids import (
    ClientId as ClientId,
)
from dispy.core.scheduling.ids import (
    NodeId as NodeId,
)
from dispy.core.scheduling.ids import (
    Seconds as Seconds,
)
from dispy.core.scheduling.machine import Machine as Machine
from dispy.core.scheduling.state import Computation as Computation
from dispy.core.scheduling.state import Node as Node
from dispy.core.scheduling.state import Placement as Placement
from dispy.core.scheduling.state import State as State
from dispy.core.scheduling.state import Status as Status
