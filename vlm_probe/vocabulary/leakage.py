"""Does probability leak (V4)? What every layer gives to tokens the task never uses, at the answer and at the image."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from vlm_probe.embedding.nearest import used_rows
from vlm_probe.errors import VlmProbeError
from vlm_probe.evidence.intervals import clustered_mean
from vlm_probe.hooked import HookedVLM
from vlm_probe.hooked.anatomy import head_bias, unembedding
from vlm_probe.inputs.prompts import first_answer_token
from vlm_probe.items.item import Item
from vlm_probe.lens.logit_lens import block_of, normed_rows, stream_lens

IMAGE_ROWS = 8
"""Image positions of an item that are read, spread evenly."""


@torch.no_grad()
def answer_and_image_rows(model: HookedVLM, item: Item, *, suffix: str = "") -> list[Float[Tensor, "position d_model"]]:
    """Rows ready for the unembedding, of every layer: of the position that predicts the answer, then of `IMAGE_ROWS`
    (or all) image positions.

    suffix: appended to the question.
    """
    inputs = model.prepare(model.picture(item), item.question + suffix)
    image = inputs.layout.image_positions
    spread = image[np.linspace(0, len(image) - 1, min(IMAGE_ROWS, len(image))).round().astype(int)]
    return normed_rows(model, inputs, np.concatenate([[inputs.layout.answer_position], spread]))


@torch.no_grad()
def log_probabilities(
    hidden: Sequence[Float[Tensor, "position d_model"]],
    table: Float[Tensor, "vocabulary d_model"],
    ids: Sequence[int],
    *,
    bias: Float[Tensor, " vocabulary"] | None = None,
    block: int | None = None,
) -> Float[Tensor, "layer position id"]:
    """Log-probability (nats) of some tokens under every layer, the vocabulary read in blocks.

    hidden: of every layer, rows ready for the unembedding. table: the unembedding, in any dtype; products are taken in
    that dtype, sums in float32, as `lens.stream_lens` does. bias: what the output layer adds to every token's logit.
    block: vocabulary rows at a time (None: as there).
    """
    block = block_of(table.device) if block is None else block
    added = torch.zeros(len(table), device=table.device) if bias is None else bias.float()
    rows = torch.stack(list(hidden)).to(table)
    norm = torch.full(rows.shape[:2], -torch.inf, device=table.device)
    for start in range(0, len(table), block):
        logits = (rows @ table[start : start + block].T).float() + added[start : start + block]
        norm = torch.logaddexp(norm, logits.logsumexp(-1))
    chosen = torch.as_tensor(list(ids), dtype=torch.long, device=table.device)
    return ((rows @ table[chosen].T).float() + added[chosen] - norm[..., None]).cpu()


@torch.no_grad()
def leakage(
    model: HookedVLM,
    items: Sequence[Item],
    used: Iterable[int],
    *,
    sets: Mapping[str, Iterable[int]] | None = None,
    progress: Callable[[int], None] | None = None,
) -> pd.DataFrame:
    """Probability on tokens that the task never uses, per item and layer, read through the logit lens.

    Parameters
    ----------
    items: questions with their right answers.
    used: ids that the task uses (`needed_ids`, or `used_ids` of its text); padding rows count as neither.
    sets: further sets of ids by name, for instance {"untrained": ids}: whether probability is drawn to them.
    progress: called with 1 after every item.

    Returns
    -------
    One row an item and layer (the last is the model's output): model, id, image, layer, unused_mass
    (probability on tokens never used, at the position that predicts the answer), padding_mass (on rows that stand
    for no token), entropy (nats), rank (of the right answer's first token: how many are more probable),
    log_probability (of it), image_unused_mass (at image positions, mean over some), unused_share (unused tokens
    among all: what a uniform distribution would give), and for every further set its <name>_mass, image_<name>_mass
    and <name>_share.

    A token that the task never uses may be well trained: which are not is `known_unused`'s to say, or nobody's.

    Raises VlmProbeError for ids outside the vocabulary, and where no token is used, or all are.
    """
    table = unembedding(model)
    groups = _token_sets(model, used, sets or {})
    shares = {f"{name}_share": len(ids) / len(table) for name, ids in groups.items() if name != "padding"}
    rows = []
    for item in items:
        hidden = answer_and_image_rows(model, item)
        answer = first_answer_token(model.tokenizer, model.prompt, item.answer)
        if answer is None:
            raise VlmProbeError(f"item {item.id} has no answer whose probability could be read")
        asked = torch.full((len(hidden[0]), 1), answer)
        read = stream_lens(hidden, table, k=1, tokens=asked, sets=groups, divergences=False, bias=head_bias(model))
        assert read.rank is not None
        assert read.log_probability is not None
        for layer in range(len(read.entropy)):
            mass = {name: found[layer] for name, found in read.mass.items()}
            rows.append(
                {
                    "model": model.name,
                    "id": item.id,
                    "image": item.image,
                    "layer": layer,
                    "unused_mass": float(mass["unused"][0]),
                    "padding_mass": float(mass["padding"][0]),
                    "entropy": float(read.entropy[layer, 0]),
                    "rank": int(read.rank[layer, 0, 0]),
                    "log_probability": float(read.log_probability[layer, 0, 0]),
                    "image_unused_mass": float(mass["unused"][1:].mean()),
                    **shares,
                    **{f"{name}_mass": float(mass[name][0]) for name in sets or {}},
                    **{f"image_{name}_mass": float(mass[name][1:].mean()) for name in sets or {}},
                }
            )
        if progress is not None:
            progress(1)
    found = pd.DataFrame(rows)
    found.attrs = {"title": "probability on tokens never used", "units": "probability", **model.provenance()}
    return found


def _token_sets(model: HookedVLM, used: Iterable[int], further: Mapping[str, Iterable[int]]) -> dict[str, list[int]]:
    """The rows that a task never uses ("unused"), those that stand for no token ("padding"), and further sets.

    Raises VlmProbeError for ids outside the vocabulary, and where no token is used, or all are.
    """
    size, chosen = len(unembedding(model)), sorted(set(used))
    if chosen and not 0 <= chosen[0] <= chosen[-1] < size:
        raise VlmProbeError(f"used ids must be between 0 and {size - 1}, got {chosen[0]} to {chosen[-1]}")
    token = used_rows(model).cpu()
    never = token.clone()
    never[chosen] = False
    if not chosen or not bool(never.any()):
        raise VlmProbeError(f"{len(chosen)} of {size} tokens are used: there is nothing to leak from or to")
    more = {name: sorted(set(ids)) for name, ids in further.items()}
    for name, ids in more.items():
        if name in ("unused", "padding") or not ids or not 0 <= ids[0] <= ids[-1] < size:
            raise VlmProbeError(
                f"set {name!r} of {len(ids)} tokens: a name other than unused and padding, and ids between 0 and "
                f"{size - 1} are expected"
            )
    return {"unused": never.nonzero().flatten().tolist(), "padding": (~token).nonzero().flatten().tolist(), **more}


def summarize_leakage(table: pd.DataFrame, *columns: str) -> pd.DataFrame:
    """What columns of `leakage` come to in every layer of every model.

    table: as `leakage` returns it, of one model or several. columns: "unused_mass" if none is named.

    Returns one row a column, model and layer: columns model, layer, measure (the column), mean (over items), low and
    high (95 %, Student's t over images; NaN for few, see `evidence.clustered_mean`), n (items), images.

    Raises VlmProbeError for a column that is not in the table.
    """
    rows = []
    for column in columns or ("unused_mass",):
        if column not in table:
            raise VlmProbeError(f"no column {column!r}; there are {', '.join(map(str, table.columns))}")
        for keys, own in table.groupby(["model", "layer"], sort=False):
            model, layer = keys if isinstance(keys, tuple) else (keys, 0)
            images = own["image"].to_numpy()
            mean, low, high = clustered_mean(own[column].to_numpy(dtype=float), images)
            rows.append((model, layer, column, mean, low, high, len(own), len(set(images))))
    names = ["model", "layer", "measure", "mean", "low", "high", "n", "images"]
    found = pd.DataFrame(rows, columns=names)
    found.attrs = {"title": "leakage by layer"}
    return found
