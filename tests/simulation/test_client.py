"""What the client does while it waits: for its journal, its jobs, its callbacks."""

from __future__ import annotations

from pathlib import Path

from .jobs import Kind, Task
from .journals import Shelf
from .program import Cluster
from .small import small


def test_a_node_that_is_lost_before_the_journal_has_it_is_not_used(tmp_path: Path) -> None:
    """The note comes to disk when the node is gone; the next one is used all the same."""
    with small(tmp_path) as place:
        program = place.program
        program.shelf = Shelf(place.world, program.name, 3.0)
        opened: list[Cluster] = []
        place.call(lambda: opened.append(place.open(is_durable=True)))
        while not program.service.links.nodes():
            place.wait(0.01)
        place.computer.kill_node("reset")
        place.wait(5.0)
        assert not program.service.links.nodes()
        place.computer.start()
        place.wait(10.0)
        place.call(program.submit, opened[0], [Task(1000) for _ in range(5)])
        place.wait(10.0)
        place.check_all_finished()


def test_close_waits_for_jobs_and_gives_up_those_that_do_not_end(tmp_path: Path) -> None:
    with small(tmp_path) as place:
        program = place.program
        opened: list[Cluster] = []
        for _ in range(3):
            place.call(lambda: opened.append(place.open()))
        place.wait(1.0)
        for cluster in opened:
            place.call(program.submit, cluster, [Task(2_000_000), Task(1000)])
        place.wait(0.1)
        place.call(program.close, opened[0], False)
        place.call(program.close, opened[1], True)
        place.wait(1.0)
        assert list(program.clusters) == [1, 3], "the second one is cancelled at once"
        place.wait(10.0)
        assert list(program.clusters) == [3]
        assert [job.status for job in opened[0].told.jobs.values()] == [11, 11]
        place.call(program.submit, opened[2], [Task(1000, Kind.DEAF)])
        place.wait(0.5)
        place.computer.party.stop()  # type: ignore[union-attr]  # there is a node
        place.call(program.close, opened[2], True)
        place.wait(9.0)
        assert not program.clusters
        assert opened[2].told.jobs[3].status == 10


def test_jobs_of_clusters_have_the_same_numbers(tmp_path: Path) -> None:
    with small(tmp_path) as place:
        program = place.program
        opened: list[Cluster] = []
        for _ in range(2):
            place.call(lambda: opened.append(place.open()))
        place.wait(1.0)
        for _ in range(3):
            for cluster in opened:
                place.call(program.submit, cluster, [Task(1000) for _ in range(4)])
        place.wait(5.0)
        place.check_all_finished()
        assert [list(cluster.told.jobs) for cluster in opened] == [list(range(1, 13))] * 2
