"""Attention sinks of the language model: positions that collect attention whatever is asked.

Xiao et al. 2024 (arXiv:2309.17453) found that the first tokens collect attention for no content of theirs; Kang et al.
2025 (arXiv:2503.03321) that some image patches do. Whether it is so *whatever is asked* shows over many questions:

*Who is judged.* What stands before the question in the prompt: template text, patches, registers. Question tokens are
left out: they are another token in every question, so nothing is known of them "whatever is asked". So is the template
behind the question: almost no query comes after it.

*Who judges.* All positions from the question's first token on: question, template, answer position. They come after
all candidates, so every candidate is judged by the same queries, however late it stands; a position is never a sink
for having few queries. Where a sliding window keeps a candidate from one of these queries, that layer does not judge
it.

*What is compared.* The attention that a candidate receives from those queries, mean over heads, over what it would be
if every query looked evenly at all it may see: times_even. Even attention gives 1, at any length.

*Across questions.* Candidates are aligned by what they are (`Role`): number of the patch, of the register, or of the
text token from the start, together with the token itself. A sink's times_even exceeds `factor` in at least `share` of
the prompts (0.9: in all of eight questions, in nine of ten).

Deviations: Xiao et al. take the first tokens to be sinks; here any position before the question may be one. Kang et
al. find patches by activation, for which there is `massive_activations`. Gu et al. 2025 (arXiv:2410.10781) count heads
that give the first token more than 0.3; here heads are averaged, and the bar moves with the length.

*One image or several.* What all questions about an image have in common passes for "whatever is asked": of 36 patches
found so in four generated scenes with eight questions each (llava-gemma3-270m-lora), 34 show the few objects there are
to ask about, a third of the area; over the four images together no patch is left. So `find_sinks` pools images, and
what is found in one image alone carries a caveat. Pooling cannot find patches that are sinks in their own image only,
as those of Kang et al.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from vlm_probe.attention.patterns import PATTERN, Role, layers_with_attention, roles_of
from vlm_probe.errors import VlmProbeError
from vlm_probe.hooked import HookedVLM
from vlm_probe.inputs.images import ImageLike, open_image
from vlm_probe.items import Item
from vlm_probe.layout import TokenLayout
from vlm_probe.trace import Trace

QUESTIONS = 8
"""So many different questions at least, for "whatever is asked" to be said without a caveat."""

_COLUMNS = ("layer", "position", "token", "kind", "index", "received", "times_even", "held")


@dataclass(frozen=True)
class _Prompt:
    """One prompt: who is judged in it, and who judges."""

    candidates: dict[Role, int]
    """What stands before the question -> its position."""
    queries: Int[np.ndarray, " query"]
    live: Int[np.ndarray, " position"]
    """All positions that are no padding."""
    grids: tuple[tuple[int, int], ...]
    question: tuple[str, ...]
    """Its tokens; none without a tokenizer."""

    @classmethod
    def of(cls, layout: TokenLayout) -> _Prompt:
        roles = roles_of(layout)
        live = np.fromiter(roles.values(), dtype=np.int64)
        start = _question_start(layout)
        return cls(
            {role: position for role, position in roles.items() if position < start},
            live[live >= start],
            live,
            tuple(span.grid for span in layout.images),
            tuple(layout.tokens[p] for p in layout.question_positions) if layout.tokens else (),
        )

    def received(self, pattern: Float[Tensor, "head query key"]) -> Float[np.ndarray, "two candidate"]:
        """Of every candidate: attention received by a query, and times even; NaN for whom not all queries may see."""
        candidates = np.fromiter(self.candidates.values(), dtype=np.int64)
        if not len(self.queries) or not len(candidates):
            return np.full((2, len(candidates)), np.nan)
        rows = pattern[:, torch.as_tensor(self.queries, device=pattern.device)].float().mean(0).cpu().numpy()
        back = self.queries[:, None] - self.live[None, :]
        # How far a query may look back, a sliding window, is not in a trace: it is as far as any of them does look.
        # What a query may see is not what it gives more than zero: sharp attention would make its own comparison.
        looked = rows[:, self.live] > 0
        reach = back[(back >= 0) & looked].max(initial=0)
        ahead = back[looked].min(initial=0)  # below 0 where a prompt sees all of itself (PaliGemma)
        even = (1 / ((back >= ahead) & (back <= reach)).sum(-1)).mean()
        received = rows[:, candidates].mean(0)
        judged = self.queries[-1] - candidates <= reach
        return np.where(judged, np.stack([received, received / even]), np.nan)


def _question_start(layout: TokenLayout) -> int:
    """Where the question begins; behind everything where there is none."""
    if len(layout.question_positions):
        return int(layout.question_positions.min())
    # A slow tokenizer does not say which tokens are the question: then all text behind the last image, as in `lay_out`.
    behind = layout.text_positions[layout.text_positions > layout.image_positions.max(initial=-1)]
    return int(behind[0]) if len(behind) else layout.length


_Received = dict[int, Float[np.ndarray, "two candidate"]]
"""Layer -> what `_Prompt.received` gives."""


def _checked(factor: float | int, share: float | int) -> None:
    if not factor > 0:
        raise VlmProbeError(f"factor must be above 0, got {factor}")
    if not 0 < share <= 1:
        raise VlmProbeError(f"share must be above 0 and at most 1, got {share}")


def _table(received: Sequence[tuple[_Prompt, _Received]], *, factor: float | int, share: float | int) -> pd.DataFrame:
    """The candidates that all prompts have and that collect attention in nearly all of them."""
    prompts = [prompt for prompt, _ in received]
    grids = list(dict.fromkeys(prompt.grids for prompt in prompts))
    if len(grids) > 1:
        raise VlmProbeError(
            f"the prompts show images of {_grids(grids[0])} and of {_grids(grids[1])} patches, which cannot be "
            "compared one by one: find their sinks apart"
        )
    first = prompts[0]
    shared = [role for role in first.candidates if all(role in prompt.candidates for prompt in prompts)]
    places = [[list(prompt.candidates).index(role) for role in shared] for prompt in prompts]
    records = []
    for layer in received[0][1]:
        values = np.stack([by_layer[layer][:, own] for (_, by_layer), own in zip(received, places, strict=True)])
        # Whoever is not judged in a prompt (NaN) is no sink there.
        held = (values[:, 1] > factor).mean(0)
        for i in np.flatnonzero(held >= share):
            role = shared[i]
            means = np.nanmean(values[:, :, i], axis=0)
            records.append(
                (layer, first.candidates[role], role.token, role.kind, role.index, *map(float, means), float(held[i]))
            )
    return pd.DataFrame(records, columns=list(_COLUMNS))


def _grids(grids: tuple[tuple[int, int], ...]) -> str:
    return ", ".join(f"{rows} x {columns}" for rows, columns in grids) or "no"


def _different(prompts: Sequence[_Prompt]) -> int:
    """How many different questions were asked; without a tokenizer all count."""
    said = {prompt.question for prompt in prompts}
    return len(prompts) if () in said else len(said)


def _attrs(
    prompts: Sequence[_Prompt], provenance: dict[str, Any], factor: float | int, share: float | int, images: int
) -> dict[str, Any]:
    n = _different(prompts)
    attrs: dict[str, Any] = {
        "title": "Attention sinks",
        "units": "attention probability",
        "method": f"more than {factor:g} times even attention, from the question on, in {100 * share:g} % of prompts",
        "citation": "Xiao et al. 2024, arXiv:2309.17453",
        "factor": factor,
        "share": share,
        "prompts": len(prompts),
        "questions": n,
        "images": images,
        "candidates": len(prompts[0].candidates),
    }
    if n == 1:
        attrs["caveat"] = "one question: what it collects for other questions is not known"
    elif n < QUESTIONS:
        attrs["caveat"] = f"{n} different questions: too few to say what it collects for others"
    elif images == 1:
        attrs["caveat"] = "one image: a patch that all questions are about is not told from a sink"
    return {**{key: value for key, value in provenance.items() if key != "prompt"}, **attrs}


def sinks(traces: Trace | Sequence[Trace], *, factor: float | int = 5.0, share: float | int = 0.9) -> pd.DataFrame:
    """The language model's attention sinks: positions before the question that collect attention whatever is asked.

    See the module for who is judged by whom, and how positions are aligned.

    Parameters
    ----------
    traces: of one model, with `language.blocks.*.attn.hook_pattern` of the same layers: many questions about several
        images; `find_sinks` runs them without keeping patterns. One trace, one question and one image are taken too:
        `attrs["caveat"]` then says what is not known.
    factor: times even attention (no unit) that a sink exceeds.
    share: of the prompts in which it must, 0 to 1.

    Returns
    -------
    DataFrame, a row a layer and sink, with columns layer, position (in the first trace; `sink_positions` gives those in
    another prompt), token, kind ("text" for the template, "image", or "register" for a CLS or register token that the
    model keeps), index (number among its kind: see `Role`), received (attention probability that a query gives it, mean
    over heads, queries and prompts), times_even (mean over prompts of the ratio that `factor` bounds), held (share of
    the prompts in which it exceeds it). `attrs` count prompts, different questions, images and candidates. Empty where
    there is none, and where nothing stands before the question (candidates is then 0).

    Raises
    ------
    VlmProbeError: no trace, traces of different models or layers or without attention, images of different grids,
        factor or share out of range.
    """
    _checked(factor, share)
    given = [traces] if isinstance(traces, Trace) else list(traces)
    if not given:
        raise VlmProbeError("there is no trace to find sinks in")
    models = list(dict.fromkeys(str(trace.provenance.get("model")) for trace in given))
    if len(models) > 1:
        raise VlmProbeError(f"sinks are of one model, the traces are of {' and '.join(models[:2])}")
    layers = [layers_with_attention(trace, "language") for trace in given]
    if any(own != layers[0] for own in layers):
        raise VlmProbeError("the traces hold the attention of different layers: capture the same ones")
    received = []
    for trace in given:
        prompt = _Prompt.of(trace.layout)
        patterns = {layer: trace[f"language.blocks.{layer}.{PATTERN}"][0] for layer in layers[0]}
        received.append((prompt, {layer: prompt.received(pattern) for layer, pattern in patterns.items()}))
    table = _table(received, factor=factor, share=share)
    prompts = [prompt for prompt, _ in received]
    images = len({str(trace.provenance.get("images", trace.images)) for trace in given}) if prompts[0].grids else 0
    table.attrs.update(_attrs(prompts, given[0].provenance, factor, share, images))
    return table


def find_sinks(
    model: HookedVLM,
    pictures: Sequence[Item] | Sequence[ImageLike],
    questions: Sequence[str] = (),
    *,
    factor: float | int = 5.0,
    share: float | int = 0.9,
    by_image: bool = False,
    fewest: int = QUESTIONS,
    batch_size: int = 8,
    progress: Callable[[int], None] | None = None,
) -> pd.DataFrame:
    """`sinks` of a model, from many questions about every image; of each prompt only sums are kept, never patterns.

    Parameters
    ----------
    pictures: images, or items, each of which brings its own question; items with one `image` name share it.
    questions: asked about every image besides its items' own. They should ask about different things.
    factor, share: as in `sinks`.
    by_image: False finds what collects attention whatever is asked about whatever image; items then need no more
        questions than their own, where there are enough in all. True finds sinks of every image, with the caveat that
        patches which all its questions are about look like sinks too.
    fewest: different questions that must be asked, of every image if `by_image`.
    batch_size: prompts run at once.
    progress: called with the number of prompts just run.

    Returns
    -------
    DataFrame as `sinks` gives; position is that in an unpadded prompt. If `by_image`, image by image, with a first
    column image: an item's `image`, a file's path, or the image's number as text; prompts, questions and candidates in
    `attrs` are then those of the image that was asked least, and images is 1.

    Raises
    ------
    VlmProbeError: no image, too few different questions, images of different grids unless `by_image`, factor or share
        out of range, and as `HookedVLM.prepare`.
    """
    _checked(factor, share)
    todo = _to_ask(pictures, questions)
    if not todo:
        raise VlmProbeError("there is no image to find sinks of")
    names = {name: [name] for name in todo} if by_image else {"all images": list(todo)}
    for what, some in names.items():
        different = {question for name in some for question in todo[name][1]}
        if len(different) < max(fewest, 1):
            asked = f"{what}: {len(different)} different questions"
            raise VlmProbeError(f"{asked}, sinks need {max(fewest, 1)}; give more in questions=[...]")
    tables, run = [], []
    for what, some in names.items():
        received = [one for name in some for one in _ask(model, *todo[name], batch_size, progress)]
        table = _table(received, factor=factor, share=share)
        # As in a prompt that runs alone, without a batch's padding.
        table["position"] -= int(received[0][0].live[0])
        if by_image:
            table.insert(0, "image", [what] * len(table))
        tables.append(table)
        run.append([prompt for prompt, _ in received])
    # Beside others, an empty table would make objects of their columns.
    table = pd.concat([table for table in tables if len(table)] or tables[:1], ignore_index=True)
    # What is said of all images holds of the one that was asked least.
    least = min(run, key=_different)
    table.attrs.update(_attrs(least, model.provenance(), factor, share, 1 if by_image else len(todo)))
    return table


def _to_ask(
    pictures: Sequence[Item] | Sequence[ImageLike], questions: Sequence[str]
) -> dict[str, tuple[Item | ImageLike, list[str]]]:
    """Name of an image -> where to get it, and what it is asked."""
    todo: dict[str, tuple[Item | ImageLike, list[str]]] = {}
    for number, one in enumerate(pictures):
        path = isinstance(one, str | Path)
        name = one.image if isinstance(one, Item) else str(one) if path else str(number)
        todo.setdefault(name, (one, []))[1].extend([one.question] if isinstance(one, Item) else [])
    return {name: (one, list(dict.fromkeys([*own, *questions]))) for name, (one, own) in todo.items()}


@torch.no_grad()
def _ask(
    model: HookedVLM,
    source: Item | ImageLike,
    questions: list[str],
    batch_size: int,
    progress: Callable[[int], None] | None,
) -> list[tuple[_Prompt, _Received]]:
    """Ask an image, and keep what the candidates of every prompt receive."""
    image: Any = model.picture(source) if isinstance(source, Item) else open_image(source)
    kept: list[tuple[_Prompt, _Received]] = []
    for start in range(0, len(questions), batch_size):
        part = questions[start : start + batch_size]
        inputs = model.prepare([image] * len(part), part)
        received: list[tuple[_Prompt, _Received]] = [(_Prompt.of(layout), {}) for layout in inputs.layouts]
        hooks: list[Any] = [
            (f"language.blocks.{layer}.{PATTERN}", partial(_keep, layer, received))
            for layer in range(model.layers["language"])
        ]
        with model.hooks(fwd_hooks=hooks):
            model(inputs, logits_to_keep=1)
        kept += received
        if progress is not None:
            progress(len(part))
    return kept


def _keep(layer: int, received: list[tuple[_Prompt, _Received]], pattern: Tensor, hook: object) -> None:
    for row, (prompt, by_layer) in zip(pattern, received, strict=True):
        by_layer[layer] = prompt.received(row)


def sink_positions(found: pd.DataFrame, layout: TokenLayout, *, layer: int | None = None) -> list[int]:
    """Where sinks that `sinks` or `find_sinks` named stand in a prompt, in ascending order.

    For the group "sink" of `positions_of`, among others.

    Parameters
    ----------
    found: the sinks of all images, or of one: `found[found["image"] == name]`.
    layout: of any prompt of the same template and as many patches.
    layer: None takes those of all layers.

    Raises VlmProbeError for sinks of several images, and for a sink that this prompt does not have.
    """
    images = set(found["image"]) if "image" in found.columns else set()
    if len(images) > 1:
        raise VlmProbeError(f"these sinks are of {len(images)} images: take those of one of them")
    roles = roles_of(layout)
    columns = (found[name].tolist() for name in ("layer", "kind", "index", "token"))
    positions = set()
    for own, *what in zip(*columns, strict=True):
        role = Role(*what)
        if layer not in (None, own):
            continue
        if role not in roles:
            raise VlmProbeError(
                f"these sinks were found in prompts of another form: this one has no {role.kind} position "
                f"{role.index} with token {role.token!r}"
            )
        positions.add(roles[role])
    return sorted(positions)
