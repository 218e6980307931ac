"""Blind pairs: planted ones are found, a block at a time gives what all at once gives, and the page shows them."""

import numpy as np
import pytest
import torch

from vlm_probe import load
from vlm_probe.embedding import blind_pairs, disagreeing_pairs, image_embeddings, images_in
from vlm_probe.embedding.blind_pairs import twin_percentiles
from vlm_probe.errors import VlmProbeError
from vlm_probe.report import write_pairs
from vlm_probe.scenes import Scene, family_items, scene_image

GENERATOR = torch.Generator().manual_seed(3)


def cloud(rows: int, features: int) -> torch.Tensor:
    return torch.randn(rows, features, generator=GENERATOR)


def test_planted_pairs_are_found():
    one, other = cloud(101, 31), cloud(101, 19)
    for i in range(0, 20, 2):
        one[i + 1] = one[i] + 0.05 * cloud(1, 31)[0]  # the first encoder hardly tells them apart
        other[i + 1] = -other[i]
    table = disagreeing_pairs(one, other, top=10)
    assert set(zip(table["first"], table["second"], strict=True)) == {(i, i + 1) for i in range(0, 20, 2)}
    assert (table["percentile_a"] > 0.99).to_numpy().all()
    assert (table["percentile_b"] < 0.01).to_numpy().all()
    assert table["gap"].is_monotonic_decreasing


def test_blocks_give_what_all_at_once_gives(monkeypatch):
    one, other = cloud(67, 11), cloud(67, 13)
    whole = disagreeing_pairs(one, other, top=5)
    monkeypatch.setitem(disagreeing_pairs.__globals__, "_BLOCK", 7)
    blocks = disagreeing_pairs(one, other, top=5)
    np.testing.assert_allclose(whole.to_numpy(dtype=float), blocks.to_numpy(dtype=float))


def test_each_image_once():
    table = disagreeing_pairs(cloud(41, 7), cloud(41, 5), top=100)
    used = [*table["first"], *table["second"]]
    assert len(used) == len(set(used))
    assert (table["first"] < table["second"]).to_numpy().all()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("pictures")
    for i, item in enumerate(family_items(12, families=("gqa",), seed=1)):
        assert isinstance(item.source, Scene)
        scene_image(item.source, 64).save(out / f"{i:02d}.png")
    return out


def test_a_folder_and_its_page(folder, tmp_path):
    a, b = load("replica/small-clip"), load("replica/small-dino")
    table = blind_pairs(a, b, folder, top=4)
    assert len(table) == 4
    assert table["name_first"].str.fullmatch(r"\d\d\.png").all()
    assert (table.attrs["a"], table.attrs["b"]) == ("replica/small-clip", "replica/small-dino")
    assert table.attrs["images"] == 12
    page = write_pairs(table, images_in(folder), tmp_path / "out").read_text()
    assert page.count("<figure") == 4
    assert page.count("data:image/png;base64") == 8
    assert not (tmp_path / "out" / "pairs.partial").exists()


def test_embeddings_are_those_of_the_whole_run(folder, replica):
    pictures = images_in(folder)[:3]
    found = image_embeddings(replica, pictures, batch_size=2)
    inputs = replica.prepare(pictures[2], "What color is the star?")
    name = f"vision.blocks.{replica.vision_layers_read - 1}.hook_resid_post"
    with torch.no_grad():
        _, cache = replica.run_with_cache(inputs, names_filter=[name])
    torch.testing.assert_close(found[2], cache[name][0, 1:].mean(0), atol=1e-4, rtol=1e-4)
    cls = image_embeddings(replica, pictures, pool="cls")
    torch.testing.assert_close(cls[2], cache[name][0, 0], atol=1e-4, rtol=1e-4)
    assert not any(p._forward_hooks for p in replica.hook_dict.values())


def test_bad_pictures(folder, tmp_path, replica):
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "03.png").write_bytes(b"no picture")
    with pytest.raises(VlmProbeError, match=r"^'03.png' is not an image that can be decoded$"):
        blind_pairs(replica, replica, tmp_path)
    table = blind_pairs(replica, replica, tmp_path, skip_bad=True)
    assert table.attrs["images"] == 11
    assert table.attrs["skipped"] == ["'03.png' is not an image that can be decoded"]
    assert table["gap"].abs().to_numpy().max() < 1e-6


@pytest.mark.parametrize(
    ("one", "other", "message"),
    [
        (cloud(3, 5), cloud(4, 5), "3 and 4 embeddings: give both encoders the same images"),
        (cloud(1, 5), cloud(1, 5), "1 images make no pair; give at least 2"),
        (cloud(3, 5), cloud(3, 5) * float("nan"), "the second encoder's embeddings of images [0, 1, 2] are not finite"),
    ],
)
def test_what_makes_no_pairs(one, other, message):
    with pytest.raises(VlmProbeError) as caught:
        disagreeing_pairs(one, other)
    assert str(caught.value) == message


def test_planted_twins_stand_where_they_were_put():
    x = cloud(62, 29)
    for i in range(0, 62, 2):
        x[i + 1] = x[i] + 0.1 * cloud(1, 29)[0]
    x[1], x[3] = -x[0], x[2] + 2 * cloud(1, 29)[0]
    found = twin_percentiles(x)
    assert found[0] < 0.02
    assert (found[2:] > 0.99).all()
    assert found[0] < found[1] < found[2]


def test_percentiles_by_hand(monkeypatch):
    x = cloud(10, 7)
    unit = x - x.mean(0)
    cosine = torch.nn.functional.cosine_similarity(unit[:, None], unit[None], dim=-1)
    others = [cosine[i, j] for i in range(10) for j in range(i) if i // 2 != j // 2]
    expected = [np.mean([float(one < cosine[2 * k, 2 * k + 1]) for one in others]) for k in range(5)]
    np.testing.assert_allclose(twin_percentiles(x).numpy(), expected, atol=1e-6)
    wide = cloud(202, 7)
    whole = twin_percentiles(wide)
    monkeypatch.setitem(twin_percentiles.__globals__, "_SAMPLE", 9001)
    np.testing.assert_allclose(twin_percentiles(wide).numpy(), whole.numpy(), atol=0.03)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (cloud(7, 5), "7 images are no two pairs of twins or more: nothing can be compared"),
        (cloud(2, 5), "2 images are no two pairs of twins or more: nothing can be compared"),
        (cloud(4, 5) * float("nan"), "the embeddings of images [0, 1, 2, 3] are not finite"),
    ],
)
def test_what_are_no_twins(x, message):
    with pytest.raises(VlmProbeError) as caught:
        twin_percentiles(x)
    assert str(caught.value) == message


def test_folders_without_pictures(tmp_path):
    with pytest.raises(VlmProbeError, match=r"holds 0 images \(\.png"):
        images_in(tmp_path)
    with pytest.raises(VlmProbeError, match="^no folder at "):
        images_in(tmp_path / "none")
