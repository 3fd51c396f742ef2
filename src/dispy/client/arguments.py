"""Checks of the arguments that callers pass. Every error names the parameter, its value, and the values it may have.

One place for all public calls; the second half is about ``JobCluster``: old names of its parameters, its options, and
where a cluster must not be made at all.
"""

from __future__ import annotations

import inspect
import os
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from types import FrameType
from typing import Any

from dispy import payload
from dispy.errors import UsageError
from dispy.protocol.files import check_path as check_sent_path
from dispy.settings import PULSE_MAX_S, PULSE_MIN_S
from dispy.system.addresses import resolve
from dispy.system.clock import Clock


def describe(value: Any) -> str:
    """Returns the ``repr`` of a value for a message, cut to 100 characters.

    An object of the user's whose ``repr`` raises is described by its type.
    """
    try:
        text = repr(value)
    except Exception:
        text = f"a {type(value).__name__} that cannot be shown"
    return text if len(text) <= 100 else f"{text[:97]}..."


def warn(text: str, category: type[Warning] = UserWarning) -> None:
    """Issue a warning that names the program's line that called dispy, however deep in dispy this is called.

    Args:
        text: The message.
        category: Class of the warning, by which programs filter warnings.
    """
    level = 1
    frame: FrameType | None = sys._getframe()  # pyright: ignore[reportPrivateUsage]  # the only way to callers' frames
    while frame is not None and frame.f_globals.get("__name__", "").partition(".")[0] == "dispy":
        frame = frame.f_back
        level += 1
    warnings.warn(text, category, stacklevel=level)


# Times.


def check_timeout(value: Any, name: str = "timeout") -> float | None:
    """Check a timeout (seconds), or None for no limit, and turn it into a timeout that every lock accepts.

    Returns:
        Seconds; None for infinity and for more than a lock can count (292 years on Linux); 0 for a negative number.
        Without that some locks refuse endless or negative timeouts, and others give them another meaning.

    Raises:
        UsageError: The value is no number; NaN is none either.
    """
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value != value:
        raise UsageError(
            f"{name} must be a number of seconds, not {describe(value)}",
            hint="leave it out to wait without limit",
        )
    return None if value >= threading.TIMEOUT_MAX else float(max(0, value))


def deadline(timeout: Any, name: str = "timeout", clock: Clock = time) -> float | None:
    """Returns the time at which a wait that begins now has to end (monotonic seconds); None: never.

    Args:
        timeout: What the program has given: seconds from now, or None for no limit.
        name: Name of the parameter, for the error.
        clock: Clock by which the caller waits.

    Raises:
        UsageError: The timeout is neither a number of seconds nor None.
    """
    seconds = check_timeout(timeout, name)
    return None if seconds is None else clock.monotonic() + seconds


def check_interval(name: str, value: Any, least: float) -> None:
    """Check an interval of ``JobCluster``, such as ``pulse_interval``: ``least`` to ``PULSE_MAX_S`` seconds, or None.

    Raises:
        UsageError: The value is no number, or out of this range.
    """
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value <= PULSE_MAX_S:
        raise UsageError(
            f"{name} must be from {least:g} to {PULSE_MAX_S:g} seconds, not {describe(value)}",
            hint="leave it out for the usual one",
        )


# Where dispy is called.

_PATCHERS = (
    ("gevent.monkey", "is_module_patched", "threading"),
    ("eventlet.patcher", "is_monkey_patched", "thread"),
)
"""Libraries that can replace threads by greenlets: (name of a module, name of its function that returns True if the
library has done so, argument of that function). ``check_threads`` refuses to go on then."""


