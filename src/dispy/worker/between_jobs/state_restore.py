"""State of a worker that a job may change, put back before the next job: see docs/explanation/between-jobs.md.

Theory of operation. Most changes are noticed at the function that makes them (``os.chdir``, ``signal.signal``, …),
which is replaced by one that notes the call; so a change costs time only in the job that makes it. Directory and
umask, which C code may change as well, are set again after every record in any case. State that no function changes
is compared after every job: 0.2 us for streams, warning filters, context, asyncio and multiprocessing. A worker in
which a job has changed what cannot be put back takes no other job (``Restorer.is_spoiled``).
"""

from __future__ import annotations

import _posixsubprocess
import contextlib
import contextvars
import functools
import os
import resource
import signal
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any, TypeVar

from dispy.worker.between_jobs.interpreter_settings import Settings, is_importing
from dispy.worker.output_capture import Capture

_SPOILING: dict[Any, tuple[str, ...]] = {
    resource: ("setrlimit", "prlimit"),
    os: (
        "chroot", "nice", "sched_setaffinity", "sched_setscheduler", "setegid", "seteuid", "setgid", "setpgid",
        "setpriority", "setregid", "setresgid", "setresuid", "setreuid", "setsid", "setuid",
    ),
}  # fmt: skip
"""Names of functions that change a process for good, or may, by module: a worker whose job has called one takes no
other job."""


_TEMPORARY = {"TMPDIR", "TEMP", "TMP"}
"""Environment variables that ``tempfile`` reads once: if a job has changed one, the directory that ``tempfile`` has
read from them is put back, too."""

_modules: dict[str, Any] = sys.modules
"""Modules of this process, by name. State of a module is put back only if the module is loaded: nothing is
imported."""

T = TypeVar("T")
R = TypeVar("R")


