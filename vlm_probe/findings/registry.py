"""All findings by id: whatever module of this folder is named after one (`s1_...`, `c2_...`) and holds a `FINDING`."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

from vlm_probe.findings.finding import Finding

_ORDER = "svecx"
FINDINGS: dict[str, Finding] = {}
_there = [info.name for info in iter_modules([str(Path(__file__).parent)]) if re.match(rf"[{_ORDER}]\d_", info.name)]
for _module in sorted(_there, key=lambda name: (_ORDER.index(name[0]), name)):
    _found: Finding = import_module(f"vlm_probe.findings.{_module}").FINDING
    FINDINGS[_found.id] = _found
