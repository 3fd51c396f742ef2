"""How files get to where they are wanted: which are fetched from whom, in which order, and whose turn a thread takes.

``Machine.handle(event, now)`` changes the state and returns actions. A *stage* is a set of files that something waits
for, in a directory or for now in a store; a *fetch* is one file that is not in the store of its owner yet, and may
serve several stages of this owner; a *part* is an attempt to receive it. Suppliers are asked for pieces, and threads
of the shell look, copy, hash and write.

Where to look: ``stages`` has the life of a stage, ``parts`` that of a file on its way, ``fetches`` who is asked for
it, ``requests`` the order of requests and how much is asked for at once, ``thread_turns`` whose work a thread does
next, ``suppliers`` who is connected, ``progress`` what users are shown.
"""

from dispy.core.staging.actions import (
    Action,
    Close,
    Discard,
    Dropped,
    Ended,
    Finish,
    Left,
    Look,
    Open,
    Piece,
    Place,
    Search,
    Tell,
    Trim,
    Wake,
    Write,
)
from dispy.core.staging.events import (
    Arrived,
    Connected,
    Drop,
    Event,
    Leave,
    Lost,
    Outcome,
    PartBusy,
    PartFailed,
    PartFinished,
    PartNeedless,
    PartOpened,
    Placed,
    Searched,
    Sent,
    StageFailed,
    Tick,
    Trimmed,
    Unreadable,
    Want,
    Written,
    Wrote,
)
from dispy.core.staging.ids import DirectoryName, PartId, Seconds, StageId, StoreName, SupplierId
from dispy.core.staging.machine import Machine
from dispy.core.staging.state import Limits, Phase, State
from dispy.core.staging.thread_turns import LOOKERS, PLACERS

__all__ = [
    "LOOKERS",
    "PLACERS",
    "Action",
    "Arrived",
    "Close",
    "Connected",
    "DirectoryName",
    "Discard",
    "Drop",
    "Dropped",
    "Ended",
    "Event",
    "Finish",
    "Leave",
    "Left",
    "Limits",
    "Look",
    "Lost",
    "Machine",
    "Open",
    "Outcome",
    "PartBusy",
    "PartFailed",
    "PartFinished",
    "PartId",
    "PartNeedless",
    "PartOpened",
    "Phase",
    "Piece",
    "Place",
    "Placed",
    "Search",
    "Searched",
    "Seconds",
    "Sent",
    "StageFailed",
    "StageId",
    "State",
    "StoreName",
    "SupplierId",
    "Tell",
    "Tick",
    "Trim",
    "Trimmed",
    "Unreadable",
    "Wake",
    "Want",
    "Write",
    "Written",
    "Wrote",
]
