"""The logit lens, streamed: what every layer would say at every position, without the full logits ever existing.

The residual stream behind a layer goes through the final norm and the unembedding (nostalgebraist 2020; with a
translator before it, the tuned lens of Belrose et al. 2023, arXiv:2303.08112). The vocabulary is read in blocks, and
what is wanted of it (top tokens, ranks, masses, entropy, divergences) is gathered as the blocks pass.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float, Int
from torch import Tensor, linalg

from vlm_probe.errors import VlmProbeError
from vlm_probe.files import writable
from vlm_probe.hooked import HookedVLM, ModelInputs
from vlm_probe.hooked.anatomy import final_norm, head_bias, unembedding
from vlm_probe.hooked.targets import target_token
from vlm_probe.layout.groups import Where, positions_of

BLOCK = {"cpu": 1024, "cuda": 8192}
"""Vocabulary rows read at a time, by the kind of device: what bounds the memory, with the positions. On a processor
what is gathered of a block stays in its cache; on a GPU fewer, larger steps are quicker."""

ROWS = 256
"""Positions (of all layers together) taken at a time."""


def block_of(device: torch.device) -> int:
    """Vocabulary rows to read at a time on a device."""
    return BLOCK.get(device.type, BLOCK["cuda"])


@dataclass
class Lens:
    """What a lens reads off, for every layer and position; all float32 and int64 on the CPU."""

    top_ids: Int[Tensor, "layer position k"]
    """The most probable tokens, most probable first."""
    top_log_probability: Float[Tensor, "layer position k"]
    entropy: Float[Tensor, "layer position"]
    """Of the whole distribution, in nats."""
    mass: dict[str, Float[Tensor, "layer position"]]
    """Probability on each token set."""
    kl_to_final: Float[Tensor, "layer position"] | None
    """KL(final || layer), in nats (Belrose et al. 2023, equation 4)."""
    kl_to_next: Float[Tensor, "layer position"] | None
    """KL(next || layer) against the layer behind; NaN for the last."""
    rank: Int[Tensor, "layer position token"] | None = None
    """How many tokens are more probable than each asked one."""
    log_probability: Float[Tensor, "layer position token"] | None = None
    """Of each asked token."""


class _Gatherer:
    """What is gathered of the blocks so far, for all layers at some positions. One pass gives everything: the
    divergences too, whose cross terms are sums of one layer's logits under another's probabilities."""

    def __init__(self, shape: tuple[int, int], k: int, sets: Tensor, asked: Tensor, own: Tensor, divergences: bool):
        n, device = shape, own.device
        self.k, self.sets, self.asked, self.own, self.divergences = k, sets, asked, own, divergences
        self.top = torch.full((*n, k), -torch.inf, device=device)
        self.ids = torch.zeros(*n, k, dtype=torch.long, device=device)
        self.maximum = torch.full(n, -torch.inf, device=device)
        # Each a sum over the vocabulary of exp(logit - maximum) times 1, the logit, membership in each set.
        self.total, self.weighted = torch.zeros(n, device=device), torch.zeros(n, device=device)
        self.mass = torch.zeros(*n, len(sets), device=device)
        # Sums of this layer's logits under the final and under the next layer's exponentials.
        self.under_final, self.under_next = torch.zeros(n, device=device), torch.zeros(n, device=device)
        self.higher = torch.zeros(*n, asked.shape[-1], dtype=torch.long, device=device)

    def add(self, z: Float[Tensor, "layer row block"], start: int) -> None:
        """Take in the logits of one block of the vocabulary, which begins at `start`."""
        best = z.amax(-1)
        self._add_top(z, best, start)
        for t in range(self.asked.shape[-1]):
            own, column = self.own[..., t : t + 1], self.asked[:, t] - start
            higher = (z > own).sum(-1)
            # Its own logit, rounded differently in this product, is not above itself.
            here = (column >= 0) & (column < z.shape[-1])
            at = column.clamp(0, z.shape[-1] - 1)[None, :, None].expand(len(z), -1, 1)
            higher -= (here[None] & (z.gather(-1, at) > own)[..., 0]).long()
            self.higher[..., t] += higher
        maximum = torch.maximum(self.maximum, best)
        shrink = (self.maximum - maximum).exp()
        p = (z - maximum[..., None]).exp_()
        self.total = self.total * shrink + p.sum(-1)
        self.weighted = self.weighted * shrink + linalg.vecdot(p, z)
        if len(self.sets):
            members = self.sets[:, start : start + z.shape[-1]].to(p.dtype)
            self.mass = self.mass * shrink[..., None] + p @ members.T
        if self.divergences:
            self.under_final = self.under_final * shrink[-1] + linalg.vecdot(p[-1:].expand_as(z), z)
            self.under_next[:-1] = self.under_next[:-1] * shrink[1:] + linalg.vecdot(p[1:], z[:-1])
        self.maximum = maximum

    def _add_top(self, z: Tensor, best: Tensor, start: int) -> None:
        """Only rows whose best in this block beats their k-th so far are sorted: few, once the first blocks are by."""
        rows = best > self.top[..., -1]
        if not bool(rows.any()):
            return
        found, at = z[rows].topk(min(self.k, z.shape[-1]), dim=-1)
        self.top[rows], chosen = torch.cat([self.top[rows], found], dim=-1).topk(self.k, dim=-1)
        self.ids[rows] = torch.cat([self.ids[rows], at + start], dim=-1).gather(-1, chosen)

    def results(self) -> dict[str, Tensor]:
        norm = self.maximum + self.total.log()
        found = {
            "ids": self.ids,
            "top": self.top - norm[..., None],
            "entropy": norm - self.weighted / self.total,
            "mass": self.mass / self.total[..., None],
            "rank": self.higher,
            "own": self.own - norm[..., None],
        }
        if self.divergences:
            # KL(p || q) = E_p[z_p] - log Z_p - E_p[z_q] + log Z_q.
            own = self.weighted / self.total - norm
            found["final"] = own[-1:] - self.under_final / self.total[-1:] + norm
            found["next"] = torch.full_like(norm, float("nan"))
            found["next"][:-1] = own[1:] - self.under_next[:-1] / self.total[1:] + norm[:-1]
        return found


def _capped(z: Tensor, soft_cap: float | None) -> Tensor:
    return z if soft_cap is None else soft_cap * torch.tanh(z / soft_cap)


@torch.no_grad()
def stream_lens(
    hidden: Sequence[Float[Tensor, "position width"]],
    table: Float[Tensor, "vocabulary d_model"],
    *,
    k: int = 5,
    tokens: Int[Tensor, "position token"] | None = None,
    sets: Mapping[str, Sequence[int]] | None = None,
    divergences: bool = True,
    bias: Float[Tensor, " vocabulary"] | None = None,
    soft_cap: float | None = None,
    block: int | None = None,
    rows: int = ROWS,
    progress: Callable[[int], None] | None = None,
) -> Lens:
    """Read rows that are ready for the unembedding (normed), layer by layer.

    Parameters
    ----------
    hidden: of every layer; the last is the model's own.
    table: the unembedding, in any dtype; products are taken in that dtype, sums in float32.
    k: top tokens kept.
    tokens: at every position, tokens whose rank and log-probability are wanted.
    sets: name -> token ids whose joint probability is wanted.
    divergences: also KL to the final layer and to the next.
    bias: what the output layer adds to every token's logit (Phi's does).
    soft_cap: Gemma 2's cap on logits.
    block, rows: vocabulary rows (None: `BLOCK`) and positions at a time; memory goes with their product.
    progress: called with the number of rows (layers x positions) just done.

    Raises
    ------
    VlmProbeError: no layer, rows of different shapes or another width than the table's, k or ids outside the
        vocabulary.
    """
    if not hidden:
        raise VlmProbeError("there is no layer to read")
    vocabulary, width = table.shape
    for i, layer in enumerate(hidden):
        if layer.shape != hidden[0].shape or layer.shape[1] != width:
            raise VlmProbeError(
                f"layer {i} has rows of shape {list(layer.shape)}, expected {list(hidden[0].shape[:1])} x {width} as "
                "the unembedding"
            )
    if not 1 <= k <= vocabulary:
        raise VlmProbeError(f"k must be between 1 and the vocabulary's {vocabulary}, got {k}")
    positions, device = len(hidden[0]), table.device
    names = list(sets or {})
    members = torch.zeros(len(names), vocabulary, dtype=torch.bool, device=device)
    for i, name in enumerate(names):
        ids = torch.as_tensor(list((sets or {})[name]), dtype=torch.long, device=device)
        if len(ids) and not 0 <= int(ids.min()) <= int(ids.max()) < vocabulary:
            raise VlmProbeError(f"set {name!r} holds ids outside the vocabulary of {vocabulary}")
        members[i, ids] = True
    asked = torch.zeros(positions, 0, dtype=torch.long) if tokens is None else tokens
    if asked.numel() and not 0 <= int(asked.min()) <= int(asked.max()) < vocabulary:
        raise VlmProbeError(f"asked tokens are outside the vocabulary of {vocabulary}")
    block = block_of(device) if block is None else block
    added = torch.zeros(vocabulary, device=device) if bias is None else bias.float()
    each = max(1, rows // len(hidden))
    kept: dict[str, list[Tensor]] = {}
    for start in range(0, positions, each):
        h = torch.stack([layer[start : start + each] for layer in hidden]).to(device)
        here = asked[start : start + each].to(device)
        # Rounded as the block's products are, or a token would be compared with others of another precision.
        own = torch.einsum("lrd,rtd->lrt", h.float(), table[here].float()).to(table.dtype).float() + added[here]
        gatherer = _Gatherer((h.shape[0], h.shape[1]), k, members, here, _capped(own, soft_cap), divergences)
        h = h.to(table.dtype)
        for first in range(0, vocabulary, block):
            z = (h.flatten(0, 1) @ table[first : first + block].T).float().unflatten(0, h.shape[:2])
            gatherer.add(_capped(z if bias is None else z + added[first : first + block], soft_cap), first)
        for name, values in gatherer.results().items():
            kept.setdefault(name, []).append(values.cpu())
        if progress is not None:
            progress(h.shape[0] * h.shape[1])
    found = {name: torch.cat(values, dim=1) for name, values in kept.items()}
    return Lens(
        found["ids"],
        found["top"],
        found["entropy"],
        {name: found["mass"][..., i] for i, name in enumerate(names)},
        found.get("final"),
        found.get("next"),
        None if tokens is None else found["rank"],
        None if tokens is None else found["own"],
    )


def _soft_cap(model: HookedVLM) -> float | None:
    """Gemma 2's cap on logits. transformers' LLaVA has an output layer of its own, which caps nothing."""
    return getattr(model.text_config, "final_logit_softcapping", None) if model.vision_config is None else None


Translator = Callable[[Tensor, int], Tensor]
"""Takes rows [position, d_model] and the number of the layer they stand behind, gives rows: a `TunedLens`."""


@torch.no_grad()
def normed_rows(
    model: HookedVLM, inputs: ModelInputs, at: np.ndarray, translate: Translator | None = None
) -> list[Float[Tensor, "position d_model"]]:
    """The residual stream of one example behind every language layer, at some positions, (translated and) through
    the final norm."""
    layers = [f"language.blocks.{i}.hook_resid_post" for i in range(len(model.language.blocks))]
    _, cache = model.run_with_cache(inputs, names_filter=layers, logits_to_keep=1)
    places, norm = torch.as_tensor(at, device=model.device), final_norm(model)
    rows = [cache[name][0, places] for name in layers]
    return [norm(row if translate is None else translate(row, i)) for i, row in enumerate(rows)]


def lens(
    model: HookedVLM,
    inputs: ModelInputs,
    *,
    positions: Where = "all",
    k: int = 5,
    tokens: Sequence[int | str] = (),
    sets: Mapping[str, Sequence[int]] | None = None,
    divergences: bool = True,
    translate: Translator | None = None,
    block: int | None = None,
) -> xr.Dataset:
    """The logit lens over all language layers, streamed over the vocabulary (nostalgebraist 2020).

    Parameters
    ----------
    inputs: one example, from `model.prepare`.
    positions: a group of `layout.groups` or a combination of them, or positions in the sequence.
    k: top tokens kept.
    tokens: tokens whose rank and log-probability are wanted everywhere: ids, or texts (the token
        that begins each behind the prompt).
    sets: name -> token ids whose joint probability is wanted.
    divergences: also KL to the final layer and to the next.
    translate: a `TunedLens` (Belrose et al. 2023), or any function of rows and layer, before the final norm.

    Returns
    -------
    Dataset over layer and position (coordinate: where in the sequence): top_id and top_token (and k),
    top_log_probability, entropy (nats), kl_to_final and kl_to_next (nats), rank and log_probability (and token),
    mass (and set). The last layer is the model's own output.

    Raises
    ------
    VlmProbeError: a batch, positions that are not there, tokens outside the vocabulary.
    """
    at = positions_of(inputs.layout, positions)
    table = unembedding(model)
    blank = torch.empty(len(table), device="meta")
    ids = [target_token(model, token, blank) for token in tokens]
    asked = torch.tensor(ids, dtype=torch.long).expand(len(at), -1) if ids else None
    read = stream_lens(
        normed_rows(model, inputs, at, translate),
        table,
        k=k,
        tokens=asked,
        sets=sets,
        divergences=divergences,
        block=block,
        bias=head_bias(model),
        soft_cap=_soft_cap(model),
    )
    rows = ("layer", "position")
    best = read.top_ids.flatten().tolist()
    strings = model.token_strings(best) or [f"<{i}>" for i in best]
    data: dict[str, Any] = {
        "top_id": ((*rows, "k"), read.top_ids.numpy()),
        "top_token": ((*rows, "k"), np.asarray(strings, dtype=object).reshape(read.top_ids.shape).astype(str)),
        "top_log_probability": ((*rows, "k"), read.top_log_probability.numpy()),
        "entropy": (rows, read.entropy.numpy()),
    }
    if read.kl_to_final is not None and read.kl_to_next is not None:
        data |= {"kl_to_final": (rows, read.kl_to_final.numpy()), "kl_to_next": (rows, read.kl_to_next.numpy())}
    coords: dict[str, Any] = {"layer": np.arange(len(read.entropy)), "position": at}
    if read.rank is not None and read.log_probability is not None:
        data |= {
            "rank": ((*rows, "token"), read.rank.numpy()),
            "log_probability": ((*rows, "token"), read.log_probability.numpy()),
        }
        coords["token"] = [str(token) for token in tokens]
    if read.mass:
        data["mass"] = ((*rows, "set"), np.stack([mass.numpy() for mass in read.mass.values()], axis=-1))
        coords["set"] = list(read.mass)
    attrs = {
        "title": "logit lens" if translate is None else "tuned lens",
        "units": "nats",
        "citation": "nostalgebraist 2020" if translate is None else "Belrose et al. 2023, arXiv:2303.08112",
        "prompt": inputs.prompts[0] if inputs.prompts else None,
        **model.provenance(),
    }
    return xr.Dataset(data, coords=coords, attrs=writable(attrs))
