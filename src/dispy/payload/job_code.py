"""Calls of jobs that bring code or modules, which are run in processes of their own.

Theory of operation. Code that one job brings must not be found by another. The pickle of such a call begins with a
*gate*: a worker that unpickles it meets the gate first, which raises ``Apart`` before anything behind it is loaded.
The worker then forks a process for this job alone (``worker.own_process``), which calls ``accept_code``: there the
gate is open, modules are added, and functions and classes are defined in the namespace of the computation. The
process ends with the job.
"""

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
from dispy.payload.forms import chosen, loads, portable_twin
from dispy.payload.known_parts import Known
from dispy.payload.modules import importer
from dispy.payload.object_references import take_used
from dispy.payload.unsendable import blame, find_culprit
from dispy.payload.versions import HERE, Version


class Apart(Exception):
    """A job brings code, and this process is not for one job alone; nothing of the call has been loaded.

    The worker then runs the job in a process that it forks for it.

    Args:
        job_id: Id of the job, if that is not its number; else None.
    """

    def __init__(self, job_id: Any) -> None:
        super().__init__("the job brings code, which is for a process of its own")
        self.job_id = job_id


_job_namespace: Namespace | None = None
"""Globals of the computation, which get the code that a job brings; None in a process that may not load such code."""


def accept_code(namespace: Namespace) -> None:
    """Have code that a job brings defined in a namespace from now on: this process runs one job and ends.

    Args:
        namespace: Globals of the computation.
    """
    global _job_namespace
    _job_namespace = namespace


class _Gate:
    """Gate in front of the code in a pickle: unpickling it raises ``Apart``, so that nothing behind it is loaded.

    Only in the process that a worker has forked for this job (``accept_code``) it is passed (``_pass_gate``).

    Args:
        job_id: Id of the job, which ``Apart`` tells the worker; None if the id is the job's number.
        paths: Files of modules that the job brings, relative to the working directory: the user's loaded modules of
            these names are dropped (``_forget_modules``), so that the files are imported.
        modules: Modules that the code needs, from ``pack_modules``: they are made importable.
    """

    def __init__(self, job_id: Any, paths: list[str], modules: bytes) -> None:
        self._parts = job_id, paths, modules

    def __reduce__(self) -> tuple[Any, tuple[Any, list[str], bytes]]:
        return _pass_gate, self._parts


def _pass_gate(job_id: Any, paths: list[str], modules: bytes) -> None:
    """Prepare the process of a job for the code behind the gate; pickles call this, with the arguments of ``_Gate``.

    Raises:
        Apart: This process is not for one job alone.
    """
    if _job_namespace is None:
        raise Apart(job_id)
    if paths:
        _forget_modules(paths)
    add_modules(modules)


