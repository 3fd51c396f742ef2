"""Modules in ``depends``: which files they stand for, by how they were installed."""

from __future__ import annotations

import hashlib
import importlib
import os
import sys
from base64 import urlsafe_b64encode
from collections.abc import Iterator
from pathlib import Path

import pytest

from dispy.errors import UsageError
from dispy.files.manifest import Manifest, collect


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory into which packages are installed."""
    directory = tmp_path / "lib" / "site-packages"
    directory.mkdir(parents=True)
    yield from _searched(directory, monkeypatch)


@pytest.fixture
def target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory of the user's on the search path (``pip install --target``)."""
    directory = tmp_path / "vendored"
    directory.mkdir()
    yield from _searched(directory, monkeypatch)


def _searched(directory: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.syspath_prepend(str(directory))
    importlib.invalidate_caches()
    before = set(sys.modules)
    yield directory
    for name in set(sys.modules) - before:
        del sys.modules[name]


def write(directory: Path, *paths: str) -> None:
    for path in paths:
        (directory / path).parent.mkdir(parents=True, exist_ok=True)
        (directory / path).write_text(f"# {path}\n")


def install(site: Path, distribution: str, *paths: str, record: bool = True) -> None:
    """As pip does it; ``distribution`` is name and version, as in the name of a wheel."""
    write(site, *paths)
    metadata = f"{distribution}.dist-info"
    write(site, f"{metadata}/METADATA", f"{metadata}/INSTALLER", f"{metadata}/direct_url.json")
    lines = []
    for path in [*paths, f"{metadata}/METADATA", f"{metadata}/INSTALLER"]:
        content = (site / path).read_bytes()
        digest = urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
        lines.append(f"{path},sha256={digest},{len(content)}")
    lines += ["../../bin/tool,,", f"{metadata}/RECORD,,"]
    if record:
        (site / metadata / "RECORD").write_text("\r\n".join(lines) + "\r\n")


def collected(*names: str, base: Path | None = None) -> Manifest:
    return collect([importlib.import_module(name) for name in names], base)


def targets(manifest: Manifest) -> set[str]:
    return set(manifest.entries)


@pytest.mark.parametrize(
    ("distribution", "top", "libraries"),
    [
        ("pillow-13.0.0", "dispil", "pillow.libs"),
        ("scikit_learn-1.9.1", "dissklearn", "scikit_learn.libs"),
        ("opencv_python_headless-5.0.0.93", "discv2", "opencv_python_headless.libs"),
        ("numpy-2.4.6", "disnumpy", "disnumpy.libs"),
    ],
)
@pytest.mark.parametrize("record", [True, False], ids=["recorded", "unrecorded"])
def test_libraries_of_a_wheel_come_along_whatever_they_are_called(
    site: Path, distribution: str, top: str, libraries: str, record: bool
) -> None:
    """They are named after the distribution. Where no record says which are whose, names do."""
    install(site, distribution, f"{top}/__init__.py", f"{libraries}/libx-1234.so.1", record=record)
    (site / f"{distribution}.dist-info" / "top_level.txt").write_text(f"{top}\n")
    write(site, "other.libs/libother.so")
    assert targets(collected(top)) == {
        f"{top}/__init__.py",
        f"{libraries}/libx-1234.so.1",
        f"{distribution}.dist-info/METADATA",
    }


def test_all_modules_of_a_distribution_come_along(site: Path) -> None:
    """One of them may import the others: ``cffi`` needs ``_cffi_backend``. Scripts and compiled Python stay here."""
    install(
        site,
        "discffi-2.1.0",
        "discffi/__init__.py",
        "discffi/__pycache__/__init__.cpython-311.pyc",
        "_discffi_backend.py",
        "discffi_more/inner/data.csv",
        "discffi.pth",
        "README.md",
    )
    expected = {
        "discffi/__init__.py",
        "_discffi_backend.py",
        "discffi_more/inner/data.csv",
        "discffi-2.1.0.dist-info/METADATA",
    }
    for name in ("discffi", "_discffi_backend"):
        manifest = collected(name)
        assert targets(manifest) == expected
        assert len({entry.package for entry in manifest.entries.values()} - {0}) == 1


def test_what_a_package_has_written_since_comes_along(site: Path) -> None:
    install(site, "disdata-1", "disdata/__init__.py")
    write(site, "disdata/corpora/words.txt")
    assert "disdata/corpora/words.txt" in targets(collected("disdata"))


def test_of_a_namespace_only_the_distribution_comes_along(site: Path) -> None:
    """``google`` is shared by hundreds of distributions."""
    install(
        site, "disproto-7", "disns/protobuf/__init__.py", "disns/protobuf/inner/leaf.py", "disns/_upb.py"
    )
    install(site, "disauth-2", "disns/auth/__init__.py", "disns/auth/big.bin")
    for name in ("disns.protobuf", "disns.protobuf.inner.leaf"):
        assert targets(collected(name)) == {
            "disns/protobuf/__init__.py",
            "disns/protobuf/inner/leaf.py",
            "disns/_upb.py",
            "disproto-7.dist-info/METADATA",
        }
    both = collected("disns.protobuf", "disns.auth")
    assert len({entry.package for entry in both.entries.values()}) == 2
    assert targets(collected("disns")) >= {"disns/protobuf/__init__.py", "disns/auth/big.bin"}


def test_one_file_modules(site: Path) -> None:
    install(site, "dissix-1.17", "dissix.py")
    assert targets(collected("dissix")) == {"dissix.py", "dissix-1.17.dist-info/METADATA"}


def test_packages_without_metadata(site: Path) -> None:
    """Somebody has copied them there; libraries have their name, if anything does."""
    write(site, "disbare/__init__.py", "disbare.libs/libx.so", "disbare_other/__init__.py")
    manifest = collected("disbare")
    assert targets(manifest) == {"disbare/__init__.py", "disbare.libs/libx.so"}
    assert all(entry.package for entry in manifest.entries.values())


def test_what_was_installed_into_a_directory_of_the_users(target: Path) -> None:
    install(target, "pillow-13.0.0", "dispil2/__init__.py", "pillow.libs/libx.so")
    manifest = collected("dispil2")
    assert "pillow.libs/libx.so" in targets(manifest)
    assert all(entry.package for entry in manifest.entries.values())


def test_the_users_own_are_no_packages(target: Path) -> None:
    """Nodes must not take what they have in place of them. What development leaves beside them changes nothing."""
    write(target, "disown/__init__.py", "disown.libs/libx.so", "disown.egg-info/PKG-INFO")
    (target / "disown.egg-info" / "top_level.txt").write_text("disown\n")
    install(target, "disown-1.0", "__editable__.disown-1.0.pth")
    manifest = collected("disown", base=target.parent)
    assert targets(manifest) == {"disown/__init__.py", "disown.libs/libx.so", "vendored/disown/__init__.py"}
    assert not any(entry.package for entry in manifest.entries.values())


def test_an_environment_below_the_current_directory(site: Path, tmp_path: Path) -> None:
    """An installed package is not sent twice, once as if it were the user's."""
    install(site, "disvenv-1", "disvenv/__init__.py")
    assert not any(path.startswith("lib/") for path in targets(collected("disvenv", base=tmp_path)))


def test_the_users_files_come_before_what_lies_beside_a_package(site: Path, tmp_path: Path) -> None:
    """Some distributions install a ``tests`` of theirs."""
    install(site, "disclash-1", "disclash/__init__.py", "tests/__init__.py")
    write(tmp_path, "tests/__init__.py")
    (tmp_path / "tests" / "__init__.py").write_text("mine = 1\n")
    module = importlib.import_module("disclash")
    for items in ([module, str(tmp_path / "tests")], [str(tmp_path / "tests"), module]):
        manifest = collect(items, tmp_path)
        entry = manifest.entries["tests/__init__.py"]
        assert manifest.sources[entry.digest].path == str(tmp_path / "tests" / "__init__.py")
        assert not entry.package


def test_packages_that_were_installed_as_links(site: Path, tmp_path: Path) -> None:
    """Some installers keep the files elsewhere (uv with symlinks, Debian for data)."""
    write(tmp_path, "cache/init.py", "cache/data/table.csv")
    (site / "dislinks").mkdir()
    (site / "dislinks" / "__init__.py").symlink_to(tmp_path / "cache" / "init.py")
    (site / "dislinks" / "data").symlink_to(tmp_path / "cache" / "data")
    (site / "dislinks" / "round").symlink_to(site / "dislinks")
    assert targets(collected("dislinks")) == {"dislinks/__init__.py", "dislinks/data/table.csv"}


def test_links_of_the_users_own_are_refused(target: Path, tmp_path: Path) -> None:
    write(tmp_path, "elsewhere.py")
    write(target, "dislinked/__init__.py")
    (target / "dislinked" / "more.py").symlink_to(tmp_path / "elsewhere.py")
    with pytest.raises(UsageError, match="a link that leads out of"):
        collected("dislinked")


def test_a_damaged_record_is_none(site: Path) -> None:
    """Bytes that are no text, lines of something else: what the directory has is sent."""
    install(site, "disdamaged-1", "disdamaged/__init__.py")
    record = site / "disdamaged-1.dist-info" / "RECORD"
    for content in (
        b"",
        b"\xff\xfe\0\n,,,\n",
        b'"' * 100,
        b"disdamaged/__init__.py,\xff\n/etc/passwd,,\n../../x,,\n",
    ):
        record.write_bytes(content)
        os.utime(site, ns=(1, len(content)))
        assert {path for path in targets(collected("disdamaged")) if "dist-info" not in path} == {
            "disdamaged/__init__.py"
        }
