"""Figures along the layers: attention, probes, the modality gap, dimension, leakage.

Every function takes a table with a column model (where several are compared) and an axes, and returns the axes.
"""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from vlm_probe.figures.given import checked
from vlm_probe.figures.points import along_points, points_in_words
from vlm_probe.figures.primitives import Look, by_layer, level
from vlm_probe.figures.style import COLUMN, CONTROL, axes, legend_below, models_of, styled, titled
from vlm_probe.figures.tables import counts, names, numbers, where

HIGH = 2.1
"""Inches."""


def _layers(ax: Axes) -> None:
    ax.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    ax.set_xlabel("language-model layer")


def _points(table: pd.DataFrame) -> pd.DataFrame:
    """Along the points, with a column model: from the attrs where the table is of one."""
    named = table if "model" in table else table.assign(model=str(table.attrs.get("model", "model")))
    return along_points(named)


def _size(table: pd.DataFrame) -> tuple[float, float]:
    """Height and width: more where many points want their names, which then stand aslant."""
    points = len(names(table, "at"))
    return HIGH + (0.35 if points > 8 else 0.0), max(COLUMN, 1.0 + 0.14 * points)


@checked
def box_share_by_layer(
    table: pd.DataFrame, ax: Axes | None = None, *, title: str = "Does the answer position look into the right box?"
) -> Axes:
    """Per layer: the share of the answer position's image attention inside the box, and its controls.

    table: columns model, layer, measure ("in_box", "in_other_box", "area"), mean, low, high (shares), n (items).
    """
    styles = {"in_box": ("-", "o", "on the object asked about"), "in_other_box": ("--", "s", "on another of its scene")}
    with styled():
        ax = axes(ax, HIGH)
        models = models_of(table)
        by_layer(table, ax, y="mean", style="measure", styles=styles, colors=models)
        level(where(table, "measure", "area"), ax, y="mean", words="the boxes' share of the area", colors=models)
        _layers(ax)
        ax.set(ylabel="share of image attention", ylim=(0, None))
        n = counts(where(table, "measure", "in_box"))
        note = f"n = {n} items with a box; bands: 95 % bootstrap intervals"
        titled(ax, title, note)
        legend_below(ax)
    return ax


@checked
def image_mass_by_layer(
    table: pd.DataFrame,
    ax: Axes | None = None,
    *,
    title: str = "How much of the answer position's attention is on the image?",
) -> Axes:
    """Per layer: how much of the answer position's attention goes to the image, and to sinks.

    table: columns model, layer, measure ("image_mass", "sink_mass"), mean, low, high (probabilities), n (items).
    """
    styles = {"image_mass": ("-", "o", "on the image"), "sink_mass": (":", "^", "on attention sinks")}
    with styled():
        ax = axes(ax, HIGH)
        by_layer(table, ax, y="mean", style="measure", styles=styles, colors=models_of(table))
        _layers(ax)
        ax.set(ylabel="attention probability", ylim=(0, 1))
        n = counts(where(table, "measure", *styles))
        note = f"n = {n} items; bands: 95 % bootstrap intervals"
        titled(ax, title, note)
        legend_below(ax)
    return ax


@checked
def probe_by_layer(table: pd.DataFrame, label: str, ax: Axes | None = None) -> Axes:
    """Accuracy of a linear probe at every point, beside the control task and the most frequent label.

    table: as `probe_layers` returns it: columns point, label, score, low, high, control, majority (shares right), n
        (items), classes. Rows of the other labels are left out.
    """
    styles = {"score": ("-", "o", "probe"), "control": ("--", "s", "probe of control labels")}
    with styled():
        rows = _points(where(table, "label", label))
        ax = axes(ax, *_size(rows))
        models = models_of(rows)
        bare = {"low": float("nan"), "high": float("nan")}
        scores = rows.assign(measure="score", value=rows["score"])
        controls = rows.assign(measure="control", value=rows["control"], **bare)
        both = pd.concat([scores, controls], ignore_index=True)
        by_layer(both, ax, x="at", y="value", style="measure", styles=styles, colors=models)
        level(rows, ax, y="majority", words="most frequent label", colors=models)
        ax.set(ylabel="accuracy (share right)", ylim=(0, 1.02), xlabel=points_in_words(rows))
        note = f"n = {counts(rows)} items, {counts(rows, 'classes')} classes; bands: 95 % over images"
        titled(ax, f"{label.capitalize()}: does a linear probe find it?", note)
        legend_below(ax)
    return ax


_COSINES: dict[str, Look] = {
    "cosine_between": ("-", "o", "image to text"),
    "cosine_within_image": ("--", "s", "image to image"),
    "cosine_within_text": (":", "^", "text to text"),
}


@checked
def gap_by_layer(table: pd.DataFrame, ax: Axes | None = None, *, title: str = "The modality gap") -> Axes:
    """Mean cosines between and within image and text rows, layer by layer.

    table: as `modality_gap` returns it: columns point, cosine_between, cosine_within_image, cosine_within_text (mean
        cosines of pairs), n_image and n_text (rows).
    """
    with styled():
        rows = _points(table)
        ax = axes(ax, *_size(rows))
        long = rows.melt(["model", "at"], list(_COSINES), var_name="measure", value_name="cosine")
        by_layer(long, ax, x="at", y="cosine", style="measure", styles=_COSINES, colors=models_of(rows))
        ax.axhline(0, color=CONTROL, lw=0.8, zorder=0)
        ax.set(ylabel="mean cosine", ylim=(min(-0.1, ax.get_ylim()[0]), 1.02), xlabel=points_in_words(rows))
        titled(ax, title, f"n = {counts(rows, 'n_image')} image rows, {counts(rows, 'n_text')} text rows")
        legend_below(ax)
    return ax


