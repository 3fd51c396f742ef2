"""The node's standard error, where hosts and workers log, and say what has ended them.

Descriptor 2 becomes the output of jobs in workers, so the node's is kept under a number of its own.
"""

from __future__ import annotations

import logging
import os
import sys
import traceback
from contextlib import suppress

from dispy.system.escaping import Formatter, sendable

_node_stderr = 2
"""Descriptor of the node's standard error: 2, and a copy of it once ``begin`` was called."""


def begin() -> None:
    """Keep the node's standard error, and have the loggers ``dispynode`` and ``dispy`` write to it. Called once, when
    a host starts; its workers inherit both."""
    global _node_stderr
    _node_stderr = os.dup(2)
    handler = logging.StreamHandler(os.fdopen(os.dup(2), "w", buffering=1))
    # What jobs log is the text of strangers to those who watch the node: control characters are escaped.
    handler.setFormatter(Formatter("%(asctime)s %(levelname)s %(name)s - %(message)s"))
    for name in ("dispynode", "dispy"):
        # These alone: what user code logs by loggers of its own, however it has set them up, is its output.
        ours = logging.getLogger(name)
        ours.addHandler(handler)
        ours.setLevel(logging.INFO)
        ours.propagate = False


def say_error() -> str:
    """Write the traceback of the exception that is being handled to the node's standard error, and return the text.
    Called by a host or worker that ends by an error."""
    text = f"{sys.exc_info()[0]}\n"  # if there is no memory to say more
    with suppress(BaseException):
        text = sendable(traceback.format_exc())
    with suppress(BaseException):
        os.write(_node_stderr, text.encode())
    return text
