"""Tables for notebooks: clusters, nodes and jobs as HTML.

Names, reasons and failures come from users and peers. All text passes ``_cell``, which escapes control characters and
HTML, so that none of it is markup, and no attribute has any of it.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence

from dispy.client.shown.overview import WHY_MAX, Overview, ShownNode, clean, counts, rate, size, span, used

ROWS_MAX = 50
"""Nodes that a table shows; the others are counted in a line below it."""

_NODE_COLUMNS = ("node", "address", "CPUs", "busy", "done", "failed", "s/job", "sent", "received", "")
"""Headings of a table of nodes; the last column has the reason why a node runs nothing."""


def cluster_html(shown: Overview) -> str:
    """Returns a cluster, or the progress of jobs, as HTML: name and state, counts, a bar, nodes, and reasons."""
    about = [counts(shown), used(shown.nodes)] if shown.state == "open" else [shown.state, counts(shown)]
    if shown.rate:
        about.append(f"{rate(shown.rate)}/s")
    if shown.left_s:
        about.append(f"{span(shown.left_s)} left")
    if shown.age_s is not None:
        about.append(f"after {span(shown.age_s)}")
    total = shown.total
    bar = f'<progress max="{total}" value="{shown.ended}"></progress> ' if total else ""
    said = [f"<div>{bar}<b>{_cell(shown.name)}</b>: {_cell('; '.join(about))}</div>"]
    if shown.nodes:
        said.append(_nodes_table(shown.nodes))
    if shown.why:
        said.append(f"<div>{_cell(shown.why, 4 * WHY_MAX)}</div>")
    if shown.failure:
        said.append(f"<div>the first failure: {_cell(shown.failure)}</div>")
    return f"<div>{''.join(said)}</div>"


def nodes_html(nodes: Sequence[ShownNode], caption: str = "") -> str:
    """Returns nodes as an HTML table, below a caption; without any, words that say so."""
    above = f"<div>{_cell(caption)}</div>" if caption else ""
    return f"<div>{above}{_nodes_table(nodes) if nodes else '<div>no nodes</div>'}</div>"


def _nodes_table(nodes: Sequence[ShownNode]) -> str:
    """Returns the table of nodes; of more than ``ROWS_MAX`` the last ones, which are those in use."""
    shown = nodes[-ROWS_MAX:]
    rows = [
        [
            node.name,
            node.ip_addr,
            node.cpus,
            node.busy,
            node.jobs_done,
            node.jobs_failed,
            f"{node.cpu_time / node.jobs_done:.3g}" if node.jobs_done else "",
            size(node.tx),
            size(node.rx),
            node.reason,
        ]
        for node in shown
    ]
    more = len(nodes) - len(shown)
    return table(_NODE_COLUMNS, rows) + (f"<div>and {more} more nodes</div>" if more else "")


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Returns an HTML table. Headings and cells may be any text: they are escaped."""
    head = "".join([f"<th>{_cell(name)}</th>" for name in columns])
    lines = ["".join([f"<td>{_cell(value)}</td>" for value in row]) for row in rows]
    body = "".join([f"<tr>{cells}</tr>" for cells in lines])
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _cell(value: object, most: int = WHY_MAX) -> str:
    """Returns a value as HTML text of one line, cut to some ``most`` characters; nothing in it is markup."""
    return html.escape(clean(value, most))
