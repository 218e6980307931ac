"""Sinks: planted ones are found and nothing else is, whatever the length, the window, the padding and the question."""

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from vlm_probe import VlmProbeError
from vlm_probe.attention import head_summary, sink_positions, sinks
from vlm_probe.layout import ImageSpan, TokenLayout
from vlm_probe.layout.groups import positions_of
from vlm_probe.trace import Trace

GRID_OF = (5, 7)
EIGHT = range(2, 10)
"""Lengths of eight questions."""


def prompt(question: int = 5, *, grid: tuple[int, int] = GRID_OF, kept: int = 0, padding: int = 0) -> TokenLayout:
    """Padding, "B" and ":", an image (registers that are kept, patches), "Q", the question, "?" and "A"."""
    n = grid[0] * grid[1]
    before = padding + 2
    patches = before + kept + np.arange(n)
    behind = int(patches[-1]) + 1
    length = behind + 1 + question + 2
    words = [chr(ord("a") + (question + i) % 26) for i in range(question)]
    return TokenLayout(
        length=length,
        images=(ImageSpan(patches, grid, before + np.arange(kept), leading=kept),),
        text_positions=np.array([padding, padding + 1, *range(behind, length)]),
        question_positions=behind + 1 + np.arange(question),
        answer_position=length - 1,
        tokens=(*"_" * padding, "B", ":", *"i" * (kept + n), "Q", *words, "?", "A"),
    )


def seen(layout: TokenLayout, window: int | None = None) -> torch.Tensor:
    """Which key a query may see, [query, key]: no padding, nothing behind it, nothing a window has passed."""
    n = layout.length
    first = int(layout.text_positions.min())
    back = torch.arange(n)[:, None] - torch.arange(n)[None]
    may = (back >= 0) & (back < (window or n))
    may[:, :first] = False
    # Rows of padding attend somewhere too: anywhere.
    may[:first] = True
    return may


def even(layout: TokenLayout, window: int | None = None) -> torch.Tensor:
    may = seen(layout, window).float()
    return may / may.sum(-1, keepdim=True)


def giving(layout: TokenLayout, to: int | Sequence[int], share: float, window: int | None = None) -> torch.Tensor:
    """Every query gives this share of its attention to some positions, where it may see them, and the rest evenly."""
    pattern, may = even(layout, window), seen(layout, window)
    for position in [to] if isinstance(to, int) else to:
        sees = may[:, position]
        pattern[sees] *= 1 - share
        pattern[sees, position] += share
    return pattern


def trace(
    layout: TokenLayout, *layers: torch.Tensor, heads: int = 3, model: str = "handmade", image: str = ""
) -> Trace:
    """Without a name, prompts of different lengths are about different images."""
    return Trace(
        {f"language.blocks.{i}.attn.hook_pattern": p.expand(1, heads, -1, -1) for i, p in enumerate(layers)},
        layout,
        torch.zeros(layout.length, 3),
        {"model": model, "prompt": "a prompt", "images": [image or f"of {layout.length}"]},
        depth={"language": len(layers), "vision": 0},
    )


def patch(layout: TokenLayout, number: int) -> int:
    return int(layout.image_positions[number])


def named(found: pd.DataFrame) -> list[list[Any]]:
    return found[["layer", "kind", "index"]].to_numpy(dtype=object).tolist()


def test_a_patch_that_collects_attention_in_all_questions_is_found_and_nothing_else():
    layouts = [prompt(n) for n in EIGHT]
    found = sinks([trace(one, even(one), giving(one, patch(one, 17), 0.3)) for one in layouts])
    assert named(found) == [[1, "image", 17]]
    row = found.iloc[0]
    assert (row["position"], row["token"], row["held"]) == (patch(layouts[0], 17), "i", 1.0)
    # Even attention is 1 / the number of positions seen, 37 and more: 0.3 and 0.7 of that.
    evens = [np.mean([1 / (q + 1) for q in range(38, one.length)]) for one in layouts]
    assert row["received"] == pytest.approx(np.mean([0.3 + 0.7 * e for e in evens]), rel=1e-5)
    assert row["times_even"] == pytest.approx(np.mean([0.3 / e + 0.7 for e in evens]), rel=1e-5)
    assert found.attrs["questions"] == found.attrs["prompts"] == 8
    assert found.attrs["candidates"] == 38
    assert "caveat" not in found.attrs
    assert "prompt" not in found.attrs, "there are eight of them"


@pytest.mark.parametrize("question", [1, 2, 7, 61])
@pytest.mark.parametrize("grid", [(1, 1), (5, 7), (13, 17)])
def test_even_attention_has_no_sinks_at_any_length(grid, question):
    layout = prompt(question, grid=grid)
    traces = [trace(layout, even(layout))]
    assert sinks(traces, factor=1.0001).empty
    # All of it is exactly even, the last token before the question as well as the first.
    all_ = sinks(traces, factor=0.9999)
    assert all_["position"].tolist() == list(range(int(layout.question_positions[0])))
    np.testing.assert_allclose(all_["times_even"], 1, rtol=1e-5)


