"""The process of a shared scheduler, from settings to exit code."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import secrets as randomness
import signal
import socket
import sys
import time
from collections.abc import Callable
from functools import partial

from dispy.errors import DispyError, StateDirectoryError, UsageError
from dispy.net import unix_sockets
from dispy.net.connection import Connection
from dispy.net.discovery import SCHEDULERS, Entry, Listing
from dispy.net.late_tls import TlsAtFirst
from dispy.net.listener import Listener
from dispy.net.loopback import namespace
from dispy.net.port_holders import holder
from dispy.net.terminal import Console, has_terminal
from dispy.net.unix_listener import UnixListener
from dispy.protocol import shared
from dispy.scheduler.daemon.files import FileKeeper
from dispy.scheduler.daemon.hub import Hub
from dispy.scheduler.daemon.node_search import NodeAccess
from dispy.scheduler.daemon.prompt import END_OF_FILE, HINT, Prompt
from dispy.scheduler.tracing import set_tracing
from dispy.security import reach, secrets
from dispy.security.secret_watch import SecretWatch
from dispy.security.tls import ListenerTls, Tls, check, listener_tls, warn_if_open
from dispy.settings import SchedulerSettings, check_scheduler
from dispy.system import processes
from dispy.system.addresses import is_loopback, local, resolve
from dispy.system.directories import GIVEN, disk_directory, shared_memory, state_directory
from dispy.system.escaping import Formatter
from dispy.system.liveness import this_process
from dispy.system.log_writer import Outlet, OutletHandler
from dispy.system.run_directory import Place

logger = logging.getLogger("dispy.scheduler")

LOG_S = 1.0
"""Seconds that the last lines of the log have to be written at the end."""

FILES = "scheduler-files"
"""Directory of the files of programs, in the user's state directory: one for each scheduler that runs."""

FAREWELL_TURNS = 5
"""Turns of the loop in which programs and nodes are told that the scheduler ends."""

SWITCH_S = 0.0005
"""Longest time (seconds) that a thread holds the interpreter while the loop has work."""


def run(settings: SchedulerSettings) -> int:
    """Run a shared scheduler until it is told to stop.

    SIGINT, SIGTERM and, unless it is ignored, SIGHUP stop it. A second SIGINT or SIGTERM does so without waiting for
    programs.

    Returns:
        Exit code: 0; 1 if it cannot be started; 2 if its settings are wrong.
    """
    processes.fill_standard_descriptors()
    log = _open_log(settings)
    sys.setswitchinterval(SWITCH_S)
    try:
        settings = check_scheduler(settings)
        return _run_checked(settings)
    except DispyError as error:
        print(f"dispyscheduler: {error}", file=sys.stderr)
        return 2
    finally:
        log.close(LOG_S)


def _open_log(settings: SchedulerSettings) -> Outlet:
    """Have log records written to stderr on a thread of their own, which is returned; the caller closes it."""
    written = logging.StreamHandler()
    written.setFormatter(Formatter("%(asctime)s %(levelname)s %(name)s - %(message)s"))
    outlet = Outlet(written.handle)
    logging.basicConfig(
        handlers=[OutletHandler(outlet)], level=logging.DEBUG if settings.debug else logging.INFO
    )
    logging.getLogger("asyncio").setLevel(logging.INFO)
    return outlet


def _run_checked(settings: SchedulerSettings) -> int:
    node_tls = check(Tls(settings.node_certfile, settings.node_keyfile, settings.node_cafile, settings.tls))
    tls = check(
        Tls(settings.cluster_certfile, settings.cluster_keyfile, settings.cluster_cafile, settings.tls)
    )
    node_secret = secrets.choose(settings.node_secret, settings.node_secret_file)
    secret = secrets.choose(settings.cluster_secret, settings.cluster_secret_file)
    os.environ.pop(secrets.VARIABLE, None)
    for option, fault in (("node", _node_fault(node_secret)), ("cluster", _fault(secret))):
        if fault is not None:
            raise UsageError(f"--{option}_secret: {fault}")
    addresses = [resolve(host) for host in settings.hosts]
    for address in addresses:
        if fault := reach.listen_fault(secret, address, is_forced=settings.force_weak_secret):
            raise fault
        warn_if_open(tls, address)
        reach.warn_if_avoided(secret, address, has_certificate=bool(tls.certfile))
    named = [_parse_node(each, settings.port + 1) for each in settings.nodes if each != "*"]
    lists_nodes = not settings.nodes or "*" in settings.nodes
    access = NodeAccess(
        node_secret,
        node_tls,
        named,
        settings.port + 1,
        lists_nodes,
        settings.port,
        settings.ipv4_udp_multicast,
    )
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(_Server(settings, addresses, access, secret, tls).serve())


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop
    return uvloop.new_event_loop


def _node_fault(secret: secrets.Secret) -> UsageError | None:
    """Returns why a secret is of no use for nodes; None if it is."""
    return reach.use_fault(secret, "client", "node", time.time())


