"""A page opened in a real browser without a window: what its scripts leave on it, and what it looks like."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")


def installed() -> str | None:
    """The browser that is installed, if one is."""
    return next((path for name in BROWSERS if (path := shutil.which(name))), None)


def dom_after(page: Path, profile: Path, milliseconds: int = 2000) -> str:
    """The document of `page` as markup, once its scripts have had so long of the browser's own time."""
    browser = installed()
    assert browser
    command = [
        browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
        f"--user-data-dir={profile}", f"--virtual-time-budget={milliseconds}", "--dump-dom", page.as_uri(),
    ]  # fmt: skip
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout
