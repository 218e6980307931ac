"""Language pretraining, and the two stages of LLaVA that join the encoder to the language model."""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import GemmaConfig, GemmaForCausalLM

from vlm_probe.errors import VlmProbeError
from vlm_probe.scenes import QUESTION_TYPES, TWO_STEPS, Scene, World, sample_scene, world_of
from vlm_probe.training.asides import aside_ids, deal
from vlm_probe.training.attention import FLOAT32_ATTENTION, Segments
from vlm_probe.training.encoders import pixels, scene_seeds
from vlm_probe.training.packing import BOS, EOS, IGNORE, PAD, QUESTIONS_PER_SCENE, Packed, Packer
from vlm_probe.zoo.cells import IMAGE_SIZE, PATCH_SIZE, ROWS, Cell

PATCHES = (IMAGE_SIZE // PATCH_SIZE) ** 2


class Connector(nn.Module):
    """LLaVA-1.5's two-layer MLP, under the names of the Hugging Face projector."""

    def __init__(self, width: int, out: int):
        super().__init__()
        self.linear_1 = nn.Linear(width, out)
        self.linear_2 = nn.Linear(out, out)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear_2(F.gelu(self.linear_1(x)))


def language_model(cell: Cell, packer: Packer) -> GemmaForCausalLM:
    """A Gemma of the cell's shape, weights drawn from its seed.

    Extra rows are drawn last, and an unembedding of its own begins as the embedding: arms that differ in their rows
    begin from the same weights in all else, unless they are of another width.
    """
    torch.manual_seed(cell.seed + 1)
    shape, rows = cell.language, ROWS[cell.rows]
    config = GemmaConfig(
        vocab_size=cell.vocabulary,
        hidden_size=shape.hidden_size,
        num_hidden_layers=shape.num_hidden_layers,
        intermediate_size=shape.intermediate_size,
        num_attention_heads=shape.num_attention_heads,
        num_key_value_heads=shape.num_key_value_heads,
        head_dim=shape.head_dim,
        max_position_embeddings=512,
        bos_token_id=packer.id[BOS],
        eos_token_id=packer.id[EOS],
        pad_token_id=packer.id[PAD],
    )
    model = GemmaForCausalLM(config)
    if rows.extra:
        model.resize_token_embeddings(cell.vocabulary + rows.extra, mean_resizing=False)
    if not rows.tied:
        model.config.tie_word_embeddings = False
        model.lm_head.weight = nn.Parameter(model.lm_head.weight.detach().clone())
    model.set_attn_implementation(FLOAT32_ATTENTION)
    return model


def answer_states(model: Any, packed: Packed, features: Tensor | None) -> tuple[Float[Tensor, "token d_model"], Packed]:
    """The language model's last states at the labelled positions, and the batch on its device. See `answer_loss`."""
    device = model.device
    segments, packed = Segments.of(packed.segment, device), packed.to(device)
    with torch.autocast(device.type, dtype=torch.bfloat16):
        embeds = model.get_input_embeddings()(packed.input_ids)
        if features is not None:
            start, end = packed.patches_at, packed.patches_at + features.shape[1]
            embeds = torch.cat([embeds[:, :start], features.to(embeds.dtype), embeds[:, end:]], dim=1)
        hidden = model.model(
            inputs_embeds=embeds,
            # What has four dimensions transformers takes for a finished mask, and makes none. It is not read.
            attention_mask=embeds.new_zeros(1, 1, 1, 1),
            position_ids=packed.position_ids,
            use_cache=False,
            segments=segments,
        ).last_hidden_state
    return hidden[packed.labels != IGNORE], packed


def answer_loss(
    model: Any, packed: Packed, features: Tensor | None, *, ids: Int[Tensor, " id"] | None = None
) -> tuple[Tensor, dict[str, float]]:
    """Next-token cross-entropy over the labelled positions, and accuracy by question type.

    model: a causal language model.
    features: [batch, patch, d_model] rows for the image placeholders, or None for text alone.
    ids: over which the softmax is, sorted, all labels among them; None is the whole vocabulary.
    """
    hidden, packed = answer_states(model, packed, features)
    with torch.autocast(model.device.type, dtype=torch.bfloat16):
        logits = (model.lm_head(hidden) if ids is None else hidden @ model.lm_head.weight[ids].T).float()
    asked = packed.labels != IGNORE
    target = packed.labels[asked]
    if ids is not None:
        target = positions_among(ids, target)
    each = F.cross_entropy(logits, target, reduction="none")
    # Most tokens of a question are noise (which shape it asks for); the mean over all tokens would
    # drown the few answers that take reading. Both count alike.
    answers = packed.answers[asked]
    loss = each[answers].mean()
    if not answers.all():
        loss = loss + 0.5 * each[~answers].mean()
    right = logits.argmax(-1) == target
    return loss, {"token_accuracy": right.float().mean().item(), **_by_kind(packed, right)}


def positions_among(ids: Int[Tensor, " id"], labels: Int[Tensor, " token"]) -> Int[Tensor, " token"]:
    """Where labels are among ids, which are sorted; VlmProbeError for one that is not."""
    found = torch.searchsorted(ids, labels).clamp_max(len(ids) - 1)
    if not torch.equal(ids[found], labels):
        missing = labels[ids[found] != labels].unique().tolist()
        raise VlmProbeError(f"the softmax is over ids that {missing} are not among, which are asked for")
    return found


def _by_kind(packed: Packed, found: Bool[Tensor, " token"]) -> dict[str, float]:
    """Share of right first answer tokens per question type.

    found: whether a labelled token was found.
    """
    right = torch.zeros_like(packed.labels, dtype=torch.bool)
    right[packed.labels != IGNORE] = found
    totals: dict[str, list[float]] = {}
    for row, kinds in enumerate(packed.kinds):
        for kind, ok in zip(kinds, right[row][packed.first[row]].tolist(), strict=True):
            totals.setdefault(kind, []).append(ok)
    return {kind: sum(v) / len(v) for kind, v in sorted(totals.items())}


class LanguageStage:
    """Language modelling on the scene language alone: captions, then questions about them.

    Text names every kind, novel ones too: a language model knows its words before it sees.
    """

    name = "language"
    learning_rate = 4e-3
    batch = 32
    describe_share = 0.2
    """The part of the steps, the last ones, that also repeats captions. From the start, copying at a
    constant distance is learned first, and looking a word up hardly at all."""

    def __init__(self, cell: Cell, packer: Packer, device: str = "cpu"):
        self.steps, self.seed, self.packer = cell.steps.language, cell.seed, packer
        self.world, rows = world_of(cell.world), ROWS[cell.rows]
        self.aside_ids = [] if rows.asides == "words" else aside_ids(rows, packer, self.world)
        self.module = language_model(cell, packer)
        nn.Module.to(self.module, device)

    def parameters(self) -> Iterable[nn.Parameter]:
        return self.module.parameters()

    def asides(self, step: int) -> list[list[int]]:
        """Of every row of this step, the ids of its aside, where asides are ids."""
        return deal(self.aside_ids, self.seed, step * self.batch, self.batch) if self.aside_ids else []

    def pack(self, step: int) -> Packed:
        """What this step reads."""
        rng = random.Random(f"{self.name}/questions/{self.seed}/{step}")
        scenes = [sample_scene(s, "any", world=self.world) for s in scene_seeds(self.name, self.seed, step, self.batch)]
        return self.packer.pack(
            scenes,
            rng,
            patches=None,
            describe=step >= (1 - self.describe_share) * self.steps,
            questions=QUESTIONS_PER_SCENE,
            learn_all=True,
            asides=not self.aside_ids,
            further=self.asides(step),
        )

    def loss(self, step: int) -> tuple[Tensor, dict[str, float]]:
        return answer_loss(self.module, self.pack(step), None)

    def after_step(self, step: int) -> None:
        pass


HARD_TYPES = (*QUESTION_TYPES, "shape", "relation", "relation")
"""Question types of the last stage, by weight: those that take two steps are learned last."""


def hard_types(world: World) -> tuple[str, ...]:
    """`HARD_TYPES` of any world: what takes two steps comes more often there, too."""
    more = (kind for kind in ("shape", "relation", "relation", *TWO_STEPS) if kind in world.questions)
    return (*world.questions, *more)


class FusionStage:
    """LLaVA's recipe (Liu et al. 2023, arXiv:2304.08485 and 2310.03744) with a frozen encoder.

    "connector": captions, only the connector learns. "joint": connector and language model learn
    together, from captions alone at first, then from captions and questions. Without the first part
    the questions are learned several times more slowly: a caption names every object in every step.
    "questions": both go on with questions alone, the hard types more often (see `HARD_TYPES`). Of a frozen cell the
    connector alone learns in every part.
    """

    batch = 32
    caption_share = 0.4
    """The part of the joint steps that sees captions alone (of twice as many scenes a step)."""

    def __init__(
        self,
        name: Literal["connector", "joint", "questions"],
        cell: Cell,
        packer: Packer,
        encoder: nn.Module,
        connector: Connector,
        language: GemmaForCausalLM,
    ):
        self.name: str = name
        self.steps: int = getattr(cell.steps, name)
        self.learning_rate = (2e-3 if name == "questions" else 3e-3) * cell.rate
        self.learns = "connector" if name == "connector" or cell.frozen else "both"
        self.seed, self.packer, self.world = cell.seed, packer, world_of(cell.world)
        self.device = language.device.type
        self.encoder = encoder.eval().requires_grad_(False)
        language.requires_grad_(self.learns == "both")
        self.connector, self.language = connector, language
        self.module = nn.ModuleDict({"connector": connector, "language": language})

    def parameters(self) -> Iterable[nn.Parameter]:
        return (self.module if self.learns == "both" else self.connector).parameters()

    def features(self, scenes: list[Scene]) -> Tensor:
        """[batch, patch, d_vision]: what the connector receives (second to last layer, no CLS)."""
        with torch.no_grad(), torch.autocast(self.device, dtype=torch.bfloat16):
            hidden = self.encoder(pixels(scenes, self.device), output_hidden_states=True).hidden_states
        return hidden[-2][:, 1:]

    def _pack(self, scenes: list[Scene], rng: random.Random, *, asking: bool) -> Packed:
        if self.name == "questions":
            hard = hard_types(self.world)
            return self.packer.pack(
                scenes, rng, patches=PATCHES, describe=False, questions=12, learn_all=False, among=hard
            )
        questions = QUESTIONS_PER_SCENE if asking else 0
        return self.packer.pack(scenes, rng, patches=PATCHES, describe=True, questions=questions, learn_all=False)

    def pack(self, step: int) -> tuple[list[Scene], Packed]:
        """The scenes this step sees, and what it reads about them."""
        rng = random.Random(f"{self.name}/questions/{self.seed}/{step}")
        asking = self.name == "questions" or (self.name == "joint" and step >= self.caption_share * self.steps)
        n = self.batch if asking else 2 * self.batch
        scenes = [sample_scene(s, world=self.world) for s in scene_seeds(self.name, self.seed, step, n)]
        return scenes, self._pack(scenes, rng, asking=asking)

    def loss(self, step: int) -> tuple[Tensor, dict[str, float]]:
        scenes, packed = self.pack(step)
        with torch.autocast(self.device, dtype=torch.bfloat16):
            features = self.connector(self.features(scenes))
        return answer_loss(self.language, packed, features)

    def after_step(self, step: int) -> None:
        pass
