"""Vision encoders of the recipe: by contrast with captions, or by self-distillation without labels."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from copy import deepcopy

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPVisionConfig, Dinov2Config, Dinov2Model

from vlm_probe.scenes import Scene, render, sample_scene, world_of
from vlm_probe.training.attention import FLOAT32_ATTENTION
from vlm_probe.training.packing import EOS, Packer
from vlm_probe.training.told import TOLD, Caption, said, spared
from vlm_probe.zoo.cells import IMAGE_SIZE, Cell

MEAN, STD = 0.5, 0.25
"""Pixel normalisation of the replicas, per channel."""


def scene_seeds(stage: str, seed: int, step: int, n: int) -> list[int]:
    """Seeds of the fresh scenes of one step."""
    rng = random.Random(f"{stage}/{seed}/{step}")
    return [rng.getrandbits(48) for _ in range(n)]


def pixels(
    scenes: list[Scene],
    device: str = "cpu",
    *,
    size: int = IMAGE_SIZE,
    mean: Sequence[float] = (MEAN,) * 3,
    std: Sequence[float] = (STD,) * 3,
) -> Float[Tensor, "batch channel row column"]:
    """Scenes drawn at a size, in [0, 1] and then normalised per channel."""
    stack = np.stack([render(scene, size) for scene in scenes])
    scaled = torch.from_numpy(stack).to(device).permute(0, 3, 1, 2).float() / 255
    center, scale = (torch.tensor(v, device=device)[:, None, None] for v in (mean, std))
    return (scaled - center) / scale


class ClipStage:
    """CLIP (Radford et al. 2021, arXiv:2103.00020): symmetric InfoNCE between images and captions.

    Deviation: half of every batch are twins that differ from a scene of the other half in one
    visual fact, so that colour, shape and place of every object all have to be encoded. Studies have kinds that are
    told less, or have no twins (`told.TOLD`); all of one seed see the same fresh scenes.
    """

    learning_rate = 3e-3
    pairs = 64
    """Half of the images of a step."""

    def __init__(self, cell: Cell, packer: Packer, device: str = "cpu"):
        self.kind, self.name = cell.encoder, f"encoder-{cell.encoder}"
        self.steps, self.seed, self.packer, self.device = cell.steps.encoder, cell.seed, packer, device
        self.world = world_of(cell.world)
        torch.manual_seed(cell.seed)
        vision = CLIPVisionConfig(**cell.vision, intermediate_size=4 * cell.vision["hidden_size"])
        text = CLIPTextConfig(
            vocab_size=cell.vocabulary,
            hidden_size=96,
            intermediate_size=384,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=64,
            eos_token_id=packer.id[EOS],
        )
        config = CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=96)
        self.module = CLIPModel(config)
        self.module.set_attn_implementation(FLOAT32_ATTENTION)
        nn.Module.to(self.module, device)

    def parameters(self) -> Iterable[nn.Parameter]:
        return self.module.parameters()

    def said(self, step: int) -> tuple[list[Scene], list[Caption]]:
        """The images of a step, and what is said of each."""
        n = self.pairs * (1 if TOLD[self.kind].twin else 2)
        scenes = [sample_scene(s, world=self.world) for s in scene_seeds("encoder-clip", self.seed, step, n)]
        return said(self.kind, scenes, random.Random(f"twins/{self.seed}/{step}"))

    def loss(self, step: int) -> tuple[Tensor, dict[str, float]]:
        scenes, captions = self.said(step)
        rows = [[*(i for part in c for i in self.packer.encode(part)), self.packer.id[EOS]] for c in captions]
        length = max(map(len, rows))
        # CLIP's text tower is causal and reads the first end token: what pads it never counts.
        ids = torch.tensor([row + [self.packer.id[EOS]] * (length - len(row)) for row in rows], device=self.device)
        with torch.autocast(self.device, dtype=torch.bfloat16):
            out = self.module(input_ids=ids, pixel_values=pixels(scenes, self.device))
        logits = out.logits_per_image.float()
        if TOLD[self.kind].spares:
            true = torch.tensor(spared(self.kind, scenes, captions), device=self.device)
            logits = logits.masked_fill(true, -torch.inf)
        target = torch.arange(len(scenes), device=self.device)
        loss = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
        return loss, {"accuracy": (logits.argmax(-1) == target).float().mean().item()}

    def after_step(self, step: int) -> None:
        # As in CLIP, the temperature may not fall below 1/100.
        self.module.logit_scale.data.clamp_(max=float(np.log(100)))

    @property
    def encoder(self) -> nn.Module:
        return self.module.vision_model


class _Head(nn.Module):
    """Projection to prototypes (DINO's head): MLP, unit length, weight-normalised last layer."""

    def __init__(self, width: int, hidden: int, prototypes: int):
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, 64))
        self.prototypes = nn.Parameter(torch.randn(prototypes, 64))

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(self.mlp(x), dim=-1) @ F.normalize(self.prototypes, dim=-1).T


