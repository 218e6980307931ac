"""LLaVA's recipe on real models: a connector, and low-rank adapters, trained on generated scenes.

The encoder and the language model are frozen; both language models are trained alike (the same scenes, questions,
prompt, steps and rates). Stages: "captions" and "questions" train the connector alone (`llava-<language model>`);
"adapters" and "comparisons" go on from there with the connector and adapters on the language model
(`llava-<language model>-lora`), the latter at a lower rate and with more questions of the kind that is learned last.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer, BitImageProcessor, Dinov2Model, LlavaConfig

from vlm_probe.checkpoints.parts import ADAPTER_CONFIG, ADAPTER_FILE, CONNECTOR_FILE, part_folder
from vlm_probe.errors import VlmProbeError
from vlm_probe.scenes import QUESTION_TYPES, Scene, sample_scene
from vlm_probe.training.attention import FLOAT32_ATTENTION
from vlm_probe.training.encoders import pixels, scene_seeds
from vlm_probe.training.fusion import HARD_TYPES, Connector, answer_loss
from vlm_probe.training.loop import Listener, run_stage
from vlm_probe.training.packing import DESCRIBE, Packed, Packer
from vlm_probe.zoo.catalog import SOURCES, Fusion

IMAGE_SIZE = 112
"""Pixels a side: eight of DINOv2's patches, as many as the replicas have."""
PROMPT = "{bos}{images}\nQuestion: {question}\nAnswer:"
"""The same for every language model: none of them was tuned to be asked about images."""
RANK, ALPHA = 8, 16
ADAPTED = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
StageName = Literal["captions", "questions", "adapters", "comparisons"]
COMPARISONS = tuple(
    kind for kind in QUESTION_TYPES if kind in ("existence", "relation", "attribute", "number", "position")
)
"""Question types that are answered by yes or no: what is seen has to be compared with what is asked."""


@dataclass(frozen=True)
class Plan:
    """What a stage sees in a step, and how fast it learns."""

    scenes: int
    rate: float
    questions: int = 10
    describe: bool = False
    """Whether the caption is asked for, too."""
    among: tuple[str, ...] = HARD_TYPES
    adapters: bool = False
    """Whether adapters learn with the connector: only in the variants that have some."""


PLANS: dict[StageName, Plan] = {
    "captions": Plan(4, 3e-2, questions=0, describe=True),
    "questions": Plan(2, 1.5e-2, describe=True),
    "adapters": Plan(2, 1e-3, adapters=True),
    "comparisons": Plan(2, 3e-4, among=(*QUESTION_TYPES, *COMPARISONS), adapters=True),
}
"""In this order. Steps are small because there is little time: with as many scenes in all, captions came out at a loss
of 1.2 by steps of four, and of 2.8 by steps of sixteen. So are the rates high: 0.03 brought captions to 0.5 where 0.01
brought them to 1.2 and 0.002 to 2.2. Adapters take less: at 0.004 the loss rose, and where a second round began at
0.001 once more, Gemma's doubled."""


@dataclass(frozen=True)
class Steps:
    """Optimiser steps of every stage."""

    captions: int = 300
    questions: int = 1000
    adapters: int = 1800
    comparisons: int = 900


class PromptPacker(Packer):
    """Packs scenes for a pretrained tokenizer, spelled as `PROMPT` spells them."""

    def __init__(self, tokenizer: Any, placeholder: str):
        super().__init__(tokenizer)
        self._placeholder = int(tokenizer.convert_tokens_to_ids(placeholder))

    def opening(self) -> list[int]:
        return [self.tokenizer.bos_token_id]

    def placeholder(self) -> int:
        return self._placeholder

    def padding(self) -> int:
        return self.tokenizer.eos_token_id

    def segment(self, question: str, answer: str) -> tuple[list[int], int]:
        _, after = PROMPT.split("{images}")
        before = self.encode(after.replace("{question}", question))
        return [*before, *self.encode(f" {answer}"), self.tokenizer.eos_token_id], len(before)

    def describe(self, scene: Scene) -> tuple[list[int], int]:
        return self.segment(DESCRIBE, scene.caption)


class ScaledConnector(nn.Module):
    """LLaVA's connector on standardised features, its output of the size of the language model's token rows.

    Both scales are constants, folded into the weights by `folded`: what is learned is of size one whatever
    the encoder and the language model, so that one learning rate serves all.
    """

    mean: Tensor
    std: Tensor
    row_rms: Tensor

    def __init__(self, width: int, out: int):
        super().__init__()
        self.inner = Connector(width, out)
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("std", torch.ones(width))
        self.register_buffer("row_rms", torch.ones(()))

    def forward(self, x: Float[Tensor, "*batch d_vision"]) -> Float[Tensor, "*batch d_model"]:
        return self.row_rms * self.inner((x.float() - self.mean) / self.std)

    @torch.no_grad()
    def folded(self) -> Connector:
        """The same map as a plain connector."""
        plain = Connector(len(self.mean), len(self.inner.linear_2.bias)).to(self.mean.device)
        first, second = self.inner.linear_1, self.inner.linear_2
        plain.linear_1.weight.copy_(first.weight / self.std)
        plain.linear_1.bias.copy_(first.bias - first.weight @ (self.mean / self.std))
        plain.linear_2.weight.copy_(self.row_rms * second.weight)
        plain.linear_2.bias.copy_(self.row_rms * second.bias)
        return plain


def _peft() -> tuple[Any, Any]:
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        raise VlmProbeError('training adapters needs the extra: pip install -e ".[real-small]"') from error
    return LoraConfig, get_peft_model


class Parts:
    """The frozen models, and what is trained between and upon them."""

    def __init__(self, fusion: Fusion, device: str, seed: int):
        self.fusion, self.device = fusion, device
        folder = part_folder(fusion.language)
        self.tokenizer: Any = AutoTokenizer.from_pretrained(folder)
        self.packer = PromptPacker(self.tokenizer, fusion.placeholder)
        language: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
        self.language: Any = language.requires_grad_(False).to(device).eval()
        self.language.set_attn_implementation(FLOAT32_ATTENTION)
        encoder: Any = Dinov2Model.from_pretrained(part_folder(fusion.encoder), dtype=torch.float32)
        self.encoder = encoder.requires_grad_(False).to(device).eval()
        processor = BitImageProcessor.from_pretrained(part_folder(fusion.encoder))
        self.mean, self.std = tuple(processor.image_mean), tuple(processor.image_std)
        self.side = IMAGE_SIZE // self.encoder.config.patch_size
        torch.manual_seed(seed)
        self.connector = ScaledConnector(self.encoder.config.hidden_size, self.language.config.hidden_size).to(device)
        self.adapted: Any = None
        self._measure_scales(seed)

    @torch.no_grad()
    def _measure_scales(self, seed: int) -> None:
        """Mean and deviation of the features over a few scenes; root mean square of the entries of token rows."""
        features = self.features([sample_scene(s) for s in scene_seeds("scales", seed, 0, 64)]).float().flatten(0, 1)
        self.connector.mean.copy_(features.mean(0))
        self.connector.std.copy_(features.std(0))
        words = torch.tensor(self.packer.encode(f"{DESCRIBE} {sample_scene(0).caption}"), device=self.device)
        self.connector.row_rms.copy_(self.language.get_input_embeddings()(words).float().pow(2).mean().sqrt())

    @torch.no_grad()
    def features(self, scenes: list[Scene]) -> Float[Tensor, "batch patch d_vision"]:
        """What the connector receives: second to last layer, no CLS."""
        shown = pixels(scenes, self.device, size=IMAGE_SIZE, mean=self.mean, std=self.std)
        with torch.autocast(self.device, dtype=torch.bfloat16):
            return self.encoder(shown, output_hidden_states=True).hidden_states[-2][:, 1:].float()

    def adapt(self, seed: int) -> nn.ModuleList:
        """Put fresh adapters on the language model; returns their matrices.

        Raises VlmProbeError where peft is missing.
        """
        config, wrap = _peft()
        torch.manual_seed(seed + 1)
        settings = config(r=RANK, lora_alpha=ALPHA, target_modules=list(ADAPTED), bias="none")
        self.adapted = wrap(self.language, settings)
        layers = [m for name, m in self.adapted.named_modules() if name.endswith(("lora_A.default", "lora_B.default"))]
        return nn.ModuleList(layers)


