"""The page of reference has all names, and no others."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import dispy
from dispy import config

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "overview.md"
WORDS = frozenset(re.findall(r"\w+", " ".join(re.findall(r"`([^`\n]+)`", PAGE.read_text()))))
UNSAID = {"covers", "matches", "is_plain", "is_usable", "allocate", "id_iter", "touch"}
"""Of the classes, for those who derive from them."""


def _public(found: object) -> set[str]:
    return {name for name in dir(found) if not name.startswith("_")} - UNSAID


@pytest.mark.parametrize(
    "names",
    [
        pytest.param(_public(dispy.JobCluster), id="JobCluster"),
        pytest.param(_public(dispy.DispyJob), id="DispyJob"),
        pytest.param(_public(dispy.DispyNode), id="DispyNode"),
        pytest.param(set(dispy.__all__), id="dispy"),
        pytest.param({name for name in vars(config) if name[0].isupper()} - {"TYPE_CHECKING", "Any", "UsageError"},
                     id="config"),
    ],
)  # fmt: skip
def test_all_names_are_there(names: set[str]) -> None:
    assert sorted(names - WORDS) == []


def test_its_defaults_are_those_of_the_code() -> None:
    rows = re.findall(
        r"^\| `(\w+)` \| `?([^|`]+?)`? \|", PAGE.read_text().split("`dispy.config`\n")[-1], re.MULTILINE
    )
    shown = {name: text for name, text in rows if name != "NodePort"}
    assert len(shown) > 6
    assert shown == {name: str(getattr(config, name)) for name in shown}