def _fault(secret: secrets.Secret) -> UsageError | None:
    """Returns why a secret is of no use for programs; None if it is."""
    return reach.use_fault(secret, "scheduler", "client", time.time())


def _parse_node(text: str, port: int) -> tuple[str, int]:
    """Returns address and port of ``--node HOST`` or ``--node HOST:PORT``; IPv6 addresses with a port in brackets.

    Raises:
        UsageError: The host cannot be resolved, or the port is none.
    """
    host, colon, number = text.rpartition(":")
    if not colon or (":" in host and not host.startswith("[")):
        host, number = text, str(port)
    if not number.isdigit() or not 0 < int(number) < 65536:
        raise UsageError(f"--node {text}: {number!r} is no port number", hint="--node HOST:PORT")
    return resolve(host.strip("[]")), int(number)


def _tls_maker(tls: Tls, addresses: list[str]) -> Callable[[], ListenerTls] | None:
    """Returns the function that makes the TLS of TCP connections; None: they are not encrypted.

    On loopback a certificate may never be needed. Elsewhere TLS is made now, so that what is wrong is told at once.

    Raises:
        UsageError: A file cannot be used.
    """
    if not tls.is_used:
        return None
    if all(map(is_loopback, addresses)) and not tls.is_asked_for:
        return partial(listener_tls, tls)
    made = listener_tls(tls)
    return lambda: made


