"""Whether an object's patches are nearest to words of that object, rather than to those of another one of its scene.

Read by the contextual lens (`lens.contextual_lens`; LatentLens, Krojer et al. 2026, arXiv:2602.00462): the words are
tokens of texts about other scenes, as they stand behind the language model's layers. Beside it, vocabulary rows.

What it is held against takes three easy explanations away. The same patches are asked for the other object's words, and
the other object's for theirs, both ways: whatever all patches of a scene say, and whatever word is near to everything,
cancels. And the names are dealt out anew: a connector that has nothing to do with words still puts all red things in
one place, which lies nearest to some word, in all images alike. Over images that is as regular as landing is (of
untrained copies, "significant"); over names it is one more deal.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count, islice, permutations

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vlm_probe.embedding import nearest_rows, used_rows
from vlm_probe.errors import VlmProbeError
from vlm_probe.evidence import AgainstNull, EveryWay, PairedMean
from vlm_probe.evidence.statistics import OBSERVED
from vlm_probe.findings.shared import about
from vlm_probe.hooked import HookedVLM
from vlm_probe.hooked.anatomy import embedding, patches_of
from vlm_probe.items import Item
from vlm_probe.layout import TokenLayout
from vlm_probe.lens.contextual_lens import EMBEDDING, Bank, build_bank, nearest_contexts, point_of
from vlm_probe.running.batches import run_batches
from vlm_probe.scenes import Scene, sample_scene

TEXTS = 200
"""Captions the bank is made of. Of the shipped world's words each then comes 20 times, which is all that is kept."""
LOOKED_AT = 128
"""Images that are read, at most."""
LAYERS = 8
"""Language layers that are read, at most: of deeper models as many, evenly spaced, from the first to the last."""
DEALT = 1999
"""How often names are dealt out anew: the least p is 2 / 2000, and costs nothing."""
BATCH = 32
READERS = ("context", "same_tokens", "vocabulary")
"""What is nearest to a patch: tokens of texts behind any of the layers; vocabulary rows of the very same tokens, for a
few words are found more easily than among all; all rows that stand for a token (of Gemma 262,000, so they are asked for
what block 0 receives alone)."""
LENS_COLUMNS = ("id", "image", "cluster", "kind", "point", "reader", "rows", "own", "other")
Reader = Callable[[Float[Tensor, "vector d_model"]], Int[np.ndarray, " vector"]]
"""The number of the word that is nearest to each vector; as many as there are words where it is none of them."""


@dataclass(frozen=True)
class Objects:
    """Objects of some images, and what they are called."""

    image: Int[np.ndarray, " object"]
    """The number of the image that each is in."""
    kinds: Int[np.ndarray, "object 2"]
    """The numbers of its color's word and its shape's."""
    words: tuple[str, ...]
    """First all colors, then all shapes."""
    colors: int
    """How many are colors."""


@dataclass(frozen=True)
class _Terms:
    """Every comparison: patches of an object, a word of its own, and the same of another object of its image."""

    object: np.ndarray
    own: np.ndarray
    other: np.ndarray
    image: np.ndarray
    weight: np.ndarray
    """One over the image's pairs, so that all images weigh the same."""


def _terms(objects: Objects, held: Bool[np.ndarray, " word"]) -> _Terms:
    """held: [word] bool, whether the bank has the word; what it has not cannot be near to anything."""
    found, pairs = [], np.zeros(int(objects.image.max(initial=-1)) + 1)
    for image in np.unique(objects.image):
        for a, b in permutations(np.flatnonzero(objects.image == image), 2):
            words = [(x, y) for x, y in zip(objects.kinds[a], objects.kinds[b], strict=True) if x != y]
            words = [(x, y) for x, y in words if held[x] and held[y]]
            pairs[image] += bool(words)
            found += [(a, x, y, image) for x, y in words]
    object_, own, other, image = np.asarray(found, dtype=int).reshape(-1, 4).T
    return _Terms(object_, own, other, image, 1 / pairs[image])


