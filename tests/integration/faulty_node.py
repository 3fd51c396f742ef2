"""A ``dispynode`` with a fault of its own: ``faulty_node.py PLACE OPTION…``; ``PLACE`` is a name in ``PLACES``.

The fault is a ``RuntimeError`` in one function of the node, each time that it is called for the computation ``hurt``
or for a client that has one.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from dispy.cli.node import main
from dispy.core import execution as core
from dispy.files.fetching import parts, stage_work, stager
from dispy.node import clients, containment, guests, service, state
from dispy.node.payloads.payload_files import Outgoing
from dispy.node.processes import computations, workers
from dispy.node.service import NodeService
from dispy.protocol import node

NAME = "hurt"

nodes: list[NodeService] = []
"""The node of this process, once it is made."""

hurt: set[Any] = set()
"""Keys of the computations that the fault is for."""


def fail() -> None:
    """Raise the fault."""
    raise RuntimeError("a fault for hurt")


def is_hurt(key: Any) -> bool:
    """True if a key is that of a computation that the fault is for, also after the core has forgotten it."""
    found = nodes[0].machine.state.computations.get(key) if nodes else None
    if found is not None and found.spec.name == NAME:
        hurt.add(key)
    return key in hurt


def key_of(arguments: tuple[Any, ...]) -> Any:
    """Returns the key of the computation that a call of a function is about."""
    for argument in arguments:
        if isinstance(argument, tuple) and len(argument) == 2 and isinstance(argument[0], bytes):
            return argument
        worker = getattr(argument, "worker", None) or getattr(argument, "id", None)
        if nodes and worker in nodes[0].owners:
            return nodes[0].owners[worker][0].key
        if isinstance(getattr(argument, "key", None), tuple):
            return argument.key
        for loaded in list(nodes[0].loaded.values()) if nodes else ():
            if argument is loaded.host:
                return loaded.key
        if isinstance(getattr(argument, "computation", None), int):
            for other in arguments:
                if isinstance(other, bytes):
                    return (other, argument.computation)
        if hasattr(argument, "supplier") and hasattr(argument, "computation"):
            return (argument.supplier, argument.computation)
    return None


def break_function(owner: Any, name: str, is_meant: Callable[..., bool] | None = None) -> None:
    """Put the fault in front of a function of a module or a class."""
    real = getattr(owner, name)

    def broken(*arguments: Any, **options: Any) -> Any:
        if is_hurt(key_of(arguments)) if is_meant is None else is_meant(*arguments):
            fail()
        return real(*arguments, **options)

    setattr(owner, name, broken)


def break_action(kind: type) -> None:
    """Put the fault in front of what performs an action of the core."""
    real = NodeService.perform_by_type[kind]

    def broken(made: Any, action: Any) -> None:
        if is_hurt(key_of((action,))):
            fail()
        real(made, action)

    NodeService.perform_by_type[kind] = broken


def has_hurt(*_: Any) -> bool:
    """True once a computation that the fault is for was here."""
    if nodes:
        for key in nodes[0].machine.state.computations:
            is_hurt(key)
    return bool(hurt)


def break_tell() -> None:
    """The fault is in what tells a client, for one that has a computation ``hurt``."""
    real = NodeService.perform_by_type[core.Tell]

    def broken(made: Any, action: Any) -> None:
        if is_client_of_hurt(made, action.client):
            fail()
        real(made, action)

    NodeService.perform_by_type[core.Tell] = broken


def break_bury() -> None:
    """The host of ``hurt`` cannot be buried, whatever it died of."""
    for owner in (computations, containment):
        break_function(owner, "bury_host")


def break_message(kind: type, table: dict[Any, Any]) -> None:
    """Put the fault in front of what the service does for a message."""
    real = table[kind]

    def broken(*arguments: Any) -> None:
        if (has_hurt() and is_hurt(key_of(arguments[2:]))) or not hasattr(arguments[3], "computation"):
            fail()
        real(*arguments)

    table[kind] = broken


def is_output_of_hurt(found: Any, _: int) -> bool:
    """True if output of jobs of ``hurt`` is read."""
    return any(is_hurt(key_of((place,))) for place, _, _ in found)


def fail_for_name(*arguments: Any) -> None:
    """The fault is in what is done for the message that opens a computation."""
    if arguments[3].name == NAME:
        fail()


def is_client_of_hurt(_: Any, client: Any, *__: Any) -> bool:
    """True for a client that has, or had, a computation ``hurt``."""
    has_hurt()
    return any(key[0] == client for key in hurt)


PLACES: dict[str, Callable[[], None]] = {
    **{
        kind.__name__: lambda kind=kind: break_action(kind)  # type: ignore[misc]
        for kind in (
            core.StartHost,
            core.ForkWorker,
            core.Offer,
            core.StageFiles,
            core.StageJob,
            core.Release,
        )
    },
    "message of a host": lambda: break_function(computations, "_on_host_message"),
    "output of a host": lambda: break_function(computations, "_on_output"),
    "reply of a worker": lambda: break_function(workers, "_read_reply"),
    "timer": lambda: break_function(workers, "_interrupt_again"),
    "live output": lambda: break_function(state, "read_printed", is_output_of_hurt),
    "message about a computation": lambda: break_message(node.RunJobs, clients._BEFORE),
    "message that opens a computation": lambda: clients._BEFORE.__setitem__(node.Compute, fail_for_name),
    "looking for files": lambda: break_function(stage_work, "put"),
    "after looking for files": lambda: break_function(stager.Stager, "_on_answer"),
    "opening a part": lambda: break_function(parts.Parts, "_open", has_hurt),
    "writing a part": lambda: break_function(parts.Parts, "_write", has_hurt),
    "burial": break_bury,
    "clearing away": lambda: break_function(computations, "_reap_host"),
    "what a client is told": break_tell,
    "stream to a client": lambda: break_function(Outgoing, "read", has_hurt),
    "message of a client": lambda: break_message(node.FileData, clients._OURS),
    "end of a connection": lambda: break_function(clients, "_lose", is_client_of_hurt),
    "pulse": lambda: break_function(service.delivery, "tell_available", has_hurt),
    "log": lambda: break_function(guests.Reports, "say", has_hurt),
}
"""Functions that put the fault somewhere, by the name of the place."""


def run() -> None:
    """Run the node."""
    PLACES[sys.argv.pop(1)]()
    begin, start_host = NodeService.__init__, NodeService.perform_by_type[core.StartHost]

    def note_hurt(made: Any, action: Any) -> None:
        is_hurt(action.key)
        start_host(made, action)

    NodeService.perform_by_type[core.StartHost] = note_hurt

    def note(self: NodeService, *arguments: Any) -> None:
        begin(self, *arguments)
        nodes.append(self)

    NodeService.__init__ = note  # type: ignore[method-assign]
    main()


if __name__ == "__main__":
    run()
