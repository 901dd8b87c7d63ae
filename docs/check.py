"""Check a built site: local links and anchors lead somewhere, nothing is fetched from another host,
every public name has a docstring.

    python docs/check.py site
"""

from __future__ import annotations

import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import generate


class Page(HTMLParser):
    """Links, anchors and what a browser would fetch of one page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.fetched: list[str] = []
        self.anchors: set[str] = set()
        self.without_text: list[str] = []
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Record one element."""
        found = dict(attrs)
        self.anchors |= {v for k in ("id", "name") if (v := found.get(k))}
        if tag == "a" and found.get("href"):
            self.links.append(str(found["href"]))
        if tag == "img" and not found.get("alt"):
            self.without_text.append(str(found.get("src")))
        link = found.get("href") if tag == "link" and found.get("rel") != "canonical" else None
        for source in (found.get("src"), link):
            if source:
                self.fetched.append(source)


def anchors(page: Page | None) -> set[str]:
    """Those of a page; the empty one alone of another file."""
    return page.anchors if page is not None else set()


def check(site: Path) -> list[str]:
    """Faults of a site, a line each."""
    pages = {path.resolve(): Page(path) for path in site.rglob("*.html")}
    faults = [f"no docstring: {name}" for name in generate.undocumented()]
    for path, page in pages.items():
        where = path.relative_to(site.resolve())
        faults += [f"{where}: picture without text: {src}" for src in page.without_text]
        for link in (*page.links, *page.fetched):
            url = urlsplit(link)
            if url.scheme or url.netloc:
                if link in page.fetched and url.scheme != "data":
                    faults.append(f"{where}: fetched from another host: {link}")
                continue
            target = (path.parent / unquote(url.path)).resolve() if url.path else path
            if not target.exists():
                faults.append(f"{where}: no file for {link}")
            elif url.fragment and unquote(url.fragment) not in anchors(pages.get(target)):
                faults.append(f"{where}: no anchor for {link}")
    for path in site.rglob("*.css"):
        for url in re.findall(r"(?:url\(|@import )[\"']?https?:[^)\"']+", path.read_text()):
            faults.append(f"{path.relative_to(site)}: fetched from another host: {url}")
    return faults


if __name__ == "__main__":
    found = check(Path(sys.argv[1]))
    sys.stdout.write("".join(f"docs: {fault}\n" for fault in found))
    sys.exit(1 if found else 0)
