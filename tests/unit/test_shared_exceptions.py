"""Tests that are not run over a shared scheduler: few, and each is there."""

from __future__ import annotations

import ast
from pathlib import Path

from tests.integration.schedulers import EXCEPTIONS, EXCEPTIONS_MAX

INTEGRATION = Path(__file__).parents[1] / "integration"


def test_there_are_few_and_each_is_a_test() -> None:
    functions = {
        node.name
        for path in INTEGRATION.glob("test_*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef)
    }
    assert len(EXCEPTIONS) <= EXCEPTIONS_MAX
    assert set(EXCEPTIONS) <= functions
    assert all(len(reason) > 20 for reason in EXCEPTIONS.values())
