"""Whose files nodes keep: a digest is no claim to a content, and nobody harms what is another's."""

from __future__ import annotations

import hashlib
import os
import socket
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import dispy
from dispy.protocol import node
from dispy.protocol.files import FileEntry
from dispy.security.owner_key import owner_key

from .conftest import MakeCluster, RunProgram, StartNode
from .filing import fill, stored
from .helpers import Node, Place, free_base_port, wait_for
from .test_peer_text import SECRET, Peer

TERMINATED = dispy.DispyJob.Terminated
MB = 1_000_000

Become = Callable[[str], None]


@pytest.fixture
def become(place: Place, monkeypatch: pytest.MonkeyPatch) -> Become:
    """Has the clusters made from now on be those of another owner, who knows the secret, too."""

    def become(who: str) -> None:
        state = place.root / who
        state.mkdir(mode=0o700, exist_ok=True)
        monkeypatch.setenv("XDG_STATE_HOME", str(state))

    return become


def digest(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()


def sent(cluster: dispy.JobCluster) -> int:
    """Bytes that have gone to its only node, over all clusters of this program."""
    (found,) = cluster.status().nodes
    return found.tx


def test_who_names_a_digest_does_not_get_the_content(
    become: Become, make_own_cluster: MakeCluster, start_node: StartNode, here: Path, place: Place
) -> None:
    """B knows what A's file is called by its content, and has it no more than that."""
    data = fill(here / "data", MB)
    port = free_base_port() + 1
    running = start_node("--cpus", "1", "--secret", SECRET, port=str(port))
    where = [("127.0.0.1", port)]
    first = make_own_cluster(digest, depends=["data"], nodes=where, secret=SECRET)
    assert first.submit("data")() == hashlib.sha256(data).hexdigest()
    first.shutdown()
    running.stop()
    become("b")
    second = make_own_cluster(digest, depends=["data"], nodes=where, secret=SECRET)
    job = second.submit("data")
    os.unlink(here / "data")
    start_node("--cpus", "1", "--secret", SECRET, port=str(port))
    assert job() is None
    assert job.status == TERMINATED
    assert "'data'" in job.exception
    assert "cannot be read any more" in job.exception
    (kept,) = stored(place)
    assert kept.read_bytes() == data


def leave(name: str) -> tuple[str, list[str]]:
    Path(name).touch()
    return os.getcwd(), os.listdir()


def test_owners_have_named_directories_of_their_own(
    become: Become, make_own_cluster: MakeCluster, start_node: StartNode
) -> None:
    """Two of one address, as behind one scheduler, may choose the same name; clusters of one owner share it."""
    running = start_node("--cpus", "1", "--secret", SECRET)
    where = [("127.0.0.1", running.port)]
    clusters = [make_own_cluster(leave, nodes=where, secret=SECRET, dest_path="data") for _ in range(2)]
    become("b")
    clusters.append(make_own_cluster(leave, nodes=where, secret=SECRET, dest_path="data"))
    first, again, other = [cluster.submit(f"file{n}")() for n, cluster in enumerate(clusters)]
    assert first[1] == ["file0"]
    assert again[0] == first[0]
    assert sorted(again[1]) == ["file0", "file1"]
    assert other[0] != first[0]
    assert other[1] == ["file2"]


def test_a_file_of_a_job_is_not_had_by_its_digest_either(
    become: Become, make_own_cluster: MakeCluster, start_node: StartNode, here: Path
) -> None:
    data = fill(here / "data", MB)
    running = start_node("--cpus", "1", "--secret", SECRET)
    where = [("127.0.0.1", running.port)]
    first = make_own_cluster(digest, nodes=where, secret=SECRET)
    expected = hashlib.sha256(data).hexdigest()
    assert first.submit("data", dispy_job_depends=["data"])() == expected
    assert first.send_file("data") == 0
    become("b")
    second = make_own_cluster(digest, nodes=where, secret=SECRET)
    assert second.submit("data", dispy_job_depends=[])() is None
    before = sent(second)
    assert second.submit("data", dispy_job_depends=["data"])() == expected
    assert sent(second) - before > MB, "what B has is sent, whatever the node has of A"


PROGRAM = """
import hashlib, sys
import dispy

def digest(path):
    with open(path, "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()

if __name__ == "__main__":
    where = [("127.0.0.1", int(sys.argv[1]))]
    with dispy.JobCluster(digest, nodes=where, secret=sys.argv[2], depends=[sys.argv[3]]) as cluster:
        found = cluster.submit("data")()
        print(found, cluster.status().nodes[0].tx)
"""


def test_the_next_program_of_an_owner_sends_nothing(
    run_program: RunProgram, start_node: StartNode, here: Path, place: Place
) -> None:
    """Another owner's does, though it knows the secret, and his next one does not."""
    data = fill(here / "data", 3 * MB)
    running = start_node("--cpus", "1", "--secret", SECRET)
    for who, is_first in (("a", True), ("a", False), ("b", True), ("b", False), ("a", False)):
        state = place.root / who
        state.mkdir(mode=0o700, exist_ok=True)
        variables = place.environment | {"XDG_STATE_HOME": str(state)}
        program = run_program(PROGRAM, str(running.port), SECRET, "data", cwd=here, env=variables)
        assert program.wait() == 0, program.stderr
        found, tx = program.stdout.split()
        assert found == hashlib.sha256(data).hexdigest()
        assert (int(tx) > 3 * MB) == is_first, (who, tx)
    kept = [path for path in stored(place) if path.name == hashlib.sha256(data).hexdigest()]
    assert len({path.parent.parent for path in kept}) == len(kept) == 2


def test_two_secrets_have_two_stores(
    make_own_cluster: MakeCluster, start_node: StartNode, here: Path, place: Place
) -> None:
    data = fill(here / "data", MB)
    for secret in (SECRET, f"another {SECRET}"):
        running = start_node("--cpus", "1", "--secret", secret)
        cluster = make_own_cluster(
            digest, depends=["data"], nodes=[("127.0.0.1", running.port)], secret=secret
        )
        assert cluster.submit("data")() == hashlib.sha256(data).hexdigest()
        assert sent(cluster) > MB
    assert len(stored(place)) == 2


def test_the_sum_of_all_owners_is_bounded(
    become: Become, make_own_cluster: MakeCluster, start_node: StartNode, here: Path, place: Place
) -> None:
    running = start_node("--cpus", "1", "--secret", SECRET, "--store_max", "2500k")
    names = ["a", "b", "c"]
    for name in names:
        become(name)
        data = fill(here / name, MB)
        cluster = make_own_cluster(
            digest, depends=[name], nodes=[("127.0.0.1", running.port)], secret=SECRET
        )
        assert cluster.submit(name)() == hashlib.sha256(data).hexdigest()
    kept = {hashlib.sha256((here / name).read_bytes()).hexdigest() for name in names[1:]}
    wait_for(
        lambda: {path.name for path in stored(place)},
        lambda found: found == kept,
        what="two files are kept",
    )
    store = place.state / "dispy" / "store"
    wait_for(lambda: len(os.listdir(store)), lambda count: count == 3, what="and the lock")


@contextmanager
def client(running: Node, owner: bytes, identity: bytes = b"a client of ours") -> Iterator[Peer]:
    """One that says what it likes."""
    with socket.create_connection((running.host, running.port), timeout=8) as link:
        peer = Peer(link, "client", "node", is_dialer=True)
        peer.say(node.Attach(identity, "client"))
        yield peer


def hear(peer: Peer, kind: type) -> object:
    """The next message of a kind."""
    while True:
        answer = node.from_node_decoder.decode(peer.hear_encoded())
        if isinstance(answer, kind):
            return answer


@pytest.mark.parametrize("is_owner", [True, False])
@pytest.mark.parametrize("excess", [-MB + 1, 1])
def test_a_wrong_size_is_the_fault_of_who_says_it(
    make_cluster: MakeCluster,
    start_node: StartNode,
    here: Path,
    place: Place,
    excess: int,
    is_owner: bool,
) -> None:
    """Nothing is removed, and what he sends in its place is refused."""
    data = fill(here / "data", MB)
    running = start_node("--cpus", "1", "--no_tls", "--secret", SECRET)
    where = [("127.0.0.1", running.port)]
    first = make_cluster(digest, depends=["data"], nodes=where, secret=SECRET, tls=False)
    expected = hashlib.sha256(data).hexdigest()
    assert first.submit("data")() == expected
    before = sent(first)
    size = len(data) + excess
    entry = FileEntry("data", hashlib.sha256(data).digest(), size, 0o644, 0)
    owner = owner_key() if is_owner else bytes(32)
    with client(running, owner) as peer:
        peer.say(node.Compute(1, "c", b"code", files=[entry], owner=owner))
        wanted = hear(peer, node.NeedFiles)
        assert isinstance(wanted, node.NeedFiles)
        pieces = [
            node.FilePiece(p.digest, p.offset, data[p.offset :][: p.size][:1000]) for p in wanted.pieces
        ]
        peer.say(node.FileData(1, pieces))
        failed = hear(peer, node.ComputationFailed)
        assert isinstance(failed, node.ComputationFailed)
        assert "'data'" in failed.reason
        assert "its content is not what it was said to be" in failed.reason
    (kept,) = [path for path in stored(place) if not path.name.endswith(".part")]
    assert kept.read_bytes() == data
    again = make_cluster(digest, depends=["data"], nodes=where, secret=SECRET, tls=False)
    assert again.submit("data")() == expected
    assert sent(again) - before < MB / 10


def test_the_owner_is_not_told_by_the_node(
    make_cluster: MakeCluster, start_node: StartNode, here: Path, place: Place
) -> None:
    """Not in its log, not by a name on disk, nor to its jobs."""
    fill(here / "data", 1000)
    running = start_node("--cpus", "1", "--debug")

    def environment() -> str:
        return repr([dict(os.environ), open(f"/proc/{os.getppid()}/cmdline").read()])

    shown = make_cluster(environment, depends=["data"]).submit()()
    running.stop()
    path = place.state / "dispy" / "owner"
    key = path.read_bytes()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    names = "".join(map(str, place.root.rglob("*")))
    for text in (shown, running.stderr, running.stdout, names):
        assert key.hex() not in text
        assert repr(key)[2:-1] not in text
