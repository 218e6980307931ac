"""Runs every benchmark in a process of its own, one after the other, and writes README's table.

    make bench          # or: python benchmarks/suite.py [--only hooks lens] [--out NAME]

Each writes its section of `benchmarks/results/<machine>.json`; what a run that was stopped has written stays. About an
hour on two cores, most of it training steps, the lens at 256,000 tokens and the exact 2B.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
SUITE: dict[str, list[str]] = {
    "hooks": [],
    "relevancy": [],
    "lens": [],
    "probes": [],
    "causal": ["--items", "1", "--repeats", "3"],
    "capture": ["--items", "48", "--repeats", "3", "--many", "2000", "--no-ray"],
    "shared_prefix": [],
    "scaling": [],
    "startup": [],
    "training": [],
    "real_size": ["--device", "cpu", "--shapes", "2b", "--computed", "7b"],
}
"""By script: what it is given. `make bench-gpu` runs the last one for a card."""
ALL_CORES = ("real_size",)
"""What is run with all cores; the others have one, so that the processor's time is that of the work."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=sorted(SUITE), default=list(SUITE))
    parser.add_argument("--out", help="name of the record in benchmarks/results; by default the machine's")
    arguments = parser.parse_args()
    failed = []
    for name in arguments.only:
        command = [sys.executable, str(HERE / f"{name}.py"), *SUITE[name]]
        command += ["--out", arguments.out] if arguments.out else []
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
        if name not in ALL_CORES:
            environment["OMP_NUM_THREADS"] = "1"
        start = time.perf_counter()
        done = subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=False)
        print(f"{name}: {'failed' if done.returncode else 'recorded'}, {time.perf_counter() - start:.0f} s", flush=True)
        failed += [name] if done.returncode else []
    if not arguments.out:
        subprocess.run([sys.executable, str(HERE / "tables.py")], check=True)
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
