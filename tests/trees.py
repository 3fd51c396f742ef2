"""Directories of tests, by their path."""

from __future__ import annotations

import os
from pathlib import Path

from dispy.files.untrusted_directory import Tree


def open_tree(path: Path | str) -> Tree:
    """Returns the files of a directory."""
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        return Tree(directory)
    finally:
        os.close(directory)
