"""Names and paths of files: what may land somewhere, and what may not."""

from __future__ import annotations

import msgspec
import pytest

from dispy.protocol import limits
from dispy.protocol.files import FileEntry, check_entries, check_number, check_path, replace_entries


def entry(path: str, content: int = 0) -> FileEntry:
    return FileEntry(path, bytes([content]) * 32, 1, 0o644, 0)


@pytest.mark.parametrize(
    "path", ["a", "a/b", ".hidden", "a b", "ü/😀", "a..b", "...", "-rf", "a:b", "~", "$HOME"]
)
def test_an_ordinary_path_is_taken_apart(path: str) -> None:
    assert "/".join(check_path(path)) == path


@pytest.mark.parametrize(
    ("path", "fault"),
    [
        ("", "0 characters"),
        ("/etc/passwd", "absolute"),
        ("..", "'..' is not a name"),
        ("a/../../b", "'..' is not a name"),
        ("./a", "'.' is not a name"),
        ("a//b", "'' is not a name"),
        ("a/", "'' is not a name"),
        ("a\\b", "backslash"),
        ("a\nb", "cannot be printed"),
        ("a\0b", "cannot be printed"),
        ("a\x7f", "cannot be printed"),
        ("\udcff", "cannot be printed"),
        ("gpj\u202e.exe", "cannot be printed"),
        (".dispy-1", "are ours"),
        ("é" * 121, "more than 240 bytes"),
        ("a" * 200 + "/" + "b" * 900, "characters"),
        ("/".join("a" * (limits.DEPTH_MAX + 1)), "65 levels"),
    ],
)
def test_a_path_that_is_refused_says_why(path: str, fault: str) -> None:
    with pytest.raises(ValueError) as caught:
        check_path(path)
    assert fault in str(caught.value)
    assert str(caught.value).isprintable()


def test_files_must_not_lie_on_each_other() -> None:
    check_entries([entry("a"), entry("b/c"), entry("b/d"), entry("a")])
    with pytest.raises(ValueError, match="two different files are to be 'a'"):
        check_entries([entry("a"), entry("a", 1)])
    with pytest.raises(ValueError, match="'a' is to be a file and a directory"):
        check_entries([entry("a/b/c"), entry("a")])
    with pytest.raises(ValueError, match="two different files"):
        check_entries([entry("a")], {"a": entry("a", 1)})


@pytest.mark.parametrize(
    ("newer", "left"),
    [
        (["new"], ["a", "d/x", "d/y/z", "dd"]),
        (["a"], ["d/x", "d/y/z", "dd"]),
        (["d"], ["a", "dd"]),
        (["d/y"], ["a", "d/x", "dd"]),
        (["a/b/c", "dd/e"], ["d/x", "d/y/z"]),
        (["d/x/below"], ["a", "d/y/z", "dd"]),
    ],
)
def test_newer_files_take_the_place_of_what_is_in_their_way(newer: list[str], left: list[str]) -> None:
    """Of the same path, of a directory above, and below what was a directory: the list can be checked again."""
    known = [entry(path) for path in ("a", "d/x", "d/y/z", "dd")]
    found = replace_entries(known, [entry(path, 1) for path in newer])
    assert [item.path for item in found] == left + newer
    assert all(item.digest[0] == (item.path in newer) for item in found)
    check_entries(found)


def test_a_list_of_files_fits_a_message() -> None:
    """By their number, and by their names together, however these are written."""
    most = [entry(f"{number}") for number in range(limits.FILES_MAX)]
    check_number(most)
    with pytest.raises(ValueError, match=f"{limits.FILES_MAX + 1} files"):
        check_number([*most, entry("more")])
    for letter in ("a", "ü", "😀"):
        largest = FileEntry(letter * limits.PATH_MAX, b"1" * 32, 1 << 50, 0o777, 1 << 62, (1 << 32) - 1)
        size = len(msgspec.msgpack.encode(largest))
        assert size <= limits.ENTRY_MAX
        many = [largest] * (limits.MANIFEST_MAX // size + 1)
        with pytest.raises(ValueError, match="too long together"):
            check_number(many)
        check_number(many[: len(many) * 9 // 10])
