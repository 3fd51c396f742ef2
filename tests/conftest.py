"""For all tests."""

import gc
import os
import signal
import sys

# They start some thousand interpreters, each of which would compile all that it imports: 0.3 s for a program, a node
# and its host.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# A shell has its background commands ignore Ctrl-C, which they and all that they start would inherit. A handler is
# not inherited: what is started has the default again, as in a terminal.
for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)


def pytest_collection_finish() -> None:
    """What is there now stays to the end: no collection of garbage looks at it again.

    Every test with real processes ends with one, to see what is left behind: 20 to 60 ms each time, for the modules
    and tests of the whole suite.
    """
    gc.collect()
    gc.freeze()
