"""Tables as large as findings show them, of models with long names: what figures must have room for."""

from collections.abc import Callable, Iterable
from itertools import product
from typing import Any

import numpy as np
import pandas as pd

from vlm_probe.findings import FINDINGS, run

MODELS = (
    "/home/somebody/checkpoints/2026-11-26/llava-gemma-2b-again",
    "Intel/llava-gemma-7b",
    "/home/somebody/checkpoints/2026-11-26/llava-gemma-7b-once-more",
    "replica/small-clip-nopre",
)
OBJECTS = ("the asked object's patches", "another object's")
ROUTES = ("image to question", "image to answer", "image to both")
MEASURES = {
    "S2": [
        f"{what}: {of}"
        for what in ("color", "shape")
        for of in (
            "the model answers",
            "probe at the connector",
            "probe behind the last layer",
            "connector, another's box",
            "last layer, another's box",
            "probe of a random encoder",
            "probe of six pixel numbers",
        )
    ],
    "S3": [
        "changed: the object asked about gone",
        "changed: another object gone",
        "changed: another item's picture",
        "changed: a blank picture",
        "changed: hardly blurred",
        "yes to a blank picture",
    ],
    "S4": [
        *(f"{route}: {of}" for route in ROUTES for of in OBJECTS),
        *(f"{route}{of}" for route in (*ROUTES, "question to answer") for of in ("", ": random edges")),
    ],
    "S5": [
        "answer stands at the answer position",
        "patches of the boxes needed until",
        "random patches needed until",
    ],
    "C1 nearest": ["image rows", "turned at random"],
    "C1 words": [
        "image rows as they are",
        "rebuilt from nearest words",
        "from nearest rows,\nvocabulary turned",
        "from random rows",
    ],
    "C1 named": [
        f"{of}: {which}"
        for of in ("in context", "rows of the same tokens", "all vocabulary rows")
        for which in ("this object", "another")
    ],
    "C2": [
        "image rows told from words",
        "other words told from words",
        "answers right",
        "right from 8 words a row",
        "right from as many,\nvocabulary turned",
        "property found by a probe",
    ],
}
"""Of figures of measures by model, by finding and, where it has several, by name."""


def blocks(part: str, number: int) -> list[str]:
    return [f"{part}.hook_embed", *(f"{part}.blocks.{i}.hook_resid_post" for i in range(number))]


ENCODER, LANGUAGE = blocks("vision", 24), blocks("language", 18)
CONNECTOR = [f"connector.hook_{name}" for name in ("in", "pre", "post", "out")]


def crossed(model: Iterable[str] = MODELS, **columns: Iterable[Any]) -> pd.DataFrame:
    """A row for all that can stand together, with mean, low, high and n."""
    of = {"model": model, **columns}
    table = pd.DataFrame(list(product(*of.values())), columns=list(of))
    mean = np.random.default_rng(7).uniform(0.2, 0.8, len(table))
    return table.assign(mean=mean, low=mean - 0.1, high=mean + 0.1, n=np.arange(len(table)) % 2 + 352)


def accuracy() -> pd.DataFrame:
    kinds = ("color", "shape", "existence", "count", "side", "relation", "all")
    return crossed(kind=kinds).rename(columns={"mean": "accuracy"}).assign(chance=0.25, blind=0.5)


def layers() -> pd.DataFrame:
    table = crossed(layer=range(18), measure=("in_box", "in_other_box", "area", "image_mass", "sink_mass"))
    return table.assign(mean=table["mean"].where(table["measure"] != "area", 0.07))


def parts() -> pd.DataFrame:
    names = ("embedding", "unembedding", "attention", "mlp", "norm", "connector", "encoder")
    amounts = {"parameters": 1e9, "flops_per_token": 1e9}
    return crossed(part=names).assign(**amounts)


def probes() -> pd.DataFrame:
    labels = ("color", "shape", "position", "count", "existence")
    return crossed(label=labels).assign(random=0.3, pixels=0.25, common=0.2)


