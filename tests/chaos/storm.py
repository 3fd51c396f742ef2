"""The storm: nodes, programs and links, the faults that are put on them, and the gathering of what came of it."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from dispy.net.discovery import running_nodes
from dispy.security import key_text
from tests.integration.helpers import PYTHON, Node, Place, Program, Scheduler, wait_for
from tests.integration.others import NAME, public_place
from tests.integration.proxy import Proxy

from .checker import Story, check
from .machines import Machines
from .weather import Weather

ROOT = Path(__file__).resolve().parents[2]

PROGRAM_END_S = 150.0
"""A program that takes longer to end, with no faults any more, hangs."""

DESCRIPTORS_MAX = 40
DESCRIPTORS_EACH_MAX = 6
"""What a node has open: for itself, and for each host and worker."""

FROZEN_S = (0.05, 0.3, 1.0, 2.5)
"""How long a process stands still, or a link is silent: less than the five seconds after which it is dead."""


PULLED_S = (0.3, 1.0, 2.5, 7.0)
"""How long a cable is out: also for longer than it takes to be dead."""

SECRET = key_text.generate()


@dataclass(slots=True)
class Outcome:
    """What came of it.

    Attributes:
        faults: How many of each kind were put on.
        broken: How often each promise was broken.
        jobs: Jobs that were submitted.
        statuses: Final statuses that were told.
        recoveries: From a fault to the end of a job that was submitted after it (seconds), sorted.
        seconds: How long it took.
        notes: What a reader needs to find out why.
    """

    faults: Counter[str] = field(default_factory=Counter)
    broken: Counter[str] = field(default_factory=Counter)
    jobs: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    recoveries: list[float] = field(default_factory=list)
    seconds: float = 0.0
    notes: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Client:
    """A program that runs, and its log."""

    program: Program
    log: Path
    first: int
    is_killed: bool = False


class Storm:
    """Nodes behind proxies, or on machines of their own, and programs that use them.

    Args:
        root: An empty directory.
        seed: Of all that is drawn.
        nodes: How many.
        programs: How many run at a time.
        has_machines: Whether nodes have network namespaces of their own, with TLS, whose cables are pulled.
        python_for_all: An interpreter that another account can run: every second node, from the first, has jobs that
            run as that account. Empty: none has.
        is_shared: Whether programs have a shared scheduler, which is killed, too; nodes are on this machine then.
    """

    def __init__(
        self,
        root: Path,
        seed: int,
        nodes: int,
        programs: int,
        has_machines: bool = False,
        python_for_all: str = "",
        is_shared: bool = False,
    ) -> None:
        self._python_for_all = python_for_all
        self._machines = Machines(nodes) if has_machines else None
        self._is_shared = is_shared
        self._chance = random.Random(seed)
        self._place = Place(root)
        self._place.environment["PYTHONPATH"] = f"{ROOT}/src:{ROOT}"
        self._marks = root / "marks"
        self._marks.mkdir()
        self._opened = ExitStack()
        """Keeps the place open to the other account, until it is looked what nodes have left there."""
        if python_for_all:
            root.chmod(0o755)
            self._marks.chmod(0o777)
            self._opened.enter_context(public_place(self._place))
        self._logs = root / "logs"
        self._logs.mkdir()
        self._reserved = [_reserved_port() for _ in range(nodes + is_shared)]
        self._ports: list[int] = [probe.getsockname()[1] for probe in self._reserved]
        self._weather = [Weather() for _ in self._ports]
        self._nodes = [self._start_node(index) for index in range(nodes)]
        self._proxies = [
            Proxy(port, lambda _, weather=weather: weather)  # type: ignore[misc]
            for port, weather in zip(self._ports, self._weather, strict=True)
            if not has_machines
        ]
        self._scheduler = self._start_scheduler() if is_shared else None
        self._clients: list[Client] = []
        self._frozen: list[threading.Timer] = []
        self._times: list[float] = []
        """When faults were put on."""
        self.outcome = Outcome()
        for _ in range(programs):
            self._start_program()

    def _start_node(self, index: int) -> Node:
        options = ["--listen_port", str(self._ports[index]), "--name", f"node{index}", "--cpus", "2"]
        python = list(PYTHON)
        if self._python_for_all and index % 2 == 0:
            python = [self._python_for_all]
            options += ["--user", NAME]
        if self._machines is None:
            return Node(self._place, *options, warnings="", python=python)
        options += ["--host", self._machines.address(index), "--secret", SECRET]
        return Node(self._place, *options, warnings="", python=[*self._machines.on(index), *python])

    def _start_scheduler(self) -> Scheduler:
        options = ["--listen_port", str(self._ports[-1]), "--daemon"]
        for proxy in self._proxies[:-1]:
            options += ["--node", f"127.0.0.1:{proxy.port}"]
        return Scheduler(self._place, *options)

    def _start_program(self) -> None:
        first = 1 + len(self._clients) * 10_000_000
        log = self._logs / str(len(self._clients))
        machines = self._machines
        nodes = [("127.0.0.1", proxy.port) for proxy in self._proxies]
        if machines is not None:
            nodes = [(machines.address(index), port) for index, port in enumerate(self._ports)]
        settings = {
            "nodes": nodes,
            "scheduler": self._proxies[-1].port if self._is_shared else 0,
            "secret": SECRET if machines is not None else "",
            "log": str(log),
            "marks": str(self._marks),
            "first": first,
            "seed": self._chance.random(),
        }
        command = [sys.executable, "-m", "tests.chaos.program", json.dumps(settings)]
        if machines is not None:
            command = machines.on_hub + command
        reading, writing = os.pipe()
        program = Program(command, self._place, stdin=reading)
        os.close(reading)
        program.input = writing  # type: ignore[attr-defined]
        self._clients.append(Client(program, log, first))

    # Faults.

    def fault(self) -> None:
        """Put one on, drawn by chance."""
        kinds: list[tuple[int, Callable[[], bool]]] = [
            (4, self.kill_worker),
            (2, self.kill_host),
            (2, self.kill_node),
            (1, self.stop_node),
            (1, self.kill_program),
            (3, self.freeze),
        ]
        if self._is_shared:
            kinds += [(1, self.kill_scheduler)]
        if self._machines is not None:
            kinds += [(6, self.pull_cable)]
        else:
            kinds += [(3, self.reset_link), (2, self.hold_link), (1, self.slow_link)]
        weights = [weight for weight, _ in kinds]
        kind = self._chance.choices([kind for _, kind in kinds], weights)[0]
        if kind():
            self.outcome.faults[kind.__name__.replace("_", " ")] += 1
            self._times.append(time.monotonic())

    def _index(self) -> int:
        return self._chance.randrange(len(self._nodes))

    def _link(self) -> int:
        """One of the links: to a node, or to the shared scheduler."""
        return self._chance.randrange(len(self._weather))

    def _below(self, depth: int) -> psutil.Process | None:
        """A host (1) or a worker (2) of some node."""
        found = [psutil.Process(self._nodes[self._index()].pid)]
        try:
            for _ in range(depth):
                found = [child for process in found for child in process.children()]
            return self._chance.choice(found) if found else None
        except psutil.Error:
            return None

    def kill_worker(self) -> bool:
        return self._kill(self._below(2))

    def kill_host(self) -> bool:
        return self._kill(self._below(1))

    @staticmethod
    def _kill(process: psutil.Process | None) -> bool:
        if process is None:
            return False
        with suppress(psutil.Error):
            process.kill()
        return True

    def kill_node(self) -> bool:
        return self._replace_node(signal.SIGKILL)

    def stop_node(self) -> bool:
        return self._replace_node(signal.SIGTERM)

    def _replace_node(self, number: int) -> bool:
        index = self._index()
        node = self._nodes[index]
        node.send(number)
        node.send(signal.SIGCONT)
        try:
            node.wait(8)
        except AssertionError as error:
            self._break("a node does not end", str(error))
            node.end()
        self._end_of_node(node)
        time.sleep(self._chance.choice([0, 0, 0.5, 1.5]))
        self._nodes[index] = self._start_node(index)
        return True

    def _end_of_node(self, node: Node) -> None:
        fault = _fault_in(node.stderr)
        if fault:
            self._break("a node has a fault", fault)
        node.end()

    def kill_scheduler(self) -> bool:
        assert self._scheduler is not None
        self._scheduler.process.kill()
        self._end_of_scheduler()
        time.sleep(self._chance.choice([0, 0, 0.5, 1.5]))
        self._scheduler = self._start_scheduler()
        return True

    def _end_of_scheduler(self) -> None:
        assert self._scheduler is not None
        with suppress(AssertionError):
            self._scheduler.wait(8)
        fault = _fault_in(self._scheduler.stderr)
        if fault:
            self._break("a scheduler has a fault", fault)
        self._scheduler.end()

    def kill_program(self) -> bool:
        index = self._chance.randrange(len(self._clients))
        client = self._clients[index]
        if client.is_killed:
            return False
        client.is_killed = True
        client.program.process.kill()
        self._end_of_program(client)
        self._start_program()
        return True

    def _end_of_program(self, client: Client) -> None:
        with suppress(AssertionError):
            client.program.wait(5)
        os.close(client.program.input)  # type: ignore[attr-defined]
        fault = _fault_in(client.program.stderr)
        if fault:
            self._break("a program has a fault", fault)
        client.program.end()

    def freeze(self) -> bool:
        """Some process stands still for a while."""
        way = self._chance.randrange(5 if self._scheduler is not None else 4)
        if way == 4 and self._scheduler is not None:
            pid: int | None = self._scheduler.pid
        elif way == 3:
            alive = [client for client in self._clients if not client.is_killed]
            pid = self._chance.choice(alive).program.pid
        elif way == 2:
            pid = self._nodes[self._index()].pid
        else:
            process = self._below(way + 1)
            pid = process.pid if process is not None else None
        if pid is None:
            return False
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
        timer = threading.Timer(self._chance.choice(FROZEN_S), _go_on, [pid])
        timer.start()
        self._frozen.append(timer)
        return True

    def pull_cable(self) -> bool:
        assert self._machines is not None
        self._machines.cut(self._index(), self._chance.choice(PULLED_S))
        return True

    def reset_link(self) -> bool:
        self._weather[self._link()].reset()
        return True

    def hold_link(self) -> bool:
        self._weather[self._link()].hold(self._chance.choice(FROZEN_S))
        return True

    def slow_link(self) -> bool:
        self._weather[self._link()].slow(self._chance.choice([0.5, 2.0]))
        return True

    # The end.

    def finish(self) -> Outcome:
        """No more faults: programs wait for their jobs, everything ends, and what is left is looked at."""
        for weather in self._weather:
            weather.clear()
        for timer in self._frozen:
            timer.join()
        if self._machines is not None:
            self._machines.mend()
        for client in self._clients:
            if not client.is_killed:
                os.write(client.program.input, b"\n")  # type: ignore[attr-defined]
        for client in self._clients:
            if client.is_killed:
                continue
            try:
                code = client.program.wait(PROGRAM_END_S)
                if code:
                    self._break("a program fails", f"exit code {code}")
                if "all ended" not in client.program.stdout:
                    self._break("jobs hang", client.program.stderr[-3000:])
            except AssertionError as error:
                self._break("a program hangs", str(error)[-3000:])
            self._end_of_program(client)
        if self._scheduler is not None:
            self._scheduler.send(signal.SIGTERM)
            self._end_of_scheduler()
        self._look_for_leaks()
        self._judge()
        return self.outcome

    def _look_for_leaks(self) -> None:
        for node in self._nodes:
            with suppress(AssertionError):
                node.wait_listens()
            open_, below = _descriptors(node.pid), len(node.descendants())
            if open_.total() > DESCRIPTORS_MAX + below * DESCRIPTORS_EACH_MAX:
                note = f"{open_.total()} are open for {below} processes: {dict(open_.most_common())}"
                self._break("a node leaks descriptors", note)
            node.stop()
            self._end_of_node(node)
        # What those who were killed have left is removed by the next who starts.
        kinds: list[tuple[list[str], str]] = [([], sys.executable)]
        if self._python_for_all:
            kinds.append((["--user", NAME], self._python_for_all))
        for options, python in kinds:
            last = Node(self._place, "--listen_port", "0", *options, warnings="", python=[python])
            last.wait_listens()
            running_nodes("")
            last.stop()
            last.end()
        try:
            wait_for(self._place.processes, lambda left: not left, what="no processes are left")
        except AssertionError as error:
            self._break("processes are left", str(error))
        try:
            self._opened.close()
        except AssertionError as error:
            self._break("files of the other account are left", str(error))
        left = self._place.files()
        if left:
            self._break("files are left", f"{left[:10]}")
        for proxy in self._proxies:
            proxy.close()
        for probe in self._reserved:
            probe.close()
        if self._machines is not None:
            self._machines.close()
        self._place.close()

    def _judge(self) -> None:
        story, outcome = Story(), self.outcome
        ends: list[tuple[float, float]] = []
        for client in self._clients:
            numbers: set[int] = set()
            # One that was killed at once has none.
            for line in client.log.read_text().splitlines() if client.log.exists() else ():
                words = line.split()
                number = int(words[1])
                if words[0] == "submit":
                    story.submitted[number] = words[2] == "1"
                    numbers.add(number)
                elif words[0] == "cancel":
                    story.cancelled.add(number)
                else:
                    story.told.append((number, int(words[2]), words[3] == "1"))
                    outcome.statuses[int(words[2])] += 1
                    if words[6] == "1" and outcome.faults["kill scheduler"]:
                        story.forgotten.add(number)
                    ends.append((float(words[5]), float(words[5]) - float(words[4])))
            if client.is_killed:
                story.lost |= numbers
        for path in self._marks.iterdir():
            for line in path.read_text().splitlines():
                (story.started if line[0] == "s" else story.finished).append(int(line[2:]))
        outcome.jobs = len(story.submitted)
        for what, numbers in check(story).items():
            outcome.broken[what] += len(numbers)
            outcome.notes += [f"{what}: {number}; {self._history(number)}" for number in numbers[:5]]
        ends.sort()
        for moment in self._times:
            after = next((end for end, begun in ends if begun > moment), None)
            if after is not None:
                outcome.recoveries.append(after - moment)
        outcome.recoveries.sort()

    def _history(self, number: int) -> str:
        """What its program said of a job, and how often it ran."""
        said = [
            line
            for client in self._clients
            for line in client.program.stderr.splitlines()
            if f"job {number} " in line
        ]
        marks = [line for path in self._marks.iterdir() for line in path.read_text().splitlines()]
        runs = [line for line in marks if line.endswith(f" {number}")]
        return f"marks {runs}; {said}"

    def _break(self, what: str, note: str) -> None:
        self.outcome.broken[what] += 1
        self.outcome.notes.append(f"{what}: {note}")


def _fault_in(text: str) -> str:
    """What a process has said of a fault of its own, with what it said around it; empty if it has not."""
    places = [at for at in (text.find("Traceback"), text.find("has a fault")) if at >= 0]
    return text[max(0, min(places) - 500) : min(places) + 5000] if places else ""


def _go_on(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGCONT)


def _descriptors(pid: int) -> Counter[str]:
    """What a process has open, and how often, numbers left out.

    Locks of spools do not count: a node takes over those of dead ones, one for each, until their leases end.
    """
    found: Counter[str] = Counter()
    with suppress(OSError):
        for name in os.listdir(f"/proc/{pid}/fd"):
            with suppress(OSError):
                target = os.readlink(f"/proc/{pid}/fd/{name}")
                if "/spool/" not in target:
                    found[re.sub(r"\d+", "", target)] += 1
    return found


def _reserved_port() -> socket.socket:
    """A socket with a port that nobody is given as long as it is open; who names it can listen there, as nodes do."""
    probe = socket.socket()
    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    probe.bind(("127.0.0.1", 0))
    return probe


def run(
    root: Path,
    seed: int,
    seconds: float,
    faults: int,
    nodes: int = 3,
    programs: int = 2,
    has_machines: bool = False,
    python_for_all: str = "",
    is_shared: bool = False,
) -> Outcome:
    """Let it storm for so long, or for so many faults, and look at what is left."""
    storm = Storm(root, seed, nodes, programs, has_machines, python_for_all, is_shared)
    start = time.monotonic()
    chance = random.Random(f"{seed} pauses")
    while time.monotonic() - start < seconds and storm.outcome.faults.total() < faults:
        time.sleep(chance.choice([0.02, 0.1, 0.3, 0.6]))
        storm.fault()
    outcome = storm.finish()
    outcome.seconds = time.monotonic() - start
    return outcome
