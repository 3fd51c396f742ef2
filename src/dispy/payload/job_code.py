"""Calls of jobs that bring code or modules, for a process of their own."""

from __future__ import annotations

import importlib
import io
import os
import pickle
import sys
from typing import Any

from dispy.errors import PicklingError
from dispy.payload.blocks import PROTOCOL, Buffer, Collector, Parts, out_of_band, whole
from dispy.payload.by_value.bytecode import Namespace
from dispy.payload.by_value.namespaces import functions_of
from dispy.payload.by_value.pickler import Pickler
from dispy.payload.code import (
    add_modules,
    definitions,
    describe,
    import_named,
    pack_modules,
    sent_modules,
)
from dispy.payload.known_parts import Known
from dispy.payload.modules import importer
from dispy.payload.object_references import take_used
from dispy.payload.unsendable import blame, find_culprit


class Apart(Exception):
    """A job brings code, which is for a process of its own: nothing of it has been loaded.

    Args:
        job_id: Of the job, if that is not its number.
    """

    def __init__(self, job_id: Any) -> None:
        super().__init__("the job brings code, which is for a process of its own")
        self.job_id = job_id


_job_namespace: Namespace | None = None
"""Where code that a job brings belongs; None where none does."""


def accept_code(namespace: Namespace) -> None:
    """This process is for one job: code that it brings is defined here."""
    global _job_namespace
    _job_namespace = namespace


class _Gate:
    """Stands before code in a pickle. What follows is not loaded where it does not belong."""

    def __init__(self, job_id: Any, paths: list[str], modules: bytes) -> None:
        self._parts = job_id, paths, modules

    def __reduce__(self) -> tuple[Any, tuple[Any, list[str], bytes]]:
        return _pass_gate, self._parts


def _pass_gate(job_id: Any, paths: list[str], modules: bytes) -> None:
    if _job_namespace is None:
        raise Apart(job_id)
    if paths:
        _forget_modules(paths)
    add_modules(modules)


def _forget_modules(paths: list[str]) -> None:
    """Files of modules are new here: what was imported or found of others in their places is not used.

    Nor is anything compiled that would be taken for that of others later.
    """
    tops = {path.partition("/")[0].partition(".")[0] for path in paths}
    importer.forget(tops)
    directory = os.getcwd() + "/"
    for name in [name for name in sys.modules if name.partition(".")[0] in tops]:
        module = sys.modules[name]
        # Packages without an __init__.py have no file, but places; what is built into Python has neither.
        place = getattr(module, "__file__", None) or next(iter(getattr(module, "__path__", ())), "")
        if os.path.realpath(place).startswith(directory) or importer.is_sent(module):
            del sys.modules[name]
    importlib.invalidate_caches()
    sys.dont_write_bytecode = True


class _There(dict[str, Any]):
    """Stands for the namespace of the computation, where a job is run."""

    def __reduce__(self) -> tuple[Any, tuple[()]]:
        return _find_namespace, ()


def _find_namespace() -> Namespace:
    assert _job_namespace is not None
    return _job_namespace


def dump_call_with(
    depends: list[Any],
    paths: list[str],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    job_id: Any,
    known: Known,
) -> Buffer:
    """``dump_call`` for a job that brings functions and classes, which it finds by name, or modules.

    Args:
        depends: Functions and classes.
        paths: Where the files of modules lie on the node, relative to the working directory.
        args: Of the job.
        kwargs: Of the job.
        job_id: Of the job, if that is not its number.
        known: What nodes have of the program.

    Raises:
        PicklingError: Names the argument, or the dependency, and what in it cannot be sent.
    """
    take_used()
    there = _There()
    buffers = Collector()
    stream = io.BytesIO()
    brought = {path.partition("/")[0].partition(".")[0] for path in paths}
    try:
        pickler = Pickler(stream, buffers=buffers, is_inline=True, known=known)
        firsts, names = definitions(depends, there)
        args = tuple([out_of_band(value) for value in args])
        pickler.dump((there, firsts, names, args, kwargs, job_id))
    except Exception as error:
        for item in depends:
            culprit = find_culprit(item, describe(item))
            if culprit:
                hint = "import or create it inside the function, or pass it as an argument"
                raise PicklingError(f"dispy_job_depends cannot be sent: {culprit}", hint=hint) from error
        raise blame(args, kwargs, job_id, error) from error
    sent = [
        module
        for module in sent_modules(pickler)[0]
        if module.name not in known.modules and module.name.partition(".")[0] not in brought
    ]
    gate = _Gate(job_id, paths, pack_modules(sent, pickler.sources))
    call = _Call(gate, stream.getvalue(), [pickle.PickleBuffer(buffer) for buffer in buffers])
    outer = Collector()
    data = pickle.dumps((call, *[None] * CALL_PARTS), PROTOCOL, buffer_callback=outer.take)
    return whole(Parts(data, outer) if outer else data)


CALL_PARTS = 6
"""Parts besides the first of the tuple of such a call, by which it is told from others."""


class _Call:
    """A pickle behind a gate."""

    def __init__(self, gate: _Gate, data: bytes, buffers: list[pickle.PickleBuffer]) -> None:
        self._parts = gate, data, buffers

    def __reduce__(self) -> tuple[Any, tuple[_Gate, bytes, list[pickle.PickleBuffer]]]:
        return _open, self._parts


def _open(_: None, data: bytes, buffers: list[Any]) -> tuple[Any, ...]:
    opened: tuple[Any, ...] = pickle.loads(data, buffers=buffers)
    return opened


def with_code(call: tuple[Any, ...]) -> tuple[Any, ...]:
    """Define what ``dump_call_with`` sent; returns arguments and id of the job."""
    namespace, _, names, args, kwargs, job_id = call[0]
    for name, item in names.items():
        namespace.setdefault(name, item)
        for function in functions_of(item):
            import_named(function)
    return args, kwargs, job_id
