"""Which heads do it: found by what they look at and write, confirmed by taking them away.

`find_heads` gives every head of the language model scores: whether it looks at the object asked about (rather than at
another object of the same scene), whether it copies the token that it attends to (Wang et al. 2022, arXiv:2211.00593,
section 3; Elhage et al. 2021), what it adds to the answer directly, and how much of its attention lies on sinks. A
score is a correlate. `confirm_heads` takes the best away together and asks what the answer loses, beside as many random
heads of the same layers and every head taken away by itself.

>>> found = find_heads(model, items)                                             # doctest: +SKIP
>>> confirm_heads(model, items, found.nlargest(5, "looks_answer"))               # doctest: +SKIP

Choose and confirm on different items: the best of many scores are the best partly by chance.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from vlm_probe.causal.branching import Branches
from vlm_probe.causal.direct import direct_logit_attribution
from vlm_probe.causal.interventions import Ablate, Intervention, Replace
from vlm_probe.causal.mean_rows import KINDS, kinds_of, mean_rows, spread
from vlm_probe.causal.outcomes import Sought
from vlm_probe.causal.planning import Row
from vlm_probe.causal.sinks import SinksGiven, random_instead, sinks_in
from vlm_probe.causal.sweeping import Able, beside, check_item, prepared
from vlm_probe.errors import VlmProbeError
from vlm_probe.hooked import HookedVLM, anatomy
from vlm_probe.inputs.model_inputs import ModelInputs
from vlm_probe.items import Item
from vlm_probe.layout import TokenLayout
from vlm_probe.settings import SEED

HeadsGiven = pd.DataFrame | Sequence[tuple[int, int]]
"""(layer, head), or a table with these columns: rows of what `find_heads` gives."""
WANG = "Wang et al. 2022, arXiv:2211.00593"
_QUERIES = ("answer", "question")
_ON = ("asked", "other", "sinks", "not_sinks")


@torch.no_grad()
def find_heads(
    model: HookedVLM,
    items: Sequence[Item],
    *,
    sinks: SinksGiven = (),
    batch_size: int = 8,
    seed: int = SEED,
    suffix: str = "",
    progress: Callable[[int], None] | None = None,
) -> pd.DataFrame:
    """Score every head of the language model; all scores are means over items.

    Parameters
    ----------
    items: with pictures, boxes, and another object that is not asked about.
    sinks: what `attention.find_sinks` found, or positions; none by default: their mass is then 0.
    suffix: appended to every question.
    progress: called with the number of items just done.

    Returns
    -------
    One row a head: layer, head, and, from the answer position (`_answer`) and as the mean over those of the question
    (`_question`), in attention probability:
    asked_, other_: attention into the patches of the objects asked about, and of another object drawn by the item's id,
    each beyond its share of the area of what the head gives to the image; a patch counts by its covered area.
    looks_: asked_ less other_: a head that looks at objects whatever is asked has 0.
    sinks_, not_sinks_: attention on sinks, and on as many random positions of the same kind (NaN without as many).
    copies: logits that the head would add to a token of the question by attending to it from the answer position alone,
    less those of the question's other tokens: its output projection on that position's value, the final norm's scale
    held. direct: logits that it does add to the answer's lead over its strongest rival (`direct_logit_attribution`).
    `attrs["left_out"]`: items that could not be used, with the reason.

    Deviations: Wang et al. count how often the token is among the top five, from its embedding; here what stands at its
    position in the run is copied. With post-norms (Gemma 2 and 3) all heads of the layer are taken to attend to it.

    Raises VlmProbeError where no item is left, and for sinks that no prompt has.
    """
    depth, able = model.layers["language"], Able(items, partial(_check_look, model, sinks, suffix), batch_size)
    total: dict[str, Tensor] = {}
    for batch, _ in able.each(progress):
        for name, values in _scores(model, batch, sinks, seed, suffix).items():
            # A head whose score an item does not have is a mean over the others.
            known = values.isfinite()
            for key, one in ((name, values.where(known, 0)), (f"n {name}", known.double())):
                total[key] = total.get(key, torch.zeros(values.shape[1:], dtype=torch.float64)) + one.sum(0)
    heads = model.text_config.num_attention_heads
    layer, head = np.divmod(np.arange(depth * heads), heads)
    mean = {name: (total[name] / total[f"n {name}"]).flatten().numpy() for name in total if not name.startswith("n ")}
    columns: dict[str, Any] = {f"looks_{q}": mean[f"asked_{q}"] - mean[f"other_{q}"] for q in _QUERIES}
    table = pd.DataFrame({"layer": layer, "head": head, **columns, **mean})
    units = "attention probability, logits"
    able.describe(table, model, title="scores of heads", units=units, citation=WANG, seed=seed)
    return table


def confirm_heads(
    model: HookedVLM,
    items: Sequence[Item],
    heads: HeadsGiven,
    *,
    by: str = "mean",
    draws: int = 5,
    singles: bool = True,
    batch_size: int = 8,
    seed: int = SEED,
    suffix: str = "",
    progress: Callable[[int], None] | None = None,
) -> pd.DataFrame:
    """Ablate heads together at all positions, as many random ones, and every head by itself.

    Parameters
    ----------
    items: with pictures; best others than those that `heads` were found on.
    heads: those that are to be confirmed.
    by: "mean" (what the head gives at positions of this kind, over all these items) or "zero".
    draws: different sets of random heads, fewer where there are not as many: of every layer as many as are to be
        confirmed, none of those; of another layer where one has not as many left.
    singles: also ablate every head of the model by itself.
    suffix: appended to every question.
    progress: called with the number of items just done.

    Returns
    -------
    One row an item and set. Columns: id, image, set ("found", "random", "single"), control (whether it is random), draw
    (-1 but for random ones), layer and head (-1 but for single ones), heads (how many), elsewhere (how many of them
    stand in another layer than what they are drawn for), probability, probability_before, change, logit_difference,
    logit_difference_before, change_logit, flipped, right, right_before (`sweeping.beside`), one_by_one (the sum
    of change_logit of the set's heads ablated singly; NaN without `singles`). `attrs["left_out"]`: items that could not
    be used.

    Deviation: Wang et al. (2022) take means at the same position over prompts of one template; here over positions of
    the same kind (`mean_rows.KINDS`), since prompts differ in length. It is `Ablate`'s mean, over all items rather than
    over a batch, kind by kind.

    Raises VlmProbeError for heads that are not there, none, more than half of all, another `by`, and where no item is
    left.
    """
    chosen = _pairs(model, heads)
    if by not in ("mean", "zero"):
        raise VlmProbeError(f"by must be 'mean' or 'zero', got {by!r}")
    every = [(layer, head) for layer in range(model.layers["language"]) for head in range(_count(model))]
    rng = np.random.default_rng([seed, *np.ravel(chosen).tolist()])
    sets: list[tuple[str, int, list[tuple[int, int]]]] = [("found", -1, chosen)]
    sets += [("random", draw, own) for draw, own in enumerate(_random_sets(chosen, every, draws, rng))]
    sets += [("single", -1, [one]) for one in every] if singles else []

    able, tables, means = Able(items, partial(check_item, model, suffix), batch_size), [], {}
    if by == "mean":
        names = [_z(layer) for layer in sorted({layer for *_, own in sets for layer, _ in own})]
        batches = (prepared(model, batch, suffix) for batch, _ in able.each())
        means = mean_rows(model, batches, names, kinds_of, len(KINDS))
    for batch, _ in able.each(progress):
        branches = Branches(model, prepared(model, batch, suffix))
        sources = {name: spread(mean, branches.inputs.layouts, kinds_of, name) for name, mean in means.items()}
        rows: list[Row] = []
        about = []
        for number, item in enumerate(batch):
            for what, draw, own in sets:
                layer, head = own[0] if what == "single" else (-1, -1)
                about.append((item.id, item.image, what, what == "random", draw, layer, head, len(own), number))
                rows.append((number, _without(own, sources)))
        names = ["id", "image", "set", "control", "draw", "layer", "head", "heads", "example"]
        table = pd.DataFrame(about, columns=names)
        tables.append(beside(table, branches.run(rows), branches.logits, [Sought.of(model, item) for item in batch]))
    table = pd.concat(tables, ignore_index=True)
    table.insert(
        8,
        "elsewhere",
        [_elsewhere(own, chosen) if what == "random" else 0 for what, _, own in sets] * (len(table) // len(sets)),
    )
    table["one_by_one"] = _one_by_one(table, sets)
    able.describe(table, model, title=f"heads ablated, by {by}", units="logits", citation=WANG, seed=seed)
    table.attrs["heads"] = [f"{layer}.{head}" for layer, head in chosen]
    return table


def _check_look(model: HookedVLM, sinks: SinksGiven, suffix: str, item: Item) -> None:
    layout = check_item(model, suffix, item)
    sinks_in(sinks, layout, model.layers["language"])
    for boxes, what in ((item.boxes, "an object that is asked about"), (item.others, "another object")):
        if not any(layout.box_coverage(box).any() for box in boxes):
            raise VlmProbeError(f"it takes the box of {what}, and there is none on its patches")


def _scores(
    model: HookedVLM, items: Sequence[Item], sinks: SinksGiven, seed: int, suffix: str
) -> dict[str, Float[Tensor, "item layer head"]]:
    """What every head does with every item; see `find_heads`."""
    inputs = prepared(model, items, suffix)
    depth, device = model.layers["language"], model.device
    masks = [_looked_at(item, layout, sinks, depth, seed) for item, layout in zip(items, inputs.layouts, strict=True)]
    weights = torch.from_numpy(np.stack(masks)).float().to(device)  # item, layer, mask, key
    queries = torch.zeros(len(items), len(_QUERIES), inputs.input_ids.shape[1], device=device)
    for row, layout in zip(queries, inputs.layouts, strict=True):
        row[0, layout.answer_position] = 1
        row[1, layout.question_positions] = 1 / len(layout.question_positions)
    found: dict[int, Tensor] = {}

    def look(pattern: Tensor, hook: Any, layer: int) -> None:
        rows = torch.einsum("bhqk,bnq->bhnk", pattern.float(), queries)
        found[layer] = torch.einsum("bhnk,bmk->nmbh", rows, weights[:, layer])

    hooks: list[Any] = [
        (f"language.blocks.{layer}.attn.hook_pattern", partial(look, layer=layer)) for layer in range(depth)
    ]
    names = ["language.ln_final.hook_scale", *[f"language.blocks.{layer}.attn.hook_v" for layer in range(depth)]]
    with model.hooks(fwd_hooks=hooks):
        output, cache = model.run_with_cache(inputs, names_filter=names, logits_to_keep=1)
    every = torch.stack([found[layer] for layer in range(depth)], dim=3)  # query, mask, item, layer, head
    scores = {f"{on}_{query}": every[q, m] for q, query in enumerate(_QUERIES) for m, on in enumerate(_ON)}
    scores["copies"] = torch.stack([_copies(model, inputs, cache, example) for example in range(len(items))])
    scores["direct"] = _direct(model, inputs, items, output.logits[:, -1].float())
    return {name: values.double().cpu() for name, values in scores.items()}


def _looked_at(
    item: Item, layout: TokenLayout, sinks: SinksGiven, depth: int, seed: int
) -> Float[np.ndarray, "layer mask position"]:
    """What attention is weighed with, in the order of `_ON`; NaN where there are not as many others as sinks."""
    rng = np.random.default_rng([seed, *item.id.encode()])
    own = sinks_in(sinks, layout, depth)
    instead = random_instead(own, layout, rng)
    masks = np.zeros((depth, len(_ON), layout.length))
    others = [box for box in item.others if layout.box_coverage(box).any()]
    asked = np.clip(np.sum([layout.box_coverage(box) for box in item.boxes], axis=0), 0, 1)  # together, as one object
    for m, coverage in ((0, asked), (1, layout.box_coverage(others[rng.integers(len(others))]))):
        masks[:, m, layout.image().positions] = (coverage - coverage.mean()).ravel()
    for m, places in ((2, own), (3, instead)):
        for layer in range(depth):
            masks[layer, m, (places or {}).get(layer, [])] = 1
        masks[:, m] = np.nan if places is None else masks[:, m]
    return masks


def _copies(
    model: HookedVLM, inputs: ModelInputs, cache: dict[str, Tensor], example: int
) -> Float[Tensor, "layer head"]:
    """What heads add to the logit of a token that they attend to, beyond that of the question's other tokens; the mean
    over its tokens, NaN where it has one token alone."""
    layout = inputs.layouts[example]
    at = torch.from_numpy(layout.question_positions).to(model.device)
    tokens = inputs.input_ids[example, at]
    same = tokens[:, None] == tokens[None, :]
    scale = cache["language.ln_final.hook_scale"][example, layout.answer_position].float()
    rows = anatomy.unembedding(model)[tokens].float()
    readout, _ = anatomy.through_norm(model, anatomy.final_norm(model), rows, scale)
    found = []
    for layer in range(model.layers["language"]):
        v = cache[f"language.blocks.{layer}.attn.hook_v"][example, at]
        z = v.repeat_interleave(_count(model) // v.shape[1], dim=1)  # of its group's key-value head
        adds, _ = anatomy.heads_add(model, layer, z[None])
        logits = torch.einsum("phd,td->hpt", adds[0].float(), readout)
        own = logits.diagonal(dim1=1, dim2=2)
        others = (logits * ~same).sum(-1) / (~same).sum(-1)  # 0 / 0 is NaN
        found.append((own - others).mean(-1))
    return torch.stack(found)


def _direct(
    model: HookedVLM, inputs: ModelInputs, items: Sequence[Item], logits: Float[Tensor, "item vocabulary"]
) -> Float[Tensor, "item layer head"]:
    """What heads add to the answer's lead."""
    sought = [Sought.of(model, item) for item in items]
    rivals = []
    for row, one in zip(logits, sought, strict=True):
        among = list(one.rivals) or [token for token in range(len(row)) if token != one.token]
        rivals.append(among[int(row[among].argmax())])
    table = direct_logit_attribution(model, inputs, target=[one.token for one in sought], against=rivals)
    values = table.loc[table["part"] == "head"].sort_values(["example", "layer", "head"])["value"].to_numpy()
    return torch.tensor(values).reshape(len(items), model.layers["language"], -1)


def _count(model: HookedVLM) -> int:
    return model.text_config.num_attention_heads


def _z(layer: int) -> str:
    return f"language.blocks.{layer}.attn.hook_z"


def _pairs(model: HookedVLM, heads: HeadsGiven) -> list[tuple[int, int]]:
    """Heads in order, each once; VlmProbeError for one that is not there, none, and more than can be drawn beside."""
    table = heads[["layer", "head"]].to_numpy().tolist() if isinstance(heads, pd.DataFrame) else list(heads)
    found = sorted({(int(layer), int(head)) for layer, head in table})
    depth, count = model.layers["language"], _count(model)
    for layer, head in found:
        if not (0 <= layer < depth and 0 <= head < count):
            raise VlmProbeError(f"there is no head {layer}.{head}: layers are 0 to {depth - 1}, heads 0 to {count - 1}")
    if not 0 < 2 * len(found) <= depth * count:
        raise VlmProbeError(f"of {depth * count} heads 1 to {depth * count // 2} can be confirmed, got {len(found)}")
    return found


def _random_heads(
    chosen: Sequence[tuple[int, int]], every: Sequence[tuple[int, int]], rng: np.random.Generator
) -> list[tuple[int, int]]:
    """As many other heads: of each layer as many as chosen, as far as it has them, the rest of other layers."""
    free = [one for one in every if one not in set(chosen)]
    free = [free[i] for i in rng.permutation(len(free))]
    drawn = []
    for layer in sorted({layer for layer, _ in chosen}):
        drawn += [one for one in free if one[0] == layer][: sum(own == layer for own, _ in chosen)]
    rest = [one for one in free if one not in drawn]
    return sorted(drawn + rest[: len(chosen) - len(drawn)])


def _random_sets(
    chosen: Sequence[tuple[int, int]], every: Sequence[tuple[int, int]], draws: int, rng: np.random.Generator
) -> list[list[tuple[int, int]]]:
    """Different draws of `_random_heads`; where most of a layer is chosen there may be one alone."""
    found: list[list[tuple[int, int]]] = []
    for _ in range(20 * draws):
        own = _random_heads(chosen, every, rng)
        if len(found) < draws and own not in found:
            found.append(own)
    return found


def _elsewhere(own: Sequence[tuple[int, int]], chosen: Sequence[tuple[int, int]]) -> int:
    """How many heads stand in another layer than those whose place they take."""
    layers = {layer for layer, _ in (*own, *chosen)}
    return sum(max(0, sum(a == layer for a, _ in own) - sum(a == layer for a, _ in chosen)) for layer in layers)


def _without(heads: Sequence[tuple[int, int]], sources: dict[str, Tensor]) -> list[Intervention]:
    """Heads ablated at all positions: with what `sources` hold in their place, or zero without sources."""
    done: list[Intervention] = []
    for layer in sorted({layer for layer, _ in heads}):
        name, own = _z(layer), [head for at, head in heads if at == layer]
        zero = Ablate(name, "all", by="zero", heads=own)
        done.append(Replace(name, "all", sources[name], heads=own) if sources else zero)
    return done


def _one_by_one(table: pd.DataFrame, sets: Sequence[tuple[str, int, list[tuple[int, int]]]]) -> np.ndarray:
    """Of every row, the sum of the changes of its set's heads by themselves."""
    single = np.asarray([what == "single" for what, *_ in sets])
    if not single.any():
        return np.full(len(table), np.nan)
    order = {own[0]: i for i, own in enumerate(own for what, _, own in sets if what == "single")}
    member = np.zeros((len(sets), len(order)))
    for i, (*_, own) in enumerate(sets):
        member[i, [order[one] for one in own]] = 1
    changes = table["change_logit"].to_numpy().reshape(-1, len(sets))  # item, set
    return (changes[:, single] @ member.T).ravel()
