"""A node's process from settings to exit code, for ``dispynode`` and for the private node of a cluster."""

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
from functools import partial
from pathlib import Path
from types import FrameType
from typing import NoReturn

import msgspec

from dispy.core.execution.dispatch import workers_max
from dispy.errors import AuthenticationError, DispyError, StateDirectoryError, UsageError
from dispy.files.stores import Stores
from dispy.net.port_holders import holder
from dispy.net.terminal import Console, has_terminal
from dispy.node import reporting
from dispy.node.console import END_OF_FILE, HINT, Prompt
from dispy.node.listening import wanted_port
from dispy.node.machine import accounts
from dispy.node.machine.accounts import Account
from dispy.node.machine.availability import Gauge
from dispy.node.machine.cpus import usable_cpus
from dispy.node.payloads.segments import Segments
from dispy.node.processes.file_helpers import FileHelpers
from dispy.node.processes.hosts import HostProcess
from dispy.node.processes.spared import Spared
from dispy.node.service import NodeService
from dispy.node.staging.workspace import WorkSpace
from dispy.node.state import NodeParts
from dispy.protocol import node
from dispy.security import reach, secrets
from dispy.security.secret_watch import SecretWatch
from dispy.security.tls import ListenerTls, Tls, check, listener_tls, warn_if_open
from dispy.settings import NodeSettings, check_node, effective_cpus
from dispy.system import processes
from dispy.system.addresses import is_loopback, own, resolve
from dispy.system.directories import state_directory
from dispy.system.escaping import Formatter
from dispy.system.log_writer import Outlet, OutletHandler
from dispy.system.wording import counted

logger = logging.getLogger("dispy.node")

TAKEN_S = 2.0
"""Seconds for which the node tries again to listen on a port that is in use: another node that was told to end needs
a moment to close it. After that this node ends with exit code 1."""

_STOP = (signal.SIGINT, signal.SIGTERM)
"""Signals that end the node. SIGHUP does, too, unless it is ignored."""

_ASK = (signal.SIGUSR1, signal.SIGUSR2)
"""Signals that ask the node for something: SIGUSR1 to drain, SIGUSR2 to log who uses it."""

LOG_S = 1.0
"""Seconds that the last lines of the log have to be written when the node ends; later lines are lost."""

_STARTERS_WISH = (signal.SIGHUP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU)
"""Signals of a terminal that the node goes on to ignore if the program that started it did. Such a program, as
``nohup``, wants a node that runs on without the terminal. Other ignored signals get their default effect back."""


def main(settings: NodeSettings) -> NoReturn:
    """Run a node in this process, then end the process by ``os._exit``.

    The caller has turned off garbage collection before it imported this module: collection is a tenth of the time
    that the imports take. ``gc.freeze`` then excludes all that is loaded from the collections while the node runs.
    Taking the interpreter apart at the end would cost another 20 ms for nothing, as all is closed by then.
    """
    gc.freeze()
    gc.enable()
    code = run(settings)
    # All lines of stderr have been written; flushing it could wait for ever for a reader that does not read.
    with contextlib.suppress(OSError, ValueError, AttributeError):  # gone, closed, or never there
        sys.stdout.flush()
    os._exit(code)


