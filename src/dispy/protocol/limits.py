"""Limits of everything that a peer can send: sizes, counts and lengths, each with its reason."""

from __future__ import annotations

KIB = 1024
MIB = 1024 * KIB

VERSION = 1
"""Version of the protocol. Messages may gain optional fields; any other change needs a new version."""

CHUNK_NUMBERS_FROM = 1 << 40
"""First number of the chunks of a ``map``. Submitted jobs are numbered below it, so that their numbers follow their
ids."""

HANDSHAKE_FRAME_MAX = 512
"""Bytes of a frame before the proof: the largest honest frame has about 100."""

CONTROL_FRAME_MAX = 8 * MIB
"""Bytes of a control frame: twice the longest list of files, eight times the largest batch of jobs."""

INLINE_MAX = 64 * KIB
"""Payloads of this size (bytes) and more travel as streams, so that they delay no control frame."""

CHUNK_MAX = 1 * MIB
"""Bytes of one chunk: 10 ms at 1 Gbit/s, the longest time that a control frame waits behind it."""

STREAM_WINDOW = 8 * MIB
"""Bytes of one stream that may be under way without a grant: 80 ms at 1 Gbit/s."""

STREAMS_MAX = 4096
"""Streams that may be open at once in one direction of a connection."""

PAYLOAD_MAX = 64 * 1024 * MIB
"""Bytes of one payload, 64 GiB: more than the memory of most machines today."""

BATCH_MAX = 4096
"""Jobs or results in one message."""

BATCH_SIZE_MAX = 1 * MIB
"""Bytes of payloads, output and reasons in one message of jobs: a message behind it waits as long as behind a chunk.
The other fields take at most 128 bytes per job, 0.5 MiB together."""

OBJECTS_MAX = 4096
"""Objects put into one computation: each is a file on the computation's nodes."""

OPEN_JOBS_MAX = 1_000_000
"""Jobs that a ``Reconcile`` lists."""

NAME_MAX = 512
"""Characters of a name, an address or a platform text."""

REASON_MAX = 64 * KIB
"""Characters of a reason or traceback; longer texts are cut where they are made (``protocol.output.cut_reason``)."""

OUTPUT_MAX = 1 * MIB
"""Bytes kept of a job's stdout, and as many of its stderr; the middle of longer output is cut."""

FILE_PART = 4 * MIB
"""Bytes of each part of a file that a job sends, except the last part. One part is under way at a time."""

PRINTED_MAX = 128 * KIB
"""Bytes of live output in one message, for all running jobs of a computation together: 100 ms at 10 Mbit/s."""

PATH_MAX = 1024
"""Characters of a file's path below a working directory."""

DEPTH_MAX = 64
"""Names in a file's path: the receiver opens one directory for each."""

FILE_NAME_MAX = 240
"""Bytes of one name in a path: file systems allow 255, and the longer temporary name must fit, too."""

FILES_MAX = 20_000
"""Files of one computation, or of one job."""

MANIFEST_MAX = 4 * MIB
"""Bytes of the list of files of one computation or job, encoded: half of a control frame."""

JOB_FILES_MAX = 500_000
"""Files of the jobs of one computation that a node has at once; jobs with more files wait at their client. Half of
the files that a node lists for one client (``NodeSettings.listed_max``)."""

ARRIVED_MAX = 1_000_000
"""Files that unfinished jobs have sent to one program. The program remembers them until the jobs end: 150 MB."""

ENTRY_BARE_MAX = 64
"""Bytes of one file in a list of files, without its path."""

ENTRY_MAX = 4 * PATH_MAX + ENTRY_BARE_MAX
"""Bytes of one file in a list of files, with the longest path."""

PIECES_MAX = 1024
"""Pieces of files in one message."""

PIECE_MAX = 2 * MIB
"""Bytes of one piece of a file: what must be sent again when a connection breaks, and memory that it needs at
once."""

PIECES_SIZE_MAX = 16 * MIB
"""Bytes of files that a node asks of a client at once: 80 ms at 1.6 Gbit/s, and a quarter of a small memory file
system, which holds them until they are on disk."""
