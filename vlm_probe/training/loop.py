"""The training loop shared by all stages: resumable, and deterministic by seed.

A stage's loss is a function of its weights and the step number alone (data and augmentations are
drawn from the seed and the step), so weights, optimiser and step are the whole state.
"""

from __future__ import annotations

import ctypes
import io
import json
import math
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from vlm_probe.files import alone, naming, replacing


@runtime_checkable
class Stage(Protocol):
    """What the loop needs to know of a stage."""

    name: str
    steps: int
    learning_rate: float

    @property
    def module(self) -> nn.Module:
        """Everything whose weights change, saved whole."""
        ...

    def parameters(self) -> Iterable[nn.Parameter]:
        """What the optimiser updates."""
        ...

    def loss(self, step: int) -> tuple[Tensor, dict[str, float]]:
        """The loss at this step, and figures for the log."""
        ...

    def after_step(self, step: int) -> None:
        """Called once the weights have moved (a moving average, say)."""
        ...


@dataclass
class Progress:
    """What `run_stage` reports after every step."""

    stage: str
    step: int
    steps: int
    figures: dict[str, float] = field(default_factory=dict)


Listener = Callable[[Progress], None]
SAVE_EVERY_S = 60.0
"""A killed run loses at most so many seconds of work."""


def schedule(step: int, steps: int, peak: float) -> float:
    """Linear warm-up over the first 3 %, then a cosine down to 1 % of the peak."""
    warm = max(1, round(0.03 * steps))
    if step < warm:
        return peak * (step + 1) / warm
    along = (step - warm) / max(1, steps - warm)
    return peak * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * along)))


def _optimizers(stage: Stage) -> list[torch.optim.Optimizer]:
    """Muon (Jordan et al. 2024) for the matrices of linear layers, AdamW for all else.

    Both at the stage's rate: Muon's updates are scaled to AdamW's size (Liu et al. 2025,
    arXiv:2502.16982). After 200 steps CLIP's contrast was right for 43 % of images, with AdamW alone
    for 21 %.
    """
    trained = [p for p in stage.parameters() if p.requires_grad]
    modules = list(stage.module.named_modules())
    # A tied output layer is one too; one of its own is trained as the tied ones are.
    embeddings = {id(m.weight) for n, m in modules if isinstance(m, nn.Embedding) or n.endswith("lm_head")}
    matrices = {id(m.weight) for _, m in modules if isinstance(m, nn.Linear)} - embeddings
    rate = stage.learning_rate
    return [
        torch.optim.Muon(
            [p for p in trained if id(p) in matrices], lr=rate, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"
        ),
        torch.optim.AdamW(
            [p for p in trained if id(p) not in matrices], lr=rate, betas=(0.9, 0.98), weight_decay=0.01, fused=True
        ),
    ]


def run_stage(
    stage: Stage,
    folder: Path,
    *,
    resume: bool,
    listen: Listener | None = None,
    rate: Callable[[int], float] | None = None,
    until: int | None = None,
) -> None:
    """Train a stage to its end, writing `<stage>.pt` (state) and `<stage>.jsonl` (log) to `folder`.

    With `resume`, goes on from the state found there; without, starts afresh. A stage that is
    finished is loaded, not trained again. Of two processes that need a stage, one trains it and the
    other waits.

    rate: the learning rate at a step; `schedule` over all steps if None.
    until: the step to stop before, its optimiser kept, so that the stage can go on from there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    at = rate or (lambda step: schedule(step, stage.steps, stage.learning_rate))
    end = stage.steps if until is None else min(until, stage.steps)
    with alone(folder / f"{stage.name}.lock"):
        _run(stage, folder, end, at, resume=resume, listen=listen)


def return_memory() -> None:
    """Give the memory that is free back to the system, on Linux.

    Steps are of different lengths, so that glibc's heap is cut up and grows with every step: to 2.4 GB in 25 steps at
    the smallest vocabulary, of which 0.4 were in use.
    """
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)


def write_state(state: dict[str, Any], path: Path) -> None:
    """Write a stage's state whole; OSError names the file where the disk is full."""
    whole = io.BytesIO()
    torch.save(state, whole)
    with replacing(path) as partial:  # of a full disk torch itself says "unexpected pos 704 vs 598"
        partial.write_bytes(whole.getbuffer())


def _run(
    stage: Stage, folder: Path, end: int, rate: Callable[[int], float], *, resume: bool, listen: Listener | None
) -> None:
    path, log = folder / f"{stage.name}.pt", folder / f"{stage.name}.jsonl"
    optimizers = _optimizers(stage)
    start, seconds = 0, 0.0
    if resume and path.exists():
        state = torch.load(path, weights_only=True, map_location=next(stage.module.parameters()).device)
        stage.module.load_state_dict(state["module"])
        start, seconds = state["step"], state["seconds"]
        if start < stage.steps:
            for optimizer, kept_state in zip(optimizers, state["optimizers"], strict=True):
                optimizer.load_state_dict(kept_state)
        # Lines end with a break: what a full disk cut off is none.
        kept = [line for line in log.read_text().splitlines(keepends=True) if line.endswith("\n")]
        with replacing(log) as partial:
            partial.write_text("".join(line for line in kept if json.loads(line)["step"] < start))
    else:
        path.unlink(missing_ok=True)  # or a run killed before its first save would resume to the earlier one's weights
        log.write_text("")

    # Only now: loading its state gives an optimiser new groups.
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]

    def save(step: int) -> None:
        state = {"module": stage.module.state_dict(), "step": step, "seconds": seconds + time.time() - began}
        if step < stage.steps:  # a finished stage needs no optimiser
            state["optimizers"] = [optimizer.state_dict() for optimizer in optimizers]
        write_state(state, path)

    began = saved = time.time()
    stage.module.train()
    with naming(log), log.open("a") as lines:
        for step in range(start, end):
            for group in groups:
                group["lr"] = rate(step)
            loss, figures = stage.loss(step)
            stage.module.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_((p for group in groups for p in group["params"]), 1.0)
            for optimizer in optimizers:
                optimizer.step()
            stage.after_step(step)
            figures = {"loss": loss.item(), **figures}
            if step % 20 == 0 or step == end - 1:
                rounded = {name: round(value, 5) for name, value in figures.items()}
                lines.write(json.dumps({"step": step, **rounded}) + "\n")
                lines.flush()
                return_memory()
            if listen is not None:
                listen(Progress(stage.name, step + 1, stage.steps, figures))
            if time.time() - saved > SAVE_EVERY_S:
                save(step + 1)
                saved = time.time()
    if start < end or not path.exists():
        save(end)
    stage.module.eval()