def _forget_modules(paths: list[str]) -> None:
    """Have Python import the files of modules that a job brings, and not others of their names.

    Modules of these top names that were sent, or are in the working directory, are dropped from ``sys.modules``.
    Bytecode is not written from now on either: another job could later take it for that of its own files.

    Args:
        paths: Files of modules, relative to the working directory.
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
    """Stand-in for the globals of the computation: empty, unpickles to those in the process that runs the job."""

    def __reduce__(self) -> tuple[Any, tuple[()]]:
        return _find_namespace, ()


def _find_namespace() -> Namespace:
    """Returns the globals of the computation in this process, in which code of the job finds its names.

    Pickles of such jobs call it while they are loaded: after ``_Gate``, so in a process of the job's own.
    """
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
    """Returns the payload of a job that brings functions and classes, which it finds by name, or modules.

    Args:
        depends: Functions and classes.
        paths: Files of modules that the job brings, on the node, relative to the working directory: they take the
            place of other modules of these names.
        args: Positional arguments of the job.
        kwargs: Keyword arguments of the job.
        job_id: Id of the job, if that is not its number; else None.
        known: Parts of the program that nodes have.

    Raises:
        PicklingError: The text names the argument or the dependency, and the part of it that cannot be sent.
    """
    take_used()
    args = tuple([out_of_band(value) for value in args])

    def make() -> tuple[bytes, bytes, list[pickle.PickleBuffer]]:
        return _dump_form(depends, paths, (args, kwargs, job_id), known)

    try:
        form = make()
    except Exception as error:
        for item in depends:
            culprit = find_culprit(item, describe(item))
            if culprit:
                hint = "import or create it inside the function, or pass it as an argument"
                raise PicklingError(f"dispy_job_depends cannot be sent: {culprit}", hint=hint) from error
        raise blame(args, kwargs, job_id, error) from error
    call: _Call | _CallInForms = _Call(_Gate(job_id, paths, form[0]), *form[1:])
    if known.takes_both():
        call = _CallInForms(job_id, paths, form, tuple(portable_twin(make)))
    outer = Collector()
    data = pickle.dumps((call, *[None] * CALL_PARTS), PROTOCOL, buffer_callback=outer.take)
    return whole(Parts(data, outer) if outer else data)


def _dump_form(
    depends: list[Any], paths: list[str], call: tuple[Any, Any, Any], known: Known
) -> tuple[bytes, bytes, list[pickle.PickleBuffer]]:
    """Returns a job that brings code in one form: modules (packed), pickle of code and call, and its large buffers.

    ``call``: arguments, keyword arguments and id of the job. Other arguments are those of ``dump_call_with``.
    """
    there = _There()
    buffers = Collector()
    stream = io.BytesIO()
    brought = {path.partition("/")[0].partition(".")[0] for path in paths}
    pickler = Pickler(stream, buffers=buffers, is_inline=True, known=known)
    firsts, names = definitions(depends, there)
    pickler.dump((there, firsts, names, *call))
    sent = [
        module
        for module in sent_modules(pickler)[0]
        if module.name not in known.modules and module.name.partition(".")[0] not in brought
    ]
    packed = pack_modules(sent, pickler.sources)
    return packed, stream.getvalue(), [pickle.PickleBuffer(buffer) for buffer in buffers]


CALL_PARTS = 6
"""Number of parts, all None, after the first in the tuple of a call that brings code.

The length of the tuple, 7, tells the call from other calls, which have at most five parts.
"""


class _Call:
    """Stand-in for the call of a job that brings code: a pickle behind a gate, unpickled only if the gate lets it.

    Args:
        gate: The gate, which is unpickled first.
        data: The pickle: a tuple with the code and the arguments.
        buffers: Large buffers to which ``data`` refers, in the order in which it does.
    """

    def __init__(self, gate: _Gate, data: bytes, buffers: list[pickle.PickleBuffer]) -> None:
        self._parts = gate, data, buffers

    def __reduce__(self) -> tuple[Any, tuple[_Gate, bytes, list[pickle.PickleBuffer]]]:
        return _open, self._parts


def _open(_: None, data: bytes, buffers: list[Any]) -> tuple[Any, ...]:
    """Returns the tuple of code and arguments in the pickle behind a gate that was passed; pickles call this."""
    opened: tuple[Any, ...] = loads(data, buffers)
    return opened


class _CallInForms:
    """Stand-in for the call of a job that brings code, for nodes of the program's version of Python and of others.

    Arguments are those of ``_open_form``, without the version.
    """

    def __init__(self, *parts: Any) -> None:
        self._parts = HERE, *parts

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return _open_form, self._parts


def _open_form(
    version: Version, job_id: Any, paths: list[str], form: tuple[Any, ...], twin: tuple[Any, str]
) -> tuple[Any, ...]:
    """Returns the tuple of code and arguments in the form that this process can open; pickles call this.

    Args:
        version: Version of Python that has made both forms.
        job_id: As of ``_Gate``.
        paths: As of ``_Gate``.
        form: Form of ``_dump_form`` for that version.
        twin: Parts of the ``forms.Twin`` for others.

    Raises:
        Apart: This process is not for one job alone.
    """
    if _job_namespace is None:
        raise Apart(job_id)
    modules, data, buffers = chosen(version, form, twin)
    _pass_gate(job_id, paths, modules)
    return _open(None, data, buffers)


def with_code(call: tuple[Any, ...]) -> tuple[Any, ...]:
    """Define the functions and classes that a job brings; returns ``(args, kwargs, job_id)``.

    They become globals of the computation in this process, which ends with the job. A global that the computation has
    already stays, and the job's function or class of this name is not used.

    Args:
        call: Call of ``dump_call_with``, unpickled by ``values.load``.
    """
    namespace, _, names, args, kwargs, job_id = call[0]
    for name, item in names.items():
        namespace.setdefault(name, item)
        for function in functions_of(item):
            import_named(function)
    return args, kwargs, job_id
