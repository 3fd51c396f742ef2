"""Field types of the messages between scheduler and node: decoding refuses values outside their bounds, and the
connection ends."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from dispy.protocol import limits
from dispy.protocol.files import FileEntry

# Lengths of texts are characters, those of bytes are bytes.

Name = Annotated[str, Meta(max_length=limits.NAME_MAX)]
Reason = Annotated[str, Meta(max_length=limits.REASON_MAX)]
Inline = Annotated[bytes, Meta(max_length=limits.INLINE_MAX)]
"""A payload (bytes) inside a message: at most ``INLINE_MAX`` bytes. Senders make streams of larger ones."""
Captured = Annotated[bytes, Meta(max_length=limits.INLINE_MAX)]
"""Complete output of an ended job on stdout or stderr, inside a message: at most ``INLINE_MAX`` bytes. Larger output
travels as a stream."""
Glimpse = Annotated[bytes, Meta(max_length=limits.PRINTED_MAX)]
"""New output of a job that is still running, on stdout or stderr: at most ``PRINTED_MAX`` bytes."""
Count = Annotated[int, Meta(ge=0, le=1 << 31)]
Number = Annotated[int, Meta(ge=0, le=1 << 62)]
"""Number of a job, computation, stream or batch, or a size or position in bytes: from 0 to 2**62."""
WallTime = Annotated[float, Meta(ge=0, le=1e11)]
"""Time in seconds since the epoch. The bounds exclude negative, infinite and NaN, which would break arithmetic."""
Percent = Annotated[float, Meta(ge=0, le=100)]
Identity = Annotated[bytes, Meta(min_length=16, max_length=16)]
"""Name of a client (new for each scheduler) or of an incarnation of a node (new at each start): 16 random bytes."""
Owner = Annotated[bytes, Meta(max_length=32)]
"""Owner of files: random bytes that only the owner's programs know; empty: none is named."""
Files = Annotated[list[FileEntry], Meta(max_length=limits.FILES_MAX)]
