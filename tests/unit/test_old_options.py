"""Options, modules and parameters of dispy 4: each is known, and what became of it is written down."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import dispy
from dispy.cli import scheduler
from dispy.cli.node import command
from dispy.cli.old_options import NODE, SCHEDULER
from dispy.errors import MissingModuleError, NotYetError, UsageError
from dispy.not_yet import MODULES, NODE_OPTIONS, SCHEDULER_OPTIONS

ROOT = Path(__file__).parents[2]

ACTS = {
    "--ipv4_udp_multicast": None,
    "--cpus": "1", "-c": "1", "--debug": None, "-d": None, "--host": "127.0.0.1", "-i": "127.0.0.1",
    "--dispy_port": "9700", "-p": "9700", "--name": "x", "--dest_path_prefix": "x", "--max_file_size": "10m",
    "--zombie_interval": "5", "--force_cleanup": None, "--secret": "x", "-s": "x", "--certfile": "x",
    "--keyfile": "x", "--daemon": None,
}  # fmt: skip
"""Options of dispy 4 that do what they did, with a value."""

ACCEPTED = {
    "--clean": None, "--unsafe_setup": None, "--ext_host": "a", "--ping_interval": "30", "--msg_timeout": "5",
}  # fmt: skip

REFUSED = {
    "--config": "f", "--save_config": "f", "--init": "f", "--scheduler_host": "h",
    "--service_start": "10:00", "--service_stop": "11:00", "--service_end": "12:00", "--serve": "1",
    "--client_shutdown": None, "--admin_secret": "x",
}  # fmt: skip


def parsed(*arguments: str) -> dict[str, Any]:
    """The options as the command gets them."""
    return command.make_context("dispynode", list(arguments)).params


def typed(option: str, value: str | None) -> list[str]:
    return [option] if value is None else [option, value]


@pytest.mark.parametrize("option", ACTS)
def test_options_that_act(option: str) -> None:
    given = parsed(*typed(option, ACTS[option]))
    assert NODE.take_out(given) == []
    assert given != parsed() or option in ("--host", "-i", "--dispy_port", "-p")


@pytest.mark.parametrize("option", ACCEPTED)
def test_options_without_effect_say_what_is_so_now(option: str) -> None:
    given = parsed(*typed(option, ACCEPTED[option]))
    (said,) = NODE.take_out(given)
    assert re.fullmatch(rf"{option} has no effect: .{{20,}}", said)
    usual = parsed()
    NODE.take_out(usual)
    assert given == usual


@pytest.mark.parametrize("option", REFUSED)
def test_options_that_are_to_come_say_what_to_do(option: str) -> None:
    for spelling in (option, option.replace("_", "-").replace("---", "--")):
        with pytest.raises(NotYetError) as caught:
            NODE.take_out(parsed(*typed(spelling, REFUSED[option])))
        assert re.fullmatch(rf"{option} is not available yet \(.+\); .{{10,}}", str(caught.value))


def test_all_that_are_to_come_are_named_at_once() -> None:
    arguments = [word for option, value in REFUSED.items() for word in typed(option, value)]
    with pytest.raises(NotYetError) as caught:
        NODE.take_out(parsed(*arguments))
    lines = str(caught.value).splitlines()
    assert sorted(line.split()[0] for line in lines) == sorted(REFUSED)


@pytest.mark.parametrize(
    "arguments", [["--serve", "-1"], ["--serve=-1"], ["--admin_secret", ""], ["--init="]]
)
def test_what_asks_for_nothing_is_fine(arguments: list[str]) -> None:
    """As start scripts have it that give all options."""
    assert NODE.take_out(parsed(*arguments)) == []


OF_SCHEDULER = {
    "--node": "a", "-n": "a", "--host": "127.0.0.1", "-i": "127.0.0.1", "--port": "9800", "-p": "9800",
    "--node_secret": "x", "--node_certfile": "x", "--node_keyfile": "x", "--cluster_secret": "x",
    "--cluster_certfile": "x", "--cluster_keyfile": "x", "--pulse_interval": "2", "--zombie_interval": "5",
    "--fair_cluster_scheduler": None, "--early_cluster_scheduler": None,
    "--cooperative": None, "--cleanup_nodes": None, "--debug": None, "-d": None, "--daemon": None,
    "--config": "x", "--save_config": "x", "--ipv4_udp_multicast": None,
}  # fmt: skip
"""Options of dispy 4's ``dispyscheduler`` that do what they did."""

SCHEDULER_ACCEPTED = {
    "--ext_host": "a", "--ping_interval": "30", "--msg_timeout": "5", "--dest_path_prefix": "x",
    "--max_file_size": "1m", "--clean": None,
}  # fmt: skip

SCHEDULER_REFUSED = {"--httpd": None}


def parsed_scheduler(*arguments: str) -> dict[str, Any]:
    return scheduler.command.make_context("dispyscheduler", list(arguments)).params


@pytest.mark.parametrize("option", OF_SCHEDULER)
def test_options_of_the_scheduler_that_act(option: str) -> None:
    given = parsed_scheduler(*typed(option, OF_SCHEDULER[option]))
    assert SCHEDULER.take_out(given) == []
    assert given != parsed_scheduler() or option in ("--host", "-i")


