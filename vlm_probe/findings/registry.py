"""All findings by id: whatever module of this folder is named after one (`s1_...`, `c2_...`) and holds a `FINDING`."""

from __future__ import annotations

import re
from importlib import import_module
from pkgutil import iter_modules

from vlm_probe import findings
from vlm_probe.findings.finding import Finding

FINDINGS: dict[str, Finding] = {}
for _module in sorted(info.name for info in iter_modules(findings.__path__) if re.match(r"[svecx]\d_", info.name)):
    _found: Finding = import_module(f"vlm_probe.findings.{_module}").FINDING
    FINDINGS[_found.id] = _found
