"""Files that nodes get with a computation: where they lie, for how long, and what is told when that fails."""

from __future__ import annotations

import importlib
import os
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import dispy
from dispy import NodeAllocate
from dispy.errors import UsageError

from .conftest import MakeCluster, StartNode
from .filing import listing, write
from .helpers import Place, wait_for


def test_files_lie_as_they_do_here(
    make_cluster: MakeCluster, start_node: StartNode, here: Path, tmp_path: Path
) -> None:
    """Those below the current directory keep their places, others come by their last names; directories whole."""
    start_node("--cpus", "1")
    write(here, "flat", "a/b/deep", "tree/x", "tree/y/z", "tree/__pycache__/z.pyc", "other")
    write(tmp_path, "far", "far tree/x")
    given = [
        "flat", here / "a/b/deep", "tree", str(tmp_path / "far"), b"../far tree", "./a/../flat",
    ]  # fmt: skip
    cluster = make_cluster(listing, depends=given)
    assert [path for path, _ in cluster.submit()()] == [
        "a/b/deep", "far", "far tree/x", "flat", "tree/x", "tree/y/z",
    ]  # fmt: skip
    contents = dict(cluster.submit()())
    assert contents["a/b/deep"] == "a/b/deep"
    assert contents["far tree/x"] == "far tree/x"
    assert given[0] == "flat", "the caller's list was changed"


def about(path: str) -> tuple[int, int, bool, bool]:
    found = os.stat(path)
    with open(path, "rb") as file:
        is_whole = file.read() == b"#!/bin/sh\n" * 100_000
    return stat.S_IMODE(found.st_mode), found.st_mtime_ns, is_whole, os.getuid() == found.st_uid


def test_mode_and_time_travel_and_nothing_beyond(
    make_cluster: MakeCluster, start_node: StartNode, here: Path
) -> None:
    """Set-uid and sticky bits do not; a file of a megabyte comes in pieces."""
    start_node("--cpus", "1")
    (here / "tool").write_bytes(b"#!/bin/sh\n" * 100_000)
    os.chmod(here / "tool", 0o6751)
    os.utime(here / "tool", ns=(10**18, 10**18 + 123_456_789))
    cluster = make_cluster(about, depends=["tool"])
    mode, mtime_ns, is_whole, is_ours = cluster.submit("tool")()
    assert mode == 0o751
    assert abs(mtime_ns - (10**18 + 123_456_789)) < 10**9
    assert is_whole
    assert is_ours


def load() -> None:
    global seen
    seen = sorted(os.listdir("."))


def tell() -> list[str]:
    return seen


def test_setup_finds_the_files_of_its_node(
    make_cluster: MakeCluster, start_node: StartNode, here: Path
) -> None:
    """Each node has those of all, and its own; also where ``allocate`` says so."""
    nodes = [start_node("--cpus", "1", "--name", name) for name in ("a", "b")]
    write(here, "common", "only a", "only b")

    class Chosen(NodeAllocate):
        def allocate(self, cluster: Any, ip_addr: str, name: str, cpus: int, *rest: Any) -> int:
            self.depends = [f"only {name}"]
            return cpus

    allocations = [
        NodeAllocate("127.0.0.1", nodes[0].port, depends=["only a"]),
        Chosen("127.0.0.1", nodes[1].port),
    ]
    for allocation, name in zip(allocations, "ab", strict=True):
        cluster = make_cluster(tell, nodes=[allocation], depends=["common"], setup=load)
        assert cluster.submit()() == ["common", f"only {name}"]
        cluster.close()


def test_a_node_whose_files_cannot_be_had_is_not_used(
    make_cluster: MakeCluster, start_node: StartNode, here: Path, caplog: pytest.LogCaptureFixture
) -> None:
    node = start_node("--cpus", "1")
    write(here, "gone")
    allocation = NodeAllocate("127.0.0.1", node.port, depends=["gone"])
    os.unlink(here / "gone")
    cluster = make_cluster(tell, nodes=[allocation])
    wait_for(lambda: "gone" in caplog.text, what="a word about the file")
    assert "is not used" in caplog.text
    assert cluster.status().nodes == []


