"""The messages between a program and a shared scheduler (``dispyscheduler``).

The scheduler is to its programs what an embedded one is to the program that it is part of: each method of the seam
``client.backend.backend`` is a message here. The program dials, and both sides prove that they know the secret
(``protocol.handshake``). Then:

    program → scheduler   Attach     who dials, and which messages of the scheduler it has
    scheduler → program   Welcome    who answers, and which messages of the program it has

After that either side sends a message whenever there is news. *Numbered* messages (field ``batch``) are kept until
the other side has them (``Received``), and are sent again over the next connection: none is lost or comes twice
(``net.links.channel``). A payload of ``INLINE_MAX`` bytes and more is a *blob*: it follows its message, which says
where it belongs (``Large``), and other messages may pass both.

A recovery attaches in the name of a program that has died, and says so in ``Attach``. It asks what there is
(``Recover``), and closes clusters once it has all of them.

Clusters and jobs go by the program's own numbers: nobody can name those of another program. Nodes go by ``NodeId``.

The modules: ``commands`` (program → scheduler), ``news`` (scheduler → program), ``links`` (both ways). Import from
this package. Tags and the order of fields are the wire format: new fields go last, with a default.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from dispy.protocol.node import SetPulse
from dispy.protocol.shared.commands import (
    Allocate,
    AnswerPrinted,
    AnswerValue,
    CancelJobs,
    CloseCluster,
    Command,
    Discover,
    DropObjects,
    LimitNode,
    OpenCluster,
    PlaceFiles,
    PutObject,
    SendFiles,
    Submit,
    Vacate,
    WatchJobs,
    Wish,
)
from dispy.protocol.shared.links import (
    Answer,
    Ask,
    Attach,
    Blob,
    Detach,
    Held,
    Large,
    Leaving,
    Question,
    Received,
    Recover,
    RunningJob,
    Welcome,
)
from dispy.protocol.shared.news import (
    Available,
    Ended,
    EndedHere,
    FilesNeeded,
    FilesPlaced,
    News,
    NodeChanged,
    NodeGone,
    Offer,
    Placed,
    PrintedOutput,
    Refused,
    Requeued,
    Standstill,
    Started,
    Unreachable,
    Usable,
    Value,
    Window,
)

__all__ = [
    "Allocate",
    "Answer",
    "AnswerPrinted",
    "AnswerValue",
    "Ask",
    "Attach",
    "Available",
    "Blob",
    "CancelJobs",
    "CloseCluster",
    "Command",
    "Detach",
    "Discover",
    "DropObjects",
    "Ended",
    "EndedHere",
    "FilesNeeded",
    "FilesPlaced",
    "FromScheduler",
    "Held",
    "Large",
    "Leaving",
    "LimitNode",
    "News",
    "NodeChanged",
    "NodeGone",
    "Offer",
    "OpenCluster",
    "PlaceFiles",
    "Placed",
    "PrintedOutput",
    "PutObject",
    "Question",
    "Received",
    "Recover",
    "Refused",
    "Requeued",
    "RunningJob",
    "SendFiles",
    "SetPulse",
    "Standstill",
    "Started",
    "Submit",
    "ToScheduler",
    "Unreachable",
    "Usable",
    "Vacate",
    "Value",
    "WatchJobs",
    "Welcome",
    "Window",
    "Wish",
    "from_scheduler_decoder",
    "to_scheduler_decoder",
]

ToScheduler = Attach | Command | Received | Blob | Ask | Recover | SetPulse | Detach
FromScheduler = Welcome | News | Received | Blob | Answer | Held | Leaving

if TYPE_CHECKING:
    to_scheduler_decoder: msgspec.msgpack.Decoder[ToScheduler]
    from_scheduler_decoder: msgspec.msgpack.Decoder[FromScheduler]

_DECODED = {"to_scheduler_decoder": ToScheduler, "from_scheduler_decoder": FromScheduler}


def __getattr__(name: str) -> Any:
    # As in ``protocol.node``: a decoder takes milliseconds to make, and each process needs one of the two.
    if name not in _DECODED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    decoder: Any = msgspec.msgpack.Decoder(_DECODED[name])
    globals()[name] = decoder
    return decoder
