"""``map`` and ``starmap``, as programs call them: arguments are checked, constants put, and a ``Mapping`` begun."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator
from collections.abc import Mapping as MappingType
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, Literal, Never, overload

from dispy import payload
from dispy.client.arguments import check_flag, deadline, describe
from dispy.client.jobs.type_parameters import R
from dispy.client.map.chunks import Mapping
from dispy.client.map.map_results import MapResults
from dispy.client.map.options import Options
from dispy.client.session import cancellation, objects, submission
from dispy.client.tracebacks import briefly
from dispy.errors import PicklingError, UsageError

if TYPE_CHECKING:
    from dispy.client.session.objects import Ref
    from dispy.client.session.state import Session

OPTIONS = ("timeout", "return_exceptions", "constants", "chunksize")
"""Names of the options of ``map`` and ``starmap``. Other keyword arguments are refused, with the option that may have
been meant."""


class ClusterMaps(Generic[R]):
    """The methods of ``JobCluster`` that run the computation over iterables."""

    _session: Session
    """The record of the cluster."""

    @overload
    def map(
        self,
        *iterables: Iterable[Any],
        timeout: float | None = None,
        return_exceptions: Literal[False] = False,
        constants: MappingType[str, Any] | None = None,
        chunksize: int | None = None,
    ) -> Iterator[R]: ...
    @overload
    def map(
        self,
        *iterables: Iterable[Any],
        timeout: float | None = None,
        return_exceptions: bool,
        constants: MappingType[str, Any] | None = None,
        chunksize: int | None = None,
    ) -> Iterator[R | Exception]: ...
    @briefly
    def map(
        self,
        *iterables: Iterable[Any],
        timeout: float | None = None,
        return_exceptions: bool = False,
        constants: MappingType[str, Any] | None = None,
        chunksize: int | None = None,
        **others: Never,
    ) -> Iterator[Any]:
        """Run the computation on each item; results come in the order of the items.

        Several iterables give one argument each, and the shortest ends the map, as with ``zip``. Iterables may be
        endless: they are read as results are taken, a bounded number of items ahead. Items travel in chunks of about
        20 ms of work by the run times measured so far. Within a chunk arguments that are one object stay one object,
        and worker state (directory, environment) is restored after the chunk. What items print is written to this
        program's ``sys.stdout`` and ``sys.stderr`` when their results come. ``dispy_job_id`` is None. There are no
        jobs to look at and no callbacks: ``jobs_done`` of nodes counts items, ``jobs_pending`` chunks.

        The exception of an item is raised here, with a note that names the item, after the results of the items
        before it; the others are cancelled. They are cancelled, too, when the iterator is closed or dropped: leaving
        the loop is enough.

        Args:
            iterables: Iterables of the arguments.
            timeout: Seconds for all results, from this call; None: no limit.
            return_exceptions: True to return the exception of an item in its place, with the remote traceback as
                cause, and to go on with the rest.
            constants: Keyword arguments that all calls have. They are sent to each node once, and calls share them:
                functions must not change them.
            chunksize: Items of a chunk, instead of as many as take 20 ms. Such chunks are never cut.
            others: Refused, with an error that says what to write.

        Raises:
            TimeoutError: From the iterator: the next result has not come in time.
            JobError: From the iterator: a chunk ended without saying why; or an exception cannot be rebuilt here.
            PicklingError: Constants cannot be sent.
            UsageError: The cluster is closed, or was closed meanwhile; or an argument cannot be used.
        """
        mapping = checked_map(
            "map", self._session, iterables, timeout, return_exceptions, constants, chunksize, others
        )
        return _begun(mapping, self._session.name)

    @overload
    def starmap(
        self,
        iterable: Iterable[Iterable[Any]],
        /,
        *,
        timeout: float | None = None,
        return_exceptions: Literal[False] = False,
        constants: MappingType[str, Any] | None = None,
        chunksize: int | None = None,
    ) -> Iterator[R]: ...
    @overload
    def starmap(
        self,
        iterable: Iterable[Iterable[Any]],
        /,
        *,
        timeout: float | None = None,
        return_exceptions: bool,
        constants: MappingType[str, Any] | None = None,
        chunksize: int | None = None,
    ) -> Iterator[R | Exception]: ...
    @briefly
    def starmap(
        self,
        iterable: Iterable[Iterable[Any]],
        /,
        *,
        timeout: float | None = None,
        return_exceptions: bool = False,
        constants: MappingType[str, Any] | None = None,
        chunksize: int | None = None,
        **others: Never,
    ) -> Iterator[Any]:
        """Run the computation on tuples of arguments: ``starmap([(1, 2), (3, 4)])`` calls ``f(1, 2)``, ``f(3, 4)``.

        Options, results and errors are those of ``map``.
        """
        _refuse_others("starmap", others)
        _check_iterable("the argument of starmap", iterable, "cluster.starmap([(1, 2), (3, 4)])")
        options = Options(True, deadline(timeout), check_flag("return_exceptions", return_exceptions))
        mapping = make_map(self._session, (iterable,), options, constants, chunksize)
        return _begun(mapping, self._session.name)


def checked_map(
    name: str,
    session: Session,
    iterables: tuple[Iterable[Any], ...],
    timeout: float | None,
    return_exceptions: bool,
    constants: MappingType[str, Any] | None,
    chunksize: int | None,
    others: dict[str, Any],
) -> Mapping:
    """Check the arguments of ``map`` or of a relative of it, and make the map. Nothing is sent yet.

    Args:
        name: Name of the public function, for errors.
        session: The cluster.
        iterables: As in ``map``.
        timeout: As in ``map``.
        return_exceptions: As in ``map``.
        constants: As in ``map``.
        chunksize: As in ``map``.
        others: Keyword arguments that are no options.
    """
    _refuse_others(name, others)
    if not iterables:
        raise UsageError(f"{name} takes at least one iterable", hint=f"cluster.{name}(range(10))")
    for number, iterable in enumerate(iterables, 1):
        hint = f"cluster.{name}([value]) for one item"
        if hasattr(iterable, "__aiter__"):
            hint = "items come from an ordinary iterable; submit what an asynchronous one yields by asubmit"
        elif callable(iterable):
            hint = f"the function is the cluster's, and not given again: cluster.{name}(items)"
        _check_iterable(f"argument {number} of {name}", iterable, hint)
    options = Options(False, deadline(timeout), check_flag("return_exceptions", return_exceptions))
    return make_map(session, iterables, options, constants, chunksize)


def _begun(mapping: Mapping, name: str) -> Iterator[Any]:
    """Send the first chunks of a map, and return the iterator over its results, in the order of the items.

    ``name``: that of the cluster.
    """
    results = mapping.results()
    next(results)
    return MapResults(results, name, mapping.left)


def make_map(
    session: Session,
    iterables: tuple[Iterable[Any], ...],
    options: Options,
    constants: MappingType[str, Any] | None,
    chunksize: int | None,
) -> Mapping:
    """Make a map. Nothing is sent before its ``results`` or ``batches`` are asked for the first time.

    Args:
        session: The cluster.
        iterables: One for each positional argument; for ``starmap`` one of tuples.
        options: Choices of the program; ``constants`` and ``size`` are filled in here.
        constants: Values by name of the argument, as the program gives them; None: there are none.
        chunksize: Items of a chunk, as the program gives it; None: as many as take 20 ms.
    """
    size = _checked_size(chunksize)
    session.check_open()
    sent = _put_constants(session, constants, 0 if options.is_starred else len(iterables))
    options = options._replace(constants=sent, size=size)

    def end(ended: Mapping, numbers: list[int]) -> None:
        """Forget a map that has ended or was left, and cancel its unfinished chunks. Does not wait; on any thread."""
        session.maps.discard(ended)
        for look in list(session.late_nodes.values()):
            session.engine.post(look)
        if numbers:
            session.engine.post(cancellation.cancel_open, session, numbers)

    mapping = Mapping(session, iterables, options, partial(submission.submit_chunk, session), end)
    session.maps.add(mapping)
    return mapping


def _put_constants(session: Session, constants: MappingType[str, Any] | None, given: int) -> Ref | None:
    """Send the constants of a map to the nodes. Returns a reference to their dictionary; None if there are none.

    Args:
        session: The cluster.
        constants: Values by the name of the argument.
        given: Number of positional arguments that every call has.

    Raises:
        PicklingError: A constant cannot be sent; says which.
        UsageError: They are no dictionary by name, or do not fit the function.
    """
    if constants is None or (isinstance(constants, MappingType) and not constants):
        return None
    if not isinstance(constants, MappingType) or not all(isinstance(name, str) for name in constants):
        raise UsageError(
            f"constants must be a dictionary of arguments by name, not {describe(constants)}",
            hint="constants={'seed': 3}",
        )
    session.computation.check_constants(constants, given)
    values = dict(constants)
    try:
        return objects.put(session, values)
    except PicklingError:
        for name, value in values.items():
            culprit = payload.find_culprit(value, f"constant {name!r}")
            if culprit:
                hint = "give plain data, or create the object in the function"
                raise PicklingError(f"constants of a map cannot be sent: {culprit}", hint=hint) from None
        raise


def _refuse_others(what: str, others: dict[str, Any]) -> None:
    """Refuse keyword arguments that are no options: misspelt ones, or arguments of the function.

    Args:
        what: Name of the public function, for the error.
        others: Value by name of each keyword argument that is no option; empty: all is well.

    Raises:
        UsageError: There is such an argument; says how to write it.
    """
    for name, value in others.items():
        import difflib  # rare, and each program would load it

        meant = difflib.get_close_matches(name, [*OPTIONS, "chunk", "chunks"], 1, 0.75)
        if meant:
            name_meant = meant[0] if meant[0] in OPTIONS else "chunksize"
            raise UsageError(f"{what} has no option {name!r}", hint=f"did you mean {name_meant}?")
        raise UsageError(
            f"{what} has no option {name!r}",
            hint=f"arguments that all calls have are given as constants={{{name!r}: {describe(value)}}}",
        )


def _check_iterable(what: str, value: Any, hint: str) -> None:
    """Check that an argument can be iterated over. ``what`` names it in the error, and ``hint`` says how to write it.

    Raises:
        UsageError: The value is no iterable.
    """
    if not hasattr(value, "__iter__") and not hasattr(value, "__getitem__"):
        raise UsageError(f"{what} must be an iterable, not {describe(value)}", hint=hint)


def _checked_size(size: Any) -> int | None:
    """Returns ``chunksize`` as a number of items; None if it is None: then a chunk has as many as take 20 ms.

    Raises:
        UsageError: The value is no whole number from 1 on.
    """
    if size is None:
        return None
    try:
        number = 0 if isinstance(size, bool) else operator.index(size)
    except TypeError:
        number = 0
    if not 1 <= number < 1 << 31:
        raise UsageError(
            f"chunksize must be a number of items from 1 on, not {describe(size)}",
            hint="leave it out for chunks of about 20 ms of work",
        )
    return number
