"""Studies that are trained for a moment: the arms as wide as they are, a small encoder, few steps of few scenes."""

from dataclasses import replace

from vlm_probe.studies.study import Budget, Study
from vlm_probe.training import inside
from vlm_probe.training import study as training

VISION = {"hidden_size": 20, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 64, "patch_size": 16}
BUDGET = Budget(encoder=2, language=2, fusion=10, pretraining=0.2, scored=(0.5, 1.0), cooldown=0.2)


def tiny(study: Study, budget: Budget = BUDGET) -> Study:
    """The same arms, of two layers, trained for a moment."""
    cells = tuple(
        replace(
            cell,
            steps=budget.steps(pretrained=cell.steps.connector > 0),
            vision=VISION,
            shape=replace(cell.language, num_hidden_layers=2),
        )
        for cell in study.cells
    )
    return replace(study, cells=cells, budget=budget)


def shrink(monkeypatch) -> None:
    """Batches of two or three, encoders of 16 patches, a question of each type, few objects."""
    for name in ("encoders.ClipStage.pairs", "encoders.DinoStage.images", "fusion.LanguageStage.batch"):
        monkeypatch.setattr(f"vlm_probe.training.{name}", 3)
    monkeypatch.setattr("vlm_probe.training.fusion.FusionStage.batch", 2)
    monkeypatch.setattr("vlm_probe.training.fusion.PATCHES", 16)
    monkeypatch.setattr("vlm_probe.training.replica.PATCHES", 16)
    monkeypatch.setattr(training, "ITEMS_PER_KIND", 1)
    monkeypatch.setattr(inside, "LEARNED", 149)
    monkeypatch.setattr(inside, "READ", 11)
