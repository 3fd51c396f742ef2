"""How hard the properties are tried: ``DISPY_HYPOTHESIS=deep`` looks for new failures, the others repeat."""

from __future__ import annotations

import os

from hypothesis import settings

# Derandomized: the same examples on every machine and under every hash seed.
for name, count in {"default": 100, "ci": 250}.items():
    settings.register_profile(
        name, max_examples=count, stateful_step_count=50, deadline=None, derandomize=True, database=None
    )
settings.register_profile(
    "deep", max_examples=4000, stateful_step_count=100, deadline=None, database=None, print_blob=True
)
settings.load_profile(os.environ.get("DISPY_HYPOTHESIS", "default"))
