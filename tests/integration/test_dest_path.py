"""Working directories: where they are, who shares them, how long they stay; and files that are sent there later."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

import dispy
from dispy.errors import UsageError

from .conftest import MakeCluster, StartNode
from .filing import fill, listing, named, write
from .helpers import Place, below, free_base_port, wait_for
from .jobs import until

MB = 1_000_000


def note() -> None:
    global at_setup
    at_setup = os.getcwd()


def places(name: str = "") -> tuple[str, str, str]:
    """The working directory in setup, in a job, and as the job is told; leaves a file there."""
    if name:
        with open(name, "w") as file:
            file.write(name)
    return at_setup, os.getcwd(), dispy_job_path


def test_a_name_of_several_levels(
    make_cluster: MakeCluster, start_node: StartNode, here: Path, place: Place
) -> None:
    """It is current in setup, jobs and cleanup, below a directory of the user's own, and gone afterwards."""
    start_node("--cpus", "1")
    mark = here / "mark"

    def leave() -> None:
        mark.write_text(os.getcwd())

    cluster = make_cluster(places, setup=note, cleanup=leave, dest_path="some/where/deep")
    expected = str(named(place) / "some/where/deep")
    assert cluster.submit("made")() == (expected, expected, expected)
    assert (named(place) / "some/where/deep/made").read_text() == "made"
    assert cluster.close()
    wait_for(
        lambda: mark.exists() and mark.read_text(),
        lambda text: text == expected,
        what="cleanup has run there",
    )
    wait_for(lambda: named(place).parent.exists(), lambda is_there: not is_there, what="nothing is left")


def test_clusters_share_a_name_until_the_last_one_closes(
    make_cluster: MakeCluster, start_node: StartNode, place: Place
) -> None:
    start_node("--cpus", "2")
    first = make_cluster(places, setup=note, dest_path="shared")
    second = make_cluster(listing, dest_path="shared/")
    below = make_cluster(listing, dest_path="shared/below")
    assert first.submit("x")()[1] == str(named(place) / "shared")
    assert second.submit()() == [("x", "x")]
    assert below.submit()() == []
    first.close()
    assert second.submit()() == [("x", "x")]
    second.close()
    assert below.submit()() == []
    below.close()


def test_files_that_stay_are_not_sent_again(
    make_cluster: MakeCluster, start_node: StartNode, here: Path, place: Place
) -> None:
    """Nor are they taken from the store: what jobs have left there is there, too."""
    data = fill(here / "data", MB)
    node = start_node("--cpus", "1", "--store_max", "0")

    def look() -> tuple[int, list[str]]:
        found = os.stat("data").st_ino, sorted(os.listdir("."))
        with open("left", "w"):
            return found

    first = make_cluster(look, depends=["data"], dest_path="kept", cleanup=False)
    inode, names = first.submit()()
    assert names == ["data"]
    first.close()
    node.stop()
    assert (named(place) / "kept" / "data").read_bytes() == data
    start_node("--cpus", "1", "--store_max", "0")
    second = make_cluster(look, depends=["data"], dest_path="kept", cleanup=False)
    assert second.submit()() == (inode, ["data", "left"])
    assert second.status().nodes[0].tx < MB / 10
    second.close()
    # One that was changed there, though it does not look so, is what it should be again.
    path = named(place) / "kept" / "data"
    before = path.stat()
    path.write_bytes(bytes(MB))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    third = make_cluster(look, depends=["data"], dest_path="kept")
    third.submit()()
    assert path.read_bytes() == data
    third.close()
    wait_for(path.exists, lambda is_there: not is_there, what="cleanup=True removes it")


def test_files_stay_without_a_name_as_well(
    make_cluster: MakeCluster, start_node: StartNode, here: Path, place: Place
) -> None:
    start_node("--cpus", "1")
    write(here, "data")
    cluster = make_cluster(places, depends=["data"], setup=note, cleanup=False)
    where = cluster.submit("made")()[1]
    cluster.close()
    wait_for(lambda: sorted(os.listdir(where)), lambda names: names == ["data", "made"], what="both files")
    shutil.rmtree(named(place).parent, ignore_errors=True)  # the node may be removing what is empty


