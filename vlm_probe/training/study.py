"""An arm of a study: trained once, and scored at several budgets on the way.

The learning rate stays up; for every budget a branch brings it down and is scored, and the trunk goes on from where
the branch left it (warm-up, stable, decay; Hägele et al. 2024, arXiv:2405.18392). One run so gives a learning curve of
which every point is a finished model, and costs little more than its last one.
"""

from __future__ import annotations

import copy
import json
import math
import platform
import random
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from shutil import copyfile, which
from typing import Any

import torch

from vlm_probe.files import alone, make_folder, replacing
from vlm_probe.hooked import HookedVLM
from vlm_probe.items import Item
from vlm_probe.opening import load
from vlm_probe.running.evaluation import evaluate
from vlm_probe.scenes import Scene, World, asks_novel, sample_scene, scene_items, world_of
from vlm_probe.studies.inside import INSIDE, SPLITS
from vlm_probe.studies.result_tables import MADE, SCORES
from vlm_probe.studies.study import Study
from vlm_probe.training.encoders import scene_seeds
from vlm_probe.training.fusion import FusionStage
from vlm_probe.training.inside import look_inside
from vlm_probe.training.loop import Listener, run_stage
from vlm_probe.training.packing import Packed
from vlm_probe.training.replica import Trained, apart, export, runs_of
from vlm_probe.zoo.cells import Cell

ITEMS_PER_KIND = 100
"""Questions of every type, of every split, that a run is scored on."""
ITEMS_SEED, DEV_SEED = 1, 2


class StudyStage(FusionStage):
    """A stage of fusion in a study: the same scenes in every arm, step by step, whatever an arm does with them.

    "connector": captions, only the connector learns. "joint": captions and questions about the same scenes, connector
    and language model learn; LLaVA's second stage, with which an arm without pretraining begins.
    """

    def __init__(self, *args: Any, first: int, asking: bool, **kwargs: Any):
        """first: steps of the study before this stage. asking: whether questions follow the caption."""
        super().__init__(*args, **kwargs)
        self.first, self.asking = first, asking

    def pack(self, step: int) -> tuple[list[Scene], Packed]:
        at = self.first + step
        seeds = scene_seeds("study", self.seed, at, self.batch)
        scenes = [sample_scene(seed, world=self.world) for seed in seeds]
        return scenes, self._pack(scenes, random.Random(f"study/questions/{self.seed}/{at}"), asking=self.asking)

    def cut_at(self, name: str, steps: int) -> StudyStage:
        """The same stage, its modules shared, under a name of its own and of another length."""
        branch = copy.copy(self)
        branch.name, branch.steps = name, steps
        return branch


def rate(step: int, *, peak: float, warm: int, cool_from: int, end: int) -> float:
    """Linear warm-up, level, then down to nothing as 1 - sqrt(x) (Hägele et al. 2024, section 4)."""
    if step < warm:
        return peak * (step + 1) / warm
    if step < cool_from:
        return peak
    return peak * (1 - math.sqrt((step + 1 - cool_from) / (end + 1 - cool_from)))


def items_of(world: World, split: str) -> list[Item]:
    """What every run in a world is scored on: `ITEMS_PER_KIND` questions of each type.

    split: "heldout": pairs of kinds that never stood together; "novel": questions that ask *about* a kind that no
    training image showed; "dev": as heldout, of another seed, to choose by what then is scored on the others.
    """
    if split != "novel":
        seed = DEV_SEED if split == "dev" else ITEMS_SEED
        return list(scene_items(ITEMS_PER_KIND * len(world.questions), seed=seed, world=world))
    chosen: list[Item] = []
    had: Counter[str] = Counter()
    # More than will be looked at: of every question type about half ask about the novel kind.
    for item in scene_items(50 * ITEMS_PER_KIND * len(world.questions), split="novel", seed=ITEMS_SEED, world=world):
        if had[item.kind] < ITEMS_PER_KIND and asks_novel(item):
            chosen.append(item)
            had[item.kind] += 1
        if len(chosen) == ITEMS_PER_KIND * len(world.questions):
            break
    return chosen


@contextmanager
def opened(trained: Trained) -> Iterator[HookedVLM]:
    """A trained cell as its users will have it: written, and opened again."""
    with tempfile.TemporaryDirectory() as folder:
        export(trained, Path(folder))
        yield load(folder, device="cpu", dtype="float32")


