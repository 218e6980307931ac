"""The QK fix of AtP* (Kramár et al. 2024, arXiv:2403.00745, section 3.1.1): the softmax computed exactly.

A node of queries or keys acts through its layer's pattern alone. The pattern with the node patched is computed as the
model does (scale, soft cap, mask), and only what follows is linear:

    score = sum over heads, queries and keys of (pattern patched - pattern corrupt) * dm/dpattern |corrupt

A group of positions is patched together, so that within it nothing is linear but that. A kv head's score holds all
query heads that look at its keys. Patching before or behind the rotation is the same.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from vlm_probe.hooked import HookedVLM
from vlm_probe.hooked.anatomy import score_settings
from vlm_probe.names import layer_of

POINTS = ("hook_q", "hook_k", "hook_rot_q", "hook_rot_k")
"""What the fix is for."""


def _inside(name: str) -> tuple[str, str, str, str]:
    """The points of a layer's queries and keys as they meet, scores and pattern."""
    block, rotary = name.rsplit(".", 1)[0], "rot_" if name.startswith("language.") else ""
    return f"{block}.hook_{rotary}q", f"{block}.hook_{rotary}k", f"{block}.hook_attn_scores", f"{block}.hook_pattern"


def needed(names: Sequence[str]) -> list[str]:
    """The points whose values the fix takes for these nodes."""
    return [point for name in names if name.endswith(POINTS) for point in _inside(name)]


def qk_scores(
    model: HookedVLM,
    name: str,
    clean: dict[str, Tensor],
    corrupt: dict[str, Tensor],
    gradients: dict[str, Tensor],
    masks: Bool[Tensor, "example group position"],
) -> Float[Tensor, "example group head"]:
    """The scores of a point's nodes. `clean` and `corrupt` hold `needed`, `gradients` those of the corrupt run."""
    at_q, at_k, at_scores, at_pattern = _inside(name)
    layer = layer_of(name)
    assert layer is not None
    scaling, cap = score_settings(model, name.split(".")[0], layer)
    hidden = corrupt[at_scores].detach().isneginf()
    gradient = gradients.get(at_pattern)
    gradient = torch.zeros_like(corrupt[at_pattern]) if gradient is None else gradient
    exact = torch.promote_types(gradient.dtype, torch.float32)
    q, k, q_clean, k_clean = (
        found[at].detach().to(exact).transpose(1, 2) for found in (corrupt, clean) for at in (at_q, at_k)
    )
    groups = q.shape[1] // k.shape[1]

    def pattern(query: Tensor, key: Tensor) -> Float[Tensor, "example head query key"]:
        found = query @ key.repeat_interleave(groups, dim=1).transpose(-1, -2) * scaling
        found = found if cap is None else torch.tanh(found / cap) * cap
        nowhere = hidden.all(-1, keepdim=True)
        return found.masked_fill(hidden & ~nowhere, -torch.inf).softmax(-1).masked_fill(nowhere, 0.0)

    before = pattern(q, k)
    if name.endswith("q"):
        # Rows do not meet in a softmax over keys: what each query's own patch does, summed within groups.
        each = ((pattern(q_clean, k) - before) * gradient).sum(-1)
        return torch.einsum("egp,ehp->egh", masks.to(each.dtype), each)
    found = []
    for group in masks.unbind(1):
        patched = torch.where(group[:, None, :, None], k_clean, k)
        each = ((pattern(q, patched) - before) * gradient).sum((-1, -2))
        found.append(each.unflatten(1, (-1, groups)).sum(-1))
    return torch.stack(found, dim=1)
