"""`vlm-probe evaluate`, as its users run it: on exported items, answers given elsewhere, and what it cannot take."""

import json

import pandas as pd
import pytest

from vlm_probe.scenes import sample_scene, scene_image


@pytest.fixture
def printed_by(command):
    """Runs a command that must end well. Gives what it printed."""

    def run(*argv: object) -> str:
        ended = command(*argv)
        assert ended.code == 0, ended.err
        return ended.out

    return run


def test_exported_items_are_asked_scored_and_compared(printed_by, refused, tmp_path):
    exported, out = tmp_path / "items", tmp_path / "out"
    printed = printed_by("scenes", "export", exported, "--n", 4, "--size", 64)
    assert "24 items about" in printed
    models = ["--model", "replica/small-clip", "--model", "replica/small-dino"]
    printed = printed_by("evaluate", *models, "--items", exported / "items.parquet", "--out", out)
    assert "pair_accuracy" in printed
    assert "is replica/small-dino better than replica/small-clip?" in printed
    answers = pd.read_parquet(out / "answers.parquet")
    assert answers.groupby("model").size().tolist() == [24, 24]
    assert answers["p_answer"].notna().to_numpy().all()
    comparison = pd.read_csv(out / "comparison.csv")
    assert comparison["family"].tolist() == ["pope", "mmvp", "gqa", "mme", "vqav2", "mmvet", "all"]

    # One of the two answered elsewhere, as far as this run knows.
    half = tmp_path / "half.parquet"
    answers.query("model == 'replica/small-dino'").assign(model="elsewhere").to_parquet(half)
    again = tmp_path / "again"
    asked = ["--model", "replica/small-clip", "--items", exported / "items.jsonl"]
    printed = printed_by("evaluate", "--answers", half, *asked, "--out", again)
    assert "is replica/small-clip better than elsewhere?" in printed
    # lmms-eval numbers the questions its own way: said before a model is asked anything.
    log = tmp_path / "x_samples_pope.jsonl"
    log.write_text('{"doc_id": 0, "target": "yes", "filtered_resps": "Yes"}\n')
    said = refused("evaluate", "--answers", log, "--model", "replica/small-clip")
    assert said == f"{log} answers none of these items, so that replica/small-clip cannot be compared with it"
    # One model's tasks are a file each.
    other = tmp_path / "x_samples_gqa.jsonl"
    other.write_text('{"doc_id": 0, "target": "red", "filtered_resps": "Red"}\n')
    logs = ["--answers", log, "--answers", other]
    printed_by("evaluate", *logs, "--out", tmp_path / "logged")
    assert pd.read_csv(tmp_path / "logged" / "metrics.csv")["family"].unique().tolist() == ["pope", "gqa"]
    reverse = pd.read_csv(again / "comparison.csv")
    assert reverse["difference"].tolist() == pytest.approx([-d for d in comparison["difference"]])


def test_generated_scenes_are_the_default(command, tmp_path):
    ended = command("evaluate", "--n", 2, "--out", tmp_path / "[red]out")
    assert ended.code == 0
    assert "replica/default" in ended.out
    assert ended.out.splitlines()[-1] == str(tmp_path / "[red]out")
    assert (tmp_path / "[red]out" / "metrics.csv").exists()
    assert not (tmp_path / "[red]out" / "comparison.csv").exists()


def test_what_is_skipped_is_said_and_written(command, tmp_path):
    lines = ["[bold]no question[/bold]", *["{}"] * 6]
    good = '{"question_id": 1, "image": "1.png", "text": "Is there a dog?", "label": "no"}'
    (tmp_path / "pope.jsonl").write_text("".join(f"{line}\n" for line in (good, *lines)))
    scene_image(sample_scene(3), 64).save(tmp_path / "1.png")
    asked = ["--items", tmp_path / "pope.jsonl", "--images", tmp_path]
    ended = command("evaluate", *asked, "--skip-bad", "--out", tmp_path / "out")
    assert ended.code == 0
    written = (tmp_path / "out" / "skipped.txt").read_text().splitlines()
    assert len(written) == 7
    said = [line for line in ended.err.splitlines() if line.startswith("skipped: ")]
    assert said == [f"skipped: {line}" for line in written[:5]]
    assert f"... 7 in all, see {tmp_path / 'out' / 'skipped.txt'}" in ended.err.replace("\n", "")


