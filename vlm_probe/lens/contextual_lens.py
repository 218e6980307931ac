"""The contextual lens: which tokens, as they stand in texts, are nearest to a patch, rather than which vocabulary rows.

LatentLens (Krojer et al. 2026, arXiv:2602.00462): texts run through the language model, the residual stream at their
tokens makes a bank, and a patch's residual stream at any layer is described by the nearest of the bank, by cosine, of
whatever layer ("mid-layer leap": patches that enter the model are often nearest to text half way through it). It needs
no image-text pairs and no training.

>>> bank = build_bank(model, (sample_scene(seed).caption for seed in range(500)))    # doctest: +SKIP
>>> contextual_lens(model, model.trace(image, question), bank)                       # doctest: +SKIP

As in the paper, at most so many contexts of a token are kept, drawn evenly from all there are (reservoir sampling, 20).
Deviations: a context is one prefix of a text, and prefixes that texts share count once, since their activations are the
same (as in the authors' package, not in the paper). Texts stand in the model's own prompt, where a question would, for
a chat model has seen no text without one; only the text's own tokens are kept. The paper leaves out a text's first two
tokens and prefers those from the tenth on; here all are taken, since a sink at the start is of the template. Rows are
kept in float16 (there float8). Beside every similarity stands what turned patches reach (`turned`), which the paper
does not have.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from vlm_probe.embedding.nearest import BLOCK, nearest_rows, turned_at_random
from vlm_probe.errors import VlmProbeError
from vlm_probe.files import make_folder, replacing, writable, writing
from vlm_probe.hooked import HookedVLM, ModelInputs
from vlm_probe.layout import TokenLayout
from vlm_probe.settings import SEED
from vlm_probe.trace import Trace

_ABOUT = "vlm_probe.bank"
"""Under which name of a safetensors file's metadata stands what is no tensor, as JSON."""
EMBEDDING = -1
"""The number of the layer before the first: what block 0 receives."""


def point_of(layer: int) -> str:
    """The hook point of what stands behind a layer of the language model; -1 for what block 0 receives."""
    return "language.hook_embed" if layer == EMBEDDING else f"language.blocks.{layer}.hook_resid_post"


@dataclass
class Bank:
    """Tokens of texts, as they stand behind layers of a language model."""

    rows: dict[int, Float[Tensor, "context d_model"]]
    """By layer (-1: what block 0 receives, where a token is the same in all its contexts), of length one."""
    contexts: list[tuple[int, ...]]
    """The text up to and with each token, as ids: the token is the last."""
    about: dict[str, Any] = field(default_factory=dict)
    """The model, how many texts were read, what was drawn, and texts left out."""

    def __len__(self) -> int:
        return len(self.contexts)

    def __repr__(self) -> str:
        return f"Bank({self.about.get('model')}: {len(self)} contexts, layers {', '.join(map(str, self.rows))})"

    def save(self, path: Path | str) -> None:
        """Write the bank to one file (safetensors), whole or not at all; VlmProbeError where it cannot be written."""
        path = Path(path)
        tensors = {f"rows/{layer}": rows.cpu().contiguous() for layer, rows in self.rows.items()}
        tensors["ids"] = torch.tensor([one for own in self.contexts for one in own], dtype=torch.int32)
        tensors["lengths"] = torch.tensor([len(own) for own in self.contexts], dtype=torch.int32)
        make_folder(path.absolute().parent)
        with writing(path), replacing(path) as partial:
            save_file(tensors, partial, metadata={_ABOUT: json.dumps(self.about)})

    @classmethod
    def load(cls, path: Path | str, *, layers: Sequence[int] | None = None) -> Bank:
        """Read what `save` wrote, onto the CPU; of `layers` alone, if they are given.

        Raises VlmProbeError for a file that is not there or is no bank, and a layer that it does not hold.
        """
        path = Path(path)
        if not path.is_file():
            raise VlmProbeError(f"cannot read {path}: {'it is a folder' if path.is_dir() else 'no such file'}")
        try:
            with safe_open(path, "pt") as file:
                about = json.loads((file.metadata() or {})[_ABOUT])
                names = [name for name in set(file.keys()) if name.startswith("rows/")]
                held = sorted(int(name.removeprefix("rows/")) for name in names)
                missing = sorted(set(layers or ()) - set(held))
                rows = {i: file.get_tensor(f"rows/{i}") for i in held if (layers is None or i in layers)}
                ids, lengths = file.get_tensor("ids").tolist(), file.get_tensor("lengths").tolist()
        except (SafetensorError, OSError, LookupError, TypeError, ValueError) as error:
            raise VlmProbeError(f"{path} is no bank: expected a file that Bank.save wrote ({error})") from error
        if missing:
            raise VlmProbeError(f"{path} holds layers {', '.join(map(str, held))}, not {missing[0]}")
        rest = iter(ids)
        return cls(rows, [tuple(islice(rest, n)) for n in lengths], about)


