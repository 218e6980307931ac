"""An arm of the study `softmax`: a connector between frozen real models, trained with the softmax over some ids."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from vlm_probe.errors import VlmProbeError
from vlm_probe.files import alone, make_folder, replacing
from vlm_probe.scenes import Scene, sample_scene
from vlm_probe.studies.softmax import IDS_KEPT, MEASURED_AT, RUN, SOFTMAX, STEPS, SoftmaxArm
from vlm_probe.training.connector import PLANS, ConnectorStage, Parts
from vlm_probe.training.encoders import scene_seeds
from vlm_probe.training.fusion import answer_loss, answer_states
from vlm_probe.training.loop import Listener, run_stage
from vlm_probe.training.packing import IGNORE, Packed
from vlm_probe.training.processes import Job, start
from vlm_probe.training.study import made_by
from vlm_probe.zoo.catalog import FUSIONS

SCORED = {"dev": 100, "heldout": 100}
"""Scenes of every split that a run is scored on, with `PLANS["questions"].questions` questions each."""
READ_FOR_IDS = 2000
"""Training scenes whose captions and answers say which ids the task has."""
MEASURED_ON = 4
"""Scenes on which a gradient is taken apart: the same in every arm."""


class SoftmaxStage(ConnectorStage):
    """Captions and questions about the same scenes from the first step on; the connector alone learns."""

    def __init__(self, parts: Parts, arm: SoftmaxArm, ids: Int[Tensor, " id"] | None, steps: int):
        """ids: over which the softmax is, sorted; None is all of them."""
        super().__init__("questions", parts, nn.ModuleDict({"connector": parts.connector}), steps, arm.seed)
        self.learning_rate *= arm.rate
        self.ids = ids

    def loss(self, step: int) -> tuple[Tensor, dict[str, float]]:
        scenes = [sample_scene(s) for s in scene_seeds(SOFTMAX, self.seed, step, self.plan.scenes)]
        packed = self.pack(scenes, random.Random(f"{SOFTMAX}/questions/{self.seed}/{step}"))
        return answer_loss(self.parts.language, packed, self.rows(scenes), ids=self.ids)

    def rows(self, scenes: list[Scene]) -> Float[Tensor, "batch patch d_model"]:
        """What the language model receives of the images."""
        with torch.autocast(self.parts.device, dtype=torch.bfloat16):
            return self.parts.connector(self.parts.features(scenes))


def task_ids(parts: Parts) -> Int[Tensor, " id"]:
    """The ids of all captions and answers in training scenes, sorted."""
    packer, found, plan = parts.packer, set[int](), PLANS["questions"]
    for at in range(0, READ_FOR_IDS, 50):
        scenes = [sample_scene(s) for s in scene_seeds(f"{SOFTMAX}/ids", 0, at, 50)]
        rng = random.Random(f"{SOFTMAX}/ids/{at}")
        packed = packer.pack(scenes, rng, patches=0, describe=True, questions=plan.questions, learn_all=False)
        found.update(packed.labels[packed.labels != IGNORE].tolist())
    return torch.tensor(sorted(found), device=parts.device)


def ids_of(arm: SoftmaxArm, parts: Parts, task: Int[Tensor, " id"]) -> Int[Tensor, " kept"] | None:
    """Over which ids an arm's softmax is, sorted; None is all. See `studies.softmax.IDS`."""
    if arm.ids in ("all", "task"):
        return None if arm.ids == "all" else task
    table = parts.language.lm_head.weight
    n, more = len(table), min(IDS_KEPT, len(table)) - len(task)
    if arm.ids == "frequent":
        special = set(parts.tokenizer.all_special_ids)
        order = [i for i in range(n) if i not in special]
    elif arm.ids == "random":
        order = random.Random(f"{SOFTMAX}/random/{arm.seed}").sample(range(n), n)
    else:
        rows = F.normalize(table.float(), dim=-1)
        order = (rows @ rows[task].T).amax(-1).argsort(descending=True, stable=True).tolist()
    own = set(task.tolist())
    others = [i for i in order if i not in own][:more]
    return torch.tensor(sorted(own.union(others)), device=task.device)


def gradient_parts(
    stage: SoftmaxStage, packed: Packed, rows: Float[Tensor, "batch patch d_model"], task: Int[Tensor, " id"]
) -> dict[str, float]:
    """The gradient of the loss over all ids at the image rows, as a sum of what the task's ids and all others pull.

    rows: what the language model receives of the images.

    Returns unused_share, |u| / (|u| + |t|) of the others' part u and the task's t; cosine, of u + t to the gradient of
    the loss over the task's ids alone; task_loss, that loss in nats, as it is trained.
    """
    language = stage.parts.language
    rows = rows.detach().float().requires_grad_()
    hidden, packed = answer_states(language, packed, rows)
    asked = packed.labels != IGNORE
    target, answers = packed.labels[asked], packed.answers[asked]
    # As `answer_loss` weighs them.
    weight = torch.where(answers, 1 / answers.sum(), 0.5 / (~answers).sum().clamp_min(1))[:, None]
    table = language.lm_head.weight

    def at_rows(pull: Float[Tensor, "token row"], over: Tensor) -> Tensor:
        (found,) = torch.autograd.grad(hidden, rows, (pull @ over.float()).to(hidden.dtype), retain_graph=True)
        return found.float().flatten()

    with torch.no_grad():
        pull = (hidden @ table.T).float().softmax(-1)
        pull[torch.arange(len(target)), target] -= 1
        pull *= weight
        logits = (hidden @ table[task].T).float()
        own = logits.softmax(-1)
        position = torch.searchsorted(task, target)
        own[torch.arange(len(target)), position] -= 1
        each = F.cross_entropy(logits, position, reduction="none")
    of_task = at_rows(pull[:, task], table[task])
    pull[:, task] = 0
    of_others, alone = at_rows(pull, table), at_rows(own * weight, table[task])
    others, tasks = of_others.norm(), of_task.norm()
    return {
        "unused_share": (others / (others + tasks)).item(),
        "cosine": torch.cosine_similarity(of_others + of_task, alone, dim=0).item(),
        "task_loss": (each * weight[:, 0]).sum().item(),
    }


