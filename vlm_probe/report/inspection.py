"""`vlm-probe inspect`: one question, its answer, and one page on where it came from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
import torch

from vlm_probe.attention import encoder_attention, head_summary, image_attention, relevancy, sinks
from vlm_probe.figures import head_grid, layer_strip, overlay
from vlm_probe.figures.style import styled
from vlm_probe.hooked import HookedVLM, ModelInputs
from vlm_probe.report.page import figure_uri, image_uri, rows_of, write_page

MAX_TOKENS_SHOWN = 8
"""Relevancy is drawn for so many answer tokens; a long answer says how many were left out."""


@dataclass
class Inspection:
    """What `inspect` found."""

    answer: str
    answer_ids: list[int]
    top: pd.DataFrame
    """Columns token, probability: the most probable first tokens."""
    page: Path


def top_tokens(model: HookedVLM, logits: torch.Tensor, n: int = 8) -> pd.DataFrame:
    """The most probable tokens of a logits row: columns token, probability."""
    values, ids = logits.float().softmax(-1).topk(n)
    return pd.DataFrame({"token": model.token_strings(ids.tolist()), "probability": values.tolist()})


def _relevancy_pictures(
    model: HookedVLM, inputs: ModelInputs, answer_ids: list[int], progress: Callable[[int], None]
) -> list[dict[str, Any]]:
    image = inputs.images[0][0]
    pictures = []
    for i, token in enumerate(answer_ids[:MAX_TOKENS_SHOWN]):
        so_far = inputs.with_answer(answer_ids[:i], model.token_strings(answer_ids[:i]))
        maps = [relevancy(model, so_far, target=token, through_encoder=through) for through in (False, True)]
        with torch.no_grad():
            logits = model(so_far, logits_to_keep=1).logits[0, -1]
        with styled():
            figure, axes = plt.subplots(1, 2, figsize=(8.2, 3.8), layout="constrained")
            for ax, map_, title in zip(axes, maps, ("language model", "through the encoder"), strict=True):
                overlay(image, map_, ax, title=f"Relevancy, {title}")
        pictures.append(
            {
                "token": model.token_strings([token])[0].strip(),
                "probability": f"{float(logits.float().softmax(-1)[token]):.3f}",
                "uri": figure_uri(figure),
            }
        )
        progress(1)
    return pictures


def inspect(
    model: HookedVLM,
    image: str | Path,
    question: str,
    *,
    out: Path,
    max_new_tokens: int = 16,
    progress: Callable[[int], None] = lambda n: None,
) -> Inspection:
    """Answer a question about an image and write `inspect.html` to the folder `out`.

    Raises VlmProbeError as `HookedVLM.prepare` does, before anything is written.
    """
    inputs = model.prepare(image, question)
    answer_ids = model.answer_tokens(inputs, max_new_tokens=max_new_tokens)[0]
    answer = model.tokenizer.decode(answer_ids, skip_special_tokens=True).strip()
    trace = model.trace(inputs)
    top = top_tokens(model, trace.logits[inputs.layout.answer_position])
    progress(1)
    picture = inputs.images[0][0]
    relevancies = _relevancy_pictures(model, inputs, answer_ids, progress)
    found = sinks(trace)
    maps, summary = image_attention(trace), head_summary(trace, sinks=found)
    by_layer = maps.mean("head", keep_attrs=True)
    encoder = encoder_attention(trace, "mean").isel(layer=slice(0, model.vision_layers_read))
    encoder_by_layer = encoder.mean("head", keep_attrs=True)
    context = {
        "title": question,
        "question": question,
        "model": model.name,
        "image_name": Path(image).name.encode(errors="replace").decode(),
        "image": image_uri(picture),
        "answer": answer or "(an empty answer)",
        "top": rows_of(top),
        "relevancies": relevancies,
        "left_out": len(answer_ids) - len(relevancies),
        "image_mass": f"{float(summary['image_mass'].mean()):.3f}",
        "sink_mass": f"{float(summary['sink_mass'].mean()):.3f}",
        "strip": figure_uri(layer_strip(picture, by_layer)),
        "grid": figure_uri(head_grid(picture, maps)),
        "encoder": figure_uri(layer_strip(picture, encoder_by_layer)),
        "sinks": rows_of(found.drop(columns=["index", "held"])),
        "provenance": rows_of(provenance_table(trace.provenance)),
    }
    page = out / "inspect.html"
    write_page(page, "inspect.html", **context)
    progress(1)
    return Inspection(answer, answer_ids, top, page)


def provenance_table(provenance: dict[str, Any]) -> pd.DataFrame:
    """Provenance as a table of two columns, versions spelled out."""
    rows = []
    for key, value in provenance.items():
        if key == "versions":
            rows += [(name, text) for name, text in value.items()]
        else:
            rows.append((key, ", ".join(map(str, value)) if isinstance(value, list) else value))
    return pd.DataFrame(rows, columns=["what", "value"])
