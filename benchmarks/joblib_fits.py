"""Fits by scikit-learn's search over joblib: by a cluster, and by joblib's own processes in the same run.

Both have two CPUs and workers that are warm, and fit the same models to the same data in turns.
"""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

import dispy
from benchmarks import harness
from benchmarks.harness import Row, at_least, median_row


def run(quick: bool) -> list[Row]:
    """Measure the time of a search with "dispy" and with "loky", and the ratio; nothing without scikit-learn."""
    if any(importlib.util.find_spec(name) is None for name in ("joblib", "sklearn")):
        print("joblib or scikit-learn is not installed: pip install -e '.[ecosystem]'")
        return []
    import joblib
    from joblib.externals.loky import get_reusable_executor

    fits, repeats = (10, 1) if quick else (200, 9)
    dispy.register_joblib()
    try:
        # Before the sandbox begins, which ends all that was started in it: joblib's helpers live as long as we do.
        with joblib.parallel_config(backend="loky", n_jobs=2):
            _search(fits)
        with harness.node(), joblib.parallel_config(backend="dispy", n_jobs=2) as ours:

            def seconds(backend: Any) -> float:
                with joblib.parallel_config(backend=backend, n_jobs=2):
                    return harness.timed(lambda: _search(fits))

            seconds(ours["backend"])
            pairs = harness.interleave(repeats, lambda: seconds("loky"), lambda: seconds(ours["backend"]))
            ours.clear()
    finally:
        loky: Any = get_reusable_executor  # which has no type hints
        loky(reuse=True).shutdown(wait=True, kill_workers=True)
    name = f"{fits} fits by a search on two CPUs"
    return [
        median_row(
            f"{name}: speed, ratio to joblib's own processes", harness.ratios(pairs), "x", at_least(0.95)
        ),
        median_row(f"{name}: dispy", [pair[1] for pair in pairs], "s"),
        median_row(f"{name}: joblib's own", [pair[0] for pair in pairs], "s"),
    ]


def _search(fits: int) -> None:
    """Search for the best of ``fits / 5`` parameters, with five fits for each."""
    made = importlib.import_module("sklearn.datasets").make_classification
    model = importlib.import_module("sklearn.linear_model").LogisticRegression(max_iter=200)
    search = importlib.import_module("sklearn.model_selection").GridSearchCV(
        model, {"C": [1.1**n for n in range(fits // 5)]}, cv=5, n_jobs=2
    )
    x, y = made(2000, 20, random_state=0)
    if search.fit(x, y).best_score_ < 0.8:
        raise RuntimeError("a search found something else than it should")