# Modules.


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory on the search path that is not the current one."""
    directory = tmp_path / "modules"
    directory.mkdir()
    monkeypatch.syspath_prepend(str(directory))
    before = set(sys.modules)
    yield directory
    for name in set(sys.modules) - before:
        del sys.modules[name]


def use_package() -> list[Any]:
    import shipped_package
    import shipped_package.inner.leaf as leaf

    with open(os.path.join(os.path.dirname(shipped_package.__file__), "data", "table.csv")) as file:
        found = [
            shipped_package.NAME,
            leaf.answer(),
            file.read(),
            os.path.relpath(shipped_package.__file__),
        ]
    beside = os.path.dirname(os.path.dirname(shipped_package.__file__))
    return [*found, os.path.exists(f"{beside}/shipped_package.libs/libfast.so")]


def test_a_package_arrives_whole_and_importable(
    make_cluster: MakeCluster, start_node: StartNode, here: Path, modules: Path
) -> None:
    """With submodules, data and the libraries of its wheel, wherever it lies and whichever module was named."""
    start_node("--cpus", "1")
    package = modules / "shipped_package"
    write(package, "data/table.csv")
    write(modules, "shipped_package.libs/libfast.so")
    (package / "inner").mkdir()
    (package / "__init__.py").write_text("NAME = __name__\n")
    (package / "inner" / "__init__.py").write_text("")
    (package / "inner" / "leaf.py").write_text("from .. import NAME\ndef answer(): return NAME, 42\n")
    leaf = importlib.import_module("shipped_package.inner.leaf")
    cluster = make_cluster(use_package, depends=[leaf])
    expected = ["shipped_package", ("shipped_package", 42), "data/table.csv", "shipped_package/__init__.py"]
    assert cluster.submit()() == [*expected, True]


def use_module() -> tuple[int, bool]:
    import shipped_module

    return shipped_module.answer(), os.path.exists("lib/shipped_module.py")


def test_a_module_below_the_current_directory_is_importable_as_well(
    make_cluster: MakeCluster,
    start_node: StartNode,
    here: Path,
    modules: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    start_node("--cpus", "1")
    (here / "lib").mkdir()
    (here / "lib" / "shipped_module.py").write_text("def answer(): return 42\n")
    monkeypatch.syspath_prepend(str(here / "lib"))
    module = importlib.import_module("shipped_module")
    # Modules of Python itself are there in any case.
    assert make_cluster(use_module, depends=[module, os, sys, importlib]).submit()() == (42, True)


def test_modules_beside_the_program_travel_without_being_named(
    make_cluster: MakeCluster, start_node: StartNode, here: Path, modules: Path
) -> None:
    start_node("--cpus", "1")
    (modules / "beside_helper.py").write_text("LIMIT = 7\ndef bound(n): return min(n, LIMIT)\n")
    (modules / "beside_program.py").write_text(
        "import beside_helper\nfrom beside_helper import bound\n"
        "def compute(n): return bound(n) + beside_helper.LIMIT, sorted(__import__('os').listdir('.'))\n"
    )
    module = importlib.import_module("beside_program")
    assert make_cluster(module.compute).submit(9)() == (14, [])


def test_modules_that_are_imported_in_functions_travel_without_being_named(
    make_cluster: MakeCluster, start_node: StartNode, here: Path, modules: Path
) -> None:
    """With what they import, and packages whole but for their data; nothing is imported for that here."""
    start_node("--cpus", "1")
    write(modules, "late_package/data.csv", "late_package/deeper/__init__.py")
    (modules / "late_package" / "__init__.py").write_text("")
    (modules / "late_package" / "leaf.py").write_text("from .deeper.value import VALUE\n")
    (modules / "late_package" / "deeper" / "__init__.py").write_text("")
    (modules / "late_package" / "deeper" / "value.py").write_text("VALUE = 2\n")
    (modules / "late_other.py").write_text("import late_helper\nVALUE = 40\n")
    (modules / "late_helper.py").write_text(
        "def answer():\n    import late_other\n    return late_other.VALUE\n"
    )
    (modules / "late_program.py").write_text(
        "import os\n"
        "class Asked:\n"
        "    def value(self):\n"
        "        from late_package.leaf import VALUE\n"
        "        return VALUE\n"
        "def compute():\n"
        "    import late_helper, json\n"
        "    try:\n"
        "        import late_and_nowhere\n"
        "    except ImportError:\n"
        "        pass\n"
        "    return late_helper.answer() + Asked().value(), os.path.exists('late_package/data.csv')\n"
    )
    module = importlib.import_module("late_program")
    assert make_cluster(module.compute).submit()() == (42, False)
    assert make_cluster(module.compute, isolate=True).submit()() == (42, False)
    cluster = make_cluster(lambda name: globals()[name]())  # not imported before: it comes with the job
    assert cluster.submit("compute", dispy_job_depends=[module.compute])() == (42, False)
    assert [name for name in sys.modules if name.startswith("late_")] == ["late_program"]
    other = importlib.import_module("late_other")
    cluster = make_cluster(lambda: __import__("late_other").late_helper.answer())
    assert cluster.submit(dispy_job_depends=[other])() == 40
    cluster = make_cluster(
        lambda: __import__("late_other").late_helper.answer(), [dispy.NodeAllocate("*", depends=[other])]
    )
    assert cluster.submit()() == 40


@pytest.mark.parametrize("isolate", [False, True], ids=["shared", "isolated"])
def test_a_class_of_a_module_that_was_sent_is_one_here_and_there(
    make_cluster: MakeCluster, start_node: StartNode, here: Path, modules: Path, isolate: bool
) -> None:
    """Instances that travel by value are of the very class that jobs import, and those that jobs make of ours."""
    start_node("--cpus", "1")
    (modules / "shapes").mkdir()
    (modules / "shapes" / "__init__.py").write_text("")
    (modules / "shapes" / "square.py").write_text(
        "class Square:\n    def __init__(self, side):\n        self.side = side\n    class Part:\n        pass\n"
    )
    (modules / "one_class.py").write_text(
        "def compute(given, part):\n"
        "    from shapes.square import Square\n"
        "    return type(given) is Square, type(part) is Square.Part, Square(given.side + 1), Square.Part()\n"
    )
    module = importlib.import_module("one_class")
    square = importlib.import_module("shapes.square").Square
    cluster = make_cluster(module.compute, isolate=isolate)
    for side in range(2):
        is_one, is_part, other, part = cluster.submit(square(side), square.Part())()
        assert is_one
        assert is_part
        assert type(other) is square
        assert type(part) is square.Part
        assert other.side == side + 1


# What cannot be sent.


def make_socket(path: Path) -> None:
    os.mkfifo(path)


@pytest.mark.parametrize(
    ("item", "fault"),
    [
        ("missing", "'missing' cannot be sent: No such file"),
        ("/dev/null", "not an ordinary file"),
        ("fifo", "not an ordinary file"),
        ("odd\nname", "cannot be printed"),
        ("same/flat", "would both be 'flat'"),
        ("out", "leads out of"),
        ("loop", "link to a directory"),
    ],
)
def test_what_cannot_be_sent_is_refused_by_name(
    place: Place, here: Path, tmp_path: Path, item: str, fault: str
) -> None:
    os.mkfifo(here / "fifo")
    write(tmp_path, "far/flat", "away/same/flat", "away/odd\nname")
    (tmp_path / "far" / "flat").write_text("another")
    for name in ("out", "loop"):
        (here / name).mkdir()
    (here / "out" / "link").symlink_to("/etc/passwd")
    (here / "loop" / "link").symlink_to(".")
    path = item
    if item in ("odd\nname", "same/flat"):
        path = str(tmp_path / "away" / item)
    with pytest.raises(UsageError) as caught:
        dispy.JobCluster(listing, depends=[str(tmp_path / "far" / "flat"), path])
    assert fault in str(caught.value)


def test_links_within_a_directory_are_followed(
    make_cluster: MakeCluster, start_node: StartNode, here: Path
) -> None:
    start_node("--cpus", "1")
    write(here, "tree/x")
    (here / "tree" / "y").symlink_to("x")
    (here / "named").symlink_to("tree/x")
    cluster = make_cluster(listing, depends=["tree", "named"])
    assert [path for path, _ in cluster.submit()()] == ["named", "tree/x", "tree/y"]


def test_the_main_program_is_no_module_to_be_sent(place: Place) -> None:
    with pytest.raises(UsageError, match="main program"):
        dispy.JobCluster(listing, depends=[sys.modules["__main__"]])


def test_a_node_that_is_set_up_anew_has_other_files(
    make_cluster: MakeCluster, start_node: StartNode, here: Path
) -> None:
    """``allocate`` is asked again; what lay there before is gone, unless the directory is to stay."""
    node = start_node("--cpus", "1")
    write(here, "common", "first", "second")

    class Chosen(NodeAllocate):
        def allocate(self, cluster: Any, ip_addr: str, name: str, cpus: int, *rest: Any) -> int:
            self.depends = ["second"] if self.depends == ["first"] else ["first"]
            return cpus

    for options in ({}, {"dest_path": "named"}):
        allocation = Chosen("127.0.0.1", node.port)
        cluster = make_cluster(tell, nodes=[allocation], depends=["common"], setup=load, **options)
        assert cluster.submit()() == ["common", "first"]
        (shown,) = cluster.status().nodes
        assert cluster.resetup_node(shown) == 0
        submit = cluster.submit
        found = wait_for(
            lambda submit=submit: submit()(),
            lambda seen: "second" in seen,
            what="the second file is there",
        )
        assert found == ["common", "second"]
        cluster.close()
