"""The spatial probe: labels are what boxes cover, planted patches are found, images stay on one side."""

import numpy as np
import pytest
import xarray as xr

from vlm_probe.embedding import features, patch_labels, spatial_probe
from vlm_probe.embedding.spatial import _iou, _other_images
from vlm_probe.errors import VlmProbeError
from vlm_probe.scenes import family_items

RNG = np.random.default_rng(5)


@pytest.fixture(scope="module")
def items():
    return list(family_items(40, families=("gqa",), seed=3))


def test_labels_are_what_the_boxes_cover(replica, items):
    labels = patch_labels(replica, items, of="color")
    assert labels.dims == ("item", "row", "col")
    for item, grid in zip(items, labels.values, strict=True):
        assert set(grid.ravel()) - {"ground"} <= {o.color for o in item.source.objects}
        for o in item.source.objects:
            # The middle of an object is on it; its centre's patch is covered by its box alone.
            row, col = (min(7, int(edge * 8)) for edge in (o.center[1], o.center[0]))
            assert grid[row, col] == o.color
    share = (labels != "ground").mean()
    assert 0.05 < share < 0.35
    assert set(patch_labels(replica, items[:2], of="object").values.ravel()) == {"object", "ground"}


def test_planted_patches_are_found_and_noise_is_not(items, replica):
    labels = patch_labels(replica, items, of="shape")
    kinds, code = np.unique(labels.values, return_inverse=True)
    directions = RNG.normal(size=(len(kinds), 23))
    noise = RNG.normal(size=(*labels.shape, 23))
    coords = {name: labels.coords[name] for name in ("id", "image")}
    dims = (*labels.dims, "feature")
    planted = xr.DataArray(directions[code.reshape(labels.shape)] * 3 + noise, dims=dims, coords=coords, name="p")
    found, table = spatial_probe(planted, labels)
    assert (found == labels).mean() > 0.95
    rows = table.set_index("label")
    assert rows.loc["any object", "iou"] > 0.85
    assert rows["low"].le(rows["iou"]).to_numpy().all()
    assert rows["iou"].le(rows["high"]).to_numpy().all()
    assert rows.loc["any object", "control"] < 0.3
    _, blind = spatial_probe(xr.DataArray(noise, dims=dims, coords=coords, name="n"), labels)
    assert blind.set_index("label").loc["any object", "iou"] < 0.05


def test_a_replica_knows_where_its_objects_are(replica, items):
    data = features(replica, items, "connector.hook_out", pool="patches")
    _, table = spatial_probe(data["connector.hook_out"], patch_labels(replica, items, of="color"))
    row = table.iloc[0]
    assert row["iou"] > 0.5 > row["control"] + 0.2


def test_overlap_by_hand():
    truth = np.array([[[1, 1, 0]], [[0, 0, 0]], [[1, 0, 0]]], dtype=bool)
    found = np.array([[[1, 0, 1]], [[0, 0, 0]], [[1, 0, 0]]], dtype=bool)
    iou = _iou(found, truth)
    assert iou[0] == pytest.approx(1 / 3)
    assert np.isnan(iou[1])
    assert iou[2] == 1


def test_the_control_is_another_image():
    images = np.asarray(["a", "a", "b", "c", "c", "d", "e"])
    other = images[_other_images(images, 1)]
    assert (other != images).all()
    assert set(other) == set(images)


def test_what_does_not_belong_together(replica, items):
    labels = patch_labels(replica, items[:12])
    patches = features(replica, items[1:13], "connector.hook_out", pool="patches")["connector.hook_out"]
    with pytest.raises(VlmProbeError, match="^patches and labels are of different items; make both from one list"):
        spatial_probe(patches, labels)
    with pytest.raises(VlmProbeError, match=r"^patches of shape \[3, 8, 8\] and labels of shape \[12, 8, 8\] must be"):
        spatial_probe(patches[:3], labels)
    with pytest.raises(VlmProbeError, match="^no labels of 'size'; there are kind, color, shape, object$"):
        patch_labels(replica, items, of="size")
