"""What a run of findings leaves in a folder."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from vlm_probe.files import make_folder, remove_stale, replacing, writing
from vlm_probe.findings.engine import Run


def write_run(run: Run, out: Path) -> Path:
    """Write `evidence.csv` (one row a claim), `tables/<finding>_<table>.parquet` (what was measured, item by item) and
    `results.json` (the evidence, the models' provenance, what was skipped and why). Returns the folder.

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
        results = {
            "findings": [
                {
                    "id": finding.id,
                    "question": finding.question,
                    "evidence": [
                        {name: _plain(value) for name, value in row.items()}
                        for row in evidence.query("finding == @finding.id").to_dict("records")
                    ],
                    "methods": [text.format(n=len(run.items), seed=run.seed) for text in finding.methods],
                    "caveats": list(finding.caveats),
                }
                for finding in run.findings
            ],
            "items": len(run.items),
            "seed": run.seed,
            "suffix": run.suffix,
            "models": run.provenance,
            "skipped": [str(one) for one in (*run.skipped, *run.left_out)],
            "tables": written,
        }
        with replacing(out / "results.json") as partial:
            partial.write_text(json.dumps(results, indent=1) + "\n")
        remove_stale(out / "tables", before, written)
    return out


def _tables_of(results: Path) -> list[str]:
    """The tables of the run whose results are in a file; none where there is none."""
    try:
        return [str(name) for name in json.loads(results.read_text())["tables"]]
    except (OSError, ValueError, LookupError, TypeError):
        return []


def _plain(value: Any) -> Any:
    """JSON knows no NaN."""
    return None if isinstance(value, float) and math.isnan(value) else value
