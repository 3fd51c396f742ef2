"""The computation of a cluster: a function or program, checked and pickled with its dependencies."""

from __future__ import annotations

import functools
import inspect
import logging
import os
import types
from collections.abc import Callable, Mapping
from typing import Any

from dispy import config, payload
from dispy.client.code.imports import names_of
from dispy.client.code.program import find_program
from dispy.errors import UsageError
from dispy.files.manifest import is_file_item
from dispy.worker.program import Program, as_text

logger = logging.getLogger("dispy.client")


class Computation:
    """The function or program that a cluster runs, with its dependencies, pickled once for all nodes and jobs.

    Args:
        computation: The function, bound method or class; or the path of a program.
        depends: The program's ``depends``; functions and classes of it are pickled, files are left out.
        setup: Called on each node before the jobs; None: there is no setup.
        cleanup: Called on each node after the jobs; None: there is no cleanup.
        seeding: Seed of the jobs' random numbers, and whether generators get streams of their own (default: no).

    Attributes:
        name: Name of the function; of a program, its path as it was given.
        code: Pickle of the function, its dependencies, setup and cleanup (bytes), which nodes are sent.
        method: The bound method that was given; None if it was none.
        portable: The same for nodes of other minor versions of Python; if they cannot run it, it tells them why.
        version: Version of Python that ``code`` was compiled by, such as ``(3, 12)``.
        program: Path of the program's file here, which is sent to nodes; empty if the computation is no program.
        is_program: True if the computation is a program: jobs get texts, and their output is bytes.
        extensions: Compiled modules of the user's own, which travel as files: pairs of a path here and one on nodes.
        known: Modules, functions and classes that nodes get with the code. Pickles of jobs refer to them by name.
        is_call: True if the computation calls the first argument of each job: that of an executor.
        is_mixed: True once a node of another version of Python than the program's was met.
        adapts: True if calls get other arguments than the caller gives: then ``arguments`` makes them.

    Raises:
        UsageError: The computation, or something that it comes with, cannot be used.
        PicklingError: The computation cannot be sent; says which part of it.
    """

    __slots__ = (
        "_owner", "_signature", "adapts", "code", "extensions", "is_call", "is_mixed", "is_program", "known",
        "method", "name", "portable", "program", "version",
    )  # fmt: skip

    def __init__(
        self,
        computation: Any,
        depends: Any,
        setup: Callable[..., Any] | None = None,
        cleanup: Callable[..., Any] | None = None,
        seeding: payload.Seeding = payload.random_generators.UNSEEDED,
    ) -> None:
        self.is_program = isinstance(computation, (str, os.PathLike))
        path = os.fspath(computation) if self.is_program else ""
        self.program = find_program(path) if self.is_program else ""
        if self.is_program:
            computation = Program(os.path.basename(self.program), config.Java)
        elif not callable(computation):
            raise UsageError(
                f"computation must be a function or the path of a program, not {type(computation).__name__}",
                hint="JobCluster(compute) where compute is a function",
            )
        _check_returns(computation)
        self.is_call = computation is payload.CALL
        self.method = computation if isinstance(computation, types.MethodType) else None
        function: Callable[..., Any] = self.method.__func__ if self.method is not None else computation
        self.name = path if self.is_program else _name(function)
        self.adapts = self.is_program or self.method is not None
        items = check_depends(depends)
        if self.method is not None and not isinstance(self.method.__self__, type):
            items.append(type(self.method.__self__))
        for what, item in (("setup", setup), ("cleanup", cleanup)):
            if item is not None and not callable(item):
                raise UsageError(
                    f"{what} must be a function, not {type(item).__name__}",
                    hint="the function, without parentheses",
                )
        named = names_of(depends) if isinstance(depends, (list, tuple)) else ()
        self.version = payload.HERE
        self.code, self.known, self.extensions, self.portable = payload.dump_code(
            function, items, setup, cleanup, named, seeding
        )
        self.is_mixed = False
        self._owner: Any = self.method.__self__ if self.method is not None else None
        """Object of the bound method, wrapped if its random generators must differ between jobs; None: no method."""
        if self.method is not None and seeding.is_on and not isinstance(self._owner, type):
            self._owner = payload.random_generators.shared(self._owner, f"jobs of {self.name}")
        self._signature = None if self.is_program else _signature(function)
        """Parameters that calls are checked against; None: not checked, as it is a program or cannot be read."""

    def code_for(self, python: str, setup_args: tuple[Any, ...]) -> bytes:
        """Returns the code for a node; empty if it gets the common one (``code``).

        Args:
            python: Minor version of Python on the node, such as "3.12"; empty: that of the program.
            setup_args: Arguments of setup and cleanup there; empty: there are none.

        Raises:
            PicklingError: An argument cannot be sent.
        """
        is_other = (payload.version_of(python) or self.version) != self.version
        code = self.portable if is_other else self.code
        if setup_args:
            return payload.with_setup_args(code, setup_args)
        return code if is_other else b""

    def meet(self, python: str) -> None:
        """Note the version of Python of a node that jobs may run on: it decides in which form their code is sent.

        ``python``: as of ``code_for``.
        """
        version = payload.version_of(python) or payload.HERE
        payload.meet(version)
        self.is_mixed = self.is_mixed or version != payload.HERE
        self.known.is_one_version = not self.is_mixed

    def waits_for(self, python: str) -> bool:
        """True if a node must not be used before jobs end that were submitted so far: they have compiled code alone.

        ``python``: as of ``code_for``.
        """
        is_other = (payload.version_of(python) or payload.HERE) != payload.HERE
        return is_other and self.known.has_compiled_alone

    def noted(self) -> bytes:
        """Returns the computation as a journal keeps it, for ``noted_computation``."""
        return payload.pack_code(payload.Noted(self.version, self.code, self.portable))

    def check_constants(self, constants: Mapping[str, Any], given: int) -> None:
        """Check that calls can have these keyword arguments. A function without a readable signature takes any.

        Args:
            constants: Keyword arguments of all calls.
            given: Least number of positional arguments that calls have beside these.

        Raises:
            UsageError: They do not fit the function, or the computation is a program.
        """
        if self.is_program:
            raise UsageError(
                f"program {self.name} takes texts, and no arguments by name",
                hint="cluster.map(items, itertools.repeat('--seed=3'))",
            )
        if self._signature is None:
            return
        positional = [None] * (given + (self.method is not None))
        try:
            self._signature.bind_partial(*positional, **constants)
        except TypeError as error:
            raise UsageError(
                f"constants do not fit {self.name}{self._signature}: {error}",
                hint="they are keyword arguments, besides those that the iterables give",
            ) from None

    def arguments(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
        """Returns the positional arguments that the job gets for ``args``, given by the caller; called if ``adapts``.

        A program gets texts, and no keyword arguments: ``kwargs`` is emptied. For a bound method callers may give the
        object first, as programs for dispy 4 do; otherwise the call gets the object that the method was bound to.
        """
        if self.is_program:
            kwargs.clear()
            return tuple([as_text(value) for value in args])
        assert self.method is not None
        owner = self.method.__self__
        if isinstance(owner, type):
            return (owner, *args)
        if args and isinstance(args[0], type(owner)) and self._signature is not None:
            try:
                self._signature.bind(*args, **kwargs)
            except TypeError:
                pass
            else:
                return args
        return (self._owner, *args)


def _signature(function: Callable[..., Any]) -> inspect.Signature | None:
    """Returns the parameters of a function, to check calls against; None if they cannot be read, as often in C."""
    try:
        return inspect.signature(function)
    except Exception:
        return None


def _check_returns(function: Any) -> None:
    """Refuse a function whose call runs nothing, but makes a coroutine or generator.

    Raises:
        UsageError: The function is asynchronous or a generator.
    """
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        raise UsageError(
            f"computation {_name(function)} is asynchronous: nobody would await what it returns on a node",
            hint="write a function that calls asyncio.run and returns the result",
        )
    if inspect.isgeneratorfunction(function):
        raise UsageError(
            f"computation {_name(function)} is a generator: nobody would iterate over what it returns on a node",
            hint="return a list; dispy_provisional_result sends what is there before the end",
        )


def _name(function: Any) -> str:
    """Returns the name of a function, or of the class of another callable, for messages."""
    if function is payload.CALL:
        return "Executor"
    return str(getattr(function, "__name__", "") or type(function).__name__)


def check_depends(depends: Any) -> list[Any]:
    """Returns the functions and classes of a ``depends`` argument, in order. Files and modules are left out.

    An instance stands for its class, a partial or a bound method for its function.

    Raises:
        UsageError: The value is no list, or an item cannot be a dependency.
    """
    if depends is None:
        return []
    if isinstance(depends, str) or not isinstance(depends, (list, tuple)):
        raise UsageError(f"depends must be a list, not {type(depends).__name__}", hint="depends=[helper]")
    items: list[Any] = []
    for item in depends:
        if is_file_item(item):
            continue  # files travel beside the code
        if isinstance(item, functools.partial):
            item = item.func
        if not isinstance(item, (types.FunctionType, types.BuiltinFunctionType, type)):
            if isinstance(item, types.MethodType):
                item = item.__func__
            elif type(item).__module__ == "builtins":
                raise UsageError(
                    f"{item!r} in depends is not a function, class or object of a class",
                    hint="give values to jobs as arguments",
                )
            else:
                item = type(item)
        items.append(item)
    return items


def check_job_depends(depends: Any, computation: Computation) -> list[Any]:
    """Returns the functions and classes of ``dispy_job_depends``, in order, to be sent with the job.

    Files and modules are left out. Other items, and all items if the computation is a program, are left out with a
    warning.

    Raises:
        UsageError: The value is no list.
    """
    if depends is not None and (isinstance(depends, str) or not isinstance(depends, (list, tuple))):
        raise UsageError(f"dispy_job_depends must be a list, not {type(depends).__name__}")
    items: list[Any] = []
    for item in depends or ():
        try:
            items += check_depends([item])
        except UsageError as error:
            logger.warning(
                "in dispy_job_depends of a job of %s: %s; it is left out", computation.name, error
            )
    if items and computation.is_program:
        logger.warning(
            "%s is a program, and finds no functions: dispy_job_depends is left out", computation.name
        )
        return []
    return items


def noted_computation(name: str, code: bytes, *, is_program: bool) -> Computation:
    """Returns the computation of a dead program, of which its journal has the code: sent as it is, never loaded here.

    Calls were adapted when they were submitted. ``code``: from ``Computation.noted``; empty if there is none.
    """
    made = Computation.__new__(Computation)
    made.name = name
    made.version, made.code, made.portable = payload.unpack_code(code)
    made.known = payload.Known(())
    made.is_mixed = False
    made.program = ""
    made.extensions = []
    made.method = None
    made.is_program = is_program
    made.is_call = False
    made.adapts = False
    return made
