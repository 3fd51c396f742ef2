"""Installed packages in ``depends``: a node uses its own where that is the same, and is sent them where it is not."""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dispy import NodeAllocate

from .conftest import MakeCluster, StartNode
from .filing import stored
from .helpers import Place, wait_for

PACKAGE = "inst_pil"
"""As it is imported; the distribution is called ``inst-pillow``, and so are its libraries."""


def install(site: Path, version: int) -> None:
    """Install a package that finds a library as those of wheels do."""
    files = {
        f"{PACKAGE}/__init__.py": (
            f"import os\nVERSION = {version}\nTOP = os.path.dirname(os.path.dirname(__file__))\n"
            "with open(f'{TOP}/inst_pillow.libs/libx-12.so.1') as file:\n    LIBRARY = file.read()\n"
        ),
        f"{PACKAGE}/inner/table.csv": "1,2\n",
        "_inst_backend.py": "",
        "inst_pillow.libs/libx-12.so.1": f"library {version}",
        f"inst_pillow-{version}.dist-info/METADATA": f"Name: inst-pillow\nVersion: {version}\n",
    }
    for path, text in files.items():
        (site / path).parent.mkdir(parents=True, exist_ok=True)
        (site / path).write_text(text)
    record = "".join(f"{path},sha256=x,{len(text)}\n" for path, text in files.items())
    (site / f"inst_pillow-{version}.dist-info" / "RECORD").write_text(record)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where the program has its packages."""
    directory = tmp_path / "program" / "site-packages"
    directory.mkdir(parents=True)
    install(directory, 2)
    monkeypatch.syspath_prepend(str(directory))
    before = set(sys.modules)
    yield directory
    for name in set(sys.modules) - before:
        del sys.modules[name]


@pytest.fixture
def node_site(tmp_path: Path) -> Path:
    """Where the node has its packages."""
    directory = tmp_path / "node" / "site-packages"
    directory.mkdir(parents=True)
    return directory


@pytest.fixture
def environment(place: Place, node_site: Path) -> dict[str, str]:
    """Variables of the node."""
    before = place.environment.get("PYTHONPATH", "")
    return {**place.environment, "PYTHONPATH": f"{node_site}:{before}"}


def use() -> tuple[int, str, str, list[str]]:
    import importlib.metadata

    import _inst_backend  # noqa: F401
    import inst_pil

    assert importlib.metadata.version("inst-pillow") == str(inst_pil.VERSION)
    return inst_pil.VERSION, inst_pil.LIBRARY, inst_pil.TOP, sorted(os.listdir("."))


@pytest.mark.parametrize("of", ["cluster", "node", "job"])
@pytest.mark.parametrize("version", [0, 1, 2], ids=["missing", "other", "same"])
def test_a_package_travels_only_where_it_is_not_installed(
    make_cluster: MakeCluster,
    start_node: StartNode,
    site: Path,
    node_site: Path,
    environment: dict[str, str],
    place: Place,
    version: int,
    of: str,
) -> None:
    """Jobs find the program's version in any case, with its libraries, whoever has named it."""
    if version:
        install(node_site, version)
    node = start_node("--cpus", "1", env=environment)
    package = importlib.import_module(PACKAGE)
    options: dict[str, Any] = {"cluster": {"depends": [package]}}.get(of, {})
    if of == "node":
        options = {"nodes": [NodeAllocate("127.0.0.1", node.port, depends=[package])]}
    cluster = make_cluster(use, **options)
    job = cluster.submit(dispy_job_depends=[package] if of == "job" else [])
    found, library, top, here = job() or pytest.fail(job.exception)
    assert (found, library) == (2, "library 2")
    assert (top == str(node_site)) is (version == 2)
    if version == 2:
        assert here == []
        assert stored(place) == []
    else:
        assert {PACKAGE, "inst_pillow.libs", "_inst_backend.py"} <= set(here)


def test_two_versions_side_by_side(
    make_cluster: MakeCluster,
    start_node: StartNode,
    site: Path,
    node_site: Path,
    environment: dict[str, str],
    place: Place,
) -> None:
    """Each node decides for itself."""
    install(node_site, 2)
    start_node("--cpus", "1", "--name", "has", env=environment)
    start_node("--cpus", "1", "--name", "lacks", env=place.environment)
    cluster = make_cluster(use, depends=[importlib.import_module(PACKAGE)])
    nodes = wait_for(lambda: cluster.status().nodes, lambda seen: len(seen) == 2, what="both nodes")
    tops = {shown.name: cluster.submit_node(shown)()[2] for shown in nodes}
    assert tops["has"] == str(node_site)
    assert tops["lacks"] != str(node_site)


def test_a_package_that_is_installed_meanwhile(
    make_cluster: MakeCluster,
    start_node: StartNode,
    site: Path,
    node_site: Path,
    environment: dict[str, str],
) -> None:
    """The next cluster uses it; and not any more when it is replaced."""
    node = start_node("--cpus", "1", env=environment)
    package = importlib.import_module(PACKAGE)
    for version, is_used in ((0, False), (2, True), (1, False)):
        if version:
            shutil.rmtree(node_site)
            install(node_site, version)
        cluster = make_cluster(use, depends=[package])
        found, _, top, _ = cluster.submit()()
        assert (found, top == str(node_site)) == (2, is_used), node.stderr
        cluster.close()


