"""Projections: planted clusters stay apart, one seed gives one picture, trust is reported."""

import os

import numpy as np
import pytest
import torch
from sklearn.manifold import trustworthiness

from vlm_probe.embedding import features, patch_rows, project, token_rows
from vlm_probe.errors import VlmProbeError
from vlm_probe.scenes import family_items

RNG = np.random.default_rng(8)
WHICH = np.arange(149) % 3
CLUSTERS = RNG.normal(size=(3, 17))[WHICH] * 4 + RNG.normal(size=(149, 17))


@pytest.mark.parametrize("method", ["umap", "pca", "tsne"])
def test_clusters_stay_apart_and_a_seed_repeats(method):
    table = project(CLUSTERS, method=method, neighbors=11)
    flat = table[["x", "y"]].to_numpy()
    centres = np.stack([flat[k == WHICH].mean(0) for k in range(3)])
    nearest = np.linalg.norm(flat[:, None] - centres, axis=-1).argmin(1)
    assert (nearest == WHICH).mean() > 0.97
    assert table.attrs["trustworthiness"] == pytest.approx(trustworthiness(CLUSTERS, flat, n_neighbors=11))
    assert table.attrs["trustworthiness"] > 0.8
    again = project(CLUSTERS, method=method, neighbors=11)
    np.testing.assert_array_equal(flat, again[["x", "y"]].to_numpy())


@pytest.mark.parametrize("method", ["umap", "pca", "tsne"])
def test_torch_keeps_its_threads(method):
    """Numba sets those of OpenMP, which are torch's too, to the number of cores."""
    before, given = torch.get_num_threads(), (os.cpu_count() or 1) + 1
    try:
        torch.set_num_threads(given)
        project(CLUSTERS, method=method, neighbors=11)
        assert torch.get_num_threads() == given
    finally:
        torch.set_num_threads(before)


def test_noise_in_many_dimensions_is_not_to_be_trusted():
    assert project(RNG.normal(size=(149, 97)), method="pca").attrs["trustworthiness"] < 0.65


def test_image_and_text_rows_keep_their_names(replica):
    rows = token_rows(replica, list(family_items(11, families=("gqa",))), "language.hook_embed", rows_per_item=5)
    assert rows.sizes["token"] == 110
    table = project(rows["language.hook_embed"], method="pca")
    assert set(table["modality"]) == {"image", "text"}
    words = set(table.query("modality == 'text'")["text"])
    assert any("color" in word for word in words)
    assert table.query("modality == 'image'")["text"].str.fullmatch(r"[0-7],[0-7]").all()
    assert sum(table.attrs["explained"]) < 1
    assert table.attrs["model"] == "replica/default"


def test_rows_are_those_of_the_run(replica):
    items = list(family_items(5, families=("gqa",), seed=2))
    rows = token_rows(replica, items, ["language.hook_embed", "language.blocks.1.hook_resid_post"], batch_size=3)
    for point in rows.data_vars:
        for token in (0, 9, -1):
            row = rows.isel(token=token)
            item = items[int(row["item"])]
            inputs = replica.prepare(item.picture(replica.image_size), item.question)
            _, cache = replica.run_with_cache(inputs, names_filter=[point])
            kind, text = str(row["modality"].values), str(row["text"].values)
            if kind == "image":
                at = inputs.layout.image_positions[int(text[0]) * 8 + int(text[2])]
            else:
                at = next(p for p in inputs.layout.question_positions if inputs.layout.tokens[p] == text)
            expected = cache[point][0, at].detach().numpy()
            if kind == "image" or inputs.layout.tokens.count(text) == 1:
                np.testing.assert_allclose(row[point].values, expected, atol=2e-4, rtol=2e-4)


@pytest.mark.parametrize(
    ("rows", "how", "message"),
    [
        (CLUSTERS, {"method": "mds"}, "no projection 'mds'; there are umap, pca, tsne"),
        (CLUSTERS[:31], {"neighbors": 11}, "31 rows are too few for neighbors=11; give at least 34"),
        (CLUSTERS * np.nan, {}, "149 of 149 rows have NaN or infinite values; leave those out"),
        (CLUSTERS[0], {}, "rows must be [row, feature], got shape [17]"),
    ],
)
def test_what_cannot_be_projected(rows, how, message):
    with pytest.raises(VlmProbeError) as caught:
        project(rows, **how)
    assert str(caught.value) == message


def test_rows_that_there_are_none_of(replica):
    items = list(family_items(3, families=("gqa",)))
    with pytest.raises(VlmProbeError, match="^connector.hook_out is no residual stream of the language model, which"):
        token_rows(replica, items, "connector.hook_out")
    with pytest.raises(VlmProbeError, match="^there is no item to take rows of$"):
        token_rows(replica, [], "language.hook_embed")


def test_patches_are_the_same_at_every_point(replica):
    items = list(family_items(5, families=("gqa",), seed=2))
    points = ["vision.blocks.1.hook_resid_post", "connector.hook_out", "language.blocks.0.hook_resid_post"]
    rows = patch_rows(replica, items, points, rows_per_item=7, batch_size=3)
    assert rows.sizes["patch"] == 35
    whole = features(replica, items, points, pool="patches")
    for patch in (0, 13, -1):
        one = rows.isel(patch=patch)
        row, col = map(int, str(one["place"].values).split(","))
        for point in points:
            expected = whole[point].values[int(one["item"]), row, col]
            np.testing.assert_allclose(one[point].values, expected, atol=2e-4, rtol=2e-4)
    with pytest.raises(
        VlmProbeError, match="^vision.blocks.0.attn.hook_pattern has dimensions batch, head, query, key"
    ):
        patch_rows(replica, items, "vision.blocks.0.attn.hook_pattern")
