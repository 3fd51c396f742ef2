"""``ClusterStatus``: what ``JobCluster.status`` returns, as text, as a table in notebooks, as a pandas frame."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from dispy.client.nodes import DispyNode
from dispy.client.shown.overview import used
from dispy.system.wording import counted

if TYPE_CHECKING:
    from pandas import DataFrame


class ClusterStatus(NamedTuple):
    """The state of a cluster, as ``JobCluster.status()`` returns it.

    Attributes:
        nodes: Nodes that the cluster used before, then those that it uses, then those that still receive its files.
        jobs_pending: Number of jobs that have not ended. A ``map`` counts by its chunks that have not ended.
    """

    nodes: list[DispyNode]
    jobs_pending: int

    def frame(self) -> DataFrame:
        """Returns the nodes as a pandas ``DataFrame``, a row for each, in the order of ``nodes``.

        Columns: ``node``, ``ip_addr``, ``cpus``, ``avail_cpus``, ``busy``, ``jobs_done``, ``jobs_failed``,
        ``cpu_time`` (seconds), ``sent`` and ``received`` (bytes), ``update_time`` (UTC; missing: never) and
        ``reason``.

        Raises:
            UsageError: pandas is not installed.
        """
        from dispy.client.shown.frames import nodes_frame

        return nodes_frame(self.nodes)

    def __repr__(self) -> str:
        busy = sum([node.busy for node in self.nodes])
        pending = counted(self.jobs_pending, "job")
        return f"<ClusterStatus: {pending} pending; {used(self.nodes)}, {busy} busy>"

    def _repr_html_(self) -> str:
        """Returns the nodes as a table under the number of pending jobs, for notebooks."""
        from dispy.client.shown.tables import nodes_html

        return nodes_html(self.nodes, f"{counted(self.jobs_pending, 'job')} pending; {used(self.nodes)}")
