"""Interventions: what the answer rests on, by changing it.

`run(model, inputs, [Knockout("answer", "image")])` runs once, `applied` is its context. `knockout_sweep` and
`patch_sweep` take many items: by which route the image reaches the answer, and where the fact is that twins differ in.
"""

from vlm_probe.causal.applying import applied, run
from vlm_probe.causal.branching import Branches
from vlm_probe.causal.interventions import Ablate, Intervention, Knockout, Replace, Steer
from vlm_probe.causal.knockout import knockout_sweep, proven
from vlm_probe.causal.patching import patch, patch_sweep

__all__ = [
    "Ablate",
    "Branches",
    "Intervention",
    "Knockout",
    "Replace",
    "Steer",
    "applied",
    "knockout_sweep",
    "patch",
    "patch_sweep",
    "proven",
    "run",
]