def test_a_log_that_does_not_name_images(command, tmp_path):
    log = tmp_path / "[red]x_samples_pope.jsonl"
    log.write_text('{"doc_id": 0, "target": "yes", "filtered_resps": "Yes"}\n')
    ended = command("evaluate", "--answers", log, "--out", tmp_path / "out")
    assert ended.code == 0
    assert ended.err == (
        f"{log} does not tell which questions are about one image: intervals take each question (or pair) for itself\n"
    )


POPE_LINE = '{"question_id": 1, "image": "1.jpg", "text": "Is there a dog?", "label": "no"}\n'


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--items", "{tmp}/gone.json"], "no such file or folder: {tmp}/gone.json"),
        (["--items", "{tmp}/pope.jsonl"], "say where they are with --images FOLDER"),
        (
            ["--items", "{tmp}/pope.jsonl", "--images", "{tmp}"],
            "{tmp}/pope.jsonl, line 1: the image {tmp}/1.jpg does not exist",
        ),
        (["--items", "{tmp}/pope.jsonl", "--format", "pop"], "no format 'pop'; nearest are 'pope'"),
        (["--model", "replica/nought"], "no replica 'nought'"),
        (["--answers", "{tmp}/gone.parquet"], "no such file or folder: {tmp}/gone.parquet"),
    ],
)
def test_what_cannot_be_evaluated(refused, tmp_path, options, message):
    (tmp_path / "pope.jsonl").write_text(POPE_LINE)
    said = refused("evaluate", *(one.format(tmp=tmp_path) for one in options), "--out", tmp_path / "evaluation")
    assert message.format(tmp=tmp_path) in said
    assert not (tmp_path / "evaluation").exists()


def test_a_folder_that_cannot_be_written(refused, in_the_way):
    assert refused("evaluate", "--n", 1, "--out", in_the_way).startswith(f"cannot write to {in_the_way}")


@pytest.mark.parametrize(
    ("suffix", "appended"),
    [
        (
            "benchmark",
            {
                "pope": "\nAnswer the question using a single word or phrase.",
                "mmvp": "\nAnswer with the option's letter from the given choices directly.",
                "mmvet": "",
                "own": "",
            },
        ),
        ("Be short.", dict.fromkeys(("pope", "mmvp", "mmvet", "own"), "\nBe short.")),
        (None, dict.fromkeys(("pope", "mmvp", "mmvet", "own"), "")),
    ],
)
def test_every_benchmark_is_asked_in_its_own_format(command, tmp_path, monkeypatch, suffix, appended):
    from vlm_probe.running import evaluation

    asked = []

    def ask(model, images, questions, **options):
        asked.extend(questions)
        return ask_all(model, images, questions, **options)

    ask_all = evaluation.ask_all
    monkeypatch.setattr(evaluation, "ask_all", ask)
    lines = [
        {"id": f, "family": f, "kind": "k", "group": f, "image": "1.png", "question": f"{f}?", "answer": "no"}
        for f in appended
    ]
    (tmp_path / "items.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    scene_image(sample_scene(3), 64).save(tmp_path / "1.png")
    options = [] if suffix is None else ["--suffix", suffix]
    files = ["--items", tmp_path / "items.jsonl", "--images", tmp_path]
    ended = command("evaluate", *files, *options, "--max-new-tokens", 2, "--out", tmp_path / "out")
    assert ended.code == 0, ended.err
    assert [one.question for one in asked] == [f"{family}?{text}" for family, text in appended.items()]
    kept = pd.read_parquet(tmp_path / "out" / "answers.parquet")
    assert kept["question"].tolist() == [f"{family}?" for family in appended], "the question is the item's own"
