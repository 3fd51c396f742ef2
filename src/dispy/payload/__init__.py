"""User objects to bytes and back: the only package that unpickles. Only client and worker import it.

Most arguments and results consist of numbers, strings and containers, or of objects of installed libraries. The C
pickler takes those without calling back into Python: ``calls`` has the arguments of jobs, ``values`` results and all
other values. Large data, such as the memory of arrays, lies beside a pickle, in a block (``blocks``). A reference to
an object that was put (``object_references``) is a number in a pickle, and the object in a job.

Code of the user's own travels in one of two ways. Modules that can be imported are sent and imported where jobs run,
and their functions and classes go by name (``modules``). All other code goes by value: the script, a notebook,
closures (``by_value``). ``code`` has a whole computation, ``job_code`` the code that a single job brings,
``sent_functions`` the functions that an executor's jobs call,
``known_parts`` the parts of a program that a node has already. ``plain`` reads what nodes send to a program that does
not trust them with code. ``unsendable`` finds the part of a value that cannot be
sent; ``random_generators`` gives copies of random generators streams of their own.
"""

from dispy.payload import blocks, object_references, random_generators
from dispy.payload.blocks import OUT_OF_BAND, PROTOCOL, Buffer, Parts, Ready, read_bytes, whole
from dispy.payload.by_value import scopes
from dispy.payload.by_value.bytecode import hide
from dispy.payload.calls import (
    CHUNK_PARTS,
    ItemFailed,
    Rest,
    Way,
    dump_call,
    dump_chunk,
    dump_failure,
    find_unsendable,
    load_call,
    load_failure,
    load_items,
    load_results,
)
from dispy.payload.code import (
    STANDARD_MODULES,
    Code,
    Dumped,
    dump_code,
    load_code,
    with_setup_args,
)
from dispy.payload.forms import Noted, pack_code, unpack_code
from dispy.payload.job_code import Apart, accept_code, dump_call_with
from dispy.payload.known_parts import NOTHING, Known
from dispy.payload.modules.importer import Finder, begin_worker, is_importing
from dispy.payload.modules.origins import lies_with_packages
from dispy.payload.modules.sent_modules import gather
from dispy.payload.object_references import Reference, has_used, take_used
from dispy.payload.random_generators import Seeding
from dispy.payload.sent_functions import CALL, SentFunction, dump_function, initialize, is_watchable
from dispy.payload.unsendable import find_culprit
from dispy.payload.values import (
    PlainOnly,
    dump,
    dump_exception,
    dump_int,
    dump_object,
    is_plain,
    load,
    load_exception,
    repack,
)
from dispy.payload.versions import HERE, meet, version_of

__all__ = [
    "CALL",
    "CHUNK_PARTS",
    "HERE",
    "NOTHING",
    "OUT_OF_BAND",
    "PROTOCOL",
    "STANDARD_MODULES",
    "Apart",
    "Buffer",
    "Code",
    "Dumped",
    "Finder",
    "ItemFailed",
    "Known",
    "Noted",
    "Parts",
    "PlainOnly",
    "Ready",
    "Reference",
    "Rest",
    "Seeding",
    "SentFunction",
    "Way",
    "accept_code",
    "begin_worker",
    "blocks",
    "dump",
    "dump_call",
    "dump_call_with",
    "dump_chunk",
    "dump_code",
    "dump_exception",
    "dump_failure",
    "dump_function",
    "dump_int",
    "dump_object",
    "find_culprit",
    "find_unsendable",
    "gather",
    "has_used",
    "hide",
    "initialize",
    "is_importing",
    "is_plain",
    "is_watchable",
    "lies_with_packages",
    "load",
    "load_call",
    "load_code",
    "load_exception",
    "load_failure",
    "load_items",
    "load_results",
    "meet",
    "object_references",
    "pack_code",
    "random_generators",
    "read_bytes",
    "repack",
    "scopes",
    "take_used",
    "unpack_code",
    "version_of",
    "whole",
    "with_setup_args",
]
