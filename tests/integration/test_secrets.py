"""Who gets in: the user's own secret, a given one, a wrong one; and where secrets may lie."""

from __future__ import annotations

import json
import logging
import os
import socket
import stat
from contextlib import suppress
from pathlib import Path

import pytest

import dispy
from dispy.errors import StateDirectoryError, UsageError

from .conftest import MakeCluster, RunProgram, StartNode
from .helpers import Node, Place, wait_for

SECRET = "open sesame"


def where() -> str:
    return dispy_node_name


def names_beside(place: Place) -> list[str]:
    """What lies in the state directory beside the journals and the list of nodes."""
    names = (path.name for path in place.secret_file.parent.iterdir())
    return sorted(name for name in names if name not in ("journals", "nodes"))


def test_own_secret_is_made_once_and_private(make_own_cluster: MakeCluster, place: Place) -> None:
    assert make_own_cluster(where).submit()()
    first = place.secret_file.read_text()
    assert stat.S_IMODE(place.secret_file.stat().st_mode) == 0o600
    assert stat.S_IMODE(place.secret_file.parent.stat().st_mode) == 0o700
    assert len(first.strip()) >= 64
    assert make_own_cluster(where).submit()()
    assert place.secret_file.read_text() == first
    assert names_beside(place) == ["owner", "secret"]


def test_programs_that_start_together_make_one_secret(
    run_program: RunProgram, start_node: StartNode, place: Place
) -> None:
    source = "import dispy\nprint(dispy.JobCluster(lambda: dispy_node_name).submit()())\n"
    node = start_node("--name", "both", wait=False)
    programs = [run_program(source, name=f"p{n}.py") for n in range(3)]
    node.wait_listens()
    for program in programs:
        assert program.wait(15) == 0, program.stderr
    assert names_beside(place) == ["owner", "secret"]


@pytest.mark.parametrize(
    ("way", "client_way"),
    [
        ("--secret", "secret"),
        ("--secret_file", "secret_file"),
        ("DISPY_SECRET", "DISPY_SECRET"),
        ("--secret", "secret_file"),
    ],
)
def test_equal_secrets_given_in_any_way(
    start_node: StartNode,
    make_own_cluster: MakeCluster,
    place: Place,
    monkeypatch: pytest.MonkeyPatch,
    way: str,
    client_way: str,
) -> None:
    path = place.root / "secret.txt"
    path.write_text(SECRET + "\n")
    path.chmod(0o600)
    environment = dict(place.environment)
    arguments = {"--secret": [way, SECRET], "--secret_file": [way, str(path)]}.get(way, [])
    if way == "DISPY_SECRET":
        environment[way] = SECRET
    start_node("--name", "guarded", *arguments, env=environment)
    start_node("--name", "other")
    if client_way == "DISPY_SECRET":
        monkeypatch.setenv("DISPY_SECRET", SECRET)
    options = {"secret": {"secret": SECRET}, "secret_file": {"secret_file": str(path)}}.get(client_way, {})
    cluster = make_own_cluster(where, **options)
    jobs = [cluster.submit() for _ in range(10)]
    assert {job() for job in jobs} == {"guarded"}
    assert [node.name for node in cluster.status().nodes] == ["guarded"]


def test_wrong_secret_is_refused_and_told(
    start_node: StartNode, make_cluster: MakeCluster, caplog: pytest.LogCaptureFixture
) -> None:
    node = start_node("--secret", SECRET)
    with caplog.at_level(logging.WARNING, "dispy"):
        cluster = make_cluster(where, nodes=[("127.0.0.1", node.port)], secret="wrong one")
        job = cluster.submit()
        wait_for(lambda: caplog.text, lambda text: "secret" in text, what="the reason is logged")
    assert f"127.0.0.1:{node.port}" in caplog.text
    assert "same secret" in caplog.text
    assert "sesame" not in caplog.text
    assert "wrong one" not in caplog.text
    assert not job.finish.is_set()
    assert cluster.status().nodes == []
    assert cluster.cancel(job) == 0
    assert job.wait(2)
    assert job.status == dispy.DispyJob.Cancelled


def test_node_with_another_secret_is_not_found_by_itself(
    start_node: StartNode, make_own_cluster: MakeCluster
) -> None:
    """The cluster starts a node of its own, as if there were none."""
    start_node("--secret", SECRET, "--name", "guarded")
    cluster = make_own_cluster(where)
    name = cluster.submit()()
    assert name != "guarded"
    typed = make_own_cluster(where, secret="another")
    assert typed.submit()() not in (None, "guarded")


def test_clusters_with_different_secrets_in_one_program(
    start_node: StartNode, make_cluster: MakeCluster
) -> None:
    start_node("--secret", "one", "--name", "first")
    start_node("--secret", "two", "--name", "second")
    clusters = [make_cluster(where, secret=secret) for secret in ("one", "two")]
    jobs = [[cluster.submit() for _ in range(10)] for cluster in clusters]
    assert [{job() for job in some} for some in jobs] == [{"first"}, {"second"}]


def test_stranger_learns_nothing_and_is_dropped(start_node: StartNode, make_cluster: MakeCluster) -> None:
    """Whatever is said to the port, the node drops the one who said it and goes on."""
    node = start_node()
    for data in (b"", b"GET / HTTP/1.1\r\n\r\n", bytes(100_000), b"\xff" * 1000, os.urandom(5000)):
        with socket.create_connection((node.host, node.port), timeout=8) as link:
            answer = b""
            # It may close before it was sent all.
            with suppress(ConnectionResetError, BrokenPipeError):
                link.sendall(data)
                if not data:
                    link.shutdown(socket.SHUT_WR)
                while part := link.recv(65536):
                    answer += part
        assert len(answer) < 400, "a stranger is told much"
        assert node.name.encode() not in answer
        assert b"linux" not in answer.lower()
    assert make_cluster(where).submit()() == node.name
    assert "Traceback" not in node.stderr