def score(model: HookedVLM, world: World, splits: Sequence[str]) -> list[dict[str, Any]]:
    """Share right by split and question type, greedy decoding and exact match; rows split, kind, n, accuracy."""
    rows = []
    for split in splits:
        answers = evaluate(model, items_of(world, split))
        parts = [*answers.groupby("kind", sort=False), ("all", answers)]
        for kind, part in parts:
            right = part["correct"].to_numpy(dtype=float)
            rows.append({"split": split, "kind": kind, "n": len(part), "accuracy": round(float(right.mean()), 6)})
    return rows


def folder_of(cell: Cell, runs: Path) -> Path:
    """The folder that an arm's own stages, scores and log are in."""
    return runs_of(cell, runs) / cell.name


def train_arm(study: Study, cell: Cell, runs: Path, *, listen: Listener | None = None, device: str = "cpu") -> Path:
    """Train an arm, score it at every budget, and look inside it at the whole one. A killed run goes on where it
    stopped, and one that another study trained is scored on what that left out.

    Returns the file that has its scores so far and how they were made (`studies.result_tables.SCORES`); beside it is
    what was found inside (`studies.inside.INSIDE`).
    """
    budget, folder, world = study.budget, folder_of(cell, runs), world_of(cell.world)
    make_folder(folder)
    file = folder / SCORES
    with alone(folder / "arm.lock"):
        found = {"study": study.id, "arm": cell.name, "seed": cell.seed, "scores": [], "made": {}}
        if file.exists():
            found = json.loads(file.read_text())
        if study.id != found["study"]:
            found["also"] = sorted({study.id, *found.get("also", ())})
            write_run(found, file)
        trained = apart(cell, runs, resume=True, listen=listen, device=device)
        parts = (cell, trained.packer, trained.encoder, trained.connector, trained.language)
        before, seconds = cell.steps.connector, 0.0
        if before:
            run_stage(StudyStage("connector", *parts, first=0, asking=False), folder, resume=True, listen=listen)
            seconds = _seconds(folder / "connector.pt")
        trunk = StudyStage("joint", *parts, first=before, asking=True)
        warm = max(1, round(0.03 * trunk.steps))
        for share in budget.scored:
            steps = round(share * budget.fusion)
            end, cool_from = steps - before, round((1 - budget.cooldown) * steps) - before
            scored = {row["split"] for row in found["scores"] if row["budget"] == share}
            looked = share < max(budget.scored) or (folder / INSIDE).exists()
            if scored.issuperset(study.splits) and looked:
                continue
            at = partial(rate, peak=trunk.learning_rate, warm=warm, cool_from=cool_from, end=end)
            run_stage(trunk, folder, resume=True, listen=listen, rate=at, until=cool_from)
            branch = trunk.cut_at(f"joint-{steps}", end)
            for suffix in (".jsonl", ".pt"):  # the state last: a branch that has one has its log
                if not (folder / f"{branch.name}.pt").exists():
                    with replacing(folder / f"{branch.name}{suffix}") as copied:
                        copyfile(folder / f"{trunk.name}{suffix}", copied)
            run_stage(branch, folder, resume=True, listen=listen, rate=at)
            about = {"budget": share, "scenes": steps * trunk.batch}
            missing = [split for split in study.splits if split not in scored]
            with opened(trained) as model:
                found["scores"] += [{**about, **row} for row in score(model, world, missing)]
                if not scored:
                    found["made"] = made_by(folder / f"{branch.name}.pt", device, seconds)
                write_run(found, file)
                if not looked:
                    write_run(
                        look_inside(model, world, {split: items_of(world, split) for split in SPLITS}), folder / INSIDE
                    )
    return file


def write_run(found: Any, file: Path) -> None:
    """Write what is known of a run, whole or not at all."""
    with replacing(file) as written:
        written.write_text(json.dumps(found, indent=1) + "\n")


def _seconds(state: Path) -> float:
    return torch.load(state, weights_only=True, map_location="cpu")["seconds"]


def made_by(state: Path, device: str, seconds: float = 0.0) -> dict[str, Any]:
    """How a run was made: `studies.result_tables.MADE`.

    state: the file that its last stage left; seconds: those of stages before it.
    """
    took = round(seconds + _seconds(state))
    said = (took, device, torch.get_num_threads(), platform.machine(), torch.__version__, _commit())
    return dict(zip(MADE, said, strict=True))


def _commit() -> str:
    """Of the checkout this is run from; "" for an installed package."""
    asked = ["git", "rev-parse", "--short", "HEAD"]
    if which("git") is None:
        return ""
    return subprocess.run(asked, cwd=Path(__file__).parent, capture_output=True, text=True, check=False).stdout.strip()
