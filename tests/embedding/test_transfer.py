"""Probes asked about what they never saw: planted facts transfer, and a confound neither helps nor hurts."""

import numpy as np
import pytest

from vlm_probe.embedding import held_out_predictions
from vlm_probe.embedding.transfer import dealt, predictions_elsewhere, transferred_predictions
from vlm_probe.errors import VlmProbeError

COLORS, SHAPES = 5, 4


def scenes(n: int, seed: int = 0):
    """Colours, shapes, and features that show the colour plainly and the shape as strongly as is asked."""
    rng = np.random.default_rng(seed)
    color, shape = rng.integers(COLORS, size=n), rng.integers(SHAPES, size=n)

    def seen(strength: float) -> np.ndarray:
        parts = [5 * np.eye(COLORS)[color], strength * np.eye(SHAPES)[shape], np.zeros((n, 2))]
        return (np.concatenate(parts, axis=1) + rng.normal(size=(n, COLORS + SHAPES + 2))).astype(np.float32)

    return color, np.asarray(["star", "ring", "cross", "square"])[shape], seen


def test_a_planted_shape_is_found_in_a_color_never_seen():
    color, shape, seen = scenes(211)
    found = transferred_predictions(np.stack([seen(5), seen(0)]), shape, color)
    plain, nothing = (found == shape).mean(1)
    assert plain > 0.95
    assert nothing == pytest.approx(1 / SHAPES, abs=0.1)


def test_a_part_is_never_predicted_by_a_probe_that_saw_it():
    """Features that name the part and, by it, the label: of the parts that were seen, never of the one held out."""
    part = np.repeat(np.arange(7), 13)
    label = np.tile(["a", "b", "c"], 31)[: len(part)]
    of_part = np.random.default_rng(1).permutation(label)
    x = np.concatenate([np.eye(7)[part], np.eye(3)[np.searchsorted(["a", "b", "c"], of_part)]], axis=1)
    found = transferred_predictions(x[None].astype(np.float32), label, part)[0]
    for one in range(7):
        others = part != one
        again = transferred_predictions(x[None].astype(np.float32), np.where(others, label, "a"), part)[0]
        assert again[~others].tolist() == found[~others].tolist(), "its labels changed nothing in what it is told"


def test_holding_out_kinds_punishes_who_finds_the_color():
    """Why parts are colours and not kinds: red was seen in every shape but one, and that one is then ruled out."""
    color, shape, seen = scenes(211)
    x, one = seen(0), (1.0,)
    kinds = np.char.add(color.astype(str), shape)
    below = (held_out_predictions(x, shape, groups=kinds, strengths=one) == shape).mean()
    fair = (transferred_predictions(x[None], shape, color, strengths=one)[0] == shape).mean()
    assert below < 0.05
    assert fair == pytest.approx(1 / SHAPES, abs=0.1)


def test_groups_are_dealt_whole_and_labels_evenly():
    rng = np.random.default_rng(2)
    groups, y = np.repeat(np.arange(67), 3), rng.choice(["yes", "no"], 201)
    parts = dealt(y, groups, parts=5, seed=3)
    assert set(parts) == set(range(5))
    assert all(len(set(parts[groups == one])) == 1 for one in range(67))
    assert np.ptp([(y[parts == p] == "yes").mean() for p in range(5)]) < 0.2
    assert (dealt(y, groups, seed=3) == parts).all()


COLOR, SHAPE, SEEN = scenes(53)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"parts": COLOR % 2}, "2 parts are too few to hold one out and choose by the others; give at least 3"),
        ({"y": np.full(53, "star")}, "all 53 labels are 'star': a probe needs two classes or more"),
        (
            {"y": np.where(COLOR == 1, "ring", "star")},
            "the label 'ring' stands in one part only: no other part's probe can name it",
        ),
        (
            {"x": np.where(np.arange(53)[:, None] < 2, np.nan, SEEN(1))[None].astype(np.float32)},
            "the features have NaN or infinite values in 2 of 53 items; leave those out",
        ),
        (
            {"x": np.ones((1, 53, 3), np.float32)},
            "the features are the same for every item: there is nothing to probe",
        ),
    ],
)
def test_what_cannot_be_probed(change, message):
    with pytest.raises(VlmProbeError) as caught:
        transferred_predictions(**{"x": SEEN(1)[None], "y": SHAPE, "parts": COLOR, **change})
    assert str(caught.value) == message


def elsewhere(**changed):
    """A probe of shapes that learns from 211 objects, read at 89 of other scenes; what they are."""
    color, shape, seen = scenes(211)
    other, truth, also = scenes(89, seed=1)
    given = {"x": seen(3)[None], "y": shape, "parts": color, "asked": also(3)[None], "asked_parts": other}
    return predictions_elsewhere(**{**given, **changed}), given, truth


