"""Weight files of a checkpoint's folder, and whole repositories of the Hub."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from pickle import UnpicklingError

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from vlm_probe.errors import VlmProbeError


def weight_files(folder: Path) -> list[Path]:
    """All weight files of a checkpoint folder.

    Raises VlmProbeError for a shard the index names and the folder lacks, and for no weights at all.
    """
    for index in sorted(folder.glob("*.index.json")):
        shards = sorted(set(json.loads(index.read_text())["weight_map"].values()))
        missing = [s for s in shards if not (folder / s).is_file()]
        if missing:
            raise VlmProbeError(
                f"{folder} lacks {len(missing)} of the {len(shards)} shards that {index.name} names: "
                + ", ".join(missing)
            )
        return [folder / s for s in shards]
    found = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("pytorch_model*.bin"))
    if not found:
        raise VlmProbeError(f"{folder} holds no weights: expected *.safetensors or pytorch_model*.bin")
    return found


def read_weights(folder: Path) -> Iterator[tuple[str, Tensor]]:
    """All weights of a checkpoint folder by name; VlmProbeError for a file that cannot be read as weights."""
    for file in weight_files(folder):
        try:
            if file.suffix == ".safetensors":
                weights = load_file(file)
            else:
                weights = torch.load(file, map_location="cpu", weights_only=True)
        except (SafetensorError, RuntimeError, UnpicklingError, EOFError) as error:
            raise VlmProbeError(f"{file} cannot be read as weights (cut off, or a pointer?): {error}") from error
        yield from weights.items()


def add_placeholder(weights: dict[str, Tensor], embedding: str, *outputs: str) -> int:
    """Append a row of zeros for an image's placeholder, where a checkpoint has none; its id, the vocabulary's old size.

    embedding, outputs: names of what has a row a token; of outputs those that are there.
    """
    rows = len(weights[embedding])
    for key in (embedding, *outputs):
        value = weights.get(key)
        if value is not None:
            weights[key] = torch.cat([value, value.new_zeros(1, *value.shape[1:])])
    return rows


def find_beside(folder: Path, name: str) -> Path | str:
    """The folder of a part that a checkpoint names: inside it, beside it or by its path; else the name, for the Hub."""
    for candidate in (folder / name, folder / Path(name).name, folder.parent / Path(name).name, Path(name)):
        if name and (candidate / "config.json").is_file():
            return candidate
    return name


def hub_file(repository: str, name: str, revision: str | None) -> Path | None:
    """A file of a Hub repository in the local cache; None where the Hub does not give it."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(repository, name, revision=revision))
    except (HfHubHTTPError, LocalEntryNotFoundError, HFValidationError, OSError):
        return None


def snapshot(repository: str, revision: str | None = None, *, also: tuple[str, ...] = ()) -> Path:
    """A Hub repository's configuration, tokenizer and weights, in the local cache; `also`: patterns of other files.

    Raises VlmProbeError where the Hub does not give them.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    patterns = ["*.json", "*.jinja", "*.safetensors", "*.model", *also]
    try:
        folder = Path(snapshot_download(repository, revision=revision, allow_patterns=patterns))
        if not also and not any(folder.glob("*.safetensors")):
            folder = Path(snapshot_download(repository, revision=revision, allow_patterns=[*patterns, "*.bin"]))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise VlmProbeError(f"{repository!r} could not be fetched from the Hub: {error}") from error
    return folder
