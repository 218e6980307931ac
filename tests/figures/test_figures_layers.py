"""Lines with bands along the layers: what is drawn is what the table says."""

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from headed import note_of, one_line, title_of
from matplotlib.collections import PolyCollection
from matplotlib.colors import same_color, to_rgb

from vlm_probe import figures
from vlm_probe.figures.points import along_points, short_point
from vlm_probe.figures.style import CONTROL, PALETTE


@pytest.fixture(autouse=True)
def _closed():
    yield
    plt.close("all")


def line(ax, color, style="-"):
    """(x, y) of every vertex of the one line of this colour and style."""
    found = [
        one
        for one in ax.lines
        if len(one.get_xdata()) and same_color(one.get_color(), color) and one.get_linestyle() == style
    ]
    assert len(found) == 1, [len(found), color, style]
    return [tuple(map(float, at)) for at in found[0].get_xydata()]


def bands(ax, color):
    """Of every band of a colour: (x, low, high) at each of its points."""
    found = []
    for one in ax.collections:
        if not isinstance(one, PolyCollection):
            continue
        faces: Any = one.get_facecolor()
        if same_color(to_rgb(faces[0]), color):
            corners: dict[float, set[float]] = {}
            for x, y in np.asarray(one.get_paths()[0].vertices):
                corners.setdefault(float(x), set()).add(float(y))
            found.append([(x, min(ys), max(ys)) for x, ys in sorted(corners.items())])
    return found


def levels(ax):
    """(colour, value) of every line all the way across."""
    return [(one.get_color(), float(one.get_ydata()[0])) for one in ax.lines if list(one.get_xdata()) == [0, 1]]


def legend(ax):
    found = ([ax.get_legend()] if ax.get_legend() else []) + ax.figure.legends
    return [text.get_text() for one in found for text in one.get_texts()]


def along(table, x, *columns):
    return [tuple(map(float, row)) for row in table[[x, *columns]].itertuples(index=False)]


def layers(*measures, area=(0.07, 0.07)):
    """Two models of different depth, shuffled; no interval is what a formula would give."""
    rng = np.random.default_rng(3)
    rows = []
    for model, depth, share in (("a", 5, area[0]), ("b", 3, area[1])):
        for measure in measures:
            for layer in range(depth):
                mean, low, high = rng.uniform(0.2, 0.8, 3)
                rows.append((model, layer, measure, mean, min(low, high), max(low, high), 36))
        rows.append((model, -1, "area", share, np.nan, np.nan, 36))
    table = pd.DataFrame(rows, columns=["model", "layer", "measure", "mean", "low", "high", "n"])
    return table.iloc[rng.permutation(len(table))].sort_values("model", kind="stable").reset_index(drop=True)


def drawn_at(ax, table, looks, x="layer"):
    """Every model's line and band of every measure stand at the table's values."""
    for model, color in (("a", PALETTE[0]), ("b", PALETTE[1])):
        expected = []
        for measure, style in looks.items():
            own = table[(table["model"] == model) & (table["measure"] == measure)].sort_values(x)
            assert line(ax, color, style) == along(own, x, "mean")
            expected.append(along(own, x, "low", "high"))
        assert bands(ax, color) == expected


def test_box_share_by_layer_draws_lines_bands_and_the_area():
    table = layers("in_box", "in_other_box")
    _, ax = plt.subplots()
    assert figures.box_share_by_layer(table, ax) is ax
    drawn_at(ax, table, {"in_box": "-", "in_other_box": "--"})
    assert levels(ax) == [(CONTROL, 0.07)]
    assert ax.get_xlabel() == "language-model layer"
    assert ax.get_ylabel() == "share of image attention"
    assert note_of(ax) == "n = 36 items with a box; bands: 95 % bootstrap intervals"
    assert legend(ax) == [
        "a",
        "b",
        "on the object asked about",
        "on another of its scene",
        "the boxes' share of the area",
    ]


def test_an_area_that_differs_between_models_is_drawn_for_each():
    ax = figures.box_share_by_layer(layers("in_box", "in_other_box", area=(0.07, 0.09)))
    assert levels(ax) == [(PALETTE[0], 0.07), (PALETTE[1], 0.09)]


def test_image_mass_by_layer_draws_lines_and_bands():
    table = layers("image_mass", "sink_mass")
    _, ax = plt.subplots()
    assert figures.image_mass_by_layer(table, ax) is ax
    drawn_at(ax, table, {"image_mass": "-", "sink_mass": ":"})
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("language-model layer", "attention probability")
    assert note_of(ax) == "n = 36 items; bands: 95 % bootstrap intervals"
    assert legend(ax) == ["a", "b", "on the image", "on attention sinks"]


def test_falsified_ends_are_drawn_as_they_are():
    table = layers("image_mass", "sink_mass")
    false = table.assign(low=0.9, high=np.linspace(0.91, 0.99, len(table)))
    drawn_at(figures.image_mass_by_layer(false), false, {"image_mass": "-", "sink_mass": ":"})


