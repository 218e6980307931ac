"""Can a heat map be believed? One harness for every map over patches, and the same scores for what it must beat.

Maps that answer one question are held against each other and against maps that know nothing of it. Scores, a row each:

- deletion, insertion: curves (share of the picture's patches blanked, or back), and deletion_area, insertion_area
  (`blanking`; Petsiuk et al. 2018, arXiv:1806.07421). Small areas of deletion and large ones of insertion are good.
- infidelity, sensitivity (Yeh et al. 2019, arXiv:1901.09392; see `map_scores`). Small is good.
- in_box, in_other: share of the map's mass above 0 on the object asked about, and on another one of the scene; points,
  points_other: whether its highest patch is there (Zhang et al. 2018, arXiv:1608.00507). Large boxes hold more of any
  map: the map "even" says how much.
- agreement: Spearman's rank correlation with another map of the same item.
- randomised: the same with the map of an untrained copy of the model, for the same token (Adebayo et al. 2018,
  arXiv:1810.03292, all layers at once, ranks in place of SSIM). Near 1 says that the map does not depend on what the
  model has learned.

No statistics over items: that is `evidence`'s, on this table.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
import xarray as xr
from jaxtyping import Float, Int

from vlm_probe.attention.answer_maps import BASELINES, MAPS, MakesMap, able, map_named
from vlm_probe.attention.blanking import Without, checked_values, shown_patches
from vlm_probe.attention.map_scores import infidelity, on_objects, rank_agreement, sensitivity, some_sets
from vlm_probe.errors import VlmProbeError
from vlm_probe.files import writable
from vlm_probe.hooked import HookedVLM
from vlm_probe.hooked.untrained import untrained
from vlm_probe.inputs.model_inputs import ModelInputs
from vlm_probe.items import Item, suffix_of
from vlm_probe.items.item import check_ids
from vlm_probe.items.scores import score_answer
from vlm_probe.layout import UnitBox
from vlm_probe.running.answer_token import answer_token
from vlm_probe.settings import SEED

MapSource = MakesMap | Mapping[str, xr.DataArray] | Mapping[str, np.ndarray]
"""What makes a map, or maps that were made elsewhere by the item's id: arrays [row, col] over the picture's patches."""
SCORES = ("deletion", "infidelity", "sensitivity", "boxes", "agreement", "randomised")
"""What can be scored: "deletion" brings insertion with it, "boxes" the shares and the pointing games."""
COLUMNS = ("id", "image", "map", "of", "score", "other", "share", "value")
THIS, ANOTHER = "this item", "another item"
RANDOM, EVEN = "random", "even"
SETS = 32
"""Random sets of patches for infidelity."""
RADIUS = 0.1
"""Of the noise for sensitivity, in units of the encoder's input."""

_Map = Float[np.ndarray, "draw row col"]


@dataclass
class _Looked:
    """One item with its maps; NaN on padding."""

    item: Item
    inputs: ModelInputs
    target: int
    shown: Int[np.ndarray, " patch"]
    maps: dict[str, _Map]
    rows: list[tuple[Any, ...]]


@dataclass(frozen=True)
class _Settings:
    makers: Mapping[str, MapSource]
    scores: frozenset[str]
    steps: int
    draws: int
    noises: int
    bare: HookedVLM | None
    suffix: str
    seed: int
    batch_size: int
    max_new_tokens: int