class _Reservoir:
    """At most so many contexts of every token, each as likely kept as any other of it, and their rows."""

    def __init__(self, layers: Sequence[int], width: int, per_token: int, dtype: torch.dtype, seed: int):
        self.per_token, self.rng = per_token, np.random.default_rng(seed)
        self.rows = {layer: torch.empty(0, width, dtype=dtype) for layer in layers}
        self.contexts: list[tuple[int, ...]] = []
        self._slots: dict[int, list[int]] = {}
        self._number: dict[int, int] = {}
        self._seen: set[int] = set()

    def slot(self, context: tuple[int, ...]) -> int | None:
        """Where a context that is met now is to be kept; None where it was met before, or is not drawn."""
        key = hash(context)
        if key in self._seen:
            return None
        self._seen.add(key)
        token = context[-1]
        slots = self._slots.setdefault(token, [])
        self._number[token] = self._number.get(token, 0) + 1
        if len(slots) < self.per_token:
            slots.append(len(self.contexts))
            self.contexts.append(context)
            return slots[-1]
        drawn = int(self.rng.integers(self._number[token]))
        if drawn >= self.per_token:
            return None
        self.contexts[slots[drawn]] = context
        return slots[drawn]

    def put(self, layer: int, slots: Sequence[int], rows: Float[Tensor, "context d_model"]) -> None:
        """Keep rows, brought to length one."""
        own = self.rows[layer]
        if len(own) < len(self.contexts):  # room for twice as many, so that growing costs little
            room = own.new_empty(max(2 * len(own), len(self.contexts)), own.shape[1])
            room[: len(own)] = own
            own = self.rows[layer] = room
        rows = rows.float()
        own[list(slots)] = (rows / rows.norm(dim=1, keepdim=True).clamp(min=1e-12)).to(own.dtype).cpu()


@torch.no_grad()
def build_bank(
    model: HookedVLM,
    texts: Iterable[str] | Path,
    layers: Sequence[int] | None = None,
    *,
    per_token: int = 20,
    batch_size: int = 32,
    dtype: torch.dtype = torch.float16,
    seed: int = SEED,
    progress: Callable[[int], None] | None = None,
) -> Bank:
    """A bank of text activations, from texts that are read once, a batch at a time.

    Parameters
    ----------
    texts: any iterable of texts (a generator of captions), or a file with one a line (UTF-8); empty ones are passed by.
    layers: whose residual stream behind them is kept, -1 for what block 0 receives; all if None.
    per_token: contexts kept of every token.
    dtype: of the rows that are kept.
    progress: called with the number of texts just run.

    Returns the bank; `about["left_out"]` names texts that could not be run, with the reason. It takes
    contexts x layers x d_model numbers, and contexts are at most `per_token` times the vocabulary.

    Raises VlmProbeError for a layer that is not there, `per_token` below one, and where no text is left.
    """
    depth, width = model.layers["language"], model.text_config.hidden_size
    own = list(range(EMBEDDING, depth)) if layers is None else sorted(set(layers))
    if not own or not EMBEDDING <= own[0] <= own[-1] < depth:
        raise VlmProbeError(f"layers are {EMBEDDING} to {depth - 1}, got {list(layers or ())}")
    if per_token < 1:
        raise VlmProbeError(f"per_token must be at least 1, got {per_token}")
    if isinstance(texts, str):
        raise VlmProbeError("texts are several texts, or a Path to a file of them, got one text")
    kept, left, count = _Reservoir(own, width, per_token, dtype, seed), list[str](), 0
    given = _lines(texts) if isinstance(texts, Path) else iter(texts)
    while batch := list(islice(given, batch_size)):
        able = [text for text in batch if text.strip()]
        try:
            inputs = _prepared(model, able)
        except VlmProbeError:  # of one of them: the others are taken
            able = list(_able(model, able, left))
            inputs = _prepared(model, able)
        if inputs is not None:
            _take(model, inputs, own, kept)
            count += len(able)
        if progress is not None:
            progress(len(batch))
    if not kept.contexts:
        raise VlmProbeError(f"no text could be taken; {left[0] if left else 'there is none'}")
    about = {**model.provenance(), "texts": count, "per_token": per_token, "seed": seed, "left_out": left}
    rows = {layer: kept.rows[layer][: len(kept.contexts)].clone() for layer in own}
    return Bank(rows, kept.contexts, about)


