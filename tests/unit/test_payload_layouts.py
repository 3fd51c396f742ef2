"""Programs in every layout: what they send runs where nothing of their files is.

Each program is a row: its files, and the words that start it. It prints what ``work`` gives in it and writes the
computation into a file; then its directory is removed, and another process loads the file and calls ``work``.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent
from typing import NamedTuple

import pytest

SEND = """
if __name__ in ("__main__", "started"):
    import os
    from dispy import payload
    with open(os.environ["SENT"], "wb") as file:
        file.write(payload.dump_code(work, []).data)
    print(repr(work()))
"""
"""Ends each program."""

LOAD = """
import os, sys
from dispy import payload

finder = payload.begin_worker(os.path.abspath("modules"), os.path.abspath("work"))
with open(os.environ["SENT"], "rb") as file:
    code = payload.load_code(file.read())
print(repr(code.function()))
print("; ".join(finder.warnings), file=sys.stderr)
"""


class Row(NamedTuple):
    """A program.

    Attributes:
        files: By path; ``SEND`` is added to those that end with "SEND".
        start: Words after the interpreter.
        directory: Current one, relative to the program's.
        path: Added to PYTHONPATH, relative to the program's directory.
        prepare: Called with the directory before the program is started.
    """

    files: dict[str, str]
    start: tuple[str, ...] = ("main.py",)
    directory: str = "."
    path: str = ""
    prepare: Callable[[Path], object] = lambda _: None


def with_compiled_parts(directory: Path) -> None:
    """Leave a library with compiled parts in a place of its own, which stays."""
    vendor = directory.parent / "vendor"
    (vendor / "tool").mkdir(parents=True)
    (vendor / "tool" / "__init__.py").write_text(LOCKED)
    (vendor / "tool" / "fast.so").write_text("")
    (vendor / "tool-1.0.dist-info").mkdir()
    (vendor / "tool-1.0.dist-info" / "RECORD").write_text("tool/__init__.py,,\n")


def compile_only(directory: Path) -> None:
    """Leave compiled code alone of ``helpers``."""
    subprocess.run(
        [sys.executable, "-m", "compileall", "-q", "-b", "helpers.py"], cwd=directory, check=True
    )
    (directory / "helpers.py").unlink()


def as_zipapp(directory: Path) -> None:
    """Pack the program into an archive."""
    with zipfile.ZipFile(directory / "app.pyz", "w") as archive:
        for name in ("__main__.py", "helpers.py", "pkg/__init__.py", "pkg/inner.py"):
            archive.write(directory / name, name)


WORK = "def work():\n    return helpers.f(1)\nSEND"
IN_FUNCTION = "def work():\n    import helpers\n    return helpers.f(1)\nSEND"
HELPERS = "N = 10\ndef f(x):\n    return x + N\n"
LOCKED = "import threading, logging\nlock = threading.Lock()\nlog = logging.getLogger(__name__)\n" + HELPERS
PACKAGE = {
    "pkg/__init__.py": "from .a import one\nNAME = __name__\n",
    "pkg/a.py": "from . import b\ndef one(x):\n    return b.two(x) + 1\n",
    "pkg/b.py": "from .sub import deep\ndef two(x):\n    return deep.three(x) * 2\n",
    "pkg/sub/__init__.py": "",
    "pkg/sub/deep.py": "from ... import pkg as _\nfrom ..c import FACTOR\ndef three(x):\n    return x * FACTOR\n",
    "pkg/c.py": "FACTOR = 7\n",
}
PACKAGE["pkg/sub/deep.py"] = "from ..c import FACTOR\ndef three(x):\n    return x * FACTOR\n"

ROWS = {
    "flat": Row({"main.py": "import helpers\n" + WORK, "helpers.py": LOCKED}),
    "flat, imported in the function": Row({"main.py": IN_FUNCTION, "helpers.py": LOCKED}),
    "from import": Row({"main.py": "from helpers import f\ndef work():\n    return f(1)\nSEND", "helpers.py": LOCKED}),
    "from import of a lock": Row({
        "main.py": "from helpers import lock, f\ndef work():\n    with lock:\n        return f(1)\nSEND",
        "helpers.py": LOCKED,
    }),
    "a module of a module": Row({
        "main.py": "import helpers\ndef work():\n    return helpers.other.g(1)\nSEND",
        "helpers.py": "import other\n",
        "other.py": "import threading\nlock = threading.RLock()\ndef g(x):\n    return x + 3\n",
    }),
    "package": Row({"main.py": "import pkg\ndef work():\n    return pkg.one(1), pkg.NAME\nSEND", **PACKAGE}),
    "submodule": Row({"main.py": "import pkg.sub.deep\ndef work():\n    return pkg.sub.deep.three(1)\nSEND", **PACKAGE}),
    "-m, relative imports": Row(
        {**PACKAGE, "pkg/run.py": "from . import a\nfrom .c import FACTOR\ndef work():\n    from .b import two\n"
         "    from . import sub\n    return a.one(1), two(2), FACTOR, sub.__name__, __package__\nSEND"},
        ("-m", "pkg.run"),
    ),
    "-m of a package": Row({**PACKAGE, "pkg/__main__.py": "from .a import one\ndef work():\n    return one(1)\nSEND"},
                           ("-m", "pkg")),
    "a directory": Row({"app/__main__.py": "import helpers\n" + WORK, "app/helpers.py": LOCKED}, ("app",)),
    "zipapp": Row(
        {"__main__.py": "import helpers\nfrom pkg.inner import g\ndef work():\n    from pkg import inner\n"
         "    return helpers.f(1), g(2), inner.g(3)\nSEND",
         "helpers.py": LOCKED, "pkg/__init__.py": "", "pkg/inner.py": "def g(x):\n    return -x\n"},
        ("app.pyz",), prepare=as_zipapp,
    ),
    "src layout": Row(
        {"src/proj/__init__.py": "", "src/proj/core.py": LOCKED, "run.py": "from proj import core\n"
         "def work():\n    return core.f(1)\nSEND"}, ("run.py",), path="src",
    ),
    "the function is in a package": Row(
        {"src/proj/__init__.py": "", "src/proj/core.py": "from . import util\ndef work():\n    return util.f(1), __name__\n",
         "src/proj/util.py": LOCKED, "run.py": "from proj.core import work\nSEND"}, ("run.py",), path="src",
    ),
    "namespace package": Row({"main.py": "import ns.part\ndef work():\n    return ns.part.f(1)\nSEND",
                              "ns/part.py": LOCKED}),
    "namespace package in two places": Row(
        {"main.py": "from ns import one, two\ndef work():\n    return one.f(1), two.f(2)\nSEND",
         "ns/one.py": LOCKED, "lib/ns/two.py": HELPERS}, path="lib",
    ),
    "namespace package, imported in the function": Row(
        {"main.py": "def work():\n    from ns.part import f\n    return f(1)\nSEND", "ns/part.py": LOCKED}),
    "circular imports": Row({
        "main.py": "import one\ndef work():\n    return one.f(3)\nSEND",
        "one.py": "import two\ndef f(n):\n    return 0 if n == 0 else two.g(n - 1) + 1\n",
        "two.py": "import one\ndef g(n):\n    return one.f(n) + 10\n",
    }),
    "named as one of the library": Row({
        "main.py": "import code, statistics\ndef work():\n    return code.f(1), statistics.f(2)\nSEND",
        "code.py": HELPERS, "statistics.py": HELPERS,
    }),
    "named as one of the library, imported in the function": Row({
        "main.py": "def work():\n    import code\n    return code.f(1)\nSEND", "code.py": HELPERS}),
    "named as a module that the worker has": Row({
        "main.py": "import traceback, json\ndef work():\n    return traceback.f(1), json.f(2)\nSEND",
        "traceback.py": HELPERS, "json.py": HELPERS,
    }),
    "loads lazily": Row({
        "main.py": "import lazy\ndef work():\n    return lazy.heavy.f(1)\nSEND",
        "lazy/__init__.py": "import importlib\ndef __getattr__(name):\n    if name.startswith('__'):\n"
        "        raise AttributeError(name)\n    return importlib.import_module(f'{__name__}.{name}')\n",
        "lazy/heavy.py": HELPERS,
    }),
    "loads lazily, imported in the function": Row({
        "main.py": "def work():\n    import lazy\n    return lazy.heavy.f(1)\nSEND",
        "lazy/__init__.py": "import importlib\ndef __getattr__(name):\n    if name.startswith('__'):\n"
        "        raise AttributeError(name)\n    return importlib.import_module(f'.{name}', __name__)\n",
        "lazy/heavy.py": HELPERS,
    }),
    "compiled code alone": Row({"main.py": "import helpers\n" + WORK, "helpers.py": LOCKED}, prepare=compile_only),
    "compiled code alone, imported in the function": Row(
        {"main.py": IN_FUNCTION, "helpers.py": LOCKED}, prepare=compile_only),
    "-c": Row({"helpers.py": LOCKED}, ("-c", "import helpers\n" + WORK.replace("SEND", SEND))),
    "run by runpy": Row({
        "start.py": "import runpy\nrunpy.run_path('main.py', run_name='started')\n",
        "main.py": "import helpers\n" + WORK, "helpers.py": LOCKED,
    }, ("start.py",)),
    "run as a module by runpy": Row({
        "start.py": "import runpy\nrunpy.run_module('pkg.run', run_name='__main__', alter_sys=True)\n",
        **PACKAGE, "pkg/run.py": "from .a import one\ndef work():\n    return one(4)\nSEND",
    }, ("start.py",)),
    "executed text": Row({
        "main.py": "N = 1\nspace = {'__name__': 'made'}\nexec('M = 2\\ndef inner(x):\\n    return x + M', space)\n"
        "inner = space['inner']\ndef work():\n    return inner(N)\nSEND",
    }),
    "a module made while running": Row({
        "main.py": "import sys, types\nmade = types.ModuleType('made')\nexec('K = 4\\ndef f(x):\\n    return x * K', vars(made))\n"
        "sys.modules['made'] = made\nfrom made import f\ndef work():\n    import made\n    return f(2), made.f(3)\nSEND",
    }),
    "submodules that others have imported": Row({
        "main.py": "import lib, pkg.a, xml.dom.minidom\ndef work():\n    return lib.f(), lib.g()\nSEND",
        "lib.py": "import pkg, xml\ndef f():\n    return pkg.a.V\ndef g():\n    return xml.dom.minidom.__name__\n",
        "pkg/__init__.py": "", "pkg/a.py": "V = 'a'\n",
    }),
    "two modules of one name": Row({
        "main.py": "import sys\nsys.path.insert(0, 'a')\nimport lib as one\ndel sys.modules['lib']\nsys.path[0] = 'b'\n"
        "import lib as two\nf1 = one.f\ndef work():\n    return one.f(), two.f(), f1(), one.V, two.V\nSEND",
        "a/lib.py": "V = 'a'\ndef f():\n    return V\n", "b/lib.py": "V = 'b'\ndef f():\n    return V\n",
    }),
    "an object in the place of a module": Row({
        "main.py": "import sys, helpers\nclass Odd:\n    __slots__ = ()\nsys.modules['odd'] = Odd()\n" + WORK,
        "helpers.py": LOCKED,
    }),
    "loaded by its path": Row({
        "main.py": "import importlib.util, sys\nspec = importlib.util.spec_from_file_location('plugin', 'plugins/p.py')\n"
        "plugin = importlib.util.module_from_spec(spec)\nspec.loader.exec_module(plugin)\n"
        "def work():\n    return plugin.f(1)\nSEND", "plugins/p.py": HELPERS,
    }),
    "loaded by its path and registered": Row({
        "main.py": "import importlib.util, sys\nspec = importlib.util.spec_from_file_location('plugin', 'plugins/p.py')\n"
        "plugin = importlib.util.module_from_spec(spec)\nsys.modules['plugin'] = plugin\nspec.loader.exec_module(plugin)\n"
        "def work():\n    return plugin.f(1)\nSEND", "plugins/p.py": LOCKED,
    }),
    "path added by the program": Row({
        "main.py": "import sys\nsys.path.insert(0, 'vendor')\nimport tool\ndef work():\n    return tool.f(1)\nSEND",
        "vendor/tool.py": LOCKED,
    }),
    "pip install --target": Row({
        "main.py": "import sys\nsys.path.insert(0, 'vendor')\nimport tool\ndef work():\n    return tool.f(1)\nSEND",
        "vendor/tool/__init__.py": LOCKED, "vendor/tool-1.0.dist-info/RECORD": "tool/__init__.py,,\n",
    }),
    "pip install --target with compiled parts": Row({
        "main.py": "import sys\nsys.path.insert(0, '../vendor')\nimport tool\ndef work():\n    return tool.f(1)\nSEND",
    }, prepare=with_compiled_parts),
    "in a directory called dist-packages": Row({
        "main.py": "import tool\ndef work():\n    return 11\nSEND", "dist-packages/tool.py": LOCKED,
    }, path="dist-packages"),
    "reads a file beside it": Row({
        "main.py": "import tables\ndef work():\n    return tables.count(), tables.more()\nSEND",
        "tables.py": "from pathlib import Path\nROWS = Path(__file__).with_name('rows.txt').read_text().split()\n"
        "HERE = Path(__file__).parent\nMORE = (HERE / 'data' / 'more.txt').read_text()\n"
        "def count():\n    return len(ROWS)\ndef more():\n    return MORE\n",
        "rows.txt": "a b c", "data/more.txt": "more", "data/not.txt": "not",
    }),
    "reads a file of its package": Row({
        "main.py": "import pkg\ndef work():\n    return pkg.TEXT, pkg.read()\nSEND",
        "pkg/__init__.py": "from importlib.resources import files\nTEXT = files(__name__).joinpath('t.txt').read_text()\n"
        "def read():\n    import pkgutil\n    return pkgutil.get_data(__name__, 'sub/u.bin')\n",
        "pkg/t.txt": "text", "pkg/sub/u.bin": "u",
    }),
    "reads a file that is not sent": Row({
        "main.py": "import tables\ndef work():\n    return tables.count()\nSEND",
        "tables.py": "import os\nROWS = open(os.environ['SENT'] + '.rows').read().split()\ndef count():\n    return len(ROWS)\n",
    }, prepare=lambda directory: Path(os.environ.get("SENT", str(directory.parent / "sent")) + ".rows").write_text("a b")),
    "tracebacks": Row({
        "main.py": "import traceback, helpers\ndef fail():\n    return 1 / 0\ndef work():\n    found = []\n"
        "    for function in (fail, helpers.fail, helpers.Thing().fail, lambda: 1 / 0):\n        try:\n"
        "            function()\n        except ZeroDivisionError:\n"
        "            found.append(traceback.format_exc())\n    return found\nSEND",
        "helpers.py": "def fail():\n    return 1 / 0\nclass Thing:\n    def fail(self):\n        return 1 / 0\n",
    }),
    "sources": Row({
        "main.py": "import inspect, warnings, helpers\ndef work():\n    with warnings.catch_warnings(record=True) as caught:\n"
        "        warnings.simplefilter('always')\n        warnings.warn('w')\n        helpers.warn()\n"
        "    return [(w.filename, w.lineno) for w in caught], inspect.getsource(work), inspect.getsource(helpers.warn), "
        "inspect.getsource(helpers), inspect.getsource(helpers.Thing), inspect.getsourcefile(work)\nSEND",
        "helpers.py": "import warnings\ndef warn():\n    warnings.warn('x')\nclass Thing:\n    pass\n",
    }),
    "tracebacks of an archive": Row({
        "__main__.py": "import traceback, helpers\nfrom pkg import inner\ndef work():\n    found = []\n"
        "    for function in (helpers.fail, inner.fail):\n        try:\n            function()\n"
        "        except ZeroDivisionError as error:\n"
        "            found.append(traceback.extract_tb(error.__traceback__)[-1])\n"
        "    return [(frame.filename, frame.lineno, frame.line) for frame in found]\nSEND",
        "helpers.py": "def fail():\n    return 1 / 0\n",
        "pkg/__init__.py": "", "pkg/inner.py": "def fail():\n    return 1 / 0\n",
    }, ("app.pyz",), prepare=as_zipapp),
    "a process that is spawned": Row({
        "main.py": "import multiprocessing, helpers\nfrom concurrent.futures import ProcessPoolExecutor\n"
        "def square(x):\n    return x * x\ndef work():\n    found = []\n    for method in ('fork', 'spawn', 'forkserver'):\n"
        "        context = multiprocessing.get_context(method)\n        with context.Pool(1) as pool:\n"
        "            found.append(pool.map(square, [1, 2]) + pool.map(helpers.f, [1]))\n    return found\nSEND",
        "helpers.py": LOCKED,
    }),
    "reads a file relative to the current directory": Row({
        "main.py": "import tables\nfrom pkg import more\ndef work():\n    return tables.ROWS, more.TEXT, more.SAME\nSEND",
        "tables.py": "with open('data/rows.txt') as file:\n    ROWS = file.read()\nCONSTANT = 'data'\nNAME = 'rows.txt'\n",
        "data/rows.txt": "rows",
        "pkg/__init__.py": "", "pkg/more.py": "import os\nhere = os.getcwd()\nwith open('below.txt') as file:\n"
        "    TEXT = file.read()\nSAME = os.path.exists('data')\ndel here\n",
        "below.txt": "below",
    }),
    "looks at the words it was started with": Row({
        "main.py": "import options\ndef work():\n    return options.ARGS.n, options.WORDS[1:]\nSEND",
        "options.py": "import argparse, sys\nparser = argparse.ArgumentParser()\nparser.add_argument('-n', type=int, required=True)\n"
        "ARGS = parser.parse_args()\nWORDS = list(sys.argv)\n",
    }, ("main.py", "-n", "5")),
    "ends the process when it is imported": Row({
        "main.py": "import helpers\n" + WORK,
        "helpers.py": "import os, sys\nif 'PROGRAM' not in os.environ:\n    sys.exit(3)\n" + HELPERS,
    }),
    "makes a cluster when it is imported": Row({
        "main.py": "import pipeline\ndef work():\n    return pipeline.f(1)\nSEND",
        "pipeline.py": "import dispy\nN = 2\ndef f(x):\n    return x + N\n"
        "cluster = dispy.JobCluster(f, nodes=['127.0.0.1'])\n",
    }),
    "a name that the node has not": Row({
        "main.py": "import helpers\n" + WORK,
        "helpers.py": "import os\nif 'PROGRAM' not in os.environ:\n    raise RuntimeError('no display here')\n" + HELPERS,
    }),
}  # fmt: skip


@pytest.mark.parametrize("name", ROWS)
def test_a_program_runs_where_its_files_are_not(tmp_path: Path, name: str) -> None:
    row = ROWS[name]
    directory = tmp_path / "program"
    for path, text in row.files.items():
        (directory / path).parent.mkdir(parents=True, exist_ok=True)
        (directory / path).write_text(dedent(text).replace("SEND", SEND) if text.endswith("SEND") else text)
    row.prepare(directory)
    sent = {"SENT": str(tmp_path / "sent")}
    path = str(directory / row.path) if row.path else ""
    here = run(row.start, directory, {**sent, "PROGRAM": "1", "PYTHONPATH": path})
    shutil.rmtree(directory)
    (tmp_path / "sent.rows").unlink(missing_ok=True)
    (tmp_path / "elsewhere" / "work").mkdir(parents=True)
    assert run(("-c", LOAD), tmp_path / "elsewhere", sent) == here


def run(words: tuple[str, ...], directory: Path, environment: dict[str, str]) -> str:
    """What a program prints."""
    done = subprocess.run(
        [sys.executable, *words],
        cwd=directory,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
