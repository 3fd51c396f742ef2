"""What ``JobCluster`` is given, checked before anything is done with it; old names, and what is not there yet."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

from dispy.client.arguments import (
    check_flag,
    check_hosts,
    check_interval,
    check_path,
    check_port,
    check_text,
    describe,
)
from dispy.client.session.callbacks import check_callback
from dispy.errors import UsageError
from dispy.not_yet import PARAMETERS, not_yet
from dispy.protocol.files import check_path as check_sent_path
from dispy.settings import PULSE_MIN_S


def check_each(**given: Any) -> None:
    """Check parameters that can be judged each by itself.

    Raises:
        UsageError: One that cannot be used, and why.
    """
    for name, value in given.items():
        _CHECKS[name](name, value)


def renamed(value: Any, old: Any, old_name: str, name: str) -> Any:
    """The value of a parameter that may have been given by its old name."""
    if old is None:
        return value
    warnings.warn(f"{old_name} is now called {name}", DeprecationWarning, stacklevel=4)
    return old if value is None else value


def reentrant_or_not(value: Any) -> bool:
    """``reentrant``, which dispy 4 took for False in silence if it was neither True nor False."""
    if isinstance(value, bool):
        return value
    warnings.warn(f"reentrant={value!r} is neither True nor False; False is used", stacklevel=4)
    return False


def check_dest_path(dest_path: Any) -> str:
    """A name for a directory on the nodes, below that of this client; empty for one of its own.

    Raises:
        UsageError: It is none, or leads elsewhere.
    """
    if dest_path is None:
        return ""
    if not isinstance(dest_path, (str, os.PathLike)) or isinstance(os.fspath(dest_path), bytes):
        raise UsageError(f"dest_path must be a text, not {dest_path!r}")
    text = str(os.fspath(dest_path))
    if text.startswith("/"):
        warnings.warn(
            f"dest_path {text!r} is below the directory of this client on the nodes all the same",
            stacklevel=4,
        )
    parts = [part for part in text.split("/") if part not in ("", ".")]
    try:
        check_sent_path("/".join(parts))
    except ValueError as error:
        raise UsageError(f"dest_path cannot be used: {error}", hint="dest_path='project/data'") from None
    return "/".join(parts)


def _check_flag_or_none(name: str, value: Any) -> None:
    if value is not None:
        check_flag(name, value)


def _check_loglevel(name: str, value: Any) -> None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
        raise UsageError(f"{name} must be a number, not {describe(value)}", hint="dispy.logger.DEBUG")


def _check_seed(name: str, value: Any) -> None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 0):
        raise UsageError(
            f"{name} must be a number from 0, not {describe(value)}", hint="leave it out for a random one"
        )


def _check_queued(name: str, value: Any) -> None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
        raise UsageError(
            f"{name} must be a number of jobs from 1, not {describe(value)}",
            hint="leave it out for no bound",
        )


def _calls(*parameters: str) -> Callable[[str, Any], None]:
    return lambda name, value: check_callback(value, name, parameters)


def _refuse(name: str, value: Any) -> None:
    """For what is not there yet: anything but what says that it is not wanted.

    Raises:
        NotYetError: It is wanted.
    """
    if value is not None and value is not False:
        raise not_yet(f"{name}={describe(value)}", PARAMETERS[name])


_CHECKS: dict[str, Callable[[str, Any], object]] = {
    **dict.fromkeys(PARAMETERS, _refuse),
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
    "isolate": check_flag,
    "seed": _check_seed,
    "reseed": check_flag,
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
