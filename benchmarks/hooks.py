"""What hooks cost, beside plain hooks and those of TransformerLens's bridge, nnsight, pyvene and captum.

    python benchmarks/hooks.py [--repeats 9] [--out NAME]

The same tasks, the same weights: CLIP with Llama, the pair that TransformerLens's bridge knows, 146M parameters, 256
image tokens, one prompt, one thread. What the ways give must agree before anything is timed. nnsight's base class has
no generate for this model, pyvene no attention patterns and no cuts, captum nothing that edits; those rows are not
there. pyvene takes transformers' own hooks off the model after every run, which LLaVA needs: transformers is told to
put them back before each (`peers.renewed`, timed). vlm_probe does not run the vision layer behind the one that the
connector reads, here one of eight, 2 % of a forward pass: where a row of its is under 1, that is mostly why.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from typing import Any

import peers
import torch
from measure import MIB, Task, Way, interleaved, measure, peak_bytes, ratio, record

BRIDGE, NNSIGHT = "TransformerLens bridge", "nnsight"


def tasks(models: dict[str, Any], batch: dict[str, Any]) -> list[Task]:
    """Every task, each against what plain transformers does for it."""
    plain, eager, hooked = models["transformers"], models["transformers, eager"], models["vlm_probe"]
    bridge, watched, other, edited = (models[name] for name in (BRIDGE, NNSIGHT, "nnsight, eager", "pyvene"))
    ours = hooked.prepare_tensors(batch["input_ids"], batch["pixel_values"], batch["attention_mask"])
    image = torch.as_tensor(ours.layout.image_positions)
    other_run = {**batch, "pixel_values": batch["pixel_values"].flip(-1)}
    # Where a way returns the whole output, its keys and values would count as memory that others let go.
    once = {**batch, "use_cache": False}
    clean = plain(**other_run, output_hidden_states=True).hidden_states[peers.ONE + 1]

    def way(written: Callable, *given: Any) -> Way:
        return Way(partial(written, *given), written)

    def pyvene(written: Callable, *given: Any) -> Way:
        return Way(lambda: written(peers.renewed(edited), *given), written)

    return [
        Task(
            "nothing hooked",
            {
                "transformers": way(peers.idle, plain, once),
                "vlm_probe": way(peers.idle, hooked, once),
                BRIDGE: way(peers.idle_bridge, bridge, once),
                NNSIGHT: way(peers.idle_nnsight, watched, once),
            },
            {"time": 1.01},
        ),
        Task(
            "all residual streams",
            {
                "transformers, output_hidden_states": way(peers.residuals_transformers, plain, once),
                "plain hooks": way(peers.residuals_hooks, plain, once),
                "vlm_probe": way(peers.residuals_vlm_probe, hooked, once),
                BRIDGE: way(peers.residuals_bridge, bridge, once),
                NNSIGHT: way(peers.residuals_nnsight, watched, once),
                "pyvene": pyvene(peers.residuals_pyvene, once),
                "captum": way(peers.residuals_captum, plain, once),
            },
            {"time": 1.01},
        ),
        Task(
            "all attention patterns",
            {
                "transformers, eager, output_attentions": way(peers.patterns_transformers, eager, once),
                "vlm_probe": way(peers.patterns_vlm_probe, hooked, once),
                BRIDGE: way(peers.patterns_bridge, bridge, once),
                NNSIGHT: way(peers.patterns_nnsight, other, once),
            },
            {"time": 1.0},
        ),
        Task(
            "one layer's pattern",
            {
                "transformers, eager, a plain hook": way(peers.pattern_hooks, eager, once),
                "vlm_probe": way(peers.pattern_vlm_probe, hooked, once),
                BRIDGE: way(peers.pattern_bridge, bridge, once),
                NNSIGHT: way(peers.pattern_nnsight, other, once),
            },
            {"time": 1.0},
        ),
        Task(
            "one position patched from another run",
            {
                "plain hooks": way(peers.patch_hooks, plain, batch, clean),
                "vlm_probe": way(peers.patch_vlm_probe, hooked, ours, clean),
                BRIDGE: way(peers.patch_bridge, bridge, batch, clean),
                NNSIGHT: way(peers.patch_nnsight, watched, batch, clean),
                "pyvene": pyvene(peers.patch_pyvene, batch, clean),
            },
            {"time": 1.01},
        ),
        Task(
            "image hidden from the last position in four layers",
            {
                "plain hooks": way(peers.knockout_hooks, plain, batch, image),
                "vlm_probe": way(peers.knockout_vlm_probe, hooked, ours),
                BRIDGE: way(peers.knockout_bridge, bridge, batch, image),
                NNSIGHT: way(peers.knockout_nnsight, watched, batch, image),
            },
            {"time": 1.01},
        ),
        Task(
            f"{peers.NEW} tokens generated, all residual streams hooked",
            {
                "transformers, nothing hooked": way(peers.generate_transformers, plain, batch),
                "plain hooks": way(peers.generate_hooks, plain, batch),
                "vlm_probe": way(peers.generate_vlm_probe, hooked, batch),
            },
            {"time": 1.05},
        ),
    ]


def one_pattern(models: dict[str, Any], batch: dict[str, Any], repeats: int) -> dict[str, Any]:
    """One layer's pattern against a forward pass that keeps nothing: time, and added memory in patterns."""
    plain, hooked = models["transformers"], models["vlm_probe"]
    ways = {
        "plain": partial(peers.idle, plain, batch),
        "one pattern": partial(peers.pattern_vlm_probe, hooked, batch),
    }
    times = interleaved(ways, repeats)
    size = hooked.hf.config.text_config.num_attention_heads * batch["input_ids"].shape[1] ** 2 * 4
    added = peak_bytes(ways["one pattern"]) - peak_bytes(ways["plain"])
    row = {"task": "one layer's pattern", "library": "vlm_probe", "against": "transformers, nothing kept"}
    row |= {"time": ratio(times, "one pattern", "plain"), "goals": {"time": 1.0}}
    return {"row": row, "pattern_mib": size / MIB, "added_peak_in_patterns": round(added / size, 3), "goal": 1.05}


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--small", action="store_true", help="a miniature, to try the script")
    parser.add_argument("--out")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.small:
        peers.shrink()
    models, batch = peers.open_all(peers.build()), peers.inputs()
    rows = [row for task in tasks(models, batch) for row in measure(task, arguments.repeats)]
    alone = one_pattern(models, batch, arguments.repeats)
    rows.append(alone.pop("row"))
    about = {
        "parameters": sum(p.numel() for p in models["transformers"].parameters()),
        "positions": batch["input_ids"].shape[1],
    }
    record("hooks", {"model": about, "repeats": arguments.repeats, "one_pattern": alone, "rows": rows}, arguments.out)


if __name__ == "__main__":
    main()
