"""HookedVLM: a vision-language model whose activations can be read and edited by name."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast
from weakref import WeakSet

import numpy as np
import torch
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor

from vlm_probe.errors import VlmProbeError
from vlm_probe.files import writable
from vlm_probe.hooked import attention
from vlm_probe.hooked.arguments import call_arguments, own_configuration, refuse_adapters
from vlm_probe.hooked.embedding_scale import measure_token_scale
from vlm_probe.hooked.families import families_of
from vlm_probe.hooked.joined import connector_width, encoders_of, habits_of, joined_of, patch_grid, states_read
from vlm_probe.hooked.points import Point
from vlm_probe.hooked.proof import Proof
from vlm_probe.hooked.provenance import in_words, versions, weights_digest
from vlm_probe.hooked.root import GlobHooks
from vlm_probe.hooked.wiring import declare, wire
from vlm_probe.inputs.images import ImageLike, ImagePreparer, open_image
from vlm_probe.inputs.model_inputs import ModelInputs
from vlm_probe.inputs.preparing import Preparer
from vlm_probe.items import Item
from vlm_probe.names import part_of
from vlm_probe.running import answering
from vlm_probe.running.capture import capture as run_capture
from vlm_probe.running.protocol import NamesFilter
from vlm_probe.trace import Trace

_wired: WeakSet[torch.nn.Module] = WeakSet()
"""The Hugging Face models that carry our hooks."""


def _of_inputs(field: str, doc: str) -> Any:
    """A property of a model that its `inputs` hold; setting it gives the model other inputs."""

    def change(model: HookedVLM, value: Any) -> None:
        model.inputs = replace(model.inputs, **{field: value})

    return property(lambda model: getattr(model.inputs, field), change, doc=doc)


class HookedVLM(GlobHooks):
    """A Hugging Face vision-language model with hook points (a TransformerLens `HookedRootModule`).

    The hook points are listed by `model.hook_dict`; their names and dimensions are those of
    TransformerLens behind `vision.`, `connector.` or `language.`. `run_with_cache`,
    `run_with_hooks`, `hooks()` and `add_hook` work as TransformerLens users know them; names may
    also be globs ("language.blocks.*.attn.hook_pattern"), and an unknown name is an error.

    With nothing hooked the model computes what the Hugging Face model computes, bit for bit, except
    for `embed_scale`, and except that vision layers behind the one the connector reads are spared.

    Parameters
    ----------
    hf: a model of a class in `joined.JOINED` (LLaVA, PaliGemma, Gemma 3, Prismatic), or a causal language
        model alone (Gemma, Llama), which has the points of `language.` only and takes no image. `language.hook_logits`
        is what the output layer gives, before Gemma 2's soft cap. It keeps its class; it gains forward hooks and the
        attention implementation "vlm_probe".
    embed_scale: "all" multiplies image rows by sqrt(d_model) as Gemma does with text rows, "text"
        leaves them; None takes the family's default ("all" for gemma and gemma2, else "text").
    tokenizer, preparer: for `prepare` with text and with images; optional.
    name, revision: where the weights came from, for provenance.
    prompt: template with {bos}, {images} and {question}; None takes the family's.

    Raises VlmProbeError for a family that is not supported or an embedding scale that is none.
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
        refuse_adapters(hf)
        if hf in _wired:
            # Hooks on top of hooks would scale the image twice and starve the first wrapper's points.
            raise VlmProbeError(
                f"this {type(hf).__name__} is wrapped in a HookedVLM already; use that one, or load anew"
            )
        text, sight = hf.config.get_text_config(), getattr(hf.config, "vision_config", None)
        (_, language), joined = families_of(hf.config), joined_of(hf.config)
        self.vision, self._seen, self.connector, self.language = declare(hf)
        # Names are given before the Hugging Face model becomes a child, which keeps its own.
        self.setup()
        self.hf, self.text_config, self.vision_config = hf, text, sight
        self.name, self.revision = name, revision
        asked = "{bos}{question}" if joined is None else joined.prompt or language.prompt
        self.inputs = Preparer(
            name=name,
            tokenizer=tokenizer,
            images=preparer,
            prompt=asked if prompt is None else prompt,
            image_token_id=-1 if joined is None else hf.config.image_token_id,
            patches=patch_grid(hf.config),
            context=getattr(text, "max_position_embeddings", None),
            **({} if joined is None else {"types": joined.types, "image_text": joined.image_text}),
        )
        self._read: list[int] | None = None
        self._selected(None)  # its error now
        self.token_scale: float = measure_token_scale(hf, text.hidden_size) if language.scales_tokens else 1.0
        """The factor by which a token's embedding row is multiplied before block 0."""
        self.embed_scale = embed_scale or ("all" if habits_of(hf.config).scales else "text")

        own_configuration(hf)
        hf.set_attn_implementation(attention.IMPLEMENTATION)
        _wired.add(hf)
        wire(hf, self._seen, self.connector, self.language, lambda: self.image_scale, self._last_vision_layer)
        self.proof = Proof(hf, cast(dict[str, Point], self.hook_dict))

    # --- what the model is -------------------------------------------------------------------

    tokenizer = _of_inputs("tokenizer", "The tokenizer, None where there is none.")
    preparer = _of_inputs("images", "What makes pixel tensors of pictures, None where there is no image processor.")
    prompt = _of_inputs("prompt", "The template of prompts, with {bos}, {images} and {question}.")

    @property
    def image_token_id(self) -> int:
        """The placeholder's token id; -1 without an encoder."""
        return self.inputs.image_token_id

    @property
    def layers(self) -> dict[str, int]:
        """How many layers the encoder ("vision"; "vision.0" and so on of several) and the language model have."""
        depth = {part: len(points.blocks) for part, points in {**self._seen, "language": self.language}.items()}
        return depth if self._seen else {"vision": 0, **depth}

    def config_of(self, name: str) -> Any:
        """The Hugging Face configuration of the tower that a hook point, or a part, belongs to."""
        part, towers = part_of(name), {**encoders_of(self.hf.config), "language": None}
        if part not in towers:
            raise VlmProbeError(f"{self.name} has no part {part!r}; it has {', '.join(towers)}")
        return self.text_config if part == "language" else towers[part].config

    @property
    def connector_width(self) -> int:
        """Numbers a row has in the connector's hidden layer."""
        return connector_width(self.hf.config)

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

    @property
    def device(self) -> torch.device:
        return self.hf.device

    @property
    def dtype(self) -> torch.dtype:
        return self.hf.dtype

    def to(self, *args: Any, **kwargs: Any) -> Any:
        """As a torch module's; VlmProbeError for a device that is not there."""
        try:
            return super().to(*args, **kwargs)
        except (RuntimeError, AssertionError) as error:
            raise VlmProbeError(f"{self.name} cannot be moved: {str(error).splitlines()[0]}") from error

    def provenance(self) -> dict[str, Any]:
        """Where results come from: model, revision, dtype, embedding scale, versions."""
        about = {
            "model": self.name,
            "revision": getattr(self.hf.config, "_commit_hash", None) or self.revision,
            "dtype": str(self.dtype).removeprefix("torch."),
            "embed_scale": self.embed_scale,
            "prompt_template": self.prompt,
            "device": str(self.device),
            "versions": dict(versions()),
        }
        return writable(about)

    def weights_digest(self) -> str:
        """Tells models apart whose names are the same, by a sample of their weights."""
        return weights_digest(self.hf)

    @property
    def image_size(self) -> int:
        """Side, in pixels, of the squares the encoder was made for; VlmProbeError without an encoder."""
        if self.vision_config is None:
            raise VlmProbeError(f"{self.name} is a language model without an encoder: it takes no image")
        return self.vision_config.image_size

    def __repr__(self) -> str:
        return in_words(self)

    def __deepcopy__(self, memo: dict[int, Any]) -> HookedVLM:
        raise VlmProbeError("a HookedVLM cannot be copied: its hooks belong to one model; load it a second time")

    # --- running ------------------------------------------------------------------------------

    def forward(
        self,
        input_ids: Int[Tensor, "*batch position"] | ModelInputs | None = None,
        pixel_values: Float[Tensor, "image channel height width"] | None = None,
        attention_mask: Int[Tensor, "*batch cached_and_position"] | None = None,
        *,
        return_type: str | None = "output",
        **kwargs: Any,
    ) -> Any:
        """Run the Hugging Face model and return its "output", its "logits", its "loss" given `labels`, or None.

        Takes tensors (without a batch dimension: a batch of one), or a `ModelInputs` from `prepare`.

        Raises VlmProbeError for an argument that the model does not know, and where a hooked point did not fire.
        """
        if return_type not in ("output", "logits", "loss", None):
            raise VlmProbeError(f"return_type must be 'output', 'logits', 'loss' or None, got {return_type!r}")
        kwargs = call_arguments(self.hf, input_ids, pixel_values, attention_mask, kwargs)
        self._add_types(kwargs)
        if return_type == "loss" and kwargs.get("labels") is None:
            raise VlmProbeError("a loss needs labels: model(inputs, labels=..., return_type='loss')")
        with self._running(kwargs):
            output = self.hf(**kwargs)
        return None if return_type is None else output if return_type == "output" else getattr(output, return_type)

    def generate(self, inputs: ModelInputs | Tensor | None = None, **kwargs: Any) -> Any:
        """Hugging Face `generate`, with the key-value cache and whatever is hooked.

        Returns ids [batch, position], prompt and new ones, or what `return_dict_in_generate=True` says. Hooks see the
        prompt once and then one position a step.
        """
        if isinstance(inputs, ModelInputs):
            kwargs = {**inputs.tensors, **kwargs}
        elif inputs is not None:
            kwargs["input_ids"] = inputs
        self._add_types(kwargs)
        with self._running(kwargs):
            return self.hf.generate(**kwargs)

    def _add_types(self, kwargs: dict[str, Any]) -> None:
        """Give a class `token_type_ids` where nobody did: without them transformers runs another model, unsaid.

        Ids are taken for a prompt; an answer behind it is `ModelInputs.with_answer`'s.
        """
        types, ids, past = self.inputs.types, kwargs.get("input_ids"), kwargs.get("past_key_values")
        goes_on = past is not None and past.get_seq_length() > 0
        if types and ids is not None and not goes_on and kwargs.get("token_type_ids") is None:
            kwargs["token_type_ids"] = types.of(ids == self.image_token_id)

    @contextmanager
    def _running(self, kwargs: dict[str, Any]) -> Iterator[None]:
        """Meanwhile vision layers behind the one the connector reads in this call may be spared."""
        before, self._read = self._read, self._selected(kwargs.get("vision_feature_layer"))
        try:
            with self.proof.of_call():
                yield
        finally:
            self._read = before

    @property
    def vision_layers_read(self) -> int:
        """How many layers of the (first) encoder feed the connector; those behind them change nothing."""
        return self.layers_read(next(iter(self.layers)))

    def layers_read(self, name: str) -> int:
        """How many layers feed what stands behind, of the part that a hook point belongs to."""
        return self._read_in(part_of(name), self._selected(None))

    def _read_in(self, part: str, selected: list[int]) -> int:
        # Hidden state 0 is the embedding, so hidden state i is what i layers made.
        n = self.layers[part]
        return n if part == "language" or not n else max(s if s >= 0 else n + 1 + s for s in selected)

    def _selected(self, asked: int | list[int] | None) -> list[int]:
        return states_read(self.hf.config, asked, self.layers.get("vision", 0))

    def _last_vision_layer(self, part: str) -> int | None:
        """Index of the last layer of an encoder that is read; None where none may be spared (0 takes what is read)."""
        read = self._read_in(part, self._read) if self._read else 0
        return read - 1 if read else None

    # --- inputs and plain verbs ---------------------------------------------------------------

    def prepare(
        self,
        image: ImageLike | list[ImageLike] | list[ImageLike | None] | list[list[ImageLike]] | None,
        question: str | list[str],
    ) -> ModelInputs:
        """Make tensors and layouts from an image and a question.

        image: whatever `inputs.images.open_image` takes (a path, a URL, a PIL image, an array, a tensor, bytes); a
            list of those puts several images into one prompt. With a list of questions: a list with one image (or one
            list of images) for each, and the result is a left-padded batch. None asks without an image.
        question: text, or a list of texts.

        Raises VlmProbeError for an empty question, an image that cannot be read, and a model
        without tokenizer or image processor.
        """
        return self.inputs.prepare(image, question).to(self.device, self.dtype)

    def prepare_tensors(
        self,
        input_ids: Int[Tensor, "batch position"],
        pixel_values: Float[Tensor, "image channel height width"] | None = None,
        attention_mask: Int[Tensor, "batch position"] | None = None,
        image_sizes: Int[Tensor, "picture two"] | None = None,
    ) -> ModelInputs:
        """Layouts for tensors made elsewhere (image tokens expanded); needs no tokenizer or processor.

        As `Preparer.prepare_tensors`. Raises VlmProbeError where placeholders and images do not add up.
        """
        made = self.inputs.prepare_tensors(input_ids, pixel_values, attention_mask, image_sizes)
        return made.to(self.device, self.dtype)

    def token_strings(self, ids: Int[np.ndarray, " position"] | list[int]) -> tuple[str, ...]:
        """Tokens as readable text, or nothing where the model has no tokenizer."""
        return self.inputs.token_strings(ids)

    def picture(self, item: Item) -> Image.Image:
        """An item's picture as this model is shown it: drawn at the encoder's size, or read from its file.

        Raises VlmProbeError without an encoder, and for an image that is missing or cannot be read.
        """
        return open_image(item.picture(self.image_size))

    def trace(
        self,
        image: ImageLike | list[ImageLike] | ModelInputs | None,
        question: str | None = None,
        *,
        capture: NamesFilter = ("*.hook_pattern",),
    ) -> Trace:
        """Run once and keep the activations that `capture` names (globs).

        `image` may be a `ModelInputs` of one example, in place of image and question.

        Raises VlmProbeError for unknown names and, before running, where the capture does not fit into memory.
        """
        inputs = image if isinstance(image, ModelInputs) else self.prepare(image, question or "")
        return run_capture(self, inputs, self.match(capture, image=inputs.pixel_values is not None))

    @property
    def suppressed_tokens(self) -> list[int]:
        """Ids that the checkpoint's generation settings never let be said."""
        return list(self.hf.generation_config.suppress_tokens or [])

    @property
    def answer_ends(self) -> set[int]:
        """Ids of the tokens that end an answer."""
        ends = self.hf.generation_config.eos_token_id
        ends = set(ends if isinstance(ends, list) else [ends])
        if self.tokenizer is not None:
            # Gemma's chat format ends a turn with a token that is no eos.
            ends.add(self.tokenizer.convert_tokens_to_ids("<end_of_turn>"))
        return ends - {None}

    def answer_tokens(self, inputs: ModelInputs, *, max_new_tokens: int = 16) -> list[list[int]]:
        """Greedily decoded ids of every example, up to and without the end of the answer."""
        return answering.answer_tokens(self, inputs, max_new_tokens)

    def answer_all(
        self, images: Sequence[ImageLike | None], questions: list[str], *, max_new_tokens: int = 16
    ) -> list[str]:
        """Answer several questions, each about its own image (or none), in one left-padded batch."""
        return answering.answer_all(self, images, questions, max_new_tokens)

    def answer(self, image: ImageLike | None, question: str, *, max_new_tokens: int = 16) -> str:
        """Answer a question by greedy decoding.

        Raises as `prepare` does.
        """
        return self.answer_all([image], [question], max_new_tokens=max_new_tokens)[0]

    def save_pretrained(self, folder: Path | str) -> None:
        """Write weights, configuration, tokenizer and image processor, as a checkpoint that `vlm_probe.load` opens."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self.hf.save_pretrained(folder)
        if self.tokenizer is not None:
            self.tokenizer.save_pretrained(folder)
        if self.preparer is not None:
            self.preparer.save(folder)
