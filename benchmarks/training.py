"""Training steps of every stage of a replica: attention over segments against attention over whole rows.

    OMP_NUM_THREADS=1 python benchmarks/training.py [--cells small-clip large-clip] [--steps 16] [--out training]

Both ways train the same batches from the same weights, step by step in turn; "whole rows" gives attention one block
with a mask, as training did before. Times are those of the processor where there is no GPU, so that other programs
count little. Memory is that of a process alone.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import torch
from measure import record
from torch import nn

from vlm_probe.training import loop
from vlm_probe.training.attention import Segments, _Block
from vlm_probe.training.encoders import ENCODERS
from vlm_probe.training.fusion import Connector, FusionStage, LanguageStage
from vlm_probe.training.packing import Packer, build_tokenizer
from vlm_probe.training.replica import FUSION_STAGES
from vlm_probe.zoo.cells import CELLS, VOCABULARY

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
MEMORY_CELL, MEMORY_STEPS = "small-clip-v320", 60
"""Its rows are the longest, and of the most different lengths."""


def whole_rows(segment: torch.Tensor, device: torch.device) -> Segments:
    """The reference in place of `Segments.of`: one block, which looks at everything through a mask."""
    length = segment.shape[1]
    same = (segment[:, :, None] == segment[:, None, :]) | (segment[:, None, :] == 0)
    mask = (same & torch.ones(length, length, dtype=torch.bool).tril())[:, None]
    return Segments([length], [length], [_Block(0, 0, 1, mask.to(device))])


def stages(name: str) -> dict[str, tuple[Any, int]]:
    """A cell's stages, weights fresh, and a step from which what they see stays alike."""
    cell = CELLS[name]
    packer = Packer(build_tokenizer(cell.vocabulary))
    encoder = ENCODERS[cell.encoder](replace(cell, vocabulary=VOCABULARY), Packer(build_tokenizer(VOCABULARY)), DEVICE)
    language = LanguageStage(cell, packer, DEVICE)
    torch.manual_seed(0)
    connector = Connector(cell.vision["hidden_size"], cell.language.hidden_size).to(DEVICE)
    found: dict[str, tuple[Any, int]] = {"language": (language, 0)}
    for stage in FUSION_STAGES:
        fusion = FusionStage(stage, cell, packer, encoder.encoder, connector, language.module)
        found[stage] = (fusion, round(fusion.caption_share * fusion.steps) if stage == "joint" else 0)
    return found


def stepper(stage: Any) -> Callable[[int], tuple[float, float]]:
    """Trains a step and returns its seconds and its loss."""
    stage.module.requires_grad_(True)
    if stage.name == "connector":
        stage.language.requires_grad_(False)
    optimizers = loop._optimizers(stage)
    parameters = [p for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]]
    stage.module.train()

    def step(number: int) -> tuple[float, float]:
        start = _now()
        loss, _ = stage.loss(number)
        stage.module.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        for optimizer in optimizers:
            optimizer.step()
        return _now() - start, loss.item()

    return step


def _now() -> float:
    if DEVICE == "cuda":
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


def compare(name: str, steps: int) -> dict[str, Any]:
    """Per stage: seconds of a step, the median ratio of steps in turn with quartiles, and how far losses part."""
    ways = {"segments": stages(name), "whole rows": stages(name)}
    results = {}
    for stage, (_, first) in ways["segments"].items():
        ways["whole rows"][stage][0].module.load_state_dict(ways["segments"][stage][0].module.state_dict())
        loop.return_memory()
        trained = {way: stepper(of[stage][0]) for way, of in ways.items()}
        seconds: dict[str, list[float]] = {way: [] for way in trained}
        losses: dict[str, list[float]] = {way: [] for way in trained}
        for number in range(first, first + steps + 1):
            for way, step in trained.items():
                with patch.object(Segments, "of", Segments.of if way == "segments" else whole_rows):
                    took, loss = step(number)
                seconds[way].append(took)
                losses[way].append(loss)
        # The first step makes kernels.
        pairs = [a / b for a, b in zip(seconds["segments"][1:], seconds["whole rows"][1:], strict=True)]
        low, middle, high = statistics.quantiles(pairs, n=4)
        apart = [abs(a - b) for a, b in zip(*losses.values(), strict=True)]
        results[stage] = {
            "seconds": {way: round(statistics.median(values[1:]), 4) for way, values in seconds.items()},
            "ratio": {"median": round(middle, 4), "q25": round(low, 4), "q75": round(high, 4)},
            "first_losses_apart": apart[0],
        }
        print(name, stage, results[stage], flush=True)
    return results


def _resident() -> int:
    """MB of this process in memory, on Linux."""
    with open("/proc/self/status") as status:
        return int(next(line for line in status if line.startswith("VmRSS")).split()[1]) // 1024


def _memory(way: str, trimmed: bool, told: Any) -> None:
    stage, first = stages(MEMORY_CELL)["questions"]
    step, most = stepper(stage), 0
    with patch.object(Segments, "of", Segments.of if way == "segments" else whole_rows):
        for number in range(first, first + MEMORY_STEPS):
            step(number)
            most = max(most, _resident())
            if trimmed and number % 20 == 0:
                loop.return_memory()
    told.put({"most": most, "end": _resident()})


def memory() -> dict[str, Any]:
    """MB of a process that trains questions: as before, with what is free given back, and over segments too."""
    context = multiprocessing.get_context("spawn")
    found = {}
    for title, way, trimmed in (("before", "whole rows", False), ("now", "segments", True)):
        told = context.Queue()
        process = context.Process(target=_memory, args=(way, trimmed, told))
        process.start()
        found[title] = told.get()
        process.join()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description="Training over segments and over whole rows")
    parser.add_argument("--cells", nargs="+", default=["small-clip", "large-clip"])
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--out")
    arguments = parser.parse_args()
    cells = {name: compare(name, arguments.steps) for name in arguments.cells}
    rows = [
        {
            "task": f"a training step of {cell}, {stage}",
            "library": "vlm_probe",
            "against": "attention over whole rows",
            "time": found["ratio"],
            "difference": found["first_losses_apart"],
            "goals": {} if stage == "language" else {"time": 0.5},
        }
        for cell, stages in cells.items()
        for stage, found in stages.items()
    ]
    megabytes = {"cell": MEMORY_CELL, "stage": "questions", "steps": MEMORY_STEPS, **memory()}
    record("training", {"steps": arguments.steps, "megabytes": megabytes, "rows": rows}, arguments.out)


if __name__ == "__main__":
    main()
