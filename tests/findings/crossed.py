"""Simulated grids and studies for X1 to X3: changes that add up, and two that do something together."""

from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np
import pandas as pd

from vlm_probe.evidence import Tables, judge_all
from vlm_probe.findings.finding import Finding
from vlm_probe.findings.interactions import GRID, PAPER
from vlm_probe.findings.x1_size_pretraining import FINDING as X1
from vlm_probe.findings.x1_size_pretraining import size_by_pretraining
from vlm_probe.findings.x2_encoder_size import FINDING as X2
from vlm_probe.findings.x2_encoder_size import encoder_by_size
from vlm_probe.findings.x3_vocabulary_size import FINDING as X3
from vlm_probe.findings.x3_vocabulary_size import vocabulary_by_size
from vlm_probe.studies.effects import FEWEST_RUNS, GRID_FACTORS
from vlm_probe.studies.result_tables import factors_of
from vlm_probe.studies.study import STUDIES
from vlm_probe.zoo.cells import CELLS, VOCABULARIES, VOCABULARY, Cell

N = 1193
"""Items that a simulated cell is scored on."""
ALL = [X1, X2, X3]
MEASURES = {"X1": size_by_pretraining, "X2": encoder_by_size, "X3": vocabulary_by_size}
CROSSED = {"X1": ("size", "connector"), "X2": ("encoder", "size"), "X3": ("vocabulary", "size")}
WHERE = {"heldout": 0.95, "novel": 0.84}
"""About where the shipped cells stand, of which the first is close to the ceiling."""
ALONE = {"size": -0.05, "encoder": -0.09, "connector": 0.02, "vocabulary": -0.04}
"""What every change does by itself."""


def changed(cell: Cell) -> dict[str, int]:
    """Which changes were made to a cell."""
    return {
        "size": int(cell.size == "large"),
        "encoder": int(cell.encoder == "dino"),
        "connector": int(cell.steps.connector > 0),
        "vocabulary": int(cell.vocabulary == VOCABULARIES[-1]),
    }


def cells_of(finding: Finding) -> list[Cell]:
    """The cells that the finding's differences are of."""
    if finding is X3:
        return [Cell(size, "clip", vocabulary=v) for size in ("small", "large") for v in VOCABULARIES[::2]]
    return [cell for cell in CELLS.values() if cell.vocabulary == VOCABULARY]


def grid_of(
    rng: np.random.Generator,
    cells: list[Cell],
    seeds: int,
    *,
    alone: Mapping[str, float] | None = None,
    together: tuple[tuple[str, str], float] | None = None,
    spread: float = 0.012,
) -> pd.DataFrame:
    """Scores of cells whose changes add up, but for what two of them do `together`.

    A seed moves all its cells, and every training has luck of its own (`spread`); then N items are answered.
    """
    rows = []
    for seed in range(seeds):
        for split, base in WHERE.items():
            common = rng.normal(0, 0.01)
            for cell in cells:
                made = changed(cell)
                share = base + common + sum(by * made[name] for name, by in (alone or {}).items())
                if together is not None:
                    share += together[1] * made[together[0][0]] * made[together[0][1]]
                right = rng.binomial(N, np.clip(share + rng.normal(0, spread), 0, 1))
                about = (cell.size, cell.encoder, cell.steps.connector > 0, cell.vocabulary)
                rows.append((cell.name, seed, *about, split, "all", N, right / N))
    columns = ["cell", "seed", *GRID_FACTORS.values(), "split", "kind", "n", "accuracy"]
    return pd.DataFrame(rows, columns=columns)


STUDIED = {"heldout": 0.6, "novel": 0.45}
"""About where a study's small cells stand."""


def study_table(
    rng: np.random.Generator,
    id: str,
    seeds: int,
    *,
    alone: Mapping[str, float] | None = None,
    together: Mapping[str, float] | None = None,
    large: float = 0.05,
    spread: float = 0.012,
    budgets: tuple[float, ...] = (0.25, 0.5, 1.0),
) -> pd.DataFrame:
    """A study's table, as `studies.results` returns it, of all questions: along training every cell comes to more.

    alone, together: by level of the study's last factor (an encoder; rows of a vocabulary), what it adds to either size
        and, beyond that, to the large cell.
    """
    study, rows = STUDIES[id], []
    for seed in range(seeds):
        for split, base in STUDIED.items():
            common = rng.normal(0, 0.01)
            for name, cell in study.arms.items():
                about = factors_of(cell, study)
                level, size = about[study.factors[-1]], int(cell.size == "large")
                share = base + common + large * size + (alone or {}).get(level, 0.0)
                share += size * (together or {}).get(level, 0.0) + rng.normal(0, spread)
                for budget in budgets:
                    right = rng.binomial(N, np.clip(share - 0.1 * (1 - budget), 0, 1))
                    score = {
                        "budget": budget,
                        "scenes": 7,
                        "split": split,
                        "kind": "all",
                        "n": N,
                        "accuracy": right / N,
                    }
                    rows.append({"arm": name, **about, "seed": seed, **score})
    return pd.DataFrame(rows)


def judged(finding: Finding, scores: pd.DataFrame) -> pd.DataFrame:
    """The finding's claims about such a grid."""
    rows = judge_all(finding.claims, MEASURES[finding.id](scores), finding=finding.id)
    return pd.DataFrame([row for row in rows if row.models == GRID])


def of_grids(finding: Finding) -> Finding:
    """The finding, with its claims about grids alone."""
    return replace(finding, claims=tuple(one for one in finding.claims if set(one.about) <= {GRID, PAPER}))


def by_runs(finding: Finding, runs: int) -> Iterator[dict[str, Tables]]:
    """Grids of `FEWEST_RUNS` seeds in which changes add up: the seeds of one great grid, five by five."""
    scores = grid_of(np.random.default_rng(3), cells_of(finding), runs * FEWEST_RUNS, alone=ALONE)
    of_all = MEASURES[finding.id](scores)
    table = of_all[GRID]["runs"]
    for _, some in table.groupby(table["seed"] // FEWEST_RUNS):
        yield {**{name: tables for name, tables in of_all.items() if name == PAPER}, GRID: {"runs": some}}
