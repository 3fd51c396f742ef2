"""Keys that open one role for one name, at real nodes, schedulers and programs; what a stolen one does not open."""

from __future__ import annotations

import hmac
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

import dispy
from dispy.errors import NoSchedulerError, UsageError
from dispy.net.loopback import plain_channel
from dispy.protocol import frames, limits
from dispy.protocol.handshake import MAGIC, REFUSAL, Hello, Proof
from dispy.protocol.node import Attach, to_node_decoder
from dispy.security import key_text, keys
from dispy.security.identities import Identity

from .conftest import MakeCluster, RunProgram, StartNode
from .helpers import Node, Place, wait_for
from .schedulers import Schedulers

encode = msgspec.msgpack.Encoder().encode
Derive = Callable[..., str]
"""Makes a key from the master of a test by the command's own functions; returns the path of its file."""


def where() -> str:
    return dispy_node_name  # type: ignore[name-defined]


@pytest.fixture
def master(place: Place) -> Path:
    path = place.root / "master.secret"
    path.write_text(key_text.generate() + "\n")
    path.chmod(0o600)
    return path


def first_key(path: Path | str) -> keys.Key:
    return key_text.read(Path(path).read_text().strip()).first


@pytest.fixture
def derive(place: Place, master: Path) -> Derive:
    def make(
        role: Any, name: str, until: int | None = None, serial: int = 0, *, direct: bool = False
    ) -> str:
        origin = first_key(master)
        line = keys.derived(origin, Identity(role, name, origin.fingerprint, until, serial, direct))
        path = place.root / f"{role}-{name}-{serial}.secret"
        path.write_text(key_text.write(line) + "\n")
        path.chmod(0o600)
        return str(path)

    return make


@pytest.fixture
def shared(schedulers: Schedulers) -> Iterator[Callable[..., dispy.JobCluster]]:
    """Makes clusters of a shared scheduler, which are closed at the end."""
    made: list[dispy.JobCluster] = []

    def make(scheduler: Any, secret_file: str, **options: Any) -> dispy.JobCluster:
        cluster = dispy.SharedJobCluster(
            where,
            scheduler_host=scheduler.host,
            scheduler_port=scheduler.port,
            secret_file=secret_file,
            **options,
        )
        made.append(cluster)
        return cluster

    yield make
    for cluster in made:
        cluster.close(terminate=True)
    for cluster in made:
        cluster.shutdown()


def refused(node: Node) -> str:
    """What a command that does not start says."""
    assert node.wait() == 2
    return node.stderr


# Each role where it has business.


def test_a_node_with_a_key_of_its_own_has_that_name_and_serves_who_has_the_master(
    start_node: StartNode, make_own_cluster: MakeCluster, master: Path, derive: Derive
) -> None:
    node = start_node("--secret_file", derive("node", "n7"))
    assert node.name == "n7"
    # It is found by the list of this machine, and by its address.
    assert make_own_cluster(where, secret_file=str(master)).submit()() == "n7"
    cluster = make_own_cluster(where, secret_file=str(master), nodes=[("127.0.0.1", node.port)])
    assert cluster.submit()() == "n7"


def test_a_user_comes_to_the_scheduler_by_the_name_of_the_key(
    start_node: StartNode, schedulers: Schedulers, shared: Any, place: Place, master: Path, derive: Derive
) -> None:
    start_node("--name", "one")
    users = place.root / "users.toml"
    users.write_text("[alice]\nweight = 2\n")
    scheduler = schedulers.start(
        "--cluster_secret_file", str(master), "--users", str(users), "--known_users"
    )
    assert shared(scheduler, derive("user", "alice")).submit()() == "one"
    scheduler.wait_line(r"program .* of user alice is there", stream="stderr")
    with dispy.SharedJobCluster(where, secret_file=derive("user", "alice")) as found:
        assert found.submit()() == "one", "it is found by the list of this machine"
    with pytest.raises(NoSchedulerError, match="user 'bob' is not known here"):
        shared(scheduler, derive("user", "bob"))


