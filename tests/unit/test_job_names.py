"""``dispy.job`` in a program: what is imported there has no job behind it."""

from __future__ import annotations

import copy
import json
import logging
import os
import pickle
import subprocess
import sys

import pytest

import dispy
from dispy import job, payload


def test_texts_are_empty_and_there_is_no_job() -> None:
    assert (job.node_name, job.node_ip_addr, job.job_path) == ("", "", "")
    assert not job.node_name
    assert f"{job.node_name!r} {job.job_path}" == "'' "
    assert json.dumps([job.node_name]) == '[""]'
    assert os.path.join(job.job_path, "a") == "a"
    assert job.job_id() is None


def test_a_text_stays_what_it_is() -> None:
    """However it is copied within a program, it is still another one on each node."""
    for again in (copy.copy, copy.deepcopy, lambda value: pickle.loads(pickle.dumps(value))):
        assert again(job.node_name) is job.node_name
    assert payload.load(payload.dump([job.node_name]))[0] is job.node_name
    assert pickle.loads(pickle.dumps(job.provisional_result)) is job.provisional_result
    assert pickle.loads(pickle.dumps(job.node_logger)) is job.node_logger


@pytest.mark.parametrize("name", ["provisional_result", "send_file"])
def test_functions_that_send_do_nothing_and_say_so_once(
    name: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job, "_has_warned", set())
    with caplog.at_level(logging.WARNING):
        assert [getattr(job, name)("x"), getattr(job, name)("x", timeout=5.0)] == [-1, -1]
    assert caplog.messages == [f"dispy.job.{name} is called outside of a job: nothing is sent"]


def test_all_names_are_there() -> None:
    assert sorted(job.__all__) == sorted(set(job.__all__) & set(dir(job)))
    assert dispy.job is job
    assert "job" in dir(dispy)
    code = "import dispy, sys; assert 'dispy.job' not in sys.modules; print(repr(dispy.job.node_name))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "''\n"


def test_programs_that_are_computations_have_them_in_their_environment() -> None:
    environment = os.environ | {"dispy_node_name": "one", "dispy_job_path": "/there", "dispy_job_id": "5"}
    code = "from dispy.job import *; print(node_name, job_path, node_ip_addr == '', job_id())"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    )
    assert done.stdout == "one /there True 5\n"