def check_threads() -> None:
    """Check that ``threading`` gives real threads.

    As a greenlet, dispy's background thread would let no other greenlet run, and the whole program would hang.

    Raises:
        UsageError: gevent or eventlet has patched ``threading``.
    """
    for name, asked, what in _PATCHERS:
        is_patched = getattr(sys.modules.get(name), asked, None)
        if is_patched is not None and is_patched(what):
            package = name.partition(".")[0]
            raise UsageError(
                f"{package} has patched threading, and dispy needs real threads",
                hint=f"{package}.monkey.patch_all(thread=False)"
                if package == "gevent"
                else f"{package}.monkey_patch(thread=False)",
            )


def check_place() -> None:
    """Check that a cluster can be made here: threads are real, and the script is not merely being imported.

    A script that makes a cluster whenever it is imported would start itself over and over.

    Raises:
        UsageError: ``threading`` is patched; or ``multiprocessing`` imports the script in a process that it has
            started; or a node imports it as a module that a computation needs.
    """
    check_threads()
    process = sys.modules.get("multiprocessing.process")
    if process is not None and getattr(process.current_process(), "_inheriting", False):
        raise UsageError(
            "a cluster is made by a process that multiprocessing starts, which runs the script once more",
            hint="guard what the script does with 'if __name__ == \"__main__\":'",
        )
    if payload.is_importing():
        raise UsageError(
            "a cluster is made by a module that is imported on a node",
            hint="make it in a function, or below 'if __name__ == \"__main__\":'",
        )


# Single values.


def check_flag(name: str, value: Any) -> bool:
    """Check that a flag is True or False, and no other value that only counts as one of them. Returns the flag.

    Raises:
        UsageError: The value is not a bool.
    """
    if not isinstance(value, bool):
        raise UsageError(
            f"{name} must be True or False, not {describe(value)}", hint=f"{name}=True, or leave it out"
        )
    return value


def check_text(name: str, value: Any, hint: str) -> None:
    """Check that the value of a parameter is a text.

    Args:
        name: Name of the parameter, for the error.
        value: The value.
        hint: Advice at the end of the error.

    Raises:
        UsageError: The value is not a str.
    """
    if not isinstance(value, str):
        raise UsageError(f"{name} must be a text, not {describe(value)}", hint=hint)


def check_path(name: str, value: Any) -> None:
    """Check that a value is a path or None. The file need not exist.

    Raises:
        UsageError: The value has another type.
    """
    if value is not None and not isinstance(value, (str, os.PathLike)):
        raise UsageError(f"{name} must be a path, not {describe(value)}", hint=f"{name}='path/of/the/file'")


def check_hosts(name: str, hosts: Any) -> None:
    """Check a parameter that names one host or several, by name or address; None or an empty text: no host.

    Names are resolved, which may take seconds. The addresses are not used: such parameters have no effect any more.

    Raises:
        UsageError: The value has another type, or a name cannot be resolved.
    """
    if hosts == "":
        return
    if hosts is not None and not isinstance(hosts, (str, list, tuple)):
        hosts = [hosts]
    for address in [hosts] if isinstance(hosts, str) else hosts or []:
        if not isinstance(address, str):
            raise UsageError(
                f"{name} must be a name or an address, or a list of them, not {describe(address)}",
                hint="leave it out: clients listen nowhere",
            )
        resolve(address)


def check_port(name: str, port: Any) -> None:
    """Check ``dispy_port`` or ``node_port``: 1 to 64999, so that the ports after it exist, too; None: not given.

    Raises:
        UsageError: The value is no number, or out of this range.
    """
    if port is not None and (isinstance(port, bool) or not isinstance(port, int) or not 0 < port < 65000):
        raise UsageError(
            f"{name} must be a port number from 1 to 64999, not {describe(port)}",
            hint="leave it out for the usual one",
        )


