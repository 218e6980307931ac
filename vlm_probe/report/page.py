"""Self-contained HTML pages: figures inside, everything else escaped."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from vlm_probe.figures.style import figure_of, styled
from vlm_probe.files import replacing, writing

_environment = Environment(
    loader=PackageLoader("vlm_probe.report"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def _data_uri(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()


DPI = 130


def _around(figure: Figure) -> Any:
    """What "tight" comes to, for which matplotlib draws a figure once; one that lays nothing out does not need that."""
    if figure.get_layout_engine() is not None:
        return "tight"
    figure.dpi = DPI
    return figure.get_tightbbox().padded(plt.rcParams["savefig.pad_inches"])


def figure_uri(drawn: Figure | Axes | np.ndarray) -> str:
    """A figure, or the one that axes (or an array of them) are in, as a data URI (PNG); it is closed."""
    figure = figure_of(drawn)
    buffer = io.BytesIO()
    with styled():
        figure.savefig(buffer, format="png", dpi=DPI, bbox_inches=_around(figure))
    plt.close(figure)
    return _data_uri(buffer.getvalue())


def pictures_in(folder: Path) -> Callable[[str], str]:
    """From a figure's name to its PNG in a folder, as a data URI."""
    return lambda name: _data_uri((folder / f"{name}.png").read_bytes())


def image_uri(image: Image.Image, *, longest: int = 480) -> str:
    """A picture as a data URI (PNG): large ones made smaller, small ones enlarged without blur."""
    factor = longest / max(image.size)
    if factor >= 2:
        shown = image.resize((image.width * int(factor), image.height * int(factor)), Image.Resampling.NEAREST)
    else:
        shown = image.copy()
        shown.thumbnail((longest, longest))
    buffer = io.BytesIO()
    shown.save(buffer, format="PNG")
    return _data_uri(buffer.getvalue())


def rows_of(table: pd.DataFrame) -> dict[str, list[Any]]:
    """A table for the template: header and formatted cells. What is missing is a dash, in columns of integers too."""

    def cell(value: Any) -> str:
        if value is pd.NA or isinstance(value, float):
            return "–" if pd.isna(value) else f"{value:.3f}"
        if isinstance(value, int) and not isinstance(value, bool):
            return f"{value:,}"
        return str(value)

    return {
        "header": [str(c) for c in table.columns],
        "rows": [[cell(v) for v in row] for row in table.to_numpy(dtype=object)],
    }


def write_page(path: Path, template: str, **context: Any) -> None:
    """Render a template to a file, whole or not at all; every value is escaped.

    Raises VlmProbeError where the folder cannot be written.
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as partial:
            # What is no text (half of a pair of UTF-16, from a file's name) is a question mark.
            text = _environment.get_template(template).render(**context)
            partial.write_text(text, encoding="utf-8", errors="replace")
