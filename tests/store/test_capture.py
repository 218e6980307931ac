"""Captured values are what the model computes, at any points and positions; what cannot be captured is told."""

import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
import xarray as xr
from PIL import Image
from storing import POINTS, files, scenes
from tiny import tiny_language, tiny_vlm

from vlm_probe.embedding import features, linear_probe, probe_layers, similarity_matrix
from vlm_probe.errors import VlmProbeError, VlmProbeWarning
from vlm_probe.items import Item
from vlm_probe.layout.groups import positions_of
from vlm_probe.store import capture, open_store, store_errors, verify_store
from vlm_probe.store.computing import run_kept
from vlm_probe.store.picking import Pick

POOLS = {"mean": "mean", "mean(box)": "box", "mean(other)": "other", "image": "patches", "answer": "last"}


def asked(*questions, family="own"):
    """Items about pictures of their own, no two alike."""
    made = []
    for number, question in enumerate(questions):
        pixels = np.random.default_rng(number).integers(0, 256, (35, 35, 3), dtype=np.uint8)
        picture = Drawn(Image.fromarray(pixels))
        made.append(Item(f"item {number}", family, "k", "g", f"p{number}", question, "a", source=picture))
    return made


class Drawn:
    """A picture that is there already."""

    def __init__(self, picture):
        self.picture = picture

    def image(self, size):
        return self.picture

    def __repr__(self):
        return f"Drawn({self.picture.size})"


@pytest.mark.parametrize("positions", POOLS)
def test_a_store_is_what_features_give(replica, tmp_path, positions):
    items = [item for item in scenes(23) if item.boxes and item.others][:11]
    points = [*POINTS, "language.blocks.2.attn.hook_z"]
    points = points[1:] if positions == "answer" else [*points, "vision.blocks.0.hook_resid_post"]
    found = capture(replica, items, points, tmp_path / "s", positions=positions, shard_items=4, batch_size=3)
    assert (found.items, found.failed, found.done) == (len(items), 0, len(items))
    stored, expected = open_store(tmp_path / "s"), features(replica, items, points, pool=POOLS[positions])
    assert set(stored.data_vars) == set(expected.data_vars)
    for name, values in expected.data_vars.items():
        assert stored[name].dims == values.dims
        np.testing.assert_allclose(stored[name].values, values.values, rtol=0, atol=2e-4 * np.abs(values.values).max())
    for name in expected.coords:
        assert stored[name].values.tolist() == expected[name].values.tolist(), name


@pytest.mark.parametrize("tower", ["clip", "registers"])
@pytest.mark.parametrize("positions", ["all", "question", "text", "image | answer", "prompt & ~tail", "~question"])
def test_rows_are_those_of_the_items_alone(tmp_path, tower, positions):
    model = tiny_vlm(tower, "gemma2")
    items = asked("what is it", "is", "where are all of them now", "who")
    language = ["language.hook_embed", "language.blocks.1.attn.hook_k"]
    points = [*language, "vision.blocks.0.mlp.hook_post", "connector.hook_pre"] if positions == "all" else language
    capture(model, items, points, tmp_path / "s", positions=positions, batch_size=3, shard_items=3)
    data = open_store(tmp_path / "s")
    for number, item in enumerate(items):
        inputs = model.prepare(model.picture(item), item.question)
        places = np.arange(inputs.layout.length) if positions == "all" else positions_of(inputs.layout, positions)
        _, cache = model.run_with_cache(inputs, names_filter=points)
        own = data.isel(item=number)
        n = len(places)
        assert own["sequence_position"].values[:n].tolist() == places.tolist()
        assert own["token_id"].values[:n].tolist() == inputs.input_ids[0, places].tolist()
        assert (own["token_id"].values[n:] == -1).all()
        for name in points:
            rows = cache[name][0].flatten(1).numpy()
            rows = rows[places] if name.startswith("language.") else rows
            np.testing.assert_allclose(own[name].values[: len(rows)], rows, rtol=0, atol=1e-4)
            assert np.isnan(own[name].values[len(rows) :]).all()
    assert data["tokens"].values.tolist() == [
        model.prepare(model.picture(item), item.question).input_ids.shape[1] for item in items
    ]


