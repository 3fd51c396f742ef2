"""A backend without a core, threads or processes, for tests of what belongs to a cluster.

Jobs run when a test says so, in this process and on this thread; nodes come and go when it says so. Functions that
are posted to the loop, and calls of the engine's other threads, wait in one queue until ``Threads.turn``.
"""

from __future__ import annotations

import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from dispy import payload
from dispy.client.backend.backend import Access, ClusterSpec, Wishes
from dispy.client.code.computation import Computation
from dispy.client.code.shipped_files import Shipped
from dispy.client.engine.callback_thread import Waited
from dispy.client.engine.news import News
from dispy.client.nodes import parse_nodes
from dispy.client.session.startup import Callbacks, make_session, open_session
from dispy.client.session.state import Options, Session
from dispy.protocol.node import CANCELLED, FINISHED, TERMINATED, Ended, Job
from dispy.protocol.views import NodeId, NodeInfo, PlacementStatus, PlacementView
from dispy.security import key_text, secrets
from dispy.security.tls import Tls
from dispy.system import process_identity

SECRET = secrets.choose(key_text.generate())


class Caller:
    """A thread of the engine, as ``callback_thread.Caller``: its calls are made in the next turn."""

    def __init__(self, threads: Threads) -> None:
        self._threads = threads

    def call(
        self, function: Callable[..., Any], arguments: list[tuple[Any, ...]], named: Any = None
    ) -> None:
        for each in arguments:
            self._threads.post(function, *each)

    def call_each(self, calls: list[tuple[Callable[..., Any], tuple[Any, ...]]]) -> None:
        for function, arguments in calls:
            self._threads.post(function, *arguments)

    def wait_called(self, until: float | None, who: str) -> Waited:
        self._threads.turn()
        return Waited.CALLED

    def held(self) -> Any:
        return _Nothing()


class _Nothing:
    """A context that changes nothing."""

    def __enter__(self) -> None: ...
    def __exit__(self, *_: object) -> None: ...


