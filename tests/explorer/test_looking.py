"""A look is what the methods say: maps to a step of a byte, words and knockout to the letter, patches to the pixel."""

import json
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import GRID, PATCHES, tiny_language, tiny_vlm

import vlm_probe
from vlm_probe.attention import image_attention, per_token, relevancy, sinks
from vlm_probe.causal import knockout_sweep
from vlm_probe.embedding import nearest_tokens
from vlm_probe.errors import VlmProbeError
from vlm_probe.explorer import SHOWN, Explorer, explore, look, look_at_trace, unpacked
from vlm_probe.explorer.packing import Words
from vlm_probe.items import Item
from vlm_probe.lens.contextual_lens import build_bank, contextual_lens
from vlm_probe.lens.logit_lens import lens

TOKENS = [5, 17, 6]
QUESTION = "what?"
WIDE = Image.fromarray(np.random.default_rng(0).integers(0, 255, (17, 31, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def model():
    return tiny_vlm()


@pytest.fixture(scope="module")
def inputs(model):
    return model.prepare(WIDE, QUESTION)


@pytest.fixture(scope="module")
def bank(model):
    return build_bank(model, ["a red star", "two blue stars", "no"])


@pytest.fixture(scope="module")
def made(model, inputs, bank) -> dict[str, Any]:
    return look(model, inputs, tokens=TOKENS, name="wide.png", bank=bank, windows=[1, 2], draws=2, words=2)


def within_a_step(read: dict[str, Any], values: np.ndarray) -> bool:
    """Whether packed values are these, as exactly as a byte holds them: a step is a 255th of a map's range."""
    step = (values.max(-1, keepdims=True) - values.min(-1, keepdims=True)) / 255
    return bool((np.abs(unpacked(read) - values) <= 0.5 * step + 1e-6 * np.abs(values).max()).all())


def texts(made: dict[str, Any], numbers: dict[str, Any]) -> list[str]:
    import base64

    data = np.frombuffer(base64.b64decode(numbers["data"]), f"<u{numbers['bits'] // 8}")
    return [made["words"][i] for i in data]


def test_nothing_is_missing_and_all_is_json(made):
    assert made["missing"] == {}
    assert json.loads(json.dumps(made, allow_nan=False)) == made
    assert (made["name"], made["question"], made["depth"]) == ("wide.png", QUESTION, 3)
    assert [token["id"] for token in made["tokens"]] == TOKENS


@pytest.mark.parametrize("name", SHOWN)
def test_maps_are_those_of_per_token(made, model, inputs, name):
    found = per_token(model, inputs, map=name, tokens=TOKENS)
    assert within_a_step(made["maps"][name]["values"], found.to_numpy().reshape(3, PATCHES).astype(float))
    assert made["maps"][name]["signed"] == bool((found < 0).any())
    assert made["maps"][name]["citation"] == found.attrs["citation"]
    assert [one["probability"] for one in made["tokens"]] == pytest.approx(found.probability.values, abs=1e-6)


def test_attention_is_that_of_the_position_that_predicts_each_token(made, model, inputs):
    for i in range(len(TOKENS)):
        so_far = inputs.with_answer(TOKENS[:i]) if i else inputs
        values = image_attention(model.trace(so_far)).to_numpy().astype(float).reshape(3, 6, PATCHES)
        each, mean = (unpacked(made["attention"][name])[i] for name in ("each", "mean"))
        assert np.abs(each - values).max() < 0.5 * (values.max() - values.min()) / 255 + 1e-7
        assert np.abs(mean - values.mean(1)).max() < 0.5 * (values.max() - values.min()) / 255 + 1e-7


def test_single_heads_are_left_out_where_they_would_take_too_much(monkeypatch, model, inputs):
    monkeypatch.setattr("vlm_probe.explorer.parts.HEADS_BYTES", 2 * 3 * 6 * PATCHES + 1)
    made = look(model, inputs, tokens=TOKENS, maps=[], words=0, windows=())
    assert made["attention"]["each"]["shape"] == [2, 3, 6, PATCHES]
    assert made["attention"]["mean"]["shape"] == [3, 3, PATCHES]


def test_rows_columns_and_edges_are_those_of_the_layout(made, inputs):
    span = inputs.layout.image()
    assert made["grid"] == [GRID, GRID]
    edges = made["edges"]
    for row, col in np.ndindex(GRID, GRID):
        box = (edges["left"][col], edges["top"][row], edges["right"][col], edges["bottom"][row])
        assert box == pytest.approx(tuple(span.patch_to_box(row, col)), abs=1e-3)
    assert edges["top"][0] == pytest.approx(-7), "the picture is padded to a square"
    assert (made["image"]["width"], made["image"]["height"]) == WIDE.size


def test_norms_sinks_and_lens_words(made, model, inputs):
    trace = model.trace(inputs, capture=["*"])
    span = inputs.layout.image()
    points = ["language.hook_embed", *(f"language.blocks.{i}.hook_resid_post" for i in range(3))]
    rows = np.stack([trace[name][0, torch.as_tensor(span.positions)].norm(dim=-1).numpy() for name in points])
    assert made["norm"]["layers"] == [-1, 0, 1, 2]
    assert within_a_step(made["norm"]["values"], rows.astype(float))

    found = sinks(trace)
    own = found[found["kind"] == "image"]
    told = [(one["layer"], one["patch"], one["times"]) for one in made["sinks"]["patches"]]
    at = {position: patch for patch, position in enumerate(span.positions)}
    assert told == [
        (layer, at[position], round(times, 2))
        for layer, position, times in zip(own["layer"], own["position"], own["times_even"], strict=True)
    ]
    assert len(made["sinks"]["texts"]) == len(found) - len(own)
    assert made["sinks"]["caveat"] == found.attrs["caveat"]

    read = lens(model, inputs, positions="image", k=2, divergences=False)
    assert texts(made, made["lens"]["words"]) == read.top_token.values.ravel().tolist()
    assert within_a_step(
        made["lens"]["probability"], np.exp(read.top_log_probability.values).reshape(3, -1).astype(float)
    )


def test_sinks_from_other_prompts_are_shown_where_they_stand(model, inputs):
    found = sinks(model.trace(inputs), factor=0.5)
    made = look_at_trace(model.trace(inputs), sinks=found)
    assert len(made["sinks"]["patches"]) == (found["kind"] == "image").sum() > 0
    assert made["sinks"]["factor"] == 0.5


def test_nearest_tokens_and_contextual_neighbours(made, model, inputs, bank):
    trace = model.trace(inputs, capture=["*"])
    near = nearest_tokens(model, trace, k=5)
    assert texts(made, made["nearest"]["words"]) == near["token"].tolist()
    assert within_a_step(made["nearest"]["score"], near["score"].to_numpy(dtype=float))

    layers = made["contexts"]["layers"]
    assert layers == [-1, 0, 1, 2]
    table = contextual_lens(model, trace, bank, k=2, layers=layers)
    assert texts(made, made["contexts"]["words"]) == table["token"].tolist()
    assert texts(made, made["contexts"]["before"]) == table["context"].tolist()
    assert within_a_step(made["contexts"]["score"], table["similarity"].to_numpy(dtype=float).reshape(4, -1))
    assert within_a_step(made["contexts"]["turned"], table["turned"].to_numpy(dtype=float)[::2].reshape(4, -1))


def test_the_knockout_is_that_of_a_sweep_with_both_draws_of_its_control(made, model):
    class Given:
        def image(self, size: int) -> Image.Image:
            return WIDE

    item = Item("looked at", "scenes", "own", "looked at", "picture", QUESTION, "", source=Given())
    assert [size["size"] for size in made["knockout"]["sizes"]] == [1, 2]
    for size in made["knockout"]["sizes"]:
        for draw in range(2):
            table = knockout_sweep(model, [item], own=True, window=size["size"], seed=made["knockout"]["seed"] + draw)
            for number, route in enumerate(made["knockout"]["routes"]):
                for name, column in (("probability", "probability"), ("lead", "logit_difference")):
                    cut = table.loc[(table["route"] == route) & ~table["control"], column]
                    control = table.loc[(table["route"] == route) & table["control"], column]
                    assert size[name]["cut"][number] == pytest.approx(cut.tolist(), abs=1e-5)
                    assert [own[draw] for own in size[name]["control"][number]] == pytest.approx(
                        control.tolist(), abs=1e-5
                    )
        assert size["last"][-1] - size["first"][-1] == 2, "all layers together come last"


def test_a_trace_with_its_model_is_as_good_as_inputs(made, model, inputs, bank):
    options = {"tokens": TOKENS, "bank": bank, "windows": [1, 2], "draws": 2, "words": 2}
    (own,) = explore(model.trace(inputs), model, names=["wide.png"], **options).looks
    assert own == made


def test_a_trace_alone_shows_what_it_holds_and_names_the_rest(model, inputs):
    trace = model.trace(inputs, capture=["language.blocks.*.attn.hook_pattern"])
    (own,) = explore(trace).looks
    assert within_a_step(own["attention"]["each"], image_attention(trace).to_numpy().astype(float).reshape(1, 3, 6, -1))
    assert own["tokens"][0]["text"] == f"<{trace.logits[-1].argmax()}>"
    needs = "a trace alone does not tell it: explore(trace, model)"
    residual = "the trace holds no residual stream; capture language.blocks.*.hook_resid_post"
    assert own["missing"] == {
        "norm": residual,
        **dict.fromkeys(("lens", "nearest", "contexts", "knockout", "maps"), needs),
    }
    assert own["edges"] is not None


def test_tensors_made_elsewhere_have_no_picture(model, inputs):
    bare = model.prepare_tensors(inputs.input_ids, inputs.pixel_values)
    made = look(model, bare, tokens=[5], maps=["relevancy"], words=0)
    assert (made["image"], made["edges"], made["question"]) == (None, None, "")
    assert made["missing"]["knockout"] == (
        "the knockout needs one picture and a question, from model.prepare(image, question)"
    )
    assert made["missing"]["lens"] == "it was switched off: leave words=0 out of the call"
    assert made["nearest"]["words"]["shape"] == [5 * PATCHES], "which takes no run"


def test_maps_of_ones_own_and_maps_that_were_made_before(model, inputs):
    found = per_token(model, inputs, tokens=[5])
    own = look(model, inputs, tokens=[5], maps={"given": found, "made": relevancy}, words=0, windows=())["maps"]
    assert own["given"]["values"] == own["made"]["values"]


def test_a_map_that_cannot_be_made_is_missing_and_the_others_go_on(model):
    two = model.prepare([WIDE, WIDE], QUESTION)
    made = look(model, two, tokens=[5], image=1, words=1, maps=["relevancy", "gradient x input"])
    assert list(made["maps"]) == ["relevancy"]
    assert made["missing"]["gradient x input"] == (
        "the map 'gradient x input' is of a prompt's first picture alone, and this is picture 1"
    )
    assert made["missing"]["knockout"].startswith("the knockout needs one picture")
    assert made["lens"]["words"]["shape"] == [3, PATCHES]
    expected = image_attention(model.trace(two), image=1).to_numpy().reshape(1, 3, 6, -1)
    assert np.abs(unpacked(made["attention"]["each"]) - expected).max() < 1 / 255


def test_an_empty_answer_and_a_long_one_are_told(monkeypatch, model, inputs):
    quiet: Any = {"maps": [], "words": 0, "windows": ()}
    made = look(model, inputs, tokens=[5] * 11, **quiet)
    assert made["notes"] == ["3 later tokens of the answer are not looked at"]
    assert len(made["tokens"]) == 8
    monkeypatch.setattr(type(model), "answer_tokens", lambda *a, **k: [[]])
    made = look(model, inputs, **quiet)
    assert made["notes"] == ["the model ended its answer at once: the token is the one that ends it"]
    assert len(made["tokens"]) == 1


def test_half_letters_of_a_file_name_become_question_marks():
    assert Words().numbers(["a\udcffb"])["shape"] == [1]
    made = Words()
    made.numbers(["a\udcffb"])
    assert made.texts == ["a?b"]


def test_what_cannot_be_explored_is_said(model, inputs):
    wrong: list[tuple[Any, str]] = [
        (lambda: explore([]), "there is nothing to explore: give a trace, inputs or a look"),
        (lambda: explore(inputs), "inputs are explored with their model: explore(inputs, model)"),
        (lambda: explore([inputs, inputs], [model]), "2 traces were given and 1 models: one for each is needed"),
        (lambda: explore(inputs, model, names=[]), "1 traces were given and 0 names: one for each is needed"),
        (lambda: explore(model.trace(inputs), words=2), "words needs the model: explore(trace, model, words=...)"),
        (
            lambda: look(model, inputs, maps=["relevance"]),
            "no map 'relevance'; there are attention, rollout, relevancy, ",
        ),
        (lambda: explore(tiny_language().trace(None, "abc")), "image 0 was asked for, the prompt has 0"),
    ]
    for call, message in wrong:
        with pytest.raises(VlmProbeError) as error:
            call()
        assert str(error.value).startswith(message)


def test_a_trace_whose_inputs_are_not_known_asks_for_them(model, inputs):
    longer = model.trace(inputs.with_answer([5]))
    with pytest.raises(
        VlmProbeError, match=r"^the inputs of this trace cannot be made anew .* explore\(inputs, model\)$"
    ):
        explore(longer, model)
    trace = model.trace(inputs)
    trace.provenance["model"] = "another"
    with pytest.raises(VlmProbeError, match=r"^this trace is of another, the model is model$"):
        explore(trace, model)


def test_pictures_are_numbered_and_a_look_is_taken_as_it_is(model, inputs, made):
    other = model.prepare(Image.new("RGB", (13, 13)), QUESTION)
    quiet: Any = {"tokens": [5], "maps": [], "words": 0, "windows": ()}
    shown = explore([inputs, other, inputs, made], model, **quiet)
    assert [one["name"] for one in shown.looks] == ["picture 1", "picture 2", "picture 1", "wide.png"]
    assert shown.title == QUESTION
    assert repr(shown).startswith("Explorer(model on picture 1, model on picture 2")


def test_a_page_is_written_whole_or_not_at_all(made, tmp_path, in_the_way):
    page = Explorer([made]).save(tmp_path / "new" / "page.html", title="Titled")
    assert "<title>Titled</title>" in page.read_text()
    with pytest.raises(VlmProbeError, match="^cannot write"):
        Explorer([made]).save(in_the_way / "page.html")


def test_it_is_a_public_name():
    assert vlm_probe.explore is explore
