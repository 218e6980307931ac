"""Features: the activations themselves, pooled as asked, at the positions of the patches."""

import numpy as np
import pytest
import torch

from vlm_probe.embedding.features import features, scene_labels
from vlm_probe.embedding.layers import probe_layers
from vlm_probe.errors import VlmProbeError
from vlm_probe.inputs.model_inputs import ModelInputs
from vlm_probe.scenes import family_items

POINTS = ["vision.blocks.1.hook_resid_post", "connector.hook_out", "language.blocks.2.hook_resid_post"]


@pytest.fixture(scope="module")
def items():
    return list(family_items(7, families=("gqa", "mmvp"), seed=4))


def alone(model, item, name: str) -> tuple[torch.Tensor, ModelInputs]:
    inputs = model.prepare(item.picture(model.image_size), item.question)
    with torch.no_grad():
        _, cache = model.run_with_cache(inputs, names_filter=[name])
    kept = cache[name][0].flatten(1)
    return (kept[inputs.layout.image_positions] if name.startswith("language") else kept[-64:]), inputs


@pytest.mark.parametrize("name", [*POINTS, "vision.blocks.0.attn.hook_z"])
def test_pooled_features_are_those_of_each_item_alone(replica, items, name):
    patches = features(replica, items, name, pool="patches", batch_size=4)[name]
    mean = features(replica, items, name, pool="mean")[name]
    assert patches.dims[:3] == ("item", "row", "col")
    for i, item in enumerate(items):
        expected, _ = alone(replica, item, name)
        found = torch.as_tensor(patches.values[i]).flatten(0, 1)
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(torch.as_tensor(mean.values[i]), expected.mean(0), atol=1e-4, rtol=1e-4)


def test_box_and_last(replica, items):
    name = POINTS[2]
    boxed = features(replica, items, name, pool="box")[name]
    last = features(replica, items, name, pool="last", batch_size=3)[name]
    for i, item in enumerate(items):
        expected, inputs = alone(replica, item, name)
        size = replica.image_size
        left, top, right, bottom = (edge * size for edge in item.boxes[0])
        weights = inputs.layout.box_coverage((left, top, right, bottom)).ravel()
        by_hand = (torch.as_tensor(weights).float()[:, None] * expected).sum(0) / weights.sum()
        torch.testing.assert_close(torch.as_tensor(boxed.values[i]), by_hand, atol=1e-4, rtol=1e-4)
        with torch.no_grad():
            _, cache = replica.run_with_cache(inputs, names_filter=[name])
        torch.testing.assert_close(torch.as_tensor(last.values[i]), cache[name][0, -1], atol=1e-4, rtol=1e-4)


def test_labels_are_true_of_the_scene(items):
    for item in items:
        labels = scene_labels(item)
        named = next(o for o in item.source.objects if o.box == item.boxes[0])
        assert (labels["color"], labels["shape"]) == (named.color, named.shape)
        assert labels["position"] == f"{labels['row']} {labels['column']}" == named.place
        assert labels["existence"] == ("yes" if "red" in {o.color for o in item.source.objects} else "no")
        assert labels["count"] == ("zero", "one", "two", "three")[len(item.source.objects)]


def test_color_and_shape_are_read_off_the_object(replica):
    """Both beat labels drawn for every item by far, and color also a random label for every kind of object;
    shape hardly does: the connector tells all kinds apart, so any grouping of them can be read off as well."""
    some = list(family_items(300, families=("gqa",), seed=8))
    data = features(replica, some, ["vision.hook_embed", "connector.hook_out"], pool="box")
    alone = probe_layers(data, ["color", "shape"], folds=3).set_index(["point", "label"])
    kinds = probe_layers(data, ["color", "shape"], folds=3, types="object").set_index(["point", "label"])
    for label in ("color", "shape"):
        assert alone.loc[("connector.hook_out", label), "score"] > 0.75
        assert alone.loc[("connector.hook_out", label), "selectivity"] > 0.3
        assert alone.loc[("connector.hook_out", label), "shuffled"] < 0.4
    assert kinds.loc[("connector.hook_out", "color"), "selectivity"] > 0.2
    assert kinds.loc[("connector.hook_out", "shape"), "control"] > 0.5
    assert np.isfinite(alone["score"]).all()


@pytest.mark.parametrize(
    ("points", "pool", "message"),
    [
        ("connector.hook_out", "max", "no pool 'max'; there are patches, mean, box, other, last"),
        ("connector.hook_out", "last", "pool 'last' is the language model's answer position; connector.hook_out has"),
        ("language.blocks.0.attn.hook_pattern", "mean", "language.blocks.0.attn.hook_pattern has dimensions batch"),
        ("language.hook_nothing", "mean", "no hook point 'language.hook_nothing'"),
    ],
)
def test_what_has_no_features(replica, items, points, pool, message):
    with pytest.raises(VlmProbeError) as caught:
        features(replica, items, points, pool=pool)
    assert str(caught.value).startswith(message)


def test_items_without_a_box(replica):
    absent = [i for i in family_items(4, families=("pope",)) if i.answer == "no"]
    with pytest.raises(VlmProbeError, match=r"^pool 'box' needs a box for every item; 2 of 2 have none$"):
        features(replica, absent, "connector.hook_out", pool="box")
