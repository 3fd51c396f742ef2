"""The messages between a scheduler and a node. A node knows its scheduler as its *client*.

The scheduler dials, and both sides prove that they know the secret (``protocol.handshake``). Then:

    scheduler → node   Attach                 who dials, and which batches of results it has
    node → scheduler   Welcome                who answers, and whether it knows the client already
    scheduler → node   Reconcile or Recover   which jobs should be there, or: which jobs are there?
    node → scheduler   Reconciled or Held     which jobs are missing, or which are there

After that either side sends a message whenever there is news; none waits for an answer. Jobs, results and
cancellations travel as lists, so that the cost of a message is shared by many jobs.

Numbers of computations are unique for the life of a client (``Attach.client``), those of jobs for the life of a
computation. An attempt is one run of a job, counted from 0. A pair of number and attempt is never reused in its
computation, so a late message can always be told from a current one.

The modules, by subject: ``jobs`` (jobs, results, output), ``computations`` (code, credit, objects), ``files``,
``connections`` (introduction, recovery, heartbeat, offered CPUs), ``fields`` (bounds of all field types). Import from
this package. Tags and the order of fields are the wire format: change neither; new fields go last, with a default.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from dispy.protocol.node.computations import (
    CloseComputation,
    ComputationFailed,
    ComputationReady,
    Compute,
    Credit,
    DropObjects,
    NodeCredit,
    ObjectStored,
    PutObject,
)
from dispy.protocol.node.connections import (
    DRAINING,
    Attach,
    Available,
    Detach,
    Held,
    HeldJobs,
    Leaving,
    LimitCpus,
    NodeCpus,
    Reconcile,
    Reconciled,
    Recover,
    SetPulse,
    ShareMemory,
    Welcome,
)
from dispy.protocol.node.fields import (
    Captured,
    Count,
    Files,
    Glimpse,
    Identity,
    Inline,
    Name,
    Number,
    Percent,
    Reason,
    WallTime,
)
from dispy.protocol.node.files import (
    FileData,
    FilePiece,
    FilesPlaced,
    FilesProgress,
    FileUnreadable,
    NeedFiles,
    Piece,
    PlaceFiles,
)
from dispy.protocol.node.jobs import (
    ABANDONED,
    CANCELLED,
    FINISHED,
    TERMINATED,
    Acknowledge,
    AcknowledgePrinted,
    AcknowledgeProvisional,
    Attempt,
    CancelJobs,
    Ended,
    FilePart,
    Given,
    Job,
    JobFiles,
    JobsEnded,
    JobsListed,
    JobsPrinted,
    JobsReturned,
    JobsStarted,
    ListJobs,
    Printed,
    Provisional,
    RunJobs,
    Segment,
    Started,
    Streamed,
    TakeBack,
    WatchJobs,
    Where,
)

__all__ = [
    "ABANDONED",
    "CANCELLED",
    "DRAINING",
    "FINISHED",
    "TERMINATED",
    "Acknowledge",
    "AcknowledgePrinted",
    "AcknowledgeProvisional",
    "Attach",
    "Attempt",
    "Available",
    "CancelJobs",
    "Captured",
    "CloseComputation",
    "ComputationFailed",
    "ComputationReady",
    "Compute",
    "Count",
    "Credit",
    "Detach",
    "DropObjects",
    "Ended",
    "FileData",
    "FilePart",
    "FilePiece",
    "FileUnreadable",
    "Files",
    "FilesPlaced",
    "FilesProgress",
    "FromNode",
    "Given",
    "Glimpse",
    "Held",
    "HeldJobs",
    "Identity",
    "Inline",
    "Job",
    "JobFiles",
    "JobsEnded",
    "JobsListed",
    "JobsPrinted",
    "JobsReturned",
    "JobsStarted",
    "Leaving",
    "LimitCpus",
    "ListJobs",
    "Name",
    "NeedFiles",
    "NodeCpus",
    "NodeCredit",
    "Number",
    "ObjectStored",
    "Percent",
    "Piece",
    "PlaceFiles",
    "Printed",
    "Provisional",
    "PutObject",
    "Reason",
    "Reconcile",
    "Reconciled",
    "Recover",
    "RunJobs",
    "Segment",
    "SetPulse",
    "ShareMemory",
    "Started",
    "Streamed",
    "TakeBack",
    "ToNode",
    "WallTime",
    "WatchJobs",
    "Welcome",
    "Where",
    "from_node_decoder",
    "to_node_decoder",
]

# Each side decodes with the union of messages that the other may send: any other message ends the connection.
ToNode = (
    Attach
    | Reconcile
    | Compute
    | RunJobs
    | CancelJobs
    | TakeBack
    | CloseComputation
    | Acknowledge
    | AcknowledgeProvisional
    | Detach
    | ShareMemory
    | PutObject
    | DropObjects
    | WatchJobs
    | AcknowledgePrinted
    | Recover
    | LimitCpus
    | SetPulse
    | ListJobs
    | FileData
    | FileUnreadable
    | PlaceFiles
)
FromNode = (
    Welcome
    | ComputationReady
    | ComputationFailed
    | NodeCredit
    | Credit
    | JobsStarted
    | JobsEnded
    | JobsReturned
    | Provisional
    | Reconciled
    | Leaving
    | NodeCpus
    | ObjectStored
    | JobsPrinted
    | Held
    | JobsListed
    | Available
    | NeedFiles
    | FilesProgress
    | FilesPlaced
)

if TYPE_CHECKING:
    to_node_decoder: msgspec.msgpack.Decoder[ToNode]
    from_node_decoder: msgspec.msgpack.Decoder[FromNode]

_DECODED = {"to_node_decoder": ToNode, "from_node_decoder": FromNode}


def __getattr__(name: str) -> Any:
    # Decoders are made when first asked for: each takes 2.5 ms. A node and a program need one of them each, and
    # processes that run jobs need none. Importers ask at import time, so that no stranger makes a node compile one.
    if name not in _DECODED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    decoder: Any = msgspec.msgpack.Decoder(_DECODED[name])
    globals()[name] = decoder
    return decoder
