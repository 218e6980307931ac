"""Logs as lmms-eval 0.7 writes them: no `doc`, one answer unwrapped, the prompt and the images' names beside it."""

import json

import pytest

from vlm_probe.errors import VlmProbeError
from vlm_probe.items.logs import read_lmms_samples
from vlm_probe.items.scores import metric_table


def line(number: int, target: object, said: str, **more) -> str:
    """A line of `save_results_samples` (lmms_eval/loggers/evaluation_tracker.py)."""
    about = {"doc_id": number, "target": str(target), "filtered_resps": said, "token_counts": [None]}
    return json.dumps({**about, "doc_hash": "3f", "input": f"Question {number}?\nAnswer shortly.", **more}) + "\n"


def log(tmp_path, task: str, *lines: str):
    path = tmp_path / f"20260806_102223_samples_{task}.jsonl"
    path.write_text("".join(lines))
    return path


def pope(number: int, truth: str, said: str) -> str:
    about = {"question_id": str(number), "score": 1.0, "prediction": said.lower(), "ground_truth": truth}
    names = ("accuracy", "precision", "recall", "f1_score", "yes_ratio")
    return line(number, truth, said, **{f"pope_{name}": about for name in names})


def test_the_question_is_the_prompt_where_no_document_was_logged(tmp_path):
    answers, _ = read_lmms_samples(log(tmp_path, "pope", pope(3, "yes", "Yes"), pope(4, "no", "Yes")), model="m")
    assert answers["id"].tolist() == ["pope-3-3", "pope-4-4"]
    assert answers["question"].tolist() == ["Question 3?\nAnswer shortly.", "Question 4?\nAnswer shortly."]
    assert answers["correct"].tolist() == [True, False]
    assert answers["image"].tolist() == ["", ""]
    vet = {"question_id": "v1", "question": "What is x?", "gt_ans": "1", "score": 0.5}
    answers, _ = read_lmms_samples(log(tmp_path, "mmvet", line(0, "1", "x is 1", gpt_eval_score=vet)))
    assert answers["question"].tolist() == ["What is x?"]


def test_images_are_told_apart_by_the_names_of_what_was_put_in(tmp_path):
    def asked(number: int, *media: str) -> str:
        return line(number, "red", "Red", input_media=list(media), exact_match=1.0)

    data = "data:image/png;base64,iVBOR"
    lines = (asked(0, "a.png"), asked(1, "a.png"), asked(2, "a.png", "b.png"), asked(3, data), asked(4))
    answers, _ = read_lmms_samples(log(tmp_path, "gqa", *lines))
    assert answers["image"].tolist() == ["a.png", "a.png", "", "", ""]
    own = line(0, "red", "Red", input_media=["c.png"], doc={"imageId": "n1"})
    assert read_lmms_samples(log(tmp_path, "gqa", own))[0]["image"].tolist() == ["n1"]


def test_the_target_of_vqav2_is_no_answer(tmp_path):
    """Its documents have no field "answer", so that every target is that word."""
    scored = line(0, "answer", "dogs", exact_match=0.3), line(1, "answer", "answer", exact_match=0.0)
    answers, _ = read_lmms_samples(log(tmp_path, "vqav2_val", *scored))
    assert answers["truth"].tolist() == ["", ""]
    assert answers["score"].tolist() == [0.3, 0.0]
    assert metric_table(answers)["value"].tolist() == [pytest.approx(0.15)]
    ten = [{"answer": text} for text in ["dog"] * 6 + ["dogs"] * 4]
    known = line(0, "answer", "dogs", doc={"answers": ten, "question": "What?"})
    chosen = line(1, "answer", "dogs", doc={"answers": ten, "multiple_choice_answer": "a dog"})
    answers, _ = read_lmms_samples(log(tmp_path, "vqav2_val_lite", known, chosen))
    assert answers["truth"].tolist() == ["dog", "a dog"]
    assert answers["score"].tolist() == [pytest.approx((4 * 1 + 6) / 10)] * 2
    # Elsewhere it is a word as any other.
    assert read_lmms_samples(log(tmp_path, "gqa", line(0, "answer", "Answer")))[0]["truth"].tolist() == ["answer"]
    tested = line(0, "answer", "dogs", submission={"question_id": 1, "answer": "dogs"})
    with pytest.raises(VlmProbeError) as caught:
        read_lmms_samples(log(tmp_path, "vqav2_test", tested))
    assert str(caught.value).endswith(
        "line 1: neither the annotators' answers nor exact_match was logged (--skip-bad leaves such lines out)"
    )


def test_pairs_without_a_number_are_not_one_pair(tmp_path):
    lost = {"index": -1, "pair_index": -1, "is_correct": True}
    with pytest.raises(VlmProbeError) as caught:
        read_lmms_samples(log(tmp_path, "mmvp", line(0, "A", "A", mmvp_accuracy=lost)))
    assert str(caught.value).endswith(
        "line 1: no pair_index, so that pairs cannot be told (--skip-bad leaves such lines out)"
    )


def test_each_notice_is_given_once(command, tmp_path):
    first = log(tmp_path, "pope", pope(3, "yes", "Yes"), pope(4, "no", "Yes"))
    second = log(tmp_path, "gqa", line(0, "red", "Red"))
    third = log(tmp_path, "scienceqa", line(0, "A", "A"))
    logs = [word for path in (first, second, third) for word in ("--answers", path)]
    ended = command("evaluate", *logs, "--out", tmp_path / "out")
    assert ended.code == 0
    assert ended.err == (
        f"{first} and 2 more do not tell which questions are about one image: intervals take each question (or pair) "
        "for itself\n"
    )
