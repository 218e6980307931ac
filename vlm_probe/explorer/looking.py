"""A look: all that the explorer shows of one model on one picture and question, as a plain dict that JSON can hold.

| key | what it is |
|---|---|
| `model`, `name`, `question`, `prompt`, `answer`, `notes` | texts; `name` is the picture's, `notes` say what to doubt |
| `image` | `uri`, `width`, `height` (pixels of the original), `sharp`; None where the picture is not known |
| `grid`, `edges` | patches, and their pixels on the original picture (`parts.geometry`) |
| `tokens` | of the answer: `text`, `id`, `probability` behind those before it |
| `depth` | layers of the language model |
| `maps` | by name: `title`, `units`, `method`, `citation`, `signed`, `values` (token, patch) |
| `attention` | `parts.attention`: `mean` over heads, and `each` head |
| `norm`, `sinks` | `parts.norms`, `parts.found_sinks` |
| `lens`, `nearest`, `contexts` | words at every patch: `parts.lens_words`, `nearest_words`, `contexts` |
| `knockout` | `parts.knockout` |
| `words` | the texts that `lens`, `nearest` and `contexts` number |
| `provenance` | texts |
| `missing` | what of these is not there (None) -> why, and how to get it |

Arrays are packed (`packing`): a byte a value.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import pandas as pd
import torch
import xarray as xr

from vlm_probe.attention import image_attention, per_token
from vlm_probe.attention import sinks as sinks_of
from vlm_probe.attention.answer_maps import MakesMap, map_named
from vlm_probe.attention.patterns import PATTERN
from vlm_probe.errors import VlmProbeError
from vlm_probe.explorer import parts
from vlm_probe.explorer.packing import Words, picture
from vlm_probe.files import writable
from vlm_probe.hooked import HookedVLM, ModelInputs
from vlm_probe.lens.contextual_lens import Bank
from vlm_probe.trace import Trace

SHOWN = ("relevancy", "relevancy through the encoder", "gradient x input")
"""Maps of every answer token that a look holds if it is not told otherwise, besides attention: of the names of
`attention.MAPS` those that take one run forward and backward."""
CAPTURED = (
    f"language.blocks.*.{PATTERN}",
    "language.hook_embed",
    "language.blocks.*.hook_resid_post",
    parts.RECEIVED,
)
"""What of a run a look reads."""
MOST_TOKENS = 8
NEAREST = 5
_NEEDS_MODEL = "a trace alone does not tell it: explore(trace, model)"
_OFF = "it was switched off: leave {} out of the call"

Look = dict[str, Any]


class _Parts:
    """Parts of a look, and why some are missing."""

    def __init__(self) -> None:
        self.found: dict[str, Any] = {}
        self.missing: dict[str, str] = {}

    def add(self, name: str, make: Callable[[], Any] | str) -> None:
        """Make a part, or note why it is not there: a text, or the VlmProbeError that making it raised."""
        self.found[name] = None
        try:
            if isinstance(make, str):
                raise VlmProbeError(make)
            self.found[name] = make()
        except VlmProbeError as error:
            self.missing[name] = str(error)


def look(
    model: HookedVLM,
    inputs: ModelInputs,
    *,
    trace: Trace | None = None,
    name: str | None = None,
    image: int = 0,
    tokens: Sequence[int] | None = None,
    max_new_tokens: int = 16,
    maps: Sequence[str] | Mapping[str, str | MakesMap | xr.DataArray] = SHOWN,
    words: int = 3,
    bank: Bank | None = None,
    windows: Iterable[int] | None = None,
    draws: int = 1,
    sinks: pd.DataFrame | None = None,
    notes: Sequence[str] = (),
    progress: Callable[[str], None] = lambda part: None,
) -> Look:
    """All that the explorer shows of one model on one picture and question.

    Parameters
    ----------
    inputs: one example with a picture, from `model.prepare`.
    trace: of these inputs, to spare a run; what it lacks of `CAPTURED` is run anew.
    name: the picture's; "picture" if None.
    image: which picture of the prompt.
    tokens: ids of the answer; None takes what the model says. `MOST_TOKENS` of them are looked at.
    maps: names of `attention.MAPS`; or name -> what `per_token` takes as a map, or gave: DataArray(token, row, col).
        Integrated gradients, occlusion and the knockout of single patches take many runs a token.
    words: of the logit lens and of the contextual lens, at every patch and layer; 0 for none of them. With a vocabulary
        of 262,144 and without a GPU the lens takes a minute.
    bank: of `lens.contextual_lens.build_bank`, for the contextual lens; none without.
    windows: sizes, in layers, of the windows in which attention is knocked out; None takes a quarter of the model, ()
        none.
    draws: of random edges, the knockout's control.
    sinks: what `attention.find_sinks` found over many questions; None finds them in this run, with that caveat.
    notes: what is to be doubted of the answer.
    progress: called with the name of every part that is done.

    Returns
    -------
    A dict, as the module's documentation says; parts that could not be made are None, and `missing` says why.

    Raises VlmProbeError for a batch, without a picture, and for a map that has no such name.
    """
    span = inputs.layout.image(image)
    chosen = dict(maps) if isinstance(maps, Mapping) else {one: one for one in maps}
    for how in chosen.values():
        if isinstance(how, str):
            map_named(how)  # its error now
    trace = _complete(model, inputs, trace)
    asked, notes = _answer(model, inputs, trace, tokens, max_new_tokens, notes)
    made = _Parts()
    heads = per_token(model, inputs, map=parts.attention_of(image, inputs, trace), tokens=asked)
    likely = heads.probability.to_numpy().tolist()
    shown: dict[str, Any] = {}
    for key, how in chosen.items():
        try:
            if isinstance(how, str):
                how = parts.map_of(how, image)
            if not isinstance(how, xr.DataArray):
                how = per_token(model, inputs, map=how, tokens=asked, probability=likely)
            shown[key] = parts.drawn_map(how)
        except VlmProbeError as error:
            made.missing[key] = str(error)
        progress(key)
    made.add("attention", lambda: parts.attention(heads))
    progress("attention")
    _of_run(made, trace, image, sinks)
    table, off = Words(), _OFF.format("words=0")
    made.add("lens", (lambda: parts.lens_words(model, inputs, span, table, words)) if words else off)
    made.add("nearest", lambda: parts.nearest_words(model, trace, image, table, NEAREST))
    if bank is None:
        made.add("contexts", "it needs a bank of texts: bank=vlm_probe.lens.contextual_lens.build_bank(model, texts)")
    else:
        made.add("contexts", (lambda: parts.contexts(model, trace, bank, image, table, words)) if words else off)
    progress("words")
    made.add("knockout", lambda: _knockout(model, inputs, trace, image, windows, draws))
    progress("knockout")
    texts = heads.token.to_numpy().tolist()
    return {
        **_about(trace, image, name, made, notes),
        "question": _question(model, trace) or "",
        "answer": _decoded(model, asked, texts),
        "tokens": parts.tokens(texts, asked, likely),
        "maps": shown,
        "words": table.texts,
    }


def look_at_trace(trace: Trace, *, name: str | None = None, image: int = 0, sinks: pd.DataFrame | None = None) -> Look:
    """What a trace alone can tell: attention of the answer position, norms, sinks, pixels.

    Parameters
    ----------
    trace: with `language.blocks.*.attn.hook_pattern`, and `language.blocks.*.hook_resid_post` for the norms.
    name, image, sinks: as `look` takes them.

    Returns a dict as `look` does, with one token: the one that is predicted, by its number, since a trace has no
    tokenizer.

    Raises VlmProbeError without a picture in the prompt.
    """
    trace.layout.image(image)
    made = _Parts()
    made.add("attention", lambda: parts.attention(image_attention(trace, image=image).expand_dims("token")))
    _of_run(made, trace, image, sinks)
    for part in ("lens", "nearest", "contexts", "knockout"):
        made.add(part, _NEEDS_MODEL)
    made.missing["maps"] = _NEEDS_MODEL
    odds = trace.logits[trace.layout.answer_position].float().softmax(-1)
    top = int(odds.argmax())
    return {
        **_about(trace, image, name, made, ()),
        "question": "",
        "answer": "",
        "tokens": parts.tokens([f"<{top}>"], [top], [float(odds[top])]),
        "maps": {},
        "words": [],
    }


def inputs_of(model: HookedVLM, trace: Trace) -> ModelInputs:
    """The inputs that a trace is of, made anew from its pictures and its prompt.

    Raises VlmProbeError for a trace of another model, and where its prompt cannot be told: give the inputs then.
    """
    known = trace.provenance.get("model")
    if known != model.name:
        raise VlmProbeError(f"this trace is of {known}, the model is {model.name}")
    question = _question(model, trace)
    if question is not None and trace.images:
        inputs = model.prepare(list(trace.images), question)
        if inputs.prompts[0] == trace.provenance.get("prompt") and inputs.layout.length == trace.layout.length:
            return inputs
    raise VlmProbeError(
        "the inputs of this trace cannot be made anew from its pictures and prompt; "
        "give them in its place: explore(inputs, model)"
    )


def _question(model: HookedVLM, trace: Trace) -> str | None:
    """What was asked, of a prompt of this model's template; None where it is of another."""
    mark = "\N{OBJECT REPLACEMENT CHARACTER}"
    template, prompt = model.prompt, trace.provenance.get("prompt")
    if prompt is None or template.count("{question}") != 1:
        return None
    try:
        before, after = model.prepare(list(trace.images) or None, mark).prompts[0].split(mark)
    except (VlmProbeError, ValueError):  # no tokenizer, or the mark is lost
        return None
    if not (prompt.startswith(before) and prompt.endswith(after)):
        return None
    return prompt[len(before) : len(prompt) - len(after)] or None


