"""Massive activations: the few huge values of hidden states that go with attention sinks."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch

from vlm_probe.attention.patterns import roles_of
from vlm_probe.errors import VlmProbeError
from vlm_probe.trace import Trace

_POINT = "hook_resid_post"
_COLUMNS = ("layer", "position", "token", "kind", "index", "dimension", "value", "times_median", "times_rms")


def massive_activations(trace: Trace, *, ratio: float | int = 1000.0, least: float | int = 0.0) -> pd.DataFrame:
    """Positions with a massive activation (Sun et al. 2024, arXiv:2402.17762) behind layers of the language model.

    An activation is massive if its magnitude is at least `ratio` times the median magnitude of the layer's hidden
    state, over all positions that are no padding and all dimensions, as in the authors' code. Deviation: they also ask
    for a magnitude above 100. That is a scale of the 7B models they looked at and does not transfer (LayerNorm and
    RMSNorm undo any scale of the residual stream), so it is not asked for; `least=100` does.

    Kang et al. 2025 (arXiv:2503.03321) call a patch a visual sink if its value in one of the model's sink dimensions,
    those in which the first token is massive, is at least 20 times the root mean square of its hidden state: here kind
    "image", `dimension` one of those of kind "text", times_rms >= 20, with a lower `ratio`. Their 20 does not
    transfer either: times_rms is at most sqrt(d_model), 64 in their models and 25 for 640 dimensions, where one large
    dimension that every position has (Gemma 3) makes it 20 and more everywhere.

    Parameters
    ----------
    trace: holds `language.blocks.*.hook_resid_post` for one layer or more.
    ratio: to the median magnitude (no unit).
    least: magnitude below which nothing is massive (activation units).

    Returns
    -------
    DataFrame, a row a layer and position, with columns layer (behind which), position, token, kind ("text" for the
    template, "question", "image", "register"), index (number among its kind: see `Role`), dimension (of its largest
    activation), value (that activation), times_median (its magnitude over the layer's median), times_rms (over the root
    mean square of the position's own hidden state).

    Raises VlmProbeError where the trace holds no residual stream, and for a ratio that is not above 0.
    """
    if not ratio > 0:
        raise VlmProbeError(f"ratio must be above 0, got {ratio}")
    layers = trace.layers("language", _POINT)
    if not layers:
        raise VlmProbeError(f"the trace holds no language residual stream; capture language.blocks.*.{_POINT}")
    roles = roles_of(trace.layout)
    live = torch.as_tensor(np.fromiter(roles.values(), dtype=np.int64))
    records = []
    for layer in layers:
        state = trace[f"language.blocks.{layer}.{_POINT}"][0].float().cpu()[live]
        size = state.abs()
        median = size.median()
        largest, dimension = size.max(-1)
        rms = state.square().mean(-1).sqrt()
        # Nothing is massive in a state of zeros, whose median is zero as well.
        massive = (largest >= ratio * median) & (largest >= least) & (largest > 0)
        for (role, position), i in zip(roles.items(), range(len(live)), strict=True):
            if massive[i]:
                d = int(dimension[i])
                measures = (state[i, d], largest[i] / median, largest[i] / rms[i])
                records.append((layer, position, role.token, role.kind, role.index, d, *map(float, measures)))
    table = pd.DataFrame(records, columns=list(_COLUMNS))
    table.attrs.update(
        title="Massive activations",
        units="activation",
        method=f"at least {ratio:g} times the median magnitude of the layer's hidden state",
        citation="Sun et al. 2024, arXiv:2402.17762",
        ratio=ratio,
        least=least,
        **trace.provenance,
    )
    return table
