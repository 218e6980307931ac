"""The explorer as HTML: a page of its own, or a part of another. Nothing is fetched, and what is data stays data."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from html import escape
from importlib.resources import files
from typing import Any

_FOLDER = "vlm_probe.explorer"
_QUIET = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
"""What a page of ours may load: nothing but what stands in it."""
_NO_SCRIPT = "The explorer needs JavaScript."


@cache
def module() -> str:
    """The ES module (`explorer.js`), as the page and the notebook's widget run it."""
    return files(_FOLDER).joinpath("explorer.js").read_text(encoding="utf-8")


@cache
def style() -> str:
    """Its style sheet (`explorer.css`); every rule is of `.vpx`."""
    return files(_FOLDER).joinpath("explorer.css").read_text(encoding="utf-8")


def data_in_html(data: Any) -> str:
    """JSON that can stand in a script element: no text in it can end the element, or begin a comment.

    >>> print(data_in_html({"a": "</script><!-- é"}))
    {"a":"\\u003c/script\\u003e\\u003c!-- \\u00e9"}

    Raises ValueError for numbers that JSON does not have.
    """
    text = json.dumps(data, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text


def embedded(looks: Sequence[dict[str, Any]], *, key: str = "") -> str:
    """The explorer as a part of a page: style, data and module. To be put into a page once, unescaped.

    looks: of `explorer.look`.
    key: before this explorer's names in the address, where a page has several; letters only.
    """
    return (
        f"<style>{style()}</style>\n"
        f'<div class="vpx-here" data-key="{escape(key)}"><noscript>{_NO_SCRIPT}</noscript>'
        f'<script type="application/json">{data_in_html({"looks": list(looks)})}</script></div>\n'
        f'<script type="module">\n{module()}\nboot(document);\n</script>\n'
    )


def page(looks: Sequence[dict[str, Any]], *, title: str) -> str:
    """A page of its own that holds all it needs, and may load nothing else."""
    body = embedded(looks)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_QUIET}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_PAGE_STYLE}</style>\n</head>\n<body>\n"
        f"<h1>{escape(title)}</h1>\n{body}</body>\n</html>\n"
    )


_PAGE_STYLE = """
:root { color-scheme: light dark; --ink: #1c2430; --soft: #5a6675; --line: #dde3ea; --accent: #0072b2; --paper: #fff; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e9ef; --soft: #a3afbd; --line: #38424e; --accent: #56b4e9; --paper: #14191f; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1440px; padding: 1rem clamp(.6rem, 2vw, 1.5rem) 3rem; color: var(--ink);
       background: var(--paper); font: 16px/1.5 system-ui, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
h1 { font-size: 1.3rem; line-height: 1.25; margin: .2rem 0 .8rem; overflow-wrap: anywhere; }
"""
