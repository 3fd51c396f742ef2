"""The end of a node: clients are told, processes end, results go to disk, directories are released."""

from __future__ import annotations

import asyncio

from dispy.core import execution as core
from dispy.node.processes.computations import close_host, living_hosts
from dispy.node.state import NodeState
from dispy.protocol import node

STOP_S = 1.5
"""Seconds that hosts have to end by themselves when the node stops; then they are killed."""

FAREWELL_S = 0.5
"""Seconds that clients have, when the node stops, to take results on their way and close their connections. Then the
node closes these. Results that are not acknowledged by then go to disk, or are lost if the node has no spool."""


async def end(service: NodeState) -> None:
    """End a node that listens no more: tell clients, end hosts within ``STOP_S`` or kill them, store results,
    close everything.

    Jobs that run end with their hosts.
    """
    if service.tick is not None:
        service.tick.cancel()
    service.handle(core.Flush())
    hosts = living_hosts(service) + service.ending
    if service.spare is not None:
        service.spare.kill()  # it has no workers, and may still be busy with its imports
        hosts.append(service.spare)
    for host in hosts:
        service.loop.remove_reader(host.control)
        for handle in host.workers.values():
            service.loop.remove_reader(handle.replies)
        host.end()
    deadline = service.clock.monotonic() + STOP_S
    await _say_farewell(service, min(deadline, service.clock.monotonic() + FAREWELL_S))
    while any(host.process.poll() is None for host in hosts) and service.clock.monotonic() < deadline:
        await asyncio.sleep(0.005)
    for connection in list(service.connections):
        connection.close()
    for host in hosts:
        host.kill()
    for host in hosts:
        host.process.wait()
    service.strays.kill(set())
    for host in hosts:
        close_host(service, host)
    for loaded in service.loaded.values():
        if loaded.brought is not None:
            loaded.brought.close()
    service.stager.close()
    if service.helpers is not None:
        service.helpers.finish()
    if service.spool is not None:
        service.handle(core.Stopping(sorted(service.gone)))
        service.spool.close()
    service.segments.directories.close()
    service.workspace.close()
    if service.helpers is not None:
        service.helpers.close()


async def _say_farewell(service: NodeState, deadline: float) -> None:
    """Tell clients that the node leaves, each after the last byte of its results.

    A client that has all its results closes its connection. Returns when all have, or at ``deadline`` (monotonic,
    seconds).
    """
    is_drained = service.machine.state.is_draining and not service.machine.state.busy
    untold = [connection for connection, client in service.connections.items() if client is not None]
    while any(client is not None for client in service.connections.values()):
        for connection in list(untold):
            if not connection.is_sending:
                untold.remove(connection)
                connection.send(
                    node.Leaving("dispynode was drained" if is_drained else "dispynode was stopped")
                )
        if service.clock.monotonic() > deadline:
            break
        await asyncio.sleep(0.005)
