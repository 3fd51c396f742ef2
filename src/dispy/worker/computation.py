"""Loading a computation: its code, the documented names, the modules that it needs, and ``setup``.

By default all of it happens once, in the host, and workers have it by being forked. With ``setup_per='worker'`` the
host only reads the code; each worker imports it and calls ``setup`` (``worker_process``).
"""

from __future__ import annotations

import logging
import os
import sys
import traceback
from collections.abc import Callable
from types import ModuleType
from typing import Any

from dispy import payload
from dispy.errors import DispyError
from dispy.protocol.worker import FromHost, Load, Loaded, LoadFailed
from dispy.system.escaping import sendable
from dispy.system.free_space import Room, fits_in_memory
from dispy.worker import setup
from dispy.worker.job_api import job_namespace
from dispy.worker.job_api.job_calls import JobCalls
from dispy.worker.job_api.random_numbers import Randomness
from dispy.worker.program import Program

REASON_MAX = 60_000
"""Longest text that tells the node why loading failed, or why a worker ended (characters); the beginning of a longer
traceback is left out."""

_MODULES_SIZE = 8 * 1024 * 1024
"""Free memory below which the directory for the modules that came with the code is on disk (bytes), not in memory. A
host writes the file of each module there when the module is imported."""


class Computation:
    """The computation of a host: its code, once loaded, and the calls of ``setup`` and ``cleanup``.

    Args:
        load: Message that the computation came with.
        randomness: Random generators of this process.
        calls: Functions that jobs find under documented names.
        logger: The logger that jobs find as ``dispynode_logger``.

    Attributes:
        load: Message that the computation came with.
        code: Code of the computation; None until it is imported.
        logger: The logger that jobs find as ``dispynode_logger``.
    """

    def __init__(self, load: Load, randomness: Randomness, calls: JobCalls, logger: logging.Logger) -> None:
        self.load = load
        self.code: payload.Code | None = None
        self._data = b""
        """Pickled code: read from its file by ``begin``, unpickled by ``import_code``, which workers call if
        ``setup`` is called in each of them."""
        self._names: dict[str, Any] = {}
        """The documented names, such as ``dispy_node_name``, with their values; empty until ``begin``."""
        self._finder: payload.Finder
        """Finds the modules that came with the code, and collects warnings about those that fail; set by
        ``begin``."""
        self._randomness = randomness
        self._calls = calls
        self.logger = logger

    def begin(self, say_setting_up: Callable[[], None]) -> FromHost:
        """Read the code; import it and call ``setup`` unless each worker does that itself.

        Args:
            say_setting_up: Tells the node that ``setup`` begins, from when its time limit counts.

        Returns:
            ``Loaded`` with a warning, or ``LoadFailed`` with the reason.
        """
        load = self.load
        try:
            os.chdir(load.work_path)
            sys.path.insert(0, load.work_path)
            with open(load.code_path, "rb") as file:
                self._data = file.read()
            os.unlink(load.code_path)
            self._offer_names()
        except OSError as error:
            return LoadFailed(f"the computation cannot be loaded on {load.node_name}: {error}")
        if load.setup_per_worker:
            return Loaded("")
        reason = self.import_code()
        if reason:
            return LoadFailed(reason)
        assert self.code is not None
        code = self.code
        said = [*self._finder.warnings]
        started_by = "importing your modules"
        if code.setup is not None:
            started_by = "setup"
            if load.setup_timeout_s:
                say_setting_up()
            reason = self.set_up()
            if reason:
                return LoadFailed(reason)
        said.append(setup.threads_left(started_by))
        said.append(self._randomness.take(code.seeding, load.isolate))
        return Loaded("; ".join(filter(None, said)))

    def import_code(self) -> str:
        """Unpickle the code and import the modules that it needs; returns why that failed, empty if it did not."""
        load = self.load
        try:
            code = payload.load_code(self._data)
            if isinstance(code.function, Program):
                code.function.arrive(load.work_path, load.node_name)
            job_namespace.inject(code.namespace, code.modules, self._names)
        except DispyError as error:
            return f"the computation cannot be loaded on {load.node_name}: {error}"[:REASON_MAX]
        except BaseException as error:
            job_namespace.note_missing(error, load.node_name, load.work_path)
            return load_failed(load, error)
        self.code = code
        return ""

    def set_up(self) -> str:
        """Call ``setup``; returns why it failed, empty if it did not."""
        load = self.load
        assert self.code is not None
        reason = setup.set_up(self.code, load.setup_timeout_s, load.node_name, load.work_path)
        return f"setup failed on {load.node_name}: {sendable(reason)}"[:REASON_MAX] if reason else ""

    def clean_up(self) -> None:
        """Call ``cleanup``, if the computation was imported; what it raises is logged."""
        if self.code is not None:
            setup.clean_up(self.code, self.load.name, self.logger)

    def room(self) -> Room:
        """Returns the directories in which workers look for large payloads and write them: in memory (empty if there
        is none), and on disk."""
        load = self.load
        is_on_disk = load.segment_path == load.disk_path
        return Room("" if is_on_disk else load.segment_path, load.disk_path)

    def _offer_names(self) -> None:
        """Make all code of this process find the documented names, and the modules that came with the computation's
        code. Called by ``begin``, before that code is imported."""
        load = self.load
        self._names = job_namespace.offer(
            node_name=load.node_name,
            node_ip_addr=load.node_ip_addr,
            job_path=load.work_path,
            provisional_result=self._calls.provisional_result,
            send_file=self._calls.send_file,
            job_seed=self._calls.job_seed,
            node_logger=self.logger,
        )
        is_memory_small = load.disk_path and not fits_in_memory(load.segment_path, _MODULES_SIZE)
        place = load.disk_path if is_memory_small else load.segment_path
        self._finder = payload.begin_worker(
            f"{place}/modules-{os.getpid()}", load.work_path, self._on_imported
        )

    def _on_imported(self, module: ModuleType) -> None:
        """Give a module of the user's that has just been imported the documented names and random numbers."""
        job_namespace.replace(module, self._names)
        self._randomness.imported(module)


def load_failed(load: Load, error: BaseException) -> str:
    """Returns the reason of a failure to load: the last ``REASON_MAX`` characters of the traceback of ``error``."""
    text = sendable("".join(traceback.format_exception(error)))
    return f"the computation cannot be loaded on {load.node_name}:\n{text[-REASON_MAX:]}"