def test_replayed_conversation_is_refused(start_node: StartNode, make_own_cluster: MakeCluster) -> None:
    """What an honest client said, recorded by a relay and said again, opens nothing."""
    node = start_node()
    recorded = bytearray()
    with socket.create_server(("127.0.0.1", 0)) as server:
        import threading

        def relay() -> None:
            client, _ = server.accept()
            with client, socket.create_connection((node.host, node.port)) as link:

                def back() -> None:
                    # What the node says last the client may not wait for.
                    with suppress(ConnectionError):
                        while data := link.recv(65536):
                            client.sendall(data)

                thread = threading.Thread(target=back)
                thread.start()
                with suppress(ConnectionError):
                    while data := client.recv(65536):
                        recorded.extend(data)
                        link.sendall(data)
                with suppress(OSError):
                    link.shutdown(socket.SHUT_RDWR)
                thread.join()

        thread = threading.Thread(target=relay)
        thread.start()
        port = server.getsockname()[1]
        cluster = make_own_cluster(where, nodes=[("127.0.0.1", port)])
        assert cluster.submit()() == node.name
        cluster.shutdown()
        thread.join()
    assert len(recorded) > 100
    with socket.create_connection((node.host, node.port), timeout=8) as link:
        answer = b""
        try:
            link.sendall(recorded)
            while part := link.recv(65536):
                answer += part
        except (ConnectionResetError, BrokenPipeError):
            pass
    # The node's half of the handshake of TLS; then what comes is encrypted for another session.
    assert len(answer) < 1000, "the node talks to somebody who replayed an old proof"
    assert node.name.encode() not in answer
    node.wait_line("refused a connection from 127.0.0.1: TLS with the peer failed", stream="stderr")


def test_secret_file_that_others_can_read_is_refused(place: Place) -> None:
    path = place.root / "secret.txt"
    path.write_text(SECRET)
    for mode in (0o644, 0o640, 0o604, 0o620):
        path.chmod(mode)
        with pytest.raises(UsageError, match=r"can be read by others.*chmod 600"):
            dispy.JobCluster(where, secret_file=str(path))
    node = Node(place, "--listen_port", "0", "--secret_file", str(path))
    assert node.wait() == 2
    assert "can be read by others" in node.stderr
    node.end()


@pytest.mark.parametrize(
    ("text", "message"), [(None, "cannot be read"), ("", "is empty"), (" \n", "is empty")]
)
def test_secret_file_without_a_secret(place: Place, text: str | None, message: str) -> None:
    path = place.root / "secret.txt"
    if text is not None:
        path.write_text(text)
        path.chmod(0o600)
    with pytest.raises(UsageError, match=message):
        dispy.JobCluster(where, secret_file=str(path))


def test_secret_and_secret_file_together(place: Place) -> None:
    with pytest.raises(UsageError, match="both"):
        dispy.JobCluster(where, secret="x", secret_file="y")


def _open_to_others(place: Place) -> None:
    place.secret_file.parent.mkdir(mode=0o700)
    place.secret_file.write_text("dispy1-" + "00" * 32)
    place.secret_file.chmod(0o644)


def _directory_open_to_others(place: Place) -> None:
    place.secret_file.parent.mkdir(mode=0o700)
    place.secret_file.parent.chmod(0o755)


def _link(place: Place) -> None:
    elsewhere = place.root / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    place.secret_file.parent.symlink_to(elsewhere)


@pytest.mark.parametrize("spoil", [_open_to_others, _directory_open_to_others, _link])
def test_unsafe_directories_are_refused(place: Place, spoil: object) -> None:
    assert callable(spoil)
    spoil(place)
    with pytest.raises(StateDirectoryError, match="this user alone"):
        dispy.JobCluster(where)
    node = Node(place, "--listen_port", "0")
    assert node.wait() in (1, 2), node.stderr
    assert "this user alone" in node.stderr
    assert "Traceback" not in node.stderr
    node.end()


def test_own_secret_that_is_a_link_is_refused(place: Place) -> None:
    place.secret_file.parent.mkdir(mode=0o700)
    target = place.root / "target"
    target.write_text("dispy1-" + "00" * 32)
    target.chmod(0o600)
    place.secret_file.symlink_to(target)
    with pytest.raises((StateDirectoryError, UsageError)):
        dispy.JobCluster(where)


def test_secret_is_in_no_listing_and_no_process_list(
    start_node: StartNode, make_own_cluster: MakeCluster, place: Place
) -> None:
    start_node()
    cluster = make_own_cluster(where, secret="typed by hand")
    cluster.submit()()
    secret = place.secret_file.read_text().strip().removeprefix("dispy1-")
    paths = list((place.state / "dispy" / "nodes").glob("*/*.json"))
    assert paths
    for path in paths:
        listing = json.loads(path.read_text())
        assert secret not in str(listing)
        assert "fingerprint" in listing
    for pid in place.processes():
        shown = b""
        with suppress(OSError):  # one that has ended meanwhile
            shown = Path(f"/proc/{pid}/cmdline").read_bytes() + Path(f"/proc/{pid}/environ").read_bytes()
        assert secret.encode() not in shown
        assert b"typed by hand" not in shown