def compared(
    images: pd.DataFrame,
    objects: Objects,
    shares: Mapping[tuple[str, str], Float[np.ndarray, "object word"]],
    *,
    held: Bool[np.ndarray, " word"] | None = None,
    seed: int = 0,
) -> dict[str, pd.DataFrame]:
    """What patches name, of every image in which two objects differ in a word.

    Parameters
    ----------
    images: a row an image, with id and cluster; `objects.image` counts them.
    shares: by reader and point, of every object's patches the share that each word is nearest to.
    held: of every word whether texts have it; all if None.
    seed: of the deals.

    Returns two tables. lens (a row an image, point and reader): the columns of images, point, reader, own (share of an
    object's patches that are nearest to a word for its color or shape, the mean over all ordered pairs of objects), and
    other (to the word for the other object's, where the two differ). dealt (a row a draw): draw, difference (own less
    other of the first reader and point, with colors' and shapes' names dealt out anew among themselves; the draw
    `OBSERVED` has them as they are), n (images) and clusters.
    """
    terms = _terms(objects, np.ones(len(objects.words), bool) if held is None else held)
    there = np.unique(terms.image)
    lens = []
    for (reader, point), share in shares.items():
        own, other = (
            np.bincount(terms.image, terms.weight * share[terms.object, word], len(images))[there]
            for word in (terms.own, terms.other)
        )
        lens.append(images.iloc[there].assign(point=point, reader=reader, own=own, other=other))
    draws = _dealt(next(iter(shares.values())), terms, objects, seed) / max(len(there), 1)
    dealt = pd.DataFrame({"draw": [OBSERVED, *range(DEALT)], "difference": draws, "n": len(there)})
    dealt["clusters"] = images["cluster"].iloc[there].nunique()
    return {"lens": pd.concat(lens, ignore_index=True), "dealt": dealt}


def _dealt(
    share: Float[np.ndarray, "object word"], terms: _Terms, objects: Objects, seed: int
) -> Float[np.ndarray, " draw"]:
    """The sum of all differences with names as they are, and dealt out anew."""
    size = len(objects.words)
    # What a word's objects say of every word, less what those say that it is held against.
    says = np.zeros((size, size))
    for sign, word in ((1, terms.own), (-1, terms.other)):
        np.add.at(says, word, sign * terms.weight[:, None] * share[terms.object])
    rng, every = np.random.default_rng(seed), np.arange(size)
    parts = [np.tile(part, (DEALT, 1)) for part in np.split(every, [objects.colors])]
    deals = np.concatenate([rng.permuted(part, axis=1) for part in parts], axis=1)
    return says[every, np.vstack([every, deals])].sum(1)


def named_in_context(model: HookedVLM, items: Sequence[Item], *, seed: int = 0) -> dict[str, pd.DataFrame]:
    """What the patches of objects name, in up to `LOOKED_AT` images of generated scenes with two objects or more.

    Returns the tables of `compared`, in lens also rows (patches that were read): at what block 0 receives and behind up
    to `LAYERS` language layers, by `READERS`; tables without rows where there is no such image, and where the model
    can take none of the captions. All images are asked one question, so that none can tell what is in them. The first
    reader and point, of which names are dealt out anew, are the contextual lens and what block 0 receives: what the
    connector did, before any layer has read it.
    """
    first = {item.image: item for item in reversed(items)}.values()
    able = [item for item in first if isinstance(item.source, Scene) and len(item.source.objects) > 1][::-1]
    chosen = sorted(np.random.default_rng(seed).permutation(len(able))[:LOOKED_AT])
    asked = [replace(able[i], question=able[0].question) for i in chosen]
    depth = model.layers["language"]
    layers = np.unique(np.linspace(0, depth - 1, min(depth, LAYERS)).round().astype(int)).tolist()
    texts = [text for text in _texts(asked) if _can_be_told(model, text)]
    if not texts:
        return {
            "lens": pd.DataFrame(columns=list(LENS_COLUMNS)).astype({"own": float, "other": float}),
            "dealt": pd.DataFrame({"draw": np.zeros(0, int), "difference": np.zeros(0), "n": 0, "clusters": 0}),
        }
    bank = build_bank(model, texts, layers, seed=seed)
    scenes = [item.source for item in asked if isinstance(item.source, Scene)]
    colors, shapes = ({name: None for s in scenes for name in getattr(s.world, of)} for of in ("colors", "shapes"))
    words = (*colors, *shapes)
    readers, held = _readers(model, bank, words)
    points = [point_of(layer) for layer in (EMBEDDING, *layers)]
    shares: dict[tuple[str, str], list[np.ndarray]]
    shares = {(r, p): [] for r in readers for p in points if r != "vocabulary" or p == points[0]}
    image, kinds, rows = list[int](), list[list[int]](), list[int]()
    for batch in run_batches(model, asked, points, batch_size=BATCH):
        own = scenes[batch.start : batch.start + len(batch.items)]
        weights = [_weights(*each) for each in zip(own, batch.layouts, strict=True)]
        read = np.stack([one.any(0) for one in weights])
        for number, (scene, of) in enumerate(zip(own, weights, strict=True)):
            seen = [o for o, one in zip(scene.objects, of, strict=True) if one.any()]
            kinds += [[words.index(o.color), words.index(o.shape)] for o in seen]
            image += [batch.start + number] * len(seen)
            rows.append(int(read[number].sum()))
        for point in points:
            vectors = patches_of(point, batch.activations[point], batch.layouts)[torch.as_tensor(read)].float()
            for reader in [reader for reader, at in shares if at == point]:
                said = np.zeros((*read.shape, len(words) + 1))
                said[read] = np.eye(len(words) + 1)[readers[reader](vectors)]
                parts = [of[of.any(1)] @ one for of, one in zip(weights, said, strict=True)]
                shares[reader, point] += [part[:, :-1] for part in parts]
    objects = Objects(np.asarray(image, int), np.asarray(kinds, int).reshape(-1, 2), words, len(colors))
    together = {key: np.concatenate(parts) for key, parts in shares.items()}
    tables = compared(about(asked).assign(rows=rows), objects, together, held=held, seed=seed)
    return {**tables, "lens": tables["lens"].filter(list(LENS_COLUMNS))}


