"""Every family's rule on the same answers; sentences around an answer; several right answers; answer formats."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlm_probe.errors import VlmProbeError
from vlm_probe.items import Item, plain_answer, score_answer, suffix_of
from vlm_probe.items.normalize import word_spans, words_of
from vlm_probe.items.readers import BENCHMARK, BY_FAMILY
from vlm_probe.items.rules import by_form

FAMILIES = ("scenes", "own", "gqa", "vqav2", "mmvet", "mmvp", "pope", "mme")
"""Every family there is a rule for, and "own", for which there is none."""

TABLE = {
    # The word as it is: case, marks, articles, number words.
    ("blue", "Blue."): (1, 1, 1, 1, 1, 1, 1, 1),
    ("blue", "a blue"): (1, 1, 0, 1, 1, 1, 1, 1),
    ("two", "2"): (1, 1, 0, 1, 1, 1, 1, 1),
    ("t-shirt", "T shirt"): (1, 1, 0, 1, 1, 1, 1, 1),
    ("t-shirt", "tshirt"): (0, 0, 1, 0, 0, 0, 0, 0),
    # The word in a sentence: official rules of exact words take none, MM-Vet's part need only be named.
    ("blue", "The answer is blue."): (1, 1, 0, 0, 1, 1, 1, 1),
    ("blue", "It's blue"): (1, 1, 0, 0, 1, 1, 1, 1),
    ("blue", "The answer is not blue."): (0, 0, 0, 0, 1, 0, 0, 0),
    ("blue", "It is blue and red."): (0, 0, 0, 0, 1, 0, 0, 0),
    # Yes and no: MME looks at the first four characters, POPE at the first sentence.
    ("no", "No."): (1, 1, 1, 1, 1, 1, 1, 1),
    ("no", "The answer is no."): (1, 1, 0, 0, 1, 1, 1, 0),
    ("no", "No, there is none"): (0, 1, 0, 0, 1, 1, 1, 1),
    ("no", "There is not"): (0, 1, 0, 0, 1, 1, 1, 0),
    ("no", "N"): (0, 0, 0, 0, 0, 0, 0, 1),
    ("no", "Nothing"): (0, 0, 0, 0, 0, 0, 0, 1),
    ("no", "A yes, no?"): (0, 1, 0, 0, 1, 1, 1, 0),
    ("yes", "Yes, this is not a drawing"): (0, 0, 0, 0, 0, 0, 0, 1),
}
"""(The right answer, what was said) -> the score in each of `FAMILIES`. POPE and MME ask for no words: an item of
theirs that does is scored by its form."""


def asked(family: str, truth: str) -> Item:
    """An item as its family has them: ten annotators of VQAv2, parts of MM-Vet."""
    item = Item("x", family, "k", "x", "i", "q", truth)
    if family == "vqav2":
        return replace(item, answers=(truth,) * 10)
    return replace(item, parts=(truth,)) if family == "mmvet" else item


def test_the_table_has_every_family_with_a_rule():
    assert set(FAMILIES) == set(BY_FAMILY) | {"own"}


@pytest.mark.parametrize(("truth", "text"), TABLE)
def test_each_family_reads_an_answer_its_way(truth, text):
    found = {family: score_answer(asked(family, truth), text)[1] for family in FAMILIES}
    assert found == dict(zip(FAMILIES, TABLE[truth, text], strict=True))


@pytest.mark.parametrize(
    ("family", "text", "compared"),
    [
        ("scenes", "The answer is the Blue.", "blue"),
        ("own", "It is not blue!", "not blue"),
        ("gqa", " It\u2019s  the (Blue). ", "it\u2019s the blue"),  # ASCII marks alone
        ("vqav2", "The answer is blue.", "answer is blue"),
        ("mmvet", "Two, a blue one", "2 blue 1"),
        ("pope", "blue", "blue"),
    ],
)
def test_answers_as_they_are_compared(family, text, compared):
    assert score_answer(asked(family, "blue"), text)[0] == compared


def test_a_choice_is_its_letter_with_a_benchmark_or_without():
    for family in ("mmvp", "own"):
        item = replace(asked(family, "(b)"), kind="choice")
        assert score_answer(item, "The answer is B.") == ("b", 1.0)
        assert score_answer(item, "(a) open") == ("a", 0.0)


FRAMES = (
    "The answer is ",
    "the correct answer is: ",
    "Answer: ",
    "Answer is ",
    "The final answer: ",
    "**Answer:** ",
    "It is ",
    "It\u2019s ",
    "this is ",
    "That's ",
    "There are ",
    "They're ",
    "Those are ",
    "Answer: it is ",
    "",
)


@pytest.mark.parametrize("frame", FRAMES)
def test_a_frame_turns_no_wrong_answer_right_and_no_right_one_wrong(frame):
    item = asked("own", "blue")
    for right in ("blue", "Blue.", "a blue", '"blue"', "**blue**", "'blue.'", "`blue`!"):
        assert score_answer(item, frame + right) == ("blue", 1.0), right
    for wrong in ("not blue", "blue and red", "blue or red", "bluish", "n't blue", "no blue", "red, not blue", "", "."):
        assert score_answer(item, frame + wrong)[1] == 0, wrong
    # (A sign is a mark to VQA's normalisation, with a frame or without.)
    for said, number in ((".5", "5"), ("3.5", "3"), ("1,000", "1")):
        assert score_answer(asked("own", number), frame + said)[1] == 0, said
        assert score_answer(asked("own", said), frame + said)[1] == 1, said


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("The answer isn't blue", "The answer isn't blue"),
        ("It is", "It is"),
        ("Answer:", "Answer:"),
        ("answers: blue", "answers: blue"),
        ("The opposite of the answer is blue", "The opposite of the answer is blue"),
        ("Is it blue?", "Is it blue?"),
        ("It was blue", "It was blue"),
        ("It is it is blue", "it is blue"),
        ("The answer is: \u201cblue\u201d.", "blue"),
        ("It is blue.\nIt is red.", "blue.\nIt is red"),
        ("  ...  ", "..."),
        ("", ""),
    ],
)
def test_what_is_a_frame_and_what_is_none(text, plain):
    assert plain_answer(text) == plain


def test_an_answer_that_begins_like_a_frame():
    assert score_answer(asked("own", "it is raining"), "It is raining.") == ("it is raining", 1.0)
    assert score_answer(asked("own", "answer"), "The answer") == ("answer", 1.0)


@given(st.text(alphabet=st.sampled_from("is thea*nwr:.,'-3 \n")) | st.text())
def test_a_plain_answer_is_the_end_of_what_was_said(text):
    every, plain = words_of(text), words_of(plain_answer(text))
    assert every[len(every) - len(plain) :] == plain
    assert bool(plain_answer(text)) == bool(text.strip())


def test_words_and_where_they_begin():
    text = "A T-shirt: -3 of 1,000, two!"
    assert word_spans(text) == [("t", 2), ("shirt", 4), ("-3", 11), ("of", 14), ("1000", 17), ("2", 24)]
    assert word_spans(text, articles=True)[0] == ("a", 0)


def test_of_several_right_answers_any_counts():
    for family, item in {family: asked(family, "couch") for family in FAMILIES if family != "vqav2"}.items():
        several = replace(item, also=("2 sofas", "settee"))
        parts = item.parts and ("couch<OR>2 sofas<OR>settee",)
        found = [
            score_answer(replace(several, parts=parts), text)[1] for text in ("Couch", "2 sofas", "settee.", "bed")
        ]
        assert found == [1, 1, 1, 0], family
    none = Item("x", "own", "k", "x", "i", "q", "no", also=("none",))
    assert score_answer(none, "None.") == ("0", 1.0)
    assert score_answer(none, "There is not.") == ("no", 1.0)
    assert score_answer(none, "yes") == ("yes", 0.0), "what is compared with the first"
    letters = Item("x", "mmvp", "choice", "x", "i", "q", "(a)", also=("(c)",))
    assert [score_answer(letters, text)[1] for text in ("A", "b", "(c)")] == [1, 0, 1]
    # What annotators said is all there is to VQA's soft accuracy.
    assert score_answer(replace(asked("vqav2", "couch"), also=("bed",)), "bed")[1] == 0


def test_vqa_without_annotators_is_the_one_answer():
    assert score_answer(Item("x", "vqav2", "k", "x", "i", "q", "two"), "2") == ("2", 1.0)


def test_a_family_without_a_rule_is_scored_by_its_form():
    item = asked("own", "no")
    assert score_answer(item, "There is not") == by_form(item, "There is not") == ("no", 1.0)


SHORT = "\nAnswer the question using a single word or phrase."


@pytest.mark.parametrize(
    ("family", "format"),
    [
        *((family, SHORT) for family in ("gqa", "vqav2", "pope", "mme")),
        ("mmvp", "\nAnswer with the option's letter from the given choices directly."),
        ("mmvet", ""),
        ("scenes", ""),
        ("own", ""),
    ],
)
def test_each_benchmark_has_its_answer_format(family, format):
    item = asked(family, "x")
    assert suffix_of(item, BENCHMARK) == format
    assert suffix_of(item, "") == ""
    assert suffix_of(item, "Be short.") == suffix_of(item, "\nBe short.") == "\nBe short."


def test_a_question_of_ones_own_is_of_no_benchmark():
    assert suffix_of(None, "Be short.") == "\nBe short."
    with pytest.raises(VlmProbeError) as caught:
        suffix_of(None, "benchmark")
    assert str(caught.value) == "a question of one's own is of no benchmark; give the suffix itself"
