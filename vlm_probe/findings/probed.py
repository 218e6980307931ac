"""Properties of one object: which items ask for one, and whether probes find it where they never saw the like."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
import xarray as xr
from jaxtyping import Float, Shaped

from vlm_probe.embedding import held_out_predictions
from vlm_probe.embedding.probe import STRENGTHS
from vlm_probe.embedding.transfer import dealt, transferred_predictions
from vlm_probe.errors import VlmProbeError
from vlm_probe.items import Item
from vlm_probe.items.item import with_others
from vlm_probe.scenes import Scene

POOL_OF = {"color": "box", "shape": "box", "position": "box", "count": "mean", "existence": "mean"}
"""Label -> where it is looked for: in the box of the object asked about, or in the mean over all patches."""
FOLDS = 5
"""Parts that items are dealt to where there are many questions, and the fewest items of an answer."""
OF_SCENES = ("color", "shape")
"""Kinds of question about generated scenes that ask for a property of one object, and not where it is."""


def probe_right(data: xr.Dataset, label: Sequence[str], groups: Sequence[str], *, seed: int = 0) -> pd.DataFrame:
    """Whether a linear probe at each point finds each item's label while the item is held out.

    Parameters
    ----------
    data: pooled activations, a variable [item, feature] a point (`Shared.features`).
    label: of every item, in the order of `data`. groups: items of one group are never on both sides of a split: the
        image, say, or the kind of object.

    Returns one row an item, in their order, and a column a point: 1.0 where the probe is right, 0.0 where it is not.
    All points are cut into the same folds, so that they can be compared item by item.

    Raises VlmProbeError that names the point, as `held_out_predictions` does: too few groups or items of a label,
    features that are not finite or all the same.
    """
    truth, of = np.asarray(label), np.asarray(groups)
    found: dict[str, np.ndarray] = {}
    for name, values in data.data_vars.items():
        try:
            guess = held_out_predictions(values.values, truth, groups=of, folds=FOLDS, seed=seed)
        except VlmProbeError as error:
            raise VlmProbeError(f"probe at {name}: {error}") from error
        found[str(name)] = (guess == truth).astype(float)
    return pd.DataFrame(found)


def properties(items: Sequence[Item]) -> list[Item]:
    """The items that ask for a property of one object, its answers a closed set, with another object to hold it to.

    Those with one box and another object in the image (of items from files: one that another of these asks about),
    whose answer is no yes or no; of generated scenes the kinds `OF_SCENES`. Of a kind of question, answers that come
    `FOLDS` times or more, to two different questions or more ("What color is the star?", "... the cross?"), or no probe
    that did not see a question could know its answers; two answers and three questions must be left.
    """
    kept = [item for item in items if len(item.boxes) == 1 and item.answer not in ("yes", "no")]
    kept = [item for item in kept if not isinstance(item.source, Scene) or item.kind in OF_SCENES]
    while True:
        able = [item for item, whole in zip(kept, with_others(kept), strict=True) if whole.others]
        fewer = _askable(able)
        if len(fewer) == len(kept):
            return kept
        kept = fewer


def _askable(items: Sequence[Item]) -> list[Item]:
    """Those whose answer is frequent enough, and asked for by questions enough."""
    number = Counter((item.kind, item.answer) for item in items)
    questions: dict[tuple[str, str], set[str]] = {}
    for item in items:
        questions.setdefault((item.kind, item.answer), set()).add(item.question)
    kept: set[tuple[str, str]] = set()
    for kind in dict.fromkeys(item.kind for item in items):
        own = {key for key, n in number.items() if key[0] == kind and n >= FOLDS and len(questions[key]) > 1}
        if len(own) > 1 and len(set().union(*(questions[key] for key in own))) > 2:
            kept |= own
    return [item for item in items if (item.kind, item.answer) in kept]


def at_other_object(items: Sequence[Item]) -> list[Item]:
    """The same `properties` with the box of another object of their image."""
    return [replace(item, boxes=item.others[:1]) for item in with_others(items) if item.others]


def object_kinds(items: Sequence[Item]) -> np.ndarray:
    """What kind of object each item asks about, as question and answer tell it: "What color is the star? red"."""
    return np.asarray([f"{item.question} {item.answer}" for item in items])


def parts_by_question(questions: np.ndarray, answers: np.ndarray, *, seed: int = 0) -> np.ndarray:
    """Which part each item is held out with: all of one question are, since the question names the rest of the object.

    Where there are many questions they are dealt to `FOLDS` parts, again where an answer's would all lie in one: only
    who saw an answer elsewhere can name it.
    """
    if len(np.unique(questions)) < 2 * FOLDS:
        return questions
    for attempt in range(100):
        parts = dealt(answers, questions, parts=FOLDS, seed=seed + attempt)
        if all(len(np.unique(parts[answers == one])) > 1 for one in np.unique(answers)):
            break
    return parts


def found_by_probe(
    own: Float[np.ndarray, "point item feature"],
    answers: Shaped[np.ndarray, " item"],
    questions: Shaped[np.ndarray, " item"],
    *,
    elsewhere: Float[np.ndarray, "point item feature"] | None = None,
    strengths: Sequence[float] = STRENGTHS,
    seed: int = 0,
) -> Float[np.ndarray, "point item"]:
    """Whether a probe that never saw the item's question finds its answer: 1.0 or 0.0.

    own: features where the object asked about is, at several points of one width. elsewhere: at another object, in
    which the very same probes are read. See `embedding.transfer` for why whole questions are held out.
    """
    parts = parts_by_question(questions, answers, seed=seed)
    said = transferred_predictions(
        own.astype(np.float32),
        answers,
        parts,
        strengths=strengths,
        elsewhere=None if elsewhere is None else elsewhere.astype(np.float32),
    )
    return (said == answers).astype(float)
