"""An arm of the study `softmax`: a connector between frozen real models, trained with the softmax over some ids."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from vlm_probe.files import alone, make_folder
from vlm_probe.scenes import QUESTION_TYPES, Scene, sample_scene
from vlm_probe.scenes.worlds import Split
from vlm_probe.studies.softmax import IDS_KEPT, MEASURED_AT, RUN, SOFTMAX, STEPS, SoftmaxArm
from vlm_probe.training.connector import COMPARISONS, PLANS, ConnectorStage, Parts
from vlm_probe.training.encoders import scene_seeds
from vlm_probe.training.fusion import answer_loss, answer_states, positions_among
from vlm_probe.training.loop import Listener, run_stage
from vlm_probe.training.packing import IGNORE, Packed
from vlm_probe.training.study import made_by, write_run
from vlm_probe.zoo.catalog import FUSIONS

SCORED = {"dev": 100, "heldout": 100}
"""Scenes of every split that a run is scored on, with `PLANS["questions"].questions` questions each."""
READ_FOR_IDS = 2000
"""Training scenes whose captions and answers say which ids the task has."""
MEASURED_ON = 4
"""Batches on which a gradient is taken apart, one by one: the same in every arm of a seed."""
OPEN = tuple(kind for kind in QUESTION_TYPES if kind not in COMPARISONS)
"""Question types that are not answered by yes or no."""


class SoftmaxStage(ConnectorStage):
    """Captions and questions about the same scenes from the first step on; the connector alone learns."""

    def __init__(self, parts: Parts, arm: SoftmaxArm, ids: Int[Tensor, " id"] | None, steps: int):
        """ids: over which the softmax is, sorted; None is all of them."""
        super().__init__("questions", parts, nn.ModuleDict({"connector": parts.connector}), steps, arm.seed)
        self.plan = replace(self.plan, among=OPEN)
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
        packed = packer.pack(
            scenes, rng, patches=0, describe=True, questions=plan.questions, learn_all=False, among=OPEN
        )
        found.update(packed.labels[packed.labels != IGNORE].tolist())
    return torch.tensor(sorted(found), device=parts.device)


def ids_of(arm: SoftmaxArm, parts: Parts, task: Int[Tensor, " id"]) -> Int[Tensor, " kept"] | None:
    """Over which ids an arm's softmax is, sorted; None is all. See `studies.softmax.IDS`."""
    if arm.ids in ("all", "task"):
        return None if arm.ids == "all" else task
    table = parts.language.lm_head.weight
    n, more = len(table), min(IDS_KEPT, len(table)) - len(task)
    if arm.ids == "frequent":
        spelled = parts.tokenizer.convert_ids_to_tokens(range(n))
        order = [i for i, token in enumerate(spelled) if token is not None and is_word_piece(token)]
    elif arm.ids == "random":
        order = random.Random(f"{SOFTMAX}/random/{arm.seed}").sample(range(n), n)
    else:
        rows = F.normalize(table.float() - table.float().mean(0), dim=-1)
        nearest = (rows @ rows[task].T).argsort(dim=0, descending=True, stable=True)
        order = nearest[: more + len(task)].flatten().tolist()  # each one's nearest, then each one's next
    own = set(task.tolist())
    others = list(dict.fromkeys(i for i in order if i not in own))[:more]
    return torch.tensor(sorted(own.union(others)), device=task.device)


def is_word_piece(token: str) -> bool:
    """Whether a token is a piece of text with a letter in it: no byte, tag or other thing between brackets."""
    return any(c.isalpha() for c in token) and not (token[:1] in "<[" and token[-1:] in ">]")


def gradient_parts(
    stage: SoftmaxStage, packed: Packed, rows: Float[Tensor, "batch patch d_model"], task: Int[Tensor, " id"]
) -> dict[str, float]:
    """The gradient of the loss over all ids at the image rows, as that over the task's ids and what the others add.

    rows: what the language model receives of the images.

    Returns others_share, |w - t| / (|w - t| + |t|) of the gradient w over all ids and t over the task's alone; cosine,
    of w to t; task_loss, the latter's loss in nats, as it is trained. With q the softmax over the task's ids, and r and
    p that over the others and their probability, w - t is p (sum r e - sum q e) at the last states (e: rows of the
    unembedding): a vector that is added to every row changes no softmax, and nothing here. (What the others' rows pull
    by themselves, p sum r e, is no property of the softmax: it depends on where the rows' mean lies.)
    """
    language = stage.parts.language
    rows = rows.detach().float().requires_grad_()
    hidden, packed = answer_states(language, packed, rows)
    asked = packed.labels != IGNORE
    target, answers = packed.labels[asked], packed.answers[asked]
    # As `answer_loss` weighs them.
    weight = torch.where(answers, 1 / answers.sum(), 0.5 / (~answers).sum().clamp_min(1))[:, None]
    table = language.lm_head.weight.detach()
    own_table, states = table[task].float(), hidden.detach().float()

    def at_rows(pull: Float[Tensor, "token d_model"]) -> Tensor:
        (found,) = torch.autograd.grad(hidden, rows, (weight * pull).to(hidden.dtype), retain_graph=True)
        return found.float().flatten()

    logits, position = states @ own_table.T, torch.searchsorted(task, target)
    own = logits.softmax(-1)
    every = (hidden.detach() @ table.T).float().softmax(-1)
    every[:, task] = 0.0
    added = every.to(table.dtype) @ table - every.sum(-1, keepdim=True) * (own @ own_table)
    others, alone = at_rows(added), at_rows(own @ own_table - table[target])
    each = F.cross_entropy(logits, position, reduction="none")
    return {
        "others_share": (others.norm() / (others.norm() + alone.norm())).item(),
        "cosine": torch.cosine_similarity(others + alone, alone, dim=0).item(),
        "task_loss": (each * weight[:, 0]).sum().item(),
    }