def test_a_mean_over_all_positions_is_over_those_of_each_part(replica, tmp_path):
    items, points = scenes(3), ["vision.blocks.1.hook_resid_post", *POINTS]
    capture(replica, items, points, tmp_path / "s", positions="mean(all)", batch_size=2)
    data = open_store(tmp_path / "s")
    for number, item in enumerate(items):
        inputs = replica.prepare(replica.picture(item), item.question)
        _, cache = replica.run_with_cache(inputs, names_filter=points)
        for name in points:
            np.testing.assert_allclose(data[name].values[number], cache[name][0].mean(0), rtol=0, atol=1e-3)


def test_a_text_that_is_none_fails_its_item_alone(replica, tmp_path):
    items = scenes(3)
    items[1] = replace(items[1], answer="\ud83d")
    found = capture(replica, items, POINTS, tmp_path / "s")
    assert found.errors["error"].tolist() == ["its answer is no text that UTF-8 can hold"]
    assert open_store(tmp_path / "s").sizes["item"] == 2


def test_patches_of_a_box_are_numbered(replica, tmp_path):
    items = [item for item in scenes(9) if item.boxes]
    capture(replica, items, POINTS, tmp_path / "s", positions="box")
    data = open_store(tmp_path / "s")
    every = features(replica, items, POINTS, pool="patches")
    for number, item in enumerate(items):
        layout = replica.prepare(replica.picture(item), item.question).layout
        own = np.flatnonzero(np.any([layout.box_to_patches(box).ravel() for box in item.boxes], axis=0))
        assert data["patch_number"].values[number, : len(own)].tolist() == own.tolist()
        assert (data["patch_number"].values[number, len(own) :] == -1).all()
        for name in POINTS:
            rows = every[name].values[number].reshape(-1, every[name].shape[-1])[own]
            np.testing.assert_allclose(data[name].values[number, : len(own)], rows, atol=2e-4 * np.abs(rows).max())


def test_a_model_runs_no_further_than_what_is_kept(replica):
    (item,) = scenes(1)
    inputs = replica.prepare(replica.picture(item), item.question)
    late = []
    replica.add_hook("language.blocks.2.hook_resid_post", lambda x, hook: late.append(1))
    try:
        names = ["vision.blocks.1.hook_resid_post", "language.blocks.1.hook_resid_post"]
        kept = run_kept(replica, inputs, names, lambda name, x: x)
    finally:
        replica.reset_hooks()
    assert not late
    _, cache = replica.run_with_cache(inputs, names_filter=names)
    assert all(torch.equal(kept[name], cache[name]) for name in names)
    assert replica.answer(replica.picture(item), item.question)  # and is none the worse for it


def test_a_language_model_alone_is_captured(tmp_path):
    model = tiny_language()
    items = [replace(item, source=None) for item in asked("what", "where is it")]
    capture(model, items, "language.blocks.*.hook_resid_post", tmp_path / "s", positions="answer")
    assert open_store(tmp_path / "s").sizes["item"] == 2
    with pytest.raises(VlmProbeError, match="without an encoder: it has no positions 'mean'"):
        capture(model, items, "language.hook_embed", tmp_path / "t")


def test_probes_and_similarity_take_a_store(replica, tmp_path):
    items = scenes(60)
    capture(replica, items, POINTS, tmp_path / "s")
    data, same = open_store(tmp_path / "s"), features(replica, items, POINTS)
    one, two = (probe_layers(each, ["count"], folds=3) for each in (data, same))
    assert one.to_numpy(dtype=object).tolist() == two.to_numpy(dtype=object).tolist()
    values = data[POINTS[1]].values
    assert linear_probe(values, data["count"].values, groups=data["image"].values, folds=3)
    assert np.diag(similarity_matrix(data, same)) == pytest.approx(1, abs=1e-5)


