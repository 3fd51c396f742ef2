"""The fuzzers of real nodes say what they should, see what they should, and undo what they did."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from dispy.protocol import limits, shared
from dispy.protocol.files import FileEntry
from dispy.protocol.node import to_node_decoder
from dispy.protocol.shared import to_scheduler_decoder

from . import commands, reverts
from .attacker import Attacker
from .canaries import MARKER, Canaries, differences, find_marker
from .messages import BY_DIGEST, MESSAGES, Generator
from .nodes import ROOT
from .raw_talk import encode

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can make files of others")

MESSAGES_TRIED = 3000


# What a hostile client says.


def drawn(seed: str, count: int) -> list[bytes]:
    generator = Generator(random.Random(seed), [b"code"], [b"call"])
    return [encode(generator.message()) for _ in range(count)]


def test_a_seed_says_the_same_again() -> None:
    assert drawn("1", 200) == drawn("1", 200)
    assert drawn("1", 200) != drawn("2", 200)


def test_every_message_is_said_and_can_be_read() -> None:
    """The types are kept, so that messages get past the decoder: what they say is for the node to bear."""
    kinds = Counter(type(to_node_decoder.decode(body)) for body in drawn("1", MESSAGES_TRIED))
    assert set(kinds) == set(MESSAGES)
    assert min(kinds.values()) > MESSAGES_TRIED / len(MESSAGES) / 3


def test_messages_reach_the_bounds() -> None:
    """Hostile values are said, and those that make messages mean something."""
    generator = Generator(random.Random("1"), [], [])
    entries = [generator.make(FileEntry) for _ in range(3000)]
    assert max(entry.size for entry in entries) == 1 << 50
    assert max(len(entry.path.split("/")) for entry in entries) == limits.DEPTH_MAX
    assert sum(len(BY_DIGEST.get(entry.digest, b"")) == entry.size for entry in entries) > 100
    assert any(".." in entry.path for entry in entries)


# What a hostile program says.


def said_to_a_scheduler(seed: str, count: int, *, is_tame: bool) -> list[bytes]:
    chance, manners, said = random.Random(seed), commands.Manners(), []
    generator = commands.new_generator(chance, [b"code"], [b"call"], [b"n" * 16])
    for _ in range(count):
        message = generator.message()
        said.append(encode(manners.tame(message, chance, [b"code"], [b"call"]) if is_tame else message))
    return said


@pytest.mark.parametrize("is_tame", [False, True])
def test_a_program_says_every_message_and_a_seed_the_same_again(is_tame: bool) -> None:
    bodies = said_to_a_scheduler("1", MESSAGES_TRIED, is_tame=is_tame)
    kinds = Counter(type(to_scheduler_decoder.decode(body)) for body in bodies)
    assert set(kinds) == set(commands.MESSAGES)
    assert bodies[:200] == said_to_a_scheduler("1", 200, is_tame=is_tame)
    assert bodies[:200] != said_to_a_scheduler("2", 200, is_tame=is_tame)


def test_a_tame_program_keeps_the_rules_of_a_scheduler() -> None:
    """Numbers are not used twice, and payloads are announced where they have a place."""
    jobs, blobs = [], []
    for body in said_to_a_scheduler("1", 3 * MESSAGES_TRIED, is_tame=True):
        message = to_scheduler_decoder.decode(body)
        blobs += [each.blob for each in getattr(message, "large", [])]
        if type(message) is shared.Submit:
            jobs += [job.number for job in message.jobs]
            assert all(each.index < len(message.jobs) and not each.field for each in message.large)
    assert len(jobs) == len(set(jobs)) > 100
    assert len(blobs) == len(set(blobs)) > 100


def test_a_hostile_program_is_borne_for_some_seconds() -> None:
    """All of the fuzzer, in a process of its own: a scheduler, a node, an honest program, and talks."""
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "tests.fuzz",
            "program",
            "--seconds",
            "60",
            "--inputs",
            "1500",
            "--seed",
            "1",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert " 0 faults" in done.stdout


# What is seen of a hostile job.


@pytest.fixture
def canaries(tmp_path: Path) -> Canaries:
    tmp_path.chmod(0o755)
    made = Canaries(tmp_path / "canaries")
    made.make()
    return made


@needs_root
@pytest.mark.parametrize(
    "change",
    [
        lambda tree: (tree / "etc" / "passwd").chmod(0o440),
        lambda tree: os.chown(tree / "etc" / "passwd", 65534, -1),
        lambda tree: (tree / "etc" / "passwd").write_text("another"),
        lambda tree: (tree / "etc" / "new").write_text("new"),
        lambda tree: (tree / "etc" / "passwd").unlink(),
        lambda tree: os.link(tree / "etc" / "passwd", tree / "etc" / "link"),
        lambda tree: (tree / "sub").rename(tree / "bus"),
        lambda tree: os.utime(tree / "etc" / "passwd", ns=(1, 1)),
        lambda tree: (tree / "w2").chmod(0o700),
    ],
)
def test_what_is_done_to_canaries_shows(canaries: Canaries, change: object) -> None:
    before, glance = canaries.snapshot(), canaries.glance()
    assert not differences(dict(before), dict(canaries.snapshot()))
    assert not differences(dict(glance), dict(canaries.glance()))
    change(canaries.trees[0])  # type: ignore[operator]  # one of the above
    assert differences(dict(before), dict(canaries.snapshot()))
    assert differences(dict(glance), dict(canaries.glance()))
    canaries.close()


@needs_root
def test_who_opens_a_canary_is_seen(canaries: Canaries) -> None:
    canaries.snapshot()
    assert canaries.opened() == []
    subprocess.run(["cat", canaries.secrets[0]], stdout=subprocess.DEVNULL, check=True)
    (told,) = canaries.opened()
    assert str(canaries.secrets[0]) in told
    assert canaries.opened() == []
    canaries.close()


@needs_root
def test_a_secret_that_the_account_can_read_is_found(canaries: Canaries, tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    copy = work / "copy"
    copy.write_text(canaries.secrets[0].read_text())
    copy.chmod(0o600)
    assert find_marker([str(work)], 65534) == []
    os.chown(copy, 65534, 65534)
    assert find_marker([str(work)], 65534) == [str(copy)]
    canaries.close()


@needs_root
def test_a_tree_that_is_deeper_than_paths_is_looked_through(canaries: Canaries, tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    descriptor = os.open(work, os.O_RDONLY)
    for _ in range(3000):
        os.mkdir("d", dir_fd=descriptor)
        below = os.open("d", os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = below
    os.close(descriptor)
    assert find_marker([str(work)], 65534) == []
    subprocess.run(["rm", "-rf", "--", work], check=True)
    canaries.close()


def test_what_goes_to_nodes_has_no_marker() -> None:
    for path in Path(__file__).parent.glob("*.py"):
        assert MARKER not in path.read_text(), path


@pytest.mark.parametrize("number", range(8))
def test_each_attack_does_something_and_ends(tmp_path: Path, number: int) -> None:
    """They run as the account, where their errors are not seen."""
    top = tmp_path / "top" / "w1"
    (top / "w2" / "etc" / "sub").mkdir(parents=True)
    (top / "w2" / "etc" / "passwd").write_text("x")
    outside = tmp_path / "outside"
    (outside / "etc").mkdir(parents=True)
    (outside / "etc" / "passwd").write_text("y")
    settings = tmp_path / "settings.json"
    paths = {
        "tops": top,
        "used": top,
        "canaries": outside,
        "secrets": outside / "etc" / "passwd",
        "reports": tmp_path,
    }
    given = {name: [str(path)] for name, path in paths.items()}
    settings.write_text(json.dumps({**given, "links_to_root": [], "only": []}))
    attacker = Attacker(str(settings), f"{number}", "all")
    assert attacker._read_settings()
    attack = attacker._attacks[number]
    for _ in range(20):
        if top.exists():
            attack(str(top), _soon())
    if attack.__name__ not in ("race_new_files", "write_to_what_is_not_ours"):  # which wait for others
        assert attacker._counts, attack.__name__
    assert (outside / "etc" / "passwd").read_text() == "y"


def _soon() -> float:
    return time.monotonic() + 0.005


@needs_root
def test_nothing_but_the_place_can_be_written_in_the_sandbox(tmp_path: Path) -> None:
    (tmp_path / "place").mkdir()
    (tmp_path / "beside").mkdir()
    script = (
        "import pathlib, sys\n"
        "from tests.fuzz import sandbox\n"
        "place, beside = map(pathlib.Path, sys.argv[1:])\n"
        "refused = sandbox.enter(place)\n"
        "if refused: sys.exit('SKIP ' + refused)\n"
        "(place / 'made').touch()\n"
        "pathlib.Path('/dev/shm/made-in-sandbox').touch()\n"
        "try: (beside / 'made').touch()\n"
        "except OSError: print('read-only')\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "place"), str(tmp_path / "beside")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    if done.stderr.startswith("SKIP"):
        pytest.skip(done.stderr)
    assert done.stdout == "read-only\n", done.stderr
    assert (tmp_path / "place" / "made").exists()
    assert not Path("/dev/shm/made-in-sandbox").exists()


# Known faults.


@pytest.mark.parametrize("mutation", reverts.MUTATIONS, ids=lambda mutation: mutation.name)
def test_a_mutation_fits_the_source(mutation: reverts.Mutation, tmp_path: Path) -> None:
    reverts.copy_source(tmp_path)
    before = {name: (tmp_path / name).read_text() for name, _, _ in mutation.changes}
    reverts.apply(mutation, tmp_path)
    for name, text in before.items():
        changed = (tmp_path / name).read_text()
        assert changed != text
        compile(changed, name, "exec")


def test_a_mutation_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    (tmp_path / "module.py").write_text("a = 1\na = 1\n")
    for old in ("a = 1", "b = 2"):
        with pytest.raises(ValueError, match="has the text"):
            reverts.apply(reverts.Mutation("m", "jobs", (("module.py", old, ""),)), tmp_path)
