"""Blanking: by hand on pixels, on a map that is right and one that is not, and where nothing is to be found."""

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from PIL import Image
from tiny import GRID, PATCH, tiny_batch, tiny_vlm

from vlm_probe import VlmProbeError
from vlm_probe.attention import blanking
from vlm_probe.attention.blanking import without_patches
from vlm_probe.scenes import family_items


@pytest.fixture(scope="module")
def model():
    return tiny_vlm()


def noise(height: int, width: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(1).integers(0, 256, (height, width, 3), dtype=np.uint8))


def a_map(values) -> xr.DataArray:
    return xr.DataArray(np.asarray(values, dtype=float), dims=("row", "col"))


def test_patches_become_the_mean_colour_and_nothing_else_changes(model):
    inputs = model.prepare(noise(15, 15), "a")
    pixels = inputs.pixel_values
    chosen = np.zeros((2, GRID, GRID), dtype=bool)
    chosen[1, 2, 4] = chosen[1, 0, 1] = True
    blank = without_patches(inputs, chosen)
    assert blank.shape == (2, *pixels.shape)
    assert torch.equal(blank[0], pixels)
    mean = pixels[0].mean(dim=(1, 2))
    for row, col in np.ndindex(GRID, GRID):
        own = blank[1, 0, :, row * PATCH : (row + 1) * PATCH, col * PATCH : (col + 1) * PATCH]
        if chosen[1, row, col]:
            torch.testing.assert_close(own, mean[:, None, None].expand_as(own))
        else:
            assert torch.equal(own, pixels[0, :, row * PATCH : (row + 1) * PATCH, col * PATCH : (col + 1) * PATCH])


def test_of_two_pictures_only_one_is_touched_and_probabilities_are_the_models_own(model):
    inputs = model.prepare([noise(15, 15), noise(15, 15)], "a")
    map_ = a_map(np.arange(GRID * GRID).reshape(GRID, GRID))
    table = blanking(model, inputs, map_, target=7, share=0.2, draws=11, image=1)
    assert table["what"].tolist() == ["nothing", "highest", *["random"] * 11]
    assert table["patches"].tolist() == [0, *[5] * 12]
    chosen = np.zeros((1, GRID, GRID), dtype=bool)
    chosen[0, -1] = True
    blank = without_patches(inputs, chosen, image=1)[0]
    assert torch.equal(blank[0], inputs.pixel_values[0])
    with torch.no_grad():
        for pixels, found in ((inputs.pixel_values, table["probability"][0]), (blank, table["probability"][1])):
            logits = model(inputs.input_ids, pixels).logits[0, -1]
            assert float(logits.softmax(-1)[7]) == pytest.approx(found, abs=1e-6)
    assert table["change"].tolist() == pytest.approx((table["probability"] - table["probability"][0]).tolist())


def test_padding_is_never_blanked(model):
    inputs = model.prepare(noise(3, 15), "a")  # the middle row of patches, in a padded square
    shown = inputs.layout.image().visible()
    table = blanking(model, inputs, a_map(np.zeros((GRID, GRID))), target=7, share=0.99, draws=3)
    assert table["patches"].tolist() == [0, *[int(shown.sum())] * 4]
    _, *blanked = table["probability"].tolist()
    assert blanked == pytest.approx([blanked[0]] * 4, abs=1e-6)  # all that is shown, whichever is drawn


def test_tensors_made_elsewhere(model):
    inputs = model.prepare_tensors(**tiny_batch(model.hf, batch=1))
    table = blanking(model, inputs, a_map(np.zeros((GRID, GRID))), target=7)
    assert table["patches"].tolist() == [0, *[round(0.1 * GRID**2)] * 21]


def test_a_map_of_the_object_asked_about_costs_the_answer_and_any_other_map_does_not(replica):
    """Planted truth: the boxes of scenes. Against random patches a right map wins, a map of nothing does not."""
    right, nothing = [], []
    rng = np.random.default_rng(5)
    for item in list(family_items(40, families=("gqa",)))[:40]:
        picture = replica.picture(item)
        if item.kind != "color" or str(replica.answer(picture, item.question)) != item.answer:
            continue
        inputs = replica.prepare(picture, item.question)
        target = replica.answer_tokens(inputs, max_new_tokens=1)[0][0]
        box = inputs.layout.box_coverage(item.boxes[0])
        for kept, values in ((right, box), (nothing, rng.random(box.shape))):
            table = blanking(replica, inputs, a_map(values), target=target, draws=5)
            change = table["change"].to_numpy(dtype=float)
            kept.append(change[1] - change[2:].mean())
    right, nothing = pd.Series(right), pd.Series(nothing)
    assert len(right) >= 5
    assert right.mean() < -0.15
    assert abs(nothing.mean()) < 0.1


@pytest.mark.parametrize(
    ("map_", "more", "message"),
    [
        (a_map(np.zeros((4, 5))), {}, "blanking takes a map over (5, 5) patches (row, col), got {'row': 4, 'col': 5}"),
        (
            a_map(np.zeros((5, 5))).T,
            {},
            "blanking takes a map over (5, 5) patches (row, col), got {'col': 5, 'row': 5}",
        ),
        (a_map(np.zeros((5, 5))), {"share": 0.0}, "share must be between 0 and 1 and draws at least 1, got 0.0 and 20"),
        (a_map(np.zeros((5, 5))), {"draws": 0}, "share must be between 0 and 1 and draws at least 1, got 0.1 and 0"),
    ],
)
def test_what_cannot_be_blanked(model, map_, more, message):
    with pytest.raises(VlmProbeError) as caught:
        blanking(model, model.prepare(noise(15, 15), "a"), map_, target=7, **more)
    assert str(caught.value) == message