def along() -> pd.DataFrame:
    # In one order: a point's row of every model.
    table = crossed(label=("color", "shape", "position", "count", "existence"), point=ENCODER)
    return table.assign(random=[0.1 + 0.1 * MODELS.index(model) for model in table["model"]])


def encoders() -> pd.DataFrame:
    more = [f"{model}{of}" for model in MODELS for of in ("", ", another seed", ", random")]
    return crossed(more, column=more).rename(columns={"model": "row", "mean": "cka"})


def encoder_layers() -> pd.DataFrame:
    first, *_ = MODELS
    rows = [f"{model} layer {i}" for model in MODELS[:2] for i in range(12)]
    columns = [f"{first} layer {i}" for i in range(12)]
    return crossed(rows, column=columns).rename(columns={"model": "row", "mean": "cka"})


def stages() -> pd.DataFrame:
    points = [*CONNECTOR, *LANGUAGE]
    table = crossed(point=points).drop(columns=["low", "high"])
    return table.assign(effective_rank=40 * table["mean"], intrinsic_dimension=7 * table["mean"])


def named_by_layer() -> pd.DataFrame:
    return crossed(point=LANGUAGE).rename(columns={"mean": "named more than another (share)"})


def gap() -> pd.DataFrame:
    cosines = ("cosine_between", "cosine_within_image", "cosine_within_text")
    return crossed(point=LANGUAGE).assign(**dict.fromkeys(cosines, 0.3), n_image=2789, n_text=2789)


def patched() -> pd.DataFrame:
    table = crossed(positions=("answer", "box", "(question | tail) & ~answer"), control=(False, True), layer=range(18))
    return table.assign(depth=table["layer"] / 17)


def windows() -> pd.DataFrame:
    table = crossed(route=(*ROUTES, "question to answer"), layer=range(18), control=(False, True))
    return table.assign(first=table["layer"], last=table["layer"])


def growth() -> pd.DataFrame:
    table = crossed(tokens=(10, 100, 1000, 10_000))
    return table.assign(used=table["tokens"] * table["mean"])


def curves() -> pd.DataFrame:
    kinds = ("known to be untrained", "used by the items' text", "all others")
    table = crossed(rows=kinds, indicator=np.linspace(0.05, 0.9, 9))
    return table.assign(share=table["indicator"])


def sizes() -> pd.DataFrame:
    table = crossed(rows=(262_144, 328, 310, 280)).rename(columns={"mean": "accuracy"})
    return table.assign(readable=1.0)


def twins() -> pd.DataFrame:
    table = crossed(id=range(30)).rename(columns={"mean": "percentile"})
    return table.assign(percentile_random=table["percentile"] + 0.1, both_right=table["id"] % 2)


def leaks() -> pd.DataFrame:
    return crossed(layer=range(18), measure=("untrained", "used", "other"))


TABLES: dict[str, Callable[[], pd.DataFrame]] = {
    "S1 accuracy": accuracy,
    "S1 layers": layers,
    "S1 pointing": lambda: crossed(measure=("points_asked", "points_other")),
    "S4 windows": windows,
    "S5 layers": patched,
    "V1 parts": parts,
    "V2 growth": growth,
    "V3 curves": curves,
    "V4 image": leaks,
    "V4 answer": leaks,
    "V5 sizes": sizes,
    "E1 probes": probes,
    "E1 along": along,
    "E1 encoders": encoders,
    "E1 layers": encoder_layers,
    "E2 pairs": twins,
    "C1 gap": gap,
    "C1 named_by_layer": named_by_layer,
    "C1 stages": stages,
}
"""By finding and table. Findings that open no model have their own."""


def table_of(finding: str, figure: str, table: str) -> pd.DataFrame:
    """What a finding's figure draws."""
    if FINDINGS[finding].models == 0:
        (own,) = (found := run([finding], [])).findings
        return found.shown(own).tables[table]
    if f"{finding} {table}" in TABLES:
        return TABLES[f"{finding} {table}"]()
    return crossed(measure=MEASURES[f"{finding} {figure}" if f"{finding} {figure}" in MEASURES else finding])
