"""The commands that export items, ask models and compare them, as their users run them."""

import sys

import pandas as pd
import pytest

from vlm_probe.cli import main


def run(capsys, monkeypatch, *argv: str) -> str:
    monkeypatch.setattr(sys, "argv", ["vlm-probe", *argv])
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit) as caught:
        main()
    out, err = capsys.readouterr()
    assert not caught.value.code, err
    return out


def test_exported_items_are_asked_scored_and_compared(capsys, monkeypatch, tmp_path):
    exported, out = tmp_path / "items", tmp_path / "out"
    printed = run(capsys, monkeypatch, "scenes", "export", str(exported), "--n", "4", "--size", "64")
    assert "24 items about" in printed
    models = ["--model", "replica/small-clip", "--model", "replica/small-dino"]
    printed = run(
        capsys, monkeypatch, "evaluate", *models, "--items", str(exported / "items.parquet"), "--out", str(out)
    )
    assert "pair_accuracy" in printed
    assert "is replica/small-dino better than replica/small-clip?" in printed
    answers = pd.read_parquet(out / "answers.parquet")
    assert answers.groupby("model").size().tolist() == [24, 24]
    assert answers["p_answer"].notna().all()
    comparison = pd.read_csv(out / "comparison.csv")
    assert comparison["family"].tolist() == ["pope", "mmvp", "gqa", "mme", "vqav2", "mmvet", "all"]

    # One of the two answered elsewhere, as far as this run knows.
    half = tmp_path / "half.parquet"
    answers.query("model == 'replica/small-dino'").assign(model="elsewhere").to_parquet(half)
    again = tmp_path / "again"
    printed = run(
        capsys, monkeypatch, "evaluate", "--answers", str(half), "--model", "replica/small-clip",
        "--items", str(exported / "items.jsonl"), "--out", str(again),
    )  # fmt: skip
    assert "is replica/small-clip better than elsewhere?" in printed
    # lmms-eval numbers the questions its own way: said before a model is asked anything.
    log = tmp_path / "x_samples_pope.jsonl"
    log.write_text('{"doc_id": 0, "target": "yes", "filtered_resps": "Yes"}\n')
    monkeypatch.setattr(sys, "argv", ["vlm-probe", "evaluate", "--answers", str(log), "--model", "replica/small-clip"])
    with pytest.raises(SystemExit):
        main()
    assert f"{log} answers none of these items" in capsys.readouterr().err.replace("\n", "")
    # One model's tasks are a file each.
    other = tmp_path / "x_samples_gqa.jsonl"
    other.write_text('{"doc_id": 0, "target": "red", "filtered_resps": "Red"}\n')
    logs = ["--answers", str(log), "--answers", str(other)]
    run(capsys, monkeypatch, "evaluate", *logs, "--out", str(tmp_path / "logged"))
    assert pd.read_csv(tmp_path / "logged" / "metrics.csv")["family"].unique().tolist() == ["pope", "gqa"]
    reverse = pd.read_csv(again / "comparison.csv")
    assert reverse["difference"].tolist() == pytest.approx([-d for d in comparison["difference"]])


def test_generated_scenes_are_the_default(capsys, monkeypatch, tmp_path):
    printed = run(capsys, monkeypatch, "evaluate", "--n", "2", "--out", str(tmp_path / "out"))
    assert "replica/default" in printed
    assert not (tmp_path / "out" / "comparison.csv").exists()
