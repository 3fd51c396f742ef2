"""Settings of the interpreter and of C libraries that a job may change, put back before the next job.

A change is noticed at the function that makes it, so a change costs time only in the job that makes it. What a module
sets while it is imported stays, as the module does: the next job finds it imported, and would not have it set again.
"""

from __future__ import annotations

import _locale
import _socket
import _thread
import _tracemalloc
import faulthandler
import functools
import gc
import socket
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any, NamedTuple

_BOOTSTRAP = "<frozen importlib._bootstrap>"
"""File name of the code of Python's import system. A frame of it on the stack tells that a module is being
imported."""


class _Setting(NamedTuple):
    """One setting of the interpreter or of a C library, such as the recursion limit.

    Attributes:
        read: Function that returns the present value.
        put_back: Function that sets a value that ``read`` has returned before.
        functions: Functions that change the setting, each as its module (None if that is not loaded) and its name.
            They are replaced by functions that note the value before the change.
    """

    read: Callable[[], Any]
    put_back: Callable[[Any], object]
    functions: tuple[tuple[Any, str], ...]


class Settings:
    """Watches the settings of this process, and puts back those that a job has changed.

    Making the object replaces the functions that change settings by ones that note the value before the change.
    """

    def __init__(self) -> None:
        self._settings = _all_settings()
        """All settings, in the order in which they are put back; a setting is named by its index here."""
        self.before: dict[int, Any] = {}
        """Values before the change, of the settings that the running job has changed, by index in ``_settings``.
        Empty after most jobs, and then nothing is put back."""
        for place, setting in enumerate(self._settings):
            for module, name in setting.functions:
                if hasattr(module, name):
                    self._watch(module, name, place)

    def forget(self) -> None:
        """Forget the old values, so that the changes up to now stay: those of ``setup`` and of imported modules."""
        self.before.clear()

    def put_back(self) -> bool:
        """Put back all settings that the job has changed; False if one cannot be put back: then no other job may run
        here."""
        try:
            for place in sorted(self.before):
                self._settings[place].put_back(self.before[place])
        except Exception:
            return False
        finally:
            self.before.clear()
        return True

    def _watch(self, module: Any, name: str, place: int) -> None:
        """Replace a function that changes a setting by one that first notes the setting's value. ``place`` is the
        setting's index in ``_settings``. Called for each such function when the object is made."""
        original = getattr(module, name)
        note = self._note

        @functools.wraps(original)
        def watched(*args: Any, **kwargs: Any) -> Any:
            note(place)
            return original(*args, **kwargs)

        is_profiler = module is sys and "setprofile" in name
        setattr(
            module, name, _Frameless(functools.partial(note, place), original) if is_profiler else watched
        )

    def _note(self, place: int) -> None:
        """Note the value of a setting (``place``: its index) before the job's first change of it. A change while a
        module is imported is to stay, so nothing is noted for it."""
        if place not in self.before and not is_importing():
            self.before[place] = self._settings[place].read()


class _Frameless:
    """Stands in for ``sys.setprofile``, and notes each call (``Settings._note``) without a Python frame of its own.

    The return from such a frame would be the first event for the profiler that ``sys.setprofile`` sets, and some
    profilers fail at a return from a function that they have not seen called.
    """

    def __init__(self, note: Callable[[], None], original: Callable[..., Any]) -> None:
        self._note = note
        self._original = original

    @property
    def __call__(self) -> Callable[..., Any]:
        """Note the call and return the original function, which the interpreter then calls with the arguments.

        This is a property: the interpreter reads it at every call of the object.
        """
        self._note()
        return self._original


def is_importing() -> bool:
    """True if the calling code runs because a module is being imported: what it sets stays, as the module does."""
    frame: FrameType | None = sys._getframe(1)  # pyright: ignore[reportPrivateUsage]  # the only way to callers' frames
    while frame is not None:
        if frame.f_code.co_filename == _BOOTSTRAP:
            return True
        frame = frame.f_back
    return False


def _all_settings() -> list[_Setting]:
    """Returns all settings, in the order in which they are put back.

    Tracers and profilers come first: they would otherwise look on while the others are put back. The functions that
    put back are taken here, before they are watched.
    """
    return [*_observers(), *_interpreter(), *_libraries(), *_debuggers()]


