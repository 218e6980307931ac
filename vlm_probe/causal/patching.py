"""Where the fact is that two twins differ in: activation patching between their images.

Twins ask one question about two images that differ in what it asks for (MMVP), with both answers and both boxes known.
The run of one twin (corrupt) gets activations of the other's (clean): denoising. The effect is normalised and signed

    effect = (D(patched) - D(corrupt)) / (D(clean) - D(corrupt)),   D = logit(clean's answer) - logit(corrupt's answer)

(normalised indirect effect: Wang et al. 2022, arXiv:2211.00593, equation 2; Zhang and Nanda 2023, arXiv:2309.16042, on
logit differences): 0 is as if nothing was patched, 1 is the other twin's answer whole; below 0 the corrupt answer
gains. Beside every group of positions as many are patched that were drawn at random: for groups of patches among the
others of the image, for others among all that are neither of the group nor of the boxes (where the twins differ) nor
the answer position (which holds whatever is said). Where there are not as many there is no such control.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from vlm_probe.causal.branching import Branches
from vlm_probe.causal.edits import head_axis
from vlm_probe.causal.interventions import Replace
from vlm_probe.causal.outcomes import Sought, logit_differences, outcomes
from vlm_probe.causal.planning import Row, is_read
from vlm_probe.causal.positions import Places
from vlm_probe.causal.sweeping import Able, prepared
from vlm_probe.errors import VlmProbeError
from vlm_probe.hooked import HookedVLM
from vlm_probe.hooked.targets import target_token
from vlm_probe.items import Item
from vlm_probe.layout.groups import Where
from vlm_probe.names import layer_of
from vlm_probe.settings import SEED

Pair = tuple[Item, Item]
"""Clean, and corrupt: what is patched from, and into."""
Tokens = tuple[int, int]
"""Those that begin clean's and corrupt's answer."""
GROUPS: tuple[Where, ...] = ("box", "background", "question", "answer")
RESIDUAL = "language.blocks.*.hook_resid_post"


def patch_sweep(
    model: HookedVLM,
    pairs: Sequence[Pair],
    *,
    points: Sequence[str] = (RESIDUAL,),
    positions: Sequence[Where] = GROUPS,
    heads: bool = False,
    control: bool = True,
    batch_size: int = 8,
    seed: int = SEED,
    suffix: str = "",
    progress: Callable[[int], None] | None = None,
) -> pd.DataFrame:
    """Patch points, groups of positions and layers, one at a time, from one twin's run into the other's.

    Parameters
    ----------
    pairs: twins (`items.twins_among`): (clean, corrupt).
    points: names or globs of hook points: of the residual stream, of what attention or MLP adds, of heads, of the
        connector and the encoder (there groups are of patches alone, and others are left out).
    positions: groups. "box" and "background" are of both twins' boxes together, so that they are the same patches.
    heads: patch every head by itself, of points that have some.
    control: also patch as many random positions.
    suffix: appended to every question.
    progress: called with the number of pairs just done.

    Returns
    -------
    One row a pair, point, group, head and control. Columns: id (the group), image, cluster is the caller's; point,
    part, layer (-1 outside blocks), positions, patched (how many), head (-1: all), control, effect, difference (D
    patched), difference_clean, difference_corrupt, flipped (whether clean's answer is now said).
    `attrs["left_out"]`: pairs that could not be used, with the reason: another layout, answers that begin alike, a twin
    that is not answered right.

    Raises VlmProbeError for an unknown point, and where no pair is left.
    """
    names = [name for one in points for name in model.match(one) if is_read(model, name)]
    able = Able(pairs, partial(_tokens, model, suffix), batch_size, what="pair", name=lambda pair: pair[0].group)
    tables = []
    for batch, tokens in able.each(progress):
        run = _Twins(model, batch, tokens, names, suffix)
        wrong = run.wrong()
        for number, reason in wrong.items():
            able.leave_out(batch[number], reason)
        right = [number for number in range(len(batch)) if number not in wrong]
        tables.append(_sweep(run, right, names, positions, heads, control, seed))
    able.some()  # what is answered wrongly is left out when it has run
    if not sum(map(len, tables)):
        raise VlmProbeError(f"none of {', '.join(map(str, positions))} is in {', '.join(points)}: nothing is patched")
    table = pd.concat([found for found in tables if len(found)], ignore_index=True)
    able.describe(
        table,
        model,
        title="activation patching between twins",
        units="normalised indirect effect, towards clean",
        citation="Wang et al. 2022, arXiv:2211.00593; Zhang and Nanda 2023, arXiv:2309.16042",
        seed=seed,
    )
    return table


def patch(
    model: HookedVLM, pair: Pair, point: str, positions: Where, *, head: int | None = None, suffix: str = ""
) -> float:
    """The effect of one patch: clean's activation of a point at some positions, in corrupt's run; see `patch_sweep`.

    Raises VlmProbeError for a pair that cannot be used, and an unknown point or group.
    """
    tokens = _tokens(model, suffix, pair)
    (name,) = model.match(point)
    run = _Twins(model, [pair], [tokens], [name], suffix)
    for reason in run.wrong().values():
        raise VlmProbeError(reason)
    heads = None if head is None else [head]
    logits = run.branches.run([(0, [Replace(name, positions, run.clean, heads)])])
    return float(run.effect(logits, [0])[0])


def _tokens(model: HookedVLM, suffix: str, pair: Pair) -> Tokens:
    """What the answers of two twins begin with; VlmProbeError where they do not align."""
    clean, corrupt = pair
    if clean.question != corrupt.question:
        raise VlmProbeError("its two questions differ")
    if clean.image == corrupt.image or (clean.source is not None and clean.source == corrupt.source):
        raise VlmProbeError("it has one image")
    first, second = (target_token(model, item.answer, torch.empty(0)) for item in pair)
    if first == second:
        raise VlmProbeError(f"{clean.answer!r} and {corrupt.answer!r} begin with the same token")
    layouts = [prepared(model, [item], suffix).layout for item in pair]
    if layouts[0].length != layouts[1].length or layouts[0].grid != layouts[1].grid:
        raise VlmProbeError("its two prompts are laid out differently")
    return first, second


class _Twins:
    """A batch of pairs: both runs, and corrupt's to go on from."""

    def __init__(
        self, model: HookedVLM, pairs: Sequence[Pair], tokens: Sequence[Tokens], names: list[str], suffix: str
    ):
        self.pairs, self.tokens = pairs, tokens
        clean, corrupt = (prepared(model, [pair[side] for pair in pairs], suffix) for side in (0, 1))
        with torch.no_grad():
            output, cache = model.run_with_cache(clean, names_filter=names, logits_to_keep=1)
        self.clean: dict[str, Tensor] = dict(cache)
        self.branches = Branches(model, corrupt, boxes=[(*one.boxes, *other.boxes) for one, other in pairs])
        self.sought = [Sought(first, (second,)) for first, second in tokens]
        self.logits = (output.logits[:, -1].float(), self.branches.logits)
        self.difference = [logit_differences(logits, self.sought) for logits in self.logits]

    def wrong(self) -> dict[int, str]:
        """Why a pair is of no use, by number: one of two twins is not answered right (by the most probable token)."""
        said = [logits.argmax(-1).tolist() for logits in self.logits]
        found = dict[int, str]()
        for number, (pair, tokens) in enumerate(zip(self.pairs, self.tokens, strict=True)):
            bad = [item for item, token, own in zip(pair, tokens, said, strict=True) if own[number] != token]
            if bad:
                found[number] = f"{bad[0].id} is not answered {bad[0].answer!r}"
        return found

    def effect(self, logits: Tensor, examples: Sequence[int]) -> Tensor:
        """Normalised indirect effects of runs."""
        at = torch.as_tensor(list(examples), device=logits.device)
        clean, corrupt = (one[at] for one in self.difference)
        patched = logit_differences(logits, [self.sought[i] for i in examples])
        return (patched - corrupt) / (clean - corrupt)


def _sweep(
    run: _Twins,
    numbers: Sequence[int],
    names: list[str],
    positions: Sequence[Where],
    heads: bool,
    control: bool,
    seed: int,
) -> pd.DataFrame:
    rows, about = list[Row](), []
    for number in numbers:
        one = run.pairs[number][0]
        rng = np.random.default_rng([seed, *one.group.encode()])
        for name in names:
            layer = layer_of(name)
            for where in positions:
                for random, chosen in _chosen(run.branches.places, where, name, number, rng if control else None):
                    for head in _heads(run.clean[name], name) if heads else [None]:
                        what = (one.group, one.image, name, name.split(".")[0])
                        at = (-1 if layer is None else layer, str(where), len(chosen), -1 if head is None else head)
                        about.append((*what, *at, random, number))
                        rows.append((number, [Replace(name, chosen, run.clean, None if head is None else [head])]))
    columns = ["id", "image", "point", "part", "layer", "positions", "patched", "head", "control", "example"]
    table = pd.DataFrame(about, columns=columns)
    if not rows:
        return table
    logits, examples = run.branches.run(rows), table.pop("example").tolist()
    found = outcomes(logits, [run.sought[i] for i in examples])
    clean, corrupt = (one.double().cpu().numpy()[examples] for one in run.difference)
    return table.assign(
        effect=run.effect(logits, examples).double().cpu().numpy(),
        difference=found["logit_difference"],
        difference_clean=clean,
        difference_corrupt=corrupt,
        flipped=found["right"],
    )


def _heads(activation: Tensor, name: str) -> list[int | None]:
    return list(range(activation.shape[head_axis(name)]))


def _chosen(
    places: Places, where: Where, name: str, example: int, rng: np.random.Generator | None
) -> list[tuple[bool, list[int]]]:
    """The positions of a group, and as many others: (whether they are the random ones, positions); none where the
    part has no such positions."""
    try:
        mask = places.at(where, name, example, layer_of(name)).cpu().numpy()
    except VlmProbeError:
        if name.startswith("language.") or places.layouts[example].encoded > 1:
            raise
        return []  # the question has no rows in the encoder
    own = np.flatnonzero(mask)
    found = [(False, own.tolist())]
    if rng is not None:
        image = places.at("image", name, example).cpu().numpy()
        among = image if image[own].all() else places.at("~answer & ~box", name, example).cpu().numpy()
        others = np.flatnonzero(among & ~mask)
        if len(others) >= len(own):
            found.append((True, np.sort(rng.choice(others, len(own), replace=False)).tolist()))
    return found
