"""The check of the built site finds each kind of fault, and none in a site without."""

from __future__ import annotations

from pathlib import Path

import pytest

from docs_site.links import faults


def site(tmp_path: Path, body: str, css: str = "") -> list[str]:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "b.html").write_text('<h1 id="place">b</h1><a name="old"></a>')
    (tmp_path / "s.css").write_text(css)
    (tmp_path / "a.html").write_text(f'<h1 id="top">a</h1>{body}')
    return faults(tmp_path)


@pytest.mark.parametrize(
    "body",
    [
        '<a href="there/b.html">b</a>',
        '<a href="there/b.html#place">b</a><a href="there/b.html#old">b</a>',
        '<a href="#top">a</a><a href="#">a</a><a href="a.html#top">a</a>',
        '<a href="https://example.org/x#y">elsewhere</a><a href="mailto:a@example.org">write</a>',
        '<link rel="stylesheet" href="s.css"><link rel="canonical" href="https://example.org/">',
        '<img src="data:image/png;base64,AA">',
    ],
)
def test_a_sound_page(tmp_path: Path, body: str) -> None:
    assert site(tmp_path, body) == []


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        ('<a href="gone.html">x</a>', "links to gone.html: there is no such file"),
        ('<a href="there/b.html#gone">x</a>', "links to there/b.html#gone: that page has no such place"),
        ('<a href="#gone">x</a>', "links to #gone: that page has no such place"),
        ('<a href="http://example.org">x</a>', "links to http://example.org: use https"),
        ('<a href="javascript:x()">x</a>', "links to javascript:x(): use https"),
        ('<script src="https://cdn.example.org/a.js"></script>', "fetches https://cdn.example.org/a.js"),
        ('<script src="//cdn.example.org/a.js"></script>', "fetches //cdn.example.org/a.js"),
        ('<img src="https://example.org/a.png">', "fetches https://example.org/a.png"),
        (
            '<link rel="preconnect stylesheet" href="https://f.example.org/">',
            "fetches https://f.example.org/",
        ),
    ],
)
def test_each_kind_of_fault(tmp_path: Path, body: str, fault: str) -> None:
    assert site(tmp_path, body) == [f"a.html {fault}"]


@pytest.mark.parametrize(
    "css", ["@import url(https://f.example.org/a.css);", "a{src:url(//f.example.org/x)}"]
)
def test_style_that_fetches_from_elsewhere(tmp_path: Path, css: str) -> None:
    assert site(tmp_path, "", css) == ["s.css fetches from elsewhere"]
