"""Curves along training, and several factors at once: what is drawn is what the tables say."""

import numpy as np
import pandas as pd
from headed import note_of, one_line, title_of

from vlm_probe import figures
from vlm_probe.studies import learning_curves

NAN = float("nan")
CURVES = pd.DataFrame(
    {
        "arm": ["small-clip"] * 3 + ["small-clip-nopre"] * 2,
        "size": "small",
        "encoder": "clip",
        "pretrained": [True, True, True, False, False],
        "scenes": [640, 64, 256, 64, 256],
        "split": "novel",
        "n": 70,
        "seeds": [3, 3, 1, 3, 3],
        "accuracy": [0.7, 0.4, 0.6, 0.3, 0.5],
        "low": [0.6, 0.3, NAN, 0.2, 0.4],
        "high": [0.8, 0.5, NAN, 0.4, 0.6],
    }
)


def test_a_line_an_arm_in_the_order_of_scenes():
    ax = figures.learning_curves(CURVES, title="Kinds never seen")
    lines = {line.get_label(): line for line in ax.get_lines()}
    assert list(lines) == ["small, clip", "small, clip, connector not pretrained"]
    first, second = lines.values()
    assert np.asarray(first.get_xydata()).tolist() == [[64, 0.4], [256, 0.6], [640, 0.7]]
    assert np.asarray(second.get_ydata()).tolist() == [0.3, 0.5]
    assert (first.get_linestyle(), second.get_linestyle()) == ("-", "--")
    assert first.get_color() == second.get_color()
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["64", "256", "640"]
    assert title_of(ax) == "Kinds never seen"
    assert note_of(ax) == "70 questions about scenes with novel kinds; seeds: 1 to 3; bands: 95 %"


def test_every_factor_has_its_panel_on_one_axis():
    rows = {"split": "heldout", "kind": "all"}
    differences = pd.DataFrame(
        {
            "factor": ["size", "size", "encoder"],
            "first": ["s", "s", "c"],
            "second": ["l", "l", "d"],
            **rows,
            "seed": [0, 1, 0],
            "difference": [0.1, 0.2, -0.3],
        }
    )
    effects = pd.DataFrame(
        {
            "factor": ["size", "encoder"],
            "first": ["s", "c"],
            "second": ["l", "d"],
            **rows,
            "n": 70,
            "seeds": [2, 1],
            "difference": [0.15, -0.3],
            "low": NAN,
            "high": NAN,
            "verdict": "undecided",
        }
    )
    panels = figures.effects_by_factor(differences, effects)
    assert [ax.get_title(loc="left") for ax in panels] == ["size", "encoder"]
    assert len({ax.get_xlim() for ax in panels}) == 1
    # Of all factors, and not of the last one's only pair.
    assert [one_line(ax.get_xlabel().partition("\n")[2]) for ax in panels] == [
        "",
        "← the first of a pair is right more often the second is →",
    ]
    (shared,) = panels[0].figure.legends
    assert [text.get_text() for text in shared.get_texts()][:2] == ["seed 0", "seed 1"]


def test_every_effect_that_is_followed_has_a_panel_of_places():
    places = pd.DataFrame({"kind": ["answers", "shapes read from the encoder"], "n": [701, 449]})
    pairs = pd.DataFrame({"first": "small-clip", "second": "large-clip", "split": ["heldout", "novel"]})
    pairs["factor"] = "size"
    both = pairs.merge(places, how="cross")
    by = np.where(both["split"] == "heldout", 1.0, -1.0)
    differences = pd.concat([both.assign(seed=seed, difference=(0.1 + 0.1 * seed) * by) for seed in range(3)])
    effects = both.assign(seeds=3, difference=0.1, low=0.0, high=0.2, verdict="undecided")
    panels = figures.effects_followed(differences, effects, title="What goes with them")
    assert panels[0].figure.texts[0].get_text() == "What goes with them"
    titles = [one_line(ax.get_title(loc="left")) for ax in panels]
    assert titles == [
        f"small-clip to large-clip, {scenes}" for scenes in ("held-out scenes", "scenes with novel kinds")
    ]
    for ax in panels:
        assert [label.get_text() for label in ax.get_yticklabels()] == places["kind"].tolist()
    for ax, sign in zip(panels, (1, -1), strict=True):
        drawn = zip(*ax.get_legend_handles_labels(), strict=True)
        dots = [x for handle, label in drawn if label.startswith("seed") for x in handle.get_offsets()[:, 0]]
        assert len(dots) == 6
        assert all(sign * x > 0 for x in dots), "of its own split alone"
    assert panels[0].get_xlabel() == ""
    assert panels[1].get_xlabel() == "difference of shares, the second of a pair less the first"


def test_curves_are_means_over_seeds():
    rows = [
        {
            "arm": "small-clip",
            "size": "small",
            "encoder": "clip",
            "pretrained": True,
            "vocabulary": 7,
            "seed": seed,
            "budget": budget,
            "scenes": int(640 * budget),
            "split": "heldout",
            "kind": kind,
            "n": 70,
            "accuracy": accuracy if kind == "all" else 0.0,
        }
        for budget, shares in ((0.5, (0.2, 0.3, 0.4)), (1.0, (0.5,)))
        for seed, accuracy in enumerate(shares)
        for kind in ("color", "all")
    ]
    found = learning_curves(pd.DataFrame(rows)).set_index("budget")
    assert found["accuracy"].round(6).to_dict() == {0.5: 0.3, 1.0: 0.5}
    assert found["seeds"].to_dict() == {0.5: 3, 1.0: 1}
    # Student's t with two degrees of freedom: 4.303 standard errors.
    assert abs(found.loc[0.5, "high"] - (0.3 + 4.3027 * 0.1 / 3**0.5)) < 1e-4
    assert pd.isna(found.loc[1.0, "low"])
