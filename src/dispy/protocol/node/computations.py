"""Messages about computations: their code, the jobs that a node takes of them, and objects that many jobs read."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from dispy.protocol import limits
from dispy.protocol.node.fields import Count, Files, Inline, Name, Number, Reason


class Compute(Struct, array_like=True, tag=3):
    """A computation to be held ready on the node. ``code`` is opaque to it (see ``Job.payload``).

    An ``exclusive`` one keeps all others off the node from now until it is closed or its client is dead.
    """

    computation: Number
    name: Name
    code: Inline
    stream: Number = 0
    isolate: bool = False
    grace_s: Annotated[float, Meta(ge=0, le=86400)] = 5.0
    dest_path: Name = ""
    live: bool = False
    """What its running jobs print is to be told, of all of them."""
    exclusive: bool = False
    life: Number = 0
    """Which stay on the node this is, from 0: one that was closed and opened again has another. The node may have
    heard of neither, if its connection broke, and must not take what it has for what is meant."""
    message_timeout_s: Annotated[float, Meta(ge=0, le=1e6)] = 10.0
    """How long jobs wait by default for the client to have what they send."""
    setup_per_worker: bool = False
    setup_timeout_s: Annotated[float, Meta(ge=0, le=1e9)] = 0.0
    """0: it may take as long as it takes."""
    files: Files = []
    """What is to lie in its working directory before anything of it runs; the node asks for what it does not have."""
    keep: bool = False
    """The working directory stays when the computation is closed."""


class CloseComputation(Struct, array_like=True, tag=7):
    """Forget a computation; its unfinished jobs are ended."""

    computation: Number


class PutObject(Struct, array_like=True, tag=12):
    """Data that many jobs of a computation read; answered by ``ObjectStored``. As in ``Job``."""

    computation: Number
    number: Number
    payload: Inline
    stream: Number = 0
    given: Number = 0


class DropObjects(Struct, array_like=True, tag=13):
    """No job needs these any more."""

    computation: Number
    numbers: Annotated[list[Number], Meta(max_length=limits.OBJECTS_MAX)]


class ComputationReady(Struct, array_like=True, tag=33):
    """The computation is loaded; credit follows. ``life`` as in its ``Compute``.

    ``warning`` says what of the code is not there as in the program.
    """

    computation: Number
    life: Number = 0
    warning: Reason = ""


class ComputationFailed(Struct, array_like=True, tag=34):
    """The computation cannot be used on this node, and why. ``JobsReturned`` follows with what had not started."""

    computation: Number
    reason: Reason
    life: Number = 0


class Credit(Struct, array_like=True, tag=35):
    """How many unfinished jobs of a computation the node takes from now on.

    ``slots`` start at once, ``backlog`` may wait there. May fall below what the node has. ``reason`` says in
    words why the slots are fewer than the node's CPUs, if they are.
    """

    computation: Number
    slots: Count
    backlog: Count
    reason: Reason = ""


class ObjectStored(Struct, array_like=True, tag=43):
    """Jobs that start from now on find this object; with a reason they do not.

    ``again``: there may be room for it when the node gives credit again; else they never will.
    """

    computation: Number
    number: Number
    reason: Reason = ""
    again: bool = False
