"""Blocks of pages are read as they are meant, and what a page shows is compared in full."""

from __future__ import annotations

import pytest

from tests.integration.pages import Step, is_shown, steps

PAGE = """# A page

```python
# work.py on a
print(1)
```

Words with `code`.

```sh
# on b, in a terminal that stays open
dispynode
```

```text
dispynode 'b'
```

```{toctree}
:glob:
```

```sh
python work.py
```

```text
1
```

```sh
# on b: press Ctrl-C in the terminal of dispynode
```

```sh
# on a: wait for the end of work
```
"""


def test_steps_of_a_page() -> None:
    assert steps(PAGE) == [
        Step("file", "a", "work.py", "# work.py on a\nprint(1)\n", None),
        Step("start", "b", "", "# on b, in a terminal that stays open\ndispynode\n", "dispynode 'b'\n"),
        Step("run", "", "", "python work.py\n", "1\n"),
        Step("interrupt", "b", "dispynode", "# on b: press Ctrl-C in the terminal of dispynode\n", None),
        Step("wait", "a", "work", "# on a: wait for the end of work\n", None),
    ]


@pytest.mark.parametrize(
    "page",
    [
        "```text\nof nothing\n```\n",
        "```sh\ntrue\n```\n```text\nonce\n```\n```text\ntwice\n```\n",
        "```python\nprint('no name')\n```\n",
        "```toml\na = 1\n```\n",
        "```sh\n# on b, and later\ntrue\n```\n",
    ],
)
def test_a_block_that_nobody_would_run_is_a_fault(page: str) -> None:
    with pytest.raises(ValueError, match=r"output of nothing|does not (name|say)"):
        steps(page)


@pytest.mark.parametrize(
    ("shown", "came", "is_same"),
    [
        ("a\nb\n", "a\nb\n", True),
        ("a\nb\n", "a\nb", True),
        ("a\n", "a\nb\n", False),
        ("a\nb\n", "a\n", False),
        ("a\n", "A\n", False),
        ("took … s\n", "took 0.3 s\n", True),
        ("took … s\n", "took 0.3 s more\n", False),
        ("took … s\n", "took\n s\n", False),
        ("a\n…\nz\n", "a\nz\n", True),
        ("a\n…\nz\n", "a\nb\nc\nz\n", True),
        ("a\n…\nz\n", "a\nb\nc\n", False),
        ("…\nz\n", "b\n\nz\n", True),
        ("a.c\n", "abc\n", False),
        ("", "\n", True),
        ("", "a\n", False),
    ],
)
def test_what_a_page_shows_is_all_that_came(shown: str, came: str, is_same: bool) -> None:
    assert is_shown(shown, came) == is_same


@pytest.mark.parametrize(
    ("shown", "is_same"),
    [
        ("1\n2\nwarning\n3\n", True),
        ("warning\n1\n2\n3\n", True),
        ("1\n2\n3\nwarning\n", True),
        ("1\n3\n2\nwarning\n", False),
        ("1\n2\n3\n", False),
        ("1\nwarning\n3\n", False),
        ("1\n…\n3\n", True),
        ("1\n…\nwarning\n", True),
        ("1\n…\n2\n", False),
        ("…\n", True),
    ],
)
def test_lines_of_two_streams_may_come_in_any_order_of_the_two(shown: str, is_same: bool) -> None:
    assert is_shown(shown, "1\n2\n3\n", "warning\n") == is_same