def _complete(model: HookedVLM, inputs: ModelInputs, trace: Trace | None) -> Trace:
    """The trace, if it holds all that is read; else one that does."""
    names = model.match(list(CAPTURED), image=True)
    if trace is not None and all(name in trace for name in names):
        return trace
    return model.trace(inputs, capture=names)


def _answer(
    model: HookedVLM,
    inputs: ModelInputs,
    trace: Trace,
    tokens: Sequence[int] | None,
    most: int,
    notes: Sequence[str],
) -> tuple[list[int], list[str]]:
    """The tokens that are looked at, and the notes with what is to be said of them."""
    given = model.answer_tokens(inputs, max_new_tokens=most)[0] if tokens is None else list(tokens)
    said = list(notes)
    if not given:
        said.append("the model ended its answer at once: the token is the one that ends it")
        given = [int(trace.logits[trace.layout.answer_position].argmax())]
    if len(given) > MOST_TOKENS:
        said.append(f"{len(given) - MOST_TOKENS} later tokens of the answer are not looked at")
    return given[:MOST_TOKENS], said


def _of_run(made: _Parts, trace: Trace, image: int, sinks: pd.DataFrame | None) -> None:
    span = trace.layout.image(image)
    made.add("norm", lambda: parts.norms(trace, span))
    made.add("sinks", lambda: parts.found_sinks(trace, span, sinks_of(trace) if sinks is None else sinks))


