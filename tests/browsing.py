"""A browser that drives pages as their readers would, and hears what they say and ask for."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium without a window; where there is none, whoever asks for it is skipped."""
    if CHROMIUM is None:
        pytest.skip("no chromium here to drive the page with (apt install chromium)")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        # Its sandbox needs rights that containers do not give.
        launched = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield launched
        launched.close()


@dataclass
class Opened:
    """A page, what it said on the console, and what it asked for."""

    page: Any
    said: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)


@pytest.fixture
def visit(browser: Any) -> Iterator[Callable[..., Any]]:
    """Opens an address; in the end nothing was said on any console, and nothing asked for but the file itself."""
    opened: list[Opened] = []

    def go(path: Path, at: str = "", *, width: int = 1400, scheme: Any = "light") -> Any:
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        own = Opened(context.new_page())
        opened.append(own)
        own.page.on("console", lambda message: own.said.append(message.text))
        own.page.on("pageerror", lambda error: own.said.append(str(error)))
        own.page.on("dialog", lambda dialog: own.said.append(dialog.message))
        own.page.on("request", lambda request: own.asked.append(request.url))
        own.page.set_default_timeout(30_000)
        own.page.goto(f"{path.as_uri()}{'#' if at else ''}{at}")
        return own.page

    yield go
    for one in opened:
        one.page.wait_for_timeout(20)
        assert one.said == []
        assert len([url for url in one.asked if not url.startswith("data:")]) == 1, one.asked
        one.page.context.close()
