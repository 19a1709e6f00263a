"""Pages opened in a real Chromium that can reach no network."""

from __future__ import annotations

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


@dataclass(frozen=True)
class Opened:
    """A page after its scripts have run."""

    dom: str
    console: list[str]  # what it or the browser wrote there, errors and warnings too
    screenshot: Path


def open_page(page: Path, scratch: Path, size: str = "1200,1600") -> Opened:
    """Load a file, let ten virtual seconds pass, and take a picture."""
    assert BROWSER is not None
    screenshot = scratch / "page.png"
    command = [
        BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
        f"--user-data-dir={scratch / 'browser'}", f"--window-size={size}", "--hide-scrollbars",
        # Nothing but the file: every name fails to resolve, and every address goes to a dead proxy.
        "--host-resolver-rules=MAP * ~NOTFOUND", "--proxy-server=127.0.0.1:9",
        "--proxy-bypass-list=<-loopback>", "--virtual-time-budget=10000",
        "--enable-logging=stderr", "--dump-dom", f"--screenshot={screenshot}", page.as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=240)
    console = re.findall(r"CONSOLE.*", done.stderr)
    return Opened(done.stdout, console, screenshot)
