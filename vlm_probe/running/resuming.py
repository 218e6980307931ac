"""Folders of finished parts, from which a killed run goes on: only with the very same model, items and options."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vlm_probe.errors import VlmProbeError
from vlm_probe.files import alone, make_folder, replacing
from vlm_probe.items.item import Item, Packed
from vlm_probe.running.protocol import Runs


def folder_name(name: str) -> str:
    """A folder's name for a model's, which may be a path or a Hub id: a digest keeps two that look alike apart."""
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    return f"{re.sub(r'[^A-Za-z0-9.]+', '-', name)[-60:]}-{digest}"


def _source(item: Item) -> str:
    """What the item's image is drawn from: a scene, or a file as it is now (and where in it)."""
    file, where = item.source, ""
    if isinstance(file, Packed):
        file, where = file.container, f" {file!r}"
    if isinstance(file, Path) and file.exists():
        about = file.stat()
        return f"{file.resolve()} {about.st_size} {about.st_mtime_ns}{where}"
    return repr(item.source)


def run_settings(model: Runs, items: Sequence[Item], **options: Any) -> dict[str, Any]:
    """What must agree for a run to go on where an earlier one stopped."""
    text = "\n".join(f"{item} {_source(item)}" for item in items)  # an item shows all but its source
    hooked = [name for name, point in model.hook_dict.items() if point.fwd_hooks]
    return {
        "model": model.name,
        "revision": model.revision,
        "weights": model.weights_digest(),
        "hooks": hooked,
        "dtype": str(model.dtype),
        "scale": model.embed_scale,
        "prompt": model.inputs.prompt,
        **options,
        "number of items": len(items),
        "items": hashlib.sha256(text.encode()).hexdigest(),
    }


@contextmanager
def resumed(parts: Path, name: str, settings: Mapping[str, Any]) -> Iterator[Path]:
    """The folder of a model's parts, this run's alone while it is held: of two runs at once, one waits for the other.

    Raises VlmProbeError where it was made for something else, or cannot be written.
    """
    folder = parts / folder_name(name)
    make_folder(folder)
    with alone(folder / "lock"):
        _take_up(folder, settings)
        yield folder


def _take_up(folder: Path, settings: Mapping[str, Any]) -> None:
    file = folder / "settings.json"
    if not file.exists():
        with replacing(file) as partial:
            partial.write_text(json.dumps(settings, indent=1))
        return
    try:
        before = json.loads(file.read_text())
    except ValueError as error:
        raise VlmProbeError(f"{file} cannot be read ({error}); delete {folder} and begin anew") from error
    changed = [name for name in settings if before.get(name) != settings[name]]
    if changed:
        raise VlmProbeError(
            f"{folder} holds answers of a run with another {' and '.join(changed)}; give another --out, or delete it"
        )
