"""What stands inside a trained run of a study: whether what is asked can be read there, and whether answers need it.

All of it are shares, of the same things in every arm of a seed, so that what one arm has more than another can be
followed from the picture to the answer: read by probes from the pixels, the encoder, the connector and the last layer,
and answered with its own picture, with another's, and without attention along a route or as many random edges.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import count
from typing import Any

import numpy as np
import pandas as pd

from vlm_probe.causal.knockout import ROUTES, knockout_sweep
from vlm_probe.causal.pictures import swapped, with_pictures
from vlm_probe.embedding.encoder import encoded
from vlm_probe.embedding.features import features
from vlm_probe.embedding.transfer import predictions_elsewhere
from vlm_probe.errors import VlmProbeError
from vlm_probe.hooked import HookedVLM
from vlm_probe.hooked.untrained import with_random_encoder
from vlm_probe.items import Item
from vlm_probe.running.evaluation import evaluate
from vlm_probe.scenes import Question, SceneObject, World, sample_scene
from vlm_probe.scenes.items import FAMILY, make_item
from vlm_probe.scenes.worlds import Split
from vlm_probe.studies.inside import ANSWER, OTHER_PICTURE, PROPERTIES, SCORED, cut
from vlm_probe.training.encoders import scene_seeds
from vlm_probe.training.packing import DESCRIBE

LEARNED, READ = 900, 450
"""Objects in training scenes that a probe is trained on, and objects of a split that it is read on."""
ASKED_PER_KIND = 50
"""Questions of every type, of every split, whose answers are looked at."""
AT_ONCE = 32


def look_inside(model: HookedVLM, world: World, asked: dict[Split, Sequence[Item]]) -> list[dict[str, Any]]:
    """A trained model's shares, as `studies.readings` has them: rows split, kind, place, n, share.

    asked: by split, what the model is scored on (`training.study.items_of`); answers are looked at of its first.
    """
    rows = []
    for split, shares in _read(model, world, list(asked)).items():
        rows += [{"split": split, **row} for row in shares]
    for split, items in asked.items():
        right = evaluate(model, items)["correct"].to_numpy()
        rows += [{"split": split, **row} for row in (_row("all", SCORED, right), *_answered(model, items))]
    return rows


def objects_in(world: World, split: Split, n: int) -> list[tuple[SceneObject, Item]]:
    """So many objects in scenes of a split, of "novel" those that no training image shows; the same in every arm.

    An item's box is the object's; its question is always the same, for what stands in image rows hangs on no question.
    """
    found: list[tuple[SceneObject, Item]] = []
    for number in count():
        (seed,) = scene_seeds(f"inside/{split}", 0, number, 1)
        scene = sample_scene(seed, split, world=world)
        for at, one in enumerate(scene.objects):
            if split == "novel" and one.kind not in world.novel:
                continue
            image = f"inside-{split}-{number}"
            question = Question("object", DESCRIBE, one.name, (), (one,))
            found.append((one, make_item(FAMILY, "object", f"{image}-{at}", scene, question, image=image)))
            if len(found) == n:
                return found
    raise AssertionError("there are always more scenes")


def _read(model: HookedVLM, world: World, splits: Sequence[Split]) -> dict[Split, list[dict[str, Any]]]:
    """By split, what probes find of the objects' properties at every place."""
    of = {split: objects_in(world, split, READ) for split in splits}
    learned = objects_in(world, "train", LEARNED)
    shown = [one for part in of.values() for one in part]
    items = [item for _, item in (*learned, *shown)]
    ends = np.cumsum([len(part) for part in of.values()])[:-1]
    rows: dict[Split, list[dict[str, Any]]] = {split: [] for split in splits}
    for place, rows_of in _places(model, items):
        x, asked = rows_of[None, : len(learned)], rows_of[None, len(learned) :]
        for name, other in zip(PROPERTIES, reversed(PROPERTIES), strict=True):
            y, parts = (np.asarray([getattr(one, its) for one, _ in learned]) for its in (name, other))
            truth = np.asarray([getattr(one, name) for one, _ in shown])
            # A probe that saw all of red but its stars would know that red is no star.
            held_out = np.asarray([getattr(one, other) if one.kind in world.novel else "" for one, _ in shown])
            right = _said(x, y, parts, asked, held_out) == truth
            for split, own in zip(splits, np.split(right, ends), strict=True):
                rows[split].append(_row(name, place, own))
    return rows


def _places(model: HookedVLM, items: Sequence[Item]) -> Iterator[tuple[str, np.ndarray]]:
    """Features [item, feature] over each item's box, place by place from the picture on."""
    end = f"vision.blocks.{model.vision_layers_read - 1}.hook_resid_post"
    untrained, pixels = encoded(with_random_encoder(model), items, [end])
    yield "pixels", pixels["box"].astype(np.float32)
    yield "untrained encoder", untrained["box"][0].astype(np.float32)
    last = f"language.blocks.{model.layers['language'] - 1}.hook_resid_post"
    data = features(model, items, [end, "connector.hook_out", last], pool="box", batch_size=AT_ONCE)
    for place, point in (("encoder", end), ("connector", "connector.hook_out"), ("last layer", last)):
        yield place, data[point].values


def _said(x: np.ndarray, y: np.ndarray, parts: np.ndarray, asked: np.ndarray, held_out: np.ndarray) -> np.ndarray:
    """What a probe says; of features that tell nothing apart, as those of a broken connector, the most frequent."""
    if (x == x[:, :1]).all():
        names, counts = np.unique(y, return_counts=True)
        return np.full(len(held_out), names[counts.argmax()])
    return predictions_elsewhere(x, y, parts, asked, held_out)[0]


def _answered(model: HookedVLM, items: Sequence[Item]) -> Iterator[dict[str, Any]]:
    """Whether an answer's first token is said: as it is, with another picture, and with routes cut whole, or as many
    edges at random."""
    kinds = pd.Series([item.kind for item in items])
    first = (kinds.groupby(kinds).cumcount() < ASKED_PER_KIND).tolist()
    some = [item for item, taken in zip(items, first, strict=True) if taken]
    pictured = with_pictures(model, some, {OTHER_PICTURE: swapped(some)}, batch_size=AT_ONCE)
    without = knockout_sweep(model, some, routes=ROUTES, window=model.layers["language"], batch_size=AT_ONCE)
    for table in (pictured, without):
        if table.attrs["left_out"]:
            raise VlmProbeError(table.attrs["left_out"][0])
    kind_of = {item.id: item.kind for item in some}
    answers = without.drop_duplicates("id")
    places = [(ANSWER, answers["id"], answers["right_before"]), (OTHER_PICTURE, pictured["id"], pictured["right"])]
    for route in ROUTES:
        for control in (False, True):
            own = without.loc[(without["route"] == route) & (without["control"] == control)]
            places.append((cut(route, random=control), own["id"], own["right"]))
    for place, ids, right in places:
        of = np.asarray([kind_of[id] for id in ids])
        for kind in ("all", *PROPERTIES):
            own = right.to_numpy()[(of == kind) | (kind == "all")]
            if len(own):
                yield _row(kind, place, own)


def _row(kind: str, place: str, right: np.ndarray) -> dict[str, Any]:
    return {"kind": kind, "place": place, "n": len(right), "share": round(float(right.mean()), 6)}