def check_callback(callback: Any, name: str, parameters: tuple[str, ...]) -> None:
    """Check that a callback can be called with one positional argument for each of ``parameters``.

    None, for no callback, passes; so does a callable whose signature cannot be read (many written in C).

    Args:
        callback: The value that the program gives.
        name: Name of the parameter of ``JobCluster``, for the error.
        parameters: Names of the arguments that dispy passes, in their order; also shown in the error.

    Raises:
        UsageError: The value is not callable, or not with these arguments.
    """
    if callback is None:
        return
    if not callable(callback):
        raise UsageError(
            f"{name} must be callable, not {callback!r:.100}", hint=f"{name}=function, without parentheses"
        )
    try:
        signature = inspect.signature(callback)
    except (TypeError, ValueError):
        return
    try:
        signature.bind(*parameters)
    except TypeError as error:
        wanted = ", ".join(parameters)
        raise UsageError(
            f"{name} cannot be called with ({wanted}): {error}", hint=f"def {name}({wanted}): ..."
        ) from error


# Parameters of ``JobCluster``.


def renamed(value: Any, old: Any, old_name: str, name: str) -> Any:
    """Returns the value of a parameter that programs may give by its old name, too.

    If ``old`` is not None a ``DeprecationWarning`` names the new one. If both are given ``value`` wins.

    Args:
        value: Value given by the new name; None: not given.
        old: Value given by the old name; None: not given.
        old_name: The old name, for the warning.
        name: The new name, for the warning.
    """
    if old is None:
        return value
    warn(f"{old_name} is now called {name}", DeprecationWarning)
    return old if value is None else value


def reentrant_or_not(value: Any) -> bool:
    """Returns ``reentrant``; False, with a warning, if that is no bool, which dispy 4 took for False, silently."""
    if isinstance(value, bool):
        return value
    warn(f"reentrant={value!r} is neither True nor False; False is used")
    return False


def check_dest_path(dest_path: Any) -> str:
    """Check ``dest_path``, the working directory on nodes, relative to the directory of this user there.

    Returns:
        The path, relative, with single slashes between the names of directories. Empty for None: the cluster gets a
        directory of its own.

    Raises:
        UsageError: The value is no text, or leads out of the directory of this user.
    """
    if dest_path is None:
        return ""
    if not isinstance(dest_path, (str, os.PathLike)) or isinstance(os.fspath(dest_path), bytes):
        raise UsageError(f"dest_path must be a text, not {dest_path!r}")
    text = str(os.fspath(dest_path))
    if text.startswith("/"):
        warn(f"dest_path {text!r} is below the directory of this user on the nodes all the same")
    parts = [part for part in text.split("/") if part not in ("", ".")]
    try:
        check_sent_path("/".join(parts))
    except ValueError as error:
        raise UsageError(f"dest_path cannot be used: {error}", hint="dest_path='project/data'") from None
    return "/".join(parts)


def check_setup(per: Any, timeout: Any, is_isolated: bool) -> None:
    """Check ``setup_per`` and ``setup_timeout`` of a cluster.

    Args:
        per: The value of ``setup_per``.
        timeout: The value of ``setup_timeout``: seconds above 0, or None for no limit.
        is_isolated: True if each job runs in a process of its own, which rules out ``setup_per="worker"``.

    Raises:
        UsageError: One of them cannot be used, or not with isolated jobs.
    """
    if per not in ("node", "worker"):
        raise UsageError(f"setup_per must be 'node' or 'worker', not {per!r}")
    if per == "worker" and is_isolated:
        raise UsageError(
            "isolate=True forks a process for each job, which what needs setup_per='worker' does not survive",
            hint="leave isolate out, or let each job do what setup does",
        )
    is_number = isinstance(timeout, (int, float)) and not isinstance(timeout, bool)
    if timeout is not None and not (is_number and 0 < timeout <= 1e9):
        raise UsageError(f"setup_timeout must be a number of seconds, not {timeout!r}")


def check_each(**given: Any) -> None:
    """Check the values of parameters of ``JobCluster`` that do not depend on each other, in the order given.

    Args:
        given: Value by name of the parameter. Each name must be in ``_CHECKS``.

    Raises:
        UsageError: A value cannot be used; says which and why. The parameters after it are not checked.
    """
    for name, value in given.items():
        _CHECKS[name](name, value)


