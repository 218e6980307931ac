"""The modality gap: by hand, planted, and on a model whose scale is known."""

import numpy as np
import pytest
from tiny import tiny_vlm

from vlm_probe.embedding.gap import gap_measures, modality_gap
from vlm_probe.errors import VlmProbeError
from vlm_probe.scenes import family_items

RNG = np.random.default_rng(2)


def test_measures_by_hand():
    image = np.array([[2.0, 0.0], [0.0, 2.0]])
    text = np.array([[-1.0, 0.0], [-1.0, 0.0], [-1.0, 0.0]])
    found = gap_measures(image, text)
    # Unit centroids (1/2, 1/2) and (-1, 0).
    assert found["centroid_distance"] == pytest.approx(np.hypot(1.5, 0.5))
    assert found["cosine_within_image"] == pytest.approx(0)
    assert found["cosine_within_text"] == pytest.approx(1)
    assert found["cosine_between"] == pytest.approx(-0.5)
    assert found["norm_ratio"] == 2


def test_one_cloud_has_no_gap_and_two_have():
    cloud = RNG.normal(size=(997, 13)) + 1
    same = gap_measures(cloud[:500], cloud[500:])
    apart = gap_measures(cloud[:500], cloud[500:] - 2)
    assert same["centroid_distance"] < 0.1
    assert apart["centroid_distance"] > 1
    assert same["cosine_between"] == pytest.approx(same["cosine_within_image"], abs=0.03)
    assert apart["cosine_between"] < 0 < apart["cosine_within_text"]


def test_a_model_layer_by_layer():
    items = list(family_items(12, families=("gqa",)))
    model = tiny_vlm()
    table = modality_gap(model, items, rows_per_item=5).set_index("point")
    assert table.index.tolist() == ["language.hook_embed", *(f"language.blocks.{i}.hook_resid_post" for i in range(3))]
    assert table["n_image"].tolist() == [60] * 4
    assert table["n_text"].tolist() == [60] * 4
    assert table.loc["language.hook_embed", "separability"] > 0.9
    # What the other policy would give is what it does give.
    model.embed_scale = "text"
    other = modality_gap(model, items, rows_per_item=5).set_index("point")
    for one, two in ((table, other), (other, table)):
        assert one["norm_ratio_other_scale"].iloc[0] == pytest.approx(two["norm_ratio"].iloc[0], rel=1e-5)
        assert one["norm_ratio_other_scale"].iloc[1:].isna().all()


@pytest.mark.parametrize(
    ("image", "text", "message"),
    [
        (np.ones((1, 3)), np.ones((2, 3)), "1 image rows are too few, give at least 2"),
        (np.ones((2, 3)), np.zeros((4, 3)), "4 of 4 text rows are zero or not finite"),
        (np.full((2, 3), np.nan), np.ones((2, 3)), "2 of 2 image rows are zero or not finite"),
    ],
)
def test_what_has_no_gap(image, text, message):
    with pytest.raises(VlmProbeError) as caught:
        gap_measures(image, text)
    assert str(caught.value) == message
