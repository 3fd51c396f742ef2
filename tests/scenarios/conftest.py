"""The flag that writes expected traces anew."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--record-scenarios``."""
    parser.addoption(
        "--record-scenarios",
        action="store_true",
        help="write what the machines do into the scenarios as what is expected (then read the diff)",
    )
