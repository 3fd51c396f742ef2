"""What larger worlds have found to go wrong with files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dispy.core.execution.events import FromClient
from dispy.core.scheduling.explain import why_open
from dispy.core.scheduling.ids import EMBEDDED
from dispy.core.staging import Phase
from dispy.protocol.node import FINISHED, Reconcile
from dispy.protocol.views import PlacementStatus as Status

from .contents import PIECE_MAX, PIECES_MAX, by_digest
from .jobs import Kind, Task
from .program import Cluster
from .small import file, small


def test_what_comes_back_does_not_lose_its_directory_to_the_stay_before(tmp_path: Path) -> None:
    """A thread still puts files there for the stay that is over; when it is done, that directory goes."""
    with small(tmp_path) as place:
        place.computer.put_s = 100.0
        opened: list[Cluster] = []
        place.call(lambda: opened.append(place.open([file("a.bin", size=100_000)])))
        place.wait(1.0)
        cluster = opened[0]
        assert place.status(cluster) is Status.LOADING
        assert place.computer.service is not None
        assert place.computer.service.stager.machine.state.stage_work
        place.computer.put_s = 0.01
        place.call(place.program.vacate, cluster, place.computer, False, True)
        place.wait(200.0)
        assert place.status(cluster) is Status.READY
        place.call(place.program.submit, cluster, [Task(1000)])
        place.wait(1.0)
        place.check_all_finished()


def test_a_file_that_is_sent_outlives_the_job_that_has_one_of_its_name(tmp_path: Path) -> None:
    """And the job keeps its own to its end."""
    with small(tmp_path) as place:
        opened: list[Cluster] = []
        place.call(lambda: opened.append(place.open([file("a.bin", 1)])))
        place.wait(1.0)
        cluster = opened[0]
        place.call(place.program.submit_with_files, cluster, Task(3_000_000), None, [file("a.bin", 2)])
        place.wait(1.0)
        place.call(place.program.send_files, cluster, [file("a.bin", 3), file("b.bin", 4)], None)
        place.wait(1.0)
        assert cluster.sending, "it waits until the job has ended"
        # One that comes later does not get ahead of it.
        place.call(place.program.submit_with_files, cluster, Task(1_000_000), None, [file("b.bin", 5)])
        place.wait(1.5)
        assert not cluster.sending
        place.wait(3.0)
        place.check_all_finished()
        assert place.computer.service is not None
        (loaded,) = place.computer.service.loaded.values()
        for sent in (file("a.bin", 3), file("b.bin", 4)):
            assert (loaded.work / sent.path).read_bytes() == by_digest[sent.digest]


def test_a_computation_that_cannot_be_started_leaves_no_directory(tmp_path: Path) -> None:
    with small(tmp_path) as place:
        place.wait(0.5)
        place.computer.files.is_full = True
        opened: list[Cluster] = []
        place.call(lambda: opened.append(place.open([])))
        place.wait(10.0)
        assert place.status(opened[0]) is Status.FAILED
        assert place.computer.work is not None
        assert place.computer.work.wanted == {}
        assert not list((tmp_path / "work").iterdir())


def test_pieces_that_are_not_put_away_count_after_a_reconnect(tmp_path: Path) -> None:
    """Or a slow disk and a bad line together would fill the memory file system."""
    with small(tmp_path) as place:
        files = [file(f"{number}.bin", number, 4 * PIECE_MAX) for number in range(8)]
        place.computer.put_s = 0.01
        place.program.read_s = 0.5
        place.call(place.open, files)
        assert place.computer.service is not None
        stager = place.computer.service.stager
        fetches = stager.machine.state.fetches
        while sum(fetch.phase is Phase.RECEIVING for fetch in fetches.values()) < len(files):
            place.wait(0.002)
        place.computer.put_s = 100.0
        place.program.read_s = 0.0001
        for _ in range(4):
            place.wait(0.8)
            stager.check()
            place.reset()
        assert PIECES_MAX <= sum(stager.writing().values()) < PIECES_MAX + PIECE_MAX
        place.computer.put_s = 0.0001
        place.wait(300.0)
        place.call(place.program.submit, place.program.clusters[1], [Task(1000)])
        place.wait(1.0)
        place.check_all_finished()


def test_a_cpu_does_not_wait_until_the_files_of_all_later_jobs_were_looked_at(tmp_path: Path) -> None:
    with small(tmp_path) as place:
        opened: list[Cluster] = []
        place.call(lambda: opened.append(place.open([])))
        place.wait(1.0)
        place.computer.put_s = 0.4
        for _ in range(200):
            place.call(place.program.submit_with_files, opened[0], Task(1000), None, [file("a.bin", 1)])
        place.wait(10.0)
        assert place.program.account.statuses[FINISHED] > 15, "0.4 s for each of two CPUs"
        place.computer.put_s = 0.0001
        place.wait(5.0)
        place.check_all_finished()


def test_a_job_that_waits_for_its_files_says_so(tmp_path: Path) -> None:
    with small(tmp_path) as place:
        opened: list[Cluster] = []
        place.call(lambda: opened.append(place.open([])))
        place.wait(1.0)
        cluster = opened[0]
        place.program.read_s = 2.0
        files = [file("a.bin", 1, 3 * PIECE_MAX), file("b.bin", 2, PIECE_MAX)]
        place.call(place.program.submit_with_files, cluster, Task(1000, Kind.PLAIN), None, files)
        place.wait(0.3)
        computation = place.program.service.state.computations[EMBEDDED, cluster.number]
        assert "it is receiving files: 0 of 2, 0 of 328 kB" in why_open(computation, 1)
        place.wait(10.0)
        place.check_all_finished()
        (placement,) = computation.placements.values()
        assert placement.progress is None, "nothing is on its way any more"


@pytest.mark.parametrize("is_said", [True, False])
def test_a_file_that_has_changed_is_named(tmp_path: Path, is_said: bool) -> None:
    with small(tmp_path) as place:
        opened: list[Cluster] = []
        place.call(lambda: opened.append(place.open([])))
        place.wait(1.0)
        wanted = [file("a.bin", 1), file("b.bin", 2, 3 * PIECE_MAX)]
        shipped = place.program.shipped
        (shipped.changed if is_said else shipped.lies).add(wanted[1].digest)
        shipped.troubled.add(wanted[1].digest)
        reasons: list[str] = []
        place.program.on_job_ended = lambda ended: reasons.append(ended.reason)
        place.call(place.program.submit_with_files, opened[0], Task(1000), None, wanted)
        place.wait(2.0)
        assert len(reasons) == 1
        assert "'b.bin'" in reasons[0]


@pytest.mark.parametrize("delay_s", [0.02 * step for step in range(6)])
def test_a_node_that_stops_loads_nothing_any_more(tmp_path: Path, delay_s: float) -> None:
    """Files of a computation come to their place while hosts are ended."""
    with small(tmp_path) as place:
        place.call(place.open, [])
        place.wait(1.0)
        place.computer.put_s = 0.1
        wanted = file("a.bin")
        place.computer.kept.put(wanted.digest)
        place.call(place.open, [wanted])
        place.wait(0.01 + delay_s)
        # It takes its time over its farewell, and the node waits for that.
        place.program.party.stop()
        place.computer.stop_node()
        place.wait(5.0)
        assert place.computer.service is None


def test_a_job_that_its_worker_had_not_begun_leaves_no_files(tmp_path: Path) -> None:
    """It had been put where its worker finds it, and is taken back from there."""
    with small(tmp_path) as place:
        opened: list[Cluster] = []
        place.call(lambda: opened.append(place.open([])))
        place.wait(1.0)
        cluster = opened[0]
        place.call(place.program.submit, cluster, [Task(1000), Task(1000)])
        place.wait(1.0)
        workers = [worker for host in place.computer.hosts for worker in host.processes.values()]
        for worker in workers:
            worker.party.stop()
        place.call(place.program.submit_with_files, cluster, Task(1000), None, [file("a.bin", 1)])
        place.wait(1.0)
        place.call(place.program.cancel, cluster, [3])
        place.wait(0.1)
        for worker in workers:
            worker.party.go_on()
        place.wait(0.1)
        assert not place.program.open_jobs()
        # Nobody has that name any more.
        place.call(place.program.submit_with_files, cluster, Task(1000), None, [file("a.bin", 2)])
        place.wait(1.0)
        assert not place.program.open_jobs()
        assert place.computer.service is not None
        (loaded,) = place.computer.service.loaded.values()
        assert not list(loaded.work.iterdir())


def test_what_is_not_wanted_any_more_makes_room_for_others(tmp_path: Path) -> None:
    """All that may be asked for at once was asked for one computation, which is closed before any of it comes."""
    with small(tmp_path) as place:
        opened: list[Cluster] = []
        place.call(lambda: opened.append(place.open([])))
        place.wait(1.0)
        # The thread that reads files has something else to do, until what it was asked for first is not wanted.
        reader: Any = place.program.engine.files
        reader._is_due = True
        for number in (1, 2):
            wanted = file("a.bin", number, 5 * PIECE_MAX)
            place.call(lambda wanted=wanted: opened.append(place.open([wanted])))
            place.wait(1.0)
        assert (
            sum(piece.size for _, (_, _, message, _) in reader.entries for piece in message.pieces)
            == PIECES_MAX
        )
        reader.entries.clear()
        reader._is_due = False
        place.call(place.program.close, opened[1], False)
        place.wait(5.0)
        assert place.status(opened[2]) is Status.READY


def test_a_job_does_not_wait_until_the_files_of_cancelled_ones_were_looked_at(tmp_path: Path) -> None:
    """Nor is anything before a thread when all have ended."""
    with small(tmp_path) as place:
        opened: list[Cluster] = []
        place.call(lambda: opened.append(place.open([])))
        place.wait(1.0)
        program, cluster = place.program, opened[0]
        place.call(program.submit, cluster, [Task(1000)] * 100)
        place.wait(1.0)
        place.computer.put_s = 0.4
        for _ in range(50):
            place.call(program.submit_with_files, cluster, Task(1000), None, [file("a.bin", 1)])
        place.wait(0.1)
        assert place.computer.service is not None
        (loaded,) = place.computer.service.loaded.values()
        assert len(loaded.stages) > 10, "a node takes many jobs that are known to be short"
        place.call(program.cancel, cluster, list(range(101, 151)))
        place.wait(0.1)
        place.call(program.submit_with_files, cluster, Task(1000), None, [file("b.bin", 2)])
        place.wait(5 * 0.8)
        assert program.account.statuses[FINISHED] == 101, (
            "looked at, put away, placed: 0.8 s at most for each"
        )
        assert not program.open_jobs()
        place.wait(0.8)
        assert dict(place.computer.service.stager.held())["threads at work"] == 0


def test_no_files_are_fetched_for_a_job_that_its_program_does_not_know(tmp_path: Path) -> None:
    """The node learns that when the program comes back."""
    with small(tmp_path) as place:
        opened: list[Cluster] = []
        place.call(lambda: opened.append(place.open([])))
        place.wait(1.0)
        program, cluster = place.program, opened[0]
        program.read_s = 100.0
        place.call(program.submit_with_files, cluster, Task(1000), None, [file("a.bin", 1)])
        place.wait(0.5)
        service = place.computer.service
        assert service is not None
        (loaded,) = service.loaded.values()
        assert list(loaded.stages) == [1]
        said = Reconcile([], {cluster.number: 0})
        place.world.soon(place.computer.party, service.handle, FromClient(loaded.key[0], said))
        place.wait(0.1)
        assert not loaded.stages
        assert not any(count for _, count in service.stager.held())