def _check_flag_or_none(name: str, value: Any) -> None:
    """Refuse (``UsageError``) a value that is neither True, False nor None; None leaves the choice to dispy."""
    if value is not None:
        check_flag(name, value)


def _check_loglevel(name: str, value: Any) -> None:
    """Refuse (``UsageError``) a value that is no level of ``logging`` (a number); None, for no change, passes."""
    if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
        raise UsageError(f"{name} must be a number, not {describe(value)}", hint="dispy.logger.DEBUG")


def _check_seed(name: str, value: Any) -> None:
    """Refuse (``UsageError``) a seed that is no whole number from 0; None, for a random one, passes."""
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 0):
        raise UsageError(
            f"{name} must be a number from 0, not {describe(value)}", hint="leave it out for a random one"
        )


def _check_queued(name: str, value: Any) -> None:
    """Refuse (``UsageError``) a value that is no number of jobs from 1; None, for no bound, passes."""
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
        raise UsageError(
            f"{name} must be a number of jobs from 1, not {describe(value)}",
            hint="leave it out for no bound",
        )


def check_results(name: str, value: Any) -> None:
    """Check ``results``, the kind of data that a program takes from nodes.

    Raises:
        UsageError: The value is neither "any" nor "plain".
    """
    if value not in ("any", "plain"):
        raise UsageError(
            f"{name} must be 'any' or 'plain', not {describe(value)}",
            hint=f"{name}='plain' if nodes must not run code in this program, or leave it out",
        )


def _calls(*parameters: str) -> Callable[[str, Any], None]:
    """Returns a check for ``_CHECKS``: that a callback can be called with arguments for these parameters."""
    return lambda name, value: check_callback(value, name, parameters)


_CHECKS: dict[str, Callable[[str, Any], object]] = {
    "ipv4_udp_multicast": check_flag,
    "recover_file": check_path,
    "secret_file": check_path,
    "certfile": check_path,
    "keyfile": check_path,
    "cafile": check_path,
    "ping_interval": partial(check_interval, least=1),
    "poll_interval": partial(check_interval, least=5),
    "pulse_interval": partial(check_interval, least=PULSE_MIN_S),
    "host": check_hosts,
    "ext_host": check_hosts,
    "dispy_port": check_port,
    "node_port": check_port,
    "scheduler_host": partial(check_text, hint="a host name or an address"),
    "scheduler_port": check_port,
    "isolate": check_flag,
    "seed": _check_seed,
    "reseed": check_flag,
    "results": check_results,
    "exclusive": check_flag,
    "durable": check_flag,
    "tls": _check_flag_or_none,
    "loglevel": _check_loglevel,
    "secret": partial(check_text, hint="the text that nodes were given with --secret"),
    "max_queued": _check_queued,
    "job_status": _calls("job"),
    "cluster_status": _calls("status", "node", "job"),
    "job_output": _calls("job", "stream", "text"),
}
"""Checks for ``check_each``, by name of a parameter of ``JobCluster``: functions of the name and the value given that
raise a ``DispyError`` if the value cannot be used."""


def tuples_of(items: Iterator[Any]) -> Iterator[tuple[Any, ...]]:
    """Yield the items of ``starmap`` as tuples.

    Raises:
        UsageError: An item is no tuple of arguments.
    """
    for number, item in enumerate(items):
        if type(item) is tuple:
            yield item
        elif isinstance(item, (str, bytes, dict)) or not hasattr(item, "__iter__"):
            hint = "cluster.map passes each item as the only argument"
            if isinstance(item, dict):
                hint += ": give it a function that calls yours with **item"
            raise UsageError(
                f"item {number} of starmap must be a tuple of arguments, not {describe(item)}", hint=hint
            )
        else:
            yield tuple(item)