class _Network(nn.Module):
    """An encoder with the two heads it is distilled through."""

    def __init__(self, config: Dinov2Config, prototypes: int):
        super().__init__()
        self.encoder = Dinov2Model(config)
        self.cls = _Head(config.hidden_size, 256, prototypes)
        self.patch = _Head(config.hidden_size, 256, prototypes)


def _balanced(logits: Tensor) -> Tensor:
    """Targets that use all prototypes alike over the batch: three rounds of Sinkhorn-Knopp, as in DINOv2
    (Oquab et al. 2023, arXiv:2304.07193). logits: [item, prototype], divided by the temperature."""
    p = (logits - logits.max()).exp()
    for _ in range(3):
        p = p / p.sum(0, keepdim=True).clamp(min=1e-12)
        p = p / p.sum(1, keepdim=True).clamp(min=1e-12)
    return p


class _Distillation(nn.Module):
    """Student, teacher, and the centre that keeps the teacher from collapsing."""

    cls_center: Tensor

    def __init__(self, config: Dinov2Config, prototypes: int):
        super().__init__()
        self.student = _Network(config, prototypes)
        self.teacher = deepcopy(self.student).requires_grad_(False)
        self.register_buffer("cls_center", torch.zeros(prototypes))


class DinoStage:
    """DINO (Caron et al. 2021, arXiv:2104.14294) with the patch loss of iBOT (Zhou et al. 2022,
    arXiv:2111.07832), as in DINOv2: a student matches a moving-average teacher, between crops (CLS)
    and at masked patches. Against collapse: centring and sharpening for CLS, Sinkhorn-Knopp for
    patches, most of which are background (centring alone left a dozen of 512 prototypes in use).

    Deviation: brightness and contrast are jittered, hue and saturation are not: that would teach
    that colour does not matter. Without any jitter two crops are told by their background alone.

    The kind "dino-128", of studies, sees as many images a step as CLIP does.
    """

    learning_rate = 2e-3
    images = 48
    local_crops = 4
    local_size = 32
    student_temperature, teacher_temperature = 0.1, 0.05
    prototypes = 512

    def __init__(self, cell: Cell, packer: Packer, device: str = "cpu"):
        self.name = f"encoder-{cell.encoder}"
        self.steps, self.seed, self.device = cell.steps.encoder, cell.seed, device
        if cell.encoder == "dino-128":
            self.images = 2 * ClipStage.pairs
        self.world = world_of(cell.world)
        self.patches = (cell.vision["image_size"] // cell.vision["patch_size"]) ** 2
        torch.manual_seed(cell.seed)
        config = Dinov2Config(**cell.vision, mlp_ratio=4, layerscale_value=1.0, drop_path_rate=0.0)
        self.module = _Distillation(config, self.prototypes).to(device)
        for network in (self.module.student, self.module.teacher):
            network.encoder.set_attn_implementation(FLOAT32_ATTENTION)

    def parameters(self) -> Iterable[nn.Parameter]:
        return self.module.student.parameters()

    def _crops(self, images: Tensor, size: int, scale: tuple[float, float], rng: np.random.Generator) -> Tensor:
        """A random square crop of every image, resized, half of them mirrored, brightness and contrast jittered."""
        n = len(images)
        side = np.sqrt(rng.uniform(*scale, n))
        flip = rng.choice([-1.0, 1.0], n)
        theta = np.zeros((n, 2, 3), dtype=np.float32)
        theta[:, 0, 0], theta[:, 1, 1] = side * flip, side
        theta[:, :, 2] = (1 - side)[:, None] * rng.uniform(-1, 1, (n, 2))
        grid = F.affine_grid(torch.from_numpy(theta).to(images.device), [n, 3, size, size], align_corners=False)
        crops = F.grid_sample(images, grid, align_corners=False)
        contrast, shift = (
            torch.from_numpy(rng.uniform(low, high, (n, 1, 1, 1)).astype(np.float32)).to(images.device)
            for low, high in ((0.7, 1.3), (-0.6, 0.6))
        )
        return crops * contrast + shift

    def loss(self, step: int) -> tuple[Tensor, dict[str, float]]:
        rng = np.random.default_rng([self.seed, step])
        seeds = scene_seeds("encoder-dino", self.seed, step, self.images)
        images = pixels([sample_scene(s, world=self.world) for s in seeds], self.device)
        globals_ = torch.cat([self._crops(images, IMAGE_SIZE, (0.5, 1.0), rng) for _ in range(2)])
        locals_ = torch.cat([self._crops(images, self.local_size, (0.1, 0.4), rng) for _ in range(self.local_crops)])
        share = torch.from_numpy(rng.uniform(0.1, 0.5, len(globals_)).astype(np.float32))
        masked = torch.from_numpy(rng.random((len(globals_), self.patches)).astype(np.float32)) < share[:, None]

        masked = masked.to(self.device)
        student, teacher = self.module.student, self.module.teacher
        with torch.autocast(self.device, dtype=torch.bfloat16):
            with torch.no_grad():
                seen = teacher.encoder(globals_).last_hidden_state
                t_cls, t_patch = teacher.cls(seen[:, 0]).float(), teacher.patch(seen[:, 1:][masked]).float()
            seen = student.encoder(globals_, bool_masked_pos=masked).last_hidden_state
            s_patch = student.patch(seen[:, 1:][masked]).float()
            s_global = student.cls(seen[:, 0]).float()
            s_local = student.cls(student.encoder(locals_).last_hidden_state[:, 0]).float()

        heat = self.teacher_temperature
        p_cls = ((t_cls - self.module.cls_center) / heat).softmax(-1)
        p_patch = _balanced(t_patch / heat)
        self._batch_center = t_cls.mean(0)

        def cross_entropy(p: Tensor, s: Tensor) -> Tensor:
            return -(p * (s / self.student_temperature).log_softmax(-1)).sum(-1).mean()

        first, second = p_cls.chunk(2)
        views = [*s_local.chunk(self.local_crops)]
        cls = (cross_entropy(first, s_global.chunk(2)[1]) + cross_entropy(second, s_global.chunk(2)[0])) / 2
        crossed = [cross_entropy(p, view) for p in (first, second) for view in views]
        cls = cls + torch.stack(crossed).mean()
        patch = cross_entropy(p_patch, s_patch)
        used = p_patch.mean(0)
        entropy = -(used * (used + 1e-9).log()).sum().item()
        return cls / 2 + patch, {"cls": cls.item() / 2, "patch": patch.item(), "prototype_entropy": entropy}

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        momentum = 1 - (1 - 0.992) * (1 + np.cos(np.pi * step / self.steps)) / 2
        student, teacher = self.module.student, self.module.teacher
        for target, source in zip(teacher.parameters(), student.parameters(), strict=True):
            target.lerp_(source, float(1 - momentum))
        self.module.cls_center.lerp_(self._batch_center, 0.1)

    @property
    def encoder(self) -> nn.Module:
        return self.module.teacher.encoder


ENCODERS = {"clip": ClipStage, "dino": DinoStage}


def encoder_stage(cell: Cell, packer: Packer, device: str = "cpu") -> ClipStage | DinoStage:
    """The stage that trains a cell's encoder, of whichever kind."""
    return ENCODERS[cell.encoder.partition("-")[0]](cell, packer, device)
