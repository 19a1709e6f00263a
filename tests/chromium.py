"""Pages opened in a real Chromium that can reach no network."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser")
needs_chromium = pytest.mark.skipif(
    BROWSER is None, reason="no Chromium here: `apt-get install chromium`"
)


# Before any other script of the page; the browser logs warnings and errors alike.
_WATCH = """<script>
const problems = [];
const tell = text => {
  problems.push(text);
  document.documentElement.dataset.problems = JSON.stringify(problems);
};
addEventListener("error", event => tell(event.message || `not loaded: ${event.target.outerHTML}`), true);
addEventListener("unhandledrejection", event => tell(String(event.reason)));
console.error = (...parts) => tell(parts.join(" "));
</script>"""


@dataclass(frozen=True)
class Opened:
    """A page after its scripts have run."""

    dom: str
    problems: list[str]  # errors thrown or written to the console, and what could not be loaded
    screenshot: Path


def open_page(page: Path, scratch: Path, size: str = "1200,1600") -> Opened:
    """Load a copy of a file, let ten virtual seconds pass, and take a picture."""
    watched = scratch / "watched.html"
    text = page.read_text(encoding="utf-8")
    watched.write_text(text.replace("<head>", f"<head>{_WATCH}", 1), encoding="utf-8")
    dom = _browse(watched, scratch, size, "--dump-dom")
    _browse(watched, scratch, size, f"--screenshot={scratch / 'page.png'}")
    found = re.search('<html[^>]* data-problems="([^"]*)"', dom)
    problems = json.loads(html.unescape(found[1])) if found else []
    return Opened(dom, problems, scratch / "page.png")


def _browse(page: Path, scratch: Path, size: str, action: str) -> str:
    assert BROWSER is not None
    command = [
        BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
        f"--user-data-dir={scratch / 'browser'}", f"--window-size={size}", "--hide-scrollbars",
        # Nothing but the file: every name fails to resolve, and every address goes to a dead proxy.
        "--host-resolver-rules=MAP * ~NOTFOUND", "--proxy-server=127.0.0.1:9",
        "--proxy-bypass-list=<-loopback>", "--virtual-time-budget=10000", action, page.as_uri(),
    ]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=240).stdout
