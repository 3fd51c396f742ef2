"""For all tests."""

import gc
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from alone import isolate
from stages import STAGED

isolate()  # before there are threads, and processes of pytest-xdist

# They start some thousand interpreters, each of which would compile all that it imports: 0.3 s for a program, a node
# and its host.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# A shell has its background commands ignore Ctrl-C, which they and all that they start would inherit. A handler is
# not inherited: what is started has the default again, as in a terminal.
for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)


# How hard properties are tried: ``DISPY_HYPOTHESIS=deep`` looks for new failures, the others repeat, with the same
# examples on every machine and under every hash seed. No example has a deadline: on a busy machine any may stand
# still for a while. Here and not beside one kind of tests, so that it is so whichever are run.
for profile, count in {"default": 100, "ci": 250}.items():
    settings.register_profile(
        profile, max_examples=count, stateful_step_count=50, deadline=None, derandomize=True, database=None
    )
settings.register_profile(
    "deep", max_examples=4000, stateful_step_count=100, deadline=None, database=None, print_blob=True
)
settings.load_profile(os.environ.get("DISPY_HYPOTHESIS", "default"))


_WHOLE = pytest.StashKey[bool]()
"""Whether all tests are run, and not some that were named."""


def pytest_configure(config: pytest.Config) -> None:
    """Find out what was asked for; a process of pytest-xdist is told."""
    told: dict[str, Any] | None = getattr(config, "workerinput", None)
    is_whole = config.args_source is pytest.Config.ArgsSource.TESTPATHS
    config.stash[_WHOLE] = is_whole if told is None else told["is_whole"]


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Tell a process of pytest-xdist."""
    node.workerinput["is_whole"] = node.config.stash[_WHOLE]


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave out what CI runs in a stage of its own, unless it was named."""
    is_staged = collection_path.as_posix().endswith(tuple(f"/tests/{path}" for path in STAGED))
    return True if is_staged and config.stash[_WHOLE] else None


def pytest_collection_finish() -> None:
    """What is there now stays to the end: no collection of garbage looks at it again.

    Every test with real processes ends with one, to see what is left behind: 20 to 60 ms each time, for the modules
    and tests of the whole suite.
    """
    gc.collect()
    gc.freeze()
