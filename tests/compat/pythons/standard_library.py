"""Functions of forty modules of the standard library, as files of the user's: to another Python and back.

    python standard_library.py OTHER DIRECTORY

OTHER is an interpreter of another version, which runs this file with ``--serve``.
"""

from __future__ import annotations

import importlib.util
import pickle
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path

from dispy.errors import PicklingError
from dispy.payload import versions
from dispy.payload.by_value.pickler import dump_by_value

MODULES = (
    "argparse", "ast", "base64", "bdb", "bisect", "calendar", "cmd", "code", "codeop", "colorsys", "configparser",
    "contextlib", "copy", "csv", "dataclasses", "datetime", "difflib", "dis", "enum", "fileinput", "filecmp",
    "fnmatch", "fractions", "functools", "gettext", "heapq", "inspect", "ipaddress", "locale", "mimetypes",
    "optparse", "pickle", "pprint", "shlex", "smtplib", "statistics", "string", "tarfile", "textwrap", "uuid",
)  # fmt: skip


def functions_of(code: types.CodeType) -> Iterator[types.CodeType]:
    """Code of the functions in some code, at any depth, without that of classes and comprehensions."""
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            is_function = constant.co_flags & 0x2  # the body of a class is not optimized
            if is_function and not constant.co_name.endswith(("comp>", "genexpr>")):
                yield constant
            yield from functions_of(constant)


def made_of(code: types.CodeType) -> types.FunctionType:
    """A function of some code, in globals of its own, with empty cells."""
    cells = tuple(types.CellType(name) for name in code.co_freevars)
    return types.FunctionType(code, {"__name__": "lone"}, code.co_name, (1, "b"), cells or None)


def serve() -> None:
    """Load functions, and send them back."""
    versions.meet((3, 0))
    for names in iter(lambda: pickle.load(sys.stdin.buffer), None):
        answers = []
        for data in names:
            try:
                with versions.wanted():
                    answers.append(dump_by_value(pickle.loads(data)))
            except PicklingError as error:
                answers.append(str(error))
        pickle.dump(answers, sys.stdout.buffer)
        sys.stdout.buffer.flush()


def is_equal(one: types.FunctionType, other: types.FunctionType) -> bool:
    """Whether two functions are the same, down to the columns of their instructions."""
    contents = [[cell.cell_contents for cell in each.__closure__ or ()] for each in (one, other)]
    return (
        one.__code__ == other.__code__
        and [*one.__code__.co_positions()] == [*other.__code__.co_positions()]
        and contents[0] == contents[1]
        and (one.__name__, one.__qualname__) == (other.__name__, other.__qualname__)
        and one.__defaults__ == other.__defaults__
    )


def main() -> None:
    other, directory = sys.argv[1:]
    server = subprocess.Popen([other, __file__, "--serve"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert server.stdin is not None
    assert server.stdout is not None
    equal = refused = different = modules = 0
    with server:
        for name in MODULES:
            spec = importlib.util.find_spec(name)
            assert spec is not None, name
            assert spec.origin is not None, name
            path = Path(directory) / f"users_{name}.py"
            path.write_bytes(Path(spec.origin).read_bytes())
            code = compile(path.read_bytes(), str(path), "exec", dont_inherit=True)
            functions = [made_of(each) for each in functions_of(code)]
            with versions.wanted():
                sent = [dump_by_value(function) for function in functions]
            pickle.dump(sent, server.stdin)
            server.stdin.flush()
            modules += 1
            for function, answer in zip(functions, pickle.load(server.stdout), strict=True):
                if isinstance(answer, str):
                    refused += 1
                    print(answer, file=sys.stderr)
                elif is_equal(function, pickle.loads(answer)):
                    equal += 1
                else:
                    different += 1
                    print(function, file=sys.stderr)
        pickle.dump(None, server.stdin)
        server.stdin.flush()
    print(f"modules={modules} equal={equal} refused={refused} different={different}")


if __name__ == "__main__":
    serve() if "--serve" in sys.argv else main()
