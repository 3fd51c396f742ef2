"""The choices of a program for one ``map``, checked and made ready by ``map.entry``."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from dispy import payload

if TYPE_CHECKING:
    from dispy.client.session.objects import Ref


class Options(NamedTuple):
    """The choices of a program for one ``map``.

    Attributes:
        is_starred: True if items of the one iterable are tuples of arguments (``starmap``).
        until: When all results have to be here (monotonic seconds), or ``TimeoutError`` is raised; None: no limit.
        keeps_errors: True: the exception of an item takes the place of its result. False: it ends the map.
        constants: Reference to a dictionary that was put: the keyword arguments of all calls; None: there are none.
        size: Items of a chunk; None: as many as take ``CHUNK_S``.
        function: Function that is called with the items; None: the computation.
    """

    is_starred: bool = False
    until: float | None = None
    keeps_errors: bool = False
    constants: Ref | None = None
    size: int | None = None
    function: payload.SentFunction | None = None