def run(settings: NodeSettings) -> int:
    """Run a node until it is told to stop.

    SIGINT, SIGTERM and SIGHUP stop it with all its children. SIGHUP is ignored if ``daemon`` is set, or if the
    program that starts the node ignores it, as ``nohup`` does.

    Returns:
        Exit code: 0; 1 if the node cannot be started; 2 if its settings are wrong; 70 after a fault of the node.
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
        settings = _named(settings, secret)
        if fault := reach.listen_fault(secret, address, is_forced=settings.force_weak_secret):
            raise fault
        users = accounts.find(settings.user)
        accounts.prepare_prefix(settings.dest_path_prefix, users)
        _warn_if_only_here(settings.host, address)
        settings = msgspec.structs.replace(settings, host=address)
        listens = _tls_maker(tls, address)
        warn_if_open(tls, address)
        reach.warn_if_avoided(secret, address, has_certificate=bool(tls.certfile))
        cpus = effective_cpus(settings.cpus, present)
        processes.set_subreaper()
        processes.hide_memory()
        return _run_checked(
            settings, secret, (listens, not tls.is_asked_for), users, (cpus, present), early, found, log
        )
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


def _named(settings: NodeSettings, secret: secrets.Secret) -> NodeSettings:
    """Returns the settings with the name of the node's derived key; unchanged with a master.

    A private node has the key of its program.

    Raises:
        UsageError: The key opens nothing here, has expired, or is that of another name.
    """
    identity = secret.keys.identity
    if identity is None or settings.owner:
        return settings
    if fault := reach.use_fault(secret, "node", "client", time.time()):
        raise fault
    if settings.name not in ("", identity.name):
        raise UsageError(
            f"the key is that of {identity}, and the name is {settings.name!r}",
            hint=f"leave --name out, or ask for another key: 'dispy secret derive node {settings.name}'",
        )
    return msgspec.structs.replace(settings, name=identity.name)


def _warn_if_only_here(host: str, address: str) -> None:
    """Warn if a name that was given to reach the node from elsewhere is a loopback address, as on Debian.

    Args:
        host: Name or address, as given.
        address: Its address.
    """
    if not is_loopback(address) or is_loopback(host) or host == "localhost":
        return
    others = [each for each in own() if not is_loopback(each)]
    logger.warning(
        "%s is %s here (see /etc/hosts), which only programs of this machine can dial; for others give an address: "
        "--host %s, or --host 0.0.0.0 for all",
        host, address, others[0] if others else "ADDRESS",
    )  # fmt: skip


def _tls_maker(tls: Tls, address: str) -> Callable[[], ListenerTls] | None:
    """Returns the function that makes the TLS of a node's TCP connections; None: they are not encrypted.

    On loopback, where programs of this user come by the Unix socket, a certificate may never be needed: it is made
    when the first TCP connection comes, since ``cryptography`` takes longer to import than the node to start. In all
    other cases TLS is made here, so that what is wrong with it is told at once.

    Raises:
        UsageError: A file cannot be used.
    """
    if not tls.is_used:
        return None
    if is_loopback(address) and not tls.is_asked_for:
        return partial(listener_tls, tls)
    made = listener_tls(tls)
    return lambda: made


def _open_log(settings: NodeSettings) -> Outlet:
    """Have log records written to stderr on a thread of their own: a reader that is slow must not stop the node.

    Returns:
        Owner of that thread. The caller closes it when the node has ended: lines not written by then are lost.
    """
    written = logging.StreamHandler()
    written.setFormatter(Formatter("%(asctime)s %(levelname)s %(name)s - %(message)s"))
    outlet = Outlet(written.handle)
    # A private node logs warnings only: its life cycle is no news for the user of its program.
    level = logging.DEBUG if settings.debug else logging.WARNING if settings.owner else logging.INFO
    logging.basicConfig(handlers=[OutletHandler(outlet)], level=level)
    logging.getLogger("asyncio").setLevel(logging.INFO)
    return outlet


def _catch_signals(settings: NodeSettings, handler: Callable[[int, FrameType | None], object]) -> None:
    """Have ``handler`` called for signals that arrive before ``_serve`` handles them, with signal number and frame.

    Without ``handler`` they would end the process at once, and directories and processes made by then would be left
    over.
    """
    for number in (*_STOP, *_ASK):
        signal.signal(number, handler)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _ASK)  # the command line has blocked them since its start
    if settings.daemon:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
    elif signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        signal.signal(signal.SIGHUP, handler)
    processes.reset_signals(*_STARTERS_WISH)


def _run_checked(
    settings: NodeSettings,
    secret: secrets.Secret,
    links: tuple[Callable[[], ListenerTls] | None, bool],  # TLS of TCP, and if there is a Unix socket
    users: tuple[Account, ...],
    cpus: tuple[int, int],  # offered and present
    early: list[int],
    found: frozenset[int],
    log: Outlet,
) -> int:
    """Make the parts of a node and run it; returns the exit code.

    Args:
        settings: Checked settings.
        secret: Secret shared with clients.
        links: ``NodeParts.tls`` and ``NodeParts.has_socket``.
        users: Accounts that jobs run as; none: that of this process.
        cpus: Number of CPUs offered, and number of CPUs present.
        early: Numbers of the signals that have arrived so far; the list grows until the loop handles signals.
        found: Pids of children that this process had before it became a node. They are never killed.
        log: Thread that writes the log; what hosts print goes there, too.
    """
    incarnation = randomness.token_bytes(16)
    spared = Spared()
    helpers = FileHelpers(spared) if users else None
    segments = Segments(incarnation.hex(), helpers)
    # The spare host comes first, so that it does its imports while this process does its own.
    try:
        mark, account = str(segments.directories.root), users[0] if users else None
        spare = HostProcess(workers_max(max(cpus)), mark, account, bool(settings.owner))
    except OSError:
        segments.directories.close()
        if helpers is not None:
            helpers.close()
        raise
    spool = _spool_directory(settings)
    try:
        if helpers is not None:
            helpers.of((users[0].uid, users[0].gid), users[0].groups).start()
        import uvloop

        workspace = WorkSpace(settings.dest_path_prefix, incarnation.hex(), helpers)
        segments.directories.use_disk(workspace)
        gauge = Gauge(str(workspace.root), time)
        stores = Stores(_store_directory(workspace), settings.store_max, secret.key)
        parts = NodeParts(
            secret, links[0], users, *cpus, spare, incarnation, segments, spool, workspace, stores, spared, helpers,
            read_available=gauge.read, found=found, say=log.say, has_socket=links[1],
        )  # fmt: skip
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(_serve(settings, parts, early))
    finally:
        for number in (*_STOP, *_ASK):  # the loop has reset its handlers; the node is ending anyway
            signal.signal(number, signal.SIG_IGN)
        spare.kill()
        spare.process.wait()
        spare.close()
        segments.directories.close()
        if helpers is not None:
            helpers.close()


def _spool_directory(settings: NodeSettings) -> Path | None:
    """Returns the directory for results of clients that are away; None if those stay in memory, and end with the
    node.

    It is None for a private node, with ``spool_max`` 0, and if this user's state directory cannot be used.
    """
    if settings.owner or not settings.spool_max:
        # A private node ends with its program: no other program would ask for the results.
        return None
    try:
        return state_directory() / "spool"
    except StateDirectoryError as error:
        logger.warning("results of clients that are away end with this node: %s", error)
        return None


def _store_directory(workspace: WorkSpace) -> Path:
    """Returns the directory for files that clients send, kept to be used again: below this user's state directory.

    Without a state directory it is below the node's own, and is removed with it.
    """
    try:
        return state_directory() / "store"
    except StateDirectoryError as error:
        logger.warning("files that are sent to this node are not kept for others: %s", error)
        return workspace.root / "store"


async def _serve(settings: NodeSettings, parts: NodeParts, early: list[int]) -> int:
    """Run the service on the running loop until the node is told to stop; returns the exit code (``run``).

    The node is told by signals, by commands at the terminal, and by the end of the program that owns a private node.
    Signals in ``early`` (numbers) have arrived during the start, and are obeyed now.
    """
    loop = asyncio.get_running_loop()
    service = NodeService(settings, parts)
    loop.set_exception_handler(lambda _, context: service.on_stray(context))
    for number in (*_STOP, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:
            loop.add_signal_handler(number, service.stop, signal.Signals(number).name)
    loop.add_signal_handler(signal.SIGUSR1, service.drain, "SIGUSR1")
    loop.add_signal_handler(signal.SIGUSR2, reporting.say_usage, service, "SIGUSR2")
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
        print(f"dispynode: {_why_deaf(settings, wanted_port(settings), error)}", file=sys.stderr)
        return 1
    if signal.SIGUSR1 in early:
        service.drain("SIGUSR1")
    _watch_owner(loop, service, settings.owner)
    watch = _watch_secret(service, settings, parts.secret)
    is_typed_at = not settings.daemon and not settings.owner and has_terminal()
    with contextlib.suppress(OSError):  # stdout is closed: no reason to stop
        print(_greeting(settings, service, parts.cpus) + (f"\n{HINT}" if is_typed_at else ""), flush=True)
    console = Console(sys.stdin.fileno(), Prompt(service).answer, END_OF_FILE) if is_typed_at else None
    await service.run()
    watch.close()
    if console is not None:
        console.close()
    return 70 if service.failed else 0  # EX_SOFTWARE


def _watch_secret(service: NodeService, settings: NodeSettings, secret: secrets.Secret) -> SecretWatch:
    """Read the file of the secret again when it changes; returns the watch, to be closed."""

    def check(new: secrets.Secret) -> UsageError | None:
        if _names(new) != _names(secret):
            return UsageError("it is the key of another name", hint="start the node again with it")
        fault = reach.use_fault(new, "node", "client", time.time())
        return fault or reach.listen_fault(new, settings.host, is_forced=settings.force_weak_secret)

    def renew(new: secrets.Secret) -> None:
        service.entrance.renew(new)
        if not service.machine.state.is_draining:
            service.entrance.enter_list(service.cpus)
        for connection, client in list(service.connections.items()):
            if connection.peer is not None and new.keys.is_revoked(connection.peer):
                logger.warning(
                    "%s is refused from now on, and its jobs end: its key is revoked", connection.peer
                )
                if client is not None:
                    service.on_message(connection, node.Detach())
                connection.refuse(AuthenticationError("its key is revoked"))

    watch = SecretWatch(None if settings.owner else settings.secret_file, secret, check, renew)
    watch.begin()
    return watch


def _names(secret: secrets.Secret) -> str:
    """Returns role and name of a derived key; empty for a master."""
    return str(secret.keys.identity or "")


async def _start(service: NodeService) -> None:
    """Start the service. If its port is in use, try again for ``TAKEN_S``: a node that was told to end may free it.

    Raises:
        OSError: The address cannot be used, or the port is still in use after ``TAKEN_S`` or when the node is told
            to stop.
    """
    deadline = time.monotonic() + TAKEN_S
    while True:
        try:
            service.start()
            return
        except OSError as error:
            if error.errno != errno.EADDRINUSE or service.stopped.is_set() or time.monotonic() > deadline:
                raise
        await asyncio.sleep(0.05)


def _why_deaf(settings: NodeSettings, port: int, error: OSError) -> str:
    """Returns words for stderr on why a node cannot listen on ``port``, and what to do about it."""
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


def _greeting(settings: NodeSettings, service: NodeService, cpus: int) -> str:
    """Returns the first line on stdout: for an administrator a sentence with the node's name, address and ``cpus``.

    A private node's line is "HOST PORT CPUS SOCKET", which the program that started it reads. SOCKET is empty if
    there is none.
    """
    host, port = service.entrance.address
    if settings.owner:
        return f"{host} {port} {cpus} {service.entrance.socket_path}"
    where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    how = ", TLS" if service.entrance.uses_tls else ""
    return f"dispynode {service.name!r} listens on {where} with {counted(cpus, 'CPU')}{how}"


_OWNER_ENDED = "its program has ended"
"""Reason, in the log, for the end of a private node."""


def _watch_owner(loop: asyncio.AbstractEventLoop, service: NodeService, owner: int) -> None:
    """Stop a private node when the program that started it has ended, however it ends.

    Args:
        loop: The event loop.
        service: The node.
        owner: Pid of the program; 0: the node is not private.
    """
    if not owner:
        return
    try:
        descriptor = os.pidfd_open(owner)
    except ProcessLookupError:
        service.stop(_OWNER_ENDED)
        return
    loop.add_reader(descriptor, service.stop, _OWNER_ENDED)
    # Race: the program may have ended before pidfd_open, and its pid may be another process's by now.
    if os.getppid() != owner:
        service.stop(_OWNER_ENDED)