POINTS = ["vision.hook_embed", "vision.blocks.0.hook_resid_post", "connector.hook_out", "language.hook_embed"]
PROBES = pd.DataFrame(
    {
        "model": "a",
        "point": POINTS * 2,
        "label": ["shape"] * 4 + ["color"] * 4,
        "score": [0.3, 0.6, 0.7, 0.65, 0.1, 0.1, 0.1, 0.1],
        "low": [0.1, 0.59, 0.2, 0.6, 0.0, 0.0, 0.0, 0.0],
        "high": [0.31, 0.9, 0.71, 0.8, 1.0, 1.0, 1.0, 1.0],
        "control": [0.25, 0.2, 0.3, 0.26, 0.0, 0.0, 0.0, 0.0],
        "majority": [0.22] * 4 + [0.5] * 4,
        "n": [90] * 4 + [80] * 4,
        "classes": 5,
    }
)


def test_probe_by_layer_draws_one_label_with_its_controls():
    _, ax = plt.subplots()
    assert figures.probe_by_layer(PROBES, "shape", ax) is ax
    own = PROBES.head(4).assign(x=range(4))
    assert line(ax, PALETTE[0]) == along(own, "x", "score")
    assert line(ax, PALETTE[0], "--") == along(own, "x", "control")
    assert bands(ax, PALETTE[0]) == [along(own, "x", "low", "high")]
    assert levels(ax) == [(CONTROL, 0.22)]
    assert [t.get_text() for t in ax.get_xticklabels()] == ["V embed", "V0", "C out", "L embed"]
    assert ax.get_xlabel() == "V: behind encoder layer, C: connector, L: behind language-model layer"
    assert ax.get_ylabel() == "accuracy (share right)"
    assert title_of(ax) == "Shape: does a linear probe find it?"
    assert note_of(ax) == "n = 90 items, 5 classes; bands: 95 % over images"
    assert legend(ax) == ["a", "probe", "probe of control labels", "most frequent label"]


def test_probe_along_encoder_has_a_random_encoder_a_model():
    rows = [
        (model, "shape", point, 0.5, 0.1, 0.9, random)
        for model, random in (("a", 0.2), ("b", 0.3))
        for point in POINTS[:2]
    ]
    table = pd.DataFrame(rows, columns=["model", "label", "point", "mean", "low", "high", "random"]).assign(n=90)
    _, ax = plt.subplots()
    assert figures.probe_along_encoder(table, "shape", ax, title="Does a linear probe find the shape?") is ax
    assert [one for one in levels(ax) if one[1] < 0.5] == [(PALETTE[0], 0.2), (PALETTE[1], 0.3)]
    assert title_of(ax) == "Does a linear probe find the shape?"
    assert title_of(figures.probe_along_encoder(table, "shape")) == "Shape: does a linear probe find it?"


def test_a_table_of_one_model_takes_its_name_from_the_attrs():
    table = PROBES.drop(columns="model")
    table.attrs["model"] = "replica/x"
    assert legend(figures.probe_by_layer(table, "shape"))[0] == "replica/x"


def test_gap_by_layer_draws_three_cosines():
    table = pd.DataFrame(
        {
            "model": ["a", "a", "b", "b"],
            "point": ["language.hook_embed", "language.blocks.0.hook_resid_post"] * 2,
            "cosine_between": [-0.2, 0.1, 0.0, 0.2],
            "cosine_within_image": [0.5, 0.4, 0.6, 0.7],
            "cosine_within_text": [0.3, 0.2, 0.25, 0.1],
            "low": 0.0,  # of separability: no band of a cosine
            "high": 1.0,
            "n_image": 585,
            "n_text": 577,
        }
    )
    _, ax = plt.subplots()
    assert figures.gap_by_layer(table, ax) is ax
    for model, color in (("a", PALETTE[0]), ("b", PALETTE[1])):
        own = table[table["model"] == model].assign(x=range(2))
        for column, style in (("cosine_between", "-"), ("cosine_within_image", "--"), ("cosine_within_text", ":")):
            assert line(ax, color, style) == along(own, "x", column)
        assert bands(ax, color) == []
    assert ax.get_ylabel() == "mean cosine"
    assert ax.get_xlabel() == "L: behind language-model layer"
    assert ax.get_ylim()[0] <= -0.2
    assert note_of(ax) == "n = 585 image rows, 577 text rows"
    assert legend(ax) == ["a", "b", "image to text", "image to image", "text to text"]


