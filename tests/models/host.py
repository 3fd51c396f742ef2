"""A computation host as its node sees it: which messages it answers, and with what.

A pure machine; ``dispy.worker.host`` is what it stands for, and ``tests/models/test_host.py`` says the same to both.

Message or event | What the host does | What it tells the node
--- | --- | ---
``Load``, and the code cannot be read or imported | nothing more | ``LoadFailed`` with the reason
``Load``, and there is no ``setup``, or workers call it | | ``Loaded``
``Load`` otherwise | calls ``setup`` | ``SettingUp`` if there is a limit
``setup`` ends (``end_setup``) | | ``Loaded``, or ``LoadFailed`` with the reason
``Fork`` (``fork``, ``refuse_fork``) | starts a worker | ``WorkerStarted``; ``WorkerExited`` with code 71 if it cannot
``Interrupt``, ``Kill``, ``Unbuffer`` (``find``) | signals the worker; nothing if it has ended | nothing
a worker ends (``reap``) | kills what it has left behind | ``WorkerExited`` with its exit code, once
"""

from __future__ import annotations

from typing import Generic, TypeVar

from dispy.protocol.worker import FromHost, Load, Loaded, LoadFailed, SettingUp, WorkerExited, WorkerStarted

NO_PROCESS = 71
"""Exit code that is told for a worker whose process could not be started."""

W = TypeVar("W")


class Host(Generic[W]):
    """A host process.

    Attributes:
        load: The computation; None until the node has sent it.
        is_setting_up: True while ``setup`` runs in the host.
        is_loaded: True once workers can be forked.
        workers: Workers that live, by number.
    """

    def __init__(self) -> None:
        self.load: Load | None = None
        self.is_setting_up = False
        self.is_loaded = False
        self.workers: dict[int, W] = {}

    def begin_load(self, load: Load, reason: str = "", has_setup: bool = True) -> FromHost | None:
        """Load a computation. ``reason``: why its code cannot be had, if so."""
        assert self.load is None, "a host is told to load twice"
        self.load = load
        self.is_setting_up = has_setup and not load.setup_per_worker and not reason
        if not self.is_setting_up:
            return self.end_setup(reason)
        return SettingUp() if load.setup_timeout_s else None

    def end_setup(self, reason: str = "") -> FromHost:
        """Say that the computation is loaded, or why it cannot be."""
        self.is_setting_up = False
        self.is_loaded = not reason
        return LoadFailed(reason) if reason else Loaded()

    def fork(self, number: int, worker: W, pid: int) -> FromHost:
        """Start a worker."""
        assert self.is_loaded, "a worker before its computation is loaded"
        assert number not in self.workers, "a worker is forked twice"
        self.workers[number] = worker
        return WorkerStarted(number, pid)

    def refuse_fork(self, number: int, reason: str) -> FromHost:
        """Say that no process can be started."""
        return WorkerExited(number, NO_PROCESS, reason)

    def find(self, number: int) -> W | None:
        """The worker that a signal is for; None if it has ended, or never was."""
        return self.workers.get(number)

    def reap(self, number: int, code: int) -> FromHost | None:
        """Say how a worker has ended; None if that was said before."""
        return WorkerExited(number, code) if self.workers.pop(number, None) is not None else None
