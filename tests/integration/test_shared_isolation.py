"""Programs of one shared scheduler, apart: equal names and numbers do not meet, and nothing is had by naming it."""

from __future__ import annotations

import hashlib
import os
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest

import dispy
from dispy.protocol import node, shared
from dispy.protocol.files import FileEntry
from dispy.protocol.node import Compute, Job
from dispy.security.owner_key import owner_key

from .conftest import RunProgram, StartNode
from .filing import stored
from .helpers import Place, Program, Scheduler, wait_for
from .others import NAME, needs_root, public_directory, public_place
from .schedulers import Schedulers
from .test_peer_text import SECRET, Peer

LARGE = 3 << 20


@pytest.fixture
def scheduler(schedulers: Schedulers, start_node: StartNode) -> Scheduler:
    """A scheduler with a node of two CPUs, whose programs talk in the clear, so that anything can be said."""
    start_node("--cpus", "2", "--name", "one")
    return schedulers.start("--cluster_secret", SECRET, "--no_tls")


# Two programs at once.

TWIN = """
import os, sys, time
import dispy

name, gate, port = sys.argv[1:]

def work(number, gate, shown):
    import os, time
    from dispy.job import provisional_result, send_file
    print(f"{number} printed", end="", flush=True)
    provisional_result((number, open("data").read()))
    with open("made", "w") as file:
        file.write(open("data").read() + open("brought").read())
    assert send_file("made") == 0
    while not os.path.exists(gate): time.sleep(0.01)
    return number, open("data").read(), open("brought").read(), bytes(shown[:3]), len(shown), os.getcwd()

values, printed = [], []

def status(job):
    if job.status == dispy.DispyJob.ProvisionalResult:
        values.append(job.result)

with dispy.SharedJobCluster(
    work, depends=["data"], dest_path="same/place", job_status=status,
    job_output=lambda job, stream, text: printed.append(text),
    scheduler_host="127.0.0.1", scheduler_port=int(port), secret="SECRET", tls=False,
) as cluster:
    shown = cluster.put(name.encode() * 1_000_000)
    job = cluster.submit(name, gate, shown, dispy_job_depends=["brought"])
    while not values or not printed:
        assert not job.finish.is_set(), job.exception
        time.sleep(0.01)
    print("ready", flush=True)
    while not os.path.exists(gate + " ready"): time.sleep(0.01)  # both run on the only CPUs
    extra = cluster.submit(name, gate, shown, dispy_job_depends=["brought"])
    print("submitted", flush=True)
    while not os.path.exists(gate + " submitted"): time.sleep(0.01)
    if name == "one":
        cluster.cancel(extra)
        assert extra.wait(20)
        print("cancelled", flush=True)
    number, data, brought, start, size, where = job()
    extra()
    assert (number, data, brought) == (name, name, name), (number, data, brought)
    assert start == name.encode(), start
    assert size == 3_000_000, size
    assert set(values) == {(name, name)}, values
    assert set(printed) == {f"{name} printed"}, printed
    assert open("made").read() == 2 * name
    print("extra", extra.status == dispy.DispyJob.Cancelled, where, flush=True)
"""


def run_owned(
    run_program: RunProgram, place: Place, source: str, name: str, scheduler: Scheduler, *arguments: str
) -> Program:
    """Start the program of a user of its own, in the directory of its name."""
    state = place.root / f"state-{name}"
    state.mkdir(mode=0o700)
    return run_program(
        source.replace("SECRET", SECRET), name, *arguments, str(scheduler.port), name=f"{name}.py",
        cwd=place.root / name, env=place.environment | {"XDG_STATE_HOME": str(state)},
    )  # fmt: skip


