"""What a report was made on and how long it took: told in its appendix and kept in run.json, apart from results."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

import psutil
import torch

from vlm_probe.findings import Run


def made_with(found: Run, command: str) -> dict[str, Any]:
    """How a run was made: command, seconds in all and by finding, processor, cores, memory (GB), GPU, system."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    return {
        "command": command,
        "seconds": round(found.seconds, 1),
        "seconds by finding": {name: round(seconds, 1) for name, seconds in found.took.items()},
        "processor": processor(),
        "cores": os.cpu_count() or 1,
        "memory, GB": round(psutil.virtual_memory().total / 1e9, 1),
        **({"GPU": gpu} if gpu else {}),
        "system": f"{platform.system()}, Python {platform.python_version()}",
    }


def processor() -> str:
    """The processor's name, as far as the system says it."""
    info = Path("/proc/cpuinfo")
    names = info.read_text().splitlines() if info.exists() else []
    models = [line.split(":", 1)[1].strip() for line in names if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()
