"""Circuits: which edges between the parts of the language model carry an answer, and whether they alone do.

Edge attribution patching (EAP; Syed et al. 2023, arXiv:2310.10348, equation 3) and with integrated gradients (EAP-IG;
Hanna et al. 2024, arXiv:2403.17806, equation 3). The score of an edge from sender u to receiver v is

    (u_clean - u_corrupt) . dm/d(input of v)

summed over positions and features: to first order, what the metric gains where v alone sees u's clean output in the
corrupt run (denoising, towards clean). EAP takes the gradient in the corrupt run, EAP-IG the mean over runs whose rows
at block 0 lie between corrupt's and clean's. Deviations: both papers patch corrupt into clean; steps are taken at
midpoints (k - 1/2) / n rather than k / n, for which scores of edges out of input rows sum to m(clean) - m(corrupt) with
fewer steps; image rows and text rows are senders of their own.

`faithfulness` runs circuits exactly, without a gradient, and integrates over their sizes as MIB (Mueller et al. 2025,
arXiv:2504.13151, section 3.2): f = (m(circuit) - m(corrupt)) / (m(clean) - m(corrupt)), CPR is the mean of f over sizes
(higher is better) and CMD that of |1 - f| (0 is best). Sizes are shares of all edges; the trapezoids' sum is divided by
the range that they span (0.999 for MIB's sizes), so that any sizes give a mean.

What is a node, and how post-norms are treated, `circuits_running` says. Positions are not told apart but by the groups
of input rows. Encoder and connector are before the graph.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from vlm_probe.causal.applying import Boxes
from vlm_probe.causal.attribution_metric import LogitDifference, Metric, check_alike, measured
from vlm_probe.causal.circuits_running import Nodes, Record, Split
from vlm_probe.causal.positions import Places, Sinks
from vlm_probe.errors import VlmProbeError
from vlm_probe.files import writable
from vlm_probe.hooked import HookedVLM
from vlm_probe.hooked.targets import frozen
from vlm_probe.inputs.model_inputs import ModelInputs
from vlm_probe.settings import SEED

SHARES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""MIB's sizes of circuits, of all edges."""


class _Pair:
    """Both runs taken apart."""

    def __init__(
        self,
        model: HookedVLM,
        clean: ModelInputs,
        corrupt: ModelInputs,
        metric: Metric | None,
        groups: Sequence[str] | None,
        boxes: Boxes,
        sinks: Sinks,
    ):
        check_alike(clean, corrupt)
        if groups is None:
            groups = ("image", "text") if clean.pixel_values is not None else ("text",)
        self.split = Split(model, corrupt, groups, Places.of(corrupt.layouts, boxes, sinks, model.device))
        self.clean, self.corrupt = self.split.record(clean), self.split.record(corrupt)
        given = LogitDifference.between(self.clean.logits, self.corrupt.logits) if metric is None else metric
        self.metric: Metric = given
        self.ends = [measured(given, run.logits) for run in (self.clean, self.corrupt)]

    @property
    def nodes(self) -> Nodes:
        return self.split.nodes

    def attrs(
        self, model: HookedVLM, clean: ModelInputs, corrupt: ModelInputs, about: dict[str, Any]
    ) -> dict[str, Any]:
        named = isinstance(self.metric, LogitDifference)
        about |= {
            "metric": repr(self.metric) if named else getattr(self.metric, "__name__", "given"),
            "clean": self.ends[0].tolist(),
            "corrupt": self.ends[1].tolist(),
            "clean_prompts": list(clean.prompts),
            "corrupt_prompts": list(corrupt.prompts),
        }
        return writable({**about, **model.provenance()})


