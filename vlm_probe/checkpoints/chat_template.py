"""A checkpoint's chat template as a prompt template: what stands around images and question."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from jinja2 import TemplateError

from vlm_probe.errors import VlmProbeError
from vlm_probe.inputs.prompts import IMAGE

QUESTION, IMAGES = "{question}", "{images}"


def processor_template(folder: Path | None) -> str | None:
    """The template that a processor keeps in a file of its own (`chat_template.json`); a tokenizer does not read it."""
    file = None if folder is None else folder / "chat_template.json"
    if file is None or not file.is_file():
        return None
    try:
        return str(json.loads(file.read_text())["chat_template"])
    except (ValueError, LookupError, TypeError) as error:
        raise VlmProbeError(f"{file} holds no chat template that can be read: {error}") from error


def prompt_of(name: str, tokenizer: Any, folder: Path | None, placeholder: int, *, mark: str = IMAGE) -> str | None:
    """The prompt template of a checkpoint's own chat format, {images} and {question} in it; None where it has none.

    One turn of a user with one image is rendered by the checkpoint's tokenizer. Templates for several media take a list
    of contents, those for text alone "<image>", a line break and the question, as LLaVA's training wrote it.

    Parameters
    ----------
    folder: where a processor's file may be; None on the Hub.
    placeholder: the image token's id. mark: what its class writes for an image, where that is another text.

    Raises VlmProbeError for a template that cannot be rendered, or in which question and image are not found once.
    """
    if tokenizer is None:
        return None
    template = processor_template(folder) or tokenizer.chat_template
    if not template:
        return None
    if isinstance(template, dict):  # several of them, by use
        template = template.get("default") or next(iter(template.values()))
    own = tokenizer.convert_ids_to_tokens(placeholder) if 0 <= placeholder < len(tokenizer) else None
    marks = [one for one in dict.fromkeys((mark, own, IMAGE)) if one]
    several = [{"type": "image"}, {"type": "text", "text": QUESTION}]
    problem = f"it does not show {' or '.join(marks)} and the question once"
    for content in (several, f"{IMAGE}\n{QUESTION}"):
        try:
            text = tokenizer.apply_chat_template(
                [{"role": "user", "content": content}],
                chat_template=template,
                tokenize=False,
                add_generation_prompt=True,
            )
        except (TemplateError, TypeError, ValueError) as error:
            problem = str(error)
            continue
        # A template for text alone writes the list of contents out as Python does.
        found = [one for one in marks if text.count(one) == 1]
        if found and text.count(QUESTION) == 1 and "'type'" not in text:
            return _with_bos(tokenizer, text.replace(found[0], IMAGES))
    raise VlmProbeError(
        f"the chat template of {name} cannot be used ({problem}); give one with prompt= "
        "(--prompt), such as '{bos}USER: {images}\\n{question} ASSISTANT:'"
    )


def _with_bos(tokenizer: Any, text: str) -> str:
    """A template that leaves the first token to the tokenizer gets it, as transformers' processors see to it."""
    bos = tokenizer.bos_token
    if not bos or text.startswith(bos):
        return text
    return "{bos}" * (tokenizer("a")["input_ids"][:1] == [tokenizer.bos_token_id]) + text
