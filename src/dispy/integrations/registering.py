"""Names by which other libraries find dispy: nothing of theirs is loaded before a program asks for it."""

from __future__ import annotations

from dispy.errors import UsageError


def register_joblib() -> None:
    """Have joblib know the backend "dispy": ``with joblib.parallel_config(backend="dispy", nodes=...):``.

    All ``joblib.Parallel`` in that block, also those of scikit-learn, make their calls on a cluster. The parameters
    are those of ``dispy.Executor``; ``n_jobs`` is the number of CPUs to use at most, -1 for all. It can be called
    more than once.

    Raises:
        UsageError: joblib is not installed.
    """
    try:
        import joblib
    except ImportError as error:
        raise UsageError(
            "joblib is not installed here", hint="pip install joblib, here and on the nodes"
        ) from error
    from dispy.integrations.joblib_backend import DispyBackend
    from dispy.integrations.joblib_calls import NAME

    joblib.register_parallel_backend(NAME, DispyBackend)
