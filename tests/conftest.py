"""For all tests."""

import gc
import os
import sys

# They start some thousand interpreters, each of which would compile all that it imports: 0.3 s for a program, a node
# and its host.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False


def pytest_collection_finish() -> None:
    """What is there now stays to the end: no collection of garbage looks at it again.

    Every test with real processes ends with one, to see what is left behind: 20 to 60 ms each time, for the modules
    and tests of the whole suite.
    """
    gc.collect()
    gc.freeze()
