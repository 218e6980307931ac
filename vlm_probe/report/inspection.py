"""`vlm-probe inspect`: a question, its answers by one model or several, and one page on where they came from."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
import torch
import xarray as xr
from markupsafe import Markup
from PIL import Image

from vlm_probe.attention import blanking, encoder_attention, head_summary, image_attention, per_token, sinks
from vlm_probe.attention.answer_maps import able
from vlm_probe.causal.knockout import default_window
from vlm_probe.errors import VlmProbeError, VlmProbeWarning
from vlm_probe.explorer import SHOWN, embedded, look
from vlm_probe.explorer.looking import CAPTURED
from vlm_probe.figures import head_grid, layer_strip, overlay
from vlm_probe.figures.style import styled
from vlm_probe.figures.tables import visible
from vlm_probe.figures.tokens import token_strip
from vlm_probe.hooked import HookedVLM, ModelInputs
from vlm_probe.inputs.images import ImageLike, open_image
from vlm_probe.layout.groups import Where
from vlm_probe.lens.contextual_lens import Bank, build_bank
from vlm_probe.report.page import figure_uri, image_uri, rows_of, write_page
from vlm_probe.scenes import sample_scene
from vlm_probe.scenes.familiarity import unfamiliar
from vlm_probe.trace import Trace
from vlm_probe.zoo.catalog import FUSIONS

MAX_TOKENS_SHOWN = 8
"""Relevancy is drawn for so many answer tokens; a long answer says how many were left out."""
SMALL = 5e8
"""Parameters times positions times answer tokens, up to which the explorer shows what takes many runs, too: that is
some seconds on one core."""
CAPTIONS = 200
"""Of generated scenes, whose words are a replica's bank of texts."""
DRAWS = 3
"""Of random edges, the control of what is knocked out."""
OPERATIONS = 2e12
"""Of the logit lens, at most, without a GPU: about a minute on two cores."""
_SPARED = "it takes {} for this model here: vlm_probe.explore(inputs, model) in Python makes it"


@dataclass
class Looked:
    """What one model says about one picture."""

    model: str
    image: str
    """The picture's name."""
    answer: str
    answer_ids: list[int]
    top: pd.DataFrame
    """Columns token, probability: the most probable first tokens."""
    blanked: pd.DataFrame | None
    """What `attention.blanking` found for the relevancy of the first token; None for an empty answer."""
    notes: list[str]
    """Why the answer is not to be trusted, where that is known."""


@dataclass
class Inspection:
    """What `inspect` found."""

    looked: list[Looked]
    """Every picture by every model, model by model."""
    page: Path

    @property
    def answer(self) -> str:
        """The first model's answer about the first picture."""
        return self.looked[0].answer

    @property
    def answer_ids(self) -> list[int]:
        return self.looked[0].answer_ids

    @property
    def top(self) -> pd.DataFrame:
        return self.looked[0].top


def top_tokens(model: HookedVLM, logits: torch.Tensor, n: int = 8) -> pd.DataFrame:
    """The most probable tokens of a logits row: columns token (a space before it shown), probability."""
    values, ids = logits.float().softmax(-1).topk(n)
    return pd.DataFrame({"token": map(visible, model.token_strings(ids.tolist())), "probability": values.tolist()})


@dataclass
class _Tokens:
    """What is drawn of an answer's tokens."""

    pictures: list[dict[str, Any]]
    """A figure for every token."""
    strip: str | None
    """All of them side by side; None for an answer of one token."""
    first: xr.DataArray | None
    """The first token's map over what the language model received; None for an empty answer."""
    maps: dict[str, xr.DataArray]
    """By name, as `explorer.look` takes them: of every token, over (row, col)."""


