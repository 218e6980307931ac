"""Sweeps of interventions on a model of 100M parameters and 256 image tokens, against a loop of single runs.

    python benchmarks/causal.py [--repeats 5] [--items 2] [--every 1] [--layers 10] [--out causal]

The loop runs every knockout and every patch by itself through the whole model, as `causal.run` does; the sweeps compute
once what edited runs have in common (`causal.Branches`). Both must agree. Edge attribution is counted in forward and
backward passes of the model, and what a sweep holds at most is measured for one item and for several.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from unittest import mock

import torch
from measure import interleaved, peak_bytes, ratio, record
from shared_prefix import LAYERS, SIDE, build

from vlm_probe import causal
from vlm_probe.causal import Branches, Knockout, LogitDifference, Replace, edge_attribution, knockout_sweep
from vlm_probe.causal.knockout import ROUTES, windows
from vlm_probe.causal.patching import RESIDUAL
from vlm_probe.hooked import HookedVLM
from vlm_probe.items import Item, twins_among
from vlm_probe.scenes import family_items, scene_items

GROUPS = ("box", "question", "answer")


def prepared(model: HookedVLM, items: list[Item]):
    return model.prepare([item.picture(SIDE) for item in items], [item.question for item in items])


def patches(model: HookedVLM, names: list[str], clean: dict[str, torch.Tensor]) -> list[Replace]:
    return [Replace(name, where, clean) for name in names for where in GROUPS]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--items", type=int, default=2)
    parser.add_argument("--every", type=int, default=1, help="so manieth window and layer")
    parser.add_argument("--layers", type=int, default=LAYERS)
    parser.add_argument("--out")
    arguments = parser.parse_args()
    model = build(arguments.layers)
    items = list(scene_items(arguments.items, seed=4))
    # What an early window and a late one save differs: fewer than all of them say little.
    spans = windows(model.layers["language"])[:: arguments.every]
    cuts = [Knockout(*route, span) for route in ROUTES.values() for span in spans]

    def sweep() -> torch.Tensor:
        branches = Branches(model, prepared(model, items))
        return branches.run([(i, [cut]) for i in range(len(items)) for cut in cuts])

    @torch.no_grad()
    def loop() -> torch.Tensor:
        each = [prepared(model, [item]) for item in items]
        runs = [causal.run(model, inputs, [cut], logits_to_keep=1)[0] for inputs in each for cut in cuts]
        return torch.stack([output.logits[0, -1].float() for output in runs])

    pairs = twins_among(list(family_items(2 * arguments.items, families=("mmvp",), seed=4)))[: arguments.items]
    names = model.match(RESIDUAL)[:: arguments.every]
    boxes = [[*one.boxes, *other.boxes] for one, other in pairs]

    @torch.no_grad()
    def patch_sweep() -> torch.Tensor:
        clean, corrupt = (prepared(model, [pair[side] for pair in pairs]) for side in (0, 1))
        _, cache = model.run_with_cache(clean, names_filter=names, logits_to_keep=1)
        branches = Branches(model, corrupt, boxes=boxes)
        rows = [(i, [one]) for i in range(len(pairs)) for one in patches(model, names, cache)]
        return branches.run(rows)

    @torch.no_grad()
    def patch_loop() -> torch.Tensor:
        found = []
        for pair, own in zip(pairs, boxes, strict=True):
            clean, corrupt = (prepared(model, [item]) for item in pair)
            _, cache = model.run_with_cache(clean, names_filter=names, logits_to_keep=1)
            for one in patches(model, names, cache):
                found.append(causal.run(model, corrupt, [one], boxes=own, logits_to_keep=1)[0].logits[0, -1].float())
        return torch.stack(found)

    agree = {"knockout": (sweep, loop), "patch": (patch_sweep, patch_loop)}
    largest = {name: float((fast() - slow()).abs().max()) for name, (fast, slow) in agree.items()}
    times = interleaved(
        {"knockout_sweep": sweep, "knockout_loop": loop, "patch_sweep": patch_sweep, "patch_loop": patch_loop},
        arguments.repeats,
    )
    runs = {"knockout": len(cuts) * len(items), "patch": len(names) * len(GROUPS) * len(pairs)}
    rows = [
        {
            "task": f"{runs[kind]} {name}",
            "library": "vlm_probe",
            "against": "a loop of single runs",
            "time": ratio(times, f"{kind}_sweep", f"{kind}_loop"),
            "difference": largest[kind],
            "goals": {"time": 0.2},
        }
        for kind, name in (("knockout", "knockouts"), ("patch", "patches"))
    ]
    found = {"runs": runs, "edge_attribution_passes": passes(model, pairs[0]), "peak_bytes": memory(model, items)}
    record("causal", {**found, "rows": rows}, arguments.out)


def passes(model: HookedVLM, pair: tuple[Item, Item]) -> dict[str, int]:
    """Forward passes of the whole model that edge attribution takes, by its steps."""
    found = {}
    forward = HookedVLM.forward
    clean, corrupt = (prepared(model, [item]) for item in pair)
    for steps in (0, 1, 5):
        calls = []

        def counted(*args, calls=calls, **kwargs):
            calls.append(1)
            return forward(*args, **kwargs)

        with mock.patch.object(HookedVLM, "forward", counted):
            edge_attribution(model, clean, corrupt, metric=LogitDifference((5,), (9,)), steps=steps)
        found[str(steps)] = len(calls)
    return found


def memory(model: HookedVLM, items: list[Item]) -> dict[str, int]:
    """What a knockout sweep holds at most, of one item and of four, one at a time."""
    four = [replace(items[0], id=f"{n}") for n in range(4)]
    return {
        str(len(some)): peak_bytes(lambda some=some: knockout_sweep(model, some, control=False, own=True, batch_size=1))
        for some in (four[:1], four)
    }


if __name__ == "__main__":
    main()
