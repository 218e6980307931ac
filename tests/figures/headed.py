"""Where titles and notes stand: on top of a figure that `axes` made, or on the axes that a caller gave."""

from matplotlib.axes import Axes

from vlm_probe.figures.style import figure_of

_TITLE, _NOTE = 9.0, 7.0
"""Sizes by which the two are told apart, in points."""


def one_line(text: str) -> str:
    """Without the line breaks that the figure's width makes."""
    return " ".join(text.split())


def title_of(ax: Axes) -> str:
    """The title of axes or of their figure, in one line; "" where there is none."""
    of_axes = one_line(ax.get_title(loc="left"))
    found = [text for text in [of_axes, *_of_figure(ax, _TITLE)] if text]
    assert len(found) <= 1, found
    return found[0] if found else ""


def note_of(ax: Axes) -> str:
    """What stands under the title in small letters, in one line; "" where there is nothing."""
    here = [text for text in ax.texts if text.get_fontsize() == _NOTE and text.get_transform() == ax.transAxes]
    found = [*(one_line(text.get_text()) for text in here), *_of_figure(ax, _NOTE)]
    assert len(found) <= 1, found
    return found[0] if found else ""


def _of_figure(ax: Axes, size: float) -> list[str]:
    return [one_line(text.get_text()) for text in figure_of(ax).texts if text.get_fontsize() == size]
