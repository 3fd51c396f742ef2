"""What programs do all day: they submit, cancel, put, allocate and close at random, as seeds want it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .jobs import Kind, Task

if TYPE_CHECKING:
    from random import Random

    from dispy.protocol.files import FileEntry

    from .computer import Computer
    from .contents import Catalogue
    from .program import Cluster, Program

OPEN_MAX = 400
"""Jobs of a cluster that have not ended, beyond which nothing is submitted."""

LARGE = 70 * 1024
"""Bytes of arguments, results, code and objects that travel as streams."""

MIDDLING = 60 * 1024
"""Bytes of arguments and results that do not, and are more than a message holds where many jobs come at once."""

FILED_MAX = 12
"""Jobs that bring files that are submitted at once."""

NAMES = ["one.bin", "two.bin", "data/three.bin", "data/more/four.bin"]
"""Of files of computations."""

NAMES_OF_JOBS = ["mine.bin", "two.bin", "data/five.bin", "other/six.bin"]
"""Of files of jobs: some lie where others do."""

_KINDS = [Kind.RAISES, Kind.DIES, Kind.HANGS, Kind.DEAF, Kind.LEAVES]


class Habits:
    """What one program is like.

    Args:
        random: Where chance is from.
    """

    def __init__(self, random: Random) -> None:
        self.pause_s = 0.01 * 40 ** random.random()
        """Mean time between two things that it does (seconds)."""
        self.burst = random.choice([1, 4, 20, 80])
        """Jobs that it submits at once, at most."""
        self.short_us = random.choice([2, 50, 1000])
        self.long_us = random.choice([3_000, 100_000, 1_500_000])
        self.long_share = random.choice([0.0, 0.1, 0.5])
        self.odd_share = random.choice([0.0, 0.05, 0.2])
        """Jobs that do not simply return."""
        self.value_share = random.choice([0.0, 0.0, 0.1])
        self.large_share = random.choice([0.0, 0.0, 0.03])
        self.size = MIDDLING if self.burst == 80 and self.large_share else 0
        """Bytes of the arguments and results of its jobs that are not large."""
        self.puts = random.choice([False, False, True])
        self.is_live = random.random() < 0.2
        self.exclusive_share = random.choice([0.0, 0.0, 0.0, 0.2])
        self.catalogue: Catalogue | None = None
        """What is in its files; None: it has none."""
        self.filed_share = random.choice([0.0, 0.1, 0.5])
        """Jobs that bring files, of one submitted at once."""
        self.setup_per_worker_share = random.choice([0.0, 0.0, 0.0, 0.5])
        self.setup_timeout_share = random.choice([0.0, 0.0, 0.5])
        self.durable_share = 0.0
        """Clusters with a full journal."""
        self.work_max_s = 30.0
        """Seconds of work that wait at most, so that a run comes to its end."""


class Workload:
    """One program's day.

    Args:
        program: Who does it.
        habits: How.
    """

    def __init__(self, program: Program, habits: Habits) -> None:
        self._program = program
        self._habits = habits
        self._random = program.world.random
        self._is_on = True
        self.work_us = 0
        """All work that was submitted, roughly."""
        for _ in range(1 + int(self._random.random() * 2.5)):
            program.world.soon(program.party, self._open_if_possible)
        self._schedule()

    def stop(self) -> None:
        """No more."""
        self._is_on = False

    def _schedule(self) -> None:
        pause_s = self._random.expovariate(1.0 / self._habits.pause_s)
        self._program.world.after(pause_s, self._program.party, self._act)

    def _open_if_possible(self) -> None:
        if self._program.can_open():
            self._open()

    def _open(self) -> Cluster:
        random, program = self._random, self._program
        computers = list(program.computers)
        if random.random() < 0.3:
            computers = random.sample(computers, 1 + int(random.random() * len(computers)))
        cluster = program.open_cluster(
            is_reentrant=random.random() < 0.5,
            computers=computers,
            grace_s=random.choice([0.05, 0.5, 2.0]),
            code_size=LARGE if random.random() < 0.05 else 100,
            is_live=self._habits.is_live,
            is_exclusive=random.random() < self._habits.exclusive_share,
            is_durable=self._habits.durable_share > 0.0 and random.random() < self._habits.durable_share,
            files=self._files(NAMES, 0.8),
            setup_timeout_s=2.0 if random.random() < self._habits.setup_timeout_share else 0.0,
            is_setup_per_worker=random.random() < self._habits.setup_per_worker_share,
        )
        if self._habits.catalogue is not None and random.random() < 0.2:
            program.give_files(cluster, random.choice(computers), self._files(NAMES, 0.5))
        if cluster.is_exclusive:
            program.world.after(
                3.0 * random.random(), program.party, program.close, cluster, random.random() < 0.5
            )
        if random.random() < 0.3:
            program.start_chain(cluster, Task(100), 1 + int(random.random() * 30))
        return cluster

    def _files(self, names: list[str], share: float) -> list[FileEntry]:
        """Some files, or none; in most worlds none."""
        catalogue = self._habits.catalogue
        if catalogue is None or self._random.random() > share:
            return []
        return catalogue.entries(names, 1 + int(self._random.random() ** 2 * len(names)))

    def _act(self) -> None:
        if not self._is_on or self._program.is_leaving:
            return
        self._schedule()
        clusters = [c for c in self._program.clusters.values() if not c.is_closing]
        if not clusters:
            self._open_if_possible()
            return
        cluster = self._random.choice(clusters)
        choice = self._random.random()
        if choice < 0.72:
            self._submit(cluster)
        elif choice < 0.80:
            self._cancel(cluster)
        elif choice < 0.84:
            self._allocate(cluster)
        elif choice < 0.90:
            self._put_or_drop(cluster)
            self._send_files(cluster)
        elif choice < 0.96:
            self._program.start_chain(
                cluster, Task(self._duration_us()), 1 + int(self._random.random() * 20)
            )
        elif choice < 0.98:
            self._program.close(cluster, terminate=self._random.random() < 0.5)
        elif len(clusters) < 4:
            self._open_if_possible()

    def _duration_us(self) -> int:
        habits = self._habits
        longest = habits.long_us if self._random.random() < habits.long_share else habits.short_us
        return int(longest * self._random.random())

    def _task(self, cluster: Cluster) -> Task:
        habits, random = self._habits, self._random
        task = Task(self._duration_us())
        if random.random() < habits.odd_share:
            task.kind = random.choice(_KINDS)
        if random.random() < habits.value_share:
            task.values = 1 + int(random.random() * 3)
        task.arguments_size = LARGE if random.random() < habits.large_share else habits.size
        task.result_size = LARGE if random.random() < habits.large_share else habits.size
        if cluster.objects and random.random() < 0.5:
            numbers = [n for n, known in cluster.objects.items() if known.is_referred_to]
            task.object = random.choice(numbers) if numbers else 0
        self.work_us += task.duration_us
        return task

    def _submit(self, cluster: Cluster) -> None:
        program, random, habits = self._program, self._random, self._habits
        waiting = program.account.open[cluster.number]
        count = min(1 + int(random.random() * habits.burst), OPEN_MAX - len(waiting))
        if count <= 0 or program.open_work_us() > habits.work_max_s * 1e6:
            return
        pinned = program.pin(cluster) if random.random() < 0.1 else None
        if habits.catalogue is not None and random.random() < habits.filed_share:
            for _ in range(min(count, FILED_MAX)):
                files = self._files(NAMES_OF_JOBS, 1.0)
                program.submit_with_files(cluster, self._task(cluster), pinned, files)
            return
        program.submit(cluster, [self._task(cluster) for _ in range(count)], pinned)

    def _cancel(self, cluster: Cluster) -> None:
        numbers = list(self._program.account.open[cluster.number])
        if self._random.random() < 0.1:
            self._program.cancel_all(cluster)
        elif numbers:
            self._program.cancel(
                cluster, self._random.sample(numbers, 1 + int(self._random.random() * min(4, len(numbers))))
            )

    def _allocate(self, cluster: Cluster) -> None:
        computer: Computer = self._random.choice(cluster.computers)
        if self._random.random() < 0.3:
            self._program.limit(computer, int(self._random.random() * (computer.cpus + 1)))
            return
        if self._random.random() < 0.3:
            chances = self._random.random(), self._random.random()
            if self._habits.catalogue is not None and chances[0] < 0.7:
                self._program.give_files(cluster, computer, self._files(NAMES, 0.7))
            self._program.vacate(cluster, computer, terminate=chances[0] < 0.5, returns=chances[1] < 0.7)
            return
        cpus = self._random.choice([None, None, 1, 2, 0])
        self._program.allocate(cluster, computer, cpus, is_draining=self._random.random() < 0.5)

    def _send_files(self, cluster: Cluster) -> None:
        files = self._files(NAMES + NAMES_OF_JOBS[:1], 1.0)[:2]
        if files:
            computer = self._random.choice(cluster.computers) if self._random.random() < 0.5 else None
            self._program.send_files(cluster, files, computer)

    def _put_or_drop(self, cluster: Cluster) -> None:
        if not self._habits.puts:
            return
        held = [number for number, known in cluster.objects.items() if known.is_referred_to]
        if held and self._random.random() < 0.5:
            self._program.drop(cluster, self._random.choice(held))
        elif len(held) < 5:
            self._program.put(cluster, LARGE if self._random.random() < 0.2 else 1000)
