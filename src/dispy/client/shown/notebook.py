"""Displays in notebooks: one that follows a cluster, and one of progress.

Theory of operation. A display is an output of a cell with an id of its own; a later message with this id replaces it
wherever it is shown, so that a notebook that is saved has the last state. A display that follows a cluster has a
thread, which sends such a message every ``UPDATE_S`` seconds if anything has changed. It ends when the cluster is
closed: ``Session.displays`` tells it, and the thread that closes the cluster sends the last state itself. So that
state is there when the cell ends, and no thread is left behind. A cluster that nobody displays has no thread.
"""

from __future__ import annotations

import logging
import secrets
import sys
import threading
from typing import TYPE_CHECKING, Any

from dispy.client.shown.overview import Overview, cluster_line, progress_line
from dispy.client.shown.survey import survey
from dispy.client.shown.tables import cluster_html

if TYPE_CHECKING:
    from dispy.client.session.state import Session

logger = logging.getLogger("dispy.client")

UPDATE_S = 1.0
"""Least time between two updates of a display (seconds): each goes into the notebook's connection, and is drawn by a
browser."""


def is_here() -> bool:
    """True if the program is the kernel of a notebook, so that there is something to display in."""
    ipython: Any = sys.modules.get("IPython")
    shell = ipython.get_ipython() if hasattr(ipython, "get_ipython") else None
    return getattr(shell, "kernel", None) is not None


class Output:
    """One output of a cell, which later states replace.

    Attributes:
        id: Identity of the output, which the notebook knows it by.
    """

    def __init__(self) -> None:
        self.id = f"dispy-{secrets.token_hex(8)}"
        self._last = ""
        """HTML that was sent last: the same is not sent again."""

    def show(self, html: str, text: str, *, is_new: bool = False) -> None:
        """Show a state, unless it is what is shown.

        Args:
            html: The state, for browsers.
            text: The state in one line, for all that shows no HTML.
            is_new: True: in the cell that runs now, where it stays; False: replace the state where it is shown.
        """
        if html == self._last and not is_new:
            return
        from IPython.display import display

        data = {"text/html": html, "text/plain": text}
        display(data, raw=True, display_id=self.id, update=not is_new)  # type: ignore[no-untyped-call]
        self._last = html


class Follower:
    """A display that follows a cluster until it is closed."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._output = Output()
        self._guard = threading.Lock()
        """Held while a state is taken and sent: the last one sent is the newest."""
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="dispy display", daemon=True)

    def begin(self) -> None:
        """Show the cluster in the cell that runs now, and follow it."""
        self.show(is_new=True)
        self._thread.start()

    def show(self, *, is_new: bool = False) -> None:
        """Show the cluster as it is now: ``is_new``: in the cell that runs now, too."""
        with self._guard:
            shown = survey(self._session)
            self._output.show(cluster_html(shown), cluster_line("JobCluster", shown), is_new=is_new)

    def finish(self) -> None:
        """Show the last state of the cluster, and end; on the thread that closes it. Never raises."""
        self._ending.set()
        self._try_show()
        self._session.displays.discard(self)

    def _run(self) -> None:
        """Show each new state until ``finish``, or until nothing can be shown any more; on the display's thread."""
        while not self._ending.wait(UPDATE_S):
            if self._session.is_closed or not self._try_show():
                self._session.displays.discard(self)  # another look at the cluster begins anew
                return

    def _try_show(self) -> bool:
        """Show the cluster as it is now; False, with a line in the log, if that fails: the kernel ends, say."""
        try:
            self.show()
        except Exception as error:
            logger.debug("a display of cluster %s ends: %r", self._session.name, error)
            return False
        return True


def follow(session: Session) -> None:
    """Show a cluster in the cell that runs now, and follow it until it is closed.

    A cluster has one display, however often and in however many cells it is shown: all show the same state.
    """
    known = [display for display in list(session.displays) if isinstance(display, Follower)]
    if known:
        known[0].show(is_new=True)
        return
    display = Follower(session)
    session.displays.add(display)
    display.begin()


class ProgressOutput:
    """Progress in a notebook: a table in the cell that runs now (``progress.Surface``)."""

    least_s = UPDATE_S

    def __init__(self) -> None:
        self._output = Output()
        self._is_new = True

    def show(self, shown: Overview) -> None:
        """Show the progress as it is now."""
        self._output.show(cluster_html(shown), progress_line(shown), is_new=self._is_new)
        self._is_new = False

    def close(self, shown: Overview) -> None:
        """Show the last state, which stays."""
        self.show(shown)