def _observers() -> list[_Setting]:
    """Returns the settings of tracers and profilers, of this thread (``sys``) and of new threads (``threading``)."""
    return [
        _Setting(sys.gettrace, sys.settrace, ((sys, "settrace"), (sys, "_settraceallthreads"))),
        _Setting(sys.getprofile, sys.setprofile, ((sys, "setprofile"), (sys, "_setprofileallthreads"))),
        _Setting(
            threading.gettrace,
            threading.settrace,
            ((threading, "settrace"), (threading, "settrace_all_threads")),
        ),
        _Setting(
            threading.getprofile,
            threading.setprofile,
            ((threading, "setprofile"), (threading, "setprofile_all_threads")),
        ),
    ]


def _interpreter() -> list[_Setting]:
    """Returns the settings of the interpreter (recursion limit, switch interval, digits of integers in texts, flags
    of ``dlopen``) and of its garbage collector (on or off, thresholds, debug flags)."""
    set_threshold = gc.set_threshold
    return [
        _Setting(sys.getrecursionlimit, sys.setrecursionlimit, ((sys, "setrecursionlimit"),)),
        _Setting(sys.getswitchinterval, sys.setswitchinterval, ((sys, "setswitchinterval"),)),
        _Setting(
            sys.get_int_max_str_digits, sys.set_int_max_str_digits, ((sys, "set_int_max_str_digits"),)
        ),
        _Setting(sys.getdlopenflags, sys.setdlopenflags, ((sys, "setdlopenflags"),)),
        _Setting(gc.isenabled, _switch(gc.enable, gc.disable), ((gc, "enable"), (gc, "disable"))),
        _Setting(gc.get_threshold, lambda before: set_threshold(*before), ((gc, "set_threshold"),)),
        _Setting(gc.get_debug, gc.set_debug, ((gc, "set_debug"),)),
    ]


def _libraries() -> list[_Setting]:
    """Returns the settings of libraries: locale, time zone, default time-out of sockets, stack size of new
    threads."""
    # ``locale`` takes the function from the module in C when it is imported: it may be already, or may not be yet.
    locale = sys.modules.get("locale")
    set_locale, set_zone = _locale.setlocale, time.tzset
    return [
        _Setting(
            lambda: set_locale(_locale.LC_ALL, None),
            lambda before: set_locale(_locale.LC_ALL, before),
            ((_locale, "setlocale"), (locale, "_setlocale")),
        ),
        # By the variable TZ, which is put back before.
        _Setting(bool, lambda _: set_zone(), ((time, "tzset"),)),
        _Setting(
            socket.getdefaulttimeout,
            socket.setdefaulttimeout,
            ((_socket, "setdefaulttimeout"), (socket, "setdefaulttimeout")),
        ),
        _Setting(
            threading.stack_size,
            threading.stack_size,
            ((_thread, "stack_size"), (threading, "stack_size")),
        ),
    ]


def _debuggers() -> list[_Setting]:
    """Returns the settings of ``tracemalloc`` and ``faulthandler`` (on or off), and of tracebacks that are to be
    dumped later (cancelled)."""
    # ``tracemalloc`` takes the functions from the module in C when it is imported, as ``locale`` does.
    tracemalloc = sys.modules.get("tracemalloc")
    cancel_dump = faulthandler.cancel_dump_traceback_later
    return [
        _Setting(
            _tracemalloc.is_tracing,
            _switch(_tracemalloc.start, _tracemalloc.stop),
            (
                (_tracemalloc, "start"),
                (_tracemalloc, "stop"),
                (tracemalloc, "start"),
                (tracemalloc, "stop"),
            ),
        ),
        _Setting(
            faulthandler.is_enabled,
            _switch(faulthandler.enable, faulthandler.disable),
            ((faulthandler, "enable"), (faulthandler, "disable")),
        ),
        _Setting(bool, lambda _: cancel_dump(), ((faulthandler, "dump_traceback_later"),)),
    ]


def _switch(on: Callable[[], object], off: Callable[[], object]) -> Callable[[bool], object]:
    """Returns a function that sets a setting to True by ``on()`` and to False by ``off()``."""
    return lambda is_on: on() if is_on else off()
