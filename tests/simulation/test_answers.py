"""A client that is slow to take what running jobs print."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .jobs import Task
from .program import Cluster
from .small import small


def test_a_client_that_does_not_answer_has_one_message_under_way(tmp_path: Path) -> None:
    """However much is printed. After a reconnect it is told again, once, and when it answers there is more."""
    with small(tmp_path) as place:
        program = place.program
        news: Any = program.engine.news
        opened: list[Cluster] = []
        place.call(lambda: opened.append(place.open(is_live=True)))
        program.answers_at_once = False
        place.wait(1.0)
        # One that prints at once, and goes on; then others, some of which print, beside it.
        chance, place.world.chance = place.world.chance, lambda: 0.0  # type: ignore[method-assign]
        place.call(program.submit, opened[0], [Task(30_000_000)])
        place.wait(0.01)
        place.world.chance = chance  # type: ignore[method-assign]
        place.wait(1.0)
        (told,) = program.printed
        place.call(program.submit, opened[0], [Task(300_000) for _ in range(40)])
        place.wait(3.0)
        assert program.printed == [told]
        place.reset()
        place.wait(3.0)
        again = program.printed[1:]
        assert [(action.printed, action.serial) for action in again] == [(told.printed, told.serial + 1)]
        # The late answer counts for nothing.
        place.call(news.answer_printed)
        place.wait(3.0)
        (more,) = program.printed
        assert more.printed != told.printed
        program.answers_at_once = True
        place.call(news.answer_printed)
        place.wait(60.0)
        assert not program.printed
        place.check_all_finished()
