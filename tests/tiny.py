"""Tiny random LLaVA models whose sizes are different primes wherever the architecture lets them."""

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    CLIPImageProcessor,
    CLIPVisionConfig,
    Dinov2Config,
    Dinov2WithRegistersConfig,
    Gemma2Config,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Gemma3TextConfig,
    GemmaConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextImageProcessor,
    MistralConfig,
    PaliGemmaConfig,
    PaliGemmaForConditionalGeneration,
    PhiConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    SiglipVisionConfig,
)

from vlm_probe.checkpoints.prismatic_model import PrismaticConfig, PrismaticForConditionalGeneration
from vlm_probe.hooked import HookedVLM, joined
from vlm_probe.inputs.images import ImagePreparer


def untyped(x: object) -> Any:
    """As it is. Of a table's columns and means the type checker cannot tell series, numbers and truth values apart."""
    return x


SHARED = Path(__file__).parents[2] / "shared"
REFERENCE = SHARED / "reference"

PATCH, GRID = 3, 5
PATCHES = GRID * GRID
IMAGE_TOKEN = 96
_VISION: dict[str, Any] = {
    "hidden_size": 39,
    "num_hidden_layers": 5,
    "num_attention_heads": 3,
    "image_size": PATCH * GRID,
    "patch_size": PATCH,
}
_TEXT: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 42,
    "intermediate_size": 53,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 10,
    "max_position_embeddings": 211,
    "pad_token_id": 0,
    "bos_token_id": 2,
    "eos_token_id": 1,
}
WINDOW = 7
"""Sliding window of the Gemma 2 and 3 miniatures: shorter than the prompt, so that it matters."""

TOWERS = {
    "clip": lambda: CLIPVisionConfig(**_VISION, intermediate_size=47),
    "dinov2": lambda: Dinov2Config(**_VISION, mlp_ratio=2),
    "registers": lambda: Dinov2WithRegistersConfig(**_VISION, mlp_ratio=2, num_register_tokens=2),
    "siglip": lambda: SiglipVisionConfig(**_VISION, intermediate_size=47),
}
LANGUAGES = {
    "gemma": lambda: GemmaConfig(**_TEXT),
    "gemma2": lambda: Gemma2Config(**_TEXT, query_pre_attn_scalar=10, sliding_window=WINDOW),
    "gemma3": lambda: Gemma3TextConfig(**_TEXT, query_pre_attn_scalar=10, sliding_window=WINDOW),
    "llama": lambda: LlamaConfig(**_TEXT),
    "qwen2": lambda: Qwen2Config(**_TEXT, use_sliding_window=True, sliding_window=WINDOW, max_window_layers=1),
    "mistral": lambda: MistralConfig(**_TEXT, sliding_window=WINDOW),
    # Half of what a head has is turned with its position, as far as pairs allow.
    "phi": lambda: PhiConfig(
        **_TEXT, rope_parameters={"rope_type": "default", "rope_theta": 10_000.0, "partial_rotary_factor": 0.4}
    ),
}
POOLED = 2
"""Gemma 3's connector makes one row of so many by so many patches; its images are larger by that."""


def _paligemma(text: Any, **changes: Any) -> PaliGemmaForConditionalGeneration:
    sight = SiglipVisionConfig(**_VISION, intermediate_size=47, vision_use_head=False)
    return PaliGemmaForConditionalGeneration(
        PaliGemmaConfig(
            vision_config=sight, text_config=text, image_token_index=IMAGE_TOKEN, projection_dim=42, **changes
        )
    )


def _gemma3(text: Any, **changes: Any) -> Gemma3ForConditionalGeneration:
    text.layer_types = ["sliding_attention", "full_attention", "sliding_attention"]
    larger = {**_VISION, "image_size": POOLED * PATCH * GRID}
    sight = SiglipVisionConfig(**larger, intermediate_size=47, vision_use_head=False)
    own = {"image_token_index": IMAGE_TOKEN, "mm_tokens_per_image": PATCHES, "boi_token_index": 94}
    return Gemma3ForConditionalGeneration(
        Gemma3Config(vision_config=sight, text_config=text, eoi_token_index=95, **own, **changes)
    )


RESOLUTIONS = [[PATCH * GRID, 2 * PATCH * GRID], [2 * PATCH * GRID, PATCH * GRID], [2 * PATCH * GRID] * 2]
"""(height, width) of what the miniature LLaVA-NeXT brings pictures into: of two tiles, or four."""


def _next(text: Any, **changes: Any) -> LlavaNextForConditionalGeneration:
    own = {"image_token_index": IMAGE_TOKEN, "image_grid_pinpoints": RESOLUTIONS}
    return LlavaNextForConditionalGeneration(
        LlavaNextConfig(vision_config=TOWERS["clip"](), text_config=text, **own, **changes)
    )


