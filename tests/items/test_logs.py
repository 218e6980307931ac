"""Answers logged by lmms-eval: what each task's lines become, and lines that are none."""

import json

import pytest

from vlm_probe.errors import VlmProbeError
from vlm_probe.items.logs import read_lmms_samples
from vlm_probe.items.scores import metric_table


def write(path, text: str):
    path.write_text(text)
    return path


def logged(doc_id: int, target, said, **doc) -> str:
    return json.dumps({"doc_id": doc_id, "target": target, "filtered_resps": said, "doc": doc}) + "\n"


def test_samples_logged_by_lmms_eval(tmp_path):
    folder = tmp_path / "llava__gemma"
    folder.mkdir()
    path = write(
        folder / "20240102_samples_pope.jsonl",
        logged(0, "yes", ["Yes"], question_id="7", question="Is there a dog?", image_source="COCO_1", category="random")
        + logged(1, "no", [["Yes."]], question_id="8", question="Is there a cat?", image_source="COCO_1"),
    )
    answers, skipped = read_lmms_samples(path)
    assert not skipped
    assert answers["model"].unique().tolist() == ["llava__gemma"]
    assert answers[["family", "truth", "normalized", "correct"]].to_numpy().tolist() == [
        ["pope", "yes", "yes", True],
        ["pope", "no", "yes", False],
    ]
    assert answers["p_answer"].isna().to_numpy().all()

    vqa = write(
        folder / "x_samples_vqav2_val_lite.jsonl",
        logged(0, "dog", "dogs", question="What?", answers=[{"answer": "dogs"}] * 4 + [{"answer": "dog"}] * 6),
    )
    assert read_lmms_samples(vqa, model="m")[0]["score"].tolist() == [pytest.approx((4 * 1 + 6) / 10)]

    # Newer versions drop `doc`, and log lists as text.
    ten = ["nokia"] * 10
    text = write(folder / "x_samples_textvqa_val.jsonl", logged(0, str(ten), "Nokia")).read_text()
    assert read_lmms_samples(folder / "x_samples_textvqa_val.jsonl")[0]["score"].tolist() == [1], text
    rows = [
        {"doc_id": i, "target": t, "filtered_resps": "Yes", "mme_perception_score": about}
        for i, (t, about) in enumerate(
            [
                ("Yes", {"question_id": "count/1.png", "category": "count", "score": 1.0}),
                ("No", {"question_id": "count/1.png", "category": "count", "score": 0.0}),
            ]
        )
    ]
    bare = write(folder / "x_samples_mme.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    metrics = metric_table(read_lmms_samples(bare)[0]).set_index("metric")
    assert metrics.loc["accuracy_plus", ["value", "n"]].tolist() == [0, 1]
    assert "perception" not in metrics.index, "of ten categories one was logged"
    rows = [
        {"doc_id": i, "target": t, "filtered_resps": s, "mmvp_accuracy": {"index": i, "pair_index": i // 2}}
        for i, (t, s) in enumerate([("A", "A. Open"), ("B", "(b)"), ("A", ""), ("B", "The answer is B.")])
    ]
    pairs = write(folder / "x_samples_mmvp.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    answers, _ = read_lmms_samples(pairs)
    assert answers["correct"].tolist() == [True, True, False, True]
    assert metric_table(answers).set_index("metric").loc["pair_accuracy", "value"] == 0.5
    vet = write(folder / "x_samples_mmvet.jsonl", logged(0, "x=-1<AND>x=-5", "The roots are x=-1 or x=-5"))
    assert read_lmms_samples(vet)[0]["score"].tolist() == [1]
    soft = json.dumps({"doc_id": 0, "target": "dog", "filtered_resps": "dogs", "exact_match": 0.3}) + "\n"
    assert read_lmms_samples(write(folder / "x_samples_vqav2_val.jsonl", soft))[0]["score"].tolist() == [0.3]

    old = write(
        tmp_path / "mme.json",
        json.dumps(
            {
                "logs": [
                    {
                        "doc_id": i,
                        "target": t,
                        "resps": [["Yes"]],
                        "doc": {"question_id": "count/1.png", "category": "count"},
                    }
                    for i, t in enumerate(("Yes", "No"))
                ]
            }
        ),
    )
    answers, _ = read_lmms_samples(old, model="m")
    assert len(answers["group"].unique()) == 1
    assert answers["correct"].tolist() == [True, False]


def test_logged_samples_that_are_none(tmp_path):
    path = write(tmp_path / "a_samples_gqa.jsonl", logged(0, "red", "red") + logged(1, "red", None))
    with pytest.raises(VlmProbeError, match=r"samples_gqa.jsonl, line 2: no logged answer \(filtered_resps or resps\)"):
        read_lmms_samples(path)
    answers, skipped = read_lmms_samples(path, skip_bad=True)
    assert (len(answers), len(skipped)) == (1, 1)
    empty = write(tmp_path / "c_samples_gqa.jsonl", logged(0, "red", "") + logged(1, "red", "red"))
    answers, skipped = read_lmms_samples(empty)
    assert (answers["correct"].tolist(), skipped) == ([False, True], []), "an empty answer is an answer"
    for name, why in (
        ("mme", "no category and no question_id"),
        ("mmvp", "no pair_index, so that pairs cannot be told"),
        ("vqav2_val", "neither the annotators' answers nor exact_match was logged"),
    ):
        line = json.dumps({"doc_id": 0, "target": "yes", "filtered_resps": "yes"})
        with pytest.raises(VlmProbeError, match=f"line 1: {why}"):
            read_lmms_samples(write(tmp_path / f"d_samples_{name}.jsonl", line))
    answers, _ = read_lmms_samples(write(tmp_path / "d_samples_mmerealworld.jsonl", logged(0, "A", "(a)")))
    assert answers["correct"].to_numpy().all()
    with pytest.raises(VlmProbeError, match="holds a list, expected a JSON object"):
        read_lmms_samples(write(tmp_path / "x.json", "[]"))
    with pytest.raises(VlmProbeError, match="has no list of logs"):
        read_lmms_samples(write(tmp_path / "x.json", "{}"))
    with pytest.raises(VlmProbeError, match="line 1: no target"):
        read_lmms_samples(write(tmp_path / "b_samples_gqa.jsonl", logged(0, None, "red")))


@pytest.mark.parametrize("said", [[["-3.2", "False"], ["-0.1", "True"]], [["-3.2", "False"]], [[[-3.2, False]]]])
def test_likelihoods_are_no_answers(tmp_path, said):
    path = write(tmp_path / "1_samples_scienceqa.jsonl", logged(0, "A", said))
    with pytest.raises(VlmProbeError, match=r"line 1: likelihoods of given answers were logged, not an answer"):
        read_lmms_samples(path)


def test_each_of_several_targets_counts(tmp_path):
    def scores(task: str, *lines: str) -> list[float]:
        path = write(tmp_path / f"1_samples_{task}.jsonl", "".join(lines))
        return read_lmms_samples(path)[0]["score"].tolist()

    said = ("Nokia", "nokia 6", "It is Nokia 6.", "nokia 7")
    assert scores("ocrbench", *(logged(i, ["nokia", "Nokia 6"], text) for i, text in enumerate(said))) == [1, 1, 1, 0]
    # Newer versions log a list as its text.
    assert scores("docvqa_val", logged(0, "['nokia', 'nokia 6']", "nokia 6")) == [1]
    assert scores("gqa", logged(0, ["couch", "sofa"], "Sofa")) == [1]
    assert scores("scienceqa", logged(0, ["A", "(c)"], "C. Both"), logged(1, ["A", "(c)"], "B")) == [1, 0]
    assert scores("pope", logged(0, ["Yes", "no"], "There is not")) == [1]
    # Ten targets are what ten annotators said, spellings among them.
    ten = ["nokia"] * 7 + ["nokia 6"] * 3
    assert scores("textvqa_val", logged(0, ten, "nokia 6")) == [pytest.approx((7 * 1 + 3 * 2 / 3) / 10)]
    # The document's own "answers" are annotators' where there are ten; of another number they may be anything.
    assert scores("vizwiz_vqa_val", logged(0, "nokia", "nokia 6", answers=ten)) == [pytest.approx(0.9)]
    assert scores("ai2d", logged(0, "red", "blue", answers=["red", "blue", "green"])) == [0]
    assert scores("ai2d", logged(0, "red", "red", answers="basketball")) == [1], "a text is no list of its letters"


def test_choices_of_several_targets_are_letters(tmp_path):
    path = write(tmp_path / "1_samples_scienceqa.jsonl", logged(0, ["A", "both"], "A"))
    with pytest.raises(VlmProbeError) as caught:
        read_lmms_samples(path)
    assert str(caught.value) == (
        f"{path}, line 1: the target must be a letter, got 'both' (--skip-bad leaves such lines out)"
    )
