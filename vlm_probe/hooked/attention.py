"""The attention function registered with transformers: SDPA, unless scores or pattern are hooked or asked for.

It serves the vision encoder and the language model alike. In a layer where neither
`hook_attn_scores` nor `hook_pattern` has a hook it calls transformers' own SDPA function with the
same mask, so outputs are those of plain transformers bit for bit. Elsewhere it computes the scores
and exact softmax rows, as TransformerLens does: masked scores are -inf, masked attention is zero.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from transformer_lens.hook_points import HookPoint
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from vlm_probe.errors import VlmProbeError
from vlm_probe.hooked.points import Points, is_active
from vlm_probe.names import ROTARY

IMPLEMENTATION = "vlm_probe"
"""Name under which transformers knows the function (must not contain "sdpa" or "flash")."""


class _AttentionPoints(NamedTuple):
    """The points that fire inside attention, at hand: they are looked at in every call."""

    rot_q: HookPoint | None
    rot_k: HookPoint | None
    scores: HookPoint
    pattern: HookPoint
    z: HookPoint


class _Reporter:
    """Lies on the attention module itself: torch.compile guards a table of all modules by its order, and stops where
    another model in it is freed meanwhile. A copy of the module, or a file of it, reports to nothing."""

    def __init__(self, points: _AttentionPoints | None = None):
        self.points = points

    def __reduce__(self) -> tuple[type[_Reporter], tuple[()]]:
        return _Reporter, ()


_REPORTER = "_vlm_probe_reporter"


def report_to(module: nn.Module, block: Points) -> None:
    """Let an attention module of a Hugging Face model report to a block's points."""
    rot_q, rot_k = (block[name] if name in block.declared else None for name in ROTARY)
    scores, pattern, z = (block[f"attn.hook_{name}"] for name in ("attn_scores", "pattern", "z"))
    setattr(module, _REPORTER, _Reporter(_AttentionPoints(rot_q, rot_k, scores, pattern, z)))


Cut = Callable[[int, int, int], Bool[Tensor, "#batch #head query key"]]
"""Which keys a query is kept from seeing, for so many examples, queries and keys: True where it is."""

_cuts: WeakKeyDictionary[nn.Module, list[Cut]] = WeakKeyDictionary()


@contextmanager
def cut_in(module: nn.Module, cut: Cut) -> Iterator[None]:
    """Meanwhile an attention module's queries do not see some keys; several cuts add up.

    The mask is what is changed, so that SDPA stays in use, and what is cut has a weight of exactly zero.
    """
    own = _cuts.setdefault(module, [])
    own.append(cut)
    try:
        yield
    finally:
        own[:] = [one for one in own if one is not cut]
        if not own:
            _cuts.pop(module, None)


def is_cut(module: nn.Module) -> bool:
    """Whether some of an attention module's edges are cut now."""
    return module in _cuts


class Seen(NamedTuple):
    """What some queries see in one head; the tensors are the taker's, to be changed in place."""

    queries: slice
    pattern: Float[Tensor, "batch query key"]
    """Over the first keys: those behind them none of these queries may see."""
    gradient: Float[Tensor, "batch query key"]


class Heads(NamedTuple):
    """An attention module's patterns with their gradients, made while they are gone through."""

    count: int
    batch: int
    keys: int
    seen: Iterator[Seen]


_watched: WeakKeyDictionary[nn.Module, Callable[[Heads], None]] = WeakKeyDictionary()


@contextmanager
def watch_gradients(module: nn.Module, report: Callable[[Heads], None]) -> Iterator[None]:
    """Meanwhile a backward pass through an attention module reports its patterns and their gradients, head by head.

    Both are computed when the backward pass is there, from queries, keys, values and the gradient of what they give
    (dA = dz v'), so that attention runs as it does unwatched, and no more is held than one head's; without a pattern
    that was made anyway, less: `QUERIES` at a time.
    """
    before = _watched.get(module)
    _watched[module] = report
    try:
        yield
    finally:
        if before is None:
            _watched.pop(module, None)
        else:
            _watched[module] = before