def edge_attribution(
    model: HookedVLM,
    clean: ModelInputs,
    corrupt: ModelInputs,
    *,
    metric: Metric | None = None,
    steps: int = 5,
    groups: Sequence[str] | None = None,
    boxes: Boxes = None,
    sinks: Sinks = (),
    exact: int = 0,
    seed: int = SEED,
) -> pd.DataFrame:
    """Score every edge of the language model's graph: two forward passes, and a forward and backward for each step.

    Parameters
    ----------
    clean, corrupt: batches that are laid out alike, example by example; scores are means over examples.
    metric: see `Metric`; None takes `LogitDifference` of what clean says over what corrupt says.
    steps: of EAP-IG; 0 is EAP.
    groups: of input rows, a sender each, none of them in two; what is in none is the sender "rest". None: "image" and
        "text".
    boxes, sinks: for the groups "box", "background" and "sink", as `causal.applied` takes them.
    exact: how many edges, drawn at random, are also patched exactly (a forward pass each).
    seed: of that draw.

    Returns
    -------
    DataFrame with a row for every edge: sender ("image", "a0.h3", "m0"), receiver ("a1.h3<q>"; keys and values by kv
    head: "a1.kv0<k>"; "m1"; "logits"), score (in the metric's units), and with exact also exact (the effect of patching
    that edge alone; missing where it was not measured). `attrs`: clean.0 and on, corrupt.0 and on (the metric,
    by example), pearson (of scores and exact effects).

    Raises
    ------
    VlmProbeError: batches that are not laid out alike, runs that say the same without a metric, a metric that is none,
    unknown or overlapping groups, a negative number of steps.
    """
    if steps < 0:
        raise VlmProbeError(f"steps must be 0 (EAP) or more, got {steps}")
    with frozen(model):
        pair = _Pair(model, clean, corrupt, metric, groups, boxes, sinks)
        difference = pair.clean.adds - pair.corrupt.adds
        start, way = pair.corrupt.embedded, pair.clean.embedded - pair.corrupt.embedded
        at = [(step + 0.5) / steps for step in range(steps)] or [0.0]
        found = sum(
            pair.split.products(start + along * way, lambda x: measured(pair.metric, x), difference) for along in at
        )
    assert isinstance(found, Tensor)
    scores = found.mean(0).cpu() / len(at)
    nodes = pair.nodes
    receivers, senders = (one.tolist() for one in nodes.possible.nonzero(as_tuple=True))
    table = pd.DataFrame(
        {
            "sender": [nodes.senders[i] for i in senders],
            "receiver": [nodes.receivers[i] for i in receivers],
            "score": scores[receivers, senders].numpy().astype(float),
        }
    )
    about: dict[str, Any] = {
        "title": "Edges that carry the answer",
        "units": "logits" if isinstance(pair.metric, LogitDifference) else "metric",
        "method": f"edge attribution patching, integrated gradients in {steps} steps"
        if steps
        else "edge attribution patching",
        "citation": "Hanna et al. 2024, arXiv:2403.17806" if steps else "Syed et al. 2023, arXiv:2310.10348",
        "steps": steps,
    }
    if exact:
        about |= _patched(pair, table, exact, seed, difference)
    table.attrs.update(pair.attrs(model, clean, corrupt, about))
    return table


def _patched(pair: _Pair, table: pd.DataFrame, exact: int, seed: int, difference: Tensor) -> dict[str, Any]:
    """Patch some edges for real, one at a time, while all others carry what the run makes."""
    nodes = pair.nodes
    rows = np.random.default_rng(seed).permutation(len(table))[:exact]
    edges, effects = nodes.possible.float(), np.full(len(table), np.nan)
    at = _numbers(nodes, table)
    for row in rows:
        one = torch.zeros_like(edges)
        one[at[0][row], at[1][row]] = 1
        logits = pair.split.run(pair.corrupt.embedded, pair.corrupt, edges, (one, difference))
        effects[row] = float((measured(pair.metric, logits) - pair.ends[1]).mean())
    table["exact"] = effects
    scores, found = table["score"].to_numpy()[rows], effects[rows]
    told: dict[str, Any] = {"exact_edges": len(rows), "seed": seed}
    if len(rows) > 1 and np.ptp(scores) > 0 and np.ptp(found) > 0:
        told["pearson"] = float(np.corrcoef(scores, found)[0, 1])
    return told


def _numbers(nodes: Nodes, graph: pd.DataFrame) -> tuple[list[int], list[int]]:
    """Receivers and senders of a graph's edges by number; VlmProbeError for edges that are none of this model."""
    sends, gets = ({name: i for i, name in enumerate(names)} for names in (nodes.senders, nodes.receivers))
    found = []
    for sender, receiver in zip(graph["sender"], graph["receiver"], strict=True):
        at = (gets.get(receiver), sends.get(sender))
        if None in at or not nodes.possible[at]:
            raise VlmProbeError(f"this model has no edge from {sender!r} to {receiver!r}, with inputs {nodes.groups}")
        found.append(at)
    return [one for one, _ in found], [other for _, other in found]


def faithfulness(
    model: HookedVLM,
    graph: pd.DataFrame,
    clean: ModelInputs,
    corrupt: ModelInputs,
    *,
    metric: Metric | None = None,
    edges: Sequence[int] | None = None,
    by: str = "score",
    control: bool = True,
    groups: Sequence[str] | None = None,
    boxes: Boxes = None,
    sinks: Sinks = (),
    seed: int = SEED,
    progress: Callable[[int], None] | None = None,
) -> pd.DataFrame:
    """Run circuits of several sizes alone: along every other edge receivers see what corrupt's run adds.

    Nothing is estimated: within a circuit every part computes from what it gets, and parts that no path of the circuit
    reaches stay as in corrupt's run. One forward pass a size.

    Parameters
    ----------
    graph: edges with scores: columns sender, receiver and score, from `edge_attribution` (perhaps of other examples)
        or elsewhere. Edges of the model that it does not hold are in no circuit.
    clean, corrupt, metric, groups, boxes, sinks: as `edge_attribution` takes them; groups as the graph was made with.
    edges: sizes: how many edges. None: `SHARES` of all, without those that are less than one edge.
    by: "score" takes those first that move the metric most from corrupt's towards clean's (for CPR), "absolute" those
        of the largest magnitude (for CMD).
    control: also run circuits of as many edges drawn at random.
    seed: of that draw.
    progress: called with the number of runs just done.

    Returns
    -------
    DataFrame with a row for every size and control: control (whether edges are random), edges, share (of all edges),
    metric (of the circuit, mean over examples), faithfulness. `attrs`: cpr and cmd, and of the control cpr_control and
    cmd_control; clean.0 and on, corrupt.0 and on (the metric, by example).

    Raises
    ------
    VlmProbeError: as `edge_attribution`, for edges that the model does not have, sizes that the graph does not have,
    an unknown `by`, and runs between which the metric does not differ.
    """
    if by not in ("score", "absolute"):
        raise VlmProbeError(f"by must be 'score' or 'absolute', got {by!r}")
    pair = _Pair(model, clean, corrupt, metric, groups, boxes, sinks)
    nodes = pair.nodes
    total = int(nodes.possible.sum())
    sizes = sorted({round(share * total) for share in SHARES} - {0} if edges is None else set(edges))
    if edges is None:
        sizes = [size for size in sizes if size <= len(graph)]
    if not sizes or not 0 <= sizes[0] <= sizes[-1] <= len(graph):
        raise VlmProbeError(f"circuits have 0 to {len(graph)} edges, got {list(edges or ())}")
    receivers, senders = _numbers(nodes, graph)
    high, low = (float(end.mean()) for end in pair.ends)
    if high == low:
        raise VlmProbeError("the metric is the same in both runs, so there is nothing to be faithful to")
    scores = graph["score"].to_numpy(dtype=float) * np.sign(high - low)
    ranked = np.argsort(-(np.abs(scores) if by == "absolute" else scores), kind="stable")
    orders = [(False, ranked)] + [(True, np.random.default_rng(seed).permutation(len(graph)))] * control
    rows, about = [], dict[str, Any]()
    for random, order in orders:
        curve = []
        for size in sizes:
            kept = torch.zeros(nodes.possible.shape)
            chosen = order[:size]
            kept[[receivers[i] for i in chosen], [senders[i] for i in chosen]] = 1
            found = float(_circuit(pair, kept).mean())
            curve.append((found - low) / (high - low))
            rows.append((random, size, size / total, found, curve[-1]))
            if progress is not None:
                progress(1)
        behind = "_control" if random else ""
        shares = np.asarray(sizes) / total
        about[f"cpr{behind}"] = _mean_over(shares, np.asarray(curve))
        about[f"cmd{behind}"] = _mean_over(shares, np.abs(1 - np.asarray(curve)))
    table = pd.DataFrame(rows, columns=["control", "edges", "share", "metric", "faithfulness"])
    about |= {
        "title": "Faithfulness of circuits by size",
        "units": "share of the difference between clean and corrupt",
        "method": f"circuits of the edges with the largest {'magnitude' if by == 'absolute' else 'score'}, run exactly",
        "citation": "Mueller et al. 2025, arXiv:2504.13151",
        "all_edges": total,
        "seed": seed,
    }
    table.attrs.update(pair.attrs(model, clean, corrupt, about))
    return table


def _circuit(pair: _Pair, kept: Tensor) -> Tensor:
    clean: Record = pair.clean
    return measured(pair.metric, pair.split.run(clean.embedded, pair.corrupt, kept))


def _mean_over(x: np.ndarray, y: np.ndarray) -> float:
    """The mean of a curve over its range, by trapezoids; of one point that point."""
    if len(x) == 1:
        return float(y[0])
    return float((np.diff(x) * (y[1:] + y[:-1]) / 2).sum() / (x[-1] - x[0]))