def test_what_a_killed_node_has_left_is_removed_by_the_next(
    make_cluster: MakeCluster, start_node: StartNode, here: Path, place: Place
) -> None:
    """By its lock: directories of a node that lives stay, and those that were to stay."""
    nodes = [start_node("--cpus", "1") for _ in range(2)]
    write(here, "data")
    ports = [("127.0.0.1", node.port) for node in nodes]
    options: Any = {"depends": ["data"], "setup": note}
    killed = make_cluster(places, dest_path="a/gone", nodes=ports[:1], **options)
    kept = make_cluster(places, dest_path="a/kept", nodes=ports[:1], cleanup=False, **options)
    alive = make_cluster(places, dest_path="b/alive", nodes=ports[1:], **options)
    both = [make_cluster(places, dest_path="b/both", nodes=[port], **options) for port in ports]
    for cluster in (killed, kept, alive, *both):
        cluster.submit("made")()
    nodes[0].process.kill()
    nodes[0].wait()
    for cluster in (killed, kept, both[0]):
        cluster.close(terminate=True)
    start_node("--cpus", "1")
    found = sorted(str(path.relative_to(named(place))) for path in below(named(place), "**/made"))
    assert found == ["a/kept/made", "b/alive/made", "b/both/made"]
    assert not (named(place) / "a" / "gone").exists()
    alive.close()
    both[1].close()
    wait_for(
        lambda: (named(place) / "b").exists(), lambda is_there: not is_there, what="the others are gone"
    )
    shutil.rmtree(named(place).parent, ignore_errors=True)  # the node may be removing what is empty


@pytest.mark.parametrize("name", ["..", "a/../../b", "a\\b", "a\nb", 7, b"bytes", "\udc80"])
def test_names_that_lead_elsewhere_are_refused(place: Place, name: Any) -> None:
    with pytest.raises(UsageError, match="dest_path"):
        dispy.JobCluster(listing, dest_path=name)


def test_a_leading_separator_is_warned_about(
    make_cluster: MakeCluster, start_node: StartNode, place: Place
) -> None:
    start_node("--cpus", "1")
    with pytest.warns(UserWarning, match="below the directory of this user"):
        cluster = make_cluster(places, setup=note, dest_path="/abs/./olute")
    assert cluster.submit()()[1] == str(named(place) / "abs/olute")


# send_file


def test_a_file_is_sent_to_all_nodes_or_to_one(
    make_cluster: MakeCluster, start_node: StartNode, here: Path, tmp_path: Path
) -> None:
    """0 means that jobs find it from now on."""
    for name in "ab":
        start_node("--cpus", "1", "--name", name)
    write(here, "all", "deep/one")
    (tmp_path / "far").write_text("far")
    cluster = make_cluster(listing)
    nodes = wait_for(lambda: cluster.status().nodes, lambda nodes: len(nodes) == 2, what="both nodes")
    assert cluster.send_file("all") == 0
    assert cluster.send_file(here / "deep/one", nodes[0]) == 0
    assert cluster.send_file(str(tmp_path / "far"), nodes[1].name, relay=True) == 0
    found = [cluster.submit_node(node)() for node in nodes]
    assert found == [
        [("all", "all"), ("deep/one", "deep/one")],
        [("all", "all"), ("far", "far")],
    ]
    (here / "all").write_text("changed")
    assert cluster.send_file("all", node=nodes[0]) == 0
    assert dict(cluster.submit_node(nodes[0])())["all"] == "changed"


