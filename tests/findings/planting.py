"""What every finding is tried on: tables with nothing in them, and tables into which an effect was planted."""

from collections.abc import Callable, Mapping

import numpy as np

from vlm_probe.evidence import Tables, Verdict, judge_all
from vlm_probe.findings.finding import Finding

RUNS = 200
MOST = 0.07
"""Of null runs that may decide."""
Make = Callable[[np.random.Generator], Mapping[str, Tables]]
"""Makes the tables of every model; a pair's are the first and the second."""


def decided(finding: Finding, make: Make, *, runs: int = RUNS) -> dict[str, float]:
    """Claim -> the share of simulated runs in which a direction is called, each claim judged alone.

    Alone, so that no other claim's correction hides how often this one would decide; what it rests on is granted.
    """
    from dataclasses import replace

    hits = {claim.id: 0.0 for claim in finding.claims if not claim.descriptive}
    for run in range(runs):
        measured = make(np.random.default_rng([run, 7]))
        for claim in finding.claims:
            if claim.id in hits:
                rows = judge_all([replace(claim, requires=())], measured)
                assert all(row.clusters >= claim.least for row in rows), (claim.id, rows[0].reason)
                hits[claim.id] += sum(row.verdict.decided for row in rows) / len(rows)
    return {name: count / runs for name, count in hits.items()}


def verdicts(finding: Finding, make: Make, *, untrained: Mapping[str, Tables] | None = None) -> dict[str, Verdict]:
    """Claim -> its verdict on one set of tables, all claims judged together (of several models the last one's)."""
    rows = judge_all(finding.claims, make(np.random.default_rng(7)), untrained=untrained)
    return {row.claim: row.verdict for row in rows}
