"""dispy: run Python functions on every CPU you can find.

Public names are loaded from their modules when they are first used.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

from dispy import config as config

if TYPE_CHECKING:
    from dispy import job as job
    from dispy.client.cluster import JobCluster as JobCluster
    from dispy.client.compat import AddrInfo as AddrInfo
    from dispy.client.compat import host_addrinfo as host_addrinfo
    from dispy.client.compat import num_max as num_max
    from dispy.client.compat import num_min as num_min
    from dispy.client.in_asyncio.ended_jobs import aas_completed as aas_completed
    from dispy.client.job import DispyJob as DispyJob
    from dispy.client.logger import logger as logger
    from dispy.client.nodes import DispyNode as DispyNode
    from dispy.client.nodes import DispyNodeAvailInfo as DispyNodeAvailInfo
    from dispy.client.nodes import NodeAllocate as NodeAllocate
    from dispy.client.recover import recover_jobs as recover_jobs
    from dispy.client.recovery.dead_programs import DeadProgram as DeadProgram
    from dispy.client.recovery.dead_programs import recoverable as recoverable
    from dispy.client.session.objects import Ref as Ref
    from dispy.client.shared import SharedJobCluster as SharedJobCluster
    from dispy.client.shown.cluster_status import ClusterStatus as ClusterStatus
    from dispy.client.shown.frames import frame as frame
    from dispy.client.shown.progress import progress as progress
    from dispy.client.waiting import ALL_COMPLETED as ALL_COMPLETED
    from dispy.client.waiting import FIRST_COMPLETED as FIRST_COMPLETED
    from dispy.client.waiting import FIRST_EXCEPTION as FIRST_EXCEPTION
    from dispy.client.waiting import DoneAndNotDone as DoneAndNotDone
    from dispy.client.waiting import as_completed as as_completed
    from dispy.client.waiting import wait as wait
    from dispy.errors import DispyError as DispyError
    from dispy.integrations.executor import Executor as Executor
    from dispy.integrations.executor import WorkerDied as WorkerDied
    from dispy.integrations.registering import register_joblib as register_joblib
    from dispy.protocol.output_reader import Output as Output

__version__ = "5.0"

__all__ = [
    "ALL_COMPLETED",
    "FIRST_COMPLETED",
    "FIRST_EXCEPTION",
    "DispyJob",
    "DispyNode",
    "Executor",
    "JobCluster",
    "NodeAllocate",
    "SharedJobCluster",
    "WorkerDied",
    "aas_completed",
    "as_completed",
    "frame",
    "logger",
    "progress",
    "register_joblib",
    "wait",
]

_HOMES = {
    "ALL_COMPLETED": "dispy.client.waiting",
    "FIRST_COMPLETED": "dispy.client.waiting",
    "FIRST_EXCEPTION": "dispy.client.waiting",
    "DoneAndNotDone": "dispy.client.waiting",
    "aas_completed": "dispy.client.in_asyncio.ended_jobs",
    "as_completed": "dispy.client.waiting",
    "wait": "dispy.client.waiting",
    "AddrInfo": "dispy.client.compat",
    "host_addrinfo": "dispy.client.compat",
    "num_max": "dispy.client.compat",
    "num_min": "dispy.client.compat",
    "ClusterStatus": "dispy.client.shown.cluster_status",
    "DeadProgram": "dispy.client.recovery.dead_programs",
    "DispyError": "dispy.errors",
    "DispyJob": "dispy.client.job",
    "DispyNode": "dispy.client.nodes",
    "DispyNodeAvailInfo": "dispy.client.nodes",
    "Executor": "dispy.integrations.executor",
    "JobCluster": "dispy.client.cluster",
    "NodeAllocate": "dispy.client.nodes",
    "Output": "dispy.protocol.output_reader",
    "Ref": "dispy.client.session.objects",
    "SharedJobCluster": "dispy.client.shared",
    "WorkerDied": "dispy.integrations.executor",
    "frame": "dispy.client.shown.frames",
    "logger": "dispy.client.logger",
    "progress": "dispy.client.shown.progress",
    "recover_jobs": "dispy.client.recover",
    "recoverable": "dispy.client.recovery.dead_programs",
    "register_joblib": "dispy.integrations.registering",
}
"""Module of each public name, by the name. A module is loaded when the name is first used: importing dispy costs a
program little until it makes a cluster."""


_GONE = {
    "auth_code": "nobody sends a code made of the secret any more; both sides prove that they know it, see "
    "docs/explanation/security.md",
}
"""Reasons why names of dispy 4 will not come back, by name: the end of the text of the ``AttributeError``."""


def __getattr__(name: str) -> Any:
    """Load a public name from its module, and keep it here. Python calls this for names that are not here yet.

    Raises:
        AttributeError: There is no such name; the text says why, for names of dispy 4.
    """
    if name == "job":
        import dispy.job

        return dispy.job
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'dispy' has no attribute {name!r}{_why_not(name)}")
    value = globals()[name] = getattr(_loaded(home), name)
    return value


def _loaded(home: str) -> ModuleType:
    """Returns a module of ours, loaded without garbage collections, which find nothing then: a tenth of the time."""
    import gc
    import importlib

    was_enabled = gc.isenabled()
    gc.disable()
    try:
        return importlib.import_module(home)
    finally:
        if was_enabled:
            gc.enable()


def _why_not(name: str) -> str:
    """Returns the end of the error text for a missing name: why it is gone, or what to use until it comes.

    Empty for a name that dispy 4 did not have.
    """
    if name in _GONE:
        return f": {_GONE[name]}"
    from dispy.not_yet import MODULES, not_yet

    later = MODULES.get(f"dispy.{name}")
    return f": {not_yet('it', later)}" if later is not None else ""


def _moved(name: str) -> property:
    """Returns a property for a setting that has moved to ``config``, by its name: reading and assigning it reach
    ``config``, with a ``DeprecationWarning``.
    """

    def warn() -> None:
        import warnings

        warnings.warn(f"dispy.{name} is now called dispy.config.{name}", DeprecationWarning, stacklevel=3)

    def get(module: ModuleType) -> Any:
        warn()
        return getattr(config, name)

    def set_(module: ModuleType, value: Any) -> None:
        warn()
        setattr(config, name, value)

    return property(get, set_)


class _Module(ModuleType):
    """Type of the module ``dispy``. Its properties see assignments, which a module's ``__getattr__`` does not."""

    MsgTimeout = _moved("MsgTimeout")
    MaxFileSize = _moved("MaxFileSize")

    def __reduce__(self) -> tuple[Any, ...]:
        # Functions that use ``dispy`` are pickled together with it; a module must be pickled by its name.
        import importlib

        return importlib.import_module, (self.__name__,)


sys.modules[__name__].__class__ = _Module


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES, "job"})