@pytest.mark.parametrize("option", SCHEDULER_ACCEPTED)
def test_options_of_the_scheduler_without_effect(option: str) -> None:
    (said,) = SCHEDULER.take_out(parsed_scheduler(*typed(option, SCHEDULER_ACCEPTED[option])))
    assert re.fullmatch(rf"{option} has no effect: .{{20,}}", said)


@pytest.mark.parametrize("option", SCHEDULER_REFUSED)
def test_options_of_the_scheduler_that_are_to_come(option: str) -> None:
    with pytest.raises(NotYetError, match=rf"^{option} is not available yet \(.+\); .{{10,}}"):
        SCHEDULER.take_out(parsed_scheduler(*typed(option, SCHEDULER_REFUSED[option])))


def test_the_tables_are_complete() -> None:
    assert {f"--{name}" for name in SCHEDULER.no_effect} == set(SCHEDULER_ACCEPTED)
    assert {f"--{name}" for name in SCHEDULER_OPTIONS} == set(SCHEDULER_REFUSED)
    assert {f"--{name}" for name in NODE.no_effect} == set(ACCEPTED)
    assert {f"--{name}" for name in NODE_OPTIONS} == set(REFUSED)


def rows(text: str, heading: str) -> list[list[str]]:
    """The cells of the table below a heading."""
    table = text[text.index(f"\n## {heading}\n") :].split("\n## ")[1]
    found = [line.strip("|").split("|") for line in table.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row] for row in found[2:]]


@pytest.mark.parametrize(
    ("options", "says"),
    [(ACTS, "acts"), (ACCEPTED, "no effect"), (REFUSED, "not yet")],
    ids=["1", "2", "3"],
)
def test_the_page_says_what_became_of_each_option(options: dict[str, str | None], says: str) -> None:
    text = (ROOT / "docs" / "how-to" / "coming-from-dispy-4.md").read_text()
    told = {
        option: row[1]
        for row in rows(text, "Options of dispynode")
        for option in re.findall(r"`(-[^` ]+)`", row[0])
    }
    for option in options:
        assert told[option].startswith(says), option


def test_the_readme_lists_all_that_is_to_come() -> None:
    text = (ROOT / "README.md").read_text()
    listed = [name for row in rows(text, "Not yet") for name in re.findall(r"`([^`]+)`", row[0])]
    wanted = {
        *MODULES,
        *(f"--{name}" for name in (*NODE_OPTIONS, *SCHEDULER_OPTIONS)),
        "--host",
    }
    assert wanted == {name.split()[-1] for name in listed}


@pytest.mark.parametrize("name", MODULES)
def test_modules_that_are_to_come(name: str) -> None:
    """However they are imported; ``except ImportError`` sees it, and trying again changes nothing."""
    package, _, last = name.partition(".")
    for statement in (f"import {name}", f"from {name} import x", f"from {package} import {last}"):
        for kind in (ImportError, ModuleNotFoundError, NotYetError, UsageError):
            with pytest.raises(kind, match=rf"^{name} is not available yet \(.+\); .{{10,}}"):
                exec(statement, {})
    with pytest.raises(AttributeError, match=r"no attribute .* it is not available yet \(.+\); .{10,}"):
        getattr(dispy, last)
    assert name not in sys.modules


def test_such_an_error_is_no_advice_to_install_something() -> None:
    """``name`` is what tools take for the name of a package that is missing."""
    with pytest.raises(MissingModuleError) as caught:
        importlib.import_module("dispy.httpd")
    assert caught.value.name is None
    assert caught.value.hint


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (
            ["dispy.dispyscheduler", "--httpd"],
            2,
            r"^dispyscheduler: --httpd is not available yet .*'status'",
        ),
        (["dispy.dispyscheduler", "--version"], 0, r"^dispyscheduler, version 5"),
        (["dispy.dispynetrelay"], 2, r"^dispynetrelay: it is not available yet .*nodes=\['HOST'\]"),
        (["dispy.dispyadmin"], 2, r"^dispyadmin: it is not available yet .*'cpus N'"),
        (["dispy.httpd"], 2, r"^httpd: it is not available yet .*cluster\.status"),
        (["dispy", "--version"], 0, r"^dispy, version 5"),
        (["dispy"], (0, 2), r"^Usage: dispy "),
        (["dispy.dispynode", "--version"], 0, r"^dispynode, version 5"),
        (["dispy.dispy_cmd", "--help"], 0, r"^Usage: dispy_cmd\.py "),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_modules_as_programs(arguments: list[str], code: Any, says: str) -> None:
    done = subprocess.run([sys.executable, "-m", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode in (code if isinstance(code, tuple) else (code,))
    assert re.search(says, done.stdout + done.stderr), done
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("name", "code"),
    [("dispynode.py", 0), ("dispy_cmd.py", 0), ("dispyscheduler.py", 0), ("dispynetrelay.py", 2)],
)
def test_old_names_of_programs(name: str, code: int) -> None:
    path = Path(sys.executable).with_name(name)
    if not path.exists():
        pytest.skip("dispy is not installed here")
    done = subprocess.run([path, "--help"], capture_output=True, text=True, check=False)
    assert done.returncode == code
    assert "Traceback" not in done.stderr
    assert code == 0 or "is not available yet" in done.stderr
