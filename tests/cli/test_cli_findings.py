"""`vlm-probe findings`: the list of hypotheses, verdicts, what is written, and what it is refused for in one line."""

import json

import pandas as pd
import pytest
from tiny import tiny_vlm

from vlm_probe.findings import FINDINGS
from vlm_probe.scenes import sample_scene, scene_image


def test_without_a_model_the_hypotheses_are_listed(command):
    ended = command("findings")
    assert (ended.code, ended.err) == (0, "")
    rows = [line.split("│")[1:4] for line in ended.out.splitlines() if line.startswith("│")]
    named = [(name.strip(), question.strip()) for name, question, _ in rows if name.strip()]
    assert [name for name, _ in named] == list(FINDINGS)
    for name, question in named:
        assert FINDINGS[name].question.startswith(question[:40])


def test_two_models_are_measured_compared_and_written(command, tmp_path):
    models = ("--model", "replica/small-clip", "--model", "replica/small-dino")
    asked = ("findings", "s1", "V1", *models, "--items", 23, "--out", tmp_path / "out")
    ended = command(*asked)
    assert ended.code == 0, ended.err
    assert "S1. Does the language model look at the right place?" in ended.out
    assert ended.out.strip().endswith(str(tmp_path / "out"))
    evidence = pd.read_csv(tmp_path / "out" / "evidence.csv")
    assert set(evidence["finding"]) == {"S1", "V1"}
    pairs = evidence.query("finding == 'S1' and models == 'replica/small-clip, replica/small-dino'")
    assert len(pairs) == sum(claim.of == "pair" for claim in FINDINGS["S1"].claims)
    assert evidence.query("finding == 'V1'")["verdict"].eq("descriptive").to_numpy().all()
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert list(results["models"]) == ["replica/small-clip", "replica/small-dino"]
    before = (tmp_path / "out" / "evidence.csv").read_bytes()
    again = command(*asked)  # from the parts that are kept
    assert (again.code, (tmp_path / "out" / "evidence.csv").read_bytes()) == (0, before)


def test_a_question_file_serves_as_items(refused, tmp_path):
    """One without boxes: S1 says so, in a line."""
    lines = [json.dumps({"question_id": n, "image": "a.png", "text": "Is it?", "label": "yes"}) for n in range(3)]
    file = tmp_path / "coco_pope_random.json"
    file.write_text("\n".join(lines))
    scene_image(sample_scene(3), 64).save(tmp_path / "a.png")
    assert refused("findings", "S1", "--items", file, "--images", tmp_path) == (
        "nothing could be measured; S1: it needs items with boxes of what they ask about and of another object "
        "(generated scenes; `others` in an item file); there is none among the 3 given"
    )


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("S11",), "no finding 'S11'; nearest are "),
        (("S1", "--items", "0"), "--items must be 1 or more, or a question file, got 0"),
        (("S1", "--items", "-3"), "--items must be 1 or more, or a question file, got -3"),
        (("--out", "somewhere"), "name hypotheses (S1, V4) or models to measure; --out is for what they come to"),
        (("X1", "--out", "/proc/nope"), "cannot write to /proc/nope: No such file or directory"),
        (("S1", "--items", "nothing.json", "--images", "."), "no such file or folder: nothing.json"),
        (("S1", "--model", "replica/nought"), "no replica 'nought'; nearest are "),
        (("C2",), "nothing could be measured; C2: it takes 2 models or more, got 1"),
    ],
)
def test_what_is_wrong_is_one_line(refused, argv, message):
    assert refused("findings", *argv).startswith(message)


def test_tied_models_without_references_are_refused_for_v3(refused, tmp_path):
    model = tiny_vlm()
    model.save_pretrained(tmp_path / "tiny")
    # Its prompt is given: that one would be assumed is a note of its own (tests/checkpoints/test_whole.py).
    said = refused("findings", "V3", "--model", tmp_path / "tiny", "--items", 12, "--prompt", model.prompt)
    assert said.startswith(f"nothing could be measured; V3 on {tmp_path / 'tiny'}: ")
    assert "known to be untrained" in said
