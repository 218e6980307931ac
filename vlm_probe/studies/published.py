"""The paper's own numbers, as far as they could be read, and the effects they show.

Hinck et al. 2024 (arXiv:2404.01331), read from the public model card and project page; the column
`source` says where each row was read. What was not at hand is missing, here and in every figure.
"""

from __future__ import annotations

from importlib.resources import files

import pandas as pd

MEASURES: dict[str, tuple[str, float]] = {
    "gqa": ("accuracy, %", 100.0),
    "mme_cognition": ("score", 1.0),
    "mme_perception": ("score", 1.0),
    "mm_vet": ("score, %", 1.0),
    "pope_accuracy": ("accuracy, %", 100.0),
    "pope_f1": ("F1, %", 100.0),
    "vqav2": ("accuracy, %", 1.0),
    "textvqa": ("accuracy, %", 1.0),
    "scienceqa_image": ("accuracy, %", 100.0),
    "mmvp": ("accuracy, %", 100.0),
}
"""Benchmark -> its unit here, and the factor from the number as printed."""
NAMES = {
    "gqa": "GQA",
    "mme_cognition": "MME cognition",
    "mme_perception": "MME perception",
    "mm_vet": "MM-Vet",
    "pope_accuracy": "POPE accuracy",
    "pope_f1": "POPE F1",
    "vqav2": "VQAv2",
    "textvqa": "TextVQA",
    "scienceqa_image": "ScienceQA image",
    "mmvp": "MMVP",
}
"""Benchmark -> how it is written."""
MODEL = ["language_model", "vision_encoder", "connector_pretrained"]
"""The columns that tell the paper's models apart."""

FACTORS: dict[str, tuple[str, str, str]] = {
    "size": ("language_model", "gemma-2b-it", "gemma-7b-it"),
    "encoder": ("vision_encoder", "CLIP", "DINOv2"),
    "connector": ("connector_pretrained", "no", "yes"),
}
"""Factor -> its column, the level it starts from, and the level it goes to."""
_CITED = {"citation": "Hinck et al. 2024, arXiv:2404.01331"}


def published_results() -> pd.DataFrame:
    """One row a model and benchmark.

    Returns columns language_model, vision_encoder, connector_pretrained, benchmark, value (NaN where
    the number was not at hand), unit, source.
    """
    with (files("vlm_probe.studies") / "llava_gemma_results.csv").open() as file:
        wide = pd.read_csv(file)
    tidy = wide.melt(id_vars=[*MODEL, "source"], value_vars=list(MEASURES), var_name="benchmark", value_name="value")
    tidy["unit"] = [MEASURES[name][0] for name in tidy["benchmark"]]
    tidy["value"] *= [MEASURES[name][1] for name in tidy["benchmark"]]
    tidy.attrs = {"title": "published results", **_CITED}
    return tidy.filter([*MODEL, "benchmark", "value", "unit", "source"])


def published_effects() -> pd.DataFrame:
    """What size, encoder and connector pretraining change, all else equal, among the Gemma models.

    Returns one row per factor, benchmark and pair of models that differ in that factor alone:
    columns factor, benchmark, name (as it is written), unit, fixed (what both share), before, after (the two values),
    difference (after - before), relative (difference over before, in %), missing (the models of the
    pair whose number was not at hand; "" if none, and then nothing is NaN).
    """
    values = _values()
    rows = []
    for factor in FACTORS:
        for first in _starting(values, factor):
            pair = [first, _moved(first, factor)]
            for benchmark, (unit, _) in MEASURES.items():
                before, after = (values[model, benchmark] for model in pair)
                rows.append(
                    {
                        "factor": factor,
                        "benchmark": benchmark,
                        "name": NAMES[benchmark],
                        "unit": unit,
                        "fixed": _name(_without(first, factor)),
                        "before": before,
                        "after": after,
                        "difference": after - before,
                        "relative": 100 * (after - before) / before,
                        "missing": _missing(values, pair, benchmark),
                    }
                )
    table = pd.DataFrame(rows)
    table.attrs = {"title": "published effects", **_CITED}
    return table


def published_interactions(factor: str, by: str) -> pd.DataFrame:
    """Whether one factor changes more where another was changed, all else equal, among the Gemma models.

    Returns one row per benchmark and four models: columns factor, by, benchmark, name (as it is written), unit, fixed
    (what all four share), at_start and at_end (what `factor` changes at the level that `by` starts from, and at the
    one it goes to), difference (at_end - at_start), relative (the difference over the number of the model that neither
    was changed of, in %), missing (the models whose number was not at hand; "" if none). What rests on a missing
    number is NaN.

    Each number is one run: differences of differences have no interval.
    """
    values = _values()
    rows = []
    for first in (model for model in _starting(values, factor) if model in _starting(values, by)):
        low, high = (first, _moved(first, factor)), (_moved(first, by), _moved(_moved(first, by), factor))
        for benchmark, (unit, _) in MEASURES.items():
            at_start, at_end = (values[after, benchmark] - values[before, benchmark] for before, after in (low, high))
            rows.append(
                {
                    "factor": factor,
                    "by": by,
                    "benchmark": benchmark,
                    "name": NAMES[benchmark],
                    "unit": unit,
                    "fixed": _name(_without(_without(first, factor), by)),
                    "at_start": at_start,
                    "at_end": at_end,
                    "difference": at_end - at_start,
                    "relative": 100 * (at_end - at_start) / values[first, benchmark],
                    "missing": _missing(values, [*low, *high], benchmark),
                }
            )
    table = pd.DataFrame(rows)
    table.attrs = {"title": f"published {factor} by {by}", **_CITED}
    return table


_Model = tuple[str, ...]


def _values() -> dict[tuple[_Model, str], float]:
    """(model, benchmark) -> its number, of the Gemma models."""
    rows = published_results().to_dict("records")
    named = [(tuple(str(row[name]) for name in MODEL), row) for row in rows]
    return {(model, str(row["benchmark"])): row["value"] for model, row in named if model[0].startswith("gemma")}


def _starting(values: dict[tuple[_Model, str], float], factor: str) -> list[_Model]:
    """The models at the level that a factor starts from."""
    column, start, _ = FACTORS[factor]
    return [model for model in dict.fromkeys(m for m, _ in values) if model[MODEL.index(column)] == start]


def _moved(model: _Model, factor: str) -> _Model:
    """The model at the level that a factor goes to."""
    column, _, end = FACTORS[factor]
    return tuple(end if name == column else level for name, level in zip(MODEL, model, strict=True))


def _without(model: _Model, factor: str) -> _Model:
    return tuple("" if name == FACTORS[factor][0] else level for name, level in zip(MODEL, model, strict=True))


def published_gaps() -> dict[str, list[str]]:
    """The Gemma models, in words, some of whose numbers were not at hand, with the names of those benchmarks."""
    values = _values()
    gaps: dict[str, list[str]] = {}
    for (model, benchmark), value in values.items():
        if pd.isna(value):
            gaps.setdefault(_name(model), []).append(NAMES[benchmark])
    return gaps


def _missing(values: dict[tuple[_Model, str], float], models: list[_Model], benchmark: str) -> str:
    return " and ".join(_name(model) for model in models if pd.isna(values[model, benchmark]))


def _name(model: _Model) -> str:
    """A model, or what several of them share, in words."""
    language, encoder, pretrained = model
    connector = {"yes": "connector pretrained", "no": "connector not pretrained"}.get(pretrained, "")
    return ", ".join(part for part in (language, encoder, connector) if part)
