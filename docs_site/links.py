"""Checks of a built site: every link leads to a page and a place in it, and no page fetches from elsewhere."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

FETCHED = {
    "script": "src",
    "img": "src",
    "link": "href",
    "iframe": "src",
    "source": "src",
    "object": "data",
}
"""Attributes whose address a browser fetches when the page is read, by tag."""

FETCHED_LINKS = frozenset(
    {"stylesheet", "icon", "preload", "preconnect", "prefetch", "modulepreload", "manifest"}
)
"""Values of ``rel`` for which a browser fetches what a ``<link>`` names."""


class Page(HTMLParser):
    """What a page of HTML has.

    Attributes:
        anchors: Names of places in it.
        links: Addresses it links to.
        fetched: Addresses that a browser fetches when the page is read.
    """

    def __init__(self, text: str) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.fetched: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note anchors and addresses of a tag."""
        given = {name: value or "" for name, value in attrs}
        self.anchors.update(given[name] for name in ("id", "name") if given.get(name))
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        address = given.get(FETCHED.get(tag, ""), "")
        if address and (tag != "link" or FETCHED_LINKS & set(given.get("rel", "").split())):
            self.fetched.append(address)


def faults(site: Path) -> list[str]:
    """Returns what is wrong with a site, a line each: links that lead nowhere, pages that fetch from elsewhere.

    Args:
        site: Directory of the built site.
    """
    pages = {path: Page(path.read_text(encoding="utf-8")) for path in sorted(site.rglob("*.html"))}
    found = []
    for path, page in pages.items():
        name = path.relative_to(site).as_posix()
        found += [f"{name} fetches {address}" for address in page.fetched if _is_elsewhere(address)]
        for link in page.links:
            found += _fault(name, path, link, pages)
    for path in sorted(site.rglob("*.css")):
        text = path.read_text(encoding="utf-8", errors="replace")
        if "@import url(http" in text or "url(http" in text or "url(//" in text:
            found.append(f"{path.relative_to(site).as_posix()} fetches from elsewhere")
    return found


def _is_elsewhere(address: str) -> bool:
    parts = urlsplit(address)
    return bool(parts.netloc) or parts.scheme not in ("", "data")


def _fault(name: str, path: Path, link: str, pages: dict[Path, Page]) -> list[str]:
    """Returns what is wrong with a link of a page: nothing, or one line."""
    parts = urlsplit(link)
    if parts.scheme or parts.netloc:
        return [] if parts.scheme in ("https", "mailto") else [f"{name} links to {link}: use https"]
    target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
    if not target.exists():
        return [f"{name} links to {link}: there is no such file"]
    anchor = unquote(parts.fragment)
    if anchor and target in pages and anchor not in pages[target].anchors:
        return [f"{name} links to {link}: that page has no such place"]
    return []
