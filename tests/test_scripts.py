"""Analyses and benchmarks run as their users run them."""

import os
import runpy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from tiny import untyped

from vlm_probe.evidence import Verdict
from vlm_probe.findings.v5_smaller import SHARES
from vlm_probe.scenes import sample_scene, scene_image
from vlm_probe.studies import tabled

ROOT = Path(__file__).parents[1]


@pytest.fixture
def analyse(monkeypatch, capsys):
    """Runs an analysis as `python analyses/...` does, in this process: all that it imports is here already."""
    monkeypatch.syspath_prepend(ROOT / "analyses")
    monkeypatch.setenv("MPLBACKEND", "Agg")

    def run(script: str, *argv: str) -> SimpleNamespace:
        monkeypatch.setattr(sys, "argv", [script, *argv])
        capsys.readouterr()
        code: int | str | None = 0
        try:
            runpy.run_path(str(ROOT / script), run_name="__main__")
        except SystemExit as ended:
            code = ended.code
        out, err = capsys.readouterr()
        return SimpleNamespace(returncode=code, stdout=out, stderr=err)

    return run


def run(*argv: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "MPLBACKEND": "Agg", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *argv], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )


def test_where_it_looks_draws_the_figures_for_a_list_of_models(analyse, tmp_path):
    done = analyse(
        "analyses/where_it_looks.py",
        "--models",
        "replica/small-clip",
        "replica/small-dino",
        "--n",
        "12",
        "--out",
        str(tmp_path),
    )
    assert done.returncode == 0, done.stderr
    assert {p.stem for p in tmp_path.glob("*.png")} == {
        f"where_it_looks_{n}" for n in ("accuracy", "box_share", "image_mass", "pointing")
    }
    said = (
        "the most relevant patch is on the object asked about, beyond its area, rather than another object of the same"
    )
    assert said in done.stdout
    assert "nothing here is a statement about the 2B or the 7B" in done.stdout
    wrong = analyse("analyses/where_it_looks.py", "--models", "replica/none")
    assert wrong.returncode == 2
    assert wrong.stderr.startswith("error: no replica 'none'")


def test_the_module_runs_as_a_command():
    done = run("-m", "vlm_probe", "--help")
    assert done.returncode == 0
    assert "inspect" in done.stdout


