"""Limits of everything a peer can say: sizes, counts and lengths, each with its reason."""

from __future__ import annotations

KIB = 1024
MIB = 1024 * KIB

VERSION = 1
"""Version of the protocol. Messages may gain optional fields; anything else is a new version."""

CHUNK_NUMBERS_FROM = 1 << 40
"""Job numbers from here on are chunks of a ``map``, so that the numbers of jobs keep step with their ids."""

HANDSHAKE_FRAME_MAX = 512
"""Bytes of a frame before the proof: the largest honest one takes about 100."""

CONTROL_FRAME_MAX = 8 * MIB
"""Bytes of a control frame: twice the longest list of files, eight times the largest batch of jobs."""

INLINE_MAX = 64 * KIB
"""Payloads of this size and more travel as streams, so that they delay no control frame."""

CHUNK_MAX = 1 * MIB
"""Bytes of one chunk: 10 ms on a 1 Gbit/s line, the longest a control frame waits behind it."""

STREAM_WINDOW = 8 * MIB
"""Bytes of one stream under way without a grant: 80 ms at 1 Gbit/s."""

STREAMS_MAX = 4096
"""Streams open at once in one direction of a connection."""

PAYLOAD_MAX = 64 * 1024 * MIB
"""Bytes of one payload: more than the memory of a machine that could hold it today."""

BATCH_MAX = 4096
"""Jobs in one message."""

BATCH_SIZE_MAX = 1 * MIB
"""Bytes of payloads, output and reasons in one message of jobs: what waits behind it waits as long as behind a chunk.
All else in such a message takes at most 128 bytes per job, 0.5 MiB together."""

OBJECTS_MAX = 4096
"""Objects put into one computation: each is a file on its nodes."""

OPEN_JOBS_MAX = 1_000_000
"""Jobs that a reconcile lists."""

NAME_MAX = 512
"""Characters of a name, an address or a platform text."""

REASON_MAX = 64 * KIB
"""Characters of a reason or traceback; longer ones are cut where they are made."""

OUTPUT_MAX = 1 * MIB
"""Bytes kept of each of a job's stdout and stderr; the middle of longer output is cut."""

FILE_PART = 4 * MIB
"""Bytes of each part of a file that a job sends, but the last: one is under way at a time."""

PRINTED_MAX = 128 * KIB
"""Bytes that a node tells at once of what the running jobs of a computation print: 100 ms at 10 Mbit/s."""

PATH_MAX = 1024
"""Characters of the path of a file below a working directory."""

DEPTH_MAX = 64
"""Names in such a path: each costs an open directory on the way."""

FILE_NAME_MAX = 240
"""Bytes of one of them: file systems take 255, and there must be room for a temporary one."""

FILES_MAX = 20_000
"""Files of one computation, or of one job."""

MANIFEST_MAX = 4 * MIB
"""Bytes that the list of them may take, encoded: half of what a control frame may have."""

JOB_FILES_MAX = 500_000
"""Files that jobs of one computation bring which a node has at once; others wait with their client. Half of what a
node lists for one client."""

ARRIVED_MAX = 1_000_000
"""Files that jobs which have not ended have sent to one program: it remembers them for as long, in 150 MB."""

ENTRY_BARE_MAX = 64
"""Bytes of one file in it, but for the path."""

ENTRY_MAX = 4 * PATH_MAX + ENTRY_BARE_MAX
"""Bytes of one file in it."""

PIECES_MAX = 1024
"""Pieces of files in one message."""

PIECE_MAX = 2 * MIB
"""Bytes of one piece of a file: what is lost of it when a connection breaks, and room that it needs at once."""

PIECES_SIZE_MAX = 16 * MIB
"""Bytes of files that a node asks a client for at once: 80 ms at 1.6 Gbit/s, and a quarter of a small memory file
system, where they lie until they are on disk."""