class _Server:
    """A running scheduler: where it listens, and how it ends."""

    def __init__(
        self,
        settings: SchedulerSettings,
        addresses: list[str],
        access: NodeAccess,
        secret: secrets.Secret,
        tls: Tls,
    ) -> None:
        self._settings = settings
        self._addresses = addresses
        self._access = access
        self._secret = secret
        self._tls = TlsAtFirst(_tls_maker(tls, addresses))
        self._has_socket = not tls.is_asked_for
        self._hub: Hub
        self._stopped = asyncio.Event()
        self._unix: UnixListener | None = None
        self._entry: Entry | None = None

    async def serve(self) -> int:
        settings = self._settings
        name = settings.name or socket.gethostname()
        self._hub = Hub(
            randomness.token_bytes(16), name, self._access,
            lease_s=settings.lease_s, policy=settings.policy, users=settings.users,
            is_closed_to_others=settings.known_users, is_cooperative=settings.cooperative,
            cleans_nodes=settings.cleanup_nodes, payload_memory=settings.payload_memory,
        )  # fmt: skip
        self._hub.service.links.origin = f"scheduler at {name}"[:200]
        self._hub.service.links.set_pulse(settings.pulse_s)
        if settings.debug:
            set_tracing(self._hub.service, True)
        memory, disk = self._share_memory(), self._use_disk()
        self._handle_signals()
        listeners: list[Listener] = []
        try:
            where = self._listen(listeners)
        except OSError as error:
            print(f"dispyscheduler: {error}", file=sys.stderr)
            return 1
        watches = self._watch_secrets()
        kept = self._keep_files()
        self._list(*where[0])
        self._hub.begin()
        shown = ", ".join(f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in where)
        how = ", TLS" if self._tls.is_used else ""
        with contextlib.suppress(OSError):
            print(f"dispyscheduler {name!r} listens on {shown} for programs{how}", flush=True)
        self._hub.on_last_closed = partial(self._stop, "all clusters are closed")
        console = None
        if not settings.daemon and has_terminal():
            with contextlib.suppress(OSError):
                print(HINT, flush=True)
            prompt = Prompt(self._hub, self._stop)
            console = Console(sys.stdin.fileno(), prompt.answer, END_OF_FILE)
        await self._stopped.wait()
        if console is not None:
            console.close()
        for watch in watches:
            watch.close()
        self._end(listeners)
        for _ in range(FAREWELL_TURNS):
            await asyncio.sleep(0)
        await asyncio.sleep(0.05)
        for place in (memory, disk, kept):
            if place is not None:
                place.close()
        if disk is not None:
            with contextlib.suppress(OSError):  # others use it
                disk.root.parent.rmdir()
        return 0

    def _keep_files(self) -> Place | None:
        """Keep files of programs in the user's state directory; returns their place there, if there is one."""
        try:
            place = Place(state_directory() / FILES, self._hub.service.links.identity.hex())
        except (OSError, DispyError) as error:
            logger.warning("files of programs are not kept: jobs of one that dies may lack them: %s", error)
            return None
        self._hub.keeper = FileKeeper(place.root)
        return place

    def _share_memory(self) -> Place | None:
        """Exchange payloads with processes of this machine by name, if there is a memory file system."""
        try:
            base = shared_memory()
            if base is None:
                return None
            memory = Place(base, f"scheduler-{self._hub.service.links.identity.hex()}")
            (memory.root / GIVEN).mkdir(mode=0o700)
        except (OSError, DispyError) as error:
            logger.info("large data is copied to processes of this machine: %s", error)
            return None
        self._hub.share(memory.root)
        return memory

    def _use_disk(self) -> Place | None:
        """Have a directory for large data that is too much for memory. What dead schedulers have left is removed."""
        try:
            disk = Place(disk_directory(), f"scheduler-{self._hub.service.links.identity.hex()}")
        except (OSError, DispyError) as error:
            logger.warning("large data of programs is held in memory, however much it is: %s", error)
            return None
        self._hub.spill(disk.root)
        return disk

    def _watch_secrets(self) -> list[SecretWatch]:
        """Read the files of both secrets again when they change; returns their watches, to be closed."""
        settings, access = self._settings, self._access

        def check(secret: secrets.Secret) -> UsageError | None:
            found = [
                reach.listen_fault(secret, address, is_forced=settings.force_weak_secret)
                for address in self._addresses
            ]
            return next(filter(None, [_fault(secret), *found]), None)

        def renew(secret: secrets.Secret) -> None:
            self._secret = secret
            self._hub.revoke(secret.keys.is_revoked)

        def renew_nodes(secret: secrets.Secret) -> None:
            access.secret = secret
            self._hub.service.links.drop(secret.keys.is_revoked, "its key is revoked")

        watches = [
            SecretWatch(settings.cluster_secret_file, self._secret, check, renew),
            SecretWatch(settings.node_secret_file, access.secret, _node_fault, renew_nodes),
        ]
        for watch in watches:
            watch.begin()
        return watches

    def _handle_signals(self) -> None:
        loop = asyncio.get_running_loop()
        if self._settings.daemon:
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) != signal.SIG_IGN:
                loop.add_signal_handler(number, self._stop, signal.Signals(number).name)
        loop.add_signal_handler(signal.SIGUSR2, self._say_usage)

    def _stop(self, why: str) -> None:
        if not self._stopped.is_set():
            logger.info("the scheduler ends: %s", why)
            self._stopped.set()

    def _say_usage(self) -> None:
        for text in self._hub.status().splitlines():
            logger.info("%s", text.strip())

    def _listen(self, listeners: list[Listener]) -> list[tuple[str, int]]:
        """Listen at all addresses; returns address and port of each.

        Raises:
            OSError: A port cannot be used; says which, and what to do.
        """
        settings = self._settings
        found = []
        for address in self._addresses:
            listener = Listener(self._new_connection, tls=self._tls.is_used, prepare=self._tls.prepare)
            listeners.append(listener)
            wanted = settings.port + 2 if settings.listen_port is None else settings.listen_port
            try:
                found.append(listener.listen(address, wanted))
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise OSError(f"cannot listen on {address} port {wanted}: {error.strerror}") from error
                if settings.listen_port is not None or not is_loopback(address):
                    raise OSError(
                        f"port {wanted} of {address} is in use by {holder(address, wanted)}; end that, or "
                        "give another one: --port N (programs come to N + 2), --listen_port N"
                    ) from error
                found.append(listener.listen(address, 0))
                logger.warning(
                    "port %d of %s is in use by %s: programs of this user find this scheduler at port %d",
                    wanted, address, holder(address, wanted), found[-1][1],
                )  # fmt: skip
        if self._has_socket:
            try:
                self._unix = UnixListener(partial(self._new_connection, is_unix=True), *found[0])
            except StateDirectoryError as error:
                logger.warning("programs of this machine come by TCP: %s", error)
        return found

    def _list(self, host: str, port: int) -> None:
        """Enter the scheduler into the list of this machine's schedulers, by which programs of this user find it."""
        listing = Listing(
            self._hub.service.links.identity.hex(), local(host), port, self._tls.is_used, self._hub.name, 0,
            this_process(), self._secret.fingerprint(), is_everywhere=local(host) != host,
            socket=str(self._unix.path) if self._unix is not None else "", namespace=namespace(),
        )  # fmt: skip
        try:
            self._entry = Entry(listing, SCHEDULERS)
        except StateDirectoryError as error:
            logger.warning("%s; programs find it if they name it: scheduler_host=%r", error, local(host))

    def _new_connection(
        self, on_settled: Callable[[Connection], None], is_unix: bool = False
    ) -> Connection:
        hub = self._hub
        connection: Connection = Connection(
            hub,
            shared.to_scheduler_decoder,
            self._secret.keys,
            "scheduler",
            "client",
            is_dialer=False,
            tls=None if is_unix else self._tls.made,
            on_settled=on_settled,
            make_sink=lambda size: hub.make_sink(connection, size),
            farewell=lambda error: shared.Leaving(str(error)),
        )
        return connection

    def _end(self, listeners: list[Listener]) -> None:
        if self._entry is not None:
            self._entry.close()
        if self._unix is not None:
            self._unix.close()
        for listener in listeners:
            listener.close()
        self._hub.close("the scheduler ends")
        unix_sockets.tidy()
