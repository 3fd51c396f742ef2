"""The simulation notices what is wrong: guarantees that are broken on purpose, one at a time."""

from __future__ import annotations

import pytest

from .mutations import MUTATIONS, Mutation, find, is_named


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_a_broken_guarantee_is_noticed(mutation: Mutation) -> None:
    """Within a bounded number of worlds, and the failure names it."""
    count, outcome = find(mutation)
    assert outcome is not None, f"{count} worlds are well though {mutation.name}"
    assert is_named(mutation, outcome), outcome.failure
