"""Bounded field types of the messages between scheduler and node: decoding refuses larger values."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from dispy.protocol import limits
from dispy.protocol.files import FileEntry

Name = Annotated[str, Meta(max_length=limits.NAME_MAX)]
Reason = Annotated[str, Meta(max_length=limits.REASON_MAX)]
Inline = Annotated[bytes, Meta(max_length=limits.INLINE_MAX)]
Captured = Annotated[bytes, Meta(max_length=limits.INLINE_MAX)]
Glimpse = Annotated[bytes, Meta(max_length=limits.PRINTED_MAX)]
Count = Annotated[int, Meta(ge=0, le=1 << 31)]
Number = Annotated[int, Meta(ge=0, le=1 << 62)]
WallTime = Annotated[float, Meta(ge=0, le=1e11)]
"""Seconds since the epoch: neither negative, infinite nor NaN, which arithmetic does not survive."""
Percent = Annotated[float, Meta(ge=0, le=100)]
Identity = Annotated[bytes, Meta(min_length=16, max_length=16)]
Files = Annotated[list[FileEntry], Meta(max_length=limits.FILES_MAX)]