def test_a_scheduler_with_a_key_of_its_own_uses_nodes_that_have_the_master(
    start_node: StartNode, schedulers: Schedulers, shared: Any, master: Path, derive: Derive
) -> None:
    start_node("--name", "one", "--secret_file", str(master))
    scheduler = schedulers.start(
        "--node_secret_file",
        derive("scheduler", "main"),
        "--cluster_secret_file",
        derive("scheduler", "front"),
    )
    # Its other key is one that programs with the master come by.
    assert shared(scheduler, str(master)).submit()() == "one"


def test_a_user_who_may_use_nodes_directly_does_so_with_and_without_a_dispynode(
    start_node: StartNode, make_own_cluster: MakeCluster, master: Path, derive: Derive
) -> None:
    key = derive("user", "alice", direct=True)
    private = make_own_cluster(where, secret_file=key)
    assert private.submit()()
    private.shutdown()
    node = start_node("--name", "one", "--secret_file", str(master))
    assert make_own_cluster(where, secret_file=key, nodes=[("127.0.0.1", node.port)]).submit()() == "one"


def test_a_key_may_be_given_as_text_and_by_the_environment(
    start_node: StartNode,
    make_own_cluster: MakeCluster,
    place: Place,
    master: Path,
    derive: Derive,
    monkeypatch: Any,
) -> None:
    text = Path(derive("node", "n7")).read_text().strip()
    node = start_node(env=place.environment | {"DISPY_SECRET": text})
    assert node.name == "n7"
    monkeypatch.setenv("DISPY_SECRET", Path(derive("user", "alice", direct=True)).read_text().strip())
    other = start_node("--name", "one", "--secret", master.read_text().strip())
    assert make_own_cluster(where, nodes=[("127.0.0.1", other.port)]).submit()() == "one"


# Where a role has no business, who gives its key is told at once.


def test_dispynode_takes_a_nodes_key_only(start_node: StartNode, derive: Derive) -> None:
    for role in ("user", "scheduler", "admin", "relay"):
        said = refused(start_node("--secret_file", derive(role, "x"), wait=False))
        assert f"the key of {role} x opens no client to a node" in said
    assert "the name is 'n8'" in refused(
        start_node("--secret_file", derive("node", "n7"), "--name", "n8", wait=False)
    )
    late = derive("node", "n7", int(time.time()) - 1)
    assert "the key of node n7 has expired at 2" in refused(start_node("--secret_file", late, wait=False))


@pytest.mark.parametrize(("side", "good"), [("node", "scheduler"), ("cluster", "scheduler")])
def test_dispyscheduler_takes_a_schedulers_key_only(
    start_node: StartNode, place: Place, derive: Derive, side: str, good: str
) -> None:
    from .helpers import Scheduler

    for role in ("user", "node", "admin", "relay"):
        scheduler = Scheduler(place, "--listen_port", "0", f"--{side}_secret_file", derive(role, "x"))
        try:
            assert scheduler.wait() == 2
            assert f"--{side}_secret: the key of {role} x opens no" in scheduler.stderr
            assert good != role
        finally:
            scheduler.end()


def test_programs_are_told_which_cluster_their_key_is_for(derive: Derive) -> None:
    with pytest.raises(UsageError, match="SharedJobCluster"):
        dispy.JobCluster(where, secret_file=derive("user", "alice"))
    for role in ("node", "admin", "relay"):
        with pytest.raises(UsageError, match=f"the key of {role} x opens no node to a client"):
            dispy.JobCluster(where, secret_file=derive(role, "x"))
    for role in ("node", "scheduler", "admin", "relay"):
        with pytest.raises(UsageError, match=f"the key of {role} x opens no scheduler to a client"):
            dispy.SharedJobCluster(where, secret_file=derive(role, "x"))
    with pytest.raises(UsageError, match=r"user alice has expired at 2.*'dispy secret derive user alice'"):
        dispy.SharedJobCluster(where, secret_file=derive("user", "alice", int(time.time()) - 1))