class _Watched(torch.autograd.Function):
    """What attention gives, unchanged; its gradient is reported on the way. What that takes is kept by autograd, which
    shares it with attention's own, and under checkpointing computes it anew."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, report: Callable, heads: Callable, *kept: Tensor) -> Tensor:
        ctx.save_for_backward(*kept)
        ctx.report, ctx.heads = report, heads
        return z.view_as(z)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        (gradient,) = gradients
        kept = ctx.saved_tensors  # once: under checkpointing they are made for one look
        ctx.report(ctx.heads(gradient, *kept))
        return (gradient, None, None, *[None] * len(kept))


QUERIES = {"cpu": 128}
"""Queries whose pattern is made at once, by the kind of device; elsewhere all. On a processor a part of a head's stays
in its cache, and under a causal mask half of the keys need not be looked at; a GPU is quicker with fewer steps."""


def _heads_of_pattern(gradient: Tensor, pattern: Tensor, value: Tensor) -> Heads:
    def seen() -> Iterator[Seen]:
        for head in range(pattern.shape[1]):
            yield Seen(slice(None), pattern[:, head], gradient[:, :, head] @ value[:, head].transpose(-1, -2))

    return Heads(pattern.shape[1], len(pattern), pattern.shape[3], seen())


def _heads_of_sdpa(
    gradient: Tensor, query: Tensor, key: Tensor, value: Tensor, *, mask: Tensor | None, causal: bool, scaling: float
) -> Heads:
    """SDPA gives no pattern: each head's is made as in the explicit form."""
    (n_batch, n_heads, n_query), n_key = query.shape[:3], key.shape[2]
    allowed, added = _allowed(mask, causal, n_query, n_key, query.device)
    reach = _reach(allowed, n_query, n_key)
    step = QUERIES.get(query.device.type, n_query)

    def seen() -> Iterator[Seen]:
        for start in range(0, n_query, step):
            rows = slice(start, min(start + step, n_query))
            keys = slice(max(reach[rows]))
            seen_here, added_here = (m if m is None else m[..., rows, keys] for m in (allowed, added))
            masked = _mask_of(seen_here, added_here, query.dtype, mask is not None)
            for head in range(n_heads):
                shared = head * key.shape[1] // n_heads
                pattern = _head_pattern(head, query[:, :, rows], key[:, :, keys], scaling, None, masked)[:, 0]
                yield Seen(rows, pattern, gradient[:, rows, head] @ value[:, shared, keys].transpose(-1, -2))

    return Heads(n_heads, n_batch, n_key, seen())


def _reach(allowed: Tensor | None, n_query: int, n_key: int) -> list[int]:
    """How many keys there are up to the last that a query may see; at least one."""
    if allowed is None:
        return [n_key] * n_query
    place = torch.arange(1, n_key + 1, device=allowed.device)
    return (allowed.flatten(0, 1).any(0) * place).amax(-1).clamp_min(1).tolist()


def _without_cut(
    mask: Tensor | None, cuts: list[Cut], causal: bool, n_batch: int, n_query: int, n_key: int, device: torch.device
) -> Tensor:
    """A mask as transformers passes it, without what is cut; VlmProbeError where a query would see nothing."""
    allowed, added = _allowed(mask, causal, n_query, n_key, device)
    if allowed is None:
        allowed = torch.ones(1, 1, n_query, n_key, dtype=torch.bool, device=device)
    kept = allowed
    for cut in cuts:
        kept = kept & ~cut(n_batch, n_query, n_key)
    if (allowed.any(-1) & ~kept.any(-1)).any():
        raise VlmProbeError("a knockout leaves a position nothing to look at; leave it itself, or another position")
    return kept if added is None else added.masked_fill(~kept, torch.finfo(added.dtype).min)


