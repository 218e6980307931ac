"""Drawings of figures that no finding has, as large as they are used, of models with long names."""

from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from PIL import Image
from realistic import CONNECTOR, ENCODER, LANGUAGE, MODELS, crossed

from vlm_probe import figures
from vlm_probe.findings.questions import QUESTIONS, effects_of
from vlm_probe.studies.inside import FOLLOWED

FIRST, *_, LAST = MODELS
IMAGE = Image.new("RGB", (233, 147), (10, 120, 200))
QUESTION = "Is the large red triangle to the left of the small blue circle that is above it?"
CELLS = [
    f"{size}-{encoder}{of}"
    for size in ("small", "large")
    for encoder in ("clip", "dino")
    for of in ("", "-nopre", "-128")
]
KNOWN: dict[Any, Any] = {
    "title": "relevancy through the encoder",
    "units": "share of the answer",
    "model": FIRST,
    "question": QUESTION,
}


def maps(*dims: str, sizes: tuple[int, ...] = (), **coords: Any) -> xr.DataArray:
    values = np.random.default_rng(7).uniform(0, 1, (*sizes, 16, 16))
    return xr.DataArray(values, dims=(*dims, "row", "col"), coords=coords, attrs=KNOWN)


def signed() -> Any:
    told = {"completeness_error": 0.02, "output": 7.0, "output_baseline": -0.5, "baseline": "mean"}
    return figures.signed_overlay(IMAGE, (maps() - 0.5).assign_attrs(KNOWN | told))


