"""A worker between its fork and its first job."""

from __future__ import annotations

import os
import socket
from types import SimpleNamespace
from typing import Any

import pytest

from dispy.worker.worker_process import WorkerProcess


def test_a_worker_whose_node_reads_no_more_ends_without_a_word(capfd: pytest.CaptureFixture[str]) -> None:
    """The computation was closed while ``setup`` ran in the worker: nobody is to be told of an error."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.close()
    computation = SimpleNamespace(
        load=SimpleNamespace(name="c", work_path="/"), import_code=lambda: "", set_up=lambda: "", code=None
    )
    worker: Any = SimpleNamespace(_computation=computation)
    pid = os.fork()
    if pid == 0:
        try:
            WorkerProcess._set_up(worker, theirs)
        finally:
            os._exit(1)
    theirs.close()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 78
    assert capfd.readouterr() == ("", "")
