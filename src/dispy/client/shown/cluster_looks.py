"""Clusters as people see them: ``repr``, a table, and a display in notebooks that follows the cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dispy.client.shown.overview import cluster_line

if TYPE_CHECKING:
    from dispy.client.session.state import Session


class ClusterLooks:
    """The methods of ``JobCluster`` that show it. To look is no look at the failures of its jobs."""

    _session: Session
    """The record of the cluster."""

    def __repr__(self) -> str:
        from dispy.client.shown.survey import survey

        session = getattr(self, "_session", None)
        kind = type(self).__name__
        return cluster_line(kind, survey(session)) if session is not None else f"<{kind} that was not made>"

    def _repr_html_(self) -> str:
        """Returns the cluster as it is now, for notebooks that do not ask for more."""
        from dispy.client.shown.survey import survey
        from dispy.client.shown.tables import cluster_html

        return cluster_html(survey(self._session))

    def _ipython_display_(self) -> None:
        """Show the cluster in a notebook, and keep the display up to date until the cluster is closed.

        Raises:
            NotImplementedError: There is no notebook, or the cluster is closed: IPython then asks for ``repr`` or
                ``_repr_html_``.
        """
        from dispy.client.shown import notebook

        session = getattr(self, "_session", None)
        if session is None or session.is_closed or not notebook.is_here():
            raise NotImplementedError
        notebook.follow(session)
