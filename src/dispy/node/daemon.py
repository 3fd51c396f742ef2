"""A node from settings to exit code: what ``dispynode`` and a cluster's own node have in common."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import logging
import os
import secrets as randomness
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import NoReturn

import msgspec

from dispy.core.execution.dispatch import workers_max
from dispy.errors import DispyError, StateDirectoryError
from dispy.files.store import Store
from dispy.net.port_holders import holder
from dispy.node.console import HINT, Console, Prompt
from dispy.node.machine import accounts
from dispy.node.machine.accounts import Account
from dispy.node.machine.availability import Gauge
from dispy.node.machine.cpus import usable_cpus
from dispy.node.payloads.segments import Segments
from dispy.node.processes.hosts import HostProcess
from dispy.node.service import NodeService
from dispy.node.staging.workspace import WorkSpace
from dispy.node.state import NodeParts
from dispy.security import secrets
from dispy.security.tls import ListenerTls, Tls, check, listener_tls, warn_if_open
from dispy.settings import NodeSettings, check_node, effective_cpus
from dispy.system import processes
from dispy.system.addresses import resolve
from dispy.system.directories import state_directory
from dispy.system.escaping import Formatter
from dispy.system.log_writer import Outlet, OutletHandler
from dispy.system.wording import counted

logger = logging.getLogger("dispy.node")

TAKEN_S = 2.0
"""How long a port that is taken is waited for: nodes that are told to end need a moment to close theirs."""

_STOP = (signal.SIGINT, signal.SIGTERM)
_ASK = (signal.SIGUSR1, signal.SIGUSR2)
"""Drain, and say who uses the node."""

LOG_S = 1.0
"""Time for the last lines of the log to be written."""

_STARTERS_WISH = (signal.SIGHUP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU)
"""Signals of a terminal: whoever ignores these before starting a node wants one that runs on without the terminal."""


def main(settings: NodeSettings) -> NoReturn:
    """Be a node until the end of this process; whoever loads this has turned off the collection of garbage.

    That is a tenth of the time to load it all, and again and again of the time in which the node runs. To take
    the interpreter apart at the end is another 20 ms, for nothing: all is closed by then.
    """
    gc.freeze()
    gc.enable()
    code = run(settings)
    # Of stderr each line has gone; to flush it would be to wait for a reader who may read no more.
    with contextlib.suppress(OSError, ValueError, AttributeError):  # gone, closed, or never there
        sys.stdout.flush()
    os._exit(code)


def run(settings: NodeSettings) -> int:
    """Run a node until it is told to stop; returns the exit code.

    SIGINT, SIGTERM and SIGHUP stop it with all its children. Not SIGHUP, if ``daemon`` is set or whoever starts
    us ignores it, as ``nohup`` does.
    """
    processes.fill_standard_descriptors()
    early: list[int] = []
    found = frozenset(processes.children(os.getpid()))
    _catch_signals(settings, lambda number, _: early.append(number))
    log = _open_log(settings)
    present = usable_cpus()
    try:
        settings = check_node(settings, present)
        address = resolve(settings.host)
        tls = check(Tls(settings.certfile, settings.keyfile, settings.cafile, settings.tls))
        secret = secrets.choose(settings.secret, settings.secret_file)
        os.environ.pop(secrets.VARIABLE, None)
        secrets.require_given(secret, address)
        account = accounts.find(settings.user)
        accounts.prepare_prefix(settings.dest_path_prefix, account)
        settings = msgspec.structs.replace(settings, host=address)
        listens = listener_tls(tls) if tls.is_used(address) else None
        warn_if_open(tls, address)
        cpus = effective_cpus(settings.cpus, present)
        processes.set_subreaper()
        processes.hide_memory()
        return _run_checked(settings, secret, listens, account, (cpus, present), early, found, log)
    except DispyError as error:
        print(f"dispynode: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        short = processes.shortage(error)
        if not short:
            raise
        print(f"dispynode: it cannot be started: {error}; {short}", file=sys.stderr)
        return 1
    finally:
        log.close(LOG_S)


def _open_log(settings: NodeSettings) -> Outlet:
    """Have what is logged written to stderr, on a thread of its own: who reads it may be slow, or read no more."""
    written = logging.StreamHandler()
    written.setFormatter(Formatter("%(asctime)s %(levelname)s %(name)s - %(message)s"))
    outlet = Outlet(written.handle)
    # What happens to its own node is nothing that a program has to tell its user.
    level = logging.DEBUG if settings.debug else logging.WARNING if settings.owner else logging.INFO
    logging.basicConfig(handlers=[OutletHandler(outlet)], level=level)
    logging.getLogger("asyncio").setLevel(logging.INFO)
    return outlet


def _catch_signals(settings: NodeSettings, handler: Callable[[int, FrameType | None], object]) -> None:
    """Have signals that come while we start noted: what was made by then is taken down in order."""
    for number in (*_STOP, *_ASK):
        signal.signal(number, handler)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _ASK)  # the command has held them back
    if settings.daemon:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
    elif signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        signal.signal(signal.SIGHUP, handler)
    processes.reset_signals(*_STARTERS_WISH)


def _run_checked(
    settings: NodeSettings,
    secret: secrets.Secret,
    listens: ListenerTls | None,
    account: Account | None,
    cpus: tuple[int, int],  # offered and present
    early: list[int],
    found: frozenset[int],
    log: Outlet,
) -> int:
    incarnation = randomness.token_bytes(16)
    segments = Segments(incarnation.hex(), account)
    # First of all, so that it does its imports while we do ours.
    try:
        spare = HostProcess(workers_max(max(cpus)), str(segments.root), account)
    except OSError:
        segments.close()
        raise
    spool = _spool_directory(settings)
    try:
        import uvloop

        workspace = WorkSpace(settings.dest_path_prefix, incarnation.hex(), account)
        segments.use_disk(workspace)
        gauge = Gauge(str(workspace.root), time)
        store = Store(_store_directory(workspace), settings.store_max)
        parts = NodeParts(
            secret, listens, account, *cpus, spare, incarnation, segments, spool, workspace, store,
            read_available=gauge.read, found=found, say=log.say,
        )  # fmt: skip
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(_serve(settings, parts, early))
    finally:
        for number in (*_STOP, *_ASK):  # the loop has given its handlers back, and we are ending already
            signal.signal(number, signal.SIG_IGN)
        spare.kill()
        spare.process.wait()
        spare.close()
        segments.close()


def _spool_directory(settings: NodeSettings) -> Path | None:
    """Where results go on disk whose clients are away; None if they do not."""
    if settings.owner or not settings.spool_max:
        # A program's own node ends with it: nobody would ever ask.
        return None
    try:
        return state_directory() / "spool"
    except StateDirectoryError as error:
        logger.warning("results of clients that are away end with this node: %s", error)
        return None


def _store_directory(workspace: WorkSpace) -> Path:
    """Where files are kept that were sent to nodes of this user."""
    try:
        return state_directory() / "store"
    except StateDirectoryError as error:
        logger.warning("files that are sent to this node are not kept for others: %s", error)
        return workspace.root / "store"


async def _serve(settings: NodeSettings, parts: NodeParts, early: list[int]) -> int:
    loop = asyncio.get_running_loop()
    service = NodeService(settings, parts)
    for number in (*_STOP, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:
            loop.add_signal_handler(number, service.stop, signal.Signals(number).name)
    loop.add_signal_handler(signal.SIGUSR1, service.drain, "SIGUSR1")
    loop.add_signal_handler(signal.SIGUSR2, service.say_usage, "SIGUSR2")
    for told in early:
        if told not in _ASK:
            service.stop(signal.Signals(told).name)
    try:
        await _start(service)
    except BaseException as error:
        service.stop("it cannot begin")
        await service.run()
        if not isinstance(error, OSError):
            raise
        print(f"dispynode: {_why_deaf(settings, service.wanted_port, error)}", file=sys.stderr)
        return 1
    if signal.SIGUSR1 in early:
        service.drain("SIGUSR1")
    _watch_owner(loop, service, settings.owner)
    is_typed_at = not settings.daemon and not settings.owner and _has_terminal()
    with contextlib.suppress(OSError):  # nobody reads it: no reason to stop
        print(_greeting(settings, service, parts.cpus) + (f"\n{HINT}" if is_typed_at else ""), flush=True)
    console = Console(sys.stdin.fileno(), Prompt(service).answer) if is_typed_at else None
    await service.run()
    if console is not None:
        console.close()
    return 70 if service.failed else 0  # EX_SOFTWARE


async def _start(service: NodeService) -> None:
    """Listen; a node that is told to end leaves its port to one that is started in its place.

    Raises:
        OSError: The address cannot be used, or the port is still taken after some seconds.
    """
    deadline = time.monotonic() + TAKEN_S
    while True:
        try:
            service.start()
            return
        except OSError as error:
            if error.errno != errno.EADDRINUSE or service.is_stopping or time.monotonic() > deadline:
                raise
        await asyncio.sleep(0.05)


def _why_deaf(settings: NodeSettings, port: int, error: OSError) -> str:
    """Why a node cannot listen, and what to do."""
    if error.errno != errno.EADDRINUSE:
        return (
            f"cannot listen on {settings.host} port {port}: {error.strerror}; "
            "give an address of this machine with --host, or another --listen_port (0: any)"
        )
    return (
        f"port {port} of {settings.host} is in use by {holder(settings.host, port)}; end that, or give another port: "
        "--dispy_port N (the node listens on N + 1), --listen_port N, or --listen_port 0 for any. "
        "Clients then have to name it: nodes=[('HOST', PORT)]"
    )


def _has_terminal() -> bool:
    try:
        return sys.stdin is not None and sys.stdin.isatty()
    except ValueError:  # closed
        return False


def _greeting(settings: NodeSettings, service: NodeService, cpus: int) -> str:
    host, port = service.address
    if settings.owner:
        return f"{host} {port} {cpus}"
    where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    how = ", TLS" if service.uses_tls else ""
    return f"dispynode {service.name!r} listens on {where} with {counted(cpus, 'CPU')}{how}"


_OWNER_ENDED = "its program has ended"


def _watch_owner(loop: asyncio.AbstractEventLoop, service: NodeService, owner: int) -> None:
    """A private node ends with the program that started it, however that ends."""
    if not owner:
        return
    try:
        descriptor = os.pidfd_open(owner)
    except ProcessLookupError:
        service.stop(_OWNER_ENDED)
        return
    loop.add_reader(descriptor, service.stop, _OWNER_ENDED)
    if os.getppid() != owner:
        service.stop(_OWNER_ENDED)