def test_xarray_alone_reads_a_store(replica, tmp_path):
    items = scenes(13)
    capture(replica, items, POINTS, tmp_path / "s", positions="image", shard_items=5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plain = xr.open_zarr(tmp_path / "s" / "arrays", consolidated=False, chunks=None)
    ours = open_store(tmp_path / "s")
    for name in POINTS:
        assert plain[name].dims == ours[name].dims
        np.testing.assert_array_equal(plain[name].values, ours[name].values)


def test_a_store_says_where_it_comes_from(replica, tmp_path):
    capture(replica, scenes(2), POINTS, tmp_path / "s")
    data = open_store(tmp_path / "s")
    assert data.attrs["model"] == "replica/default"
    assert list(data.filter_by_attrs(layer=1)) == [POINTS[1]]
    assert list(data.filter_by_attrs(part="connector")) == [POINTS[0]]


def test_items_that_fail_are_told_and_the_others_kept(replica, tmp_path):
    (tmp_path / "text.png").write_text("no picture")
    good = scenes(9)
    bad = {2: replace(good[2], source=tmp_path / "text.png"), 4: replace(good[4], source=tmp_path / "none.png")}
    bad[7] = replace(good[7], question=" ")
    items = [bad.get(number, item) for number, item in enumerate(good)]
    found = capture(replica, items, POINTS, tmp_path / "s", shard_items=4)
    assert (found.failed, found.done) == (3, 9)
    told = found.errors.set_index("number")["error"].to_dict()
    assert "not an image that can be decoded" in told[2]
    assert "no image file at" in told[4]
    assert "question" in told[7]
    assert store_errors(tmp_path / "s").equals(found.errors)
    data = open_store(tmp_path / "s")
    kept = [item for number, item in enumerate(good) if number not in bad]
    assert data["id"].values.tolist() == [item.id for item in kept]
    expected = features(replica, kept, POINTS)
    for name in POINTS:
        np.testing.assert_allclose(data[name].values, expected[name].values, rtol=0, atol=1e-3)
    assert verify_store(tmp_path / "s").whole
    with pytest.raises(VlmProbeError, match=r"^item .*: .*\(strict\)$"):
        capture(replica, items, POINTS, tmp_path / "t", shard_items=4, strict=True)


def test_values_that_are_no_numbers_fail_their_item_alone(replica, tmp_path):
    items, name = scenes(5), POINTS[1]
    questions = [item.question for item in items]

    def broken(x, hook):
        x = x.clone()
        x[1:2, -1, 3] = torch.nan
        return x

    with replica.hooks([(name, broken)]):
        found = capture(replica, items, POINTS, tmp_path / "s", batch_size=5, shard_items=5)
    assert found.failed == 0  # the last position is not of the image
    with replica.hooks([(name, broken)]):
        found = capture(replica, items, [name], tmp_path / "t", positions="answer", batch_size=5, shard_items=5)
    (row,) = found.errors.to_dict("records")
    order = sorted(range(5), key=lambda n: (len(replica.inputs.encode(questions[n], [0])[0]), n))
    assert (row["number"], row["error"]) == (order[1], f"{name} has values that are not numbers (NaN or infinite)")
    assert np.isfinite(open_store(tmp_path / "t")[name].values).all()


def test_what_float16_cannot_hold_is_told(replica, tmp_path):
    items, name = scenes(3), POINTS[1]
    with replica.hooks([(name, lambda x, hook: x * 1e6)]):
        narrow = capture(replica, items, [name], tmp_path / "s", dtype="float16")
        wide = capture(replica, items, [name], tmp_path / "t")
    assert (narrow.failed, wide.failed) == (3, 0)
    assert narrow.errors["error"].tolist() == [f"{name} has values beyond float16; store float32"] * 3
    half = capture(replica, items, [name], tmp_path / "u", dtype="float16")
    assert half.failed == 0
    full = features(replica, items, [name])[name].values
    stored = open_store(tmp_path / "u")[name].values
    assert stored.dtype == np.float16
    np.testing.assert_allclose(stored, full, rtol=2e-3, atol=1e-3 * np.abs(full).max())


def test_out_of_memory_halves_the_batch_and_goes_on(replica, tmp_path, monkeypatch):
    items = scenes(13)
    whole, sizes = replica.run_with_hooks, []

    def narrow(inputs, **more):
        sizes.append(len(inputs))
        if len(inputs) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return whole(inputs, **more)

    monkeypatch.setattr(replica, "run_with_hooks", narrow)
    with pytest.warns(VlmProbeWarning, match="out of memory with 8 items at once: going on with 4"):
        found = capture(replica, items, POINTS, tmp_path / "s", batch_size=8, shard_items=13)
    monkeypatch.undo()
    assert found.failed == 0
    assert max(sizes) == 8
    expected = features(replica, items, POINTS)
    for name in POINTS:
        np.testing.assert_allclose(open_store(tmp_path / "s")[name].values, expected[name].values, rtol=0, atol=1e-3)


def test_pictures_too_many_for_memory_are_halved_too(replica, tmp_path, monkeypatch):
    from vlm_probe.store import preparing

    usual = preparing._inputs

    def narrow(model, given):
        if len(given) > 3:
            raise MemoryError
        return usual(model, given)

    monkeypatch.setattr(preparing, "_inputs", narrow)
    with pytest.warns(VlmProbeWarning, match="out of memory with 8 items at once: going on with 4"):
        found = capture(replica, scenes(9), POINTS, tmp_path / "s", batch_size=8)
    assert found.failed == 0


def test_an_item_too_large_for_memory_is_told(replica, tmp_path, monkeypatch):
    items = scenes(5)
    whole = replica.run_with_hooks
    widest = max(len(replica.inputs.encode(item.question, [0])[0]) for item in items)

    def narrow(inputs, **more):
        longest = int(inputs.attention_mask.sum(1).max()) - len(inputs.layouts[0].image_positions)
        if longest >= widest and calls:
            raise RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory: you tried to allocate")
        calls.append(1)  # the first is the one whose shapes are taken
        return whole(inputs, **more)

    calls = []
    monkeypatch.setattr(replica, "run_with_hooks", narrow)
    with pytest.warns(VlmProbeWarning, match="out of memory"):
        found = capture(replica, items, POINTS, tmp_path / "s", batch_size=5, shard_items=5)
    assert 0 < found.failed < 5
    assert set(found.errors["error"]) == {"it does not fit into memory, alone in its batch"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"positions": "nowhere here"}, "no positions 'nowhere here' to keep"),
        ({"positions": "sink"}, "no positions 'sink' to keep"),
        ({"positions": "question"}, "connector.hook_out has no positions 'question', only the language model has"),
        ({"points": ["language.blocks.0.attn.hook_pattern"]}, "no feature vector per position"),
        ({"points": "nothing.*"}, "nothing"),
        ({"positions": "5"}, "no positions '5' to keep"),
        ({"positions": "imagee"}, "no positions 'imagee'"),
        ({"positions": "imagee", "points": POINTS[1:]}, "no item can be captured.*no positions 'imagee'"),
        ({"points": []}, "no hook point is named"),
        ({"readers": 0}, "there must be 1 reader or more, got 0"),
        ({"dtype": "int8"}, "values are kept as float32 or float16, got 'int8'"),
        ({"batch_size": 0}, "a batch has 1 item or more, got 0"),
        ({"shard_items": 0}, "a shard has 1 item or more, got 0"),
        ({"items": []}, "no item can be captured"),
    ],
)
def test_what_cannot_be_captured_is_said_before_anything_is_written(replica, tmp_path, change, message):
    given = {"items": scenes(2), "points": POINTS, **change}
    with pytest.raises(VlmProbeError, match=message):
        capture(replica, given.pop("items"), given.pop("points"), tmp_path / "s", **given)
    assert not (tmp_path / "s").exists() or not files(tmp_path / "s")


