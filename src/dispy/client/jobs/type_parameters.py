"""Type parameters of clusters and jobs: ``JobCluster[P, R]`` runs a function of parameters ``P`` and result ``R``.

For type checkers they have defaults: a bare ``JobCluster`` or ``DispyJob`` stands for any parameters and any result,
and passes strict checks. At run time they have none, as Python knows defaults from 3.13 on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing_extensions import ParamSpec, TypeVar

    P = ParamSpec("P", default=...)
    R = TypeVar("R", default=Any)
    R_co = TypeVar("R_co", default=Any, covariant=True)
else:
    from typing import ParamSpec, TypeVar

    P = ParamSpec("P")
    """Parameters of the function that a cluster runs."""
    R = TypeVar("R")
    """Type of the result of that function."""
    R_co = TypeVar("R_co", covariant=True)
    """Type of the result of a job, which a program only reads: a ``DispyJob[int]`` is a ``DispyJob[object]``, too."""