def test_two_programs_with_equal_names_and_numbers_at_once(
    schedulers: Schedulers, start_node: StartNode, run_program: RunProgram, place: Place, gate: Path
) -> None:
    """Files of a name, directories, objects, values, output, files sent back; and the cancel of a job's number."""
    start_node("--cpus", "2")
    scheduler = schedulers.start("--cluster_secret", SECRET, "--no_tls")
    twins = []
    for name in ("one", "two"):
        directory = place.root / name
        directory.mkdir()
        (directory / "data").write_text(name)
        (directory / "brought").write_text(name)
        twins.append(run_owned(run_program, place, TWIN, name, scheduler, str(gate)))
    for line in ("ready", "submitted"):
        for twin in twins:
            twin.wait_line(f"^{line}$")
        Path(f"{gate} {line}").touch()
    twins[0].wait_line("^cancelled$")
    gate.touch()
    ends = []
    for name, twin in zip(("one", "two"), twins, strict=True):
        assert twin.wait(20) == 0, (name, twin.stderr)
        ends.append(twin.wait_line(r"^extra (\w+) (.*)$"))
    assert [end[1] for end in ends] == ["True", "False"]


# What is whose.


@contextmanager
def program(scheduler: Scheduler, identity: bytes = b"h" * 16, **options: Any) -> Iterator[Peer]:
    """A program that knows the secret, and says what it likes."""
    with socket.create_connection((scheduler.host, scheduler.port)) as link:
        link.settimeout(10)
        peer = Peer(link, "client", "scheduler", is_dialer=True)
        peer.say(shared.Attach(identity, "hostile", "mallory", "", **options))
        peer.unheard = []  # type: ignore[attr-defined]
        yield peer


def hear(peer: Peer, is_wanted: Callable[[Any], bool]) -> Any:
    """The first wanted message that it is told, or was told before; others are kept."""
    unheard = peer.unheard  # type: ignore[attr-defined]
    for message in unheard:
        if is_wanted(message):
            unheard.remove(message)
            return message
    while True:
        message = shared.from_scheduler_decoder.decode(peer.hear_encoded())
        if is_wanted(message):
            return message
        unheard.append(message)


def until(gate: str) -> str:
    import os
    import time

    while not os.path.exists(gate):
        time.sleep(0.01)
    with open("data") as file:
        return file.read()