def test_two_items_of_one_id_are_refused(replica, tmp_path):
    one, two = scenes(2)
    with pytest.raises(VlmProbeError, match="item ids must differ"):
        capture(replica, [one, replace(two, id=one.id)], POINTS, tmp_path / "s")


def test_what_the_disk_will_not_hold_is_refused_before_it_begins(replica, tmp_path, monkeypatch):
    from vlm_probe.store import places

    monkeypatch.setattr(places.LocalPlace, "free", lambda self: 1000)
    with pytest.raises(VlmProbeError, match=r"it takes up to .* and 1000 bytes are free at"):
        capture(replica, scenes(3), POINTS, tmp_path / "s")
    assert capture(replica, scenes(3), POINTS, tmp_path / "s", anyway=True).failed == 0


def test_what_it_takes_is_said_first_and_how_long_after_the_first_shard(replica, tmp_path):
    lines, done = [], []
    capture(replica, scenes(9), POINTS, tmp_path / "s", shard_items=3, told=lines.append, progress=done.append)
    width = sum(4 * values.shape[1] for values in open_store(tmp_path / "s").data_vars.values())
    assert lines[0].startswith(f"9 items, 2 points: {width} bytes an item, {9 * width / 1024:.1f} kB in all")
    assert lines[1].startswith("1 of 3 shards: about")
    assert done == [0, 3, 3, 3]


@pytest.mark.parametrize(
    ("text", "where", "mean"),
    [
        ("mean", "image", True),
        ("mean(box)", "box", True),
        (" mean( question ) ", "question", True),
        ("all", "all", False),
    ],
)
def test_positions_are_read(text, where, mean):
    assert Pick.of(text) == Pick(where, mean)
