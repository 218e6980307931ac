"""The text around images and question is the checkpoint's own, where it has one."""

import json
from typing import Any

import pytest
from tiny import tiny_llava, tiny_tokenizer

import vlm_probe
from vlm_probe import VlmProbeError
from vlm_probe.checkpoints.chat_template import prompt_of
from vlm_probe.inputs.prompts import encode_prompt

TEXT_ALONE = (
    "{{ bos_token }}{% for message in messages %}U: {{ message['content'] | trim }}\n{% endfor %}"
    "{% if add_generation_prompt %}A:{% endif %}"
)
SEVERAL_MEDIA = (
    "{% for message in messages %}{{ message['role'] }}>{% for one in message['content'] %}"
    "{% if one['type'] == 'image' %}<image>{% else %}{{ one['text'] }}{% endif %}{% endfor %};{% endfor %}"
    "{% if add_generation_prompt %}it>{% endif %}"
)


def saved(folder, *, template=None, processors=None, own=None):
    tiny_llava("clip", "llama").save_pretrained(folder)
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    if processors is not None:
        (folder / "chat_template.json").write_text(json.dumps({"chat_template": processors}))
    if own is not None:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, "vlm_probe": {"prompt": own}}))
    return folder


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, "{bos}USER: {images}\n{question} ASSISTANT:"),
        ({"template": TEXT_ALONE}, "<bos>U: {images}\n{question}\nA:"),
        ({"template": SEVERAL_MEDIA}, "user>{images}{question};it>"),
        ({"template": TEXT_ALONE, "processors": SEVERAL_MEDIA}, "user>{images}{question};it>"),
        ({"template": TEXT_ALONE, "own": "{images}!{question}"}, "{images}!{question}"),
    ],
)
def test_whose_prompt_it_is(tmp_path, given, expected):
    model = vlm_probe.load(saved(tmp_path / "model", **given), device="cpu")
    assert model.prompt == expected
    assert f"prompt={expected!r}" in repr(model)
    assert model.provenance()["prompt_template"] == expected


def test_the_prompt_given_to_load_goes_first(tmp_path):
    folder = saved(tmp_path / "model", template=TEXT_ALONE)
    assert vlm_probe.load(folder, device="cpu", prompt="{images}{question}?").prompt == "{images}{question}?"
    with pytest.raises(VlmProbeError) as caught:
        vlm_probe.load(folder, device="cpu", prompt="{images} what?")
    assert str(caught.value) == "a prompt must hold {question} once, got '{images} what?'"


def test_rendered_as_the_tokenizer_renders_it():
    """Ids of a prepared prompt are those of the template filled in by transformers."""
    tokenizer: Any = tiny_tokenizer()
    tokenizer.chat_template = TEXT_ALONE
    prompt = prompt_of("model", tokenizer, None, tokenizer.convert_tokens_to_ids("<image>"))
    assert prompt is not None
    message = {"role": "user", "content": "<image>\nRed 1"}
    text = tokenizer.apply_chat_template([message], tokenize=False, add_generation_prompt=True)
    expected = tokenizer(text, add_special_tokens=False)["input_ids"]
    made = encode_prompt(
        tokenizer, prompt, "Red 1", images="<image>", image_token_id=tokenizer.convert_tokens_to_ids("<image>")
    )
    assert made.ids == expected
    assert made.ids.count(96) == 1


@pytest.mark.parametrize(
    "template", ["{{ nonsense( }}", "{{ raise_exception('one role only') }}", "{% for m in messages %}{% endfor %}Hm."]
)
def test_a_template_that_cannot_be_used_is_said(tmp_path, template):
    folder = saved(tmp_path / "model", template=template)
    with pytest.raises(VlmProbeError) as caught:
        vlm_probe.load(folder, device="cpu")
    said = str(caught.value)
    assert said.startswith(f"the chat template of {folder} cannot be used (")
    assert said.endswith("; give one with prompt= (--prompt), such as '{bos}USER: {images}\\n{question} ASSISTANT:'")
    # ... and that works.
    assert vlm_probe.load(folder, device="cpu", prompt="{images}{question}").prompt == "{images}{question}"


def test_a_processors_file_that_cannot_be_read(tmp_path):
    folder = saved(tmp_path / "model")
    (folder / "chat_template.json").write_text("[]")
    with pytest.raises(VlmProbeError, match="holds no chat template that can be read"):
        vlm_probe.load(folder, device="cpu")
