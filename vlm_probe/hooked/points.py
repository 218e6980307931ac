"""The hook points a HookedVLM declares: names and dimensions of design section 4, and nothing else."""

from __future__ import annotations

from torch import nn
from transformer_lens.hook_points import HookPoint

RESIDUAL = ("batch", "position", "d_model")
VISION_RESIDUAL = ("batch", "position", "d_vision")
HEADS = ("batch", "position", "head", "d_head")
SCORES = ("batch", "head", "query", "key")
MLP = ("batch", "position", "d_mlp")

_BLOCK = {
    "hook_resid_pre": RESIDUAL,
    "hook_attn_out": RESIDUAL,
    "hook_resid_mid": RESIDUAL,
    "hook_mlp_out": RESIDUAL,
    "hook_resid_post": RESIDUAL,
    "hook_q": HEADS,
    "hook_k": HEADS,
    "hook_v": HEADS,
    "hook_z": HEADS,
    "hook_rot_q": HEADS,
    "hook_rot_k": HEADS,
    "hook_attn_scores": SCORES,
    "hook_pattern": SCORES,
    "hook_pre": MLP,
    "hook_post": MLP,
}
_CONNECTOR = {
    "hook_in": ("batch", "patch", "d_vision"),
    "hook_pre": ("batch", "patch", "d_model"),
    "hook_post": ("batch", "patch", "d_model"),
    "hook_out": ("batch", "patch", "d_model"),
}
_TOP = {
    "hook_embed": RESIDUAL,
    "hook_scale": ("batch", "position", "one"),
    "hook_normalized": RESIDUAL,
    "hook_logits": ("batch", "position", "vocabulary"),
}


def dimensions(name: str) -> tuple[str, ...]:
    """Dimension names of the activation at a hook point, in order."""
    part, last = name.split(".", 1)[0], name.rsplit(".", 1)[-1]
    if part == "connector":
        return _CONNECTOR[last]
    names = _BLOCK.get(last) or _TOP[last]
    return VISION_RESIDUAL if part == "vision" and names == RESIDUAL else names


def is_active(point: HookPoint) -> bool:
    """Whether anything is hooked here; an idle point is never called."""
    return bool(point._forward_hooks or point._backward_hooks)


class AttentionPoints(nn.Module):
    """Points inside one attention module."""

    def __init__(self, *, rotary: bool):
        super().__init__()
        self.hook_q = HookPoint()
        self.hook_k = HookPoint()
        self.hook_v = HookPoint()
        if rotary:
            self.hook_rot_q = HookPoint()
            self.hook_rot_k = HookPoint()
        self.rotary = rotary
        self.hook_attn_scores = HookPoint()
        self.hook_pattern = HookPoint()
        self.hook_z = HookPoint()


class MlpPoints(nn.Module):
    """Points inside one MLP."""

    def __init__(self):
        super().__init__()
        self.hook_pre = HookPoint()
        self.hook_post = HookPoint()


class BlockPoints(nn.Module):
    """Points of one transformer block, in the order they fire."""

    def __init__(self, *, rotary: bool):
        super().__init__()
        self.hook_resid_pre = HookPoint()
        self.attn = AttentionPoints(rotary=rotary)
        self.hook_attn_out = HookPoint()
        self.hook_resid_mid = HookPoint()
        self.mlp = MlpPoints()
        self.hook_mlp_out = HookPoint()
        self.hook_resid_post = HookPoint()

    def any_active(self) -> bool:
        return any(is_active(m) for m in self.modules() if isinstance(m, HookPoint))


class TowerPoints(nn.Module):
    """Points of the vision encoder."""

    def __init__(self, n_layers: int, *, rotary: bool = False):
        super().__init__()
        self.hook_embed = HookPoint()
        self.blocks = nn.ModuleList(BlockPoints(rotary=rotary) for _ in range(n_layers))


class NormPoints(nn.Module):
    """Points of an RMSNorm: its denominator, and its input divided by it (before the weight)."""

    def __init__(self):
        super().__init__()
        self.hook_scale = HookPoint()
        self.hook_normalized = HookPoint()


class LanguagePoints(TowerPoints):
    """Points of the language model: a tower, then the final norm and the logits."""

    def __init__(self, n_layers: int):
        super().__init__(n_layers, rotary=True)
        self.ln_final = NormPoints()
        self.hook_logits = HookPoint()


class ConnectorPoints(nn.Module):
    """Points of the two-layer MLP connector."""

    def __init__(self):
        super().__init__()
        self.hook_in = HookPoint()
        self.hook_pre = HookPoint()
        self.hook_post = HookPoint()
        self.hook_out = HookPoint()
