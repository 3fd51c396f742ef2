"""A program as computation: a file that is started once for each job, with the job's arguments.

The program inherits the worker's descriptors 1 and 2, so that its output is captured, bounded and followed as that of
functions is. As it is a child of the worker, processes that it starts are found and killed as those of functions are.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from dispy.errors import ProgramError
from dispy.system.processes import describe_exit

VALUE_MAX = 32 * 1024
"""Longest global that is put into the environment of a program (characters); longer ones are left out. The kernel
takes 128 KiB for one variable."""

_INTERRUPT = {signal.SIGINT}
"""Signals that are blocked while a program is started: one that came before its pid is known could not be passed
on."""

# Python ignores these, and what it starts would go on ignoring them.
_DEFAULT_SIGNALS = [
    getattr(signal, name) for name in ("SIGPIPE", "SIGXFZ", "SIGXFSZ") if hasattr(signal, name)
]


_BUSY_TRIES, _BUSY_S = 50, 0.01
"""Number of retries, and pause before each (seconds), if the program's file is open for writing (ETXTBSY); then the
job fails."""


class Program:
    """A program: made by the client, pickled as the function of the computation, called in workers.

    Args:
        name: Name of its file, which is in the working directory.
        java: Path of Java on nodes, as the client expects it; if it is not there, ``java`` in the PATH serves.
    """

    def __init__(self, name: str, java: str) -> None:
        self.name = name
        self._java = java
        self._node = ""
        """Name of the node, for errors; empty in the client."""
        self._path = ""
        """Path of the program's file on this node; empty in the client."""
        self._environment: dict[str, str] = {}
        """Environment of the program, by the name of the variable: made once in each worker. Only ``dispy_job_id``
        and ``dispy_job_seed`` are set anew for each job."""
        self._namespace: dict[str, Any] = {}
        """Globals of the computation, where the id and the seed of the running job are found."""
        self._is_live: Callable[[], bool] = bool
        """Returns True if the output of the running job is followed: Python programs are then started without
        buffers."""

    def arrive(self, directory: str, node: str) -> None:
        """Note the working directory and the node's name; called once, in the host."""
        self._node = node
        self._path = f"{directory}/{self.name}"

    def begin(self, namespace: dict[str, Any], is_live: Callable[[], bool]) -> None:
        """Make the environment of all jobs; called in each worker, when ``setup`` has run.

        Args:
            namespace: Globals of the computation: those that are strings or numbers become variables.
            is_live: Returns True if a program follows the output of the job now.
        """
        variables = dict(os.environ)
        variables["PATH"] = f"{os.path.dirname(self._path)}{os.pathsep}{variables.get('PATH', os.defpath)}"
        for name, value in namespace.items():
            if type(value) in (str, int) and not name.startswith("_"):
                text = str(value)
                if len(text) <= VALUE_MAX and "\0" not in text:
                    variables[name] = text
        self._environment = variables
        self._namespace = namespace
        self._is_live = is_live

    def __call__(self, *args: Any) -> int:
        """Run the program to its end.

        Returns:
            Exit code of the program; 0 if the job was cancelled and the program has ended in good order.

        Raises:
            ProgramError: The program could not be started, or was killed by a signal.
            KeyboardInterrupt: The job was cancelled, and the program has not ended with exit code 0.
        """
        command = [*self._command(), *map(as_text, args)]
        job_id = self._namespace.get("dispy_job_id")
        self._environment["dispy_job_id"] = str(job_id) if type(job_id) in (str, int) else ""
        self._environment["dispy_job_seed"] = str(self._namespace["dispy_job_seed"]())
        pid = 0
        try:
            # An interrupt that came after the start and before the pid is known could not be passed on.
            signal.pthread_sigmask(signal.SIG_BLOCK, _INTERRUPT)
            try:
                pid = self._start(command)
            finally:
                signal.pthread_sigmask(signal.SIG_UNBLOCK, _INTERRUPT)
            _, status = os.waitpid(pid, 0)
        except KeyboardInterrupt:
            # A program that tidies up and ends with 0 has ended in good order; any other has been cancelled.
            if _interrupt(pid) != 0:
                raise
            return 0
        except (OSError, ValueError) as error:
            raise self._failed(command[0], error) from None
        code = os.waitstatus_to_exitcode(status)
        if code < 0:
            raise ProgramError(
                f"program {self.name!r} was killed by {describe_exit(code)} on node {self._node}", died=True
            )
        return code

    def _start(self, command: list[str]) -> int:
        """Start the program and return its pid; retries while its file is open for writing (``_BUSY_TRIES``).

        Raises:
            OSError: The program cannot be started.
            ValueError: An argument has a null character, or half of a surrogate pair.
        """
        tries = 0
        while True:
            try:
                # A group of its own: an interrupt is for all of it, as a Ctrl-C is at a terminal.
                return os.posix_spawn(
                    command[0],
                    command,
                    self._environment,
                    setpgroup=0,
                    setsigmask=(),
                    setsigdef=_DEFAULT_SIGNALS,
                )
            except OSError as error:
                # The node has just written the file, and a process that it forked at that moment still has it open.
                if error.errno != errno.ETXTBSY or tries == _BUSY_TRIES:
                    raise
                tries += 1
                time.sleep(_BUSY_S)

    def _command(self) -> list[str]:
        """Returns the words of the command line before the job's arguments, by the ending of the file's name: Python
        and the file for ``.py``, Java and the file for ``.java``, else the file alone."""
        if self.name.endswith(".py"):
            # Output that a program follows must not wait in a buffer.
            return [sys.executable, "-u", self._path] if self._is_live() else [sys.executable, self._path]
        if self.name.lower().endswith(".java"):
            import shutil  # here: it costs 3 ms, with all the formats that it can unpack, at the start of every host

            java = shutil.which(self._java) or shutil.which("java")
            if java is None:
                raise ProgramError(
                    f"program {self.name!r} needs Java, and there is none on node {self._node}",
                    hint=f"install it there; {self._java} and PATH were looked at (dispy.config.Java)",
                )
            return [java, self._path]
        return [self._path]

    def _failed(self, command: str, error: OSError | ValueError) -> ProgramError:
        """Returns the error to raise for a program that could not be started; its hint says what the user can change,
        if that is known. ``command`` is the path that was to be executed."""
        what = f"program {self.name!r} cannot be started on node {self._node}"
        code = error.errno if isinstance(error, OSError) else None
        if code == errno.ENOEXEC:
            hint = "it is made for another platform, or is a script without a first line such as #!/bin/sh"
        elif code == errno.ENOENT and _has_windows_line_ends(command):
            hint = "its lines end as on Windows, and no interpreter has such a name; convert it (dos2unix)"
        elif code == errno.ENOENT and os.path.exists(command):
            hint = "the interpreter that its first line names, or the loader that it was linked for, is not there"
        elif code == errno.EACCES and os.access(command, os.X_OK):
            hint = "the interpreter that its first line names cannot be executed"
        elif code == errno.EACCES:
            hint = (
                "check its executable bit, and that the file system of the working directory is not mounted "
                "noexec (dispynode --dest_path_prefix)"
            )
        elif code == errno.E2BIG:
            hint = "its arguments and environment are too long; put them into a file"
        elif code is None:
            hint = "no argument may hold a null character, or half of a surrogate pair"
        else:
            hint = ""
        return ProgramError(f"{what}: {error}", hint=hint)


def _has_windows_line_ends(path: str) -> bool:
    """True if the first line of a script ends as on Windows (CR LF), so that its interpreter is not found.

    False if the file cannot be read. For the hint of an error.
    """
    try:
        with open(path, "rb") as file:
            return file.readline(256).endswith(b"\r\n")
    except OSError:
        return False


def as_text(value: Any) -> str:
    """Returns a job's argument as a word of the command line: bytes and paths as file names, others by ``str``."""
    return os.fsdecode(value) if isinstance(value, (bytes, os.PathLike)) else str(value)


def _interrupt(pid: int) -> int:
    """Send SIGINT to a program's process group and wait for the program's end, with no limit of time.

    A program that does not end is killed by the node, together with this worker. Returns the program's exit code, -1
    if that is not known.

    Args:
        pid: Process of the program; 0 if it has not been started.
    """
    if not pid:
        return -1  # the interrupt came before the program was started
    with suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGINT)
    try:
        _, status = os.waitpid(pid, 0)
    except ChildProcessError:
        return -1
    return os.waitstatus_to_exitcode(status)
