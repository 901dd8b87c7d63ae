"""A page as a real browser lays it out: Chromium without a window, at a given width."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html import escape, unescape
from pathlib import Path
from typing import Any

import pytest
from patience import patient

CHROMIUM = next(
    (
        path
        for name in ("chromium", "chromium-browser", "google-chrome", "chrome")
        if (path := shutil.which(name))
    ),
    None,
)
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium or Chrome is installed")

#: Put at the end of a page in a frame, because a window is at least 500 pixels wide;
#: writes what it finds into an attribute of the document around it.
_MEASURE = """<script>addEventListener("load", () => {
  const wide = innerWidth + 0.5, all = [...document.body.querySelectorAll("*")];
  const scrolls = e => e &&
    (getComputedStyle(e).overflowX != "visible" || scrolls(e.parentElement));
  const out = all.filter(e => e.getBoundingClientRect().right > wide && !scrolls(e.parentElement));
  const cut = all.filter(e => e.children.length == 0 && e.scrollWidth > e.clientWidth + 1 &&
    e.clientWidth && getComputedStyle(e).overflowX != "visible");
  parent.document.documentElement.dataset.found = JSON.stringify({
    window: innerWidth, page: document.documentElement.scrollWidth,
    outside: out.map(e => e.tagName + ": " + e.textContent.slice(0, 40)),
    cut: cut.map(e => e.tagName + ": " + e.textContent.slice(0, 40)),
    pictures: [...document.images].map(i => ({ loaded: i.naturalWidth > 0, alt: i.alt,
      width: i.getBoundingClientRect().width, natural: i.naturalWidth })),
    dark: matchMedia("(prefers-color-scheme: dark)").matches,
  });
});</script>"""


def laid_out(page: Path, width: int) -> dict[str, Any]:
    """Measure a page in a window of some width in pixels.

    Returns
    -------
    dict
        ``window`` and ``page``, widths in pixels; ``outside``, elements that reach beyond the
        window and cannot be scrolled to; ``cut``, texts that are cut; ``pictures``, whether each
        is ``loaded``, its ``alt``, its ``width`` on the page and its ``natural`` one.
    """
    assert CHROMIUM is not None
    measured = page.with_name(f"{page.stem}-measured.html")
    inside = escape(page.read_text() + _MEASURE)
    frame = f'<iframe style="border:0;width:{width}px;height:1000px" srcdoc="{inside}"></iframe>'
    measured.write_text(f"<!doctype html><meta charset=utf-8>{frame}")
    done = subprocess.run(
        [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
         f"--window-size={width + 100},1100", "--virtual-time-budget=10000", "--dump-dom",
         measured.resolve().as_uri()],
        capture_output=True, text=True, timeout=patient(60),
    )  # fmt: skip
    measured.unlink()
    found = re.search(r'data-found="([^"]*)"', done.stdout)
    assert found, done.stderr[-2000:]
    return json.loads(unescape(found[1]))
