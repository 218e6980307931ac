"""Probes: planted labels are found, noise is chance, memorisation is charged, images stay on one side."""

import numpy as np
import pytest
import torch
import xarray as xr

from vlm_probe.embedding.layers import probe_layers
from vlm_probe.embedding.logistic import fit_logistic
from vlm_probe.embedding.probe import _model, _splits, description_length, held_out_predictions, linear_probe
from vlm_probe.errors import VlmProbeError

RNG = np.random.default_rng(0)
X = RNG.normal(size=(233, 11))


def planted(noise: float = 0.0) -> np.ndarray:
    return np.asarray(["red", "green", "blue"])[(X[:, :3] + noise * RNG.normal(size=(233, 3))).argmax(1)]


def test_a_planted_label_is_found_and_beats_every_control():
    found = linear_probe(X, planted(), groups=np.arange(233) // 2, mdl=True)
    assert found["score"] > 0.85
    assert found["low"] < found["score"] < found["high"]
    assert found["shuffled"] < 0.45
    assert found["selectivity"] > 0.4
    assert found["majority"] < 0.45
    assert found["compression"] > 1.3
    assert (found["n"], found["classes"]) == (233, 3)


def test_noise_is_chance_inside_its_interval():
    label = RNG.choice(["a", "b"], 233)
    found = linear_probe(X, label, mdl=True)
    assert found["low"] <= 0.5 <= found["high"]
    assert abs(found["selectivity"]) < 0.15
    assert found["compression"] < 1.02


def test_control_labels_can_be_memorised_where_types_come_again():
    # Each of 7 types has a direction of its own: whatever labels types get, a probe can learn them.
    types = RNG.integers(0, 7, 233)
    x = np.eye(7)[types] + 0.01 * RNG.normal(size=(233, 7))
    label = np.asarray(["a", "b"])[types % 2]
    found = linear_probe(x, label, types=types)
    assert found["score"] == 1
    assert found["control"] == 1
    assert found["selectivity"] == 0


def test_a_number_is_regressed():
    y = X @ np.arange(11.0) + 0.5
    found = linear_probe(X, y)
    assert found["score"] > 0.99
    assert found["shuffled"] < 0.1
    assert np.isnan(found["low"])


@pytest.mark.parametrize("regression", [False, True])
def test_folds_never_share_an_image(regression):
    groups = RNG.integers(0, 41, 233)
    label = X[:, 0] if regression else RNG.choice(["a", "b"], 233)
    splits = _splits(label, groups, 5, 0, regression)
    assert sorted(np.concatenate([test for _, test in splits]).tolist()) == list(range(233))
    for train, test in splits:
        assert not set(groups[train]) & set(groups[test])


def test_copies_of_an_image_do_not_pass_for_generalisation():
    """Every image comes 6 times with a random label: grouped folds see through it, ungrouped ones do not."""
    groups = np.repeat(np.arange(40), 6)
    x = RNG.normal(size=(40, 60))[groups] + 0.01 * RNG.normal(size=(240, 60))
    label = RNG.choice(["a", "b"], 40)[groups]
    assert linear_probe(x, label)["score"] > 0.9
    assert linear_probe(x, label, groups=groups)["score"] < 0.75


def test_description_length_by_hand():
    # All labels of one portion pattern: with a useless feature the code costs about a bit an item.
    label = np.asarray(["a", "b"])[np.arange(200) % 2]
    useless = RNG.normal(size=(200, 1))
    assert description_length(useless, label, np.arange(200)) == pytest.approx(200, rel=0.05)
    telling = (np.arange(200) % 2)[:, None] * 2.0 - 1
    assert description_length(telling, label, np.arange(200)) < 60


def test_layers_in_one_table():
    label = planted()
    data = xr.Dataset(
        {"early": (("item", "f"), RNG.normal(size=(233, 5))), "late": (("item", "g"), X)},
        coords={"color": ("item", label), "image": ("item", np.arange(233) // 2)},
        attrs={"model": "m"},
    )
    table = probe_layers(data, ["color"]).set_index("point")
    assert table.loc["late", "score"] > table.loc["early", "high"]
    assert table.attrs["model"] == "m"
    with pytest.raises(VlmProbeError, match="^the features have no label shape; they have color, image$"):
        probe_layers(data, ["shape"])
    with pytest.raises(VlmProbeError, match="^color at early: the features have NaN or infinite values in 1 of 233"):
        probe_layers(data.assign(early=data["early"].where(data["early"] != data["early"][0, 0])), ["color"])


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (X, ["red"] * 233, "all 233 labels are 'red': a probe needs two classes or more"),
        (X, ["red"] * 230 + ["blue"] * 3, "only 3 items have the label 'blue'; 5 folds need at least 5"),
        (X[:9], ["a", "b"] * 4 + ["a"], "9 different groups are too few for 5 folds; give at least 10"),
        (X * np.nan, ["a", "b"] * 116 + ["a"], "the features have NaN or infinite values in 233 of 233 items"),
        (np.ones((233, 2)), ["a", "b"] * 116 + ["a"], "the features are the same for every item"),
        (X[:, 0], ["a", "b"] * 116 + ["a"], "features must be [item, feature], got shape [233]"),
        (X, ["a", "b"], "233 feature rows, 2 labels and 233 groups must be as many"),
    ],
)
def test_what_cannot_be_probed(x, y, message):
    with pytest.raises(VlmProbeError) as caught:
        linear_probe(x, y)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_both_solvers_find_the_same_probe(classes):
    noisy = X[:, :classes] + RNG.normal(size=(233, classes))
    label = np.asarray(list("abcde"))[noisy.argmax(1)]
    one, two = (linear_probe(X * 7 + 30, label, groups=np.arange(233) // 2, solver=s) for s in ("sklearn", "torch"))
    assert two == pytest.approx(one, abs=0.01)
    predicted = [held_out_predictions(X, label, solver=s) for s in ("sklearn", "torch")]
    assert (predicted[0] == predicted[1]).mean() > 0.99
    assert (predicted[0] == label).mean() == pytest.approx(linear_probe(X, label)["score"])


def test_batched_logistic_regression_reaches_scikit_learns_optimum():
    codes = torch.as_tensor((X[:, :3] + RNG.normal(size=(233, 3))).argmax(1))
    train = torch.ones(2, 233, dtype=torch.bool)
    train[0, ::7], train[1, 100:] = False, False
    layers = torch.as_tensor(np.stack([X, X**2 - 40]), dtype=torch.float32)
    strength = torch.tensor([[0.03, 1.0], [1.0, 0.001]])
    found = fit_logistic(layers, codes.expand(2, -1), train, strength, 3)
    for layer in range(2):
        for problem in range(2):
            known = train[problem].numpy()
            x = layers[layer].double().numpy()
            probe = _model(float(strength[layer, problem]), False).fit(x[known], codes.numpy()[known])
            expected = torch.as_tensor(probe.predict_log_proba(x)).T
            torch.testing.assert_close(found[layer, problem].log_softmax(0).double(), expected, atol=0.02, rtol=0.02)


def test_an_unknown_solver():
    with pytest.raises(VlmProbeError, match="^no solver 'magic'; there are torch, sklearn$"):
        linear_probe(X, planted(), solver="magic")