def _allowed(
    mask: Tensor | None, causal: bool, n_query: int, n_key: int, device: torch.device
) -> tuple[Bool[Tensor, "#batch #head query key"] | None, Float[Tensor, "#batch #head query key"] | None]:
    """Split a mask as transformers passes it into (where a query may look, what is added)."""
    if mask is None:
        if not causal or n_query == 1:
            return None, None
        return torch.ones(n_query, n_key, dtype=torch.bool, device=device).tril()[None, None], None
    mask = mask[..., :n_key]
    if mask.dtype == torch.bool:
        return mask, None
    return mask > torch.finfo(mask.dtype).min, mask


def _scores(
    query: Float[Tensor, "batch head query d_head"],
    key: Float[Tensor, "batch head key d_head"],
    scaling: float,
    softcap: float | None,
    allowed: Tensor | None,
    added: Tensor | None,
) -> Float[Tensor, "batch head query key"]:
    scores = torch.matmul(query, key.transpose(-1, -2)) * scaling
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    if added is not None:
        scores = scores + added
    if allowed is not None:
        scores = scores.masked_fill(~allowed, -torch.inf)
    return scores


def _softmax(
    scores: Float[Tensor, "batch head query key"], *, may_be_empty: bool
) -> Float[Tensor, "batch head query key"]:
    """Softmax rows in float32 or better, cast back. A row that may look nowhere (padding) is zero.

    Such rows are filled before the softmax, not after: a NaN there would poison every gradient.
    `may_be_empty` says whether there can be any: filling keeps one more tensor of this size.
    """
    exact = torch.promote_types(scores.dtype, torch.float32)
    if not may_be_empty:
        return torch.softmax(scores, dim=-1, dtype=exact).to(scores.dtype)
    nowhere = scores.isneginf().all(dim=-1, keepdim=True)
    pattern = torch.softmax(scores.masked_fill(nowhere, 0.0), dim=-1, dtype=exact)
    return pattern.masked_fill(nowhere, 0.0).to(scores.dtype)


class _Mask(NamedTuple):
    """What is made once for the patterns of many heads."""

    added: Float[Tensor, "#batch #head query key"]
    """-inf where a query may not look."""
    empty: Bool[Tensor, "#batch #head query 1"] | None
    """Queries that may look nowhere (padding): their rows are zero. None where that cannot be, for it takes time."""


def _mask_of(allowed: Tensor | None, added: Tensor | None, dtype: torch.dtype, may_be_empty: bool) -> _Mask | None:
    if allowed is None:
        return None
    added = torch.zeros((), dtype=dtype, device=allowed.device) if added is None else added
    empty = ~allowed.any(-1, keepdim=True) if may_be_empty else None
    return _Mask(added.masked_fill(~allowed, -torch.inf), empty)


def _head_pattern(
    head: int, query: Tensor, key: Tensor, scaling: float, softcap: float | None, mask: _Mask | None
) -> Float[Tensor, "batch 1 query key"]:
    """The pattern of one head, without a graph and so in place; heads may share keys."""
    one, shared = slice(head, head + 1), head * key.shape[1] // query.shape[1]
    scores = torch.matmul(query[:, one], key[:, shared : shared + 1].transpose(-1, -2)).mul_(scaling)
    if softcap is not None:
        scores.div_(softcap).tanh_().mul_(softcap)
    exact = torch.promote_types(scores.dtype, torch.float32)
    if mask is None:
        return torch.softmax(scores, dim=-1, dtype=exact).to(scores.dtype)
    pattern = torch.softmax(scores.add_(_of_head(mask.added, one)), dim=-1, dtype=exact)
    if mask.empty is not None:
        pattern.masked_fill_(_of_head(mask.empty, one), 0.0)
    return pattern.to(scores.dtype)


def _of_head(mask: Tensor, one: slice) -> Tensor:
    """Of one head, where heads do not share it."""
    return mask if mask.shape[1] == 1 else mask[:, one]


def _pattern_by_head(
    query: Tensor,
    key: Tensor,
    scaling: float,
    softcap: float | None,
    allowed: Tensor | None,
    added: Tensor | None,
    may_be_empty: bool,
) -> Float[Tensor, "batch head query key"]:
    """The pattern, one head at a time: nothing of its size but the result itself is allocated."""
    shape = (*query.shape[:3], key.shape[2])
    pattern = torch.empty(shape, dtype=query.dtype, device=query.device)
    mask = _mask_of(allowed, added, query.dtype, may_be_empty)
    for head in range(shape[1]):
        pattern[:, head : head + 1] = _head_pattern(head, query, key, scaling, softcap, mask)
    return pattern


