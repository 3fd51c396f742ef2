"""The node's decisions: which worker runs which job, what each client may send, and what is told to whom.

``Machine.handle(event, now)`` changes the state and returns actions. A *host* is the process that has loaded a
computation; it forks *workers*, which run jobs. A job is *ready* (in the queue of its computation), in a *record* (a
batch of jobs) that was offered to a worker, or ended. No job that has not started is stuck: a record that its worker
has not taken is recalled through the kernel, and the rest of a record that it has taken is cut off through the
worker's slot in shared memory.

Where to look: ``jobs`` has the life of a job, ``workers`` that of a worker and its records, ``dispatch`` what a free
CPU gets, ``fair_shares`` whose turn it is and the credit of clients, ``computations`` loading and restarts,
``clients`` who is connected, away or gone, ``retention`` the results kept for them, ``live_output`` what running jobs
print, ``job_files`` the files of jobs, ``draining`` how the node is emptied, ``explain`` what stands still.
"""

from dispy.core.execution.actions import (
    Action as Action,
)
from dispy.core.execution.actions import (
    Cut as Cut,
)
from dispy.core.execution.actions import (
    Drained as Drained,
)
from dispy.core.execution.actions import (
    DropNote as DropNote,
)
from dispy.core.execution.actions import (
    Erase as Erase,
)
from dispy.core.execution.actions import (
    FlushSoon as FlushSoon,
)
from dispy.core.execution.actions import (
    ForkWorker as ForkWorker,
)
from dispy.core.execution.actions import (
    InterruptWorker as InterruptWorker,
)
from dispy.core.execution.actions import (
    KillWorker as KillWorker,
)
from dispy.core.execution.actions import (
    Look as Look,
)
from dispy.core.execution.actions import (
    NoteOpen as NoteOpen,
)
from dispy.core.execution.actions import (
    Offer as Offer,
)
from dispy.core.execution.actions import (
    Outbox as Outbox,
)
from dispy.core.execution.actions import (
    Pass as Pass,
)
from dispy.core.execution.actions import (
    Place as Place,
)
from dispy.core.execution.actions import (
    Recall as Recall,
)
from dispy.core.execution.actions import (
    Release as Release,
)
from dispy.core.execution.actions import (
    StageFiles as StageFiles,
)
from dispy.core.execution.actions import (
    StageJob as StageJob,
)
from dispy.core.execution.actions import (
    StartHost as StartHost,
)
from dispy.core.execution.actions import (
    StopHost as StopHost,
)
from dispy.core.execution.actions import (
    Store as Store,
)
from dispy.core.execution.actions import (
    Tell as Tell,
)
from dispy.core.execution.actions import (
    TellStored as TellStored,
)
from dispy.core.execution.actions import (
    Unbuffer as Unbuffer,
)
from dispy.core.execution.actions import (
    UnstageJobs as UnstageJobs,
)
from dispy.core.execution.events import (
    ClientAttached as ClientAttached,
)
from dispy.core.execution.events import (
    ClientSilent as ClientSilent,
)
from dispy.core.execution.events import (
    CpusChanged as CpusChanged,
)
from dispy.core.execution.events import (
    Drain as Drain,
)
from dispy.core.execution.events import (
    Event as Event,
)
from dispy.core.execution.events import (
    FilesFailed as FilesFailed,
)
from dispy.core.execution.events import (
    FilesReady as FilesReady,
)
from dispy.core.execution.events import (
    Flush as Flush,
)
from dispy.core.execution.events import (
    FromClient as FromClient,
)
from dispy.core.execution.events import (
    Glimpse as Glimpse,
)
from dispy.core.execution.events import (
    HostFailed as HostFailed,
)
from dispy.core.execution.events import (
    HostReady as HostReady,
)
from dispy.core.execution.events import (
    JobFilesReady as JobFilesReady,
)
from dispy.core.execution.events import (
    JobRefused as JobRefused,
)
from dispy.core.execution.events import (
    Looked as Looked,
)
from dispy.core.execution.events import (
    Ran as Ran,
)
from dispy.core.execution.events import (
    Recalled as Recalled,
)
from dispy.core.execution.events import (
    Restored as Restored,
)
from dispy.core.execution.events import (
    ShortOfRoom as ShortOfRoom,
)
from dispy.core.execution.events import (
    Stopping as Stopping,
)
from dispy.core.execution.events import (
    Stored as Stored,
)
from dispy.core.execution.events import (
    Tick as Tick,
)
from dispy.core.execution.events import (
    ValueSent as ValueSent,
)
from dispy.core.execution.events import (
    WorkerDying as WorkerDying,
)
from dispy.core.execution.events import (
    WorkerExited as WorkerExited,
)
from dispy.core.execution.ids import (
    ClientId as ClientId,
)
from dispy.core.execution.ids import (
    Key as Key,
)
from dispy.core.execution.ids import (
    Seconds as Seconds,
)
from dispy.core.execution.ids import (
    WorkerId as WorkerId,
)
from dispy.core.execution.machine import Machine as Machine
from dispy.core.execution.state import RECORD_US as RECORD_US
from dispy.core.execution.state import UNLIMITED as UNLIMITED
from dispy.core.execution.state import UNTOLD as UNTOLD
from dispy.core.execution.state import Client as Client
from dispy.core.execution.state import Computation as Computation
from dispy.core.execution.state import Grant as Grant
from dispy.core.execution.state import State as State
from dispy.core.execution.state import Status as Status
from dispy.core.execution.state import Worker as Worker
