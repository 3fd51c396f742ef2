"""``dispy.progress``: what becomes of jobs, drawn while they run.

Theory of operation. A thread takes an overview of the jobs, draws it, and pauses: for some tenths of a second, and
for ``SHARE`` times the CPU time that it has just used. So a display costs a program no more than that share of a CPU,
however many jobs and nodes there are. Where it draws is a *surface*: a terminal, the output of a cell, or a log.
"""

from __future__ import annotations

import atexit
import logging
import os
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Any, Protocol

from dispy.client.arguments import check_flag
from dispy.client.job import DispyJob
from dispy.client.logger import notice
from dispy.client.map.map_results import MapResults
from dispy.client.session.state import Session
from dispy.client.shown.overview import Meter, Overview, progress_line
from dispy.client.shown.survey import JobSurvey, survey
from dispy.client.waiting import as_completed, check_jobs
from dispy.errors import UsageError
from dispy.system import process_identity

logger = logging.getLogger("dispy.client")

SHARE = 250
"""Pause between two states, in units of the CPU time that the last one took: a display costs 0.4 % of a CPU."""

PAUSE_MAX_S = 30.0
"""Longest pause between two states (seconds)."""

LINE_S = 10.0
"""Seconds between two lines of progress in a log."""

JOIN_S = 2.0
"""Seconds that the end of a display waits for a state that is being drawn, on a terminal that stands still, say."""


class Watched(Protocol):
    """A cluster, or an executor: anything with the record of a cluster."""

    _session: Session


class Surface(Protocol):
    """Where progress is drawn.

    Attributes:
        least_s: Least time between two states (seconds).
    """

    @property
    def least_s(self) -> float: ...

    def show(self, shown: Overview) -> None:
        """Draw a state, the first one at once."""

    def close(self, shown: Overview) -> None:
        """Draw the last state, and leave things as they were before."""


def progress(source: Watched | Iterable[DispyJob], *, quiet: bool = False) -> Progress:
    """Draw what becomes of jobs: how many are done, run, wait and have failed, how fast, for how long still, on which
    nodes; and why nothing runs.

    In a loop jobs come as they end, as from ``as_completed``; in a ``with`` block it draws while the block works::

        for job in dispy.progress(jobs):
            print(job.result)
        with dispy.progress(cluster):
            results = list(cluster.map(items))

    On a terminal bars are drawn if rich is installed (``dispy[progress]``), on error output; in a notebook a table;
    elsewhere a line is logged every ten seconds, or printed to error output if the program has no log. To draw is no
    look at a failure: those that nobody has looked at are reported at the end of the program.

    Args:
        source: Jobs; or a cluster or executor, of which all is drawn that begins or ends from now on.
        quiet: True: nothing is logged or printed where there is neither a terminal nor a notebook.

    Returns:
        An object for one loop or ``with`` block. By itself it draws nothing.

    Raises:
        UsageError: The argument is neither jobs nor a cluster, or the cluster is closed.
    """
    return Progress(source, quiet=check_flag("quiet", quiet))


