"""Whether a built site needs anything that lies elsewhere; links that a reader follows are no assets."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from sphinx.errors import ExtensionError

LOADED = {
    "script": ("src",),
    "img": ("src", "srcset"),
    "iframe": ("src",),
    "embed": ("src",),
    "object": ("data",),
    "source": ("src", "srcset"),
    "video": ("src", "poster"),
    "audio": ("src",),
    "track": ("src",),
    "use": ("href", "xlink:href"),
    "image": ("href", "xlink:href"),
}
"""What a browser fetches without being asked, by tag."""
RELATIONS = {"stylesheet", "icon", "preload", "modulepreload", "preconnect", "dns-prefetch", "prefetch", "manifest"}
"""Of <link>: those that are fetched."""

_ELSEWHERE = re.compile(r"(?:https?|wss?):|//")
_IN_STYLES = re.compile(r"(?:url\(\s*|@import\s+)[\"']?((?:https?:)?//[^\"')\s]+)")
_IN_SCRIPTS = re.compile(
    r"(?:\bimport\s*\(?|\bfrom|\bfetch\(|\bimportScripts\(|\.src\s*=|\brequire\(\[?)\s*[\"'`](https?://[^\"'`]+)"
)


class _Assets(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.inside = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.inside = tag if tag in ("script", "style") else self.inside
        wanted = LOADED.get(tag, ())
        if tag == "link" and RELATIONS & set(given.get("rel", "").lower().split()):
            wanted = ("href",)
        for name in wanted:
            # A srcset is a list; an address within it begins behind a comma.
            for address in given.get(name, "").split(","):
                if _ELSEWHERE.match(address.strip()):
                    self.found.append(f"<{tag} {name}={address.strip()}>")
        self.found += _IN_STYLES.findall(given.get("style", ""))

    def handle_endtag(self, tag: str) -> None:
        self.inside = "" if tag == self.inside else self.inside

    def handle_data(self, data: str) -> None:
        if self.inside == "style":
            self.found += _IN_STYLES.findall(data)
        if self.inside == "script":
            self.found += _IN_SCRIPTS.findall(data)


def outside_assets(folder: Path) -> list[str]:
    """Every asset of another place in a folder's pages, styles and scripts, with the file that asks for it."""
    found = []
    for file in sorted(folder.rglob("*")):
        said: list[str] = []
        if file.suffix == ".html":
            page = _Assets()
            page.feed(file.read_text(encoding="utf-8"))
            said = page.found
        elif file.suffix == ".css":
            said = _IN_STYLES.findall(file.read_text(encoding="utf-8"))
        elif file.suffix in (".js", ".mjs"):
            said = _IN_SCRIPTS.findall(file.read_text(encoding="utf-8"))
        found += [f"{file.relative_to(folder)}: {one}" for one in said]
    return found


def _check(app: Any, exception: Exception | None) -> None:
    if exception is None and app.builder.format == "html":
        found = outside_assets(Path(app.outdir))
        if found:
            raise ExtensionError("the site needs what lies elsewhere: " + "; ".join(found))


def setup(app: Any) -> dict[str, Any]:
    app.connect("build-finished", _check)
    return {"parallel_read_safe": True}