def test_a_file_that_cannot_be_sent(
    make_cluster: MakeCluster, start_node: StartNode, here: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """-1 says that it is not there, and a warning why; what the caller has done wrong raises."""
    start_node("--cpus", "1")
    write(here, "a/b", "file")

    def block() -> None:
        os.mkdir("file")
        os.symlink("/tmp", "a")

    cluster = make_cluster(block)
    wait_for(lambda: cluster.status().nodes, what="the node is used")
    cluster.submit()()
    assert cluster.send_file("file") == -1
    assert "file: Is a directory" in caplog.text
    assert cluster.send_file("a/b", "127.0.0.1") == -1
    assert "something is there that is no directory" in caplog.text
    assert not os.path.exists("/tmp/b")
    assert cluster.send_file("file", "192.0.2.1") == -1
    assert "node 192.0.2.1 is not in use" in caplog.text
    for wrong in ("missing", 7, None):
        with pytest.raises(UsageError):
            cluster.send_file(wrong)
    with pytest.raises(UsageError, match="a node is named by"):
        cluster.send_file("file", 7)
    cluster.close()
    with pytest.raises(UsageError, match="closed"):
        cluster.send_file("file")


def test_what_was_sent_is_there_again_when_its_node_comes_back(
    make_cluster: MakeCluster, start_node: StartNode, here: Path
) -> None:
    """And when it is set up again: before anything runs there, also if it is not to be had here any more."""
    port = str(free_base_port() + 1)
    node = start_node("--cpus", "1", port=port)
    write(here, "listed", "data", "deep/data")

    def look() -> None:
        global at_setup
        at_setup = sorted(os.listdir("."))

    def told() -> tuple[list[str], list[tuple[str, str]]]:
        return at_setup, listing()

    cluster = make_cluster(told, depends=["listed"], setup=look)
    assert cluster.submit()() == (["listed"], [("listed", "listed")])
    assert cluster.send_file("data") == 0
    (here / "listed").write_text("newer")
    assert cluster.send_file("listed", "127.0.0.1") == 0
    assert cluster.send_file("deep") == 0
    (here / "data").unlink()
    everything = (
        ["data", "deep", "listed"],
        [("data", "data"), ("deep/data", "deep/data"), ("listed", "newer")],
    )
    (shown,) = cluster.status().nodes
    assert cluster.resetup_node(shown) == 0
    submit = cluster.submit
    assert wait_for(lambda: submit()(), lambda seen: seen[0] != ["listed"], what="setup") == everything
    assert node.stop() == 0

    def in_use() -> list[dispy.DispyNode]:
        return [shown for shown in cluster.status().nodes if shown.cpus]

    wait_for(in_use, lambda nodes: not nodes, what="the node is gone")
    later = start_node("--cpus", "1", port=port)
    other = start_node("--cpus", "1")
    wait_for(in_use, lambda nodes: len(nodes) == 2, what="both nodes")
    found = {shown.port: cluster.submit_node(shown)()[0] for shown in in_use()}
    assert found == {later.port: everything[0], other.port: ["listed"]}


def test_files_are_sent_while_jobs_run_and_from_callbacks(
    make_cluster: MakeCluster, start_node: StartNode, here: Path
) -> None:
    start_node("--cpus", "1")
    write(here, "data")
    codes = []
    cluster: dispy.JobCluster

    def on_status(status: int, node: Any, job: Any) -> None:
        if status == dispy.DispyJob.Running:
            codes.append(cluster.send_file("data", node))

    cluster = make_cluster(until, cluster_status=on_status)
    job = cluster.submit("data")
    assert job.wait(5), cluster.why(job)
    wait_for(lambda: codes, lambda seen: seen == [0], what="it is told to be there")


def test_a_directory_that_others_can_write_to_is_not_used(
    make_cluster: MakeCluster, start_node: StartNode, place: Place
) -> None:
    """Another one beside it is, with a word about it: also if it was opened to others while the node runs."""
    node = start_node("--cpus", "1")
    kept = named(place).parent
    kept.mkdir(mode=0o700, exist_ok=True)
    kept.chmod(0o777)
    cluster = make_cluster(places, setup=note, dest_path="somewhere")
    at_setup, directory, told = cluster.submit("made")()
    assert at_setup == directory == told
    assert directory.startswith(f"{kept}~")
    assert directory.endswith("/somewhere")
    assert not any(kept.iterdir())
    assert f"{kept} is not a directory of this user alone" in node.stderr
    cluster.close()
    wait_for(lambda: os.path.exists(directory), lambda is_there: not is_there, what="it is removed")
    kept.rmdir()
