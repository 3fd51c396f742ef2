"""How large files may be, by the node's word and by the program's: what is larger is refused before it is sent."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

import dispy
from dispy import config
from dispy.errors import UsageError

from .conftest import MakeCluster, StartNode
from .filing import fill, named, stored
from .helpers import Place, wait_for


def sizes(*paths: str) -> dict[str, int]:
    """Of files in the working directory."""
    return {path: os.path.getsize(path) for path in paths or sorted(os.listdir("."))}


LIMIT = (
    "file 'large' has 1025 bytes, and it takes files of up to 1024; start it with another --max_file_size"
)


@pytest.fixture
def files(here: Path) -> Path:
    """One that is just not too large, and one that is."""
    fill(here / "just", 1024)
    fill(here / "large", 1025)
    return here


def test_a_node_does_not_ask_for_what_is_too_large(
    make_cluster: MakeCluster,
    start_node: StartNode,
    files: Path,
    place: Place,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It is not used for that cluster, fails that job, and does all else."""
    node = start_node("--cpus", "1", "--name", "strict", "--max_file_size", "1k")
    refused = make_cluster(sizes, depends=["just", "large"])
    job = refused.submit()
    assert job() is None
    assert job.status == dispy.DispyJob.Terminated
    assert f"node strict: {LIMIT}" in job.exception
    (shown,) = refused.status().nodes
    assert LIMIT in shown.reason
    cluster = make_cluster(sizes, depends=["just"])
    assert cluster.submit()() == {"just": 1024}
    job = cluster.submit(dispy_job_depends=["large"])
    assert job() is None
    assert f"node strict: {LIMIT}" in job.exception
    assert cluster.send_file("large") == -1
    assert f"node strict: {LIMIT}" in caplog.text
    assert cluster.submit()() == {"just": 1024}
    assert [path.stat().st_size for path in stored(place)] == [1024]
    other = start_node("--cpus", "1", "--name", "other")
    found = wait_for(lambda: refused.submit()(), what="the other node is used")
    assert found == {"just": 1024, "large": 1025}
    assert (node.process.poll(), other.process.poll()) == (None, None)


def grow(size: int) -> int:
    with open("made", "wb") as file:
        file.truncate(size)
    return dispy_send_file("made")


def test_jobs_do_not_send_what_is_too_large(
    make_cluster: MakeCluster, start_node: StartNode, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dispy.client.session import received_files

    monkeypatch.setattr(received_files, "_root", str(here))
    node = start_node("--cpus", "1", "--max_file_size", "1k")
    cluster = make_cluster(grow)
    assert (cluster.submit(1025)(), cluster.submit(1024)()) == (-1, 0)
    node.wait_line(
        r"file 'made' .* is not sent: it has 1025 bytes, .* of up to 1024 \(dispynode --max_file_size\)",
        stream="stderr",
    )
    assert sizes(str(here / "made")) == {str(here / "made"): 1024}


def test_a_program_does_not_send_what_is_too_large(
    make_cluster: MakeCluster, start_node: StartNode, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start_node("--cpus", "1")
    monkeypatch.setattr(config, "MaxFileSize", 1024)
    fault = "file '.*large' has 1025 bytes, and dispy.config.MaxFileSize is 1024; raise it"
    with pytest.raises(UsageError, match=fault):
        make_cluster(sizes, depends=[files])
    os.chmod(files / "large", 0o700)
    with pytest.raises(UsageError, match=fault):
        make_cluster(files / "large")
    cluster = make_cluster(sizes, depends=["just"])
    calls: list[Any] = [
        lambda: cluster.submit(dispy_job_depends=["large"]),
        lambda: cluster.send_file("large"),
    ]
    for call in calls:
        with pytest.raises(UsageError, match=fault):
            call()
    assert cluster.submit()() == {"just": 1024}


def places() -> str:
    open("left", "x").close()
    return dispy_job_path


def test_no_directory_stays_with_force_cleanup(
    make_cluster: MakeCluster, start_node: StartNode, place: Place
) -> None:
    """Neither one with a name nor one without."""
    start_node("--cpus", "1", "--force_cleanup")
    for dest_path in ("named", None):
        cluster = make_cluster(places, dest_path=dest_path, cleanup=False)
        work = Path(cluster.submit()())
        assert work.is_relative_to(named(place)) == (dest_path is not None)
        cluster.close()
        wait_for(work.exists, lambda is_there: not is_there, what="the directory is gone")
        # The directories around it go one by one after it, in the node's thread.
        above = named(place).parent
        wait_for(above.exists, lambda is_there: not is_there, what="those above it are gone")
