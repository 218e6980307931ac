"""Interventions: what the answer rests on, by changing it.

`run(model, inputs, [Knockout("answer", "image")])` runs once, `applied` is its context. `knockout_sweep` and
`patch_sweep` take many items: by which route the image reaches the answer, and where the fact is that twins differ
in; `with_pictures` asks about other pictures; `find_heads` and `confirm_heads` look for heads and ablate them;
`steer_sweep` and `back_patch` put something in. `attribution_patching` and `edge_attribution` estimate all nodes and
edges by gradients, `faithfulness` runs a circuit alone, `direct_logit_attribution` takes a logit apart.
"""

from vlm_probe.causal.applying import applied, run
from vlm_probe.causal.attribution import attribution_patching
from vlm_probe.causal.attribution_metric import LogitDifference
from vlm_probe.causal.branching import Branches
from vlm_probe.causal.circuits import edge_attribution, faithfulness
from vlm_probe.causal.direct import direct_logit_attribution
from vlm_probe.causal.heads import confirm_heads, find_heads
from vlm_probe.causal.interventions import Ablate, Intervention, Knockout, Replace, Steer
from vlm_probe.causal.knockout import knockout_sweep, proven
from vlm_probe.causal.patching import patch, patch_sweep
from vlm_probe.causal.pictures import with_pictures
from vlm_probe.causal.sinks import ablate_sinks
from vlm_probe.causal.steering import back_patch, direction_between, steer_sweep

__all__ = [
    "Ablate",
    "Branches",
    "Intervention",
    "Knockout",
    "LogitDifference",
    "Replace",
    "Steer",
    "ablate_sinks",
    "applied",
    "attribution_patching",
    "back_patch",
    "confirm_heads",
    "direct_logit_attribution",
    "direction_between",
    "edge_attribution",
    "faithfulness",
    "find_heads",
    "knockout_sweep",
    "patch",
    "patch_sweep",
    "proven",
    "run",
    "steer_sweep",
    "with_pictures",
]