class Restorer:
    """The state of a worker as it is before every job.

    The host makes the object before it loads code of the user's, which could otherwise import the functions as they
    are before they are watched (``from signal import signal``). ``note`` takes the state that is to be put back; it
    is called in the host as well, so that a worker need not do it again (0.8 ms). ``begin`` is called in each worker.

    Attributes:
        context: Context (``contextvars``) that jobs run in, as long as none has left a variable of it changed.
        is_context_changed: True once a job has changed context variables and not put them back: from then on each job
            is to be called by ``run``.
        has_spawned: True if a process was started since the worker last set this to False: it then looks for
            processes that the job has left behind.
        is_spoiled: True once a job has changed what cannot be put back: limits, priority, affinity, identity. The
            worker then ends, and takes no other job.
    """

    def __init__(self) -> None:
        self._capture: Capture
        """Output of jobs, whose streams and descriptors are put back; set by ``begin``."""
        self._directory = -1
        """Descriptor of the working directory, to which the process returns after a job; -1 until ``note``."""
        self._umask = 0o22
        """Umask that each job begins with."""
        self._environment: dict[str, str] = {}
        """Environment that each job begins with, by the name of the variable."""
        self._temporary: str | None = None
        """Directory of ``tempfile`` that each job begins with; None if it has not been asked for."""
        self._start_context: Any = None
        """Way in which ``multiprocessing`` starts processes, as each job begins with; None if none has been
        chosen."""
        self._handlers: dict[int, Any] = {}
        """Signal handlers that the running job has replaced, by the number of the signal: they are put back."""
        self._filters: list[Any] = []
        """Copy of the warning filters that each job begins with."""
        self._filters_list = warnings.filters
        """List object that holds the warning filters: a job may put another list in its place, or change its
        content."""
        self._stdin = sys.stdin
        """Object that ``sys.stdin`` is put back to."""
        self.context = contextvars.copy_context()
        self._clean_context = self.context
        """Copy of ``context`` that no job runs in: compared with it after each job, and copied for ``run``."""
        self.is_context_changed = False
        self._settings = Settings()
        """Settings of the interpreter and of C libraries, with the values to put back."""
        self._changed: set[str] = set()
        """Topics of state that the running job has changed: "environment", "signals", "place" (directory and umask),
        "descriptors" (of the output). Empty after most jobs: then only what is compared after every job is looked
        at."""
        self.has_spawned = False
        # As they are before they are watched: putting back must not count as a change.
        self._unsetenv = os.unsetenv
        self._fchdir = os.fchdir
        self._set_umask = os.umask
        self._put: set[str] = set()
        """Names of environment variables that the running job has set or removed."""
        self.is_spoiled = False
        self._watch()

    def note(self, directory: str) -> None:
        """Take the state of now as the one that is to be put back: directory, umask, environment, warning filters.

        Call this after ``setup``, whose changes are to stay.

        Args:
            directory: The working directory.
        """
        self._directory = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._umask = os.umask(0o22)
        os.umask(self._umask)
        self._environment = dict(os.environ)
        self._temporary = getattr(sys.modules.get("tempfile"), "tempdir", None)
        self._filters = list(warnings.filters)
        self._filters_list = warnings.filters
        if "multiprocessing" in _modules:
            self._start_context = _modules["multiprocessing"].context._default_context._actual_context

    def begin(self, capture: Capture) -> None:
        """Forget the changes up to now, and take the streams and the context of this worker; called before its first
        job.

        Args:
            capture: The worker's output.
        """
        self._capture = capture
        self._stdin = sys.stdin
        self._handlers.clear()
        self._changed.clear()
        self._put.clear()
        self._settings.forget()
        self.has_spawned = self.is_spoiled = False
        self.context = contextvars.copy_context()
        self._clean_context = self.context.copy()

    def _watch(self) -> None:
        """Replace the functions that change state by ones that note the call. Called once, when the object is
        made."""
        for name in ("putenv", "unsetenv"):
            self._watch_environment(name)
        for module, names in _SPOILING.items():
            for name in names:
                self._watch_spoiling(module, name)
        self._watch_handlers()
        for name in ("alarm", "setitimer", "pthread_sigmask", "siginterrupt", "set_wakeup_fd"):
            self._wrap(signal, name, "signals")
        for name in ("chdir", "fchdir", "umask"):
            self._wrap(os, name, "place")
        for name in ("dup2", "close", "closerange"):
            self._wrap(os, name, "descriptors")
        os.register_at_fork(after_in_parent=self._on_spawn)
        for name in ("posix_spawn", "posix_spawnp", "system"):
            self._wrap_spawn(os, name)
        self._wrap_spawn(_posixsubprocess, "fork_exec")
        subprocess = sys.modules.get("subprocess")
        if subprocess is not None and hasattr(subprocess, "_fork_exec"):
            self._wrap_spawn(subprocess, "_fork_exec")

    def _watch_environment(self, name: str) -> None:
        """Replace ``os.putenv`` or ``os.unsetenv`` by a function that notes which variable is changed.

        A change by a module that is being imported stays (``_keep_variable``).
        """
        original = getattr(os, name)

        @functools.wraps(original)
        def watched(key: Any, *value: Any) -> Any:
            if is_importing():
                self._keep_variable(os.fsdecode(key), *map(os.fsdecode, value))
            else:
                self._changed.add("environment")
                self._put.add(os.fsdecode(key))
            return original(key, *value)

        setattr(os, name, watched)

    def _keep_variable(self, name: str, value: str | None = None) -> None:
        """Add an environment variable that a module has set (``value`` None: removed) while it was imported to those
        that each job begins with, as the module stays, too."""
        if value is None:
            self._environment.pop(name, None)
        else:
            self._environment[name] = value

    def _watch_spoiling(self, module: Any, name: str) -> None:
        """Replace a function whose effect cannot be put back by one that sets ``is_spoiled`` and calls the function.

        Does nothing if this system lacks the function.
        """
        original: Callable[..., Any] | None = getattr(module, name, None)
        if original is None:
            return

        @functools.wraps(original)
        def watched(*args: Any, **kwargs: Any) -> Any:
            self.is_spoiled = True
            return original(*args, **kwargs)

        setattr(module, name, watched)

    def _watch_handlers(self) -> None:
        """Replace ``signal.signal`` by a function that notes the handler before the first change by a job."""
        original = signal.signal
        handlers = self._handlers

        @functools.wraps(original)
        def watched(signalnum: Any, handler: Any) -> Any:
            before = original(signalnum, handler)
            handlers.setdefault(int(signalnum), before)
            self._changed.add("signals")
            return before

        signal.signal = watched
        self._set_handler = original

    def _wrap(self, module: Any, name: str, topic: str) -> None:
        """Replace a function by one that adds ``topic`` to ``_changed``, and calls the function.

        ``os.close`` counts as a change only for descriptors 0 to 2. Does nothing if this system lacks the function.
        """
        original: Callable[..., Any] | None = getattr(module, name, None)
        if original is None:
            return
        changed = self._changed

        @functools.wraps(original)
        def watched(*args: Any, **kwargs: Any) -> Any:
            if topic != "descriptors" or name != "close" or (args and args[0] in (0, 1, 2)):
                changed.add(topic)
            return original(*args, **kwargs)

        setattr(module, name, watched)

    def _wrap_spawn(self, module: Any, name: str) -> None:
        """Replace a function that starts a process by one that sets ``has_spawned``, if the system has it."""
        original: Callable[..., Any] | None = getattr(module, name, None)
        if original is None:
            return

        @functools.wraps(original)
        def watched(*args: Any, **kwargs: Any) -> Any:
            self.has_spawned = True
            return original(*args, **kwargs)

        setattr(module, name, watched)

    def _on_spawn(self) -> None:
        """Set ``has_spawned``: called in the parent after each fork that Python knows of."""
        self.has_spawned = True

    def restore(self, is_last: bool) -> None:
        """Put back what the last job changed; called after every job.

        Sets ``is_spoiled`` if a setting cannot be put back, and ``is_context_changed`` if a context variable differs:
        context variables are not put back, but later jobs begin with a new context (``run``).

        Args:
            is_last: True after the last job of a record: directory and umask are set even if no change was seen,
                as C code may change them unseen. False: only after a job that was seen to change something, which
                spares system calls per job.
        """
        if is_last or self._changed:
            self._fchdir(self._directory)
            self._set_umask(self._umask)
        capture = self._capture
        if sys.stdout is not capture.out or sys.stderr is not capture.err or sys.stdin is not self._stdin:
            sys.stdin = self._stdin
            capture.restore()
        if warnings.filters is not self._filters_list or self._filters_list != self._filters:
            warnings.filters = self._filters_list
            warnings.filters[:] = self._filters  # type: ignore[index]  # a list at run time
            getattr(warnings, "_filters_mutated", lambda: None)()
        if self._changed:
            self._restore_changed()
        if self._settings.before and not self._settings.put_back():
            self.is_spoiled = True
        if "asyncio.events" in _modules and _modules["asyncio.events"]._event_loop_policy is not None:
            _renew_event_loop()
        if (
            "multiprocessing.context" in _modules
            and _modules["multiprocessing.context"]._default_context._actual_context
            is not self._start_context
        ):
            self._restore_start_method()
        try:
            if self.context != self._clean_context:
                self.is_context_changed = True
        except Exception:  # raised by a comparison of two values, which therefore differ
            self.is_context_changed = True

    def run(self, function: Callable[[T], R], argument: T) -> R:
        """Call a function in a context of its own, with the context variables that a worker begins with.

        Called for each job once ``is_context_changed`` is True. Returns the function's result; errors pass through.
        """
        return self._clean_context.copy().run(function, argument)

    def _restore_environment(self) -> None:
        """Put back the environment variables, and the values that C and ``tempfile`` have read from them."""
        changed = self._put.copy()
        for name in set(os.environ) - set(self._environment):
            del os.environ[name]
        os.environ.update(self._environment)
        for name in self._put - set(self._environment):
            with contextlib.suppress(OSError, ValueError):
                self._unsetenv(name)
        self._put.clear()
        # Values that were read from the environment and are kept elsewhere. C reads TZ even if Python does not ask it
        # to.
        if "TZ" in changed:
            time.tzset()
        if not changed.isdisjoint(_TEMPORARY) and "tempfile" in _modules:
            _modules["tempfile"].tempdir = self._temporary

    def _restore_start_method(self) -> None:
        """Put back the start method of ``multiprocessing``, which may be chosen only once in a process."""
        context = self._start_context
        _modules["multiprocessing"].set_start_method(context and context.get_start_method(), force=True)

    def _restore_changed(self) -> None:
        """Put back the topics in ``_changed``, except the directory and the umask, which ``restore`` has set."""
        if "environment" in self._changed:
            self._restore_environment()
        if "signals" in self._changed:
            signal.alarm(0)
            for timer in (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF):
                signal.setitimer(timer, 0)
            signal.set_wakeup_fd(-1)
            signal.pthread_sigmask(signal.SIG_SETMASK, set())
            for number, handler in self._handlers.items():
                if handler is not None:  # a handler that was not set from Python cannot be put back
                    self._set_handler(number, handler)
            self._handlers.clear()
            for number in (signal.SIGINT, signal.SIGURG):
                # Set anew: after ``siginterrupt`` system calls may go on, and a job that waits in one would miss the
                # signal.
                self._set_handler(number, signal.getsignal(number))
        if "descriptors" in self._changed:
            self._capture.restore()
        self._changed.clear()


def _renew_event_loop() -> None:
    """Let asyncio make a new loop for the next job, if the last has closed its loop or asyncio.run has removed it.

    An open loop stays, like everything that modules keep for the next job.
    """
    local = getattr(_modules["asyncio.events"]._event_loop_policy, "_local", None)
    if local is not None and vars(local):
        loop = getattr(local, "_loop", None)
        if loop is None or loop.is_closed():
            vars(local).clear()
