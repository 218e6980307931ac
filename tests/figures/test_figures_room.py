"""Every figure keeps to the width it was made for, and none of its words lies over another part, long names or not."""

import warnings
from collections.abc import Iterator
from itertools import combinations, pairwise
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
import pytest
from headed import one_line
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from realistic import MODELS, table_of
from realistic_others import DRAWN

from vlm_probe import figures
from vlm_probe.figures.style import COLUMN, figure_of, in_lines, length_of, styled
from vlm_probe.findings import FINDINGS
from vlm_probe.findings.finding import FigureOf
from vlm_probe.report.drawing import claimed

OF_FINDINGS = {
    f"{finding.id} {block.name}": (finding.id, block)
    for finding in FINDINGS.values()
    for section in finding.sections
    for block in section.blocks
    if isinstance(block, FigureOf)
}
EDGE = 0.1
"""Inches beyond a figure's edge that nobody sees."""


@pytest.fixture(autouse=True)
def _closed():
    yield
    plt.close("all")


def titled(finding: str, block: FigureOf) -> dict[str, Any]:
    """Arguments of a plot, with the longest title: a different verdict for each of three models."""
    verdicts = ("supported", "undecided", "contradicted")
    claims = [claim.id for claim in FINDINGS[finding].claims if block.claims and claim.id == block.claims[0]]
    rows = [(claim, model, of) for claim in claims[:1] for model, of in zip(MODELS, verdicts, strict=False)]
    title = claimed(block, pd.DataFrame(rows, columns=["claim", "models", "verdict"]))
    return {**block.given, **({"title": title} if title else {})}


def drawn_of(name: str) -> Figure:
    if name in DRAWN:
        return figure_of(DRAWN[name]())
    finding, block = OF_FINDINGS[name]
    table = table_of(finding, block.name, block.table)
    return figure_of(getattr(figures, block.plot)(table, **titled(finding, block)))


def inside(outer: Any, figure: Figure) -> Iterator[str]:
    """How far anything lies beyond the figure's edges."""
    wide, high = figure.get_size_inches()
    ends = {"left": -outer.x0, "right": outer.x1 - wide, "below": -outer.y0, "above": outer.y1 - high}
    yield from (f"{far:.2f} in beyond the edge {side}" for side, far in ends.items() if far > EDGE)


def apart(figure: Figure, canvas: FigureCanvasAgg) -> Iterator[str]:
    """What lies over something else."""
    draws = canvas.get_renderer()
    panels = [box for ax in figure.axes if (box := ax.get_tightbbox(draws)) is not None]
    of_figure = [(one_line(text.get_text())[:30], text.get_window_extent(draws)) for text in figure.texts]
    of_figure += [("the legend", one.get_window_extent(draws)) for one in figure.legends]
    for name, box in of_figure:
        # A pixel more or less is no letter.
        if any(box.y0 + 1 < panel.y1 and panel.y0 < box.y1 - 1 for panel in panels):
            yield f"{name} lies over the axes"
    for (name, box), (other, below) in combinations(of_figure, 2):
        if box.y0 + 1 < below.y1 and below.y0 + 1 < box.y1:
            yield f"{name} lies over {other}"
    for ax in figure.axes:
        for axis in (ax.xaxis, ax.yaxis):
            labels = [one for one in axis.get_ticklabels() if one.get_text() and one.get_rotation() == 0]
            boxes = [one.get_window_extent(draws).padded(-0.5) for one in labels]
            names = [one.get_text() for one in labels]
            for (name, box), (other, beside) in pairwise(zip(names, boxes, strict=True)):
                if box.overlaps(beside):
                    yield f"{name!r} lies over {other!r}"


def cramped(figure: Figure) -> Iterator[str]:
    """Axes that words have left nothing of: these would keep inside the figure, too."""
    boxes = [ax.get_position() for ax in figure.axes]
    wide, high = figure.get_size_inches()
    yield from (f"axes are {box.height * high:.2f} in high" for box in boxes if box.height * high < 0.25)
    widest = max(box.width for box in boxes) * wide
    if widest < 1.2:
        yield f"the widest axes are {widest:.2f} in"


@pytest.mark.parametrize("name", [*OF_FINDINGS, *DRAWN])
def test_everything_has_room(name):
    with warnings.catch_warnings(), styled():
        warnings.simplefilter("error", UserWarning)  # of a layout that found no room
        figure = drawn_of(name)
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        outer = figure.get_tightbbox(canvas.get_renderer())
        found = [*inside(outer, figure), *apart(figure, canvas), *cramped(figure)]
    # Matrices are as wide as they have columns.
    if name in OF_FINDINGS and OF_FINDINGS[name][1].plot != "likeness":
        assert figure.get_figwidth() <= 2 * COLUMN, "wider than a page"
    assert found == []


def test_every_figure_is_tried():
    tried = {block.plot for _, block in OF_FINDINGS.values()} | set(DRAWN)
    assert tried == set(figures.__all__) - {"save", "styled"}


WORDS = st.text("abcxyz/-.WM", max_size=90)


@given(st.lists(WORDS, max_size=6).map(" ".join), st.sampled_from([2.0, COLUMN, 2 * COLUMN]))
def test_no_line_is_too_long_and_no_letter_is_lost(name, wide):
    found = in_lines(name, wide)
    assert "".join(found.split()) == "".join(name.split())
    room = max(0.36 * wide, 10 * 7.5 / 72)
    assert all(length_of(line, 7.5) <= room for line in found.split("\n"))


def test_paths_break_where_their_folders_do():
    assert in_lines(MODELS[0]).split("\n") == [
        "/home/somebody/",
        "checkpoints/2026-",
        "11-26/llava-gemma-",
        "2b-again",
    ]
