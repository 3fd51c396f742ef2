"""Settings of the interpreter and its libraries that a job changes: what the next job in that worker sees of them."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from sys import setrecursionlimit
from typing import Any

import numpy
import pytest

import dispy

from .conftest import MakeCluster, StartNode

PUT_BACK = {
    "recursion limit": ("sys.setrecursionlimit(5432)", "sys.getrecursionlimit()"),
    "switch interval": ("sys.setswitchinterval(0.5)", "sys.getswitchinterval()"),
    "digits of integers": ("sys.set_int_max_str_digits(0)", "sys.get_int_max_str_digits()"),
    "flags of dlopen": ("sys.setdlopenflags(os.RTLD_LAZY | os.RTLD_GLOBAL)", "sys.getdlopenflags()"),
    "trace": ("sys.settrace(lambda *_: None)", "sys.gettrace() is None"),
    "trace of debugger": ("import bdb; bdb.Bdb().set_trace()", "sys.gettrace() is None"),
    "profile": ("sys.setprofile(lambda *_: None)", "sys.getprofile() is None"),
    "trace of threads": ("threading.settrace(print)", "threading.gettrace() is None"),
    "profile of threads": ("threading.setprofile(print)", "threading.getprofile() is None"),
    "collection": ("gc.disable()", "gc.isenabled()"),
    "thresholds": ("gc.set_threshold(1, 2, 3)", "gc.get_threshold()"),
    "collection debugged": ("gc.set_debug(gc.DEBUG_SAVEALL)", "gc.get_debug()"),
    "locale": (
        "import locale; locale.setlocale(locale.LC_CTYPE, 'C')",
        "__import__('_locale').setlocale(__import__('_locale').LC_ALL, None)",
    ),
    "locale in C": (
        "import _locale; _locale.setlocale(_locale.LC_CTYPE, 'C')",
        "__import__('locale').setlocale(__import__('locale').LC_ALL)",
    ),
    "time zone": (
        "os.environ['TZ'] = 'Asia/Tokyo'; time.tzset()",
        "time.tzname, time.timezone, time.localtime(0)[:5], os.environ.get('TZ')",
    ),
    "time zone by C": (
        "os.environ['TZ'] = 'XYZ-11'; time.strftime('%c', time.localtime(time.mktime(time.localtime())))",
        "time.strftime('%z', time.localtime(0)), time.localtime(0)[:5]",
    ),
    "temporary directory": (
        "os.environ['TMPDIR'] = os.getcwd(); tempfile.tempdir = None; tempfile.gettempdir()",
        "tempfile.gettempdir()",
    ),
    "timeout of sockets": ("socket.setdefaulttimeout(0.5)", "socket.getdefaulttimeout()"),
    "stack of threads": ("threading.stack_size(1 << 20)", "threading.stack_size()"),
    "memory traced": ("import tracemalloc; tracemalloc.start()", "__import__('_tracemalloc').is_tracing()"),
    "fault handler": ("faulthandler.enable()", "faulthandler.is_enabled()"),
    "filters in another order": (
        "warnings.filters.append(warnings.filters.pop(0))",
        "[str(item) for item in warnings.filters]",
    ),
    "decimals": ("decimal.getcontext().prec = 5", "decimal.getcontext().prec"),
    "context of decimals": ("decimal.setcontext(decimal.Context(prec=3))", "decimal.getcontext().prec"),
    "errors of numpy": ("import numpy; numpy.seterr(all='raise')", "__import__('numpy').geterr()"),
    "start method": (
        "import multiprocessing; multiprocessing.set_start_method('spawn')",
        "__import__('multiprocessing').get_start_method(allow_none=True)",
    ),
    "start method used": (
        "import multiprocessing; multiprocessing.Lock()",
        "__import__('multiprocessing').get_start_method(allow_none=True)",
    ),
}
"""Changes that a job makes, and how the next one looks for them."""
if int(numpy.__version__.partition(".")[0]) < 2:
    del PUT_BACK["errors of numpy"]  # kept for each thread, and not in the context

STAYS = {
    "path": ("sys.path.append('/stays')", "sys.path[-1]"),
    "arguments": ("sys.argv.append('stays')", "sys.argv[-1]"),
    "hook": ("sys.excepthook = print", "sys.excepthook is print"),
    "bytecode": ("sys.dont_write_bytecode = not sys.dont_write_bytecode", "sys.dont_write_bytecode"),
    "logging": (
        "logging.getLogger().setLevel(5); logging.disable(3)",
        "logging.getLogger().level, logging.root.manager.disable",
    ),
    "shown warnings": ("warnings.showwarning = print", "warnings.showwarning is print"),
    "random numbers": (
        "random.seed(5)",
        "[random.setstate(state := random.getstate()), random.Random(5).getstate() == state]",
    ),
    "temporary directory": ("tempfile.tempdir = os.getcwd()", "tempfile.tempdir"),
    "defaults of decimals": ("decimal.DefaultContext.Emax = 77", "decimal.DefaultContext.Emax"),
    "policy": (
        "import asyncio; asyncio.set_event_loop_policy(asyncio.DefaultEventLoopPolicy())",
        "getattr(sys.modules.get('asyncio.events'), '_event_loop_policy', None) is None",
    ),
}
"""Changes of names and objects in modules, which stay, as docs/explanation/between-jobs.md says."""


def do(change: str, look: str) -> tuple[int, Any, Any]:
    """Change and look again; returns the pid, too, by which a worker is known."""
    modules = {name: __import__(name) for name in NEEDED}
    before = eval(look, modules)
    if change:
        exec(change, modules)
    return os.getpid(), before, eval(look, modules)


NEEDED = [
    "decimal", "faulthandler", "gc", "logging", "os", "random", "signal", "socket", "sys", "tempfile", "threading",
    "time", "warnings",
]  # fmt: skip


def test_settings_are_put_back(make_cluster: MakeCluster, start_node: StartNode) -> None:
    """In the same worker: nothing of it costs a new one."""
    start_node("--cpus", "1")
    cluster = make_cluster(do)
    faults = {}
    for name, (change, look) in PUT_BACK.items():
        changed, looked = cluster.submit(change, look), cluster.submit("", look)
        if changed() is None or looked() is None:
            faults[name] = changed.exception or looked.exception
            continue
        (pid, before, after), (next_pid, now, _) = changed(), looked()
        if after == before:
            faults[name] = f"{change} changes nothing of {before}"
        elif (next_pid, now) != (pid, before):
            faults[name] = f"{before} is {now} in the next job; process {pid} and then {next_pid}"
    assert faults == {}


def test_settings_are_put_back_within_a_batch(make_cluster: MakeCluster, start_node: StartNode) -> None:
    start_node("--cpus", "1")
    cluster = make_cluster(do)
    cluster.submit("", "0")()
    jobs = [
        (name, cluster.submit(change, look)) for name, (change, look) in PUT_BACK.items() for _ in range(3)
    ]
    seen: dict[str, set[str]] = {}
    for name, job in jobs:
        assert job() is not None, (name, job.exception)
        seen.setdefault(name, set()).add(repr(job()[1]))
    assert {name: values for name, values in seen.items() if len(values) > 1} == {}


def test_names_and_objects_of_modules_stay(make_cluster: MakeCluster, start_node: StartNode) -> None:
    start_node("--cpus", "1")
    cluster = make_cluster(do)
    faults = {}
    for name, (change, look) in STAYS.items():
        changed, looked = cluster.submit(change, look), cluster.submit("", look)
        if changed() is None or looked() is None:
            faults[name] = changed.exception or looked.exception
        elif changed()[1] == changed()[2] or looked()[1] != changed()[2]:
            faults[name] = f"{changed()[1:]}, and then {looked()[1]}"
    assert faults == {}


def limit(change: bool) -> int:
    if change:
        setrecursionlimit(7654)
    return sys.getrecursionlimit()


def test_functions_that_code_has_imported_by_name_are_watched(
    make_cluster: MakeCluster, start_node: StartNode
) -> None:
    start_node("--cpus", "1")
    cluster = make_cluster(limit)
    before = cluster.submit(False)()
    assert cluster.submit(True)() == 7654
    assert cluster.submit(False)() == before


def import_settler(what: str) -> tuple[int, str | None]:
    if what == "import":
        with open("settler.py", "w") as file:
            file.write("import os, sys\nsys.setrecursionlimit(4321)\nos.environ['SETTLED'] = 'set'\n")
        import settler  # type: ignore[import-not-found]  # noqa: F401
    elif what == "change":
        sys.setrecursionlimit(2000)
        os.environ["SETTLED"] = "changed"
    return sys.getrecursionlimit(), os.environ.get("SETTLED")


def test_what_a_module_sets_as_it_is_imported_stays_with_it(
    make_cluster: MakeCluster, start_node: StartNode
) -> None:
    """The next job finds the module imported, and relies on what that has set."""
    start_node("--cpus", "1")
    cluster = make_cluster(import_settler)
    assert cluster.submit("import")() == (4321, "set")
    assert cluster.submit("look")() == (4321, "set")
    assert cluster.submit("change")() == (2000, "changed")
    assert cluster.submit("look")() == (4321, "set")


def prepare() -> None:
    import contextvars
    import decimal
    import gc
    import multiprocessing

    global variable
    variable = contextvars.ContextVar("variable", default=0)
    variable.set(1)
    gc.disable()
    sys.setrecursionlimit(3333)
    multiprocessing.set_start_method("spawn")
    decimal.setcontext(decimal.Context(prec=7))


def change_prepared(what: str) -> list[Any]:
    import decimal
    import gc
    import multiprocessing

    if what == "change":
        variable.set(2)
        gc.enable()
        sys.setrecursionlimit(4444)
        multiprocessing.set_start_method("fork", force=True)
        decimal.setcontext(decimal.Context(prec=9))
    elif what == "array":
        import numpy

        variable.set(numpy.zeros(3))
    seen = variable.get()
    return [
        seen if isinstance(seen, int) else "array",
        gc.isenabled(),
        sys.getrecursionlimit(),
        multiprocessing.get_start_method(),
        decimal.getcontext().prec,
        os.getpid(),
    ]


@pytest.mark.parametrize("per", ["node", "worker"])
def test_what_setup_has_set_is_what_jobs_find(
    make_cluster: MakeCluster, start_node: StartNode, per: str
) -> None:
    start_node("--cpus", "1")
    cluster = make_cluster(change_prepared, setup=prepare, setup_per=per)
    *first, pid = cluster.submit("look")()
    assert first == [1, False, 3333, "spawn", 7]
    assert cluster.submit("change")() == [2, True, 4444, "fork", 9, pid]
    for _ in range(2):
        assert cluster.submit("look")() == [*first, pid]
        assert cluster.submit("array")() == ["array", *first[1:], pid]


def run_loop(how: str) -> Any:
    import asyncio

    if how == "run":
        return asyncio.run(asyncio.sleep(0, 1))
    loop = asyncio.get_event_loop()
    result = loop.run_until_complete(asyncio.sleep(0, id(loop) if how == "keep" else 1))
    if how == "close":
        loop.close()
    return result


@pytest.mark.skipif(
    sys.version_info >= (3, 14), reason="loops are not made any more when they are asked for"
)
def test_a_job_has_an_event_loop_whatever_became_of_the_last(
    make_cluster: MakeCluster, start_node: StartNode
) -> None:
    start_node("--cpus", "1")
    cluster = make_cluster(run_loop)
    jobs = [cluster.submit(how) for how in ("close", "close", "run", "close", "run", "run", "close")]
    assert [job() for job in jobs] == [1] * 7, [job.exception for job in jobs]
    loops = {cluster.submit("keep")() for _ in range(3)}
    assert len(loops) == 1, "one that is open is the worker's"
    assert None not in loops


def profile() -> Any:
    import profile as pure

    return pure.Profile().runcall(abs, -2)


def test_profilers_see_what_they_expect(make_cluster: MakeCluster, start_node: StartNode) -> None:
    """They fail at the return from a function that they have not seen called."""
    start_node("--cpus", "1")
    cluster = make_cluster(profile)
    for _ in range(2):
        job = cluster.submit()
        assert job() == 2, job.exception


def dump_later(what: str, path: str) -> bool:
    import faulthandler
    import time

    if what == "dump":
        with open(path, "w") as file:
            faulthandler.dump_traceback_later(0.05, exit=True, file=file)
            return True
    time.sleep(0.2)
    return True


def test_a_watchdog_does_not_bite_the_next_job(
    make_cluster: MakeCluster, start_node: StartNode, tmp_path: Path
) -> None:
    start_node("--cpus", "1")
    cluster = make_cluster(dump_later)
    path = str(tmp_path / "dump")
    assert cluster.submit("dump", path)()
    waits = cluster.submit("wait", path)
    assert waits(), waits.exception
    assert waits.status == dispy.DispyJob.Finished
