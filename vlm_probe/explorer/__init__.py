"""One answer to be looked at by hand: a page that opens from a file, and a widget of a notebook, from one ES module."""

from vlm_probe.explorer.exploring import Explorer, explore
from vlm_probe.explorer.looking import SHOWN, look, look_at_trace
from vlm_probe.explorer.packing import packed, unpacked
from vlm_probe.explorer.page import embedded, module, style

__all__ = [
    "SHOWN",
    "Explorer",
    "embedded",
    "explore",
    "look",
    "look_at_trace",
    "module",
    "packed",
    "style",
    "unpacked",
]
