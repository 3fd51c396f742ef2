"""The reference of the site: made from the source, complete, and checked where people have written it."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest

import dispy
from dispy import config, errors, job
from dispy.cli.main import command as dispy_command
from dispy.cli.node import command as node_command
from dispy.cli.scheduler import command as scheduler_command
from docs_site import commands, exceptions, log_lines, pages, settings_table, variables

REFERENCE = pages.ROOT / "docs" / "reference"


def page(name: str) -> str:
    return (REFERENCE / f"{name}.md").read_text()


def all_filled() -> str:
    """All pages of the reference as Sphinx reads them."""
    return "\n".join(pages.filled(path.read_text(), path) for path in sorted(REFERENCE.glob("*.md")))


# Names.


def test_each_public_name_is_there_with_its_docstring() -> None:
    documented = set(re.findall(r"^\.\. auto\w+:: dispy\.(\w+)$", page("python"), flags=re.MULTILINE))
    named = set(re.findall(r"`dispy\.(\w+)`", page("python")))
    missing = (set(dispy.__all__) | set(dispy._HOMES)) - documented - named - {"DispyError"}
    assert not missing, f"add to docs/reference/python.md: {sorted(missing)}"


def test_each_name_that_is_documented_exists_and_has_a_docstring() -> None:
    for name in re.findall(r"^\.\. auto\w+:: dispy\.(\w+)$", page("python"), flags=re.MULTILINE):
        assert getattr(dispy, name).__doc__, name


def test_each_exception_is_there() -> None:
    text = exceptions.described(Path(errors.__file__).read_text(), "dispy.errors")
    found = {name for name, value in vars(errors).items() if isinstance(value, type)}
    assert set(re.findall(r"autoexception:: dispy\.errors\.(\w+)", text)) == found


def test_exceptions_are_grouped_by_the_comments_between_them() -> None:
    source = (
        '"""Text."""\nclass A(Exception): ...\n# We can act.\nclass B(A): ...\n'
        "class C(A): ...\n# Nobody.\nclass D(A): ...\n"
    )
    assert exceptions.groups(source) == [
        ("All", ["A"]),
        ("We can act", ["B", "C"]),
        ("Nobody", ["D"]),
    ]


def test_names_that_jobs_find_are_there() -> None:
    text = page("job-names")
    assert len(job.__all__) > 5
    assert [name for name in job.__all__ if f"| `{name}" not in text] == []


# Settings and variables.


def test_settings_are_those_of_the_module_with_their_values() -> None:
    found = settings_table.settings(Path(config.__file__).read_text())
    names = {name for name in vars(config) if name[0].isupper()} - {"TYPE_CHECKING", "Any", "UsageError"}
    assert {each.name for each in found} == names | {"ClientPort", "NodePort", "SharedSchedulerPort"}
    for each in found:
        assert each.text or each.name == "IPv4MulticastGroup", each.name
        if each.default:
            assert str(eval(each.default)) == str(getattr(config, each.name))


def test_a_table_of_settings() -> None:
    source = 'if X:\n    Port: int\n    """Port, ``a | b``."""\nLevel = 3\n"""Level\nof it."""\n_own = 4\n'
    assert settings_table.table(source).splitlines()[2:] == [
        "| `Port` | (follows) | Port, `a \\| b`. |",
        "| `Level` | `3` | Level of it. |",
    ]


def test_each_environment_variable_that_is_read_is_explained() -> None:
    names, unclear = variables.read_in(pages.SOURCE)
    assert unclear == [], "docs_site/variables.py cannot tell which variables these read"
    assert {"DISPY_SECRET", "XDG_STATE_HOME", "TMPDIR", "TEMP", "PYTHONPATH", "dispy_*"} <= names
    missing = {name for name in names if f"`{name}`" not in page("configuration")}
    assert not missing, f"add to docs/reference/configuration.md: {sorted(missing)}"


@pytest.mark.parametrize(
    ("source", "names", "is_clear"),
    [
        ('os.environ["A"]', {"A"}, True),
        ('os.environ.get("A", "")', {"A"}, True),
        ('os.environ.pop(here.NAME)\n', {"FROM_ELSEWHERE"}, True),
        ('os.getenv("A")', {"A"}, True),
        ('[os.environ.get(each) for each in ("A", "B")]', {"A", "B"}, True),
        ('os.environ.get(f"a_{b}")', {"a_*"}, True),
        ("os.environ.get(asked())", set(), False),
        ('settings.get("A")', set(), True),
    ],
)  # fmt: skip
def test_variables_are_found_in_each_form(
    tmp_path: Path, source: str, names: set[str], is_clear: bool
) -> None:
    (tmp_path / "one.py").write_text(source)
    (tmp_path / "two.py").write_text('NAME = "FROM_ELSEWHERE"')
    assert variables.read_in(tmp_path) == (names, [] if is_clear else ["one.py:1"])


# Commands.


@pytest.mark.parametrize(
    ("command", "name"),
    [(dispy_command, "dispy"), (node_command, "dispynode"), (scheduler_command, "dispyscheduler")],
)
def test_each_option_of_each_command_is_there(command: click.Command, name: str) -> None:
    text = commands.described(command, name)
    below = list(commands.commands(command, name))
    assert len(below) > 1 or not isinstance(command, click.Group)
    for typed, each in below:
        section = text.split(f"## `{typed}`\n", 1)[1].split("\n## ", 1)[0]
        for option in each.params:
            if isinstance(option, click.Option):
                for written in option.opts + option.secondary_opts:
                    assert f"`{written}`" in section, f"{typed} {written}"


def test_how_a_command_is_written_down() -> None:
    @click.command("try")
    @click.option("-n", "--number", default=3, show_default=True, help="How many | of <it>.")
    @click.option("--old", hidden=True)
    @click.option("--on/--off", default=True, help="Do it.")
    def command() -> None:
        """First line.

        \b
        Second.
        """

    assert commands.described(command, "my try").split("\n\n") == [
        "## `my try`",
        "First line.",
        "Second.",
        "```text\nmy try [OPTIONS]\n```",
        "| option | what it does |\n| --- | --- |\n"
        "| `-n`, `--number` INTEGER | How many \\| of \\<it\\>. Default: 3. |\n"
        "| `--on` / `--off` | Do it. |\n"
        "| `-h`, `--help` | Show this message and exit. |",
        "Options of dispy 4 that have no effect any more, or none yet: `--old`. "
        "[Coming from dispy 4](../how-to/coming-from-dispy-4.md) says what each does now.",
    ]


# Statuses.


def test_each_status_is_explained() -> None:
    text = page("statuses")
    for kind in (dispy.DispyJob, dispy.DispyNode):
        statuses = {
            name for name, value in vars(kind).items() if name[0].isupper() and isinstance(value, int)
        }
        statuses |= {name for name in kind.__annotations__ if name[0].isupper()}
        assert statuses
        for name in statuses:
            assert f"`{kind.__name__}.{name}`" in text, name
            assert f"| {getattr(kind, name)} |" in text, name


# Log lines.


def test_each_warning_and_error_of_the_log_is_explained_and_no_other() -> None:
    logged = log_lines.logged(pages.SOURCE)
    assert len(logged) > 90
    listed = log_lines.listed(page("log-lines"))
    assert len(listed) == len(set(listed))
    new = [f"{line.text}  ({line.place})" for line in logged if line.text not in listed]
    assert not new, "add to docs/reference/log-lines.md what they mean and what to do:\n" + "\n".join(new)
    gone = set(listed) - {line.text for line in logged}
    assert not gone, f"nothing logs these any more; remove them from docs/reference/log-lines.md: {gone}"


@pytest.mark.parametrize(
    ("source", "texts"),
    [
        ('logger.warning("a %s of %d", b, c)', ["a … of …"]),
        ('self._logger.error("a" "b")', ["ab"]),
        ('logger.exception("a %.0f s" if b else "c")', ["a … s", "c"]),
        ('say_fault(logger, "a %s", b, error=c)', ["a …"]),
        ('logger.log(level, "a")', ["a"]),
        ('warnings.warning("a")\nlogger.info("b")', []),
        ("logger.warning(text)", []),
        ('_say_once(3, f"a {b} c")', ["a … c"]),
        ('_say_once(logging.INFO, "a")', []),
        ('notice(f"a {b}" f"{c!r} d")\nnotice("e", logging.WARNING)', ["a …… d", "e"]),
        ('x = LogLimit(LOG_EVERY_S, LOG_LINES_MAX, logger.warning, later)\nself._log.line(a, b, "c %s", d)', ["c …"]),
        ('self._log.line(a, b, "c %s", d)', []),
    ],
)  # fmt: skip
def test_lines_of_the_log_are_found_in_each_form(source: str, texts: list[str]) -> None:
    assert [line.text for line in log_lines.in_module(source, "one.py")] == texts


# Pages.


def test_a_place_that_nothing_fills_is_an_error() -> None:
    with pytest.raises(pages.UnknownPlace, match=r"a\.md: nothing fills the place 'nonsense'.* dispynode"):
        pages.filled("<!-- filled from the source: nonsense -->", REFERENCE / "a.md")


def test_all_places_are_filled() -> None:
    text = all_filled()
    assert "filled from the source" not in text
    for part in ("## `dispy secret new`", "`--spool_max`", "`DispyPort`", "dispy.errors.InternalError"):
        assert part in text


def test_links_to_files_outside_of_the_docs_lead_to_the_repository() -> None:
    text = "[a](../../CONTRIBUTING.md#tone) [b](../how-to/map.md#x) [c](https://example.org) [d](map.md)"
    assert pages.filled(text, REFERENCE / "a.md") == (
        f"[a]({pages.REPOSITORY}/CONTRIBUTING.md#tone) [b](../how-to/map.md#x) [c](https://example.org) [d](map.md)"
    )
