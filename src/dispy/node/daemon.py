"""A node from settings to exit code: what ``dispynode`` and a cluster's own node have in common."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys

from dispy import processes
from dispy.errors import DispyError
from dispy.net import secrets
from dispy.net.addresses import require_loopback, resolve
from dispy.node.cpus import usable_cpus
from dispy.node.hosts import HostProcess
from dispy.node.service import NodeService, slots_max
from dispy.settings import NodeSettings, check_node, effective_cpus


def run(settings: NodeSettings) -> int:
    """Run a node until it is told to stop; returns the exit code.

    SIGINT, SIGTERM and (unless ``daemon``) SIGHUP stop it with all its children.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        # Until the loop has handlers of its own; what has been started so far ends with us.
        signal.signal(number, lambda *_: sys.exit(0))
    logging.basicConfig(
        format="%(asctime)s %(name)s - %(message)s", level=logging.DEBUG if settings.debug else logging.INFO
    )
    present = usable_cpus()
    try:
        check_node(settings, present)
        address = resolve(settings.host)
        require_loopback(address, "--host")
        secret = secrets.choose(settings.secret, settings.secret_file)
    except DispyError as error:
        print(f"dispynode: {error}", file=sys.stderr)
        return 2
    cpus = effective_cpus(settings.cpus, present)
    processes.set_subreaper()
    # First of all, so that it does its imports while we do ours.
    spare = HostProcess(slots_max(cpus))
    import uvloop

    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(_serve(settings, secret, cpus, spare))
    except DispyError as error:
        print(f"dispynode: {error}", file=sys.stderr)
        return 2
    finally:
        spare.kill()


async def _serve(settings: NodeSettings, secret: secrets.Secret, cpus: int, spare: HostProcess) -> int:
    loop = asyncio.get_running_loop()
    service = NodeService(settings, secret, cpus, spare)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if number == signal.SIGHUP and settings.daemon:
            loop.add_signal_handler(number, lambda: None)
        else:
            loop.add_signal_handler(number, service.stop)
    try:
        await service.start()
    except OSError as error:
        service.stop()
        await service.run()
        print(
            f"dispynode: cannot listen on {settings.host} port {settings.listen_port}: {error.strerror}; "
            "give another --listen_port, or 0 for any",
            file=sys.stderr,
        )
        return 1
    _watch_owner(loop, service, settings.owner)
    host, port = service.address
    if settings.owner:
        print(f"{host} {port} {cpus}", flush=True)
    else:
        noun = "CPU" if cpus == 1 else "CPUs"
        print(f"dispynode {service.name!r} listens on {host}:{port} with {cpus} {noun}", flush=True)
    await service.run()
    return 0


def _watch_owner(loop: asyncio.AbstractEventLoop, service: NodeService, owner: int) -> None:
    """A private node ends with the program that started it, however that ends."""
    if not owner:
        return
    try:
        descriptor = os.pidfd_open(owner)
    except ProcessLookupError:
        service.stop()
        return
    loop.add_reader(descriptor, service.stop)
    if os.getppid() != owner:
        service.stop()
