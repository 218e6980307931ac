"""Groups of positions: what each name holds, worked by hand, and their combinations."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlm_probe.errors import VlmProbeError
from vlm_probe.layout import ImageSpan, ImageTransform, PixelBox, TokenLayout, UnitBox
from vlm_probe.layout.groups import GROUPS, positions_of

# B, six patches (2 rows x 3 columns of 5 pixels), a kept register before them, S, question of two, T, A.
SPAN = ImageSpan(np.arange(2, 8), (2, 3), np.array([1]), ImageTransform.of((15, 10), (15, 10)), 5, leading=2)
LAYOUT = TokenLayout(
    length=14,
    images=(SPAN,),
    text_positions=np.array([0, 8, 9, 10, 11, 12]),
    question_positions=np.array([9, 10]),
    answer_position=12,
)
BOXES = (PixelBox(6, 1, 9, 4), UnitBox(0.7, 0.6, 1.0, 1.0))
"""The middle patch above, the right one below."""
SINKS = (0, 3)


THERE = f"there are {', '.join(GROUPS)} and the words of the question, which combine with &, | and ~, or give numbers"


def at(where, **more):
    return positions_of(LAYOUT, where, boxes=BOXES, sinks=SINKS, **more).tolist()


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("all", list(range(14))),
        ("image", [2, 3, 4, 5, 6, 7]),
        ("box", [3, 7]),
        ("background", [2, 4, 5, 6]),
        ("sink", [0, 3]),
        ("text", [0, 8, 9, 10, 11, 12]),
        ("question", [9, 10]),
        ("prompt", [0, 8, 11]),
        ("tail", [11]),
        ("answer", [12]),
        ("image & ~sink", [2, 4, 5, 6, 7]),
        ("box | answer", [3, 7, 12]),
        ("~(image | text)", [1, 13]),
        (5, [5]),
        ([7, 2], [7, 2]),
    ],
)
def test_by_hand(where, expected):
    assert at(where) == expected


@given(st.sampled_from(sorted(GROUPS)), st.sampled_from(sorted(GROUPS)))
def test_combinations_are_those_of_sets(a, b):
    one, two, every = set(at(a)), set(at(b)), set(range(14))
    for where, expected in ((f"{a} & {b}", one & two), (f"{a} | {b}", one | two), (f"~{a}", every - one)):
        if expected:
            assert set(at(where)) == expected
        else:
            with pytest.raises(VlmProbeError, match="this prompt has no "):
                at(where)


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("imgae", f"no positions 'imgae'; {THERE}"),
        ("image -", f"no positions 'image -'; {THERE}"),
        ("image + text", f"no positions 'image + text'; {THERE}"),
        ([14], "positions must be between 0 and 13, got [14]"),
        ([], "positions must be between 0 and 13, got []"),
        ("box & answer", "this prompt has no box & answer positions"),
    ],
)
def test_what_is_refused(where, message):
    with pytest.raises(VlmProbeError) as error:
        at(where)
    assert str(error.value) == message


def test_what_is_missing_is_said():
    with pytest.raises(VlmProbeError, match="^positions 'background' need the item's boxes, and there is none$"):
        positions_of(LAYOUT, "background")
    with pytest.raises(VlmProbeError, match="^positions 'sink' need the sinks that were found, and there is none$"):
        positions_of(LAYOUT, "image & sink")


def test_rows_of_activations_and_pixel_edges():
    """What stands before the patches differs from part to part; the span knows, and nobody else has to."""
    assert SPAN.rows_at("vision.blocks.0.hook_resid_post").tolist() == [2, 3, 4, 5, 6, 7]
    assert SPAN.rows_at("connector.hook_out").tolist() == [1, 2, 3, 4, 5, 6]
    assert SPAN.rows_at("language.hook_embed").tolist() == [2, 3, 4, 5, 6, 7]
    edges = {name: (axis, values.tolist()) for name, (axis, values) in SPAN.edges().items()}
    assert edges == {
        "left": ("col", [0, 5, 10]),
        "right": ("col", [5, 10, 15]),
        "top": ("row", [0, 5]),
        "bottom": ("row", [5, 10]),
    }


# B, question "Is the Start-star red? star" in pieces of a tokenizer, A.
WORDS = TokenLayout(
    length=11,
    images=(),
    text_positions=np.arange(11),
    question_positions=np.arange(1, 10),
    answer_position=10,
    tokens=("<bos>", "Is", " the", " Start", "-", "st", "ar", " red", "?", " star", ":"),
)


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("star", [5, 6, 9]),
        ("STAR | answer", [5, 6, 9, 10]),
        ("'red?'", [7, 8]),
        ("'is the'", [1, 2]),
        ("question & ~the & ~star", [1, 3, 4, 7, 8]),
    ],
)
def test_words_of_the_question(where, expected):
    assert positions_of(WORDS, where).tolist() == expected


def test_words_that_the_question_does_not_have():
    for where in ("sta", "bos", "'<bos>'"):
        with pytest.raises(VlmProbeError) as caught:
            positions_of(WORDS, where)
        assert str(caught.value) == f"no positions {where.strip(chr(39))!r}; {THERE}"
    # A name that a group has is the group's; in quotation marks it is a word.
    asks = replace(WORDS, tokens=(*WORDS.tokens[:9], " box", ":"))
    assert positions_of(asks, "'box'").tolist() == [9]
    with pytest.raises(VlmProbeError, match="positions 'box' need the item's boxes"):
        positions_of(asks, "box")
    with pytest.raises(VlmProbeError, match="no positions 'star'"):  # without a tokenizer there are no words
        positions_of(replace(WORDS, tokens=()), "star")
