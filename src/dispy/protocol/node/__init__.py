"""The conversation between a scheduler and a node.

The scheduler dials (for now), both prove that they know the secret (``handshake``), and the
scheduler introduces itself with ``Attach``. The node answers ``Welcome``. After that each side
speaks when it has something to say; everything on the path of a job is a list of jobs.

Job numbers are unique for the life of a client (``Attach.client``); an attempt is one run of a
job. A pair of both is never reused, so a late message can always be told from a current one.
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
    Started,
    TakeBack,
    WatchJobs,
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
    "SetPulse",
    "ShareMemory",
    "Started",
    "TakeBack",
    "ToNode",
    "WallTime",
    "WatchJobs",
    "Welcome",
    "from_node_decoder",
    "to_node_decoder",
]

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
    # Made when first asked for: each takes 2.5 ms, a node and a program need one of them, and what runs jobs none.
    # They ask while they are loaded, since nothing is to be compiled on behalf of strangers.
    if name not in _DECODED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    decoder: Any = msgspec.msgpack.Decoder(_DECODED[name])
    globals()[name] = decoder
    return decoder
