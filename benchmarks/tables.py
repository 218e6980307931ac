"""Tables of what the benchmarks recorded, for the site and README; nothing here computes a figure.

python benchmarks/tables.py          # writes README's table anew
"""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
QUARTILES = ("median", "q25", "q75")
ABOUT = ("command", "commit", "hardware", "versions", "rows")
"""What every section has, beside what is its own."""
PEERS = ("vlm_probe", "plain hooks", "TransformerLens bridge", "nnsight", "pyvene", "captum")
BEGIN, END = "<!-- benchmarks: begin -->", "<!-- benchmarks: end -->"
"""Between these lines README is written by `make bench`."""


def records(root: Path) -> dict[str, dict[str, Any]]:
    """What each machine recorded, by its name; that with the most sections first."""
    found = {
        path.stem: json.loads(path.read_text("utf-8")) for path in (root / "benchmarks" / "results").glob("*.json")
    }
    return dict(sorted(found.items(), key=lambda one: (-len(one[1]), one[0])))


def benchmark_tables(root: Path) -> str:
    """A part for every machine, with a section for each of its records, in MyST."""
    parts = []
    for machine, sections in records(root).items():
        parts.append(f"## {plain(machine)}")
        for name, record in sections.items():
            script = root / "benchmarks" / f"{name}.py"
            said = ast.get_docstring(ast.parse(script.read_text(encoding="utf-8"))) or name
            first, _, rest = said.partition("\n")
            about = " ".join(part for part in rest.strip("\n").split("\n\n") if not part.startswith("    ")).split()
            parts += [f"### {plain(name)}", f"**{plain(first)}** {plain(' '.join(about))}"]
            if record["rows"]:
                parts.append(rows_table(record["rows"]))
            parts += tables({key: value for key, value in record.items() if key not in ABOUT})
            made = f"`{record['command']}` at {record['commit']}"
            parts.append(f"{made}, on {pairs(record['hardware'])}; {pairs(record['versions'])}.")
    return "\n\n".join(parts)


def peer_table(root: Path) -> str:
    """The tasks that several libraries do: time and peak memory against the first way, and lines of code."""
    sections = next(iter(records(root).values()))
    rows = sections["hooks"]["rows"]
    shown_tasks = dict.fromkeys(row["task"] for row in rows if row["library"] in PEERS[1:])
    lines = []
    for task in shown_tasks:
        own = {row["library"]: row for row in rows if row["task"] == task and row.get("lines") is not None}
        base = next(iter(own.values()))["against"]
        lines.append([plain(task), plain(base), *(peer_cell(own.get(name)) for name in PEERS)])
    return table(["task", "against", *map(plain, PEERS)], lines)


def peer_cell(row: dict[str, Any] | None) -> str:
    if row is None:
        return ""
    return f"{row['time']['median']:.2f} · {row['memory']:.2f} · {row['lines']}"


def rows_table(rows: list[dict[str, Any]]) -> str:
    every = ["task", "with", "against", "time (quartiles)", "memory", "peak MiB", "difference", "lines", "goal"]
    head = [name for name in every if any(shown_row(row, name) for row in rows)]
    return table(head, [[shown_row(row, name) for name in head] for row in rows])


def shown_row(row: dict[str, Any], column: str) -> str:
    names = {"with": "library", "peak MiB": "peak_mib"}
    value = row.get(names.get(column, column))
    if column == "time (quartiles)":
        time = row.get("time")
        if time is None:
            return ""
        return f"{time['median']:.3f}" + (f" ({time['q25']:.3f} to {time['q75']:.3f})" if "q25" in time else "")
    if column == "goal":
        return "; ".join(goal(row, name, most) for name, most in row.get("goals", {}).items())
    return "" if value is None else plain(shown(value))


def goal(row: dict[str, Any], name: str, most: float) -> str:
    found = {
        "time": lambda: row["time"]["median"],
        "upper": lambda: row["time"]["q75"],
        "memory": lambda: row["memory"],
    }
    named_as = {"time": "time", "upper": "upper quartile of time", "memory": "memory"}[name]
    return f"{named_as} at most {most:g}: {'kept' if found[name]() <= most else 'not reached'}"


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
        return f"{len(value):,} values" if value and isinstance(value[0], dict) else ", ".join(map(shown, value))
    if isinstance(value, float):
        if value == 0 or 1e-3 <= abs(value) < 1e4:
            return f"{value:.4g}"
        return f"{value:.2g}" if abs(value) < 1e-3 else f"{value:,.0f}"
    return f"{value:,}"


def flat(values: dict[str, Any], before: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], Any]]:
    """What a record holds, by path; a median with its quartiles is one value, and a list of tables is its tables."""
    found = []
    for key, value in values.items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            found += flat({" ".join(str(v) for v in one.values() if isinstance(v, str)): one for one in value}, before)
        elif isinstance(value, dict) and not set(QUARTILES) <= set(value):
            found += flat(value, (*before, key))
        elif not (isinstance(value, str) and key in ("task", "varied")):
            found.append(((*before, key), value))
    return found


def tables(record: dict[str, Any]) -> list[str]:
    """Tables of figures that are named alike, then all other numbers."""
    found = flat(record)
    spread = [(path, value) for path, value in found if isinstance(value, dict)]
    single = [(path, value) for path, value in found if not isinstance(value, dict)]
    made = []
    if spread:
        made.append(table(["what", *QUARTILES], [[named(p), *(shown(v[q]) for q in QUARTILES)] for p, v in spread]))
    grouped: dict[tuple[str, ...], dict[str, Any]] = {}
    for path, value in single:
        grouped.setdefault(path[:-1], {})[path[-1]] = value
    alike: dict[tuple[str, ...], list[tuple[tuple[str, ...], dict[str, Any]]]] = {}
    for path, values in grouped.items():
        alike.setdefault(tuple(values) if path else (), []).append((path, values))
    left = []
    for columns, own in alike.items():
        if columns and len(own) > 1:
            lines = [[named(path), *(plain(shown(values[c])) for c in columns)] for path, values in own]
            made.append(table(["what", *map(named, zip(columns, strict=True))], lines))
        else:
            left += [
                [named((*path, key)), plain(shown(value))] for path, values in own for key, value in values.items()
            ]
    if left:
        made.append(table(["what", "value"], left))
    return made


def named(path: tuple[str, ...]) -> str:
    return plain(": ".join(part.replace("_", " ") for part in path))


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def written_readme(root: Path) -> str:
    """README with its table made anew."""
    return between((root / "README.md").read_text("utf-8"), BEGIN, END, peer_table(root))


def between(text: str, begin: str, end: str, made: str) -> str:
    """A text with what stands between two of its lines made anew."""
    before, rest = text.split(begin)
    _, after = rest.split(end)
    return f"{before}{begin}\n{made}\n{end}{after}"


if __name__ == "__main__":
    (ROOT / "README.md").write_text(written_readme(ROOT), "utf-8")