class Progress:
    """A display of progress, made by ``dispy.progress``."""

    def __init__(self, source: Watched | Iterable[DispyJob], *, quiet: bool) -> None:
        self._is_used = True  # until it is made: an error is enough
        self._take: Callable[[], Overview]
        """Function that returns the present state, without rate and time."""
        self._jobs: list[DispyJob] | None = None
        """Jobs to draw; None: all of the cluster."""
        if isinstance(source, MapResults):
            raise UsageError(
                "progress takes a cluster or jobs, not the results of a map",
                hint="with dispy.progress(cluster): for result in cluster.map(items): …",
            )
        session = getattr(source, "_session", None) if not isinstance(source, DispyJob) else None
        if isinstance(session, Session):
            session.check_open()
            self._take = _since(session)
        else:
            self._jobs = list(check_jobs(source, "progress", "give a cluster, or a list of jobs"))  # type: ignore[arg-type]
            self._take = JobSurvey(self._jobs).take
        self._quiet = quiet
        self._depth = 0
        """Number of blocks and loops that are in it: the first one begins the display, and the last one ends it."""
        self._pid = process_identity.pid
        self._surface: Surface | None = None
        self._ending = threading.Event()
        self._thread: threading.Thread | None = None
        self._begun = 0.0
        """When the display began (monotonic, seconds)."""
        self._is_used = False

    def __iter__(self) -> Iterator[DispyJob]:
        jobs = self._jobs
        if jobs is None:
            self._is_used = True
            raise UsageError(
                "progress of a cluster is no iterator over jobs: a cluster keeps none that have ended",
                hint="for job in dispy.progress(jobs), or: with dispy.progress(cluster): cluster.wait()",
            )
        return self._each(jobs)

    def _each(self, jobs: list[DispyJob]) -> Iterator[DispyJob]:
        """Yield jobs as they end, and draw meanwhile."""
        with self:
            yield from as_completed(jobs)

    def __enter__(self) -> Progress:
        self._is_used = True
        self._depth += 1
        if self._depth == 1:
            self._begin()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._depth -= 1
        if not self._depth:
            self._end()

    def __del__(self) -> None:
        if not self._is_used:
            warnings.warn(
                "dispy.progress was called, and nothing was drawn: write 'with dispy.progress(cluster):' or "
                "'for job in dispy.progress(jobs):'",
                RuntimeWarning,
                stacklevel=2,
            )

    def __repr__(self) -> str:
        return f"<dispy.progress {progress_line(self._take())}>" if self._is_used else "<dispy.progress>"

    def _begin(self) -> None:
        """Draw the first state, and start the thread that draws the others."""
        begun = time.thread_time()
        shown = self._take()
        used_s = time.thread_time() - begun  # of what comes again: what is imported now is not
        self._begun = time.monotonic()
        self._meter = Meter(shown.ended, self._begun)
        self._ending.clear()
        surface = self._surface = choose_surface(self._quiet)
        if surface is None:
            return
        atexit.register(self._end)  # a loop that the end of the program has left is not told of it
        if self._draw(surface, shown):
            args = surface, _pause_s(surface, used_s)
            thread = threading.Thread(target=self._run, args=args, name="dispy progress", daemon=True)
            try:
                thread.start()
                self._thread = thread
            except RuntimeError as error:  # there are too many: the work goes on, and its end is drawn
                logger.debug("progress is not drawn meanwhile: %r", error)

    def _run(self, surface: Surface, pause_s: float) -> None:
        """Draw states until the display ends, or until nothing can be drawn any more; on the display's thread.

        Args:
            surface: Where.
            pause_s: Pause before the first of them (seconds).
        """
        while not self._ending.wait(pause_s):
            begun = time.thread_time()
            if not self._draw(surface, self._look()):
                return
            pause_s = _pause_s(surface, time.thread_time() - begun)

    def _draw(self, surface: Surface, shown: Overview) -> bool:
        """Draw a state; False, with a line in the log, if that fails, as the terminal is gone: the work goes on."""
        try:
            surface.show(shown)
        except Exception as error:
            logger.debug("progress is not drawn any more: %r", error)
            return False
        return True

    def _look(self) -> Overview:
        """Returns the present state."""
        now = time.monotonic()
        shown = self._take()
        return shown._replace(rate=self._meter.rate(shown.ended, now), age_s=now - self._begun)

    def _end(self) -> None:
        """Draw the last state, and give the terminal back. In a fork: do nothing, all of it is the parent's."""
        surface, self._surface = self._surface, None
        if surface is None or self._pid != os.getpid():
            return
        atexit.unregister(self._end)
        self._ending.set()
        try:
            if self._thread is not None and self._thread is not threading.current_thread():
                self._thread.join(JOIN_S)
        finally:
            _release(surface)
            try:
                shown = self._look()
                if shown.age_s:  # over the whole time: what one wants to know in the end
                    shown = shown._replace(rate=self._meter.mean(shown.ended, shown.age_s))
                surface.close(shown)
            except Exception as error:
                logger.debug("the end of progress is not drawn: %r", error)


def _pause_s(surface: Surface, used_s: float) -> float:
    """Returns the pause after a state (seconds), by the CPU time that it has taken (seconds)."""
    return min(max(surface.least_s, SHARE * used_s), PAUSE_MAX_S)


def _since(session: Session) -> Callable[[], Overview]:
    """Returns a function that surveys a cluster, without the jobs that have ended by now."""
    before = survey(session)

    def take() -> Overview:
        shown = survey(session)
        return shown._replace(
            done=shown.done - before.done,
            failed=shown.failed - before.failed,
            cancelled=shown.cancelled - before.cancelled,
            failure=shown.failure if shown.failed > before.failed else "",
        )

    return take


# Surfaces.


class Lines:
    """Progress in a log: a line every ``LINE_S`` seconds, and one at the end (``Surface``)."""

    least_s = LINE_S

    def show(self, shown: Overview) -> None:
        """Log a line; none in the first moment, when there is nothing to say."""
        if shown.age_s is not None:
            notice(progress_line(shown))

    def close(self, shown: Overview) -> None:
        """Log the last line."""
        notice(progress_line(shown))


_drawing: list[Surface] = []
"""Surface that draws on the terminal now; empty: none. A second one at the same time would draw over it."""
_guard = threading.Lock()
"""Guards ``_drawing`` between threads of the program that begin a display at once."""


def choose_surface(quiet: bool) -> Surface | None:
    """Returns where to draw; None: nowhere, as ``quiet`` asks for that and there is nobody to look."""
    from dispy.client.shown import notebook

    if notebook.is_here():
        return notebook.ProgressOutput()
    if _is_terminal(sys.stderr):
        with _guard:
            bars = None if _drawing else _bars()
            if bars is not None:
                _drawing.append(bars)
                return bars
        return Lines()
    return None if quiet else Lines()


def _release(surface: Surface) -> None:
    """Note that a surface does not draw any more."""
    with _guard:
        if surface in _drawing:
            _drawing.remove(surface)


def _is_terminal(stream: Any) -> bool:
    """True if a stream is a terminal; False, too, of a closed one, and of what a program has put in its place."""
    try:
        return bool(stream.isatty())
    except (AttributeError, OSError, ValueError):
        return False


def _bars() -> Surface | None:
    """Returns bars on the terminal; None if rich is not installed, or the terminal cannot move its cursor."""
    if os.environ.get("TERM", "") in ("", "dumb", "unknown"):
        return None
    try:
        from dispy.client.shown.terminal import Bars
    except ImportError:
        return None
    return Bars(takes_stdout=_is_terminal(sys.stdout))
