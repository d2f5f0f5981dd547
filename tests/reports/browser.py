"""A headless Chromium that looks at a page as a user would, and keeps what went wrong."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
PHONE = {"width": 390, "height": 844}
DESKTOP = {"width": 1180, "height": 900}


def chromium_path() -> str | None:
    """Where this machine has a Chromium, if it has one."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


@contextmanager
def browser() -> Iterator[Browser]:
    """A Chromium; the test is skipped where there is none."""
    path = chromium_path()
    if path is None:
        pytest.skip(f"no Chromium on PATH (looked for {', '.join(NAMES)})")
    # Chromium refuses its sandbox to the administrator, whom containers often run as.
    arguments = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=arguments)
        try:
            yield chromium
        finally:
            chromium.close()


@dataclass
class View:
    """One page in a window of its own."""

    page: Page
    complaints: list[str] = field(default_factory=list)
    """What the console said, and errors of the script."""
    requests: list[str] = field(default_factory=list)
    """All that was asked for, the page itself first."""

    def text(self, selector: str) -> str:
        """What one element shows."""
        return self.page.locator(selector).first.inner_text()


@contextmanager
def view(
    chromium: Browser,
    address: str,
    *,
    size: dict[str, int] = DESKTOP,
    scheme: str = "light",
    has_script: bool = True,
) -> Iterator[View]:
    """A page in a window; closed at the end, with whatever it stored."""
    context = chromium.new_context(
        viewport={"width": size["width"], "height": size["height"]},
        color_scheme="dark" if scheme == "dark" else "light",
        java_script_enabled=has_script,
    )
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    shown = View(context.new_page())
    shown.page.set_default_timeout(10_000)
    shown.page.on("console", lambda message: shown.complaints.append(message.text))
    shown.page.on("pageerror", lambda error: shown.complaints.append(str(error)))
    shown.page.on("request", lambda request: shown.requests.append(request.url))
    try:
        shown.page.goto(address)
        yield shown
    finally:
        context.close()
