"""The explorer as a widget of a notebook. Importing this module needs anywidget."""

from __future__ import annotations

from typing import Any

import anywidget
import traitlets

from vlm_probe.explorer.page import module, style


class ExplorerWidget(anywidget.AnyWidget):
    """The page's own module in a notebook's cell.

    `state` is what is looked at, as it stands behind # in a page's address: reading it tells what was picked, and
    setting it picks.
    """

    _esm = module()
    _css = style()
    data = traitlets.Dict().tag(sync=True)
    state = traitlets.Unicode("").tag(sync=True)

    def __init__(self, looks: list[dict[str, Any]], **given: Any):
        super().__init__(data={"looks": looks}, **given)
