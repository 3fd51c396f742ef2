"""What a user sees of an error: the own line, and one short message."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable
from typing import Any

import pytest

import dispy
from dispy.errors import PicklingError, UsageError

from .conftest import MakeCluster


def compute(value: Any) -> Any:
    return value


def frames(call: Callable[[], Any]) -> tuple[int, int]:
    """How many frames below the caller's line are shown, and how many tracebacks."""
    try:
        call()
    except UsageError:
        text = traceback.format_exc()
    # ``frames`` and the lambda are the caller's.
    return text.count("\n  File ") - 2, text.count("Traceback (most recent call last)")


@pytest.mark.parametrize(
    "options",
    [
        {"depends": ["nofile"]}, {"depends": "text"}, {"nodes": [5]}, {"isolate": 1}, {"setup": 5},
        {"secret_file": "/nonexistent"}, {"certfile": "/nonexistent"}, {"recover_file": "/nonexistent/x"},
        {"dest_path": "../x"}, {"pulse_interval": 0}, {"computation": 5}, {"computation": "noprogram"},
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:5 in nodes")
def test_clusters_that_cannot_be_made(options: dict[str, Any]) -> None:
    arguments = {"computation": compute} | options
    assert frames(lambda: dispy.JobCluster(**arguments)) == (1, 1)


def test_calls_that_cannot_be_made(make_cluster: MakeCluster) -> None:
    lock = threading.Lock()
    cluster = make_cluster(compute)
    assert frames(lambda: cluster.submit(lock)) == (1, 1)
    assert frames(lambda: cluster.submit_job_id(3, lock)) == (1, 1)
    assert frames(lambda: cluster.submit(1, dispy_job_depends=["nofile"])) == (1, 1)
    assert frames(lambda: cluster.put(lock)) == (1, 1)
    assert frames(lambda: cluster.map(5)) == (1, 1)
    assert frames(lambda: cluster.send_file("nofile")) == (1, 1)
    assert frames(lambda: cluster.wait("x")) == (1, 1)  # type: ignore[arg-type]
    assert frames(lambda: dispy.recover_jobs(5)) == (1, 1)  # type: ignore[arg-type]
    cluster.close()
    assert frames(lambda: cluster.submit(1)) == (1, 1)


class Picky:
    def __reduce__(self) -> Any:
        return self.look()

    def look(self) -> Any:
        raise OSError("not this one")


def test_what_code_of_the_user_raises_is_shown_whole(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(compute)
    with pytest.raises(PicklingError, match=r"argument 1 .*not this one") as caught:
        cluster.submit(Picky())
    assert isinstance(caught.value.__cause__, OSError)
    text = "".join(traceback.format_exception(caught.value))
    assert "return self.look()" in text
    assert "dispy/payload" not in text


def test_all_frames_are_shown_in_development_mode() -> None:
    code = "import dispy; dispy.JobCluster(5)"
    shown = [
        subprocess.run(
            [sys.executable, *mode, "-c", code], capture_output=True, text=True, check=False
        ).stderr
        for mode in ([], ["-X", "dev"])
    ]
    assert ["client/code/computation.py" in text for text in shown] == [False, True]
    assert ["computation must be a function" in text for text in shown] == [True, True]


def test_a_cluster_says_what_it_has_done(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(compute)
    jobs = [cluster.submit(n) for n in range(5)]
    cluster.wait()
    assert [job() for job in jobs] == list(range(5))
    assert re.fullmatch(r"<(Shared)?JobCluster compute: 5 done; 1 node, \d+ CPUs?>", repr(cluster))
    list(cluster.map(range(10)))
    cluster.close()
    assert repr(cluster).endswith("JobCluster compute: closed; 15 done>")
