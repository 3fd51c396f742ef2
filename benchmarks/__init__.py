"""What dispy promises about speed and size, one file per claim, measured against what users have today.

``python -m benchmarks`` runs all and prints a table; see ``__main__``. Each claim is a module with
``run(quick) -> list[Row]``; what they share is in ``harness``.
"""

from __future__ import annotations

CLAIMS = (
    "floors",
    "job_cpu",
    "stages",
    "throughput",
    "journal",
    "mapping",
    "executor",
    "peers",
    "joblib_fits",
    "put",
    "files",
    "files_beside",
    "large_shared",
    "large_bytes",
    "large_tcp",
    "large_beside",
    "awaiting",
    "callbacks",
    "latency",
    "output",
    "makespan",
    "queue_memory",
    "queue_depth",
    "sharing",
    "shared",
    "shares",
    "cancelling",
    "isolation",
    "programs_run",
    "setup",
    "encryption",
    "strangers",
    "import_time",
    "start_time",
    "code",
    "scheduling",
    "execution",
    "deaths",
    "drill",
    "soak",
)
"""Modules of this package, in the order in which they run."""
