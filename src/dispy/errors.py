"""All exceptions of dispy: one tree, grouped by who can act on them (caller, peer, environment, the user's job, we).

Each error says what happened, to what, and, as ``hint``, what to do next.
"""

from __future__ import annotations


class DispyError(Exception):
    """Base class of all errors that dispy raises on purpose: ``except dispy.DispyError`` catches them all.

    Args:
        message: Text that says what happened, and to what.
        hint: Advice what to do next; part of the text, behind the message. Empty: no advice.

    Attributes:
        hint: Advice what to do next; empty: none.
    """

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(f"{message}; {hint}" if hint else message)
        self.hint = hint


# The caller can act.


class UsageError(DispyError):
    """A call, argument, option or file cannot work as given: the caller has to change it."""


class NotYetError(UsageError):
    """A documented feature of dispy 4 is not available in this version yet; the text says what to use instead."""


class MissingModuleError(NotYetError, ModuleNotFoundError):
    """A module of dispy 4 is not available in this version yet. ``except ImportError`` catches this, too."""


class PicklingError(UsageError):
    """A function, argument or result cannot be sent to another process; the text says which object in it."""


class UnpicklingError(PicklingError):
    """Arguments of a job were sent, and cannot be rebuilt where the job is to run; the text says why."""


# The peer can act.


class RemoteProtocolError(DispyError):
    """A peer has sent something that the protocol does not allow; the connection to it ends."""


class AuthenticationError(DispyError):
    """A peer and we do not have the same secret, or one does not trust the other's certificate: no connection."""


class VersionError(DispyError):
    """A peer speaks no version of the protocol that we speak: no connection until one side has another dispy."""


class SilenceError(DispyError):
    """A peer has sent nothing for longer than allowed: five heartbeat intervals, which ends the connection
    (``protocol.connection.heartbeat``), or ``dispy.config.MsgTimeout`` after a question to a node."""


# The environment can act.


class NoNodesError(DispyError):
    """No node answered where one was expected: the program's private node could not be started."""


class NoSchedulerError(DispyError):
    """No shared scheduler answers at the address of a ``SharedJobCluster``, or it does not let the program in."""


class StateDirectoryError(DispyError):
    """The user's state or runtime directory cannot be used, or is open to other users: nothing is put there."""


# The user's job.


class JobError(DispyError):
    """A job did not end by returning: it was killed or cancelled, or its worker died (``DispyJob.error``).

    Attributes:
        raised: What an item of a map has raised that would end this program, too, such as ``SystemExit``; else None.
    """

    raised: BaseException | None = None


class LostError(JobError):
    """A job has no result: its process died, its node was lost, or its arguments or result cannot be rebuilt."""


class NotPlainError(DispyError):
    """A node has sent something else than plain data to a program that takes nothing else (``results="plain"``).

    Args:
        what: The part that is not plain, with its article: "an object of the class shapes.Point".
    """

    def __init__(self, what: str) -> None:
        super().__init__(
            f'{what} is not plain data, and this program takes nothing else from nodes (results="plain")',
            hint="have jobs return numbers, texts, dates, and containers or arrays of them",
        )


class ProgramError(JobError):
    """The program of a computation (a path, not a function) could not be started, or was killed.

    Args:
        message: Text that says what happened, and to what.
        hint: Advice what to do next; empty: none.
        died: True if the program ran and was killed, but not by dispy: the job may run again.
    """

    def __init__(self, message: str, *, hint: str = "", died: bool = False) -> None:
        super().__init__(message, hint=hint)
        self.died = died


class RemoteTraceback(JobError):
    """Traceback of a job's exception, as text made on the node: the ``__cause__`` of the exception, so that Python
    prints it with the exception.

    Attributes:
        text: Lines of the traceback.
    """

    def __init__(self, text: str) -> None:
        super().__init__("\n" + text)
        self.text = text

    def __reduce__(self) -> tuple[type[RemoteTraceback], tuple[str]]:
        return RemoteTraceback, (self.text,)


# dispy's developers have to act.


class InternalError(DispyError):
    """A state that cannot occur if dispy's code is right: a fault of dispy. Please report it, with its traceback.

    Args:
        message: Text that says what happened, and to what.
        hint: Advice what to do next; empty: no advice.
        events: Lines that say what the object that has failed was told last, oldest first, without data of users. A
            traceback shows them.

    Attributes:
        events: The lines given as ``events``.
        is_logged: True once somebody has written it to the log: who catches it later need not do so again.
    """

    def __init__(self, message: str, *, hint: str = "", events: tuple[str, ...] = ()) -> None:
        super().__init__(message, hint=hint)
        self.events = events
        self.is_logged = False
        if events:
            self.add_note("The last events up to it, oldest first:\n  " + "\n  ".join(events))