def faithfulness(
    model: HookedVLM,
    items: Sequence[Item],
    *,
    maps: Sequence[str] | Mapping[str, MapSource] | None = None,
    scores: Collection[str] = SCORES,
    steps: int = 10,
    draws: int = 5,
    noises: int = 3,
    bare: HookedVLM | None = None,
    suffix: str = "",
    seed: int = SEED,
    batch_size: int = 32,
    max_new_tokens: int = 16,
    progress: Callable[[int], None] | None = None,
) -> pd.DataFrame:
    """Score maps of the model's own answers, item by item, beside maps that know nothing of the question.

    A map is made for the token that begins the word that is scored of the model's own answer (`running.answer_token`),
    right or wrong. Beside `maps` stand "random" (the mean of `draws`), "centre" and "encoder" (`answer_maps`), and
    every map of `maps` as it is for another picture (column of: "another item"): for deletion, infidelity and boxes.

    Parameters
    ----------
    maps: names of `answer_maps.MAPS` (all that the model can make if None), or name -> a function of that signature,
        or name -> {item id: array}: `{**MAPS, "mine": {item.id: array}}`. Of arrays neither sensitivity nor randomised
        can be asked.
    scores: which of `SCORES`; the module says what they are.
    steps: of deletion and insertion.
    draws: of random maps.
    noises: noisy pictures for sensitivity; every map is made anew for each.
    bare: the untrained copy for randomised (`hooked.untrained`); None makes one.
    suffix: appended to every question, as in `evaluate`.
    seed: of every draw; an item's are its own, whatever else is asked.
    batch_size: pictures run together.
    max_new_tokens: length of an answer at most.
    progress: called with 1 for every item that is done, or left out.

    Returns
    -------
    DataFrame, a row an item, map and score, with columns id, image (its name), map, of ("this item", or "another item"
    whose map it is), score, other (of agreement: the other map), share (of the curves: share of patches, 0 to 1; else
    NaN) and value: probability of the token for curves and areas, else as the module says. `attrs["skipped"]` names the
    items that were left out, with the reason.

    Raises
    ------
    VlmProbeError: no item, two of one id, an unknown map or score, a number that is none, and where every item had to
        be left out: for a picture that is missing, an empty answer, an array that is missing or not over the patches.
    """
    made = _Settings(
        _makers(able(model, list(MAPS)) if maps is None else maps),
        frozenset(scores),
        steps,
        draws,
        noises,
        bare,
        suffix,
        seed,
        batch_size,
        max_new_tokens,
    )
    _check(items, made)
    if "randomised" in made.scores and bare is None:
        made = replace(made, bare=untrained(model, seed=seed))
    skipped: dict[str, str] = {}
    tables: dict[str, list[tuple[Any, ...]]] = {}
    for looked, donor in _beside_another(_each(model, items, made, skipped, progress)):
        tables[looked.item.id] = _scored(model, looked, donor, made)
        if progress is not None:
            progress(1)
    left_out = [f"item {name}: {why}" for name, why in skipped.items()]
    if not tables:
        raise VlmProbeError(f"no item could be scored; {left_out[0]}")
    rows = [row for item in items for row in tables.get(item.id, ())]
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    about = {"title": "Faithfulness of maps", "seed": seed, "steps": steps, "suffix": suffix, **model.provenance()}
    table.attrs = {**writable(about), "skipped": left_out}
    return table


def _makers(maps: Sequence[str] | Mapping[str, MapSource]) -> dict[str, MapSource]:
    """Name -> what makes a map; VlmProbeError for an unknown one, none, and names that stand beside every map."""
    makers: dict[str, MapSource] = {}
    makers |= maps if isinstance(maps, Mapping) else {name: map_named(name) for name in maps}
    taken = [name for name in makers if name in (RANDOM, EVEN, *BASELINES)]
    if taken or not makers:
        said = f"{taken[0]!r} stands beside every map" if taken else "there is no map to score"
        raise VlmProbeError(f"{said}; give others in maps=[...]")
    return makers


def _check(items: Sequence[Item], made: _Settings) -> None:
    """All that is asked, before anything runs."""
    if not items:
        raise VlmProbeError("there is no item to score maps of")
    check_ids(items)
    for name in ("steps", "draws", "noises", "batch_size", "max_new_tokens"):
        if getattr(made, name) < 1:
            raise VlmProbeError(f"{name} must be at least 1, got {getattr(made, name)}")
    unknown = [one for one in made.scores if one not in SCORES]
    if unknown or not made.scores:
        raise VlmProbeError(f"no score {(unknown or [''])[0]!r}; there are {', '.join(SCORES)}")


