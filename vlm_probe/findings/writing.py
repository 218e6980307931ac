"""What a run of findings leaves in a folder."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from vlm_probe.errors import VlmProbeError
from vlm_probe.files import make_folder, replacing
from vlm_probe.findings.engine import Run


def write_run(run: Run, out: Path) -> Path:
    """Write `evidence.csv` (one row a claim), `tables/<finding>_<table>.parquet` (what was measured, item by item) and
    `results.json` (the evidence, the models' provenance, what was skipped and why). Returns the folder.

    The same run gives the same bytes: no time is in them.

    Raises VlmProbeError where the folder cannot be written.
    """
    make_folder(out / "tables")
    evidence = run.evidence
    try:
        for finding in run.findings:
            for name, table in run.tables(finding).items():
                with replacing(out / "tables" / f"{finding.id}_{name}.parquet") as partial:
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
            "skipped": [str(one) for one in run.skipped],
        }
        with replacing(out / "results.json") as partial:
            partial.write_text(json.dumps(results, indent=1) + "\n")
    except OSError as error:
        raise VlmProbeError(f"cannot write to {out}: {error.strerror or error}") from error
    return out


def _plain(value: Any) -> Any:
    """JSON knows no NaN."""
    return None if isinstance(value, float) and math.isnan(value) else value
