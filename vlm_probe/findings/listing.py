"""Findings and evidence as tables to read: on a terminal, on a page."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import pandas as pd

from vlm_probe.findings.finding import Finding


def listing(findings: Sequence[Finding]) -> pd.DataFrame:
    """One row a finding: id, question, needs (models and items in words), claims (how many)."""
    rows = [
        {"id": one.id, "question": one.question, "needs": _needs(one), "claims": len(one.claims)} for one in findings
    ]
    return pd.DataFrame(rows, columns=["id", "question", "needs", "claims"])


def _needs(finding: Finding) -> str:
    if not finding.models:
        return "nothing: it reads tables of the package"
    return f"{'a model' if finding.models == 1 else f'{finding.models} models'}; {finding.wants}"


def evidence_listing(evidence: pd.DataFrame) -> pd.DataFrame:
    """Rows of evidence in words: claim, rests on (n and what is independent), value, control (and what it is),
    difference (with its interval), p (after Holm), untrained (the difference of an untrained copy), verdict (with the
    reason)."""
    rows = [
        {
            "claim": row["sentence"],
            "rests on": _rests(row["n"], row["clusters"], row["unit"]),
            "value": _number(row["value"]),
            "control": f"{_number(row['control'])} ({row['against']})".strip(),
            "difference": _interval(row["difference"], row["low"], row["high"]),
            "p": _p(row["p_corrected"]),
            "untrained": _number(row["untrained"], sign=True),
            "verdict": f"{row['verdict']} ({row['reason']})" if row["reason"] else row["verdict"],
        }
        for row in evidence.to_dict("records")
    ]
    table = pd.DataFrame(
        rows, columns=["claim", "rests on", "value", "control", "difference", "p", "untrained", "verdict"]
    )
    empty = [name for name in ("p", "untrained") if not "".join(table[name].tolist())]
    return table.drop(columns=empty)


def evidence_text(row: Mapping[Hashable, Any]) -> str:
    """What a row of evidence rests on, in a line: reason, value against control, difference, p, unit."""
    against = f" against {_number(row['control'])}" if not pd.isna(row["control"]) else ""
    p, bare = _p(row["p_corrected"]), row["untrained"]
    parts = [
        row["reason"],
        f"{_number(row['value'])}{against} ({row['against']})" if not pd.isna(row["value"]) else "",
        _interval(row["difference"], row["low"], row["high"]),
        f"p {p}" if p else "",
        "" if pd.isna(bare) else f"untrained {_number(bare, sign=True)}",
        _rests(row["n"], row["clusters"], row["unit"]),
    ]
    return "; ".join(part for part in parts if part)


def _rests(n: int, clusters: int, unit: str) -> str:
    said = f"{clusters} {_one(unit) if clusters == 1 else unit}"
    return said if n == clusters else f"{said} ({n})"


def _one(unit: str) -> str:
    """A unit in the singular: "kind of object", "training seed", "vocabulary"."""
    head, of, rest = unit.partition(" of ")
    head = f"{head.removesuffix('ies')}y" if head.endswith("ies") else head.removesuffix("s")
    return head + of + rest


def _p(value: float) -> str:
    return "<0.0001" if value < 0.0001 else _number(value)


def _number(value: float, *, sign: bool = False) -> str:
    """Three digits: a difference of a millionth is no zero."""
    return "" if pd.isna(value) else f"{value:{'+' if sign else ''}.3g}"


def _interval(difference: float, low: float, high: float) -> str:
    if pd.isna(difference):
        return ""
    if pd.isna(low):
        return _number(difference, sign=True)
    return f"{_number(difference, sign=True)} [{_number(low, sign=True)}, {_number(high, sign=True)}]"
