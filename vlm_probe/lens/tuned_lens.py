"""A tuned lens: one affine translator a layer, trained to say early what the model says in the end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd
import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from vlm_probe.errors import VlmProbeError
from vlm_probe.files import make_folder, replacing, writing
from vlm_probe.hooked import HookedVLM
from vlm_probe.hooked.anatomy import final_norm
from vlm_probe.hooked.anatomy import head as head_of
from vlm_probe.hooked.targets import frozen
from vlm_probe.items.item import Item


class TunedLens(nn.Module):
    """h + A h + b behind every layer but the last (Belrose et al. 2023, arXiv:2303.08112, equation 6).

    Untrained it is the logit lens. Give it to `lens(..., translate=tuned)`.
    """

    def __init__(self, layers: int, width: int):
        super().__init__()
        self.width = width
        self.translators = nn.ModuleList(nn.Linear(width, width) for _ in range(layers - 1))
        for translator in self.translators:
            for parameter in translator.parameters():
                nn.init.zeros_(parameter)

    def forward(self, h: Float[Tensor, "position d_model"], layer: int) -> Float[Tensor, "position d_model"]:
        """Rows behind a layer as the last layer's; VlmProbeError for rows or a layer that it was not made for."""
        if layer == len(self.translators):
            return h
        if layer > len(self.translators) or h.shape[-1] != self.width:
            raise VlmProbeError(
                f"this tuned lens is of {len(self.translators) + 1} layers of {self.width} features, it was given "
                f"{h.shape[-1]} features behind layer {layer}: take the model it was trained on"
            )
        translator = self.translators[layer]
        # In float32 whatever the model's dtype, and where the rows are.
        return h + translator.to(h.device)(h.float()).to(h.dtype)

    def save(self, path: Path | str) -> None:
        """Write the weights (safetensors), whole or not at all; VlmProbeError where they cannot be written."""
        path = Path(path)
        make_folder(path.absolute().parent)
        with writing(path), replacing(path) as partial:
            save_file({name: value.contiguous() for name, value in self.state_dict().items()}, partial)

    @classmethod
    def load(cls, path: Path | str, *, model: HookedVLM | None = None) -> TunedLens:
        """Read what `save` wrote.

        model: that it will be used with.

        Raises VlmProbeError where the file is not there or is no tuned lens, and where it is one of another size than
        the model.
        """
        path = Path(path)
        if not path.is_file():
            raise VlmProbeError(f"cannot read {path}: {'it is a folder' if path.is_dir() else 'no such file'}")
        try:
            weights = load_file(path)
        except (SafetensorError, OSError) as error:
            raise VlmProbeError(f"{path} holds no tuned lens: it is no safetensors file ({error})") from error
        if "translators.0.weight" not in weights:
            raise VlmProbeError(f"{path} holds no tuned lens: it has no translators.0.weight")
        lens = cls(len(weights) // 2 + 1, *weights["translators.0.weight"].shape[-1:] or (1,))
        expected = {name: tuple(value.shape) for name, value in lens.state_dict().items()}
        got = {name: tuple(value.shape) for name, value in weights.items()}
        if wrong := sorted(name for name in expected | got if expected.get(name) != got.get(name)):
            name = wrong[0]
            raise VlmProbeError(
                f"{path} holds no tuned lens: {name} is {_shape(got.get(name))}, expected {_shape(expected.get(name))}"
            )
        lens.load_state_dict(weights)
        if model is not None:
            count, width = len(model.language.blocks), model.text_config.hidden_size
            if (len(lens.translators) + 1, lens.width) != (count, width):
                raise VlmProbeError(
                    f"{path} is a tuned lens of {len(lens.translators) + 1} layers of {lens.width} features, "
                    f"{model.name} has {count} of {width}: train one with train_tuned_lens"
                )
        return lens.eval().requires_grad_(False)


def _shape(size: tuple[int, ...] | None) -> str:
    return "not there" if size is None else "x".join(map(str, size))


def train_tuned_lens(
    model: HookedVLM,
    items: Sequence[Item],
    *,
    steps: int = 250,
    batch_size: int = 8,
    rows: int = 256,
    learning_rate: float = 1e-3,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> tuple[TunedLens, pd.DataFrame]:
    """Train translators on a model's own residual streams; the model stays as it is.

    Parameters
    ----------
    items: questions (about images, where the model has an encoder), drawn anew every step.
    rows: positions of a batch that a step learns from.
    progress: called with 1 after every step.

    Returns
    -------
    The lens, and its log: one row a step, columns step and one for every layer (mean KL(final || layer), nats).

    Deviation: Adam and a cosine schedule, where the paper has SGD with Nesterov momentum.

    Raises VlmProbeError without items.
    """
    if not items:
        raise VlmProbeError("there is no item to train a lens on")
    count, width = len(model.language.blocks), model.text_config.hidden_size
    lens = TunedLens(count, width).to(model.device)
    names = [f"language.blocks.{i}.hook_resid_post" for i in range(count)]
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(lens.parameters(), lr=learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    norm, head, log = final_norm(model), head_of(model), []
    with frozen(model):
        for step in range(steps):
            picked = torch.randint(len(items), (batch_size,), generator=generator).tolist()
            batch = [items[i] for i in picked]
            seen = model.vision_config is not None
            inputs = model.prepare(
                [model.picture(item) if seen else None for item in batch],
                [item.question for item in batch],
            )
            with torch.no_grad():
                _, cache = model.run_with_cache(inputs, names_filter=names, logits_to_keep=1)
                live = inputs.attention_mask.bool().flatten().nonzero().flatten()
                chosen = live[torch.randperm(len(live), generator=generator)[:rows].to(live.device)]
                streams = [cache[name].flatten(0, 1)[chosen] for name in names]
                target = head(norm(streams[-1])).float().log_softmax(-1)
            losses = []
            for layer, stream in enumerate(streams[:-1]):
                said = head(norm(lens(stream, layer))).float().log_softmax(-1)
                loss = (target.exp() * (target - said)).sum(-1).mean()
                loss.backward()  # layer by layer: one distribution is held at a time
                losses.append(float(loss.detach()))
            nn.utils.clip_grad_norm_(lens.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad(set_to_none=True)
            log.append({"step": step, **{f"layer {i}": loss for i, loss in enumerate(losses)}})
            if progress is not None:
                progress(1)
    return lens.eval().requires_grad_(False), pd.DataFrame(log)
