"""All exceptions of dispy: one tree, grouped by who can act on them (caller, peer, environment, the user's job, we).

Each error says what happened, to what, and, as ``hint``, what to do next.
"""

from __future__ import annotations


class DispyError(Exception):
    """Base class of all errors that dispy raises on purpose.

    Args:
        message: What happened, and to what.
        hint: What to do next; part of the text, behind the message. Empty: no advice.
    """

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(f"{message}; {hint}" if hint else message)
        self.hint = hint


# The caller can act.


class UsageError(DispyError):
    """A call, argument or option cannot work as given."""


class NotYetError(UsageError):
    """A documented feature of dispy 4 is not available in this version yet."""


class MissingModuleError(NotYetError, ModuleNotFoundError):
    """A module of dispy 4 is not available in this version yet. ``except ImportError`` catches this, too."""


class PicklingError(UsageError):
    """A function, argument or result cannot be sent to another process."""


# The peer can act.


class RemoteProtocolError(DispyError):
    """A peer has sent something that the protocol does not allow; the connection to it ends."""


class AuthenticationError(DispyError):
    """A peer does not know our secret, or we do not know the peer's."""


class VersionError(DispyError):
    """A peer speaks no version of the protocol that we speak."""


class SilenceError(DispyError):
    """A peer has sent nothing for longer than the limit (see ``net.heartbeat``)."""


# The environment can act.


class NoNodesError(DispyError):
    """No node answered where one was expected."""


class NodeLostError(DispyError):
    """A node that was running jobs is gone, and its jobs with it."""


class StateDirectoryError(DispyError):
    """The user's state or runtime directory is unusable or unsafe."""


# The user's job.


class JobError(DispyError):
    """A job did not end by returning: it was killed, cancelled, or its worker died."""


class ProgramError(JobError):
    """The program of a computation (a path, not a function) could not be started, or was killed.

    Args:
        message: What happened, and to what.
        hint: What to do next.
        died: True if the program ran and was killed, but not by dispy: the job may run again.
    """

    def __init__(self, message: str, *, hint: str = "", died: bool = False) -> None:
        super().__init__(message, hint=hint)
        self.died = died


class RemoteTraceback(JobError):
    """The traceback of a job's exception, as text made on the node. It is the ``__cause__`` of the exception."""

    def __init__(self, text: str) -> None:
        super().__init__("\n" + text)
        self.text = text

    def __reduce__(self) -> tuple[type[RemoteTraceback], tuple[str]]:
        return RemoteTraceback, (self.text,)


# dispy's developers have to act.


class InternalError(DispyError):
    """A state that cannot occur if dispy's code is right. Please report it."""
