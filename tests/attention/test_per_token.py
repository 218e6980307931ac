"""Maps of every token of an answer are single calls behind the tokens before it."""

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import GRID, tiny_vlm

from vlm_probe.attention import MAPS, image_attention, per_token
from vlm_probe.errors import VlmProbeError

PICTURE = Image.fromarray(np.random.default_rng(1).integers(0, 256, (15, 15, 3), dtype=np.uint8))
IDS = [40, 41, 40]


@pytest.fixture(scope="module")
def model():
    return tiny_vlm()


@pytest.mark.parametrize("name", ["relevancy", "attention", "rollout", "gradient x input", "knockout"])
def test_equals_single_calls(model, name):
    inputs = model.prepare(PICTURE, "what?")
    found = per_token(model, inputs, map=name, tokens=IDS)
    assert found.sizes == {"token": 3, "row": GRID, "col": GRID}
    for i, token in enumerate(IDS):
        so_far = inputs.with_answer(IDS[:i])
        np.testing.assert_allclose(found[i], MAPS[name](model, so_far, target=token), atol=1e-6)
        with torch.no_grad():
            sure = float(model(so_far).logits[0, -1].softmax(-1)[token])
        assert float(found.probability[i]) == pytest.approx(sure, abs=1e-6)
    assert not np.allclose(found[0], found[2], atol=1e-7), "the same token, later in the answer"
    assert found.token.values.tolist() == list(model.token_strings(IDS))
    assert found.token_id.values.tolist() == IDS
    assert {"left", "right", "top", "bottom"} <= set(found.coords)
    assert found.attrs["title"] == f"{name.capitalize()}, token by token"
    assert found.attrs["answer"] == "".join(model.token_strings(IDS))


def test_without_tokens_it_is_what_the_model_says(model):
    inputs = model.prepare(PICTURE, "what?")
    done = []
    found = per_token(model, inputs, max_new_tokens=3, progress=done.append)
    assert found.token_id.values.tolist() == model.answer_tokens(inputs, max_new_tokens=3)[0]
    assert done == [1] * 3


def test_a_map_of_ones_own_keeps_its_dimensions(model):
    inputs = model.prepare(PICTURE, "what?")
    found = per_token(model, inputs, map=lambda m, i, /, *, target: image_attention(m.trace(i)), tokens=IDS[:2])
    assert found.dims == ("token", "layer", "head", "row", "col")
    np.testing.assert_allclose(found[1], image_attention(model.trace(inputs.with_answer(IDS[:1]))), atol=1e-7)


def test_what_has_no_maps(model):
    inputs = model.prepare(PICTURE, "what?")
    with pytest.raises(VlmProbeError, match="^the answer has no token"):
        per_token(model, inputs, tokens=[])
    with pytest.raises(VlmProbeError, match="^no map 'magic'; there are attention"):
        per_token(model, inputs, map="magic", tokens=IDS)
    with pytest.raises(VlmProbeError, match="outside the vocabulary of 97"):
        per_token(model, inputs, tokens=[1000])
    batch = model.prepare([PICTURE, PICTURE], ["what?", "where?"])
    with pytest.raises(VlmProbeError, match="this batch has 2 layouts"):
        per_token(model, batch, tokens=IDS)
    assert not any(p._forward_hooks or p._backward_hooks for p in model.hook_points())
