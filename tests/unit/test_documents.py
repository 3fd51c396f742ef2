"""Documents that point somewhere: links, file names, names of functions and classes, and what must not grow."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "dispy"
DOCUMENTS = sorted(
    path.relative_to(ROOT).as_posix() for path in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
)
RELEASE_LINES_MAX = 30
"""Lines that a user reads who decides whether to upgrade."""


def read(document: str) -> str:
    return (ROOT / document).read_text()


def prose(document: str) -> str:
    """A document without its blocks of code."""
    return re.sub(r"^```.*?^```", "", read(document), flags=re.MULTILINE | re.DOTALL)


def anchors(document: str) -> set[str]:
    """Anchors of headings: in lower case, punctuation dropped, a hyphen for each space."""
    titles = re.findall(r"^#+ (.+)$", prose(document), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def defined(path: Path) -> set[str]:
    """Names of functions, classes, methods and constants of a module."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names.update(target.id for target in targets if isinstance(target, ast.Name))
    return names


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_somewhere(document: str) -> None:
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(document)):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        path = (ROOT / document).parent / name if name else ROOT / document
        if not path.exists() or (
            anchor and anchor not in anchors(path.resolve().relative_to(ROOT).as_posix())
        ):
            broken.append(target)
    assert not broken


@pytest.mark.parametrize("document", DOCUMENTS)
def test_modules_that_are_named_are_there(document: str) -> None:
    """A path in backticks that begins with a folder of dispy is a file or folder there."""
    folders = {path.name for path in SOURCE.iterdir() if path.is_dir()}
    named = re.findall(r"`([a-z_]+/[\w/]*(?:\.py)?)`", prose(document))
    missing = [name for name in named if name.split("/")[0] in folders and not (SOURCE / name).exists()]
    assert not missing


@pytest.mark.parametrize("document", DOCUMENTS)
def test_tests_that_are_named_are_there(document: str) -> None:
    known = {path.name for path in (ROOT / "tests").rglob("test_*.py")}
    assert set(re.findall(r"\btest_\w+\.py\b", read(document))) <= known


@pytest.mark.parametrize("document", [each for each in DOCUMENTS if re.match("docs/(ref|exp)", each)])
def test_the_first_paragraph_says_for_whom_the_page_is(document: str) -> None:
    first = read(document).split("\n\n")[1]
    assert re.search(r"\b[Ff]or (who|some|every|an? |those|users|programs)", first), first


def index() -> list[tuple[str, str, list[str]]]:
    """Rows of "Where is …?": the question, the file, and names in it."""
    section = read("docs/explanation/architecture.md").split("\n## Where is …?\n")[1].split("\n## ")[0]
    rows = []
    for question, answer in re.findall(r"^\| ([^|]+\?) \| ([^|]+) \|", section, flags=re.MULTILINE):
        for path, names in re.findall(r"`([\w/]+\.py)`((?:(?:, | )`\w+`)*)", answer):
            rows.append((question, path, re.findall(r"`(\w+)`", names)))
    return rows


def test_the_index_answers_with_files_and_names_that_exist() -> None:
    rows = index()
    assert len({question for question, _, _ in rows}) >= 24
    wrong = []
    for question, path, names in rows:
        if not (SOURCE / path).exists():
            wrong.append(f"{question}: no file {path}")
        else:
            wrong += [f"{question}: no {name} in {path}" for name in set(names) - defined(SOURCE / path)]
    assert not wrong, "\n".join(wrong)


def test_the_layout_names_every_module() -> None:
    section = read("docs/explanation/architecture.md").split("\n## Layout\n")[1].split("\n## ")[0]
    rooms = {
        room: set(re.findall(r"`(\w+)`", text))
        for room, text in re.findall(r"^\| `([\w/]*)` \| (.+) \|$", section, flags=re.MULTILINE)
    }
    for path in sorted(SOURCE.rglob("*.py")):
        folder = path.parent.relative_to(SOURCE).as_posix()
        room = "dispy/" if folder == "." else f"{folder}/"
        if path.stem not in ("__init__", "__main__"):
            assert path.stem in rooms.get(room, ()), f"{room}{path.stem} is not in the layout"
    for room, stems in rooms.items():
        folder = SOURCE if room == "dispy/" else SOURCE / room
        known = {path.stem for path in folder.glob("*")}
        assert stems <= known, f"{room}: {stems - known}"


def test_the_latest_release_is_short_enough_to_read() -> None:
    latest = read("CHANGELOG.md").split("\n## ")[1]
    assert len(latest.strip().splitlines()) <= RELEASE_LINES_MAX
