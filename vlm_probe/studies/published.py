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
MODEL = ["language_model", "vision_encoder", "connector_pretrained"]
"""The columns that tell the paper's models apart."""

FACTORS: dict[str, tuple[str, str, str]] = {
    "size": ("language_model", "gemma-2b-it", "gemma-7b-it"),
    "encoder": ("vision_encoder", "CLIP", "DINOv2"),
    "connector": ("connector_pretrained", "no", "yes"),
}
"""Factor -> its column, the level it starts from, and the level it goes to."""


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
    tidy.attrs = {"title": "published results", "citation": "Hinck et al. 2024, arXiv:2404.01331"}
    return tidy.filter([*MODEL, "benchmark", "value", "unit", "source"])


def published_effects() -> pd.DataFrame:
    """What size, encoder and connector pretraining change, all else equal, among the Gemma models.

    Returns one row per factor, benchmark and pair of models that differ in that factor alone:
    columns factor, benchmark, unit, fixed (what both share), before, after (the two values),
    difference (after - before), relative (difference over before, in %), missing (the models of the
    pair whose number was not at hand; "" if none, and then nothing is NaN).
    """
    values: dict[tuple[str, ...], float] = {}
    for row in published_results().to_dict("records"):
        if str(row["language_model"]).startswith("gemma"):
            values[(*(str(row[name]) for name in MODEL), str(row["benchmark"]))] = row["value"]
    models = list(dict.fromkeys(key[:-1] for key in values))
    rows = []
    for factor, (column, start, end) in FACTORS.items():
        at = MODEL.index(column)
        for first in (model for model in models if model[at] == start):
            pair = [first, (*first[:at], end, *first[at + 1 :])]
            for benchmark, (unit, _) in MEASURES.items():
                before, after = (values.get((*model, benchmark), float("nan")) for model in pair)
                missing = [_name(model) for model, value in zip(pair, (before, after), strict=True) if pd.isna(value)]
                rows.append(
                    {
                        "factor": factor,
                        "benchmark": benchmark,
                        "unit": unit,
                        "fixed": _name((*first[:at], "", *first[at + 1 :])),
                        "before": before,
                        "after": after,
                        "difference": after - before,
                        "relative": 100 * (after - before) / before,
                        "missing": " and ".join(missing),
                    }
                )
    table = pd.DataFrame(rows)
    table.attrs = {"title": "published effects", "citation": "Hinck et al. 2024, arXiv:2404.01331"}
    return table


def _name(model: tuple[str, ...]) -> str:
    """A model, or what a pair of them shares, in words."""
    language, encoder, pretrained = model
    connector = {"yes": "connector pretrained", "no": "connector not pretrained"}.get(pretrained, "")
    return ", ".join(part for part in (language, encoder, connector) if part)
