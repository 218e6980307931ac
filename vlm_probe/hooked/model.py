"""HookedVLM: a LLaVA model whose activations can be read and edited by name."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from typing import Any, Literal
from weakref import WeakSet

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens import HookedRootModule
from transformer_lens.hook_points import HookPoint

from vlm_probe.errors import VlmProbeError, nearest
from vlm_probe.hooked import attention
from vlm_probe.hooked.families import LANGUAGE, VISION, family
from vlm_probe.hooked.points import ConnectorPoints, LanguagePoints, TowerPoints
from vlm_probe.hooked.provenance import describe, provenance_of
from vlm_probe.hooked.wiring import layers_of, wire_connector, wire_language, wire_skipping, wire_tower
from vlm_probe.inputs.images import ImageLike, ImagePreparer
from vlm_probe.inputs.preparing import ModelInputs, prepare, prepare_tensors
from vlm_probe.inputs.prompts import PROMPTS, token_text
from vlm_probe.running.capture import capture as run_capture
from vlm_probe.trace import Trace

NamesFilter = str | Iterable[str] | Callable[[str], bool] | None


_wired: WeakSet[torch.nn.Module] = WeakSet()
"""The Hugging Face models that carry our hooks."""


class HookedVLM(HookedRootModule):
    """A Hugging Face LLaVA model with hook points (a TransformerLens `HookedRootModule`).

    The hook points are listed by `model.hook_dict`; their names and dimensions are those of
    TransformerLens behind `vision.`, `connector.` or `language.`. `run_with_cache`,
    `run_with_hooks`, `hooks()` and `add_hook` work as TransformerLens users know them; names may
    also be globs ("language.blocks.*.attn.hook_pattern"), and an unknown name is an error.

    With nothing hooked the model computes what the Hugging Face model computes, bit for bit, except
    for `embed_scale`, and except that vision layers behind the one the connector reads are spared.

    Parameters
    ----------
    hf: a `LlavaForConditionalGeneration`, or a causal language model alone (Gemma, Llama), which then has
        the points of `language.` only and takes no image (`language.hook_logits` is what its output layer
        gives, before Gemma 2's soft cap). It keeps its class; it gains forward hooks and the
        attention implementation "vlm_probe".
    embed_scale: "all" multiplies image rows by sqrt(d_model) as Gemma does with text rows, "text"
        leaves them; None takes the family's default ("all" for gemma and gemma2, else "text").
    tokenizer: for `prepare` with text; optional.
    preparer: for `prepare` with images; optional.
    name, revision: where the weights came from, for provenance.
    prompt: template with {bos}, {images} and {question}; None takes the family's.

    Raises
    ------
    VlmProbeError: for a family that is not supported or an embedding scale that is none.
    """

    def __init__(
        self,
        hf: Any,
        *,
        embed_scale: str | None = None,
        tokenizer: Any = None,
        preparer: ImagePreparer | None = None,
        name: str = "model",
        revision: str | None = None,
        prompt: str | None = None,
    ):
        super().__init__()
        if hf in _wired:
            # Hooks on top of hooks would scale the image twice and starve the first wrapper's points.
            raise VlmProbeError(
                f"this {type(hf).__name__} is wrapped in a HookedVLM already; use that one, or load anew"
            )
        text, sight = hf.config.get_text_config(), getattr(hf.config, "vision_config", None)
        language = family(LANGUAGE, text.model_type, "a language model")
        language_tower = hf.model if sight is None else hf.model.language_model
        self.language = LanguagePoints(len(layers_of(language_tower, language)))
        vision = None if sight is None else family(VISION, sight.model_type, "a vision encoder")
        if vision is not None:
            self.vision = TowerPoints(len(layers_of(hf.model.vision_tower, vision)))
            self.connector = ConnectorPoints()
        # Names are given before the Hugging Face model becomes a child, which keeps its own.
        self.setup()
        if vision is None:
            # Without layers, and not declared: a language model alone has nothing there to hook.
            self.vision, self.connector = TowerPoints(0), ConnectorPoints()
        self.hf, self.text_config, self.vision_config = hf, text, sight
        self.tokenizer, self.preparer = tokenizer, preparer
        self.name, self.revision = name, revision
        self.prompt = (
            prompt if prompt is not None else PROMPTS[text.model_type] if sight is not None else "{bos}{question}"
        )
        self._read: int | None = None
        self.token_scale: float = self._measure_token_scale() if language.scales_tokens else 1.0
        """The factor by which a token's embedding row is multiplied before block 0."""
        self.embed_scale = embed_scale or ("all" if language.scales_images and vision is not None else "text")

        hf.set_attn_implementation(attention.IMPLEMENTATION)
        if vision is not None and sight is not None:
            tower = hf.model.vision_tower
            wire_tower(tower, self.vision, vision, d_head=sight.hidden_size // sight.num_attention_heads)
            wire_skipping(tower, self.vision, vision, self._last_vision_layer)
            wire_connector(hf.model.multi_modal_projector, self.connector, lambda: self.image_scale)
        d_head = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        _wired.add(hf)
        wire_language(language_tower, hf.lm_head, self.language, language, d_head=d_head)

    # --- what the model is -------------------------------------------------------------------

    @property
    def embed_scale(self) -> str:
        """Which rows the embedding scale reaches: "all" or "text"."""
        return self._embed_scale

    @embed_scale.setter
    def embed_scale(self, value: str) -> None:
        if value not in ("all", "text"):
            raise VlmProbeError(f"embed_scale must be 'all' or 'text', got {value!r}")
        self._embed_scale = value

    @property
    def image_scale(self) -> float:
        """The factor on the connector's output: sqrt(d_model) under "all", else 1."""
        return self.token_scale if self._embed_scale == "all" else 1.0

    def _measure_token_scale(self) -> float:
        """The factor by which the installed transformers scales a token's embedding row, measured.

        No version is assumed: where the language model scales its inputs itself, image rows
        included, the factor measured here is 1 and nothing must be added.
        """
        embedding = self.hf.get_input_embeddings()
        weight = embedding.weight
        row = int(weight[: min(len(weight), 64)].float().abs().sum(-1).argmax())
        with torch.no_grad():
            embedded = embedding(torch.tensor([row], device=weight.device))[0].float()
            ratio = float(embedded.norm() / weight[row].float().norm())
        full = self.text_config.hidden_size**0.5
        return full if abs(ratio / full - 1) < 0.02 else 1.0

    @property
    def device(self) -> torch.device:
        return self.hf.device

    @property
    def dtype(self) -> torch.dtype:
        return self.hf.dtype

    def provenance(self) -> dict[str, Any]:
        """Where results come from: model, revision, dtype, embedding scale, versions."""
        return provenance_of(self)

    @property
    def image_size(self) -> int:
        """Side, in pixels, of the square images the encoder was made for; VlmProbeError without an encoder."""
        if self.vision_config is None:
            raise VlmProbeError(f"{self.name} is a language model without an encoder: it takes no image")
        return self.vision_config.image_size

    @property
    def image_token_id(self) -> int:
        """The placeholder's token id; -1 without an encoder."""
        return -1 if self.vision_config is None else self.hf.config.image_token_id

    def __repr__(self) -> str:
        return describe(self)

    def __deepcopy__(self, memo: dict[int, Any]) -> HookedVLM:
        raise VlmProbeError("a HookedVLM cannot be copied: its hooks belong to one model; load it a second time")

    # --- running ------------------------------------------------------------------------------

    def forward(
        self,
        input_ids: Int[Tensor, "batch position"] | ModelInputs | None = None,
        pixel_values: Float[Tensor, "image channel height width"] | None = None,
        attention_mask: Int[Tensor, "batch cached_and_position"] | None = None,
        *,
        return_type: Literal["output", "logits", "loss"] = "output",
        **kwargs: Any,
    ) -> Any:
        """Run the Hugging Face model and return its output (or its logits, or its loss given `labels`).

        Takes tensors, or a `ModelInputs` from `prepare`.
        """
        if isinstance(input_ids, ModelInputs):
            kwargs = {**input_ids.tensors, **kwargs}
        else:
            given = {"input_ids": input_ids, "pixel_values": pixel_values, "attention_mask": attention_mask}
            kwargs = {**{k: v for k, v in given.items() if v is not None}, **kwargs}
        with self._running(kwargs):
            output = self.hf(**kwargs)
        return output if return_type == "output" else getattr(output, return_type)

    def generate(self, inputs: ModelInputs | Tensor | None = None, **kwargs: Any) -> Int[Tensor, "batch position"]:
        """Hugging Face `generate`, with the key-value cache and whatever is hooked.

        Returns prompt and new tokens. Hooks see the prompt once and then one position a step.
        """
        if isinstance(inputs, ModelInputs):
            kwargs = {**inputs.tensors, **kwargs}
        elif inputs is not None:
            kwargs["input_ids"] = inputs
        with self._running(kwargs):
            return self.hf.generate(**kwargs)

    @contextmanager
    def _running(self, kwargs: dict[str, Any]) -> Iterator[None]:
        """Meanwhile vision layers behind the one the connector reads in this call may be spared."""
        before, self._read = self._read, self._layers_read(kwargs.get("vision_feature_layer"))
        try:
            yield
        finally:
            self._read = before

    @property
    def vision_layers_read(self) -> int:
        """How many vision layers feed the connector; those behind them change nothing."""
        return self._layers_read(None)

    def _layers_read(self, selected: int | list[int] | None) -> int:
        if self.vision_config is None:
            return 0
        chosen: Any = self.hf.config.vision_feature_layer if selected is None else selected
        n = len(self.vision.blocks)
        states: list[int] = chosen if isinstance(chosen, list) else [chosen]
        # Hidden state 0 is the embedding, so hidden state i is what i layers made.
        return max(s if s >= 0 else n + 1 + s for s in states)

    def _last_vision_layer(self) -> int | None:
        """Index of the last vision layer that is read; None outside our own run."""
        return None if self._read is None else self._read - 1

    # --- hooks --------------------------------------------------------------------------------

    def match(self, names: NamesFilter) -> list[str]:
        """Hook names that a name, globs or a predicate select, in the order of `hook_dict`.

        Raises VlmProbeError for a name or glob that matches nothing; it lists the nearest names.
        """
        if names is None:
            return list(self.hook_dict)
        if callable(names):
            return [name for name in self.hook_dict if names(name)]
        patterns = [names] if isinstance(names, str) else list(names)
        chosen: set[str] = set()
        for pattern in patterns:
            hits = [n for n in self.hook_dict if n == pattern or fnmatchcase(n, pattern)]
            if not hits:
                raise VlmProbeError(
                    f"no hook point {pattern!r}; nearest are {nearest(pattern, self.hook_dict)} (all: model.hook_dict)"
                )
            chosen.update(hits)
        return [name for name in self.hook_dict if name in chosen]

    def _each(self, hooks: Iterable[tuple[Any, Callable]]) -> list[tuple[Any, Callable]]:
        return [(name, hook) for names, hook in hooks for name in self.match(names)]

    @contextmanager
    def hooks(self, fwd_hooks=(), bwd_hooks=(), reset_hooks_end=True, clear_contexts=False):
        """As in TransformerLens; names may be globs, and every name is checked before any hook is added."""
        fwd, bwd = self._each(fwd_hooks), self._each(bwd_hooks)
        with super().hooks(fwd, bwd, reset_hooks_end, clear_contexts):
            yield self

    def add_hook(self, name: Any, hook: Callable, *args: Any, **kwargs: Any) -> None:
        """As in TransformerLens; the name may be a glob and is checked."""
        for one in self.match(name):
            super().add_hook(one, hook, *args, **kwargs)

    def get_caching_hooks(self, names_filter: NamesFilter = None, *args: Any, **kwargs: Any):
        """As in TransformerLens; names may be globs and are checked."""
        return super().get_caching_hooks(self.match(names_filter), *args, **kwargs)

    def add_caching_hooks(self, names_filter: NamesFilter = None, *args: Any, **kwargs: Any) -> dict:
        """As in TransformerLens; names may be globs and are checked."""
        return super().add_caching_hooks(self.match(names_filter), *args, **kwargs)

    def point(self, name: str) -> HookPoint:
        """One hook point by its exact name."""
        return self.hook_dict[self.match(name)[0]]

    # --- inputs and plain verbs ---------------------------------------------------------------

    def prepare(
        self,
        image: ImageLike | list[ImageLike] | list[ImageLike | None] | list[list[ImageLike]] | None,
        question: str | list[str],
    ) -> ModelInputs:
        """Make tensors and layouts from an image and a question.

        image: a path, PIL image or uint8 array; a list of those puts several images into one
            prompt. With a list of questions: a list with one image (or one list of images) for
            each, and the result is a left-padded batch. None asks without an image.
        question: text, or a list of texts.

        Raises VlmProbeError for an empty question, an image that cannot be read, and a model
        without tokenizer or image processor.
        """
        return prepare(self, image, question)

    def prepare_tensors(
        self,
        input_ids: Int[Tensor, "batch position"],
        pixel_values: Float[Tensor, "image channel height width"] | None = None,
        attention_mask: Int[Tensor, "batch position"] | None = None,
    ) -> ModelInputs:
        """Layouts for tensors made elsewhere (image tokens expanded); needs no tokenizer or processor.

        Raises VlmProbeError where placeholders and images do not add up.
        """
        return prepare_tensors(self, input_ids, pixel_values, attention_mask)

    def token_strings(self, ids: Int[np.ndarray, " position"] | list[int]) -> tuple[str, ...]:
        """Tokens as readable text, or nothing where the model has no tokenizer."""
        if self.tokenizer is None:
            return ()
        return tuple(token_text(self.tokenizer, int(i)) for i in ids)

    def trace(
        self,
        image: ImageLike | list[ImageLike] | ModelInputs | None,
        question: str | None = None,
        *,
        capture: NamesFilter = ("*.hook_pattern",),
    ) -> Trace:
        """Run once and keep the activations that `capture` names (globs).

        `image` may be a `ModelInputs` of one example, in place of image and question.

        Raises VlmProbeError for unknown names and, before running, where the capture does not fit
        into memory.
        """
        inputs = image if isinstance(image, ModelInputs) else self.prepare(image, question or "")
        return run_capture(self, inputs, self.match(capture))

    @property
    def answer_ends(self) -> set[int]:
        """Ids of the tokens that end an answer."""
        ends = self.hf.generation_config.eos_token_id
        ends = set(ends if isinstance(ends, list) else [ends])
        if self.tokenizer is not None:
            # Gemma's chat format ends a turn with a token that is no eos.
            ends.add(self.tokenizer.convert_tokens_to_ids("<end_of_turn>"))
        return ends - {None}

    @torch.no_grad()
    def answer_tokens(self, inputs: ModelInputs, *, max_new_tokens: int = 16) -> list[list[int]]:
        """Greedily decoded ids of every example, up to and without the end of the answer."""
        ends = self.answer_ends
        out = self.generate(
            inputs, max_new_tokens=max_new_tokens, do_sample=False, eos_token_id=sorted(ends) or None,
            pad_token_id=self.text_config.pad_token_id or 0,
        )  # fmt: skip
        new = out[:, inputs.input_ids.shape[1] :].tolist()
        return [row[: next((i for i, t in enumerate(row) if t in ends), len(row))] for row in new]

    def answer_all(
        self, images: Sequence[ImageLike | None], questions: list[str], *, max_new_tokens: int = 16
    ) -> list[str]:
        """Answer several questions, each about its own image (or none), in one left-padded batch."""
        if max_new_tokens < 1:
            raise VlmProbeError(f"max_new_tokens must be at least 1, got {max_new_tokens}")
        tokens = self.answer_tokens(self.prepare(list[Any](images), questions), max_new_tokens=max_new_tokens)
        return [self.tokenizer.decode(row, skip_special_tokens=True).strip() for row in tokens]

    def answer(self, image: ImageLike | None, question: str, *, max_new_tokens: int = 16) -> str:
        """Answer a question by greedy decoding.

        Raises as `prepare` does.
        """
        return self.answer_all([image], [question], max_new_tokens=max_new_tokens)[0]
