"""Maps of one token: knockout against a dense mask, baselines by hand, and one signature for all."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import GRID, tiny_vlm

from vlm_probe.attention import BASELINES, MAPS, centre_prior, encoder_map, image_attention, knockout_map, rollout
from vlm_probe.attention.answer_maps import map_named
from vlm_probe.errors import VlmProbeError
from vlm_probe.layout.groups import positions_of

SIDE = 15


def noise(height: int = SIDE, width: int = SIDE) -> Image.Image:
    return Image.fromarray(np.random.default_rng(1).integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def model():
    return tiny_vlm()


@pytest.mark.parametrize("language", ["gemma", "gemma2", "llama"])
def test_knockout_is_a_run_whose_scores_are_masked(language):
    """Scores at minus infinity, by a hook on every layer, in place of the mask that `causal` puts before them."""
    model = tiny_vlm("clip", language)
    inputs = model.prepare(noise(), "what?")
    found = knockout_map(model, inputs, target=7, at_once=10)
    asks = np.append(inputs.layout.question_positions, inputs.layout.answer_position)
    with torch.no_grad():
        whole = float(model(inputs).logits[0, -1].softmax(-1)[7])
    for row, col in ((0, 0), (2, 3), (4, 4)):
        patch = int(inputs.layout.image().positions[row * GRID + col])

        def hide(scores, hook, patch=patch):
            scores = scores.clone()
            scores[:, :, asks, patch] = torch.finfo(scores.dtype).min
            return scores

        with torch.no_grad(), model.hooks(fwd_hooks=[("language.blocks.*.attn.hook_attn_scores", hide)]):
            cut = float(model(inputs).logits[0, -1].softmax(-1)[7])
        assert float(found[row, col]) == pytest.approx(whole - cut, abs=1e-6)
    assert float(abs(found).max()) > 1e-5


def test_knockout_of_some_queries_and_layers_is_another(model):
    inputs = model.prepare(noise(), "what?")
    both = knockout_map(model, inputs, target=7)
    answer = knockout_map(model, inputs, target=7, queries="answer", layers=range(2, 3))
    assert positions_of(inputs.layout, "answer | question").size == 6
    assert not np.allclose(both, answer, atol=1e-6)
    assert answer.attrs["method"] == "attention knockout, answer -/-> each patch"
    with pytest.raises(VlmProbeError, match="^no positions 'nobody'"):
        knockout_map(model, inputs, queries="nobody")


def test_maps_of_a_trace_are_those_of_their_own_functions(model):
    inputs = model.prepare(noise(), "what?")
    trace = model.trace(inputs)
    np.testing.assert_allclose(
        MAPS["attention"](model, inputs, target=3), image_attention(trace).mean(("layer", "head")), atol=1e-7
    )
    np.testing.assert_allclose(MAPS["rollout"](model, inputs, target=3), rollout(trace), atol=1e-7)


@pytest.mark.parametrize("name", [*MAPS, *BASELINES])
def test_every_map_is_over_the_patches_and_says_where_they_are(model, name):
    map_ = map_named(name)(model, model.prepare(noise(), "what?"), target=7)
    assert (map_.dims, map_.shape) == (("row", "col"), (GRID, GRID))
    assert np.isfinite(map_).all()
    assert float(map_.std()) > 0
    assert {"left", "right", "top", "bottom"} <= set(map_.coords)
    assert {"title", "citation", "method"} <= set(map_.attrs)


def test_the_centre_is_that_of_the_picture(model):
    inputs = model.prepare(noise(6, 15), "what?")  # in a padded square
    map_ = centre_prior(model, inputs)
    visible = inputs.layout.image().visible()
    assert (map_.values[~visible] == 0).all()
    assert (map_.values[visible] > 0).all()
    top = np.unravel_index(int(map_.values.argmax()), (GRID, GRID))
    assert top == (2, 2)
    np.testing.assert_allclose(map_, map_[:, ::-1], atol=1e-12)
    square = centre_prior(model, model.prepare(noise(), "what?"))
    assert float(square[0, 2]) == pytest.approx(np.exp(-(0.4**2) / (2 * 0.25**2)))


def test_what_stands_out_to_the_encoder(model):
    inputs = model.prepare(noise(), "what?")
    trace = model.trace(inputs, capture=["*.hook_pattern", "connector.hook_in"])
    last = model.vision_layers_read - 1
    cls = trace[f"vision.blocks.{last}.attn.hook_pattern"][0, :, 0, 1:].mean(0).reshape(GRID, GRID)
    np.testing.assert_allclose(encoder_map(model, inputs), cls, atol=1e-7)
    # Of an encoder without CLS the rows it hands on are all there is.
    bare = replace(inputs.layout, images=(replace(inputs.layout.image(), leading=0),))
    lengths = trace["connector.hook_in"][0].norm(dim=-1).reshape(GRID, GRID)
    np.testing.assert_allclose(encoder_map(model, replace(inputs, layouts=[bare])), lengths, rtol=1e-5)
