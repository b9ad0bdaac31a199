"""Pages in a real browser: Chromium without a network, which tells of every error."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page, sync_playwright

CHROMIUM = "/usr/bin/chromium"


@contextmanager
def chromium() -> Iterator[Browser]:
    """A browser. Starting one takes about a second: one per module of tests."""
    with sync_playwright() as playwright:
        # Its sandbox needs a user that is not root.
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


@dataclass
class Opened:
    """A page and what it complained about."""

    page: Page
    problems: list[str] = field(default_factory=list)  # console messages, errors, dialogs
    requests: list[str] = field(default_factory=list)  # other than for the page itself

    def texts(self, selector: str) -> list[str]:
        """The texts of the elements that are found."""
        return self.page.locator(selector).all_inner_texts()

    def wait_until(self, is_so: Callable[[], bool], within_ms: int = 20_000) -> None:
        """Wait for what an animation, or a frame of the screen, brings. (Playwright's own
        wait_for_function evaluates text in the page, which the pages' policy forbids.)"""
        for _ in range(within_ms // 50):
            if is_so():
                return
            self.page.wait_for_timeout(50)
        raise AssertionError("it did not come")


@contextmanager
def opened(browser: Browser, path: Path, **options: Any) -> Iterator[Opened]:
    """A file in the browser. Fails if it complained, or asked for anything beside the file."""
    context = browser.new_context(**{"reduced_motion": "reduce", **options})
    page = context.new_page()
    seen = Opened(page)
    page.on("console", lambda message: seen.problems.append(message.text))
    page.on("pageerror", lambda error: seen.problems.append(str(error)))

    def refuse(dialog: Any) -> None:
        seen.problems.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    page.on("dialog", refuse)
    page.on("request", lambda request: seen.requests.append(request.url))
    try:
        page.goto(path.as_uri())
        yield seen
    finally:
        context.close()
    assert seen.problems == []
    assert seen.requests == [path.as_uri()]