def _lines(path: Path) -> Iterator[str]:
    try:
        with path.open(encoding="utf-8") as file:
            for line in file:
                yield line.strip()
    except (OSError, UnicodeDecodeError) as error:
        raise VlmProbeError(f"cannot read texts from {path}: {error}") from error


def _prepared(model: HookedVLM, texts: list[str]) -> ModelInputs | None:
    """Texts without pictures, as a batch; None where there are none."""
    pictures: list[Any] = [None] * len(texts)
    return model.prepare(pictures, texts) if texts else None


def _able(model: HookedVLM, texts: list[str], left: list[str]) -> Iterator[str]:
    """The texts that can be run; of the others `left` gets the reason."""
    for text in texts:
        try:
            model.prepare(None, text)
        except VlmProbeError as error:
            left.append(f"text {text[:40]!r}: {error}")
        else:
            yield text


def _take(model: HookedVLM, inputs: ModelInputs, layers: list[int], kept: _Reservoir) -> None:
    """Run texts, and keep what is drawn of them."""
    # Texts are read from left to right, whatever a prompt is: a row knows what stands before it alone.
    inputs = replace(inputs, answered=inputs.input_ids.shape[1])
    chosen: dict[int, tuple[int, int]] = {}  # of two contexts in one slot the later one is kept
    for number, layout in enumerate(inputs.layouts):
        at = layout.question_positions.tolist()
        ids = inputs.input_ids[number, at].tolist()
        for i, position in enumerate(at):
            slot = kept.slot(tuple(ids[: i + 1]))
            if slot is not None:
                chosen[slot] = (number, position)
    if not chosen:
        return
    _, cache = model.run_with_cache(inputs, names_filter=[point_of(layer) for layer in layers], logits_to_keep=1)
    number, position = torch.tensor(list(chosen.values()), device=model.device).T
    for layer in layers:
        kept.put(layer, list(chosen), cache[point_of(layer)][number, position])


@torch.no_grad()
def contextual_lens(
    model: HookedVLM,
    source: Trace | ModelInputs,
    bank: Bank,
    *,
    k: int = 5,
    layers: Sequence[int] | None = None,
    across: bool = True,
    control: bool = True,
    block: int = BLOCK,
    seed: int = SEED,
) -> pd.DataFrame:
    """For every patch and layer, the tokens of the bank that are nearest, with what stands before them in their text.

    Parameters
    ----------
    source: one example: a trace that holds the layers' `hook_resid_post` (and `language.hook_embed` for layer -1), or
        inputs, which are run.
    k: contexts for each patch.
    layers: of the patches, -1 for what block 0 receives; all (that the trace holds) if None.
    across: compare with the bank's rows of all its layers, as the paper does (one context may then come with several
        layers); else with those of the patch's own layer.
    control: also turn the patches at random around their mean, once for each layer, and look for the nearest of each
        (`cosines_when_turned`): what nearness comes to where patches have nothing to do with the texts.
    block: rows of the bank compared at a time: no more than patches x block similarities are ever held.

    Returns
    -------
    One row a layer, patch and rank: layer, image, row, col, rank, token, context (the text before the token), token_id,
    bank_layer, similarity (cosine), turned (the control, the same for all ranks; NaN without), and the patch's edges on
    the original image in pixels (left, top, right, bottom; NaN where it is not known).

    Raises VlmProbeError for a bank of another model, layers that are not there, and k that the bank has not.
    """
    if bank.about.get("model") != model.provenance()["model"]:
        raise VlmProbeError(f"this bank is of {bank.about.get('model')}, the model is {model.name}: build one of it")
    found = _vectors(model, source, layers)
    if not across and (missing := sorted(set(found) - set(bank.rows))):
        raise VlmProbeError(f"the bank holds layers {', '.join(map(str, bank.rows))}, not {missing[0]}")
    layout = source.layout
    places = _places(layout)
    tables = []
    for layer, vectors in found.items():
        against = bank.rows if across else {layer: bank.rows[layer]}
        at, of, similarity = nearest_contexts(vectors, against, k=k, block=block)
        turned = np.full(len(vectors), np.nan)
        if control:
            drawn = turned_at_random(vectors, seed=seed)
            nearest = [nearest_rows(drawn, rows, k=1, block=block).scores[:, 0].cpu() for rows in against.values()]
            turned = torch.stack(nearest).amax(0).double().numpy()
        contexts = [bank.contexts[i] for i in at.flatten().tolist()]
        read = {own: model.token_strings(list(own)) or tuple(f"<{one}>" for one in own) for own in set(contexts)}
        texts = [read[own] for own in contexts]
        table = places.loc[places.index.repeat(k)].assign(
            layer=layer,
            rank=np.tile(np.arange(k), len(vectors)),
            token=[own[-1] for own in texts],
            context=["".join(own[:-1]) for own in texts],
            token_id=[own[-1] for own in contexts],
            bank_layer=of.flatten().tolist(),
            similarity=similarity.flatten().double().numpy(),
            turned=np.repeat(turned, k),
        )
        tables.append(table)
    columns = ["layer", "image", "row", "col", "rank", "token", "context", "token_id", "bank_layer", "similarity"]
    edges = ["left", "top", "right", "bottom"]
    table = pd.concat(tables, ignore_index=True).reindex(columns=[*columns, "turned", *edges])
    table.attrs |= writable(
        {
            "title": "contextual lens",
            "units": "cosine",
            "citation": "Krojer et al. 2026, arXiv:2602.00462",
            "contexts": len(bank),
            "texts": bank.about.get("texts"),
            "across": across,
            **(source.provenance if isinstance(source, Trace) else model.provenance()),
        }
    )
    return table