def seeds(*, kinds: bool = True) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Rows of `grid_differences` and of `grid_effects`."""
    changed = (("size", "small-clip", "large-clip"), ("size", "small-clip-nopre", "large-clip-nopre"))
    pairs = [*changed, ("encoder", "small-clip-places", "small-dino-places")]
    both = {"split": "novel", "n": 1200} | ({"kind": "all"} if kinds else {})
    rows = [
        {"factor": factor, "first": first, "second": second, **both, "seed": seed, "difference": 0.1 * seed - 0.2}
        for (factor, first, second), seed in product(pairs, range(5))
    ]
    means = [
        {"factor": factor, "first": first, "second": second, **both, "seeds": 5, "difference": 0.0}
        | {"low": -0.2, "high": 0.2, "verdict": verdict}
        for (factor, first, second), verdict in zip(pairs, ("supported", "contradicted", "undecided"), strict=True)
    ]
    return pd.DataFrame(rows), pd.DataFrame(means)


def followed() -> tuple[pd.DataFrame, pd.DataFrame]:
    """Rows of `reading_differences` and of `effects_followed`."""
    places = list(FOLLOWED)
    differences, effects = (table.merge(pd.DataFrame({"kind": places}), how="cross") for table in seeds(kinds=False))
    return differences, effects


def curves() -> pd.DataFrame:
    arms = pd.DataFrame(
        {"arm": [f"{s}-{e}-{p}" for s, e, p in product(("small", "large"), ("clip", "dino"), (True, False))]}
    )
    of = arms["arm"].str.split("-", expand=True).set_axis(["size", "encoder", "pretrained"], axis=1)
    arms = arms.join(of).assign(pretrained=of["pretrained"] == "True")
    table = arms.merge(crossed(arms["arm"], scenes=(640, 2560, 10_240, 40_960)).rename(columns={"model": "arm"}))
    return table.rename(columns={"mean": "accuracy"}).assign(split="heldout", seeds=5)


def scores() -> pd.DataFrame:
    table = crossed(CELLS, seed=range(5)).rename(columns={"model": "cell", "mean": "accuracy"})
    return table.assign(split="novel")


def families() -> pd.DataFrame:
    table = crossed(("gqa", "pope, adversarial", "mmvp", "vqav2", "scienceqa_image"))
    table = table.rename(columns={"model": "family", "mean": "difference"})
    table["verdict"] = ["supported", "contradicted", "equivalent", "undecided", "descriptive"]
    table.attrs = {"first": FIRST, "second": MODELS[2]}
    return table


def alike() -> Any:
    points = [*CONNECTOR, *LANGUAGE]
    matrix = pd.DataFrame(0.5, index=points, columns=points)
    matrix.attrs = {"units": "cka", "items": 300}
    return figures.similarity_heatmap(matrix, rows=FIRST, columns=LAST)


def rows() -> pd.DataFrame:
    at = np.random.default_rng(7).normal(size=(300, 2))
    table = pd.DataFrame(at, columns=["x", "y"]).assign(modality=["image", "text"] * 150)
    told = {"method": "pca", "explained": [0.4, 0.2], "trustworthiness": 0.9}
    table.attrs = {**KNOWN, **told, "title": "language.blocks.17.hook_resid_post"}
    return table


def probes() -> Any:
    table = crossed(label=("shape",), point=[*ENCODER, *CONNECTOR, *LANGUAGE]).rename(columns={"mean": "score"})
    return figures.probe_by_layer(table.assign(control=0.3, majority=0.2, classes=5), "shape")


def judged(column: str, values: tuple[Any, Any], value: str) -> pd.DataFrame:
    named = ("relevancy through the encoder", "integrated gradients", "attention rollout", "centre of the picture")
    return crossed(named, **{column: values}).rename(columns={"model": "map", "mean": value})


def labels() -> xr.DataArray:
    of = np.random.default_rng(7).choice(["ground", "red", "blue", "several of one patch"], (16, 16))
    return xr.DataArray(of, dims=("row", "col"), attrs=KNOWN | {"title": "spatial probe of what the connector reads"})


def words() -> pd.DataFrame:
    table = pd.DataFrame(product(range(16), range(16)), columns=["row", "col"])
    table = table.assign(image=0, rank=0, token=" background", score=0.5)
    table.attrs = {**KNOWN, "title": "nearest rows of the vocabulary"}
    return table


def published() -> Any:
    return figures.published_effect(effects_of(QUESTIONS["size"]), title="size", first="Gemma-2B", second="Gemma-7B")


def cases() -> Any:
    text = f"{QUESTION}\nsays: yes, the answer is: no"
    panels = [{"image": IMAGE, "map": maps(), "boxes": [(3, 4, 50, 60)], "text": text} for _ in range(3)]
    return figures.case_panels(panels, title=f"{FIRST}: the items whose map lies on the object the most")


def tokens() -> Any:
    found = maps("token", sizes=(5,), token=[" left", ",", " of", " the", " circle"])
    return figures.token_strip(IMAGE, found)


DRAWN: dict[str, Callable[[], Any]] = {
    "published_effect": published,
    "effect_over_seeds": lambda: figures.effect_over_seeds(
        *seeds(), title="From the small language model to the large"
    ),
    "effects_by_factor": lambda: figures.effects_by_factor(*seeds()),
    "effects_followed": lambda: figures.effects_followed(*followed()),
    "learning_curves": lambda: figures.learning_curves(curves(), title="Held-out scenes"),
    "scores_by_seed": lambda: figures.scores_by_seed(scores()),
    "difference_by_family": lambda: figures.difference_by_family(families()),
    "similarity_heatmap": alike,
    "projection": lambda: figures.projection(rows()),
    "probe_by_layer": probes,
    "maps_beyond_random": lambda: figures.maps_beyond_random(
        judged("of", ("this item", "another item"), "difference"), note=FIRST
    ),
    "right_map_right_answer": lambda: figures.right_map_right_answer(judged("right_map", (True, False), "accuracy")),
    "overlay": lambda: figures.overlay(IMAGE, maps()),
    "signed_overlay": signed,
    "label_map": lambda: figures.label_map(IMAGE, labels()),
    "words_on_image": lambda: figures.words_on_image(IMAGE, words()),
    "layer_strip": lambda: figures.layer_strip(IMAGE, maps("layer", sizes=(8,), layer=range(8))),
    "head_grid": lambda: figures.head_grid(IMAGE, maps("layer", "head", sizes=(6, 8), layer=range(6))),
    "case_panels": cases,
    "token_strip": tokens,
}