def test_the_question_is_no_sink_however_much_it_collects():
    layouts = [prompt(n) for n in EIGHT]
    asked = [giving(one, one.question_positions[[0, -1]].tolist(), 0.45) for one in layouts]
    whole = [giving(one, range(int(one.question_positions[0]), one.length), 0.2) for one in layouts]
    assert sinks([trace(one, *two) for one, *two in zip(layouts, asked, whole, strict=True)], factor=1.01).empty
    for layout, pattern in zip(layouts, asked, strict=True):
        assert sinks(trace(layout, pattern), factor=1.01).empty


def test_a_patch_that_one_question_is_about_is_no_sink():
    layouts = [prompt(n) for n in EIGHT]
    traces = [trace(one, giving(one, patch(one, 3), 0.9) if i == 5 else even(one)) for i, one in enumerate(layouts)]
    assert sinks(traces).empty
    alone = sinks(traces[5])
    assert named(alone) == [[0, "image", 3]]
    assert alone.attrs["caveat"] == "one question: what it collects for other questions is not known"


@pytest.mark.parametrize(("holding", "share", "found"), [(9, 0.9, True), (8, 0.9, False), (8, 0.8, True)])
def test_a_sink_holds_in_nearly_all_questions(holding, share, found):
    layouts = [prompt(n) for n in range(2, 12)]
    traces = [trace(one, giving(one, 0, 0.5) if i < holding else even(one)) for i, one in enumerate(layouts)]
    table = sinks(traces, share=share)
    assert named(table) == ([[0, "text", 0]] if found else [])
    assert table["held"].tolist() == ([holding / 10] if found else [])


@pytest.mark.parametrize("window", [1, 2, 5, 11, 29])
def test_a_sliding_window_makes_no_sinks(window):
    layouts = [prompt(n) for n in EIGHT]
    assert sinks([trace(one, even(one, window)) for one in layouts], factor=1.0001).empty
    # The last token before the question gets much from the first query, and the last one is past seeing it.
    last = int(layouts[0].question_positions[0]) - 1
    judged = sinks([trace(one, giving(one, last, 0.5, window)) for one in layouts], factor=2)
    assert named(judged) == ([[0, "text", 2]] if window >= 13 else [])


def test_in_a_window_who_is_seen_by_all_queries_is_judged():
    layout = prompt(5)
    start = int(layout.question_positions[0])
    window = layout.length - start + 3
    found = sinks(trace(layout, giving(layout, start - 2, 0.5, window), giving(layout, 1, 0.5, window)), factor=2)
    assert named(found) == [[0, "image", 34]]
    all_ = sinks(trace(layout, even(layout, window)), factor=0.99)
    assert all_["position"].tolist() == [start - 3, start - 2, start - 1]
    np.testing.assert_allclose(all_["times_even"], 1, rtol=1e-5)


def test_attention_that_goes_to_one_position_alone_is_compared_with_all_that_could_be_seen():
    layout = prompt()
    pattern = torch.zeros(layout.length, layout.length)
    pattern[:, 0] = 1
    found = sinks(trace(layout, pattern))
    assert named(found) == [[0, "text", 0]]
    assert found["received"].tolist() == [1]


def test_heads_are_averaged():
    layout = prompt()
    heads = torch.stack([giving(layout, 0, 0.6), even(layout), even(layout)])
    expected = np.mean([0.2 + (0.4 + 1 + 1) / 3 / (q + 1) for q in range(38, layout.length)])
    np.testing.assert_allclose(sinks(trace(layout, heads))["received"], [expected], rtol=1e-5)


@pytest.mark.parametrize("padding", [3, 11])
def test_padding_never_counts(padding):
    padded, plain = prompt(5, padding=padding), prompt(7)
    both = [trace(one, giving(one, patch(one, 17), 0.3)) for one in (padded, plain)]
    for traces, layout in ((both, padded), (both[::-1], plain)):
        found = sinks(traces)
        assert named(found) == [[0, "image", 17]], "aligned by what they are, not by where they stand"
        assert found["position"].tolist() == [patch(layout, 17)]
    assert sinks(trace(padded, even(padded)), factor=1.0001).empty
    # Even where padding is not masked.
    leaky = giving(padded, 0, 0.9) * 0.1
    leaky[:, 0] = 0.9
    assert sinks(trace(padded, leaky), factor=1.0001).empty


def test_registers_that_the_model_keeps_are_called_so():
    layouts = [prompt(n, kept=2) for n in EIGHT]
    found = sinks([trace(one, giving(one, [2, 3, 4], 0.25)) for one in layouts], factor=4)
    assert named(found) == [[0, "register", 0], [0, "register", 1], [0, "image", 0]]


def test_template_tokens_are_aligned_by_number_and_text():
    layouts = [prompt(n) for n in EIGHT]
    last = int(layouts[0].question_positions[0]) - 1
    traces = [trace(one, giving(one, last, 0.5)) for one in layouts]
    assert named(sinks(traces)) == [[0, "text", 2]]
    # The tokenizer has drawn it together with the question's first character.
    tokens = list(layouts[0].tokens)
    tokens[last] = "Qa"
    traces[0].layout = replace(layouts[0], tokens=tuple(tokens))
    assert sinks(traces).empty