def _vectors(
    model: HookedVLM, source: Trace | ModelInputs, layers: Sequence[int] | None
) -> dict[int, Float[Tensor, "patch d_model"]]:
    """What stands at the patches, by layer."""
    every = range(EMBEDDING, model.layers["language"])
    asked = list(every) if layers is None else list(layers)
    bad = [layer for layer in asked if layer not in every]
    if bad:
        raise VlmProbeError(f"layers are {EMBEDDING} to {every[-1]}, got {bad[0]}")
    if not source.layout.pictures:
        raise VlmProbeError("the prompt has no image, and the lens is on its patches")
    at = np.concatenate([span.positions for span in source.layout.pictures])
    if isinstance(source, Trace):
        asked = [layer for layer in asked if layers is not None or point_of(layer) in source]
        if not asked:
            raise VlmProbeError(f"the trace holds no residual stream; capture {point_of(0).replace('.0.', '.*.')}")
        held: dict[str, Tensor] = {point_of(layer): source[point_of(layer)] for layer in asked}
    else:
        _, held = model.run_with_cache(source, names_filter=[point_of(i) for i in asked], logits_to_keep=1)
    return {layer: held[point_of(layer)][0, torch.as_tensor(at)].float().cpu() for layer in asked}


@torch.no_grad()
def nearest_contexts(
    vectors: Float[Tensor, "vector d_model"], rows: Mapping[int, Tensor], *, k: int = 1, block: int = BLOCK
) -> tuple[Int[Tensor, "vector k"], Int[Tensor, "vector k"], Float[Tensor, "vector k"]]:
    """The nearest of a bank's `rows` of several layers: their numbers among its contexts, their layers, the cosines.

    Raises VlmProbeError for k that the bank has not.
    """
    best = [nearest_rows(vectors, own, k=k, block=block) for own in rows.values()]
    scores, chosen = torch.cat([one.scores for one in best], dim=1).topk(k, dim=1)
    of = torch.tensor(list(rows), device=chosen.device).repeat_interleave(k)[chosen]
    return torch.cat([one.ids for one in best], dim=1).gather(1, chosen), of, scores


def _places(layout: TokenLayout) -> pd.DataFrame:
    """A row a patch: where it is."""
    records = []
    for image, span in enumerate(layout.pictures):
        for row, col in np.ndindex(*span.grid):
            edges = (float("nan"),) * 4 if span.transform is None else tuple(span.patch_to_box(row, col))
            records.append((image, row, col, *edges))
    return pd.DataFrame(records, columns=["image", "row", "col", "left", "top", "right", "bottom"])
