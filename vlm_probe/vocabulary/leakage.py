"""Does probability leak (V4)? What every layer gives to tokens the task never uses, at the answer and at the image."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import pandas as pd
import torch

from vlm_probe.embedding.nearest import used_rows
from vlm_probe.errors import VlmProbeError
from vlm_probe.hooked import HookedVLM
from vlm_probe.hooked.anatomy import unembedding
from vlm_probe.inputs.prompts import first_answer_token
from vlm_probe.items.item import Item
from vlm_probe.lens.logit_lens import normed_rows, stream_lens

IMAGE_ROWS = 8
"""Image positions of an item that are read, spread evenly."""


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
    sets: further sets of ids by name, for instance {"undertrained": ids}: whether probability is drawn to them.
    progress: called with 1 after every item.

    Returns
    -------
    One row an item and layer (the last is the model's output): model, id, image, layer, unused_mass
    (probability on tokens never used, at the position that predicts the answer), padding_mass (on rows that stand
    for no token), entropy (nats), rank (of the right answer's first token: how many are more probable),
    log_probability (of it), image_unused_mass (at image positions, mean over some), unused_share (unused tokens
    among all: what a uniform distribution would give), and for every further set its <name>_mass, image_<name>_mass
    and <name>_share.

    Raises VlmProbeError for ids outside the vocabulary, and where no token is used, or all are.
    """
    table = unembedding(model)
    chosen = sorted(set(used))
    if chosen and not 0 <= chosen[0] <= chosen[-1] < len(table):
        raise VlmProbeError(f"used ids must be between 0 and {len(table) - 1}, got {chosen[0]} to {chosen[-1]}")
    token = used_rows(model).cpu()
    never = token.clone()
    never[chosen] = False
    if not chosen or not bool(never.any()):
        raise VlmProbeError(f"{len(chosen)} of {len(table)} tokens are used: there is nothing to leak from or to")
    further = {name: sorted(set(ids)) for name, ids in (sets or {}).items()}
    for name, ids in further.items():
        if name in ("unused", "padding") or not ids or not 0 <= ids[0] <= ids[-1] < len(table):
            raise VlmProbeError(
                f"set {name!r} of {len(ids)} tokens: a name other than unused and padding, and ids between 0 and "
                f"{len(table) - 1} are expected"
            )
    groups = {"unused": never.nonzero().flatten().tolist(), "padding": (~token).nonzero().flatten().tolist(), **further}
    shares = {f"{name}_share": len(ids) / len(table) for name, ids in groups.items() if name != "padding"}
    rows = []
    for item in items:
        picture = model.picture(item)
        inputs = model.prepare(picture, item.question)
        image = inputs.layout.image_positions
        spread = image[np.linspace(0, len(image) - 1, min(IMAGE_ROWS, len(image))).round().astype(int)]
        at = np.concatenate([[inputs.layout.answer_position], spread])
        answer = first_answer_token(model.tokenizer, model.prompt, item.answer)
        if answer is None:
            raise VlmProbeError(f"item {item.id} has no answer whose probability could be read")
        asked = torch.full((len(at), 1), answer)
        read = stream_lens(normed_rows(model, inputs, at), table, k=1, tokens=asked, sets=groups, divergences=False)
        assert read.rank is not None
        assert read.log_probability is not None
        for layer in range(len(read.entropy)):
            rows.append(
                {
                    "model": model.name,
                    "id": item.id,
                    "image": item.image,
                    "layer": layer,
                    "unused_mass": float(read.mass["unused"][layer, 0]),
                    "padding_mass": float(read.mass["padding"][layer, 0]),
                    "entropy": float(read.entropy[layer, 0]),
                    "rank": int(read.rank[layer, 0, 0]),
                    "log_probability": float(read.log_probability[layer, 0, 0]),
                    "image_unused_mass": float(read.mass["unused"][layer, 1:].mean()),
                    **shares,
                    **{f"{name}_mass": float(read.mass[name][layer, 0]) for name in further},
                    **{f"image_{name}_mass": float(read.mass[name][layer, 1:].mean()) for name in further},
                }
            )
        if progress is not None:
            progress(1)
    found = pd.DataFrame(rows)
    found.attrs = {"title": "probability on tokens never used", "units": "probability", **model.provenance()}
    return found


def summarize_leakage(table: pd.DataFrame, column: str = "unused_mass") -> pd.DataFrame:
    """What a column of `leakage` comes to in every layer of every model.

    table: as `leakage` returns it, of one model or several.

    Returns one row a model and layer: columns model, layer, mean (over items), low and high (95 %: 1.96 standard errors
    of the mean), n (items); `attrs` carry the column.

    Raises VlmProbeError for a column that is not in the table.
    """
    if column not in table:
        raise VlmProbeError(f"no column {column!r}; there are {', '.join(map(str, table.columns))}")
    # Takes items for independent although several may be about one image: the interval is too narrow where they are.
    found = table.groupby(["model", "layer"], sort=False)[column].agg(["mean", "sem", "count"]).reset_index()
    reach = 1.96 * found["sem"]
    found = found.assign(low=found["mean"] - reach, high=found["mean"] + reach).rename(columns={"count": "n"})
    found = found.filter(["model", "layer", "mean", "low", "high", "n"])
    found.attrs = {"title": f"{column} by layer", "column": column}
    return found
