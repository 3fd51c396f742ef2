"""Field types of the messages between scheduler and node: decoding refuses values outside their bounds."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from dispy.protocol import limits
from dispy.protocol.files import FileEntry

# Lengths of texts are characters, those of bytes are bytes.

Name = Annotated[str, Meta(max_length=limits.NAME_MAX)]
Reason = Annotated[str, Meta(max_length=limits.REASON_MAX)]
Inline = Annotated[bytes, Meta(max_length=limits.INLINE_MAX)]
"""A payload inside a message; larger ones travel as streams."""
Captured = Annotated[bytes, Meta(max_length=limits.INLINE_MAX)]
"""Output of a job inside a message; larger output travels as a stream."""
Glimpse = Annotated[bytes, Meta(max_length=limits.PRINTED_MAX)]
"""Output of a job that is still running."""
Count = Annotated[int, Meta(ge=0, le=1 << 31)]
Number = Annotated[int, Meta(ge=0, le=1 << 62)]
"""The number of a job, computation, stream or batch, or a size in bytes."""
WallTime = Annotated[float, Meta(ge=0, le=1e11)]
"""Seconds since the epoch. The bounds exclude negative, infinite and NaN, which would break arithmetic."""
Percent = Annotated[float, Meta(ge=0, le=100)]
Identity = Annotated[bytes, Meta(min_length=16, max_length=16)]
"""16 random bytes that name a client or an incarnation of a node."""
Files = Annotated[list[FileEntry], Meta(max_length=limits.FILES_MAX)]