# Somebody has stolen the key of node n7.


class Thief:
    """A process that says what it wants, and proves the key that it has."""

    def __init__(self, link: socket.socket, key: bytes) -> None:
        self.link = link
        self.key = key
        self.reader = frames.FrameReader()

    def say(self, message: Any) -> None:
        self.say_encoded(encode(message))

    def say_encoded(self, body: bytes) -> None:
        self.link.sendall(frames.header(frames.CONTROL, len(body)) + body)

    def hear(self) -> bytes:
        """The next message; empty: the other side has hung up."""
        while (frame := self.reader.next_frame()) is None:
            try:
                count = self.link.recv_into(self.reader.writable())
            except ConnectionResetError:
                return b""
            if not count:
                return b""
            self.reader.received(count)
        return bytes(frame[2])

    def prove(self, listener_role: str, claim: str, role: str = "client") -> bytes:
        """Dial as a role with a claim, prove the key; returns the last answer."""
        hello = encode(Hello(MAGIC, [limits.VERSION], role, bytes(32), claim))
        self.say_encoded(hello)
        challenge = self.hear()
        if challenge in (b"", REFUSAL):
            return challenge
        channel = plain_channel(self.link.getsockname(), self.link.getpeername(), is_dialer=True)
        parts = (b"dialer", hello + challenge, listener_role.encode(), channel)
        text = b"".join([len(part).to_bytes(4, "big") + part for part in parts])
        self.say(Proof(hmac.digest(self.key, text, "sha256")))
        return self.hear()


def test_a_stolen_node_key_opens_that_node_and_nothing_else(
    start_node: StartNode, schedulers: Schedulers, master: Path, derive: Derive
) -> None:
    """With it somebody dials the node itself, other nodes and the scheduler, under any claim that he may think of."""
    stolen, fingerprint = first_key(derive("node", "n7")), first_key(master).fingerprint
    n7 = start_node("--no_tls", "--secret_file", derive("node", "n7"))
    n8 = start_node("--no_tls", "--secret_file", derive("node", "n8"))
    whole = start_node("--no_tls", "--secret_file", str(master), "--name", "whole")
    scheduler = schedulers.start(
        "--no_tls", "--cluster_secret_file", str(master), "--node_secret_file", str(master)
    )
    assert stolen.identity is not None
    claims = ["", stolen.identity.text()]
    claims += [
        f"{role}:{name}:key={fingerprint}"
        for role in ("node", "user", "scheduler", "admin")
        for name in ("n7", "n8")
    ]
    opened = []
    for name, peer, listener_role in (
        ("n7", n7, "node"), ("n8", n8, "node"), ("whole", whole, "node"), ("scheduler", scheduler, "scheduler"),
    ):  # fmt: skip
        for claim in claims:
            with socket.create_connection((peer.host, peer.port), timeout=20) as link:
                answer = Thief(link, stolen.key).prove(listener_role, claim)
            if answer != REFUSAL:
                opened.append((name, claim))
                assert msgspec.msgpack.decode(answer)[0] == 3, "a proof"
    assert opened == [("n7", "")], "the thief passes for somebody with the master there, and nowhere else"


