"""User objects to bytes and back: the only package that unpickles. Used by client and worker alone.

Most arguments and results consist of numbers, strings and containers, or of objects of installed
libraries. The C pickler takes those without calling back into Python (``calls``, ``values``). Everything that
refers to code of the user's own (``__main__``, a script beside the program, closures) goes through
``by_value``, which sends such code by value. What is large lies beside a pickle, in a block (``blocks``).
"""

from dispy.payload import blocks, by_value, references
from dispy.payload.blocks import OUT_OF_BAND, PROTOCOL, Buffer, Parts, Ready, read_bytes, whole
from dispy.payload.brought import Apart, accept_code, dump_call_with, imports_of
from dispy.payload.calls import (
    CHUNK_PARTS,
    dump_call,
    dump_chunk,
    dump_failure,
    find_unsendable,
    load_call,
    load_failure,
    load_items,
)
from dispy.payload.code import STANDARD_MODULES, Code, dump_code, load_code, with_setup_args
from dispy.payload.culprits import find_culprit
from dispy.payload.installed import lies_with_packages
from dispy.payload.references import Reference, has_used, take_used
from dispy.payload.values import dump, dump_exception, dump_object, is_plain, load, load_exception

__all__ = [
    "CHUNK_PARTS",
    "OUT_OF_BAND",
    "PROTOCOL",
    "STANDARD_MODULES",
    "Apart",
    "Buffer",
    "Code",
    "Parts",
    "Ready",
    "Reference",
    "accept_code",
    "blocks",
    "by_value",
    "dump",
    "dump_call",
    "dump_call_with",
    "dump_chunk",
    "dump_code",
    "dump_exception",
    "dump_failure",
    "dump_object",
    "find_culprit",
    "find_unsendable",
    "has_used",
    "imports_of",
    "is_plain",
    "lies_with_packages",
    "load",
    "load_call",
    "load_code",
    "load_exception",
    "load_failure",
    "load_items",
    "read_bytes",
    "references",
    "take_used",
    "whole",
    "with_setup_args",
]
