"""Every exception of dispy: one tree, split by who can do something about it.

Each error says what happened, to what, and, as ``hint``, what to do next.
"""

from __future__ import annotations


class DispyError(Exception):
    """Base of all errors that dispy raises on purpose.

    Args:
        message: What happened, and to what.
        hint: What to do next; shown behind the message.
    """

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(f"{message}; {hint}" if hint else message)
        self.hint = hint


# The caller can act.


class UsageError(DispyError):
    """A call, argument or option that cannot work as given."""


class NotYetError(UsageError):
    """A documented feature that this version does not offer yet."""


class MissingModuleError(NotYetError, ModuleNotFoundError):
    """A module of dispy 4 that this version does not offer yet; ``except ImportError`` sees it, too."""


class PicklingError(UsageError):
    """A function, argument or result that cannot be sent to another process."""


# The peer can act.


class RemoteProtocolError(DispyError):
    """A peer said something that the protocol does not allow."""


class AuthenticationError(DispyError):
    """A peer does not know our secret, or we do not know its."""


class VersionError(DispyError):
    """A peer speaks no version of the protocol that we speak."""


class SilenceError(DispyError):
    """A peer was not heard of for longer than the limit."""


# The environment can act.


class NoNodesError(DispyError):
    """No node answered where one was expected."""


class NodeLostError(DispyError):
    """A node that was running jobs is gone."""


class StateDirectoryError(DispyError):
    """The user's state or runtime directory is unusable or unsafe."""


# The user's job.


class JobError(DispyError):
    """A job did not end by returning: it was killed, cancelled, or its worker died."""


class ProgramError(JobError):
    """A program that is a computation could not be started, or was killed.

    Args:
        message: What happened, and to what.
        hint: What to do next.
        died: It ran and was killed, though nobody had asked for that.
    """

    def __init__(self, message: str, *, hint: str = "", died: bool = False) -> None:
        super().__init__(message, hint=hint)
        self.died = died


class RemoteTraceback(JobError):
    """The traceback of a job's exception, as text, from where it ran."""

    def __init__(self, text: str) -> None:
        super().__init__("\n" + text)
        self.text = text

    def __reduce__(self) -> tuple[type[RemoteTraceback], tuple[str]]:
        return RemoteTraceback, (self.text,)


# We have to act.


class InternalError(DispyError):
    """Something that cannot happen if our code is right. Please report it."""
