"""Docstrings of the house in reStructuredText: their sections hold `name: text`, which no style of Sphinx reads.

A docstring is plain text with `code` between single backticks, lists, doctests and indented equations, under the
headings of `SECTIONS`; whatever reStructuredText would take for markup in it is text.
"""

from __future__ import annotations

import re
from itertools import pairwise
from textwrap import dedent, indent
from typing import Any

SECTIONS = ("Parameters", "Returns", "Raises", "Yields", "Notes", "Examples")
NAMED = ("Parameters", "Raises")
"""Sections of `name: text`; the others are text."""

AFTER = ("Raises ", "Deviation", "Returns ", "Counted ")
"""What a paragraph behind the last section begins with."""

_ENTRY = re.compile(r"^(\*{0,2}[A-Za-z_][\w.]*(?:, \*{0,2}[A-Za-z_][\w.]*)*): (.*)$")
_MARKED = re.compile(r"(`[^`]+`|(?<![\w*])\*\w[^*\n]*[\w.]\*(?![\w*]))")


def escaped(text: str) -> str:
    """A paragraph whose code and emphasis are markup and whose other characters are what they look like."""
    parts = []
    for part in _MARKED.split(text):
        if part.startswith("`") and part.endswith("`") and len(part) > 2:
            code = " ".join(part[1:-1].split())
            parts.append(f":code:`{code}`" if "\\" in code else f"``{code}``")
        elif _MARKED.fullmatch(part):
            parts.append(part)
        else:
            plain = re.sub(r"([\\*|`])", r"\\\1", part)
            parts.append(re.sub(r"(?<=\w)_(?!\w)", r"\\_", plain))
    # Markup wants space or punctuation around it: "`box`es" is code with letters behind it.
    joined = ""
    for before, part in zip(["", *parts], parts, strict=False):
        marked = part.startswith(("``", ":code:"))
        if marked and before and (before[-1].isalnum() or before[-1] in "\\~"):
            joined += "\\ "
        if before.endswith("`") and not marked and part[:1].isalnum():
            joined += "\\ "
        joined += part
    return joined


def _blocks(lines: list[str]) -> list[list[str]]:
    """Runs of lines between empty ones."""
    blocks: list[list[str]] = [[]]
    for line in lines:
        if line.strip():
            blocks[-1].append(line)
        elif blocks[-1]:
            blocks.append([])
    return [block for block in blocks if block]


def text(lines: list[str]) -> str:
    """Paragraphs, lists, doctests and equations."""
    made = []
    for block in _blocks(dedent("\n".join(lines)).splitlines()):
        if block[0].lstrip().startswith(">>>"):
            made.append(dedent("\n".join(block)))
        elif all(line.startswith("    ") for line in block):
            made.append("::\n\n" + indent(dedent("\n".join(block)), "    "))
        else:
            made.append(_paragraphs(block))
    return "\n\n".join(made)


def _paragraphs(block: list[str]) -> str:
    """A paragraph and the list that may follow it, or equations set in between its lines."""
    pieces: list[list[str]] = []
    listed = False
    for line in block:
        if line.startswith("- "):
            pieces.append([line])
            listed = True
        elif not pieces or (listed and not line.startswith("  ")):
            pieces.append([line])
            listed = False
        else:
            pieces[-1].append(line)
    made = []
    for piece in pieces:
        item = piece[0].startswith("- ")
        words = escaped(" ".join(line.strip() for line in piece).removeprefix("- "))
        made.append(f"- {words}" if item else words)
    return "\n\n".join(made)


def _entries(lines: list[str]) -> str:
    """A section of `name: text` as definitions; what stands before the first name, or has none, is a paragraph."""
    found: list[tuple[str, list[str]]] = []
    for line in dedent("\n".join(lines)).splitlines():
        match = _ENTRY.match(line)
        if match:
            found.append((match[1], [match[2]]))
        elif found and (line.startswith("    ") or not line.strip()):
            found[-1][1].append(line.removeprefix("    "))
        else:
            found.append(("", [line]))
    made = []
    for name, said in found:
        if name:
            names = ", ".join(f"``{one.strip()}``" for one in name.split(","))
            made.append(f"{names}\n{indent(text(said), '    ')}")
        elif "".join(said).strip():
            made.append(text(said))
    return "\n\n".join(made)


def in_rst(lines: list[str]) -> list[str]:
    """A docstring's lines, cleaned of their common indentation, as reStructuredText."""
    heads = [i for i, line in enumerate(lines[:-1]) if line.strip() in SECTIONS and set(lines[i + 1].strip()) == {"-"}]
    ends = [*heads, len(lines)]
    made = [text(lines[: ends[0]])]
    for start, end in pairwise(ends):
        name, body = lines[start].strip(), lines[start + 2 : end]
        # What follows the last section has no heading of its own.
        after = next(
            (i for i, line in enumerate(body) if i and line.startswith(AFTER) and not body[i - 1].strip()), None
        )
        rest, body = body[after:] if after else [], body[:after]
        made.append(f":{name}:\n{indent(_entries(body) if name in NAMED else text(body), '    ')}")
        made.append(text(rest))
    return [*"\n\n".join(part for part in made if part).splitlines(), ""]


def _process(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    lines[:] = in_rst(dedent("\n".join(lines)).splitlines() if lines and lines[0].startswith(" ") else list(lines))


def setup(app: Any) -> dict[str, Any]:
    app.connect("autodoc-process-docstring", _process)
    return {"parallel_read_safe": True}