def test_without_a_known_question_it_is_all_text_behind_the_image():
    layout = replace(prompt(), question_positions=np.zeros(0, dtype=np.int64))
    found = sinks(trace(layout, even(layout)), factor=0.99)
    assert found["position"].tolist() == list(range(37))
    text = replace(layout, images=(), text_positions=np.arange(layout.length))
    nothing = sinks(trace(text, even(layout)), factor=0.01)
    assert (len(nothing), nothing.attrs["candidates"]) == (0, 0)
    last = replace(layout, text_positions=np.array([0, 1]), length=37, answer_position=36, tokens=layout.tokens[:37])
    assert sinks(trace(last, even(last)), factor=0.01).empty, "nobody is left to look"


def test_few_questions_are_said_to_be_few():
    layouts = [prompt(n) for n in (3, 3, 4, 5)]
    found = sinks([trace(one, even(one)) for one in layouts])
    assert found.attrs["questions"] == 3
    assert found.attrs["caveat"] == "3 different questions: too few to say what it collects for others"
    wordless = [replace(one, tokens=()) for one in layouts]
    assert sinks([trace(one, even(one)) for one in wordless]).attrs["questions"] == 4


def test_one_image_is_said_to_be_one():
    layouts = [prompt(n) for n in EIGHT]
    found = sinks([trace(one, even(one), image="same") for one in layouts])
    assert found.attrs["images"] == 1
    assert found.attrs["caveat"] == "one image: a patch that all questions are about is not told from a sink"
    more = sinks([trace(one, even(one), image=f"of {i % 3}") for i, one in enumerate(layouts)])
    assert more.attrs["images"] == 3
    assert "caveat" not in more.attrs


def test_what_cannot_be_compared_is_refused():
    layout, other = prompt(), prompt(grid=(3, 11))
    one = trace(layout, even(layout))
    for traces, options, message in (
        ([], {}, "there is no trace to find sinks in"),
        ([one, trace(layout, even(layout), model="b")], {}, "sinks are of one model, the traces are of handmade and b"),
        (
            [one, trace(layout, even(layout), even(layout))],
            {},
            "the traces hold the attention of different layers: capture the same ones",
        ),
        (
            [one, trace(other, even(other))],
            {},
            "the prompts show images of 5 x 7 and of 3 x 11 patches, which cannot be compared one by one: find their "
            "sinks apart",
        ),
        (
            trace(layout),
            {},
            "the trace holds no language attention; capture language.blocks.*.attn.hook_pattern (the default of "
            "model.trace)",
        ),
        (one, {"factor": 0}, "factor must be above 0, got 0"),
        (one, {"share": 1.5}, "share must be above 0 and at most 1, got 1.5"),
    ):
        with pytest.raises(VlmProbeError, match=f"^{re.escape(message)}$"):
            sinks(traces, **options)


def test_a_summary_of_heads_takes_the_sinks_it_is_given():
    layouts = [prompt(n) for n in EIGHT]
    sunk = [trace(one, even(one), giving(one, patch(one, 17), 0.3)) for one in layouts]
    found = sinks(sunk)
    # Another question about the image, whose prompt is padded: the sink is the same patch, and so is no other.
    layout = prompt(23, padding=5)
    asked = trace(layout, even(layout), giving(layout, patch(layout, 2), 0.6))
    summary = head_summary(asked, sinks=found)
    n = layout.length - 5
    np.testing.assert_allclose(summary["sink_mass"], [[0] * 3, [0.4 / n] * 3], rtol=1e-5)
    np.testing.assert_allclose(summary["image_mass_without_sinks"][1], 0.6 + 0.4 * 34 / n, rtol=1e-5)
    assert "sink_caveat" not in summary.attrs
    alone = head_summary(asked)
    np.testing.assert_allclose(alone["sink_mass"], [[0] * 3, [0.6 + 0.4 / n] * 3], rtol=1e-5)
    assert alone.attrs["sink_caveat"] == "one question: what it collects for other questions is not known"
    assert positions_of(layout, "image & sink", sinks=sink_positions(found, layout)).tolist() == [patch(layout, 17)]
    assert sink_positions(found, layout, layer=0) == []


def test_sinks_of_something_else_are_refused():
    layout, small = prompt(), prompt(grid=(1, 3))
    found = sinks(trace(layout, giving(layout, patch(layout, 17), 0.3)))
    with pytest.raises(VlmProbeError, match="^these sinks are of handmade, the trace is of b$"):
        head_summary(trace(layout, even(layout), model="b"), sinks=found)
    two = pd.concat([found.assign(image=name) for name in "ab"])
    with pytest.raises(VlmProbeError, match="^these sinks are of 2 images: take those of one of them$"):
        head_summary(trace(layout, even(layout)), sinks=two)
    message = "these sinks were found in prompts of another form: this one has no image position 17 with token 'i'"
    with pytest.raises(VlmProbeError, match=f"^{message}$"):
        head_summary(trace(small, even(small)), sinks=found)
