"""Settings: checked as a whole, all faults told at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from dispy.errors import UsageError
from dispy.settings import NodeSettings, check_node, effective_cpus, settings_decoder


def test_the_defaults_are_fine() -> None:
    settings = NodeSettings()
    assert check_node(settings, 1) is settings


@pytest.mark.parametrize(
    ("fields", "fault"),
    [
        ({"cpus": 5}, "cpus: 5 are asked for, 4 are usable"),
        ({"cpus": -4}, "leaves none"),
        ({"cpus": -9}, "leaves none"),
        ({"secret": "a", "secret_file": "b"}, "give one of them"),
        ({"dest_path_prefix": "/dev/null"}, "dest_path_prefix: '/dev/null' is not a directory"),
        (
            {"dest_path_prefix": "/dev/null/x"},
            "'/dev/null/x' cannot be made, as '/dev/null' is not a directory",
        ),
        ({"secret_file": "~no.such.account/x"}, "the home directory '~no.such.account' is not known here"),
        ({"dispy_port": 65001}, "no room"),
        ({"name": "a\nb"}, "printable"),
        ({"name": "n" * 256}, "255"),
    ],
)
def test_a_fault_is_named(fields: dict[str, Any], fault: str) -> None:
    with pytest.raises(UsageError, match=fault):
        check_node(NodeSettings(**fields), 4)


def test_all_faults_are_told_at_once() -> None:
    settings = NodeSettings(cpus=5, secret="a", secret_file="b", dispy_port=65535, name="\0")
    with pytest.raises(UsageError) as caught:
        check_node(settings, 4)
    for name in ("cpus", "secret", "dispy_port", "name"):
        assert f"{name}" in str(caught.value)


@pytest.mark.parametrize("cpus", [4, 1, 0, -1, -3])
def test_cpus_within_those_present_are_fine(cpus: int) -> None:
    assert check_node(NodeSettings(cpus=cpus), 4).cpus == cpus


def test_an_existing_destination_is_fine(tmp_path: Path) -> None:
    settings = NodeSettings(dest_path_prefix=str(tmp_path))
    assert check_node(settings, 1) is settings


@pytest.mark.parametrize(("wanted", "present", "offered"), [(0, 4, 4), (3, 4, 3), (-1, 4, 3), (-3, 4, 1)])
def test_cpus_are_offered_as_asked_for(wanted: int, present: int, offered: int) -> None:
    assert effective_cpus(wanted, present) == offered


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        NodeSettings().cpus = 3  # type: ignore[misc]


def test_settings_travel_as_text() -> None:
    settings = NodeSettings(cpus=2, name="n", listen_port=0, secret_file="f")
    assert settings_decoder.decode(msgspec.json.encode(settings)) == settings


@pytest.mark.parametrize(
    "text",
    ['{"cpu": 1}', '{"cpus": "1"}', '{"dispy_port": 65536}', '{"listen_port": -1}', '{"lease_s": 0}'],
)
def test_a_text_with_unknown_or_impossible_values_is_refused(text: str) -> None:
    with pytest.raises(msgspec.ValidationError):
        settings_decoder.decode(text)