def by_scikit_learn(x, y, parts, asked, asked_parts):
    """What its probe of all other parts says, part by part."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    said = np.empty(len(asked_parts), dtype=y.dtype)
    for part in np.unique(asked_parts):
        seen, at = parts != part, asked_parts == part
        probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=3000))
        said[at] = probe.fit(x[0, seen].astype(float), y[seen]).predict(asked[0, at].astype(float))
    return said


def test_who_is_asked_elsewhere_is_scikit_learn_s_probe_of_the_other_parts():
    found, given, truth = elsewhere(strengths=[0.1])
    assert (found[0] == by_scikit_learn(**given)).mean() > 0.98
    assert (found[0] == truth).mean() > 0.7


@pytest.mark.parametrize("kind", ["own color alone", "one-hot", "hardly moving", "far in one color"])
def test_features_that_a_part_alone_moves_are_scikit_learn_s_too(kind):
    """In all but one color such a feature is still; who is asked about is of that color, and has it."""
    color, shape, _ = scenes(211)
    other, _, _ = scenes(89, seed=1)
    _, names = np.unique(shape, return_inverse=True)

    def features(colors: np.ndarray, shapes: np.ndarray, seed: int) -> np.ndarray:
        rng = np.random.default_rng(seed)
        own = np.eye(COLORS)[colors]
        if kind == "own color alone":
            own = own * rng.exponential(size=own.shape)
        shown = 1.5 * np.eye(SHAPES)[shapes] + rng.normal(size=(len(shapes), SHAPES))
        if kind == "hardly moving":  # but more than a float32's rounding
            shown, own = 1000 + 1e-3 * shown, np.zeros_like(own)
        if kind == "far in one color":  # without it the rest spreads little, and must count in full
            shown = shown + 50 * (colors == 2)[:, None] * rng.normal(size=shown.shape)
        return np.concatenate([own, shown], axis=1).astype(np.float32)

    x, asked = features(color, names, 2), features(other, np.unique(scenes(89, seed=1)[1], return_inverse=True)[1], 3)
    found, given, _ = elsewhere(x=x[None], asked=asked[None], strengths=[0.1])
    own = by_scikit_learn(**given | {"x": x[None], "asked": asked[None]})
    assert (found[0] == own).mean() > 0.98


def test_every_layer_has_the_strength_that_does_best_where_its_own_parts_are_held_out():
    rng = np.random.default_rng(5)
    strengths = (0.001, 0.03, 3.0)
    _, given, _ = elsewhere(strengths=[0.1])
    # A plain layer, and one of many features of which few tell anything: what suits the one does not suit the other.
    noise = [rng.normal(size=(1, n, 120), scale=2).astype(np.float32) for n in (211, 89)]
    shapes = (scenes(211)[1], scenes(89, seed=1)[1])
    # On one line the shapes between two others take large weights.
    plain = [np.searchsorted(np.unique(shapes[0]), one)[None, :, None].astype(np.float32) for one in shapes]
    layers = [
        tuple(np.pad(rows, ((0, 0), (0, 0), (0, 123))) for rows in plain),
        tuple(
            np.concatenate([given[name][..., 5:9] / 3, more], axis=2)
            for name, more in zip(("x", "asked"), noise, strict=True)
        ),
    ]
    x, asked = (np.concatenate([one[i] for one in layers]) for i in range(2))
    both, *_ = elsewhere(x=x, asked=asked, strengths=strengths)
    best = []
    for layer, said in zip(layers, both, strict=True):
        parts, y = given["parts"], given["y"]
        shares = [(transferred_predictions(layer[0], y, parts, strengths=[one])[0] == y).mean() for one in strengths]
        best.append(strengths[int(np.argmax(shares))])
        alone, *_ = elsewhere(x=layer[0], asked=layer[1], strengths=[best[-1]])
        assert (said == alone[0]).all()
    assert len(set(best)) == 2
    assert (both[0] != both[1]).mean() > 0.1


def test_a_part_that_was_never_seen_is_asked_of_a_probe_that_saw_all():
    color, *_ = scenes(89, seed=1)
    names = np.asarray([str(one) for one in scenes(211)[0]])
    whole = elsewhere(strengths=[0.1], parts=names, asked_parts=np.full(89, "none"))[0]
    out = elsewhere(strengths=[0.1], parts=names, asked_parts=np.where(color == 2, "2", "none"))[0]
    assert (whole[0] == out[0])[color != 2].all()
    assert (out[0] == elsewhere(strengths=[0.1])[0][0])[color == 2].all()


def test_what_never_moved_in_training_is_worth_nothing_elsewhere():
    """A feature that is the same in all that is learned from, but for its rounding, and is not in what is asked."""
    found, given, _ = elsewhere(strengths=[0.1])
    rng = np.random.default_rng(3)
    for width in (0.0, 1e-4):
        still = (1000 + rng.uniform(-width, width, size=(1, 211, 2))).astype(np.float32)
        moved = rng.normal(size=(1, 89, 2), scale=1e5).astype(np.float32)
        x, asked = np.concatenate([given["x"], still], axis=2), np.concatenate([given["asked"], moved], axis=2)
        assert (elsewhere(strengths=[0.1], x=x, asked=asked)[0] == found).all()


def test_who_else_is_asked_changes_no_answer():
    found, given, _ = elsewhere(strengths=[0.1])
    far = given["asked"].copy()
    far[:, 1:] *= 1000
    assert elsewhere(strengths=[0.1], asked=far)[0][0, 0] == found[0, 0]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"asked_parts": np.full(89, "red")},
            "parts are int64, those that are asked about <U3: none is another",
        ),
        (
            {"asked": np.full((1, 89, 11), np.nan, np.float32)},
            "the features that are asked about have NaN or infinite values",
        ),
    ],
)
def test_what_cannot_be_asked_elsewhere(changed, message):
    with pytest.raises(VlmProbeError) as caught:
        elsewhere(**changed)
    assert str(caught.value) == message
