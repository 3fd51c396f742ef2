"""Progress on a terminal, drawn by rich: a bar, counts, nodes, and why nothing runs.

Texts are given to rich as ``Text``, never as markup, after their control characters were escaped. What the program
prints meanwhile appears above, as rich takes its standard output and error output. The cursor stays visible: a
program that is killed could not bring it back.
"""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from dispy.client.shown.overview import (
    NAME_MAX,
    WHY_MAX,
    Overview,
    clean,
    counts,
    node_line,
    rate,
    span,
    used,
)

NODES_MAX = 8
"""Nodes that are shown, the last ones, which are those in use; further ones are counted in a line."""

BAR = 24
"""Width of the bar (characters)."""


class Bars:
    """Progress on a terminal (``progress.Surface``). Made when the display begins; draws on error output, so that
    output which goes to a file or a pipe stays as it is.

    Args:
        takes_stdout: True if standard output goes to the terminal, too: what the program prints appears above then.
    """

    least_s = 0.5
    """Least time between two states (seconds): faster than people read."""

    def __init__(self, *, takes_stdout: bool) -> None:
        self._console = Console(
            stderr=True, force_terminal=True, markup=False, emoji=False, highlight=False, soft_wrap=False
        )
        self._live = Live(
            console=self._console,
            auto_refresh=False,
            redirect_stdout=takes_stdout,
            redirect_stderr=True,
            vertical_overflow="ellipsis",
        )

    def show(self, shown: Overview) -> None:
        """Draw the progress as it is now, over what was drawn before."""
        if not self._live.is_started:
            self._live.start()
            self._console.show_cursor(True)
        rows = max(1, self._console.height - 5)
        self._live.update(drawn(shown, min(NODES_MAX, rows)), refresh=True)

    def close(self, shown: Overview) -> None:
        """Draw the last state, which stays, and give the terminal back."""
        try:
            self.show(shown)
        finally:
            self._live.stop()


def drawn(shown: Overview, nodes_max: int) -> RenderableType:
    """Returns what rich draws for an overview: a line with a bar, one for each node, and reasons.

    Args:
        shown: The overview.
        nodes_max: Nodes that are drawn at most.
    """
    grid = Table.grid(padding=(0, 1))
    for _ in range(3):
        grid.add_column(no_wrap=True, overflow="ellipsis")
    total = shown.total
    part = f"{100 * shown.ended // total:3} %" if total else "  -"
    grid.add_row(
        Text(clean(shown.name, NAME_MAX), style="bold"),
        ProgressBar(total=total or 1, completed=shown.ended if total else 0, width=BAR),
        Text(f"{part}  {_measured(shown)}"),
    )
    return Group(grid, *_lines(shown, nodes_max))


def _measured(shown: Overview) -> str:
    """Returns rate and times of an overview, in words."""
    found = [
        f"{rate(shown.rate)}/s" if shown.rate else "",
        f"{span(shown.left_s)} left" if shown.left_s else "",
        f"after {span(shown.age_s)}" if shown.age_s is not None else "",
    ]
    return ", ".join(filter(None, found))


def _lines(shown: Overview, nodes_max: int) -> Iterator[Text]:
    """Yield the lines below the bar: counts, nodes, why nothing runs, and the first failure."""
    yield _line(f"  {counts(shown)}; {used(shown.nodes)}")
    hidden = len(shown.nodes) - nodes_max
    for node in shown.nodes[max(0, hidden) :]:
        yield _line(f"  node {node_line(node)}", "" if node.cpus else "yellow")
    if hidden > 0:
        yield _line(f"  and {hidden} more nodes")
    if shown.why:
        yield Text(f"  {clean(shown.why, 2 * WHY_MAX)}", style="yellow")
    if shown.failure:
        yield _line(f"  the first failure: {clean(shown.failure, WHY_MAX)}", "red")


def _line(text: str, style: str = "") -> Text:
    """Returns a text for one line of the terminal: what does not fit is cut off."""
    return Text(text, style=style, no_wrap=True, overflow="ellipsis")
