"""The encoder alone: the same rows as in a whole run, pooled as features are, and six numbers by hand."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny import GRID, PATCH, TOWERS, tiny_vlm

from vlm_probe.embedding import features
from vlm_probe.embedding.encoder import encoded, pixel_numbers, run_encoder
from vlm_probe.errors import VlmProbeError
from vlm_probe.inputs.model_inputs import Seen
from vlm_probe.layout import ImageTransform, UnitBox
from vlm_probe.scenes import family_items

ITEMS = [item for item in family_items(19, families=("gqa",)) if item.boxes][:11]


@pytest.mark.parametrize("tower", TOWERS)
def test_rows_are_those_of_the_whole_run(tower):
    model = tiny_vlm(tower)
    points = ["vision.hook_embed", f"vision.blocks.{model.vision_layers_read - 1}.hook_resid_post"]
    rows, pixels = encoded(model, ITEMS, points)
    for pool in ("box", "mean"):
        whole = features(model, ITEMS, [*points, "connector.hook_in"], pool=pool)
        for number, point in enumerate(points):
            np.testing.assert_allclose(rows[pool][number], whole[point].values, atol=1e-5)
        np.testing.assert_allclose(rows[pool][-1], whole["connector.hook_in"].values, atol=1e-5)
        assert pixels[pool].shape == (11, 6)
    assert not any(p._forward_hooks for p in model.hook_dict.values())


def test_what_has_no_box_or_is_not_seen_has_no_rows():
    model = tiny_vlm()
    bare = replace(ITEMS[1], boxes=())
    outside = replace(ITEMS[2], boxes=(UnitBox(1.0, 1.0, 1.0, 1.0),))
    rows, pixels = encoded(model, [ITEMS[0], bare, outside], ["vision.hook_embed"])
    for found in (rows["box"][0], pixels["box"]):
        assert np.isnan(found).all(axis=1).tolist() == [False, True, True]
    assert np.isfinite(rows["mean"]).all()
    assert np.isfinite(pixels["mean"]).all()


def test_six_numbers_by_hand():
    side = PATCH * GRID
    pixels = torch.randn(3, side + 1, side, generator=torch.Generator().manual_seed(0))
    seen = Seen(pixels, ImageTransform.of((side, side), (side, side), pad=False), (GRID, GRID), GRID * GRID)
    weights = np.zeros(GRID * GRID)
    weights[[7, 8]] = 0.25, 0.75  # two patches of the second row
    left, right = (
        pixels[:, PATCH : 2 * PATCH, PATCH * c : PATCH * (c + 1)].flatten(1).double().numpy() for c in (2, 3)
    )
    mean = 0.25 * left.mean(1) + 0.75 * right.mean(1)
    square = 0.25 * (left**2).mean(1) + 0.75 * (right**2).mean(1)
    np.testing.assert_allclose(pixel_numbers(seen, PATCH, weights), [*mean, *np.sqrt(square - mean**2)], rtol=1e-9)
    flat = replace(seen, pixels=torch.full_like(pixels, 0.7))
    np.testing.assert_allclose(pixel_numbers(flat, PATCH, weights), [0.7] * 3 + [0.0] * 3, atol=1e-6)


def test_other_points_are_refused():
    with pytest.raises(VlmProbeError) as caught:
        list(run_encoder(tiny_vlm(), [], ["connector.hook_in"]))
    assert str(caught.value) == "connector.hook_in is no residual stream of the encoder"
