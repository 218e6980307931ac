"""V2: what tokenizers make of the items' text, by hand, and said to be a description."""

from dataclasses import replace

import pytest
from tiny import tiny_language, tiny_tokenizer

from vlm_probe.errors import VlmProbeError
from vlm_probe.evidence import Verdict, judge_all
from vlm_probe.findings import run
from vlm_probe.findings.v2_use import FINDING, vocabulary_use
from vlm_probe.hooked import HookedVLM
from vlm_probe.scenes import scene_items

FIRST = next(scene_items(1))
ITEMS = [
    replace(FIRST, id="a", question="is it red?", answer="yes", image="one"),
    replace(FIRST, id="b", question="why", answer="", image="two"),
]


@pytest.fixture(scope="module")
def characters():
    """A model that reads a token a character."""
    model = tiny_language("llama")
    model.tokenizer = tiny_tokenizer()
    return model


def test_tokens_words_and_use_by_hand(characters):
    tables = vocabulary_use(characters, ITEMS)
    assert tables["items"][["id", "image", "tokens", "words"]].values.tolist() == [
        ["a", "one", 14, 5],
        ["b", "two", 3, 1],
    ]
    answers = tables["items"]["answer_tokens"]
    assert answers.iloc[0] == 4  # the space before it is one too
    assert answers.isna().tolist() == [False, True]
    usage = tables["usage"].iloc[0]
    letters = set("is it red? yes" + "why")
    assert (usage["tokens"], usage["words"], usage["used"]) == (17, 6, len(letters))
    assert usage["unused"] == usage["vocabulary"] - len(letters)
    assert usage["tokens_per_word"] == pytest.approx(17 / 6)
    assert usage["used_share"] + usage["unused_share"] == pytest.approx(1)
    assert tables["growth"].iloc[-1].tolist() == pytest.approx([17, len(letters)])


def test_all_of_it_is_a_description(characters):
    tables = vocabulary_use(characters, ITEMS)
    rows = judge_all(FINDING.claims, {"a": tables, "b": tables})
    assert {row.verdict for row in rows} == {Verdict.DESCRIPTIVE}
    assert {row.claim for row in rows} == {f"{n}{m}" for n in ("used", "fertility", "answers") for m in ("", "_more")}
    pair = next(row for row in rows if row.claim == "fertility_more")
    assert (pair.value, pair.control, pair.difference) == (pytest.approx(17 / 6), pytest.approx(17 / 6), 0)


def test_a_model_without_a_tokenizer_is_refused():
    hf = tiny_language("llama").hf
    model = HookedVLM(type(hf)(hf.config), name="bare")
    with pytest.raises(VlmProbeError) as caught:
        vocabulary_use(model, ITEMS)
    assert str(caught.value) == (
        "bare has no tokenizer, so nothing says which of its tokens a text uses; open it from a folder that holds one"
    )


def test_it_is_measured_and_shown():
    result = run(["V2"], ["replica/small-clip", "replica/small-clip-v320"], list(scene_items(20)))
    shown = result.shown(FINDING)
    assert set(shown.tables) == {"usage", "growth"}
    assert shown.tables["usage"]["model"].tolist() == ["replica/small-clip", "replica/small-clip-v320"]
    # The smaller vocabulary spells longer, and uses more of itself.
    by_model = shown.tables["usage"].set_index("model")
    assert by_model["tokens_per_word"].is_monotonic_increasing
    assert by_model["used_share"].is_monotonic_increasing
    assert shown.summary[0].startswith("The 20 questions with their answers use ")
    assert result.untrained == {}