@torch.no_grad()
def score(stage: SoftmaxStage, task: Int[Tensor, " id"], split: str) -> list[dict[str, Any]]:
    """Questions about scenes of a split, greedy decoding and exact match: rows split, kind, n, accuracy,
    accuracy_all_ids, accuracy_other_images and loss, see `studies.softmax.softmax_results`.

    An answer is right where every token of it is the most probable one behind those before it, its end among them.
    """
    language, found = stage.parts.language, list[dict[str, Any]]()
    table = language.lm_head.weight
    own_table = table[task].float()
    batches = list(_batches(stage, split, SCORED[split], "heldout"))
    shown = torch.cat([stage.rows(scenes) for scenes, _ in batches])
    sizes = [len(scenes) for scenes, _ in batches]
    for (_, packed), rows, others in zip(batches, shown.split(sizes), shown.roll(1, 0).split(sizes), strict=True):
        hidden, packed = answer_states(language, packed, rows)
        blind, packed = answer_states(language, packed, others)
        asked = packed.labels != IGNORE
        position = positions_among(task, packed.labels[asked])
        logits = hidden.float() @ own_table.T
        right = {
            "accuracy": logits.argmax(-1) == position,
            "accuracy_all_ids": (hidden @ table.T).argmax(-1) == packed.labels[asked],
            "accuracy_other_images": (blind.float() @ own_table.T).argmax(-1) == position,
        }
        loss = F.cross_entropy(logits, position, reduction="none")
        where, segments = asked.nonzero(), packed.segment[asked]
        for row, kinds in enumerate(packed.kinds):
            for number, kind in enumerate(kinds, start=1):
                own = (where[:, 0] == row) & (segments == number)
                if kind != "caption":
                    every = {name: bool(tokens[own].all()) for name, tokens in right.items()}
                    found.append({"kind": kind, **every, "loss": loss[own].sum().item(), "tokens": int(own.sum())})
    kinds = [*sorted({one["kind"] for one in found}), "all"]
    return [_row(split, kind, [one for one in found if kind in ("all", one["kind"])]) for kind in kinds]


def _row(split: str, kind: str, found: list[dict[str, Any]]) -> dict[str, Any]:
    sums = {name: sum(one[name] for one in found) for name in found[0] if name != "kind"}
    shares = {name: round(sums[name] / len(found), 6) for name in sums if name.startswith("accuracy")}
    return {
        **{"split": split, "kind": kind, "n": len(found)},
        **shares,
        "loss": round(sums["loss"] / sums["tokens"], 6),
    }


def _batches(stage: SoftmaxStage, name: str, n: int, split: Split) -> Iterator[tuple[list[Scene], Packed]]:
    """So many scenes of a split, the same in every arm, and what is asked about them."""
    for at in range(0, n, stage.plan.scenes):
        seeds = scene_seeds(f"{SOFTMAX}/{name}", 0, at, min(stage.plan.scenes, n - at))
        scenes = [sample_scene(seed, split) for seed in seeds]
        yield scenes, stage.pack(scenes, random.Random(f"{SOFTMAX}/{name}/{at}"))


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
        for share in MEASURED_AT[len(gradients) // MEASURED_ON :]:
            run_stage(stage, folder, resume=True, listen=listen, until=round(share * steps))
            shown = _batches(stage, f"gradient/{arm.seed}", MEASURED_ON * stage.plan.scenes, "train")
            for batch, (scenes, packed) in enumerate(shown):
                found = gradient_parts(stage, packed, stage.rows(scenes), task)
                rounded = {name: round(value, 6) for name, value in found.items()}
                gradients.append({"share": share, "batch": batch, **rounded})
            write_run(gradients, begun)
        run_stage(stage, folder, resume=True, listen=listen)  # loads it, where all was measured
        scores = [{"scenes": steps * stage.plan.scenes, **row} for split in SCORED for row in score(stage, task, split)]
        made = made_by(folder / f"{stage.name}.pt", device)
        write_run({"arm": arm.name, "seed": arm.seed, "scores": scores, "gradients": gradients, "made": [made]}, file)
    return file
