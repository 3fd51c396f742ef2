"""The work of threads for stages: finding out which files are installed, putting files into directories, trimming.

Each function is called on a thread, and returns the event that the core is told.
"""

from __future__ import annotations

import logging

from dispy.core import staging as core
from dispy.core.staging import Event
from dispy.files.checkout import put_files
from dispy.files.fetching.wanted_files import Seams, Stage
from dispy.files.installed_packages import Installed
from dispy.files.stores import Stores
from dispy.protocol.files import FileEntry

logger = logging.getLogger("dispy.node")


def find_missing(seams: Seams, installed: Installed, stage: Stage) -> Event:
    """Find the files of a stage, without those of packages that are installed here with equal content."""
    assert stage.around is not None
    missing: list[FileEntry] = stage.entries
    paths = seams.search_path(stage.around)
    try:
        with seams.open_directory(stage.around) as directory:
            missing = directory.find_missing(
                installed.missing, stage.entries, paths, lambda: not stage.is_dropped
            )
    except OSError as error:
        # The computation leaves, or the directory cannot be looked at: then nothing counts as installed.
        logger.debug("installed packages were not looked for: %s", error)
    return core.Searched(stage.number, missing)


def put(seams: Seams, stage: Stage) -> Event:
    """Put files of a stage that are in the store into its directory, or look whether they are in the store."""
    missing: dict[bytes, int] = {}
    try:
        if stage.work is None:
            missing = {
                entry.digest: entry.size
                for entry in stage.entries
                if not stage.is_dropped and not stage.store.has(entry.digest, entry.size)
            }
        else:
            with seams.open_directory(stage.work) as directory:
                missing = put_files(
                    stage.store, stage.entries, directory, lambda: not stage.is_dropped, stage.begun
                )
    except (OSError, ValueError) as error:
        return core.Placed(stage.number, {}, f"files cannot be put into the working directory: {error}")
    return core.Placed(stage.number, missing)


def trim(stores: Stores) -> Event:
    """Trim the stores."""
    stores.trim()
    return core.Trimmed()