def _each(
    model: HookedVLM,
    items: Sequence[Item],
    made: _Settings,
    skipped: dict[str, str],
    progress: Callable[[int], None] | None,
) -> Iterator[_Looked]:
    """Every item with its maps, but those of which there are none."""
    for item in items:
        try:
            yield _look(model, item, made)
        except VlmProbeError as error:
            skipped[item.id] = str(error)
            if progress is not None:
                progress(1)


def _beside_another(each: Iterator[_Looked]) -> Iterator[tuple[_Looked, _Looked | None]]:
    """Every item with one of another picture: the last before it, of the first ones the first behind.

    Few are ever held: pictures and maps of a data set are gigabytes.
    """
    waiting: list[_Looked] = []
    last: list[_Looked] = []
    for one in each:
        waiting.append(one)
        last = [*[other for other in last if other.item.image != one.item.image][-1:], one]
        while waiting:
            others = [other for other in last if other.item.image != waiting[0].item.image]
            if not others:
                break
            yield waiting.pop(0), others[-1]
    for one in waiting:
        yield one, None


def _numbers(made: _Settings, item: Item) -> np.random.Generator:
    """An item's own random numbers."""
    return np.random.default_rng([made.seed, zlib.crc32(item.id.encode())])


def _look(model: HookedVLM, item: Item, made: _Settings) -> _Looked:
    """An item's maps, and what is said of each while it can be made anew."""
    inputs, target = asked_word(model, item, suffix=made.suffix, max_new_tokens=made.max_new_tokens)
    span = inputs.layout.image()
    shown = shown_patches(span)

    def values(name: str, source: MapSource, by: HookedVLM = model) -> Float[np.ndarray, "row col"]:
        found = np.full(span.grid, np.nan)
        given = _given(source, item, name) if isinstance(source, Mapping) else source(by, inputs, target=target)
        found.ravel()[shown] = checked_values(given, span, f"the map {name!r}").ravel()[shown]
        return found

    maps: dict[str, _Map] = {name: values(name, source)[None] for name, source in made.makers.items()}
    maps |= {name: values(name, make)[None] for name, make in BASELINES.items()}
    noise = np.full((made.draws, *span.grid), np.nan)
    noise.reshape(made.draws, -1)[:, shown] = _numbers(made, item).random((made.draws, len(shown)))
    maps[RANDOM] = noise
    looked = _Looked(item, inputs, target, shown, maps, [])
    for name, source in made.makers.items():
        if isinstance(source, Mapping):
            continue
        if "sensitivity" in made.scores:
            generator = torch.Generator().manual_seed(int(_numbers(made, item).integers(2**31)))
            how: dict[str, Any] = {"radius": RADIUS, "noises": made.noises, "generator": generator}
            far = sensitivity(model, inputs, target, source, maps[name][0], **how)
            looked.rows.append((name, THIS, "sensitivity", "", np.nan, far))
        if "randomised" in made.scores and made.bare is not None:
            alike = rank_agreement(maps[name][0], values(name, source, made.bare), shown)
            looked.rows.append((name, THIS, "randomised", "", np.nan, alike))
    return looked


def asked_word(model: HookedVLM, item: Item, *, suffix: str = "", max_new_tokens: int = 16) -> tuple[ModelInputs, int]:
    """An item's prompt up to the word that is scored of the model's own answer, and the token that begins it.

    Raises VlmProbeError as `prepare` does, and for an empty answer.
    """
    inputs = model.prepare(model.picture(item), item.question + suffix_of(item, suffix))
    ids = model.answer_tokens(inputs, max_new_tokens=max_new_tokens)[0]
    if not ids:
        raise VlmProbeError("the answer is empty: there is no token to make a map for")
    said = model.tokenizer.decode(ids, skip_special_tokens=True).strip()
    first = answer_token(model.tokenizer, ids, score_answer(item, said)[0])
    so_far = inputs.with_answer(ids[:first], model.token_strings(ids[:first])) if first else inputs
    return so_far, int(ids[first])