_DIMENSIONS = {
    "effective_rank": "effective rank (dimensions)",
    "participation_ratio": "participation ratio (dimensions)",
    "intrinsic_dimension": "intrinsic dimension (dimensions)",
    "anisotropy": "anisotropy (mean cosine)",
}


@checked
def dimension_by_stage(
    table: pd.DataFrame, measure: str = "effective_rank", ax: Axes | None = None, *, title: str = ""
) -> Axes:
    """A measure of dimension at every point.

    table: columns model (where there are several), point, the measure, and where they are known low and high (the
        measure's interval) and n (rows).
    """
    with styled():
        rows = _points(table)
        ax = axes(ax, *_size(rows))
        by_layer(rows, ax, x="at", y=measure, colors=models_of(rows))
        words = measure.replace("_", " ")
        ax.set(
            ylabel=_DIMENSIONS.get(measure, words),
            ylim=(min(0.0, ax.get_ylim()[0]), None),
            xlabel=points_in_words(rows),
        )
        titled(ax, title or words.capitalize(), f"n = {counts(rows)} rows" if "n" in rows else "")
        legend_below(ax)
    return ax


_LEAKS: dict[str, Look] = {
    "untrained": ("-", "o", "rows known to be untrained"),
    "used": ("--", "s", "as many rows that the text uses"),
    "other": (":", "^", "as many others"),
    "unused_mass": ("-", "o", "probability on tokens never used"),
    "image_unused_mass": ("-", "o", "probability on tokens never used,\nat image positions"),
    "entropy": ("-", "o", "entropy (nats)"),
    "rank": ("-", "o", "rank of the right answer"),
    "log_probability": ("-", "o", "log-probability of the answer (nats)"),
}
_MARKS = "os^Dv"


@checked
def leakage_by_layer(table: pd.DataFrame, ax: Axes | None = None, *, title: str = "") -> Axes:
    """Where the probability goes along the depth of every model: a line a measure.

    table: as `vocabulary.summarize_leakage` returns it: columns model, layer (the last is the model's output), measure,
        mean, low, high, n (items). Several measures are taken to be probabilities.
    title: without, the measures are named.
    """
    measures = names(table, "measure")
    looks = {
        name: _LEAKS.get(name, ("-", _MARKS[i % len(_MARKS)], name.replace("_", " ")))
        for i, name in enumerate(measures)
    }
    alone = len(measures) == 1
    with styled():
        ax = axes(ax, HIGH)
        # Models of different depth on one axis.
        depth = table["layer"] / table.groupby("model")["layer"].transform("max").clip(lower=1)
        by_layer(
            table.assign(depth=depth), ax, x="depth", y="mean", style="measure", styles=looks, colors=models_of(table)
        )
        limits: dict[str, Any] = {} if (numbers(table, "mean") < 0).any() else {"ylim": (0, None)}
        what = looks[measures[0]][2] if alone else "probability"
        ax.set(xlabel="depth (0: behind the first layer, 1: the output)", ylabel=what, **limits)
        words = ", ".join(looks[name][2].replace("\n", " ") for name in measures)
        title = title or (f"{words[:1].upper()}{words[1:]}" if alone else f"Where the probability goes: {words}")
        titled(ax, title, f"logit lens, n = {counts(table)} items; bands: 95 % over images")
        legend_below(ax)
    return ax


@checked
def effect_by_layer(
    table: pd.DataFrame, ax: Axes | None = None, *, title: str = "Where does the fact stand that the twins differ in?"
) -> Axes:
    """Effect of patching one twin's residual stream into the other's run, along the depth of the language model.

    table: columns model, positions ("answer", "box", "(question | tail) & ~answer"), control (whether random positions
        were patched), depth (a share of the layers), mean, low, high (of the effect; 1: the other twin's answer whole),
        n (pairs).
    """
    looks: dict[tuple[str, bool], Look] = {
        ("answer", False): ("-", "o", "the answer position"),
        ("box", False): ("--", "s", "the patches that differ"),
        ("(question | tail) & ~answer", False): (":", "^", "the question"),
        ("box", True): ("-.", "", "random patches, as many as differ"),
    }
    with styled():
        ax = axes(ax, HIGH)
        keys = list(zip(table["positions"].tolist(), table["control"].tolist(), strict=True))
        drawn = table.assign(look=[f"{positions} {control}" for positions, control in keys])
        styles = {f"{positions} {control}": look for (positions, control), look in looks.items()}
        by_layer(drawn, ax, x="depth", y="mean", style="look", styles=styles, colors=models_of(table))
        ax.axhline(0.5, color=CONTROL, lw=0.8, ls=":", zorder=0)
        ax.set(xlabel="depth (share of the language model's layers)", ylabel="normalised effect of patching")
        note = f"n = {counts(table)} pairs of twins; bands: 95 % bootstrap intervals"
        titled(ax, title, note)
        legend_below(ax)
    return ax