def _tokens(model: HookedVLM, inputs: ModelInputs, answer_ids: list[int], progress: Callable[[int], None]) -> _Tokens:
    """Relevancy of every answer token, over what the language model received and through the encoder."""
    shown = answer_ids[:MAX_TOKENS_SHOWN]
    if not shown:
        return _Tokens([], None, None, {})
    image = inputs.images[0][0]
    received = per_token(model, inputs, tokens=shown)
    maps = {"relevancy": received}
    for name in able(model, ["relevancy through the encoder"]):
        known = received.probability.values.tolist()
        maps[name] = per_token(model, inputs, map=name, tokens=shown, probability=known, progress=progress)
    titles = ("language model", "through the encoder")[: len(maps)]
    pictures = []
    for i, text in enumerate(received.token.values.tolist()):
        with styled():
            figure, axes = plt.subplots(
                1, len(maps), figsize=(4.1 * len(maps), 3.8), layout="constrained", squeeze=False
            )
            for ax, maps_, title in zip(axes[0], maps.values(), titles, strict=True):
                overlay(image, maps_.isel(token=i, drop=True), ax, title=f"Relevancy, {title}")
        sure = f"{float(received.probability[i]):.3f}"
        pictures.append({"token": visible(text), "probability": sure, "uri": figure_uri(figure)})
    strip = figure_uri(token_strip(image, received)) if len(shown) > 1 else None
    return _Tokens(pictures, strip, received.isel(token=0, drop=True), maps)


def said_of_blanking(table: pd.DataFrame) -> str:
    """One sentence about a table of `attention.blanking`."""
    before, highest = table["probability"].iloc[:2]
    random = table.loc[table["what"] == "random", "change"]
    change, count = table["change"].iloc[1], table["patches"].iloc[1]
    as_much = int((random <= change).sum())
    return (
        f"Without the {count} most relevant patches (in the picture's mean colour) the token's probability goes from "
        f"{before:.3f} to {highest:.3f} ({change:+.3f}); without as many random ones it changes by "
        f"{random.mean():+.3f} on average ({random.min():+.3f} to {random.max():+.3f}, {len(random)} draws), and falls "
        f"as far in {as_much} of them."
    )


def trained_on_scenes(name: str) -> bool:
    return name.startswith("replica") or name in FUSIONS


def inspect(
    model: HookedVLM | Iterable[HookedVLM],
    image: ImageLike | Sequence[ImageLike],
    question: str,
    *,
    out: Path,
    query: Where = "answer",
    max_new_tokens: int = 16,
    progress: Callable[[int], None] = lambda n: None,
) -> Inspection:
    """Answer a question about pictures and write `inspect.html` to the folder `out`.

    Parameters
    ----------
    model: one, or several that are compared; an iterable may load one after the other, so that one at a time is held.
    image: one picture, or several; see `inputs.images.open_image`.
    query: whose attention is drawn: "answer", a word of the question ("star"), or another group of `layout.groups`.
    progress: called with 1 for every answer token's relevancy and three times more for every picture and model.

    Raises VlmProbeError as `HookedVLM.prepare` does, before anything is written.
    """
    given: list[Any] = list(image) if isinstance(image, list | tuple) else [image]
    if not given:
        raise VlmProbeError("there is no picture to ask about")
    names = [_name_of(one, number) for number, one in enumerate(given, start=1)]
    pictures = [open_image(one) for one in given]
    looked: list[Looked] = []
    sections: list[dict[str, Any]] = []
    looks: list[dict[str, Any]] = []
    maps: list[list[tuple[str, xr.DataArray | None]]] = [[] for _ in pictures]
    for each in [model] if isinstance(model, HookedVLM) else model:
        texts = _bank(each)
        for number, (name, picture) in enumerate(zip(names, pictures, strict=True)):
            found, section, first, explored = _look(
                each, picture, name, question, query, max_new_tokens, texts, progress
            )
            looked.append(found)
            sections.append(section)
            looks.append(explored)
            maps[number].append((found.model, first))
    page = out / "inspect.html"
    write_page(
        page,
        "inspect.html",
        title=question,
        question=question,
        several=len(looked) > 1,
        explorer=Markup(embedded(looks)),
        compared=rows_of(comparison(looked)),
        pictures=[
            {"name": name, "uri": _side_by_side(picture, own)}
            for name, picture, own in zip(names, pictures, maps, strict=True)
        ],
        sections=sections,
    )
    return Inspection(looked, page)