def attention(
    module: nn.Module,
    query: Float[Tensor, "batch head query d_head"],
    key: Float[Tensor, "batch kv_head key d_head"],
    value: Float[Tensor, "batch kv_head key d_head"],
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    softcap: float | None = None,
    **kwargs: Any,
) -> tuple[Float[Tensor, "batch query head d_head"], Tensor | None]:
    """Attention as transformers calls it; fires rot_q, rot_k, attn_scores, pattern and z.

    Returns the weighted values and, where they were computed, the attention probabilities: they are where a point is
    hooked, and where the caller asked transformers for them (`output_attentions=True`).
    """
    reporter = getattr(module, _REPORTER, None)
    points = None if reporter is None else reporter.points
    if points is not None:
        # Points see [batch, position, head, d_head]; attention works on [batch, head, position, d_head].
        if points.rot_q is not None and is_active(points.rot_q):
            query = points.rot_q(query.transpose(1, 2)).transpose(1, 2)
        if points.rot_k is not None and is_active(points.rot_k):
            key = points.rot_k(key.transpose(1, 2)).transpose(1, 2)
    is_causal = kwargs.get("is_causal")
    is_causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    compiling = torch.compiler.is_compiling()  # see is_active
    if module in _cuts and not compiling:
        sizes = (query.shape[0], query.shape[2], key.shape[2])
        attention_mask = _without_cut(attention_mask, _cuts[module], is_causal, *sizes, query.device)
    # Taken out of kwargs: SDPA would warn that it gives none, and advise an implementation that fires no point.
    watched = bool(kwargs.pop("output_attentions", False))
    watched |= points is not None and (is_active(points.scores) or is_active(points.pattern))
    # SDPA has no soft cap: Gemma 2 runs the explicit form always, as it does in plain transformers.
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    report = None if compiling else _watched.get(module)
    # SDPA does not say what it dropped.
    watched |= report is not None and dropout > 0
    if not watched and softcap is None:
        z, pattern = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
        if report is not None:
            heads = partial(_heads_of_sdpa, mask=attention_mask, causal=is_causal, scaling=scale)
            z = _Watched.apply(z, report, heads, query, key, value)
    else:
        n_query, n_key = query.shape[2], key.shape[2]
        allowed, added = _allowed(attention_mask, is_causal, n_query, n_key, query.device)
        groups = query.shape[1] // key.shape[1]
        if groups > 1:
            key, value = (t.repeat_interleave(groups, dim=1) for t in (key, value))
        on_scores = points.scores if points is not None and is_active(points.scores) else None
        # A causal row holds at least itself; padding, and a hook on the scores, can leave one empty.
        may_be_empty = attention_mask is not None or on_scores is not None
        if on_scores is not None or torch.is_grad_enabled() or not watched:
            scores = _scores(query, key, scale, softcap, allowed, added)
            pattern = _softmax(scores if on_scores is None else on_scores(scores), may_be_empty=may_be_empty)
        else:
            pattern = _pattern_by_head(query, key, scale, softcap, allowed, added, may_be_empty)
        if points is not None and is_active(points.pattern):
            pattern = points.pattern(pattern)
        weights = nn.functional.dropout(pattern, p=dropout, training=module.training)
        z = torch.matmul(weights, value).transpose(1, 2).contiguous()
        if report is not None:
            z = _Watched.apply(z, report, _heads_of_pattern, weights, value)
    if points is not None and is_active(points.z):
        # What a function of our own gives may not be edited in place.
        z = points.z(z if report is None else z.clone())
    return z, pattern


AttentionInterface.register(IMPLEMENTATION, attention)
# Without a mask function of that name transformers builds no mask at all: padding and sliding
# windows would silently be ignored.
AttentionMaskInterface.register(IMPLEMENTATION, sdpa_mask)
