"""The public methods of a cluster that submit jobs."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Generic, overload

from dispy.client.allocation import placements
from dispy.client.job import DispyJob
from dispy.client.jobs.type_parameters import P, R
from dispy.client.nodes import NodeNames
from dispy.client.tracebacks import brief, briefly
from dispy.errors import UsageError

if TYPE_CHECKING:
    from dispy.client.session.state import Session

logger = logging.getLogger("dispy.client")


class ClusterJobs(Generic[P, R]):
    """The methods of ``JobCluster`` that submit jobs."""

    _session: Session
    """The record of the cluster."""

    @overload
    def submit(self, /, *args: P.args, **kwargs: P.kwargs) -> DispyJob[R]: ...
    @overload
    def submit(self, /, *args: Any, dispy_job_depends: Iterable[Any], **kwargs: Any) -> DispyJob[R]: ...
    def submit(self, /, *args: Any, **kwargs: Any) -> DispyJob[R]:
        """Run the computation once with these arguments, which are copied now: later changes do not reach the job.

        ``dispy_job_depends`` is no argument, but a list of files, modules, functions and classes for this job only.

        Returns:
            The job; calling it waits for its result.

        Raises:
            PicklingError: An argument cannot be sent; says which, and what in it.
            UsageError: The cluster is closed, or was made by a parent process.
        """
        try:
            session = self._session
            return session.submit(session, next(DispyJob.id_iter), None, args, kwargs)
        except UsageError as error:
            raise brief(error) from error.__cause__

    @overload
    def submit_job_id(self, job_id: Any, /, *args: P.args, **kwargs: P.kwargs) -> DispyJob[R]: ...
    @overload
    def submit_job_id(
        self, job_id: Any, /, *args: Any, dispy_job_depends: Iterable[Any], **kwargs: Any
    ) -> DispyJob[R]: ...
    def submit_job_id(self, job_id: Any, /, *args: Any, **kwargs: Any) -> DispyJob[R]:
        """``submit`` a job with an id of the program's choice; None for an automatic one."""
        try:
            job_id = next(DispyJob.id_iter) if job_id is None else job_id
            return self._session.submit(self._session, job_id, None, args, kwargs)
        except UsageError as error:
            raise brief(error) from error.__cause__

    @overload
    def submit_node(self, node: Any, /, *args: P.args, **kwargs: P.kwargs) -> DispyJob[R] | None: ...
    @overload
    def submit_node(
        self, node: Any, /, *args: Any, dispy_job_depends: Iterable[Any], **kwargs: Any
    ) -> DispyJob[R] | None: ...
    def submit_node(self, node: Any, /, *args: Any, **kwargs: Any) -> DispyJob[R] | None:
        """``submit`` to one node and no other. Returns None, with a warning, if this cluster does not use the node.

        Args:
            node: ``DispyNode``, address or host name.
        """
        return self._submit_to(None, node, args, kwargs)

    @overload
    def submit_job_id_node(
        self, job_id: Any, node: Any, /, *args: P.args, **kwargs: P.kwargs
    ) -> DispyJob[R] | None: ...
    @overload
    def submit_job_id_node(
        self, job_id: Any, node: Any, /, *args: Any, dispy_job_depends: Iterable[Any], **kwargs: Any
    ) -> DispyJob[R] | None: ...
    def submit_job_id_node(
        self, job_id: Any, node: Any, /, *args: Any, **kwargs: Any
    ) -> DispyJob[R] | None:
        """``submit_node`` with an id of the program's choice; None for an automatic one."""
        return self._submit_to(job_id, node, args, kwargs)

    @briefly
    def _submit_to(
        self, job_id: Any, node: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> DispyJob[R] | None:
        """Submit a job to one node: the work of ``submit_job_id_node``."""
        session = self._session
        session.check_open()
        names = NodeNames(node, session.known_nodes)
        found = session.engine.call(placements.find_open, session, names)
        if found is None:
            logger.warning("submit_node: node %s is not in use by cluster %s", names.text, session.name)
            return None
        job_id = next(DispyJob.id_iter) if job_id is None else job_id
        return session.submit(session, job_id, found, args, kwargs)
