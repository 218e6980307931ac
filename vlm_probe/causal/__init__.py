"""Interventions: what the answer rests on, by changing it.

`run(model, inputs, [Knockout("answer", "image")])` runs once, `applied` is its context.
"""

from vlm_probe.causal.applying import applied, run
from vlm_probe.causal.interventions import Ablate, Intervention, Knockout, Replace, Steer

__all__ = ["Ablate", "Intervention", "Knockout", "Replace", "Steer", "applied", "run"]
