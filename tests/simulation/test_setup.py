"""``setup`` in hosts and in workers, which fails or takes too long."""

from __future__ import annotations

from pathlib import Path

import pytest

from dispy.protocol.views import PlacementStatus as Status

from .jobs import Task
from .program import Cluster
from .small import small


@pytest.mark.parametrize("per_worker", [False, True])
@pytest.mark.parametrize("how", ["fails", "hangs"])
def test_a_node_on_which_setup_fails_is_not_used(tmp_path: Path, per_worker: bool, how: str) -> None:
    with small(tmp_path) as place:
        place.computer.loads_fail = how == "fails"
        place.computer.setups_hang = how == "hangs"
        opened: list[Cluster] = []
        place.call(lambda: opened.append(place.open(setup_timeout_s=2.0, is_setup_per_worker=per_worker)))
        place.wait(0.1)
        place.call(place.program.submit, opened[0], [Task(1000) for _ in range(5)])
        place.wait(10.0)
        assert place.status(opened[0]) is Status.FAILED
        reason = place.view(opened[0]).reason
        assert ("longer than" if how == "hangs" else "no module named x") in reason
        assert not place.program.open_jobs()


def test_what_was_set_up_in_some_workers_goes_on(tmp_path: Path) -> None:
    """Those in which it fails later are not needed."""
    with small(tmp_path) as place:
        opened: list[Cluster] = []
        place.call(lambda: opened.append(place.open(is_setup_per_worker=True)))
        place.wait(1.0)
        place.call(place.program.submit, opened[0], [Task(1000)])
        place.wait(1.0)
        place.computer.loads_fail = True
        place.call(place.program.submit, opened[0], [Task(50_000) for _ in range(20)])
        place.wait(5.0)
        assert place.status(opened[0]) is Status.READY
        place.check_all_finished()


def test_a_program_with_one_cluster_has_one_host(tmp_path: Path) -> None:
    """Its own node starts another one ahead when there was a second cluster."""
    with small(tmp_path) as place:
        service = place.computer.service
        assert service is not None
        place.call(place.open)
        place.wait(5.0)
        assert (service.hosts_started, service.spare) == (1, None)
        place.call(place.open)
        place.wait(5.0)
        assert service.hosts_started == 3
        assert service.spare is not None