def _about(trace: Trace, image: int, name: str | None, made: _Parts, notes: Sequence[str]) -> Look:
    """What any look holds."""
    known = trace.images[image] if len(trace.images) > image else None
    provenance = {str(key): str(value) for key, value in trace.provenance.items() if key != "prompt"}
    return {
        "model": str(trace.provenance.get("model")),
        "name": _text(name or "picture"),
        "prompt": _text(str(trace.provenance.get("prompt") or "")),
        "notes": [_text(note) for note in notes],
        "image": None if known is None else picture(known),
        **parts.geometry(trace.layout.image(image)),
        "depth": trace.depth["language"],
        **made.found,
        "missing": made.missing,
        "provenance": writable(provenance),
    }


def _text(text: str) -> str:
    """As UTF-8 can hold it: half of a surrogate pair, from a file's name, is a question mark."""
    return text.encode(errors="replace").decode()


def _decoded(model: HookedVLM, ids: Sequence[int], texts: Sequence[str]) -> str:
    if model.tokenizer is None:
        return "".join(texts)
    return _text(model.tokenizer.decode(list(ids), skip_special_tokens=True).strip())


@torch.no_grad()
def _knockout(
    model: HookedVLM, inputs: ModelInputs, trace: Trace, image: int, windows: Iterable[int] | None, draws: int
) -> dict[str, Any]:
    """The knockout's curve, where the prompt is a picture and a question that can be asked anew."""
    sizes = None if windows is None else list(windows)
    if sizes == []:
        raise VlmProbeError(_OFF.format("windows=()"))
    question = _question(model, trace)
    if len(trace.images) != 1 or question is None:
        raise VlmProbeError("the knockout needs one picture and a question, from model.prepare(image, question)")
    found = parts.knockout(model, trace.images[image], question, windows=sizes, draws=draws)
    (said,) = model.token_strings([int(trace.logits[trace.layout.answer_position].argmax())]) or ("",)
    return {**found, "token": _text(said)}
