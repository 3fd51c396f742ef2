"""Where modules come from: what nodes have, what is sent, what goes by value."""

from __future__ import annotations

import importlib
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import cloudpickle
import pytest

from dispy.payload.modules.origins import Origin, local_modules, origin_of, own_modules, value_modules


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory on the search path; what is imported from it is forgotten."""
    monkeypatch.syspath_prepend(str(tmp_path))
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


def write(directory: Path, *paths: str) -> None:
    for path in paths:
        (directory / path).parent.mkdir(parents=True, exist_ok=True)
        (directory / path).write_text("")


@pytest.mark.parametrize(
    ("files", "path", "name", "expected"),
    [
        (["oo_flat.py"], "", "oo_flat", Origin.OWN),
        (["oo_pkg/__init__.py", "oo_pkg/a.py"], "", "oo_pkg.a", Origin.OWN),
        (["src/oo_src.py"], "src", "oo_src", Origin.OWN),
        (["lib/site-packages/oo_one.py"], "lib/site-packages", "oo_one", Origin.INSTALLED),
        (["lib/dist-packages/oo_two.py"], "lib/dist-packages", "oo_two", Origin.INSTALLED),
        (["lib/dist-packages/oo_t/__init__.py", "lib/dist-packages/oo_t/a.py"], "lib/dist-packages", "oo_t.a",
         Origin.INSTALLED),
        (["oo_ns/a.py"], "", "oo_ns.a", Origin.OWN),
        (["oo_nt/a.py", "lib/site-packages/oo_nt/b.py"], "lib/site-packages", "oo_nt.b", Origin.INSTALLED),
        (["oo_nu/a.py", "lib/site-packages/oo_nu/b.py"], "lib/site-packages", "oo_nu.a", Origin.OWN),
        (["vendor/oo_v/__init__.py"], "vendor", "oo_v", Origin.OWN),
        (["vendor/oo_w/__init__.py", "vendor/oo_w/fast.so"], "vendor", "oo_w", Origin.INSTALLED),
        (["vendor/oo_x/__init__.py", "vendor/oo_x/fast.so"], "vendor", "oo_x", Origin.OWN),
    ],
)  # fmt: skip
def test_where_a_module_comes_from(
    place: Path, monkeypatch: pytest.MonkeyPatch, files: list[str], path: str, name: str, expected: Origin
) -> None:
    """As the interpreter sees it, and part by part where a package has several."""
    write(place, *files)
    if name in ("oo_v", "oo_w"):
        write(place, f"vendor/{name}-1.0.dist-info/RECORD")
        (place / "vendor" / f"{name}-1.0.dist-info" / "RECORD").write_text(f"{name}/__init__.py,,\n")
    if path:
        monkeypatch.syspath_prepend(str(place / path))
    importlib.import_module(name)
    assert origin_of(name) is expected


def test_modules_of_python_and_of_dispy_are_installed() -> None:
    for name in (
        "os",
        "sys",
        "builtins",
        "json",
        "zipimport",
        "_io",
        "dispy",
        "dispy.payload",
        "msgspec",
        "pytest",
    ):
        importlib.import_module(name)
        assert origin_of(name) is Origin.INSTALLED, name


def test_what_cannot_be_imported_goes_by_value(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (None, "__main__", "__mp_main__", "nowhere"):
        assert origin_of(name) is Origin.VALUE
    made = types.ModuleType("oo_made")
    monkeypatch.setitem(sys.modules, "oo_made", made)
    assert origin_of("oo_made") is Origin.VALUE
    assert b"oo_made" in local_modules()
    assert "oo_made" in value_modules()


def test_one_that_takes_the_place_of_another_is_judged_anew(place: Path) -> None:
    write(place, "oo_first.py", "oo_second.py")
    importlib.import_module("oo_first")
    assert "oo_first" in own_modules()
    del sys.modules["oo_first"]
    importlib.import_module("oo_second")
    assert "oo_second" in own_modules()
    assert b"oo_second" in local_modules()
    sys.modules["oo_second"] = types.ModuleType("oo_second")
    assert origin_of("oo_second") is Origin.VALUE


def test_a_module_can_be_registered_to_go_by_value(place: Path) -> None:
    write(place, "oo_reg/__init__.py", "oo_reg/a.py")
    package = importlib.import_module("oo_reg")
    importlib.import_module("oo_reg.a")
    cloudpickle.register_pickle_by_value(package)
    assert origin_of("oo_reg.a") is Origin.VALUE
    cloudpickle.unregister_pickle_by_value(package)
    assert origin_of("oo_reg.a") is Origin.OWN