def test_the_sizes_in_the_list_of_models_are_those_of_their_shapes():
    """Counted on the meta device, which holds no numbers."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    import torch
    from real_size import SHAPES
    from transformers import CLIPVisionConfig, GemmaConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    from vlm_probe.cli import HUB_MODELS

    llama = LlamaConfig(vocab_size=32_064)
    texts = [GemmaConfig(**SHAPES["2b"][1]), GemmaConfig(**SHAPES["7b"][1]), llama]
    for (name, (_, billions)), text in zip(HUB_MODELS.items(), texts, strict=True):
        with torch.device("meta"):
            config = LlavaConfig(vision_config=CLIPVisionConfig(**SHAPES["2b"][0]), text_config=text)
            count = sum(p.numel() for p in LlavaForConditionalGeneration(config).parameters())
        assert abs(count / 1e9 - billions) < 0.01, (name, count)


def test_size_compares_models(analyse, tmp_path):
    models = ["--models", "replica/small-clip", "replica/small-dino"]
    done = analyse("analyses/size_2b_vs_7b.py", *models, "--n", "6", "--why", "3", "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    drawn = {p.stem for p in tmp_path.glob("*.png")}
    assert drawn >= {"size_replica-small-dino", *(f"size_why_{name}" for name in ("accuracy", "changed", "windows"))}
    assert set(pd.read_csv(tmp_path / "size_why.csv")["finding"]) >= {"S1", "S3", "S4"}
    assert "not measured: S2: it needs" in done.stdout
    assert "replica/small-dino against replica/small-clip, on the same items" in done.stdout
    # Two checkpoints of one seed say nothing of what they were made of.
    about = "Each verdict is about two checkpoints and these items. Whether size does it is decided over training seeds"
    assert about in done.stdout
    comparison = pd.read_csv(tmp_path / "size_answers" / "comparison.csv")
    words = {"supported", "contradicted", "undecided"}
    assert set(comparison["verdict"]) <= words
    assert not np.isnan(comparison["p_holm"].to_numpy(dtype=float)).any(), "of all families together too"
    assert "nothing here is a statement about the 2B or the 7B" in done.stdout


def test_published_results_draws_and_says_what_is_missing(analyse, tmp_path):
    done = analyse("analyses/published_results.py", "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "published_results.svg").exists()
    assert "size: 18 of 40 pairs published" in done.stdout
    assert "not at hand: gemma-7b-it, CLIP, connector pretrained (textvqa)" in done.stdout
    assert "what the 7B adds with connector pretraining, beside what it adds without: -2.0, +3.4 (-5.3 apart)" in (
        done.stdout
    )
    assert pd.read_csv(tmp_path / "published_interactions.csv")["finding"].tolist() == ["X1"] * 9
    assert "what it adds to the 7B is not. Each number is one run." in done.stdout
    assert "The paper's models do not cross vocabulary and size: its table says nothing of it." in done.stdout


def test_grid_effects_draws_and_prints_every_pair(analyse, tmp_path):
    done = analyse("analyses/grid_effects.py", "--split", "novel", "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    names = {f"grid_{what}_novel" for what in ("scores", "effects", "size_by_type")}
    names |= {f"x{number}_interactions" for number in (1, 2, 3)}
    assert {p.name for p in tmp_path.iterdir()} == {"grid_effects_novel.csv", "grid_interactions.csv"} | {
        f"{n}.{s}" for n in names for s in ("png", "svg", "pdf", "csv")
    }
    assert "small-clip-v320 small-clip-v20480" in done.stdout
    effects = pd.read_csv(tmp_path / "grid_effects_novel.csv")
    few = effects["seeds"] < 5
    assert set(effects.loc[few, "verdict"]) == {"undecided"}
    assert set(effects.loc[few, "reason"]) == {f"{n} training seeds, 5 would do" for n in effects.loc[few, "seeds"]}
    claims = pd.read_csv(tmp_path / "grid_interactions.csv")
    assert claims["finding"].value_counts().to_dict() == {"X1": 4, "X2": 4, "X3": 2}
    assert set(claims["unit"]) == {"training seeds"}
    for sentence in claims["sentence"]:
        assert sentence in done.stdout
    assert "nothing here is a statement about the 2B or the 7B" in done.stdout
    done = analyse("analyses/grid_effects.py", "--runs", str(tmp_path), "--out", str(tmp_path))
    assert (done.returncode, done.stderr) == (2, f"error: no finished cell in {tmp_path}\n")


def test_maps_are_tried_beside_baselines(analyse, tmp_path):
    given = ("--models", "replica/small-clip", "--maps", "attention", "relevancy", "--steps", "2")
    done = analyse("analyses/believe_the_map.py", *given, "--n", "3", "--hard", "5", "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    drawn = {f"believe_the_map_replica-small-clip_{what}" for what in ("deletion", "insertion", "answers", "example")}
    assert {p.stem for p in tmp_path.glob("*.svg")} == drawn
    table = pd.read_csv(tmp_path / "believe_the_map.csv")
    assert {"attention", "relevancy"} <= set(table["map"])
    crossed = pd.read_csv(tmp_path / "believe_the_map_answers.csv")
    assert (untyped(crossed).groupby("map")["n"].sum() == 5).all()
    assert "nothing here is a statement about the 2B or the 7B" in done.stdout


def test_why_not_better_draws_the_study_and_prints_verdicts(analyse, tmp_path):
    done = analyse("analyses/why_not_better.py", "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    names = {"why_curves", "why_effects", "why_effects_novel", "x1_interactions", "x2_interactions"}
    names |= {f"{id}_inside" for id in ("s6", "e3", "c3")}
    others = {f"why_{id}" for id in tabled() if id != "grid"}
    drawn = {p.stem for p in tmp_path.glob("*.svg")}
    followed = {name for name in drawn if name.endswith("_followed")}
    assert drawn - followed == names | others
    # Of both studies that have five seeds of small-clip and large-clip, which were looked into.
    assert followed == {"why_grid_followed", "why_encoder_followed"}
    assert "not followed: " in done.stdout
    assert "answers lost with another picture" in done.stdout
    claims = pd.read_csv(tmp_path / "why_interactions.csv")
    assert set(claims["finding"]) == {"X1", "X2", "S6", "E3", "C3"}
    few = claims.query("unit == 'training seeds' and clusters < 5")
    assert set(few["verdict"]) <= {"undecided"}
    assert "made by: vlm-probe study grid --seeds" in done.stdout
    assert "nothing here is a statement about the 2B or the 7B" in done.stdout


def test_an_unwritable_folder_is_one_line(analyse, tmp_path):
    (tmp_path / "file").write_text("")
    done = analyse("analyses/published_results.py", "--out", str(tmp_path / "file"))
    assert (done.returncode, done.stderr) == (2, f"error: cannot write to {tmp_path / 'file'}: File exists\n")


def test_encoders_are_compared_and_their_blind_pairs_shown(analyse, tmp_path):
    models = ["--models", "replica/small-clip", "replica/small-dino"]
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for i in range(6):
        scene_image(sample_scene(i), 64).save(pictures / f"{i}.png")
    out = ["--images", str(pictures), "--out", str(tmp_path)]
    done = analyse("analyses/encoder_clip_vs_dino.py", *models, "--n", "90", *out)
    assert done.returncode == 0, done.stderr
    probed = [f"probe_{label}" for label in ("color", "shape", "position", "count", "existence")]
    expected = {f"encoder_{name}.png" for name in ("cka", "cka_layers", "probes", "twins", *probed)}
    assert {p.name for p in tmp_path.glob("*.png")} == expected
    verdicts = pd.read_csv(tmp_path / "encoder.csv")
    assert set(verdicts["finding"]) == {"E1", "E2"}
    assert set(verdicts["verdict"]) <= set(Verdict)
    assert "<figure" in (tmp_path / "blind_pairs" / "pairs.html").read_text()
    assert "nothing here is a statement about the 2B or the 7B" in done.stdout


def test_connectors_are_compared(analyse, tmp_path):
    models = ["--models", "replica/small-clip", "replica/small-clip-nopre"]
    done = analyse("analyses/connector.py", *models, "--n", "40", "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    names = {p.stem for p in tmp_path.glob("*.svg")}
    shown = (
        "gap",
        "effective_rank",
        "intrinsic_dimension",
        "nearest",
        "words",
        "named",
        "named_by_layer",
        "compared",
        "unused",
    )
    each = [f"connector_{what}_{name.replace('/', '-')}" for what in ("words", "tokens") for name in models[1:]]
    assert names == {*(f"connector_{what}" for what in shown), *each}
    verdicts = pd.read_csv(tmp_path / "connector.csv")
    assert verdicts["finding"].value_counts().to_dict() == {"S2": 20, "C1": 20, "C2": 8}
    assert set(verdicts["verdict"]) <= set(Verdict)
    assert "answers more of the items than replica/small-clip" in done.stdout


def test_vocabularies_are_compared(analyse, tmp_path):
    from transformers import AutoModelForCausalLM

    # Two sizes of vocabulary, and a language model alone.
    sys.path.insert(0, str(ROOT / "tests"))
    from tiny import LANGUAGES, tiny_tokenizer

    AutoModelForCausalLM.from_config(LANGUAGES["gemma3"]()).save_pretrained(tmp_path / "alone")
    tiny_tokenizer().save_pretrained(tmp_path / "alone")
    models = ["--models", "replica/small-clip", "replica/large-clip", str(tmp_path / "alone")]
    done = analyse("analyses/vocabulary_256k.py", *models, "--n", "4", "--out", str(tmp_path / "out"))
    assert done.returncode == 0, done.stderr
    names = ("parameters", "flops", "growth", "indicator", "leakage_image", "leakage_answer", "shrinking")
    names = (*names, "size_heldout", "size_novel")
    assert {p.stem for p in (tmp_path / "out").glob("*.png")} == {f"vocabulary_{name}" for name in names}
    verdicts = pd.read_csv(tmp_path / "out" / "vocabulary.csv")
    assert set(verdicts["finding"]) == {"V1", "V2", "V3", "V4", "V5", "V6"}
    assert set(verdicts["verdict"]) <= set(Verdict)
    # The used tokens suffice.
    trimmed = verdicts.loc[verdicts["claim"] == f"worse_{SHARES[0]}", "difference"].to_numpy()
    assert (len(trimmed), *trimmed) == (2, 0, 0)
    # Every word of the scenes is one token of the replicas.
    assert verdicts.query("claim == 'fertility'")["value"].tolist()[:2] == [1, 1]
