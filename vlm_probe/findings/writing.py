"""What a run of findings leaves in a folder."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from vlm_probe.files import make_folder, remove_stale, replacing, writing
from vlm_probe.findings.engine import Run
from vlm_probe.findings.finding import Finding
from vlm_probe.findings.questions import QUESTIONS, Question, effects_of, followed, studied

SCHEMA = "results.schema.json"
"""In this folder: what results.json holds, field by field."""
VERSION = 2
"""Of the schema: it goes up where a field goes or means something else."""


def write_run(run: Run, out: Path) -> Path:
    """Write `evidence.csv` (one row a claim), `tables/<finding>_<table>.parquet` (what was measured, item by item) and
    `results.json` (all that a report says: see `results_of`). Returns the folder.

    The same run gives the same bytes: no time is in them. Those of an earlier run in the folder, of other findings or
    models too, are replaced, and its tables that this run does not have removed; other files stay.

    Raises VlmProbeError where the folder cannot be written.
    """
    make_folder(out / "tables")
    evidence, before = run.evidence, _tables_of(out / "results.json")
    written = []
    with writing(out):
        for finding in run.findings:
            for name, table in run.tables(finding).items():
                written.append(f"{finding.id}_{name}.parquet")
                with replacing(out / "tables" / written[-1]) as partial:
                    table.to_parquet(partial, index=False)
        with replacing(out / "evidence.csv") as partial:
            evidence.to_csv(partial, index=False)
        results = results_of(run, written)
        with replacing(out / "results.json") as partial:
            partial.write_text(json.dumps(results, indent=1, allow_nan=False) + "\n")
        remove_stale(out / "tables", before, written)
    return out


def results_of(run: Run, written: Sequence[str]) -> dict[str, Any]:
    """A run as plain values, as `SCHEMA` describes them: all that a report says, to the last digit.

    written: files of the folder tables/ that hold what was measured, item by item.
    """
    evidence = run.evidence
    return {
        "schema": VERSION,
        "items": len(run.items),
        "seed": run.seed,
        "suffix": run.suffix,
        "models": {name: {key: plain(value) for key, value in of.items()} for name, of in run.provenance.items()},
        "findings": [_result(run, finding, evidence) for finding in run.findings],
        "published": {name: records(effects_of(question)) for name, question in QUESTIONS.items() if question.factor},
        "studied": {name: _of_studies(studied, question) for name, question in QUESTIONS.items()},
        "followed": {name: _of_studies(followed, question) for name, question in QUESTIONS.items()},
        "skipped": [str(one) for one in (*run.skipped, *run.left_out)],
        "tables": list(written),
    }


def _of_studies(of: Callable[..., Any], question: Question) -> list[dict[str, Any]]:
    """Rows of the study `grid`, and of the question's further one."""
    further = question.further[0] if question.further else ""
    tables = [of(question)[1].assign(study="grid"), of(question, further=True)[1].assign(study=further)]
    return [row for table in tables for row in records(table)]


def _result(run: Run, finding: Finding, evidence: pd.DataFrame) -> dict[str, Any]:
    shown = run.shown(finding)
    return {
        "id": finding.id,
        "question": finding.question,
        "explains": finding.explains,
        "evidence": records(evidence.loc[evidence["finding"] == finding.id]),
        "summary": list(shown.summary),
        "shown": {name: records(table) for name, table in shown.tables.items()},
        "methods": [text.format(n=len(run.items), seed=run.seed) for text in finding.methods],
        "caveats": list(finding.caveats),
    }


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows as plain values."""
    return [{str(name): plain(value) for name, value in row.items()} for row in table.to_dict("records")]


def schema() -> dict[str, Any]:
    """The JSON schema of results.json (draft 2020-12)."""
    return json.loads((files("vlm_probe.findings") / SCHEMA).read_text())


def plain(value: Any) -> Any:
    """A value as JSON has it: without arrays, tuples and NaN."""
    if isinstance(value, Mapping):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [plain(one) for one in value]
    if isinstance(value, np.generic):
        return plain(value.item())
    if value is pd.NA or value is pd.NaT or (isinstance(value, float) and not math.isfinite(value)):
        return None
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def _tables_of(results: Path) -> list[str]:
    """The tables of the run whose results are in a file; none where there is none."""
    try:
        return [str(name) for name in json.loads(results.read_text())["tables"]]
    except (OSError, ValueError, LookupError, TypeError):
        return []