def _given(maps: Mapping[str, Any], item: Item, name: str) -> xr.DataArray:
    if item.id not in maps:
        raise VlmProbeError(f"there is no map {name!r} of this item")
    given = maps[item.id]
    return given if isinstance(given, xr.DataArray) else xr.DataArray(np.asarray(given), dims=("row", "col"))


def _scored(model: HookedVLM, looked: _Looked, donor: _Looked | None, made: _Settings) -> list[tuple[Any, ...]]:
    """All rows of an item."""
    item, rng = looked.item, _numbers(made, looked.item)
    without = Without(model, looked.inputs, looked.target, at_once=made.batch_size)
    sets = some_sets(without, SETS, rng)
    asked = _coverages(item.boxes, looked)
    rivals = _coverages(item.others, looked)
    rival = [rivals[int(rng.integers(len(rivals)))]] if rivals else []
    rows = list(looked.rows)

    def add(name: str, of: str, maps: _Map) -> None:
        if "deletion" in made.scores:
            curves = np.mean([without.curves(one, steps=made.steps, rng=rng) for one in maps], axis=0)
            shares = without.counts(made.steps) / len(looked.shown)
            for score, curve in zip(("deletion", "insertion"), curves, strict=True):
                rows.extend((name, of, score, "", share, value) for share, value in zip(shares, curve, strict=True))
                rows.append((name, of, f"{score}_area", "", np.nan, float(np.trapezoid(curve, shares))))
        if "infidelity" in made.scores:
            wrong = [infidelity(without, one, sets) for one in maps]
            rows.append((name, of, "infidelity", "", np.nan, float(np.mean(wrong))))
        if "boxes" in made.scores:
            add_boxes(name, of, maps)

    def add_boxes(name: str, of: str, maps: _Map) -> None:
        for coverages, words in ((asked, ("in_box", "points")), (rival, ("in_other", "points_other"))):
            if coverages:
                found = np.mean([on_objects(one, coverages, looked.shown) for one in maps], axis=0)
                rows.extend((name, of, score, "", np.nan, value) for score, value in zip(words, found, strict=True))

    for name, maps in looked.maps.items():
        add(name, THIS, maps)
    if "boxes" in made.scores:
        add_boxes(EVEN, THIS, np.ones((1, *without.span.grid)))
    for name in made.makers if donor is not None else ():
        assert donor is not None
        own = _fitted(donor.maps[name], looked)
        if own is not None:
            add(name, ANOTHER, own)
    if "agreement" in made.scores:
        single = {name: maps[0] for name, maps in looked.maps.items() if name != RANDOM}
        for name, one in single.items():
            for other, two in single.items():
                if name != other:
                    rows.append((name, THIS, "agreement", other, np.nan, rank_agreement(one, two, looked.shown)))
    return [(item.id, item.image, *row) for row in rows]


def _fitted(maps: _Map, looked: _Looked) -> _Map | None:
    """Maps of another picture where they have a number at every patch that this one shows; else None."""
    grid = looked.inputs.layout.grid
    if maps.shape[1:] != grid or not np.isfinite(maps.reshape(len(maps), -1)[:, looked.shown]).all():
        return None
    return maps


def _coverages(boxes: Sequence[UnitBox], looked: _Looked) -> list[Float[np.ndarray, "row col"]]:
    """Share of every patch that each box covers; boxes outside what the model sees are left out."""
    found = [looked.inputs.layout.box_coverage(box) for box in boxes]
    return [coverage for coverage in found if coverage.any()]