def comparison(looked: Sequence[Looked]) -> pd.DataFrame:
    """What every model says about every picture: a row each, columns image, model, answer, its first token's
    probability, and what that loses without the most relevant patches, and without as many random ones on average."""
    rows = []
    for one in looked:
        table = one.blanked
        rows.append(
            {
                "image": one.image,
                "model": one.model,
                "answer": one.answer or "(an empty answer)",
                "probability of its first token": float("nan") if table is None else table["probability"].iloc[0],
                "without the most relevant patches": float("nan") if table is None else table["change"].iloc[1],
                "without random ones": float("nan") if table is None else table["change"].iloc[2:].mean(),
            }
        )
    return pd.DataFrame(rows)


def _name_of(image: ImageLike, number: int) -> str:
    """A picture's name on the page."""
    name = Path(image).name if isinstance(image, str | Path) else getattr(image, "name", None)
    return str(name or f"picture {number}").encode(errors="replace").decode()


def _side_by_side(picture: Image.Image, maps: list[tuple[str, xr.DataArray | None]]) -> str | None:
    """The relevancy of every model's first answer token over one picture; None where there is but one."""
    drawn = [(name, map_) for name, map_ in maps if map_ is not None]
    if len(drawn) < 2:
        return None
    columns = min(len(drawn), 3)
    rows = -(-len(drawn) // columns)
    with styled():
        figure, axes = plt.subplots(
            rows, columns, figsize=(3.6 * columns, 3.6 * rows), layout="constrained", squeeze=False
        )
        for ax in axes.flat[len(drawn) :]:
            ax.axis("off")
        for ax, (name, map_) in zip(axes.flat, drawn, strict=False):
            overlay(picture, map_, ax, title=name)
    return figure_uri(figure)


def _look(
    model: HookedVLM,
    picture: Image.Image,
    name: str,
    question: str,
    query: Where,
    max_new_tokens: int,
    texts: Bank | None,
    progress: Callable[[int], None],
) -> tuple[Looked, dict[str, Any], xr.DataArray | None, dict[str, Any]]:
    """One model about one picture: what it says, its section of the page, the map of its first token, and what the
    explorer shows."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", VlmProbeWarning)
        inputs = model.prepare(picture, question)
    notes = [str(one.message) for one in caught if issubclass(one.category, VlmProbeWarning)]
    if trained_on_scenes(str(model.name)):
        notes += unfamiliar(picture, question)
    if len(inputs.layout.views()) > 1:
        notes.append(
            "the model sees the picture as a whole and in tiles or crops, and maps here are of the whole alone"
        )
    trace = model.trace(inputs, capture=["*.hook_pattern", *CAPTURED])
    answer_ids = model.answer_tokens(inputs, max_new_tokens=max_new_tokens)[0]
    answer = model.tokenizer.decode(answer_ids, skip_special_tokens=True).strip()
    empty = "(only spaces or special tokens)" if answer_ids else "(an empty answer)"
    maps = image_attention(trace, query)
    top = top_tokens(model, trace.logits[inputs.layout.answer_position])
    progress(1)
    tokens = _tokens(model, inputs, answer_ids, progress)
    cut = len(inputs.layout.views()) > 1  # patches of a picture in tiles or crops cannot be blanked
    blanked = None if tokens.first is None or cut else blanking(model, inputs, tokens.first, target=answer_ids[0])
    found = sinks(trace)
    summary = head_summary(trace, query, sinks=found)
    encoders = {
        part: encoder_attention(trace, "mean", part=part).isel(layer=slice(0, model.layers_read(part)))
        for part in model.layers
        if part != "language"
    }
    progress(1)
    looked = Looked(str(model.name), name, answer, answer_ids, top, blanked, notes)
    section = {
        "model": model.name,
        "image_name": name,
        "image": image_uri(picture),
        "answer": answer or empty,
        "notes": notes,
        "prompt": inputs.prompts[0],
        "top": rows_of(top),
        "relevancies": tokens.pictures,
        "through": len(tokens.maps) > 1,
        "token_strip": tokens.strip,
        "left_out": len(answer_ids) - len(tokens.pictures),
        "blanked": None if blanked is None else said_of_blanking(blanked),
        "from": maps.attrs["title"],
        "image_mass": f"{float(summary['image_mass'].mean()):.3f}",
        "sink_mass": f"{float(summary['sink_mass'].mean()):.3f}",
        "strip": figure_uri(layer_strip(picture, maps.mean("head", keep_attrs=True))),
        "grid": figure_uri(head_grid(picture, maps)),
        "encoders": {
            "" if part == "vision" else f" of {part} ({model.config_of(part).model_type})": figure_uri(
                layer_strip(picture, one.mean("head", keep_attrs=True))
            )
            for part, one in encoders.items()
        },
        "sinks": rows_of(found.drop(columns=["index", "held"])),
        "provenance": rows_of(provenance_table(trace.provenance)),
    }
    explored = _explored(model, inputs, trace, looked, tokens.maps, found, texts)
    progress(1)
    return looked, section, tokens.first, explored


def _small(model: HookedVLM, positions: int, tokens: int) -> bool:
    return sum(p.numel() for p in model.parameters()) * positions * max(tokens, 1) <= SMALL


def _bank(model: HookedVLM) -> Bank | None:
    """Texts for the contextual lens, of a model that was trained on scenes, whose words we have at hand."""
    if not (trained_on_scenes(str(model.name)) and _small(model, 50, 1)):  # a caption has fewer tokens
        return None
    return build_bank(model, (sample_scene(seed).caption for seed in range(CAPTIONS)))


def _explored(
    model: HookedVLM,
    inputs: ModelInputs,
    trace: Trace,
    looked: Looked,
    maps: dict[str, xr.DataArray],
    found: pd.DataFrame,
    bank: Bank | None,
) -> dict[str, Any]:
    """What the explorer shows; of a large model without what takes many runs.

    maps, found: the maps and sinks that are there already.
    """
    small = _small(model, inputs.layout.length, len(looked.answer_ids[:MAX_TOKENS_SHOWN]))
    words = 3 if _lens_is_quick(model, inputs) else 0
    names = able(model, [*SHOWN, "integrated gradients"] if small else SHOWN)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", VlmProbeWarning)  # they stand among the notes
        made = look(
            model,
            inputs,
            trace=trace,
            name=looked.image,
            tokens=looked.answer_ids,
            maps={each: maps.get(each, each) for each in names},
            words=words,
            bank=bank,
            windows=(1, default_window(model.layers["language"])) if small else (),
            draws=DRAWS,
            sinks=found,
            notes=looked.notes,
        )
    if not small:
        made["missing"]["knockout"] = _SPARED.format("hundreds of runs")
    if not words:
        made["missing"]["lens"] = _SPARED.format("minutes")
    return made


def _lens_is_quick(model: HookedVLM, inputs: ModelInputs) -> bool:
    """Whether every patch, behind every layer, is soon multiplied with the whole vocabulary."""
    text, patches = model.text_config, len(inputs.layout.image_positions)
    operations = 2 * model.layers["language"] * patches * text.vocab_size * text.hidden_size
    return model.device.type != "cpu" or operations <= OPERATIONS


def provenance_table(provenance: dict[str, Any]) -> pd.DataFrame:
    """Provenance as a table of two columns."""
    named = [(key.removeprefix("versions."), value) for key, value in provenance.items()]
    return pd.DataFrame(named, columns=["what", "value"])