class Threads:
    """The threads of an engine, as ``engine.threads.Threads``, all of them this one."""

    def __init__(self) -> None:
        self.queue: deque[tuple[Callable[..., Any], tuple[Any, ...]]] = deque()
        self.callbacks = self.loader = self.chooser = self.files = Caller(self)
        self.is_stopped = False
        self.clock = time
        self.new_condition = threading.Condition

    def post(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.queue.append((function, arguments))

    def turn(self) -> None:
        """Do all that waits, and what comes of it."""
        while self.queue:
            function, arguments = self.queue.popleft()
            function(*arguments)

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        self.turn()
        return function(*arguments)

    def is_current(self) -> bool:
        return False

    def is_loop(self) -> bool:
        return False


class PlayedViews:
    """Nodes and jobs of a ``PlayedBackend``, as ``backend.Views``."""

    def __init__(self, backend: PlayedBackend) -> None:
        self._backend = backend

    def nodes(self, number: int) -> list[NodeInfo]:
        return list(self._backend.known.values())

    def view(self, number: int) -> dict[NodeId, PlacementView]:
        used = self._backend.used
        return {node: view for (cluster, node), view in used.items() if cluster == number}

    def running(self, number: int, node: NodeId) -> list[int]:
        return []

    def ask_running(self, number: int, node: NodeId) -> Future[list[int]]:
        answer: Future[list[int]] = Future()
        answer.set_result([])
        return answer

    def ask_why(self, number: int, job: int) -> Future[tuple[str, list[str]]]:
        answer: Future[tuple[str, list[str]]] = Future()
        answer.set_result((("it waits" if self.view(number) else ""), []))
        return answer

    def stalled(self, number: int) -> str:
        return ""

    def count_listed(self, number: int) -> tuple[int, int]:
        return 0, 0


class PlayedBackend:
    """A scheduler that does what a test says, as ``backend.Backend``. ``done`` has all that it was told, in order."""

    identity = bytes(16)
    name = "played"

    def __init__(self, news: News) -> None:
        self.news = news
        self.views = PlayedViews(self)
        self.noted: set[int] = set()
        self.known: dict[NodeId, NodeInfo] = {}
        self.used: dict[tuple[int, NodeId], PlacementView] = {}
        self.waiting: dict[int, list[Job]] = {}
        self.done: list[tuple[Any, ...]] = []

    def __getattr__(self, name: str) -> Callable[..., None]:
        """Note a call of any method that is not played: watch, answer, put, drop, place_files, vacate, limit …"""
        return lambda *arguments, **named: self.done.append((name, *arguments, *named.values()))

    def open(self, spec: ClusterSpec) -> None:
        self.waiting[spec.compute.computation] = []
        for info in self.known.values():
            self.news.on_offer(spec.compute.computation, info)

    def close(self, number: int) -> None:
        self.waiting.pop(number, None)
        self.news.on_closed(number)

    def submit(self, number: int, jobs: list[Job], node: NodeId | None = None, files: Any = None) -> None:
        self.done.append(("submit", [job.number for job in jobs], node))
        self.waiting[number] += jobs

    def try_submit(self, number: int, job: Job) -> bool:
        return False

    def cancel(self, number: int, jobs: list[int]) -> None:
        self.done.append(("cancel", jobs))
        self.waiting[number] = [job for job in self.waiting[number] if job.number not in jobs]
        self.news.on_ended_here(number, jobs, CANCELLED, "cancelled")

    def allocate(self, number: int, node: NodeId, cpus: int, **how: Any) -> None:
        self.done.append(("allocate", node, cpus))
        if cpus <= 0 and how.get("is_draining") and (number, node) in self.used:
            self.used[number, node] = PlacementView(PlacementStatus.READY)
            return
        if cpus <= 0:
            self.used.pop((number, node), None)
            return
        self.used[number, node] = PlacementView(
            PlacementStatus.READY, cpus_max=cpus, slots=cpus, is_open=True
        )
        self.news.on_usable(number, self.known[node], True, "")

    # What a test says.

    def node_comes(self, name: str, cpus: int = 1) -> NodeInfo:
        """A node introduces itself."""
        node, ip_addr = NodeId(name.encode()), f"10.0.0.{len(self.known) + 1}"
        info = NodeInfo(node, name, ip_addr, 9701, cpus, "Linux")
        self.known[node] = info
        for number in list(self.waiting):
            self.news.on_offer(number, info)
        return info

    def run(self, session: Session, function: Callable[..., Any], count: int = sys.maxsize) -> None:
        """Have jobs run, the oldest first, on the first node that the cluster uses."""
        jobs, self.waiting[session.number] = (
            self.waiting[session.number][:count],
            self.waiting[session.number][count:],
        )
        info = next(info for info in self.known.values() if (session.number, info.node) in self.used)
        self.news.on_ended(session.number, [_run(function, job) for job in jobs], info)


def _run(function: Callable[..., Any], job: Job) -> Ended:
    """Run a job here."""
    call = payload.load_call(job.payload)
    now = time.time()
    try:
        value = function(*call[0], **(call[1] if len(call) > 1 else {}))
    except Exception as error:
        data = payload.dump_exception(error)
        return Ended(
            job.number, 0, TERMINATED, now, now + 1.0, data, reason=f"{type(error).__name__}: {error}"
        )
    return Ended(
        job.number, 0, FINISHED, now, now + 1.0, payload.whole(payload.dump(value)), stdout=b"said\n"
    )


def played(
    function: Callable[..., Any], nodes: Any = None, beside: Session | None = None, **given: Any
) -> tuple[Session, PlayedBackend]:
    """An open session over a played backend.

    ``beside``: a session of the same program, whose backend is shared. ``given``: ``job_status``, ``cluster_status``,
    or any of ``Options``.
    """
    threads: Any = Threads() if beside is None else beside.engine
    backend: Any = PlayedBackend(News(threads)) if beside is None else beside.backend
    news = backend.news
    callbacks = Callbacks(given.pop("job_status", None), given.pop("cluster_status", None))
    seeding = payload.Seeding(0, 1, False)
    chosen = {
        "access": Access(SECRET, Tls()), "secret_file": None, "owner": b"", "files": [], "seed": 0,
        "seeding": seeding, "dest_path": "", "keeps_files": False, "isolate": False, "setup_per": "node",
        "setup_timeout": None, "exclusive": False, "is_plain": False, "reentrant": False, "pulse_s": 1.0,
        "queued_max": sys.maxsize, "computation": Computation(function, (), seeding=seeding),
    }  # fmt: skip
    options = Options(**(chosen | given))
    wishes = Wishes(parse_nodes(nodes), nodes is None)
    session = make_session(
        options,
        wishes,
        Shipped(None),
        [],
        threads,
        backend,
        len(news.sessions) + 1,
        "the cluster",
        callbacks,
    )

    def add(opened: Session) -> None:
        news.sessions[opened.number] = opened
        backend.open(opened.spec(lambda _: None))

    open_session(session, options.queued_max < sys.maxsize, add)
    assert session.pid == process_identity.pid
    return session, backend