class ConnectorStage:
    """One stage of `PLANS`. The loss is that of the replicas: captions and answers, both by the token."""

    multiple = 32
    """Rows are padded to a multiple of so many positions."""

    def __init__(self, name: StageName, parts: Parts, module: nn.ModuleDict, steps: int, seed: int):
        self.name, self.plan, self.parts, self.module = name, PLANS[name], parts, module
        self.steps, self.seed, self.learning_rate = steps, seed, self.plan.rate

    def parameters(self) -> Iterable[nn.Parameter]:
        return self.module.parameters()

    def pack(self, scenes: list[Scene], rng: random.Random) -> Packed:
        plan = self.plan
        return self.parts.packer.pack(
            scenes,
            rng,
            patches=self.parts.side**2,
            describe=plan.describe,
            questions=plan.questions,
            learn_all=False,
            among=plan.among,
            multiple=self.multiple,
        )

    def loss(self, step: int) -> tuple[Tensor, dict[str, float]]:
        rng = random.Random(f"{self.name}/questions/{self.seed}/{step}")
        scenes = [sample_scene(s) for s in scene_seeds(self.name, self.seed, step, self.plan.scenes)]
        packed = self.pack(scenes, rng)
        with torch.autocast(self.parts.device, dtype=torch.bfloat16):
            rows = self.parts.connector(self.parts.features(scenes))
        return answer_loss(self.parts.language, packed, rows)

    def after_step(self, step: int) -> None:
        pass


def stage_files(fusion: Fusion, runs: Path, seed: int) -> dict[StageName, Path]:
    """Each stage's files, without suffix. The connector's stages are shared by both variants."""
    runs = runs / f"seed-{seed}"
    return {
        name: runs / (fusion.name if plan.adapters else f"llava-{fusion.language}") / name
        for name, plan in PLANS.items()
        if fusion.adapters or not plan.adapters
    }


def train(
    fusion: Fusion,
    runs: Path,
    *,
    steps: Steps = Steps(),
    seed: int = 0,
    resume: bool = False,
    listen: Listener | None = None,
    device: str = "cpu",
) -> Parts:
    """Train a fusion, stage by stage, in a runs folder (`<runs>/seed-<seed>/llava-<language model>/`).

    With `resume`, finished stages are loaded and an unfinished one goes on; without, all start afresh.

    Raises VlmProbeError where a part is not fetched, and where adapters are asked for without peft.
    """
    if fusion.adapters:
        _peft()  # said before anything is trained
    parts = Parts(fusion, device, seed)
    module = nn.ModuleDict({"connector": parts.connector})
    for name, file in stage_files(fusion, runs, seed).items():
        if PLANS[name].adapters and "adapters" not in module:
            module["adapters"] = parts.adapt(seed)
        stage = ConnectorStage(name, parts, module, getattr(steps, name), seed)
        run_stage(stage, file.parent, resume=resume, listen=listen)
    return parts


def export(parts: Parts, folder: Path) -> None:
    """Write a checkpoint in parts that `vlm_probe.load` opens (see `checkpoints.parts`), in half precision."""
    folder.mkdir(parents=True, exist_ok=True)
    fusion = parts.fusion
    # Without its configuration nothing opens the folder: it goes first, and the new one comes last.
    for name in ("config.json", ADAPTER_FILE, ADAPTER_CONFIG):
        (folder / name).unlink(missing_ok=True)
    connector = {name: tensor.half().cpu() for name, tensor in parts.connector.folded().state_dict().items()}
    save_file(connector, folder / CONNECTOR_FILE, metadata={"format": "pt"})
    if parts.adapted is not None:
        parts.adapted.peft_config["default"].base_model_name_or_path = SOURCES[fusion.language].repository
        parts.adapted.save_pretrained(folder, save_embedding_layers=False)
        (folder / "README.md").unlink(missing_ok=True)  # peft's, with nothing in it
        adapters = {name: tensor.half() for name, tensor in load_file(folder / ADAPTER_FILE).items()}
        save_file(adapters, folder / ADAPTER_FILE, metadata={"format": "pt"})
    vision = {**parts.encoder.config.to_dict(), "image_size": IMAGE_SIZE, "_name_or_path": ""}
    # A path of this machine is nobody's business.
    text = {**parts.language.config.to_dict(), "_name_or_path": ""}
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=parts.packer.placeholder(),
        image_seq_length=parts.side**2,
        tie_word_embeddings=parts.language.config.tie_word_embeddings,
    )
    # Trained with current transformers, whose Gemma scales text rows alone.
    config.vlm_probe = {
        "embed_scale": "text",
        "prompt": PROMPT,
        "pad": True,
        "parts": {"language": fusion.language, "encoder": fusion.encoder, "adapters": fusion.adapters},
    }
    BitImageProcessor(
        size={"height": IMAGE_SIZE, "width": IMAGE_SIZE},
        do_center_crop=False,
        image_mean=list(parts.mean),
        image_std=list(parts.std),
    ).save_pretrained(folder)
    config.save_pretrained(folder)