def test_dimension_by_stage_keeps_the_layers_of_a_deeper_model_in_order():
    deep = [f"{part}.blocks.{i}.hook_resid_post" for part, n in (("vision", 11), ("language", 3)) for i in range(n)]
    flat = [f"{part}.blocks.{i}.hook_resid_post" for part, n in (("vision", 2), ("language", 1)) for i in range(n)]
    table = pd.DataFrame(
        {"model": ["a"] * len(flat) + ["b"] * len(deep), "point": flat + deep, "effective_rank": range(1, 18), "n": 720}
    )
    _, ax = plt.subplots()
    assert figures.dimension_by_stage(table, ax=ax) is ax
    places = [t.get_text() for t in ax.get_xticklabels()]
    assert places == [f"V{i}" for i in range(11)] + [f"L{i}" for i in range(3)]
    assert line(ax, PALETTE[0]) == [(0, 1), (1, 2), (11, 3)]
    assert line(ax, PALETTE[1]) == [(i, i + 4) for i in range(14)]
    assert ax.get_ylabel() == "effective rank (dimensions)"
    assert note_of(ax) == "n = 720 rows"
    assert legend(ax) == ["a", "b"]


def test_dimension_by_stage_draws_the_band_the_table_has():
    table = pd.DataFrame(
        {"model": "a", "point": POINTS, "intrinsic_dimension": [5.0, 6.0, 4.0, 3.0], "low": 1.0, "high": [9.0, 7, 8, 3]}
    )
    ax = figures.dimension_by_stage(table, "intrinsic_dimension")
    assert bands(ax, PALETTE[0]) == [[(0, 1, 9), (1, 1, 7), (2, 1, 8), (3, 1, 3)]]


def test_points_come_as_activations_pass_them():
    names = [
        "language.blocks.10.hook_resid_post",
        "language.hook_embed",
        "connector.hook_out",
        "connector.hook_in",
        "connector.hook_post",
        "connector.hook_pre",
        "vision.blocks.2.hook_resid_post",
        "language.blocks.2.hook_resid_post",
        "pixels",
        "vision.hook_embed",
    ]
    found = along_points(pd.DataFrame({"point": names}))["at"].tolist()
    assert found == ["V embed", "V2", "C in", "C pre", "C post", "C out", "L embed", "L2", "L10", "pixels"]
    assert short_point("vision.blocks.3.attn.hook_z") == "vision.blocks.3.attn.hook_z"


def test_leakage_by_layer_draws_a_summary_along_the_depth():
    table = pd.DataFrame(
        {
            "model": ["a"] * 3 + ["b"] * 2,
            "layer": [2, 0, 1, 0, 1],
            "measure": "image_unused_mass",
            "mean": [0.1, 0.6, 0.3, 0.5, 0.2],
            "low": [0.0, 0.59, 0.1, 0.1, 0.19],
            "high": [0.7, 0.61, 0.35, 0.51, 0.9],
            "n": 36,
        }
    )
    _, ax = plt.subplots()
    assert figures.leakage_by_layer(table, ax) is ax
    assert line(ax, PALETTE[0]) == [(0, 0.6), (0.5, 0.3), (1, 0.1)]
    assert line(ax, PALETTE[1]) == [(0, 0.5), (1, 0.2)]
    assert bands(ax, PALETTE[0]) == [[(0, 0.59, 0.61), (0.5, 0.1, 0.35), (1, 0.0, 0.7)]]
    assert bands(ax, PALETTE[1]) == [[(0, 0.1, 0.51), (1, 0.19, 0.9)]]
    assert ax.get_xlabel() == "depth (0: behind the first layer, 1: the output)"
    assert ax.get_ylabel() == "probability on tokens never used,\nat image positions"
    assert note_of(ax) == "logit lens, n = 36 items; bands: 95 % over images"
    assert legend(ax) == ["a", "b"]
    assert title_of(ax) == "Probability on tokens never used, at image positions"


def test_leakage_by_layer_draws_untrained_rows_beside_their_controls():
    means = {"untrained": ("-", [0.1, 0.0]), "used": ("--", [0.5, 0.9]), "other": (":", [0.2, 0.05])}
    rows = [
        {"model": "a", "layer": layer, "measure": name, "mean": mean, "low": mean, "high": mean + 0.1, "n": 23}
        for name, (_, values) in means.items()
        for layer, mean in enumerate(values)
    ]
    ax = figures.leakage_by_layer(pd.DataFrame(rows))
    for style, values in means.values():
        assert line(ax, PALETTE[0], style) == [(0, values[0]), (1, values[1])]
    assert ax.get_ylabel() == "probability"
    words = ["rows known to be untrained", "as many rows that the text uses", "as many others"]
    assert title_of(ax) == f"Where the probability goes: {', '.join(words)}"
    assert title_of(figures.leakage_by_layer(pd.DataFrame(rows), title="And here?")) == "And here?"
    assert legend(ax) == ["a", *words]


def test_negative_values_are_not_cut_off():
    table = pd.DataFrame({"model": "a", "layer": [0, 1], "mean": [-9.0, -1.0], "low": -10.0, "high": 0.0, "n": 3})
    ax = figures.leakage_by_layer(table.assign(measure="log_probability"))
    assert ax.get_ylim()[0] <= -10
    assert one_line(ax.get_ylabel()) == "log-probability of the answer (nats)"