def test_a_stolen_node_key_is_no_node_of_another_name(
    make_own_cluster: MakeCluster, caplog: pytest.LogCaptureFixture, master: Path, derive: Derive
) -> None:
    """The thief waits at an address where a program expects a node, and has the right key for the wrong name."""
    stolen = first_key(derive("node", "n7"))
    assert stolen.identity is not None
    heard = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        cluster = make_own_cluster(
            where, secret_file=str(master), nodes=[("127.0.0.1", server.getsockname()[1])], tls=False
        )
        for claim in (stolen.identity.text().replace("n7", "n8"), stolen.identity.text()):
            with _listen_for(server, stolen.key, claim) as thief:
                while body := thief.hear():
                    heard.append(body)
            if claim != stolen.identity.text():
                assert heard == [], "nothing is said to a node that has proved another name than it claims"
    assert type(to_node_decoder.decode(heard[0])) is Attach, (
        "as n7 it is a node, until it introduces itself"
    )
    assert not any(b"where" in body for body in heard), "and calls itself by another name: it gets no code"
    assert any("calls itself n8, and its key is that of node n7" in text for text in caplog.messages), (
        caplog.messages
    )
    cluster.shutdown()


class _listen_for:  # it is used as a function
    """Answers one dialer with a claim, proves a key, and introduces itself as node n8."""

    def __init__(self, server: socket.socket, key: bytes, claim: str) -> None:
        server.settimeout(20)
        self.link, _ = server.accept()
        self.link.settimeout(20)
        self.thief = Thief(self.link, key)
        hello = self.thief.hear()
        challenge = encode([2, limits.VERSION, bytes(32), [claim]])
        self.thief.say_encoded(challenge)
        self.thief.hear()
        channel = plain_channel(self.link.getsockname(), self.link.getpeername(), is_dialer=False)
        text = b"".join(
            [len(p).to_bytes(4, "big") + p for p in (b"listener", hello + challenge, b"node", channel)]
        )
        self.thief.say(Proof(hmac.digest(key, text, "sha256")))
        self.thief.say(dispy.protocol.node.Welcome(b"i" * 16, "n8", 1, "here"))

    def __enter__(self) -> Thief:
        return self.thief

    def __exit__(self, *_: object) -> None:
        self.link.close()


# Revoked, expired, changed: without a restart.


