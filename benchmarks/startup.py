"""Cold start: what a command costs before it does anything, and a warm `inspect` of the default model.

    python benchmarks/startup.py [--repeats 5] [--out NAME]

Processes of their own; seconds of the processor, which other programs count little in, of the process and its children.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from measure import record

INSPECT = ["-m", "vlm_probe", "inspect", "scene.png", "What color is the star?", "--out", "page"]
LIBRARIES = "import torch, transformer_lens, transformers.models.llava.modeling_llava, transformers.models.gemma"
COMMANDS = {
    "import vlm_probe": (["-c", "import vlm_probe"], 0.1),
    "vlm-probe --help": (["-m", "vlm_probe", "--help"], 0.3),
    "vlm-probe inspect, warm": (INSPECT, 5.0),
    "of that, importing torch, transformers and TransformerLens": (["-c", LIBRARIES], "not ours"),
}
"""What is run, and the goal in seconds."""


def seconds(command: list[str], folder: Path) -> float:
    """Of the processor, of a process."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    subprocess.run([sys.executable, *command], cwd=folder, check=True, capture_output=True, env=environment)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out")
    arguments = parser.parse_args()
    found = {}
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        seconds(["-m", "vlm_probe", "example", "scene.png"], folder)
        for name, (command, goal) in COMMANDS.items():
            seconds(command, folder)  # what is compiled and cached once
            took = [seconds(command, folder) for _ in range(arguments.repeats)]
            found[name] = {"seconds": round(statistics.median(took), 3), "goal": goal}
            print(name, found[name], file=sys.stderr, flush=True)
    record("startup", {"processor_seconds": found, "rows": []}, arguments.out)


if __name__ == "__main__":
    main()
