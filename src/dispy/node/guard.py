"""Callbacks of a node's event loop, each with its owner: the party that ends if the callback raises an exception.

All modules of the node give functions to the loop through this one, so no unexpected exception is left to the loop,
which would only print it: a computation would wait for ever for what the callback was to do. ``containment`` says
what follows from an exception.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import wraps
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

from dispy.core.execution.ids import ClientId, Key

Owner = Key | ClientId | None
"""The party that a piece of work is done for: a computation, a client, or the node as a whole (None)."""

_Arguments = ParamSpec("_Arguments")


class Guarded(Protocol):
    """The part of a node's service that this module needs."""

    loop: asyncio.AbstractEventLoop

    def contain(self, owner: Owner, error: Exception) -> None:
        """End the owner of a fault, and nothing else."""


_Service = TypeVar("_Service", bound=Guarded)


def run(service: Guarded, owner: Owner, function: Callable[..., object], *arguments: Any) -> None:
    """Call a function. An exception is a fault of this program, and ends the owner alone (``containment``)."""
    try:
        function(*arguments)
    except Exception as error:
        service.contain(owner, error)


def later(
    service: Guarded, delay_s: float, owner: Owner, function: Callable[..., object], *arguments: Any
) -> asyncio.TimerHandle:
    """Call a function after ``delay_s`` seconds, as ``run`` does."""
    return service.loop.call_later(delay_s, run, service, owner, function, *arguments)


def soon(service: Guarded, owner: Owner, function: Callable[..., object], *arguments: Any) -> None:
    """Call a function in the loop's next turn, as ``run`` does."""
    service.loop.call_soon(run, service, owner, function, *arguments)


def watch(
    service: Guarded, readable: Any, owner: Owner, function: Callable[..., object], *arguments: Any
) -> None:
    """Call a function, as ``run`` does, whenever a descriptor or socket is readable, until ``remove_reader``.

    After an exception the descriptor is not watched any more: the same bytes would raise the same exception again,
    in each turn of the loop.
    """
    service.loop.add_reader(readable, _on_readable, service, readable, owner, function, *arguments)


def _on_readable(
    service: Guarded, readable: Any, owner: Owner, function: Callable[..., object], *arguments: Any
) -> None:
    """Call the function for a readable descriptor. Not ``run``: each packet of a worker comes this way."""
    try:
        function(*arguments)
    except Exception as error:
        service.loop.remove_reader(readable)
        service.contain(owner, error)


def harmless(
    function: Callable[Concatenate[_Service, _Arguments], None],
) -> Callable[Concatenate[_Service, _Arguments], None]:
    """Make a function one whose exceptions are logged, and end nothing: for functions that write the log."""

    @wraps(function)
    def call(service: _Service, /, *arguments: _Arguments.args, **options: _Arguments.kwargs) -> None:
        try:
            function(service, *arguments, **options)
        except Exception as error:
            service.contain(None, error)

    return call
