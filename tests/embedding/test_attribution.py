"""Attribution: complete up to the steps, by hand for occlusion, and no hook left behind."""

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import GRID, PATCH, tiny_vlm

from vlm_probe.embedding import attribute
from vlm_probe.errors import VlmProbeError
from vlm_probe.scenes import family_items

SIDE = PATCH * GRID
PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 255, (SIDE, SIDE, 3), dtype=np.uint8))


def hooks_of(model) -> int:
    return sum(len(p._forward_hooks) + len(p._backward_hooks) for p in model.hook_dict.values())


@pytest.mark.parametrize("tower", ["clip", "registers"])
@pytest.mark.parametrize(
    ("how", "tolerance"),
    [
        ({"method": "integrated_gradients", "steps": 64}, 0.01),
        ({"method": "integrated_gradients", "point": "connector.hook_out", "steps": 128}, 0.01),
        ({"method": "layer_conductance", "point": "connector.hook_out", "steps": 200}, 0.05),
        ({"method": "layer_conductance", "point": "vision.blocks.1.hook_resid_post", "steps": 200}, 0.05),
        ({"method": "layer_conductance", "point": "language.blocks.0.hook_resid_post", "steps": 200}, 0.05),
    ],
)
def test_attributions_add_up_to_the_difference(tower, how, tolerance):
    model = tiny_vlm(tower)
    inputs = model.prepare(PICTURE, "what?")
    map_ = attribute(model, inputs, target=5, baseline="blur", **how)
    difference = map_.attrs["output"] - map_.attrs["output_baseline"]
    assert map_.shape == (GRID, GRID)
    assert abs(map_.attrs["completeness_error"]) < tolerance * max(1, abs(difference))
    total = float(map_.sum()) + map_.attrs["elsewhere"]
    assert total - difference == pytest.approx(map_.attrs["completeness_error"], abs=1e-4)
    with torch.no_grad():
        assert map_.attrs["output"] == pytest.approx(float(model(inputs).logits[0, -1, 5]), abs=1e-4)
    assert hooks_of(model) == 0
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("point", ["connector.hook_out", "language.blocks.0.hook_resid_post", None])
def test_gradient_x_input_is_the_slope_of_the_logit_along_a_patch(point):
    """Against central differences: the patch's row (or pixels) made a little longer, and a little shorter."""
    model = tiny_vlm()
    inputs = model.prepare(PICTURE, "what?")
    map_ = attribute(model, inputs, method="gradient_x_input", point=point, target=5)
    assert "output_baseline" not in map_.attrs
    assert "completeness_error" not in map_.attrs
    step = 0.02  # a norm in float32 drowns smaller ones
    for row, col in ((0, 0), (1, 3), (4, 2)):
        ends = []
        for sign in (1, -1):
            if point is None:
                assert inputs.pixel_values is not None
                pixels = inputs.pixel_values.clone()
                pixels[..., row * PATCH : row * PATCH + PATCH, col * PATCH : col * PATCH + PATCH] *= 1 + sign * step
                with torch.no_grad():
                    ends.append(float(model(inputs.input_ids, pixels).logits[0, -1, 5]))
                continue
            at = int(inputs.layout.image().rows_at(point)[row * GRID + col])

            def longer(rows, hook, at=at, sign=sign):
                rows = rows.clone()
                rows[:, at] *= 1 + sign * step
                return rows

            with torch.no_grad(), model.hooks(fwd_hooks=[(point, longer)]):
                ends.append(float(model(inputs).logits[0, -1, 5]))
        slope = (ends[0] - ends[1]) / (2 * step)
        assert float(map_[row, col]) == pytest.approx(slope, rel=0.02, abs=3e-4)
    assert float(abs(map_).max()) > 0.01


@pytest.mark.parametrize("baseline", ["black", "mean"])
def test_occlusion_by_hand(baseline):
    model = tiny_vlm()
    inputs = model.prepare(PICTURE, "what?")
    map_ = attribute(model, inputs, method="occlusion", target=7, batch_size=6, baseline=baseline)
    mean = tuple(np.asarray(PICTURE, dtype=float).mean((0, 1)).round().astype(int).tolist())
    color = mean if baseline == "mean" else (0, 0, 0)
    black = model.prepare(Image.new("RGB", PICTURE.size, color), "what?").pixel_values
    assert black is not None
    assert inputs.pixel_values is not None
    for row, col in ((0, 0), (2, 4), (4, 1)):
        pixels = inputs.pixel_values.clone()
        at = (..., slice(row * PATCH, row * PATCH + PATCH), slice(col * PATCH, col * PATCH + PATCH))
        pixels[at] = black[at]
        with torch.no_grad():
            lost = model(inputs).logits[0, -1, 7] - model(inputs.input_ids, pixels).logits[0, -1, 7]
        assert float(map_[row, col]) == pytest.approx(float(lost), abs=1e-4)


def test_the_answer_rests_on_the_object(replica):
    """The color of the object asked about flows through the patches of its box."""
    hits = []
    for item in [i for i in family_items(40, families=("gqa",), seed=6) if i.kind == "color"][:6]:
        inputs = replica.prepare(item.picture(replica.image_size), item.question)
        map_ = attribute(replica, inputs, target=item.answer, baseline="mean").clip(min=0)
        box = inputs.layout.box_coverage(tuple(edge * replica.image_size for edge in item.boxes[0]))
        hits.append(float((map_ * box).sum() / map_.sum()) / box.mean())
    assert np.mean(hits) > 2


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"method": "magic"}, "no attribution method 'magic'; there are integrated_gradients, layer_conductance, occ"),
        ({"baseline": "white"}, "no baseline 'white'; there are black, mean, blur, or give an image"),
        ({"baseline": Image.new("RGB", (3, 5))}, "the baseline is (3, 5) pixels, the image (15, 15); make them alike"),
        (
            {"method": "layer_conductance"},
            'layer_conductance needs point=, a hook point\'s name ("connector.hook_out")',
        ),
        ({"method": "occlusion", "point": "connector.hook_out"}, "occlusion takes no point=: it replaces patches of"),
        (
            {"point": "vision.blocks.0.attn.hook_pattern"},
            "no integrated gradients at vision.blocks.0.attn.hook_pattern",
        ),
        ({"method": "layer_conductance", "point": "vision.blocks.0.attn.hook_pattern"}, "no conductance through vis"),
        ({"target": 1000}, "target token 1000 is outside the vocabulary of 97"),
    ],
)
def test_what_cannot_be_attributed(how, message):
    model = tiny_vlm()
    with pytest.raises(VlmProbeError) as caught:
        attribute(model, model.prepare(PICTURE, "what?"), **how)
    assert str(caught.value).startswith(message)
    assert hooks_of(model) == 0


def test_no_image_to_attribute_to():
    model = tiny_vlm()
    with pytest.raises(VlmProbeError, match="^attribution needs one image in the prompt"):
        attribute(model, model.prepare(None, "what?"))
