"""Attribution patching: what patching every node would do, to first order, from one backward pass.

Nanda 2023 ("Attribution patching: activation patching at industrial scale"); AtP* of Kramár et al. 2024
(arXiv:2403.00745). Patching takes a node's activation from the clean run into the corrupt run (denoising). To first
order in the difference of the two, with everything else as in the corrupt run,

    m(patched) - m(corrupt) ~ sum over the node's positions and features of (a_clean - a_corrupt) * dm/da |corrupt

A positive score moves the metric towards clean, whose answer's logit minus corrupt's it is by default. A node is a hook
point at a group of positions, and one head of it where it has heads: keys and values have kv heads, and their scores
hold what all query heads make of them. Norms, post-norms and soft caps are differentiated as they are.

AtP* corrects two failures of the first order:
- `qk_fix` (section 3.1.1): a saturated softmax has no gradient. For queries and keys the change of the pattern is
  computed exactly, and only what follows it is linear: sum of (pattern patched - pattern) * dm/dpattern.
- `grad_drop` (section 3.1.2): effects through different paths cancel. The backward pass is repeated, each time without
  what one layer's attention and MLP hand back, and the magnitudes are averaged: column `grad_drop`, never negative.
  Deviation: residual streams, which a dropped layer leaves connected, are averaged over all L passes, and what is
  inside a layer over the L - 1 others as in the paper. Layers are the language model's, also for nodes before it.

`exact` nodes drawn at random are also patched for real, and how well scores and effects agree is told: where a patch
changes much the first order fails, most of all in the encoder, whose rows all of the language model follows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import scipy
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from transformer_lens.hook_points import HookPoint

from vlm_probe.causal import attribution_qk as qk
from vlm_probe.causal.applying import Boxes
from vlm_probe.causal.attribution_metric import LogitDifference, Metric, check_alike, measured
from vlm_probe.causal.branching import Branches
from vlm_probe.causal.interventions import Replace
from vlm_probe.causal.positions import Places, Sinks
from vlm_probe.errors import VlmProbeError
from vlm_probe.files import writable
from vlm_probe.hooked import HookedVLM
from vlm_probe.hooked.targets import frozen
from vlm_probe.inputs.model_inputs import ModelInputs
from vlm_probe.layout.groups import Where
from vlm_probe.names import PARTS, dimensions, layer_of, sequence_axis
from vlm_probe.settings import SEED

POINTS = (
    "language.hook_embed",
    "language.blocks.*.attn.hook_z",
    "language.blocks.*.hook_attn_out",
    "language.blocks.*.hook_mlp_out",
)
POSITIONS: tuple[Where, ...] = ("image", "question", "prompt", "answer")
_ADDED = ("hook_attn_out", "hook_mlp_out")
"""What a layer adds to the residual stream."""
_RESIDUAL = ("hook_resid_pre", "hook_resid_mid", "hook_resid_post")
_NO_NODES = ("hook_attn_scores", "hook_scale", "hook_normalized", "hook_logits")
"""Scores are minus infinity where nothing is seen; the others are behind everything, or not on the way of gradients."""


@dataclass
class _Run:
    """A run with its graph: what `backward` of its logits needs, and then its gradients."""

    values: dict[str, Tensor] = field(default_factory=dict)
    gradients: dict[str, Tensor] = field(default_factory=dict)
    dropped: int | None = None
    """The layer of the language model whose attention and MLP hand no gradient back."""
    logits: Tensor = field(default_factory=lambda: torch.empty(0))

    def watch(self, x: Tensor, hook: HookPoint, *, start: bool, kept: bool) -> Tensor | None:
        """At a hook point: the graph begins at `start`; elsewhere nothing is changed."""
        name = str(hook.name)
        if start:
            x = x.detach().requires_grad_()
        if name.startswith("language.") and name.endswith(_ADDED):
            x.register_hook(partial(self._drop, layer_of(name)))
        if kept:
            self.values[name] = x
            x.register_hook(partial(self._keep, name))
        return x if start else None

    def _drop(self, layer: int | None, gradient: Tensor) -> Tensor | None:
        return None if self.dropped is None or layer != self.dropped else torch.zeros_like(gradient)

    def _keep(self, name: str, gradient: Tensor) -> None:
        self.gradients[name] = gradient.detach()


@dataclass(frozen=True)
class _Group:
    """Positions of one point, in every example that has them."""

    label: str
    masks: Bool[Tensor, "example row"]


def attribution_patching(
    model: HookedVLM,
    clean: ModelInputs,
    corrupt: ModelInputs,
    *,
    metric: Metric | None = None,
    points: str | Sequence[str] = POINTS,
    positions: Sequence[Where] | str | None = None,
    boxes: Boxes = None,
    sinks: Sinks = (),
    qk_fix: bool = False,
    grad_drop: bool = False,
    exact: int = 32,
    seed: int = SEED,
) -> pd.DataFrame:
    """Estimate the effect of patching each node from clean into corrupt: a forward pass of each, one backward in all.

    Parameters
    ----------
    clean, corrupt: batches that are laid out alike, example by example (twins: two images, one question).
    metric: see `Metric`; None takes `LogitDifference` of what clean says over what corrupt says, example by example.
    points: names or globs of hook points, of the language model, the connector and the encoder (layers that the
        connector does not read are left out).
    positions: groups of positions, or "each" for every single one; None: those of `POSITIONS` that there are. Groups
        that some example lacks are left out there; in connector and encoder groups are of patches, and others are left
        out.
    boxes, sinks: for the groups "box", "background" and "sink", as `causal.applied` takes them.
    qk_fix, grad_drop: the corrections of AtP*. grad_drop takes a backward pass more for every layer.
    exact: how many nodes, drawn at random, are also patched exactly; 0 for none.
    seed: of that draw.

    Returns
    -------
    DataFrame with a row for every example, point, group and head: example, point, part, layer (-1 outside blocks),
    positions, head (-1: the point has none), score (in the metric's units: logits), with grad_drop also grad_drop, with
    exact also exact (the effect of the real patch; missing where it was not made). `attrs`: clean.0 and on,
    corrupt.0 and on (the metric of either run, by example), pearson and spearman (of scores and exact effects),
    exact_nodes.

    Raises
    ------
    VlmProbeError: batches that are not laid out alike, runs that say the same without a metric, a metric that is none,
    a point that is unknown or no node, a group that no example has at any point.
    """
    check_alike(clean, corrupt)
    names = _names(model, points, corrupt)
    also = qk.needed(names) if qk_fix else []
    with frozen(model), torch.enable_grad():
        # Both in one way: kernels differ with and without gradients, and patching clean with clean is exactly zero.
        source = _forward(model, clean, names, also)
        values = {name: x.detach() for name, x in source.values.items()}
        reference, source = source.logits.detach(), None
        run = _forward(model, corrupt, names, also)
        asked = LogitDifference.between(reference, run.logits.detach()) if metric is None else metric
        total = measured(asked, run.logits).sum()
        total.backward(retain_graph=grad_drop)
        places = Places.of(corrupt.layouts, boxes, sinks, model.device)
        nodes = {name: _groups(places, name, positions, values[name].shape[sequence_axis(name)]) for name in names}
        _check_there(nodes, positions)

        def score() -> dict[str, Tensor]:
            return {name: _scores(model, name, values, run, groups, qk_fix) for name, groups in nodes.items()}

        scores, dropped = score(), dict[str, Tensor]()
        if grad_drop:
            dropped = _grad_drop(model, run, total, score)
    table = _table(nodes, scores, dropped)
    ends = [measured(asked, logits).detach() for logits in (reference, run.logits)]
    attrs: dict[str, Any] = {
        "title": "Estimated effect of patching, towards clean",
        "units": "logits" if isinstance(asked, LogitDifference) else "metric",
        "method": "attribution patching" + ", QK fix" * qk_fix + ", GradDrop" * grad_drop,
        "citation": "Nanda 2023, Attribution patching; Kramár et al. 2024, arXiv:2403.00745",
        "metric": repr(asked) if isinstance(asked, LogitDifference) else getattr(asked, "__name__", "given"),
        "clean": ends[0].tolist(),
        "corrupt": ends[1].tolist(),
        "clean_prompts": list(clean.prompts),
        "corrupt_prompts": list(corrupt.prompts),
    }
    if exact:
        rows = np.random.default_rng(seed).permutation(len(table))[:exact]
        branches = Branches(model, corrupt, boxes=boxes, sinks=sinks)
        attrs |= _patched(branches, asked, values, nodes, table, rows) | {"seed": seed}
    table.attrs.update(writable({**attrs, **model.provenance()}))
    return table


def _names(model: HookedVLM, points: str | Sequence[str], inputs: ModelInputs) -> list[str]:
    """The points that are nodes, in the order in which they fire."""
    names = model.match([points] if isinstance(points, str) else list(points), image=inputs.pixel_values is not None)
    for name in names:
        if name.endswith(_NO_NODES):
            raise VlmProbeError(f"{name} is no node to patch; residual streams, what is added to them and heads are")
        if not name.startswith("language.") and inputs.pixel_values is None:
            raise VlmProbeError(f"{name} needs an image in the prompt")
        if not name.startswith("language.") and any(layout.encoded != 1 for layout in inputs.layouts):
            raise VlmProbeError(f"{name} takes one image in each prompt, without tiles or crops")
    kept = [name for name in names if not name.startswith("vision.") or (layer_of(name) or 0) < model.layers_read(name)]
    if not kept:
        read = model.layers_read(names[0])
        raise VlmProbeError(f"nothing depends on {names[0]}: the connector reads {read} layers of the encoder")
    if "vision" not in model.layers and any(name.startswith("vision.") for name in kept):
        raise VlmProbeError(f"{kept[0]} is in one of several encoders; points behind the connector can be taken")
    return kept


def _forward(model: HookedVLM, inputs: ModelInputs, names: list[str], also: list[str]) -> _Run:
    """Run with a graph from the first part on that has a node; `also`: points whose values are needed too."""
    run, part = _Run(), min(PARTS.index(name.split(".")[0]) for name in names)
    start = ("vision.hook_embed", "connector.hook_in", "language.hook_embed")[part]
    kept = {*names, *also}
    ends = {f"language.blocks.{layer}.{end}" for layer in range(model.layers["language"]) for end in _ADDED}
    hooks: list[Any] = [
        (name, partial(run.watch, start=name == start, kept=name in kept))
        for name in model.hook_dict
        if name == start or name in kept or name in ends
    ]
    with model.hooks(fwd_hooks=hooks):
        run.logits = model(inputs, logits_to_keep=1).logits[:, -1].float()
    return run


def _groups(places: Places, name: str, positions: Sequence[Where] | str | None, length: int) -> list[_Group]:
    examples = range(len(places.layouts))
    if positions == "each":
        live = torch.stack([places.at("all", name, i) for i in examples])
        chosen = torch.eye(length, dtype=torch.bool, device=live.device)
        return [_Group(str(row), live & chosen[row]) for row in range(length) if live[:, row].any()]
    found = []
    for where in POSITIONS if positions is None else [positions] if isinstance(positions, str) else positions:
        masks = torch.zeros(len(places.layouts), length, dtype=torch.bool, device=places.device)
        for i in examples:
            try:
                masks[i] = places.at(where, name, i, layer_of(name))
            except VlmProbeError:
                if positions is None or (isinstance(where, str) and _may_lack(places, where, name, i)):
                    continue
                raise
        if masks.any():
            found.append(_Group(str(where), masks))
    return found


def _may_lack(places: Places, where: str, name: str, example: int) -> bool:
    """Whether a group is known, and only has no row here: it is read in another part, or of another example."""
    if not name.startswith("language."):
        places.at(where, "language", example)
        return True
    return any(_has(places, where, name, other) for other in range(len(places.layouts)))


def _has(places: Places, where: str, name: str, example: int) -> bool:
    try:
        return bool(places.at(where, name, example).any())
    except VlmProbeError:
        return False


def _check_there(nodes: dict[str, list[_Group]], positions: Sequence[Where] | str | None) -> None:
    there = {group.label for groups in nodes.values() for group in groups}
    asked = [] if positions in ("each", None) else [positions] if isinstance(positions, str) else positions
    for where in asked:
        if str(where) not in there:
            raise VlmProbeError(f"none of the points has {where} positions: {', '.join(list(nodes)[:3])}")
    if not there:
        raise VlmProbeError("give at least one group of positions")


def _scores(
    model: HookedVLM, name: str, clean: dict[str, Tensor], run: _Run, groups: list[_Group], qk_fix: bool
) -> Float[Tensor, "example group head"]:
    """First order of every node of a point; one "head" where it has none."""
    masks = torch.stack([group.masks for group in groups], dim=1) if groups else None
    if masks is None:
        return torch.empty(len(run.logits), 0, 1)
    if qk_fix and name.endswith(qk.POINTS):
        return qk.qk_scores(model, name, clean, run.values, run.gradients, masks)
    gradient = run.gradients.get(name)
    if gradient is None:  # nothing behind it was left
        gradient = torch.zeros_like(clean[name])
    # Wide enough for sums over many positions, whatever the model's dtype.
    product = (clean[name] - run.values[name].detach()).float() * gradient.float()
    axis = sequence_axis(name)
    if "head" in dimensions(name):
        product = product.movedim((axis, dimensions(name).index("head")), (1, 2)).flatten(3).sum(-1)
    else:
        product = product.movedim(axis, 1).flatten(2).sum(-1, keepdim=True)
    return torch.einsum("egp,eph->egh", masks.to(product.dtype), product)


def _grad_drop(model: HookedVLM, run: _Run, total: Tensor, score: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """The mean magnitude of scores over backward passes that leave out a layer each."""
    depth = model.layers["language"]
    sums: dict[str, Tensor] = {}
    for layer in range(depth):
        run.dropped = layer
        run.gradients.clear()
        total.backward(retain_graph=layer < depth - 1)
        for name, values in score().items():
            sums[name] = sums.get(name, torch.zeros_like(values)) + values.abs()
    run.dropped = None

    def passes(name: str) -> int:
        inside = name.startswith("language.blocks.") and not name.endswith(_RESIDUAL)
        return max(depth - inside, 1)

    return {name: values / passes(name) for name, values in sums.items()}


def _table(nodes: dict[str, list[_Group]], scores: dict[str, Tensor], dropped: dict[str, Tensor]) -> pd.DataFrame:
    rows = []
    for name, groups in nodes.items():
        layer = layer_of(name)
        about = {"point": name, "part": name.split(".")[0], "layer": -1 if layer is None else layer}
        found = scores[name].cpu()
        heads = list(range(found.shape[2])) if "head" in dimensions(name) else [-1]
        for number, group in enumerate(groups):
            for example in group.masks.any(1).nonzero()[:, 0].tolist():
                for at, head in enumerate(heads):
                    row = {"example": example, **about, "positions": group.label, "head": head}
                    row["score"] = float(found[example, number, at])
                    if dropped:
                        row["grad_drop"] = float(dropped[name][example, number, at])
                    rows.append(row)
    return pd.DataFrame(rows)


@torch.no_grad()
def _patched(
    branches: Branches,
    metric: Metric,
    clean: dict[str, Tensor],
    nodes: dict[str, list[_Group]],
    table: pd.DataFrame,
    rows: np.ndarray,
) -> dict[str, Any]:
    """Patch some nodes for real, enter the effects in the table, and say how scores agree with them."""
    before, patches = measured(metric, branches.logits), []
    nodes_by = {(name, group.label): group.masks for name, groups in nodes.items() for group in groups}
    columns = [table[column].to_numpy()[rows] for column in ("example", "point", "positions", "head")]
    for example, name, label, head in zip(*columns, strict=True):
        where = nodes_by[name, label][example].nonzero()[:, 0].tolist()
        heads = None if head < 0 else [int(head)]
        patches.append((int(example), [Replace(name, where, clean[name], heads)]))
    effects = []
    for (example, _), logits in zip(patches, branches.run(patches), strict=True):
        # A metric takes all examples at once, and may know them by their number.
        after = branches.logits.clone()
        after[example] = logits
        effects.append(float((measured(metric, after) - before)[example]))
    found = np.full(len(table), np.nan)
    found[rows] = effects
    table["exact"] = found
    told: dict[str, Any] = {"exact_nodes": len(rows)}
    scores = table["score"].to_numpy()[rows]
    if len(rows) > 1 and np.ptp(scores) > 0 and np.ptp(effects) > 0:
        told["pearson"] = float(np.corrcoef(scores, effects)[0, 1])
        told["spearman"] = float(np.corrcoef(scipy.stats.rankdata(scores), scipy.stats.rankdata(effects))[0, 1])
    return told