def _prismatic(projector: str, first: str, *more: str) -> Any:
    def made(text: Any, **changes: Any) -> PrismaticForConditionalGeneration:
        # Of other width and depth than the first encoder.
        others = [{**TOWERS[name]().to_dict(), "hidden_size": 33, "num_hidden_layers": 4} for name in more]
        return PrismaticForConditionalGeneration(
            PrismaticConfig(
                vision_config=TOWERS[first](),
                more_vision_configs=others or None,
                text_config=text,
                image_token_index=IMAGE_TOKEN,
                projector_type=projector,
                **changes,
            )
        )

    return made


JOINED: dict[str, Any] = {
    "paligemma": _paligemma,
    "gemma3": _gemma3,
    "next": _next,
    "prismatic": _prismatic("gelu-mlp", "registers"),
    "prismatic_linear": _prismatic("linear", "clip"),
    "prismatic_fused": _prismatic("fused-gelu-mlp", "registers", "siglip"),
}
"""Classes of their own, in the place of a tower's name."""
PAIRS = [
    ("clip", "gemma"),
    ("dinov2", "llama"),
    ("registers", "qwen2"),
    ("siglip", "phi"),
    ("prismatic", "llama"),
    ("clip", "mistral"),
    ("paligemma", "gemma2"),
    ("gemma3", "gemma3"),
]
"""Every tower and every language model once or more: nothing but the connector is between them."""


def tiny_llava(tower: str = "clip", language: str = "gemma", **changes) -> Any:
    """A model with weights large enough that every part matters to the output."""
    torch.manual_seed(7)
    if tower in JOINED:
        model = JOINED[tower](LANGUAGES[language](), **changes).eval()
    else:
        # SigLIP has no CLS to leave out.
        changes.setdefault("vision_feature_select_strategy", "full" if tower == "siglip" else "default")
        config = LlavaConfig(
            vision_config=TOWERS[tower](), text_config=LANGUAGES[language](), image_token_index=IMAGE_TOKEN, **changes
        )
        model = LlavaForConditionalGeneration(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                parameter.normal_(0, 0.15)
            else:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    model.tie_weights()
    return model


def image_tokens(model) -> int:
    extra = getattr(model.config.vision_config, "num_register_tokens", 0)
    return PATCHES + (extra if model.config.model_type == "llava" else 0)


def tiny_batch(model, *, batch: int = 2, pad: bool = False) -> dict[str, Any]:
    """Prompts of three tokens, an image, and four tokens; `pad` shortens all rows but the first."""
    generator = torch.Generator().manual_seed(11)
    n = image_tokens(model)
    rows, masks = [], []
    for i in range(batch):
        cut = 2 * i if pad else 0
        text = torch.randint(3, IMAGE_TOKEN, (7,), generator=generator).tolist()
        row = [*text[: 3 - min(cut, 2)], *[IMAGE_TOKEN] * n, *text[3:]]
        missing = 7 + n - len(row)
        rows.append([0] * missing + row)
        masks.append([0] * missing + [1] * len(row))
    side = model.config.vision_config.image_size
    pixels = torch.randn(batch, 3 * len(joined.encoders_of(model.config)), side, side, generator=generator)
    given = {"input_ids": torch.tensor(rows), "pixel_values": pixels, "attention_mask": torch.tensor(masks)}
    own = joined.joined_of(model.config)
    if own is not None and own.types is not None:
        given["token_type_ids"] = own.types.of(given["input_ids"] == IMAGE_TOKEN)
    return given


PROMPT = "{bos}Q{images}:{question}= "


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """One token a character of " ".."~", but for `IMAGE_TOKEN`, which "<image>" is."""
    vocabulary = {"<pad>": 0, "<eos>": 1, "<bos>": 2}
    for code in range(ord(" "), ord("~") + 1):
        if len(vocabulary) < IMAGE_TOKEN:
            vocabulary[chr(code)] = len(vocabulary)
    vocabulary["<image>"] = IMAGE_TOKEN
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="<eos>",
        bos_token="<bos>",
        additional_special_tokens=["<image>"],
        padding_side="left",
    )


def tiny_vlm(tower: str = "clip", language: str = "gemma") -> HookedVLM:
    """A hooked tiny model that takes images and text."""
    hf = tiny_llava(tower, language)
    side = hf.config.vision_config.image_size
    processor: Any = CLIPImageProcessor(size={"height": side, "width": side}, do_center_crop=False)
    if tower == "next":
        square = {"height": side, "width": side}
        processor = LlavaNextImageProcessor(
            size={"shortest_edge": side}, crop_size=square, image_grid_pinpoints=RESOLUTIONS
        )
    return HookedVLM(
        hf,
        tokenizer=tiny_tokenizer(),
        preparer=ImagePreparer(processor, pad=True, more=(processor,) * (len(joined.encoders_of(hf.config)) - 1)),
        prompt=PROMPT,
    )


def tiny_language(language: str = "gemma3") -> HookedVLM:
    """A hooked tiny language model without an encoder."""
    torch.manual_seed(5)
    hf = AutoModelForCausalLM.from_config(LANGUAGES[language]()).eval()
    return HookedVLM(hf, tokenizer=tiny_tokenizer())