def _texts(items: Sequence[Item]) -> Iterator[str]:
    """Captions of other scenes than the items', of their worlds in turn, with everything that worlds can show."""
    tested = {item.source.caption: item.source.world for item in items if isinstance(item.source, Scene)}
    worlds = list(dict.fromkeys(tested.values()))
    drawn = (sample_scene(seed, "any", world=world).caption for seed in count() for world in worlds)
    return islice((text for text in drawn if text not in tested), TEXTS if worlds else 0)


def _can_be_told(model: HookedVLM, text: str) -> bool:
    """Whether the model has what the text takes: of a trimmed vocabulary it may be asked, but not told this."""
    try:
        model.prepare(None, text)
    except VlmProbeError:
        return False
    return True


def _weights(scene: Scene, layout: TokenLayout) -> Float[np.ndarray, "object patch"]:
    """Of every object, how much of what is seen of it each patch holds; zeros where nothing is seen."""
    covered = np.stack([layout.box_coverage(o.box).ravel() for o in scene.objects]).astype(float)
    return covered / np.maximum(covered.sum(1, keepdims=True), 1e-12)


def _readers(model: HookedVLM, bank: Bank, words: Sequence[str]) -> tuple[dict[str, Reader], Bool[np.ndarray, " word"]]:
    """The `READERS`, and of every word whether the bank has it."""
    number = {word: i for i, word in enumerate(words)}
    in_texts = np.asarray([number.get(_last_word(model, own), len(words)) for own in bank.contexts])
    table, used = embedding(model), used_rows(model)
    same = torch.tensor(sorted({own[-1] for own in bank.contexts}), device=table.device)
    few = table[same]
    known: dict[int, int] = {}

    def in_context(x: Tensor) -> np.ndarray:
        return in_texts[nearest_contexts(x, bank.rows)[0][:, 0].cpu().numpy()]

    def named(ids: list[int]) -> np.ndarray:
        for one in set(ids).difference(known):
            whole = "".join(model.token_strings([one])).strip().casefold()
            known[one] = number.get(whole, len(words))
        return np.asarray([known[one] for one in ids], dtype=int)

    readers = {
        "context": in_context,
        "same_tokens": lambda x: named(same[nearest_rows(x, few, k=1).ids[:, 0].to(same.device)].tolist()),
        "vocabulary": lambda x: named(nearest_rows(x, table, k=1, keep=used).ids[:, 0].tolist()),
    }
    return readers, np.isin(np.arange(len(words)), in_texts)


def _last_word(model: HookedVLM, context: tuple[int, ...]) -> str:
    """The word that a context's last token ends: of "cy|an" it is the second token's; "" where it ends none."""
    tokens = model.token_strings(list(context))
    text = "".join(tokens)
    found = re.search(r"(\w+)\W*$", text)
    # A full stop behind a word is not the word.
    return found[1].casefold() if found and found.end(1) > len(text) - len(tokens[-1]) else ""


AT_CONNECTOR = f"point == '{point_of(EMBEDDING)}'"
NAMED = EveryWay(
    (
        PairedMean("lens", "own", "other", where=f"reader == 'context' and {AT_CONNECTOR}"),
        AgainstNull("dealt", "difference", clusters="clusters"),
    )
)
"""How much more patches name their object than another: by images, and by deals of the names."""
