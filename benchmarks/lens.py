"""The streamed lens at the 2B's size: memory against dense, time against the bare matrix products.

    python benchmarks/lens.py [--device cuda] [--layers 18 --positions 600 --vocabulary 256000 --width 2048]

Memory: what the process grows by while all layers and positions are read (on a GPU: what its allocator peaks at),
against dense float32 logits. Time: the lens over the bare blocked products, interleaved, on so many positions as one
chunk holds. Then at a size where dense still fits (`--fits` tokens): equality with the dense computation, and the
time against TransformerLens's `logit_lens` (top 5, which is less: no entropy, no divergences) on a Gemma of that shape.
"""

from __future__ import annotations

import argparse
import resource
from functools import partial
from typing import Any

import torch
from measure import MIB, interleaved, ratio, record
from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_from_module
from transformer_lens.tools.analysis import logit_lens
from transformers import GemmaConfig, GemmaForCausalLM

from vlm_probe.hooked import HookedVLM
from vlm_probe.hooked.anatomy import final_norm
from vlm_probe.lens.logit_lens import BLOCK, ROWS, Lens, normed_rows, stream_lens

BARE = BLOCK["cuda"]
"""Rows of the vocabulary in one of the bare products: large ones, which are the quickest alone."""


def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def whole(layers: int, positions: int, vocabulary: int, width: int, repeats: int, device: str) -> dict[str, Any]:
    """Memory of all positions, time of one chunk of them."""
    generator = torch.Generator().manual_seed(0)
    table = torch.empty(vocabulary, width)
    for part in table.split(8192):
        part.copy_(torch.randn(part.shape, generator=generator) / width**0.5)
    hidden = [torch.randn(positions, width, generator=generator) for _ in range(layers)]
    table, hidden = table.to(device), [h.to(device) for h in hidden]
    chunk = [h[: max(1, ROWS // layers)] for h in hidden]
    rows = torch.stack(chunk).flatten(0, 1)

    def bare() -> None:
        for start in range(0, vocabulary, BARE):
            torch.mm(rows, table[start : start + BARE].T)

    times = interleaved({"lens": lambda: stream_lens(chunk, table), "bare": bare}, repeats)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        stream_lens(hidden, table)
        grown = torch.cuda.max_memory_allocated() - before
    else:
        before = peak()
        stream_lens(hidden, table)
        grown = peak() - before
    dense = 4 * layers * positions * vocabulary
    return {
        "shape": {"layers": layers, "positions": positions, "vocabulary": vocabulary, "width": width},
        "bytes": grown,
        "dense_bytes": dense,
        "memory_against_dense": grown / dense,
        "time_against_bare_products": ratio(times, "lens", "bare"),
    }


def against_transformer_lens(
    layers: int, positions: int, vocabulary: int, width: int, repeats: int
) -> tuple[dict[str, float], dict[str, Any]]:
    """Largest differences from dense, and the time against TransformerLens, on a Gemma with random weights."""
    config = GemmaConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        num_hidden_layers=layers,
        intermediate_size=2 * width,
        num_attention_heads=4,
        num_key_value_heads=1,
        head_dim=width // 4,
    )
    torch.manual_seed(0)
    hf = GemmaForCausalLM(config).eval()
    ids = torch.randint(3, vocabulary, (1, positions))
    bridge = build_bridge_from_module(hf, "GemmaForCausalLM", hf_config=config, tokenizer=None)
    bridge.eval()
    with torch.no_grad():
        _, cache = bridge.run_with_cache(ids)
    read = partial(logit_lens, bridge, cache=cache, layers=range(1, layers + 1), positions=None, top_k=5)
    theirs = read()
    torch.manual_seed(0)
    twin = GemmaForCausalLM(config).eval()
    model = HookedVLM(twin, name="random")
    inputs = model.prepare_tensors(ids)
    table = twin.lm_head.weight.detach()
    rows = normed_rows(model, inputs, torch.arange(positions).numpy())
    names = [f"language.blocks.{i}.hook_resid_post" for i in range(layers)]
    with torch.no_grad():
        _, kept = model.run_with_cache(inputs, names_filter=names)

    def ours(*, divergences: bool = True) -> Lens:
        """From cached residual streams, as theirs: the final norm is in the time."""
        with torch.no_grad():
            return stream_lens([final_norm(model)(kept[name][0]) for name in names], table, divergences=divergences)

    found = ours()
    dense = torch.stack(rows) @ table.T
    p = dense.log_softmax(-1)
    differences = {
        "top_log_probability": float((found.top_log_probability - p.topk(5).values).abs().max()),
        "entropy": float((found.entropy + (p.exp() * p).sum(-1)).abs().max()),
        "ids": int((found.top_ids != p.topk(5).indices).sum()),
    }
    assert found.kl_to_final is not None
    assert theirs.readout.top_ids is not None
    if not torch.equal(theirs.readout.top_ids.reshape(found.top_ids.shape), found.top_ids):
        raise SystemExit("the two lenses do not name the same tokens")
    differences["kl_to_final"] = float((found.kl_to_final - (p[-1:].exp() * (p[-1:] - p)).sum(-1)).abs().max())
    times = interleaved(
        {
            "ours": ours,
            "top 5 alone": partial(ours, divergences=False),
            "theirs": read,
        },
        repeats,
    )
    shape = {"layers": layers, "positions": positions, "vocabulary": vocabulary, "width": width}
    return differences, {
        "what": "seconds of our lens over those of logit_lens with top_k=5, from cached residual streams",
        "shape": shape,
        "labels": len(theirs.labels),
        "ratio": ratio(times, "ours", "theirs"),
        "ratio_without_divergences": ratio(times, "top 5 alone", "theirs"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Memory and time of the streamed lens")
    parser.add_argument("--layers", type=int, default=18)
    parser.add_argument("--positions", type=int, default=600)
    parser.add_argument("--vocabulary", type=int, default=256_000)
    parser.add_argument("--width", type=int, default=2048)
    parser.add_argument("--fits", type=int, default=32_000, help="vocabulary of the comparison with dense")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out")
    a = parser.parse_args()
    result = whole(a.layers, a.positions, a.vocabulary, a.width, a.repeats, a.device)
    small = (min(6, a.layers), min(64, a.positions), a.fits, min(512, a.width))
    differences, versus = against_transformer_lens(*small, a.repeats)
    rows = [
        {
            "task": "logit lens of all layers and positions",
            "library": "vlm_probe",
            "against": "bare blocked products",
            "time": result.pop("time_against_bare_products"),
            "goals": {"time": 1.05, "upper": 1.05},
        },
        {
            "task": "logit lens of all layers and positions",
            "library": "vlm_probe",
            "against": "dense logits",
            "memory": result["memory_against_dense"],
            "peak_mib": round(result["bytes"] / MIB, 1),
            "goals": {"memory": 0.01},
        },
        {
            "task": "logit lens where dense logits fit",
            "library": "vlm_probe",
            "against": "TransformerLens logit_lens",
            "time": versus.pop("ratio"),
            "difference": differences["top_log_probability"],
            "goals": {"time": 1.0},
        },
    ]
    record("lens", {**result, "largest_difference": differences, "transformer_lens": versus, "rows": rows}, a.out)


if __name__ == "__main__":
    main()