def test_a_user_who_is_revoked_is_thrown_out_and_comes_back_with_a_new_key(
    start_node: StartNode, schedulers: Schedulers, shared: Any, run_program: RunProgram, place: Place,
    master: Path, derive: Derive, caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    start_node("--name", "one")
    scheduler = schedulers.start("--cluster_secret_file", str(master))
    old = shared(scheduler, derive("user", "alice"))
    assert old.submit()() == "one"
    with master.open("a") as file:
        file.write("revoked user alice 0\n")
    scheduler.wait_line(r"thrown out: its key is revoked", stream="stderr")
    wait_for(
        lambda: caplog.messages,
        lambda seen: any("refused our secret" in text for text in seen),
        what="it is told",
    )
    with pytest.raises(NoSchedulerError, match=r"the key of user alice.*may have been revoked"):
        shared(scheduler, derive("user", "alice", until=int(time.time()) + 999))
    assert shared(scheduler, derive("user", "alice", serial=1)).submit()() == "one"
    assert shared(scheduler, derive("user", "bob")).submit()() == "one"


def test_a_secret_is_changed_without_a_break(
    start_node: StartNode, make_own_cluster: MakeCluster, place: Place, master: Path
) -> None:
    """The new line is added at the end everywhere, then goes to the front, then the old one goes."""
    node = start_node("--name", "one", "--secret_file", str(master))
    old, new = master.read_text().strip(), key_text.generate()

    def use(text: str) -> str:
        return make_own_cluster(where, secret=text, nodes=[("127.0.0.1", node.port)]).submit()()

    assert use(old) == "one"
    master.write_text(f"{old}\n{new}\n")
    node.wait_line("was read again: keys: 2", stream="stderr")
    assert use(old) == use(f"{old}\n{new}") == use(f"{new}\n{old}") == "one"
    master.write_text(f"{new}\n")
    node.wait_line("was read again: keys: 1,", stream="stderr")
    assert use(f"{new}\n{old}") == "one"
    assert make_own_cluster(where, secret=new).submit()() == "one", "it is listed with the new one"


def test_a_link_ends_when_its_key_expires(
    start_node: StartNode, schedulers: Schedulers, shared: Any, master: Path, derive: Derive,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    start_node("--name", "one")
    scheduler = schedulers.start("--cluster_secret_file", str(master))
    until = int(time.time()) + 4
    cluster = shared(scheduler, derive("user", "alice", until))
    job = cluster.submit()
    assert job() == "one"
    wait_for(
        lambda: caplog.messages,
        lambda seen: any("the key of user alice has expired at 2" in text for text in seen),
        what="the program is told",
    )
    assert time.time() >= until


def test_a_revoked_node_is_lost_to_the_scheduler(
    start_node: StartNode, schedulers: Schedulers, shared: Any, master: Path, derive: Derive
) -> None:
    start_node("--secret_file", derive("node", "n7"))
    scheduler = schedulers.start("--node_secret_file", str(master), "--cluster_secret_file", str(master))
    cluster = shared(scheduler, str(master))
    assert cluster.submit()() == "n7"
    with master.open("a") as file:
        file.write("revoked node n7\n")
    scheduler.wait_line("node n7 is not used any more: its key is revoked", stream="stderr")
    job = cluster.submit()
    start_node("--secret_file", derive("node", "n8"))
    assert job() == "n8"


def test_a_direct_user_who_is_revoked_leaves_the_node_with_its_jobs(
    start_node: StartNode, make_own_cluster: MakeCluster, gate: Path, master: Path, derive: Derive
) -> None:
    node = start_node("--name", "one", "--cpus", "1", "--secret_file", str(master))

    def wait(path: str) -> None:
        import os
        import time

        while not os.path.exists(path):
            time.sleep(0.01)

    cluster = make_own_cluster(
        wait, secret_file=derive("user", "alice", direct=True), nodes=[("127.0.0.1", node.port)]
    )
    job = cluster.submit(str(gate))
    wait_for(lambda: job.status, lambda status: status == dispy.DispyJob.Running, what="it runs")
    with master.open("a") as file:
        file.write("revoked user alice\n")
    node.wait_line("user alice is refused from now on, and its jobs end", stream="stderr")
    honest = make_own_cluster(where, secret_file=str(master), nodes=[("127.0.0.1", node.port)])
    assert honest.submit()() == "one", "the only CPU is free again"
    cluster.shutdown()


# A program dies; its user fetches its jobs, and nobody else does.

DIES = """
import os, sys, time, dispy

def work(n, gate):
    while not os.path.exists(gate): time.sleep(0.01)
    return n * n

_, port, key, gate = sys.argv
cluster = dispy.SharedJobCluster(
    work, scheduler_host="127.0.0.1", scheduler_port=int(port), secret_file=key,
)
jobs = [cluster.submit(n, gate) for n in range(5)]
while jobs[0].status != dispy.DispyJob.Running: time.sleep(0.01)
print("runs", flush=True)
time.sleep(60)
"""


def test_jobs_of_a_dead_program_come_to_its_user_only(
    start_node: StartNode,
    schedulers: Schedulers,
    run_program: RunProgram,
    gate: Path,
    master: Path,
    derive: Derive,
) -> None:
    start_node("--name", "one")
    scheduler = schedulers.start("--cluster_secret_file", str(master))
    program = run_program(DIES, str(scheduler.port), derive("user", "alice"), str(gate))
    program.wait_line("runs")
    program.send(signal.SIGKILL)
    program.wait()
    gate.touch()
    (dead,) = dispy.recoverable()
    journal = str(dead.paths[0])
    # Another user has come by the journal, in which the program's identity is.
    jobs = dispy.recover_jobs(journal, timeout=3, secret_file=derive("user", "mallory"))
    assert [job for job in jobs if job.status == dispy.DispyJob.Finished] == []
    scheduler.wait_line("user mallory asks for a program of alice", stream="stderr")
    jobs = dispy.recover_jobs(journal, secret_file=derive("user", "alice"))
    assert [job.result for job in jobs] == [n * n for n in range(5)]
