"""Tables of what the benchmarks recorded, with the hardware and the versions they were recorded on."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

QUARTILES = ("median", "q25", "q75")


def benchmark_tables(root: Path) -> str:
    """A section for every record in benchmarks/results, in MyST."""
    parts = []
    for path in sorted((root / "benchmarks" / "results").glob("*.json")):
        record = json.loads(path.read_text(encoding="utf-8"))
        script = root / "benchmarks" / f"{path.stem}.py"
        said = ast.get_docstring(ast.parse(script.read_text(encoding="utf-8"))) if script.exists() else None
        first, _, rest = (said or path.stem).partition("\n")
        about = " ".join(part for part in rest.strip("\n").split("\n\n") if not part.startswith("    ")).split()
        parts += [f"## {path.stem}", f"**{plain(first)}** {plain(' '.join(about))}"]
        parts += tables({key: value for key, value in record.items() if key not in ("hardware", "versions")})
        parts.append(f"Recorded on {pairs(record.get('hardware', {}))}; {pairs(record.get('versions', {}))}.")
    return "\n\n".join(parts)


def pairs(values: dict[str, Any]) -> str:
    return ", ".join(f"{plain(str(key))} {plain(shown(value))}" for key, value in values.items())


def plain(text: str) -> str:
    """Text in which nothing is markup but what stands between backticks."""
    for character in "*_<|$[":
        text = text.replace(character, "\\" + character)
    return text


def shown(value: Any) -> str:
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return str(value)
    if isinstance(value, list):
        return ", ".join(shown(one) for one in value)
    if isinstance(value, float):
        if value == 0 or 1e-3 <= abs(value) < 1e4:
            return f"{value:.4g}"
        return f"{value:.2g}" if abs(value) < 1e-3 else f"{value:,.0f}"
    return f"{value:,}"


def flat(values: dict[str, Any], before: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], Any]]:
    """What a record holds, by path; a median with its quartiles is one value."""
    found = []
    for key, value in values.items():
        if isinstance(value, dict) and not set(QUARTILES) <= set(value):
            found += flat(value, (*before, key))
        else:
            found.append(((*before, key), value))
    return found


def tables(record: dict[str, Any]) -> list[str]:
    """Two tables: medians with their quartiles, and all other numbers."""
    found = flat(record)
    spread = [(path, value) for path, value in found if isinstance(value, dict)]
    single = [(path, value) for path, value in found if not isinstance(value, dict)]
    made = []
    if spread:
        made.append(table(["what", *QUARTILES], [[named(p), *(shown(v[q]) for q in QUARTILES)] for p, v in spread]))
    if single:
        made.append(table(["what", "value"], [[named(path), plain(shown(value))] for path, value in single]))
    return made


def named(path: tuple[str, ...]) -> str:
    return plain(": ".join(part.replace("_", " ") for part in path))


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