def test_what_lies_in_a_named_directory_is_brought_up_to_date(
    make_cluster: MakeCluster,
    start_node: StartNode,
    site: Path,
    node_site: Path,
    environment: dict[str, str],
) -> None:
    """It is imported before anything that is installed: so the package is put there, however the node has it."""
    start_node("--cpus", "1", env=environment)
    package = importlib.import_module(PACKAGE)
    first = make_cluster(use, depends=[package], dest_path="shared", cleanup=False)
    assert first.submit()()[0] == 2
    first.close()
    install(node_site, 2)
    text = (site / PACKAGE / "__init__.py").read_text()
    (site / PACKAGE / "__init__.py").write_text(text.replace("VERSION = 2", "VERSION = 3"))
    (node_site / PACKAGE / "__init__.py").write_text(text.replace("VERSION = 2", "VERSION = 3"))

    def version() -> int:
        import inst_pil

        return inst_pil.VERSION

    assert make_cluster(version, depends=[package], dest_path="shared").submit()() == 3


def test_a_limit_of_file_sizes_is_not_for_what_is_installed(
    make_cluster: MakeCluster,
    start_node: StartNode,
    site: Path,
    node_site: Path,
    environment: dict[str, str],
) -> None:
    for directory in (site, node_site):
        install(directory, 2)
        (directory / PACKAGE / "large.bin").write_bytes(bytes(5000))
    start_node("--cpus", "1", "--max_file_size", "1k", env=environment)
    cluster = make_cluster(use, depends=[importlib.import_module(PACKAGE)])
    assert cluster.submit()()[2] == str(node_site)


# Packages that are not listed.

SAID = (
    "installed in another version than the program has: inst_pillow 1 (2 in the program); jobs use what is"
)


def use_late() -> int:
    import inst_pil

    return inst_pil.VERSION


def use_below() -> str:
    from inst_pil.inner import NAME

    return NAME


@pytest.mark.parametrize(
    ("function", "version", "is_listed", "is_said"),
    [
        (use_late, 1, False, True),
        (use_below, 1, False, True),
        (use_late, 2, False, False),
        (use_late, 1, True, False),
        (os.getcwd, 1, False, False),
    ],
    ids=["other", "below", "same", "listed", "unused"],
)
def test_another_version_on_a_node_is_told_to_the_program(
    make_cluster: MakeCluster,
    start_node: StartNode,
    site: Path,
    node_site: Path,
    environment: dict[str, str],
    caplog: pytest.LogCaptureFixture,
    function: Any,
    version: int,
    is_listed: bool,
    is_said: bool,
) -> None:
    """Once, however many nodes have it; not where the program's own is sent, or nothing uses it."""
    for directory, number in ((site, 2), (node_site, version)):
        install(directory, number)
        (directory / PACKAGE / "inner" / "__init__.py").write_text("NAME = 'inner'\n")
    package = importlib.import_module(PACKAGE)
    nodes = [start_node("--cpus", "1", "--name", name, env=environment) for name in ("one", "two")]
    cluster = make_cluster(function, depends=[package] if is_listed else [])
    wait_for(lambda: cluster.status().nodes, lambda seen: len(seen) == 2, what="both nodes")
    job = cluster.submit()
    job()
    assert job.status == job.Finished, job.exception
    assert caplog.text.count(SAID) == is_said
    for node in nodes if is_said else ():
        node.wait_line(SAID.replace("(", r"\(").replace(")", r"\)"), stream="stderr")


def load_library() -> int:
    import ctypes

    import inst_compiled

    here = os.path.dirname(inst_compiled.__file__)
    return ctypes.CDLL(f"{here}/_main.so").answer()


@pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")
def test_a_compiled_package_finds_its_libraries(
    make_cluster: MakeCluster, start_node: StartNode, site: Path
) -> None:
    """By a path relative to its own, as the libraries of wheels are found."""
    package, libraries = site / "inst_compiled", site / "inst_wheel_name.libs"
    package.mkdir()
    libraries.mkdir()
    (package / "__init__.py").write_text("")
    (site / "a.c").write_text("int number(void) { return 42; }\n")
    (site / "b.c").write_text("int number(void); int answer(void) { return number(); }\n")
    compiler = ["cc", "-shared", "-fPIC"]
    subprocess.run([*compiler, "-o", libraries / "libnumber-1f.so", site / "a.c"], check=True)
    linked = ["-L", libraries, "-l:libnumber-1f.so", "-Wl,-rpath,$ORIGIN/../inst_wheel_name.libs"]
    subprocess.run([*compiler, "-o", package / "_main.so", site / "b.c", *linked], check=True)
    metadata = site / "inst_wheel_name-1.dist-info"
    metadata.mkdir()
    paths = ["inst_compiled/__init__.py", "inst_compiled/_main.so", "inst_wheel_name.libs/libnumber-1f.so"]
    (metadata / "RECORD").write_text("".join(f"{path},,\n" for path in paths))
    start_node("--cpus", "1")
    job = make_cluster(load_library, depends=[importlib.import_module("inst_compiled")]).submit()
    assert job() == 42, job.exception
