"""Prismatic VLMs (Karamcheti et al. 2024, arXiv:2402.07865) as a class beside transformers' own, which has none.

One encoder, or two whose patches are put side by side feature by feature ("fused": DINOv2 and SigLIP); a connector of
one, two or three layers; a language model. Written after the paper's section 3 and appendix, to be run and saved as
transformers' classes are.
"""

from __future__ import annotations

from typing import Any, no_type_check

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForImageTextToText,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaModel,
)
from transformers.modeling_outputs import BaseModelOutputWithPooling

PROJECTORS = ("linear", "gelu-mlp", "fused-gelu-mlp")
"""Connectors, as `arch_specifier` ends: of one layer, two, and three."""


@no_type_check  # transformers' `__init__` takes more than it says
class PrismaticConfig(LlavaConfig):
    """As a LLaVA configuration; `vision_config` is the first encoder's."""

    model_type = "prismatic"

    projector_type: str = "gelu-mlp"
    """One of `PROJECTORS`."""
    more_vision_configs: list[dict[str, Any]] | None = None
    """Of the encoders behind the first."""

    @property
    def vision_configs(self) -> list[Any]:
        """Of all encoders, in the order in which their features stand."""
        more = [dict(one) for one in self.more_vision_configs or []]
        return [self.vision_config, *(AutoConfig.for_model(one.pop("model_type"), **one) for one in more)]


class Encoders(nn.Module):
    """Encoders side by side: of each the patches behind its last layer but one, without norm, CLS and registers."""

    def __init__(self, config: Any):
        super().__init__()
        self.config = config
        self.towers = nn.ModuleList(AutoModel.from_config(one) for one in config.vision_configs)

    def forward(
        self, pixel_values: Float[Tensor, "image channels height width"], **kwargs: Any
    ) -> Float[Tensor, "image patch features"]:
        """pixel_values: three channels an encoder, each normalised as that encoder has it."""
        own = pixel_values.unflatten(1, (len(self.towers), -1))
        found = []
        for number, encoder in enumerate(self.towers):
            tower: Any = encoder
            pixels, side = own[:, number], tower.config.patch_size
            patches = (pixels.shape[-2] // side) * (pixels.shape[-1] // side)
            states = tower(pixels, output_hidden_states=True, return_dict=True).hidden_states
            found.append(states[-2][:, -patches:])
        return torch.cat(found, dim=-1)


class Projector(nn.Module):
    """Linear layers with exact GELUs between them: "linear" one, "gelu-mlp" two, "fused-gelu-mlp" three."""

    def __init__(self, config: Any):
        super().__init__()
        into, out = sum(one.hidden_size for one in config.vision_configs), config.text_config.hidden_size
        widths = {"linear": [out], "gelu-mlp": [out, out], "fused-gelu-mlp": [4 * into, out, out]}
        self.act = nn.GELU()
        self.depth = len(widths[config.projector_type])
        for number, width in enumerate(widths[config.projector_type]):
            setattr(self, f"linear_{number + 1}", nn.Linear(into, width))
            into = width

    def forward(self, x: Float[Tensor, "image patch features"]) -> Float[Tensor, "image patch d_model"]:
        for number in range(self.depth):
            x = getattr(self, f"linear_{number + 1}")(self.act(x) if number else x)
        return x


class PrismaticModel(LlavaModel):
    config_class = PrismaticConfig

    def __init__(self, config: Any):
        # Not LLaVA's own, which makes an encoder and a connector of its kind.
        super(LlavaModel, self).__init__(config)
        self.vision_tower = Encoders(config)
        self.multi_modal_projector = Projector(config)
        self.language_model = AutoModel.from_config(config.text_config)
        self.post_init()

    def get_image_features(self, pixel_values: Tensor, **kwargs: Any) -> Any:
        read = self.vision_tower(pixel_values)
        found: Any = list(self.multi_modal_projector(read))  # an image each, as LLaVA has them
        return BaseModelOutputWithPooling(last_hidden_state=read, pooler_output=found)


class PrismaticForConditionalGeneration(LlavaForConditionalGeneration):
    config_class = PrismaticConfig

    def __init__(self, config: Any):
        super(LlavaForConditionalGeneration, self).__init__(config)
        self.model = PrismaticModel(config)
        self.lm_head = nn.Linear(config.text_config.hidden_size, config.text_config.vocab_size, bias=False)
        self.post_init()


AutoConfig.register(PrismaticConfig.model_type, PrismaticConfig, exist_ok=True)
AutoModelForImageTextToText.register(PrismaticConfig, PrismaticForConditionalGeneration, exist_ok=True)
