"""What lies in a folder of figures: of each what it shows and the digests of its files, and what made them all."""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from vlm_probe import __version__
from vlm_probe.report.document import Picture

NAME = "manifest.json"
_PACKAGES = ("matplotlib", "numpy", "pandas", "seaborn", "torch", "transformers")


def manifest_of(pictures: Iterable[Picture], folder: Path, command: str) -> dict[str, Any]:
    """A manifest: command, commit ("" outside of a checkout), versions, and by figure title, caption, alt and digests.

    folder: where the figures' files are. Digests are SHA-256.
    """
    return {
        "command": command,
        "commit": commit(),
        "versions": {"vlm_probe": __version__, **{name: version(name) for name in _PACKAGES}},
        "figures": {
            one.file: {
                "command": command,
                "title": one.title,
                "caption": one.caption,
                "alt": one.alt,
                "files": {file.name: digest(file) for file in sorted(folder.glob(f"{one.file}.*"))},
            }
            for one in pictures
        },
    }


def digest(file: Path) -> str:
    """A file's SHA-256."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


def commit() -> str:
    """The commit that the package is at, where it lies in a checkout of its own; "" elsewhere."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return ""
    try:
        asked = subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, check=False)
    except OSError:  # there is no git
        return ""
    return asked.stdout.strip()
