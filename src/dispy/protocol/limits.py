"""Limits of everything that a peer can send: sizes, counts and lengths, each with its reason.

Senders stay within the limits: they cut lists into several messages, and refuse a user's value that is too large. A
receiver does not rely on that: unless said otherwise below, it ends the connection with ``RemoteProtocolError`` or
``msgspec.ValidationError`` when a peer exceeds a limit.
"""

from __future__ import annotations

KIB = 1024
MIB = 1024 * KIB

VERSION = 3
"""Version of the protocol. Messages may gain optional fields; any other change needs a new version. Peers with
different versions do not connect (``VersionError``)."""

CHUNK_NUMBERS_FROM = 1 << 40
"""Job number of the first chunk of a ``map``; later chunks count up from it. Submitted jobs are numbered from 1 and
stay below it: so chunks leave no gaps in their numbers, on which seeds of jobs depend. Each computation
counts anew. The journal leaves out all jobs from this number on."""

HANDSHAKE_FRAME_MAX = 512
"""Bytes of the largest frame body that is accepted before the peer's proof: the largest honest one has about 100. A
larger one ends the connection."""

CONTROL_FRAME_MAX = 8 * MIB
"""Bytes of the largest message (body of a control frame): twice the longest list of files, eight times the largest
batch of jobs. A sender that would exceed it ends the connection itself (``InternalError``)."""

INLINE_MAX = 64 * KIB
"""Payloads (arguments, results, objects, code, pieces of files) of this size (bytes) and more travel as streams, not
inside a message, so that they delay no control frame."""

CHUNK_MAX = 1 * MIB
"""Bytes of the largest chunk of a stream: 10 ms at 1 Gbit/s, the longest time that a control frame waits behind it.
Larger payloads are sent in several chunks."""

STREAM_WINDOW = 8 * MIB
"""Bytes of one stream that may be under way without a grant: 80 ms at 1 Gbit/s. Its sender then waits for a grant;
other streams and messages go on."""

STREAMS_MAX = 4096
"""Streams that may be open (announced, not yet taken by a message) at once in one direction of a connection. The
receiver ends the connection when one more is opened; a sender counts, and has the others wait."""

PAYLOAD_MAX = 64 * 1024 * MIB
"""Bytes of the largest payload that a stream may announce, 64 GiB: more than the memory of most machines today. The
receiver ends the connection for a larger one. A job's file that is larger is refused by its worker already
(``EFBIG``)."""

BATCH_MAX = 4096
"""Items (jobs, results, attempts, …) of the longest list in one message. Senders spread longer lists over several
messages (``protocol.message_sizes``)."""

BATCH_SIZE_MAX = 1 * MIB
"""Bytes of payloads, output and reasons in one message of jobs or results: a message behind it waits as long as
behind a chunk. Senders make several messages of more (``protocol.message_sizes``); receivers do not check this one.
The other fields take at most 128 bytes per job, 0.5 MiB together."""

OBJECTS_MAX = 4096
"""Shared objects in one computation: each is a file on the computation's nodes. A program that puts one more gets
``UsageError``; a node answers one more with ``ObjectStored`` and a reason."""

OPEN_JOBS_MAX = 1_000_000
"""Most attempts, or numbers of batches of results, in one list of the messages after a reconnect (``Reconcile``,
``Welcome``, …). ``Held`` leaves out further batches; any other longer list ends the connection."""

NAME_MAX = 512
"""Characters of the longest name, address, path of a node's directory, or platform text in a message. A longer one
ends the connection."""

REASON_MAX = 64 * KIB
"""Characters of the longest reason or traceback in a message; longer texts are cut where they are made
(``protocol.output.cut_reason``)."""

OUTPUT_MAX = 1 * MIB
"""Bytes kept of a job's stdout, and as many of its stderr; the middle of longer output is cut."""

FILE_PART = 4 * MIB
"""Bytes of each part of a file that a job sends to its program, except the last part. The job waits for the
acknowledgement of a part before it sends the next one."""

PRINTED_MAX = 128 * KIB
"""Bytes of live output in one message, for all running jobs of a computation together: 100 ms at 10 Mbit/s. More
waits until that message is acknowledged; see ``protocol.output.LATE_MAX`` for what is skipped."""

PATH_MAX = 1024
"""Characters of the longest path of a file below a working directory; ``files.check_path`` refuses longer ones."""

DEPTH_MAX = 64
"""Most names in a file's path, directories included: the receiver opens one directory for each.
``files.check_path`` refuses deeper paths."""

FILE_NAME_MAX = 240
"""Bytes (UTF-8) of the longest name in a path; ``files.check_path`` refuses longer ones. File systems allow 255, and
the temporary name under which a receiver writes the file is longer and must fit, too."""

FILES_MAX = 20_000
"""Most files of one computation, or of one job. The program gets an error for more (``files.check_number``)."""

MANIFEST_MAX = 4 * MIB
"""Bytes of the list of files of one computation or job, encoded: half of a control frame. The program gets an error
for a longer list (``files.check_number``)."""

JOB_FILES_MAX = 500_000
"""Files of the jobs of one computation that a node has at once; jobs with more files wait at their client. Half of
the files that a node lists for one client (``NodeSettings.listed_max``)."""

ARRIVED_MAX = 1_000_000
"""Most files that the unfinished jobs of one program may have sent to it; sending one more fails in the job. The
program remembers each until its job ends, so that a repeated one is not taken twice: 150 MB at this limit."""

ENTRY_BARE_MAX = 64
"""Most bytes that one file takes in an encoded list of files, without its path. ``files.check_number`` adds them to
those of the paths, to find lists above ``MANIFEST_MAX``."""

ENTRY_MAX = 4 * PATH_MAX + ENTRY_BARE_MAX
"""Most bytes that one file takes in an encoded list of files, with the longest path. ``files.check_number`` need not
add up the paths of a list that is short enough at this size."""

SMALL_FILE_MAX = 48 * KIB
"""Bytes of the largest file that is asked for in one piece, several such files in one message. Larger files arrive
piece by piece, and what has come of them outlasts a broken connection."""

PIECES_MAX = 1024
"""Most pieces of files in one message (``NeedFiles``, ``FileData``); more need several messages."""

PIECE_MAX = 2 * MIB
"""Bytes of the largest piece of a file that a node asks for: what must be sent again when a connection breaks, and
memory that it needs at once. Larger files are fetched in several pieces."""

PIECES_SIZE_MAX = 16 * MIB
"""Bytes of files that a node has asked a client for and not yet received; it asks for more as they arrive. 80 ms at
1.6 Gbit/s, and a quarter of a small memory file system, which holds them until they are on disk."""