@torch.no_grad()
def score(stage: SoftmaxStage, task: Int[Tensor, " id"], split: str) -> list[dict[str, Any]]:
    """Questions about scenes of a split, greedy decoding and exact match: rows split, kind, n, accuracy,
    accuracy_all_ids and loss, see `studies.softmax.softmax_results`.

    An answer is right where every token of it is the most probable one behind those before it, its end among them.
    """
    language, found = stage.parts.language, list[tuple[str, bool, bool, float, int]]()
    table = language.lm_head.weight
    for scenes, packed in _batches(stage, split):
        hidden, packed = answer_states(language, packed, stage.rows(scenes))
        asked = packed.labels != IGNORE
        target = packed.labels[asked]
        position = torch.searchsorted(task, target).clamp_max(len(task) - 1)
        if not torch.equal(task[position], target):
            raise VlmProbeError(f"{split} scenes are asked for what none of {READ_FOR_IDS} training scenes has")
        logits = (hidden @ table[task].T).float()
        right = logits.argmax(-1) == position
        right_of_all = (hidden @ table.T).argmax(-1) == target
        loss = F.cross_entropy(logits, position, reduction="none")
        where = asked.nonzero()
        segments = packed.segment[asked]
        for row, kinds in enumerate(packed.kinds):
            for number, kind in enumerate(kinds, start=1):
                own = (where[:, 0] == row) & (segments == number)
                if kind != "caption":
                    every = (bool(right[own].all()), bool(right_of_all[own].all()))
                    found.append((kind, *every, loss[own].sum().item(), int(own.sum())))
    return [_row(split, kind, [one for one in found if kind in ("all", one[0])]) for kind in (*_kinds(found), "all")]


def _kinds(found: list[tuple[str, bool, bool, float, int]]) -> list[str]:
    return sorted({kind for kind, *_ in found})


def _row(split: str, kind: str, found: list[tuple[str, bool, bool, float, int]]) -> dict[str, Any]:
    n = len(found)
    return {
        **{"split": split, "kind": kind, "n": n},
        "accuracy": round(sum(right for _, right, *_ in found) / n, 6),
        "accuracy_all_ids": round(sum(right for _, _, right, *_ in found) / n, 6),
        "loss": round(sum(loss for *_, loss, _ in found) / sum(tokens for *_, tokens in found), 6),
    }


def _batches(stage: SoftmaxStage, split: str) -> Iterator[tuple[list[Scene], Packed]]:
    """Scenes of a split, the same in every arm and from every seed, and what is asked about them."""
    for at in range(0, SCORED[split], stage.plan.scenes):
        seeds = scene_seeds(f"{SOFTMAX}/{split}", 0, at, min(stage.plan.scenes, SCORED[split] - at))
        scenes = [sample_scene(seed, "heldout") for seed in seeds]
        yield scenes, stage.pack(scenes, random.Random(f"{SOFTMAX}/{split}/{at}"))


def train_arm(
    arm: SoftmaxArm, runs: Path, *, steps: int = STEPS, listen: Listener | None = None, device: str = "cpu"
) -> Path:
    """Train an arm, take its gradient apart on the way, and score it. A killed run goes on where it stopped.

    Returns the file that has its scores and how they were made (`studies.softmax.RUN`).

    Raises VlmProbeError where a part is not fetched.
    """
    folder = arm.folder(runs)
    make_folder(folder)
    file, begun = folder / RUN, folder / "gradients.json"
    with alone(folder / "arm.lock"):
        if file.exists():
            return file
        parts = Parts(FUSIONS[f"llava-{arm.language}"], device, arm.seed)
        task = task_ids(parts)
        stage = SoftmaxStage(parts, arm, ids_of(arm, parts, task), steps)
        gradients = json.loads(begun.read_text()) if begun.exists() else []
        shown = [sample_scene(s) for s in scene_seeds(f"{SOFTMAX}/gradient", 0, 0, MEASURED_ON)]
        packed = stage.pack(shown, random.Random(f"{SOFTMAX}/gradient"))
        for share in MEASURED_AT[len(gradients) :]:
            run_stage(stage, folder, resume=True, listen=listen, until=round(share * steps))
            found = gradient_parts(stage, packed, stage.rows(shown), task)
            gradients.append({"share": share, **{name: round(value, 6) for name, value in found.items()}})
            _write(gradients, begun)
        run_stage(stage, folder, resume=True, listen=listen)  # loads it, where all was measured
        scores = [{"scenes": steps * stage.plan.scenes, **row} for split in SCORED for row in score(stage, task, split)]
        made = made_by(folder / f"{stage.name}.pt", device)
        _write({"arm": arm.name, "seed": arm.seed, "scores": scores, "gradients": gradients, "made": [made]}, file)
    return file


def _write(found: Any, file: Path) -> None:
    with replacing(file) as written:
        written.write_text(json.dumps(found, indent=1) + "\n")


def begin_arm(arm: SoftmaxArm, runs: Path, device: str, threads: int) -> Job:
    """Begin `train_arm` in a process of its own, its log beside the arm."""
    arguments = ["study", SOFTMAX, "--arm", arm.name, "--first-seed", str(arm.seed)]
    arguments += ["--runs", str(runs), "--device", device]
    return start(arguments, f"{arm.name} (seed {arm.seed})", arm.folder(runs) / "train.log", threads)
