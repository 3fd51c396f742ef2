"""Signal handlers of hosts and workers, set again whenever code of the user's may have changed them."""

from __future__ import annotations

import signal
from collections.abc import Callable
from types import FrameType

Handler = Callable[[int, FrameType | None], None]
"""Signal handler: called with the signal's number and the frame that was interrupted."""

_set_handler = getattr(signal.signal, "__wrapped__", signal.signal)
"""Function in C behind ``signal.signal``: without the conversion to enumerations, which costs a fresh process 0.1 ms,
and not watched by ``Restorer``, so that handlers of ours do not count as a job's change."""


def set_host_handlers(on_term: Handler, on_unbuffer: Handler, wake: int) -> None:
    """Set the handlers of a host: at its start, and when user code was loaded. No signal is blocked.

    Args:
        on_term: Handler of SIGTERM.
        on_unbuffer: Handler of SIGURG.
        wake: Descriptor that each signal writes a byte to, which wakes the host's loop.
    """
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
        signal.signal(number, on_woken)
    signal.signal(signal.SIGTERM, on_term)
    # SIGURG is ignored by programs that do not know it, such as those that jobs start. System calls are interrupted
    # by it, or a job that waits in one would not notice; Python takes them up again.
    signal.signal(signal.SIGURG, on_unbuffer)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def on_woken(number: int, frame: object) -> None:
    """Do nothing: a host's handler of SIGCHLD, SIGINT and SIGHUP. The wake-up descriptor tells its loop.

    SIGINT and SIGHUP are not meant for a host. They are not ignored, since the programs that ``setup`` starts would
    inherit that.
    """


def set_worker_handlers(on_interrupt: Handler, on_unbuffer: Handler) -> None:
    """Set the handlers of a worker: those of a fresh program where the host had its own. No signal is blocked.

    Args:
        on_interrupt: Handler of SIGINT.
        on_unbuffer: Handler of SIGURG.
    """
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD):
        _set_handler(number, signal.SIG_DFL)
    _set_handler(signal.SIGINT, on_interrupt)
    _set_handler(signal.SIGURG, on_unbuffer)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
