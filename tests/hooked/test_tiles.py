"""LLaVA-NeXT: a picture as a whole and in tiles, laid out and mapped back."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import GRID, IMAGE_TOKEN, PATCH, PATCHES, RESOLUTIONS, tiny_tokenizer, tiny_vlm, untyped
from transformers import LlavaNextProcessor
from transformers.image_processing_utils import select_best_resolution
from transformers.models.llava_next.modeling_llava_next import unpad_image

import vlm_probe
from vlm_probe import VlmProbeError
from vlm_probe.attention import image_attention, relevancy
from vlm_probe.causal import Branches, Knockout
from vlm_probe.embedding import features, nearest_tokens
from vlm_probe.findings.engine import generated_items
from vlm_probe.hooked import HookedVLM
from vlm_probe.hooked.verifying import verify
from vlm_probe.layout.tiling import tiling
from vlm_probe.running.asking import Asked, ask_all
from vlm_probe.store import capture, open_store, plan
from vlm_probe.trace import Trace

SIDE = PATCH * GRID
WIDE, TALL, SQUARE = (61, 20), (17, 47), (31, 29)


def picture(size: tuple[int, int], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def model() -> HookedVLM:
    return tiny_vlm("next", "llama")


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 700), st.integers(1, 700))
def test_the_tiles_are_those_of_transformers(width, height):
    resolutions = [(336, 672), (672, 336), (672, 672), (1008, 336), (336, 1008)]
    made = tiling((width, height), resolutions, 336, 14)
    down, across = select_best_resolution((height, width), [list(one) for one in resolutions])
    assert made.tiles == (down // 336, across // 336)
    full = torch.zeros(1, down // 14, across // 14)
    assert made.grid == tuple(unpad_image(full, (height, width)).shape[1:])


@pytest.mark.parametrize("size", [WIDE, TALL, SQUARE])
def test_inputs_and_answers_are_those_of_its_own_processor(model, size):
    tokenizer = tiny_tokenizer()
    processor: Any = LlavaNextProcessor(
        model.preparer.processor, tokenizer, patch_size=PATCH, vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )  # fmt: skip
    its = processor(images=picture(size), text="<bos>Q<image>:what?= ", return_tensors="pt", add_special_tokens=False)
    inputs = model.prepare(picture(size), "what?")
    assert inputs.input_ids.tolist() == its["input_ids"].tolist()
    torch.testing.assert_close(inputs.pixel_values, its["pixel_values"][0])
    assert inputs.image_sizes is not None
    assert inputs.image_sizes.tolist() == its["image_sizes"].tolist()
    twin = copy.deepcopy(tiny_vlm("next", "llama").hf.__class__(model.hf.config)).eval()
    twin.load_state_dict(model.hf.state_dict())
    twin.set_attn_implementation("sdpa")
    its.pop("token_type_ids", None)
    with torch.no_grad():
        assert model(inputs).logits.equal(twin(**its).logits)
        expected = twin.generate(**its, max_new_tokens=4, do_sample=False, eos_token_id=None)
        assert model.generate(inputs, max_new_tokens=4, do_sample=False, eos_token_id=None).equal(expected)


def test_it_is_the_plain_model(model):
    table = verify(model)
    assert untyped(table["ok"]).all(), table
    whole = model.prepare([picture(WIDE), picture(TALL, 1)], ["what?", "what is it?"])
    assert untyped(verify(model, whole)["ok"]).all()


@pytest.mark.parametrize("size", [WIDE, TALL, SQUARE])
def test_every_position_shows_the_pixels_that_it_says(model, size):
    """A bright spot lights that position of the tiles, in what the language model is given, whose box holds it."""
    width, height = size
    plain = np.zeros((height, width, 3), dtype=np.uint8)
    before = model.trace(plain, "what?", capture=["language.hook_embed"])
    layout = before.layout
    whole, tiles = layout.image(), layout.image(tiles=True)
    assert whole.grid == (GRID, GRID)
    assert len(tiles.extra_positions) == tiles.grid[0], "one more a row"
    assert (tiles.extra_positions == tiles.positions.reshape(tiles.grid)[:, -1] + 1).all()
    assert sorted([*whole.positions, *tiles.positions, *tiles.extra_positions]) == [
        int(p) for p in (model.prepare(plain, "what?").input_ids[0] == IMAGE_TOKEN).nonzero()
    ]
    for x, y in ((3, 3), (width // 2, height // 2), (width - 4, height - 4)):
        bright = plain.copy()
        bright[y - 1 : y + 2, x - 1 : x + 2] = 255
        after = model.trace(bright, "what?", capture=["vision.hook_embed", "language.hook_embed"])
        dark = model.trace(plain, "what?", capture=["vision.hook_embed"])
        # Before attention has spread it: which patches of which tile are another.
        change = (after["vision.hook_embed"] - dark["vision.hook_embed"])[1:, 1:].norm(dim=-1)
        rows, columns = tiles.tiles
        together = change.reshape(rows, columns, GRID, GRID).permute(0, 2, 1, 3).reshape(rows * GRID, columns * GRID)
        off = [(have - want) // 2 for have, want in zip(together.shape, tiles.grid, strict=True)]
        kept = together[off[0] : off[0] + tiles.grid[0], off[1] : off[1] + tiles.grid[1]]
        row, col = divmod(int(kept.argmax()), tiles.grid[1])
        box = tiles.patch_to_box(row, col)
        assert box.left - 1 <= x <= box.right + 1, (size, x, box)
        assert box.top - 1 <= y <= box.bottom + 1, (size, y, box)
        assert tiles.box_to_patches((x, y, x + 0.5, y + 0.5)).sum() >= 1


def test_maps_groups_and_words_are_of_the_whole_or_of_the_tiles(model, tmp_path):
    inputs = model.prepare(picture(WIDE), "what?")
    trace = model.trace(inputs, capture=["*.hook_pattern", "connector.hook_out", "language.hook_embed"])
    trace.save(tmp_path / "trace.safetensors")
    trace = Trace.load(tmp_path / "trace.safetensors")
    tiles = trace.layout.image(tiles=True)
    assert image_attention(trace).shape[2:] == (GRID, GRID)
    assert image_attention(trace, tiles=True).shape[2:] == tiles.grid
    assert trace["connector.hook_out"].shape[:2] == (3, PATCHES)
    assert len(nearest_tokens(model, trace, point="connector.hook_out", k=1)) == PATCHES
    assert len(nearest_tokens(model, trace, point="language.hook_embed", k=1)) == PATCHES
    assert relevancy(model, inputs).shape == (GRID, GRID)
    with pytest.raises(VlmProbeError, match="tiles or crops are several"):
        relevancy(model, inputs, through_encoder=True)
    with pytest.raises(VlmProbeError, match="each tile is a picture of its own"):
        tiles.rows_at("vision.hook_embed")
    with pytest.raises(VlmProbeError, match="image 1 was asked for, the prompt has 1"):
        trace.layout.image(1)


def test_a_box_is_cut_from_the_whole_and_from_the_tiles(model):
    inputs = model.prepare([picture(WIDE), picture(WIDE, 1)], ["what?", "what is it?"])
    boxes = [[(2.0, 2.0, 12.0, 12.0)], [(30.0, 5.0, 40.0, 15.0)]]
    rows = [(0, [Knockout("answer", "box")]), (1, [Knockout("question", "box", layers=[0])])]
    found, exact = (Branches(model, inputs, boxes=boxes, exact=one).run(rows) for one in (False, True))
    torch.testing.assert_close(found, exact, atol=1e-5, rtol=1e-5)
    from vlm_probe.layout.groups import positions_of

    at = set(positions_of(inputs.layouts[0], "box", boxes=boxes[0]).tolist())
    whole, tiles = inputs.layouts[0].image(), inputs.layouts[0].image(tiles=True)
    assert at & set(whole.positions.tolist())
    assert at & set(tiles.positions.tolist())


def test_many_questions_features_and_captures(model, tmp_path):
    pictures = [picture(WIDE), picture(WIDE, 1)]
    asked = [Asked(i % 2, q, "red") for i, q in enumerate(("a?", "what is it?", "how many?"))]
    for one, found in zip(asked, ask_all(model, pictures, asked, max_new_tokens=3), strict=True):
        inputs = model.prepare(pictures[one.image], one.question)
        plain = model.generate(inputs, max_new_tokens=3, do_sample=False, eos_token_id=None)
        assert plain[0, inputs.input_ids.shape[1] :].tolist()[: len(found.ids)] == list(found.ids)
    mixed = ask_all(model, [picture(TALL), picture(WIDE)], [Asked(0, "a?", "red"), Asked(1, "a?", "red")])
    alone = ask_all(model, pictures[:1], [Asked(0, "a?", "red")])[0]
    assert (mixed[1].ids, mixed[1].p_answer) == (alone.ids, pytest.approx(alone.p_answer)), "of any shapes"
    items = generated_items(2)
    points = ["vision.blocks.1.hook_resid_post", "language.blocks.1.hook_resid_post"]
    capture(model, items, points, tmp_path / "store", positions="mean(image)")
    kept, expected = open_store(tmp_path / "store"), features(model, items, points, pool="mean")
    for point in points:
        np.testing.assert_allclose(kept[point].values, expected[point].values, atol=1e-5)


def test_a_saved_checkpoint_opens_and_is_the_same(model, tmp_path):
    model.save_pretrained(tmp_path)
    loaded = vlm_probe.load(tmp_path, device="cpu", prompt=model.prompt)
    with torch.no_grad():
        assert loaded(loaded.prepare(picture(TALL), "what?")).logits.equal(
            model(model.prepare(picture(TALL), "what?")).logits
        )
    assert loaded.inputs.patches is not None
    assert [list(one) for one in loaded.inputs.patches.resolutions] == RESOLUTIONS


def test_what_hangs_on_a_pictures_shape_is_not_planned(model):
    with pytest.raises(VlmProbeError, match="cuts pictures into tiles by their shape"):
        plan(model.hf.config, "connector.hook_out")


def test_tensors_without_sizes_are_refused(model):
    inputs = model.prepare(picture(WIDE), "what?")
    with pytest.raises(VlmProbeError, match="give the images' sizes"):
        model.prepare_tensors(inputs.input_ids, inputs.pixel_values)
    with pytest.raises(VlmProbeError, match="are 5 pictures and tiles; there are 3"):
        model.prepare_tensors(inputs.input_ids, inputs.pixel_values, None, torch.tensor([[30, 30]]))
    with pytest.raises(VlmProbeError, match="tiles of 16 pixels are no whole patches of 3"):
        tiling(SQUARE, [(16, 32)], 16, 3)
