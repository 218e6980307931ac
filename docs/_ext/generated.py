"""Pages that are written while building: a line `<!-- gallery -->` in a page is replaced by what a function makes."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from gallery import gallery
from sphinx.errors import ExtensionError

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "benchmarks"))
from tables import benchmark_tables, peer_table  # noqa: E402

MADE = {
    "gallery": (gallery, "figures"),
    "benchmarks": (benchmark_tables, "benchmarks/results"),
    "peers": (peer_table, "benchmarks/results"),
}
"""What stands in the line, what makes the text, and the folder that it reads."""


def _replace(app: Any, name: str, source: list[str]) -> None:
    for marker, (make, folder) in MADE.items():
        line = f"<!-- {marker} -->"
        if line in source[0]:
            for file in (ROOT / folder).glob("*"):
                app.env.note_dependency(str(file))
            try:
                source[0] = source[0].replace(line, make(ROOT))
            except (OSError, ValueError, KeyError) as error:
                raise ExtensionError(f"{name}: {error}") from error


def setup(app: Any) -> dict[str, Any]:
    app.connect("source-read", _replace)
    return {"parallel_read_safe": True}