@contextmanager
def victim(
    scheduler: Scheduler, gate: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[dispy.DispyJob]:
    """A program with a job that runs until the gate is there, and another that waits; in the end both are right."""
    (here / "data").write_text("of the victim" * 1000)
    monkeypatch.chdir(here)
    with dispy.SharedJobCluster(
        until, scheduler_host=scheduler.host, scheduler_port=scheduler.port, secret=SECRET, tls=False,
        depends=["data"],
    ) as cluster:  # fmt: skip
        running, waiting = [cluster.submit(str(gate)) for _ in range(2)]
        wait_for(lambda: running.status, lambda status: status == running.Running, what="it runs")
        yield running
        gate.touch()
        assert running() == waiting() == "of the victim" * 1000
        assert cluster.submit(str(gate))() == "of the victim" * 1000
    assert "Traceback" not in scheduler.stderr


@pytest.mark.parametrize("owner", [b"m" * 32, b""])
def test_who_names_a_digest_is_asked_for_the_content(
    scheduler: Scheduler,
    gate: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    place: Place,
    owner: bytes,
) -> None:
    """With another owner key, or none; also while the file is there for its owner, and a computation has it."""
    with victim(scheduler, gate, tmp_path, monkeypatch), program(scheduler) as peer:
        data = (tmp_path / "data").read_bytes()
        (kept,) = stored(place)
        assert kept.read_bytes() == data
        digest = hashlib.sha256(data).digest()
        files = [FileEntry("stolen", digest, len(data), 0o644, 0)]
        compute = Compute(1, "f", b"code", files=files, owner=owner)
        peer.say(shared.OpenCluster(1, 1, compute, False, []))
        found = hear(peer, lambda message: type(message) is shared.Offer).info.node
        peer.say(shared.Allocate(2, 1, found, 1))
        # The scheduler asks first, then the node.
        for batch, asks in ((3, b""), (4, found)):
            needed = hear(peer, lambda message: type(message) is shared.FilesNeeded)
            assert (needed.node, [piece.digest for piece in needed.need.pieces]) == (asks, [digest])
            missing = [node.FileUnreadable(1, digest, "I have it not")]
            peer.say(shared.SendFiles(batch, 1, asks, [], missing))
        told = hear(peer, lambda message: type(message) is shared.Usable)
        assert not told.is_usable
        assert "I have it not" in told.reason
        # It says something else, under the digest of the victim.
        peer.say(shared.OpenCluster(5, 2, msgspec.structs.replace(compute, computation=2), False, []))
        peer.say(shared.Allocate(6, 2, found, 1))
        hear(peer, lambda message: type(message) is shared.FilesNeeded)
        wrong = [node.FilePiece(digest, 0, bytes(len(data)))]
        peer.say(shared.SendFiles(7, 2, found, wrong))
        told = hear(peer, lambda message: type(message) is shared.Usable)
        assert not told.is_usable
        assert kept.read_bytes() == data
        assert owner_key() != owner


@pytest.mark.parametrize("kind", [
    "another's numbers", "directories", "a flood", "garbage", "out of order", "closed twice", "too long a name",
])  # fmt: skip
def test_a_hostile_program_harms_nobody(
    scheduler: Scheduler, gate: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """It knows the secret, and says what no honest one says; the log names it where it breaks a rule."""
    with victim(scheduler, gate, tmp_path, monkeypatch) as running, suppress(ConnectionError):
        number = running.number
        with program(scheduler, memory="../" * 9 if kind == "directories" else "") as peer:
            welcome = hear(peer, lambda message: type(message) is shared.Welcome)
            assert not welcome.is_known
            if kind == "another's numbers":
                for batch, message in enumerate([
                    shared.CancelJobs(0, 1, [number]), shared.CloseCluster(0, 1),
                    shared.OpenCluster(0, 1, Compute(1, "f", b"code"), False, []),
                    shared.CancelJobs(0, 1, list(range(10))), shared.DropObjects(0, 1, list(range(10))),
                    shared.CloseCluster(0, 1),
                ], start=1):  # fmt: skip
                    message.batch = batch
                    peer.say(message)
                hear(peer, lambda message: type(message) is shared.Received and message.batch == 6)
            elif kind == "directories":
                assert welcome.memory == ""
                peer.say(shared.OpenCluster(1, 1, Compute(1, "f", b"", dest_path="../../x"), False, []))
                peer.say(shared.Submit(2, 1, [Job(1, 0, b"")], large=[shared.Large(0, 0, 1)]))
                peer.say(shared.Blob(1, given=1))
                found = hear(peer, lambda message: type(message) is shared.EndedHere)
                assert found.numbers == [1]
            elif kind == "a flood":
                flood(peer)
            elif kind == "garbage":
                peer.say_encoded(os.urandom(1000))
            elif kind == "out of order":
                peer.say(shared.CloseCluster(5, 1))
            elif kind == "closed twice":
                peer.say(shared.Detach())
                peer.say(shared.Detach())
            else:
                peer.say(shared.OpenCluster(1, 1, Compute(1, "f" * 600, b""), False, []))
            if kind in ("a flood", "garbage", "out of order", "too long a name", "closed twice"):
                with pytest.raises((ConnectionError, TimeoutError)):
                    hear(peer, lambda _: False)
    expected = {
        "a flood": "program hostile of mallory is thrown out: it does not take what it is told",
        "directories": "program hostile is away",
        "garbage": "program hostile of mallory: ",
        "out of order": "program hostile of mallory is thrown out: message 5 came after 0",
        "too long a name": "program hostile of mallory: Expected `str` of length <= 512",
        "closed twice": "program hostile is gone: it has left",
    }
    said = expected.get(kind, "program hostile is gone")
    wait_for(lambda: scheduler.stderr, lambda text: said in text, what="the log names it")


def flood(peer: Peer) -> None:
    """Commands each of which is answered, without a look at the answers."""
    peer.say(shared.OpenCluster(1, 1, Compute(1, "f", b"code"), False, []))
    batch = 2
    jobs = [Job(number, 0, b"") for number in range(4000)]
    with suppress(OSError):
        while batch < 10_000:
            # None can run, so all end at once.
            peer.say(shared.Submit(batch, 1, jobs, b"g" * 16))
            batch += 1


@pytest.mark.parametrize("is_first", [True, False])
def test_a_file_that_a_program_which_is_away_should_send_is_asked_of_another(
    scheduler: Scheduler, is_first: bool
) -> None:
    """Both are of one owner, for whom nodes keep one copy; also if the other one comes when it is away already."""
    data = b"x" * 50_000
    digest = hashlib.sha256(data).digest()
    compute = Compute(1, "f", b"code", files=[FileEntry("x", digest, len(data), 0o644, 0)], owner=b"m" * 32)

    def use(peer: Peer) -> None:
        peer.say(shared.OpenCluster(1, 1, compute, False, []))
        found = hear(peer, lambda message: type(message) is shared.Offer).info.node
        peer.say(shared.Allocate(2, 1, found, 1))

    with program(scheduler, b"b" * 16) as other:
        with program(scheduler, b"a" * 16) as away:
            use(away)
            hear(away, lambda message: type(message) is shared.FilesNeeded)
            if is_first:
                use(other)
        if not is_first:
            use(other)
        hear(other, lambda message: type(message) is shared.FilesNeeded)
        other.say(shared.SendFiles(3, 1, b"", [node.FilePiece(digest, 0, data)]))
        told = hear(other, lambda message: type(message) is shared.Usable)
        assert "UnpicklingError" in told.reason, "the node has the file"


# Large data beyond what a program may have in memory.


def mapped(scheduler: Scheduler) -> list[str]:
    """Files on disk with large data that a scheduler has mapped; they have no names any more."""
    with open(f"/proc/{scheduler.pid}/maps") as file:
        return [line for line in file if "/dispy-memory-" in line]


def reverse(gate: str, data: bytes) -> bytes:
    import os
    import time

    while not os.path.exists(gate):
        time.sleep(0.01)
    return data[::-1]


@pytest.mark.parametrize("by_name", [True, False])
def test_large_data_beyond_the_limit_lies_on_disk(
    schedulers: Schedulers, start_node: StartNode, place: Place, gate: Path, monkeypatch: pytest.MonkeyPatch,
    by_name: bool,
) -> None:  # fmt: skip
    """Arguments, an object and results; nothing is left when they are gone, nor of a scheduler that is killed."""
    monkeypatch.setattr(dispy.config, "SharedMemory", by_name)
    start_node("--cpus", "1")
    scheduler = schedulers.start("--payload_memory", "4m")
    with dispy.SharedJobCluster(
        reverse, scheduler_host=scheduler.host, scheduler_port=scheduler.port
    ) as cluster:
        shown = cluster.put(b"ab" * (LARGE // 2))
        jobs = [cluster.submit(str(gate), bytes([number]) * LARGE) for number in range(4)]
        jobs.append(cluster.submit(str(gate), shown))
        wait_for(lambda: mapped(scheduler), lambda found: len(found) >= 3, what="the others are on disk")
        places = list(place.temporary.glob("dispy-memory-*/scheduler-*"))
        assert [path.stat().st_mode & 0o777 for path in places] == [0o700]
        assert os.listdir(places[0]) == ["lock"]
        gate.touch()
        expected = [bytes([number]) * LARGE for number in range(4)] + [b"ba" * (LARGE // 2)]
        assert [job() for job in jobs] == expected
    wait_for(lambda: mapped(scheduler), lambda found: not found, what="nothing is on disk")
    scheduler.send(signal.SIGKILL)
    scheduler.wait()
    assert places[0].exists()
    again = schedulers.start("--payload_memory", "4m")
    assert list(place.temporary.glob("dispy-memory-*/scheduler-*")) != places
    assert not places[0].exists()
    assert again is not scheduler
    scheduler.end()


# What the system keeps apart: nodes of root's with an account for each owner.

KEEPER = """
import os, sys, time
import dispy

name, gate, port = sys.argv[1:]

def keep(gate, data, shown):
    "Wait; say where the job's arguments, objects and files are."
    import os, time
    with open("mine", "w") as file:
        file.write("of the keeper")
    where = {os.path.abspath("mine")}
    where.update([line.split()[-1] for line in open("/proc/self/maps") if "/dev/shm/" in line])
    for above in {os.path.dirname(path) for path in where}:
        for directory, _, names in os.walk(above):
            where.update([os.path.join(directory, each) for each in names])
    where = [path for path in where if os.path.exists(path)]
    with open("list", "w") as file:
        file.write("\\n".join(sorted(where)))
    dispy_send_file("list")
    while not os.path.exists(gate): time.sleep(0.01)
    return bytes(3 << 20), os.getuid()

with dispy.SharedJobCluster(
    keep, scheduler_host="127.0.0.1", scheduler_port=int(port), secret="SECRET", tls=False
) as cluster:
    job = cluster.submit(gate, bytes(3 << 20), cluster.put(bytes(3 << 20)))
    while not os.path.exists("list"):
        assert not job.finish.is_set(), job.exception
        time.sleep(0.01)
    print("kept", flush=True)
    print("uid", job()[1], flush=True)
"""

THIEF = """
import os, sys
import dispy

name, listed, port = sys.argv[1:]

def steal(paths):
    import os
    had = []
    for path in paths:
        try:
            with open(path, "rb") as file:
                had.append(path)
        except OSError:
            pass
    return had, os.getuid()

with dispy.SharedJobCluster(
    steal, scheduler_host="127.0.0.1", scheduler_port=int(port), secret="SECRET", tls=False
) as cluster:
    had, uid = cluster.submit(open(listed).read().split("\\n"))()
    print("had", had, flush=True)
    print("uid", uid, flush=True)
"""


class TestAccounts:
    """A node of root's, with two accounts for its jobs."""

    pytestmark = needs_root

    @pytest.fixture
    def place_root(self) -> Iterator[Path]:
        with public_directory() as directory:
            yield directory

    @pytest.fixture(autouse=True)
    def _public(self, place: Place) -> Iterator[None]:
        with public_place(place):
            yield

    def test_another_owners_job_reads_neither_files_nor_memory(
        self,
        schedulers: Schedulers,
        start_node: StartNode,
        run_program: RunProgram,
        place: Place,
        python_for_all: str,
    ) -> None:
        """Working directory, arguments, objects and code of a job that runs, by their names; the owner key of each
        program passes through the scheduler, and gets it an account of its own."""
        start_node("--user", f"{NAME},daemon", python=[python_for_all])
        scheduler = schedulers.start("--cluster_secret", SECRET, "--no_tls")
        gate = place.temporary / "gate"
        for name in ("keeper", "thief"):
            (place.root / name).mkdir()
        keeper = run_owned(run_program, place, KEEPER, "keeper", scheduler, str(gate))
        keeper.wait_line("^kept$")
        listed = place.root / "keeper" / "list"
        paths = listed.read_text().splitlines()
        assert len([path for path in paths if "/dev/shm/" in path]) >= 2, paths
        assert all(map(os.path.exists, paths)), paths
        thief = run_owned(run_program, place, THIEF, "thief", scheduler, str(listed))
        assert thief.wait(20) == 0, thief.stderr
        assert thief.wait_line(r"^had (.*)$")[1] == "[]"
        gate.touch()
        assert keeper.wait(20) == 0, keeper.stderr
        assert keeper.wait_line(r"^uid (\d+)$")[1] != thief.wait_line(r"^uid (\d+)$")[1]
        gate.unlink()
