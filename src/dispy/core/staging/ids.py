"""Names of what the staging core decides about. None is tied to who uses the core: a node, or a shared scheduler."""

from __future__ import annotations

from typing import NewType

Seconds = float
"""Time (monotonic clock of the shell) or duration."""

SupplierId = NewType("SupplierId", bytes)
"""Name of a supplier (bytes): somebody who has files, and is asked for them. The shell converts its own names."""

StageId = NewType("StageId", int)
"""Number of a stage, which the shell gives; never used twice."""

StoreName = NewType("StoreName", str)
"""Name of a store of files by content. Equal files in two stores are two files."""

DirectoryName = NewType("DirectoryName", str)
"""Name of a directory that files are put into, such as its path."""

PartId = NewType("PartId", int)
"""Number of an attempt to receive a file, which the core gives. One that begins anew has another number, so that what
threads still say of the attempt before does not count."""
