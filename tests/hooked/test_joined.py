"""PaliGemma and Gemma 3 with its encoder: prompts that look both ways, patches that are pooled."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
from tiny import GRID, IMAGE_TOKEN, LANGUAGES, PATCH, POOLED, tiny_llava, tiny_tokenizer, tiny_vlm, untyped
from transformers import (
    DynamicCache,
    Gemma3ImageProcessorPil,
    Gemma3Processor,
    PaliGemmaProcessor,
    SiglipImageProcessorPil,
)

import vlm_probe
from vlm_probe.attention import encoder_attention, image_attention
from vlm_probe.attention.blanking import without_patches
from vlm_probe.causal import Ablate, Branches, Knockout, LogitDifference, edge_attribution, faithfulness
from vlm_probe.embedding import features
from vlm_probe.embedding.encoder import encoded
from vlm_probe.findings.engine import generated_items
from vlm_probe.hooked import HookedVLM
from vlm_probe.hooked.anatomy import patches_of
from vlm_probe.hooked.untrained import untrained
from vlm_probe.hooked.verifying import verify
from vlm_probe.inputs.images import ImagePreparer
from vlm_probe.layout.groups import positions_of
from vlm_probe.lens.contextual_lens import build_bank
from vlm_probe.running.asking import Asked, ask_all
from vlm_probe.store import capture, open_store
from vlm_probe.vocabulary import save, trim

KINDS = [("paligemma", "gemma"), ("paligemma", "gemma2"), ("gemma3", "gemma3")]
QUESTION = "what is red?"


def picture(seed: int = 0, size: tuple[int, int] = (23, 17)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)


def its_own_processor(kind: str, hf: Any) -> tuple[Any, Any]:
    """transformers' processor of the class, and its tokenizer."""
    side, tokenizer = hf.config.vision_config.image_size, tiny_tokenizer()
    size = {"height": side, "width": side}
    if kind == "paligemma":
        images: Any = SiglipImageProcessorPil(size=size)
        images.image_seq_length = GRID * GRID
        # It adds a thousand tokens for places in the image; nothing here spells one.
        return PaliGemmaProcessor(images, tokenizer), tokenizer
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>", "<start_of_image>", "<end_of_image>"]})
    own = {"image_token": "<image>", "boi_token": "<start_of_image>", "eoi_token": "<end_of_image>"}
    for name, text in own.items():
        setattr(tokenizer, name, text)
        setattr(tokenizer, f"{name}_id", tokenizer.convert_tokens_to_ids(text))
    hf.resize_token_embeddings(len(tokenizer))
    return Gemma3Processor(Gemma3ImageProcessorPil(size=size), tokenizer, image_seq_length=GRID * GRID), tokenizer


@pytest.mark.parametrize(("kind", "language"), KINDS[1:])
def test_inputs_and_answers_are_those_of_its_own_processor(kind, language):
    """Ids, token types and pixels, and what plain transformers generates from them."""
    hf = tiny_llava(kind, language)
    processor, tokenizer = its_own_processor(kind, hf)
    twin = copy.deepcopy(hf).eval()
    if language == "gemma2":  # SDPA, which older versions take, has no soft cap
        twin.set_attn_implementation({"": "sdpa", "vision_config": "sdpa", "text_config": "eager"})
    model = HookedVLM(hf, tokenizer=tokenizer, preparer=ImagePreparer(processor.image_processor, pad=False))
    text = {"paligemma": f"<image>{QUESTION}", "gemma3": "<start_of_turn>user\n<start_of_image>" + QUESTION}[kind]
    if kind == "gemma3":
        text = f"<bos>{text}<end_of_turn>\n<start_of_turn>model\n"
    given = processor(images=picture(), text=text, return_tensors="pt", add_special_tokens=False)
    inputs = model.prepare(picture(), QUESTION)
    assert inputs.input_ids.tolist() == given["input_ids"].tolist()
    assert inputs.tensors["token_type_ids"].tolist() == given["token_type_ids"].tolist()
    torch.testing.assert_close(inputs.pixel_values, given["pixel_values"])
    given.pop("labels", None)
    with torch.no_grad():
        torch.testing.assert_close(model(inputs).logits, twin(**given).logits, atol=1e-5, rtol=1e-5)
        expected = twin.generate(**given, max_new_tokens=5, do_sample=False, eos_token_id=None)
        assert model.generate(inputs, max_new_tokens=5, do_sample=False, eos_token_id=None).equal(expected)


@pytest.mark.parametrize(("kind", "language"), KINDS)
def test_without_token_types_it_is_still_the_same_model(kind, language):
    model = tiny_vlm(kind, language)
    inputs = model.prepare(picture(), QUESTION)
    with torch.no_grad():
        raw = model(inputs.input_ids, inputs.pixel_values, inputs.attention_mask).logits
        assert raw.equal(model(inputs).logits)
        untold = model.hf(inputs.input_ids, pixel_values=inputs.pixel_values, attention_mask=inputs.attention_mask)
        if kind == "gemma3":  # plain transformers, where it is not told, reads from left to right
            position = inputs.layout.image().positions[-2]
            assert not torch.allclose(raw[:, position], untold.logits[:, position], atol=1e-3)


@pytest.mark.parametrize(("kind", "language"), KINDS)
def test_an_answer_is_read_from_left_to_right(kind, language):
    """What was answered does not see what is answered behind it; the prompt does not see the answer."""
    model = tiny_vlm(kind, language)
    inputs = model.prepare(picture(), QUESTION)
    n = inputs.input_ids.shape[1]
    with torch.no_grad():
        short, longer = (model(inputs.with_answer(ids)).logits for ids in ([7, 8], [7, 8, 9]))
        prompt = model(inputs).logits
    torch.testing.assert_close(longer[:, : n + 2], short, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(longer[:, :n], prompt, atol=1e-5, rtol=1e-5)
    assert inputs.with_answer([7, 8]).tensors["token_type_ids"][0, n:].tolist() == [int(kind == "paligemma")] * 2


@pytest.mark.parametrize(("kind", "language"), KINDS)
def test_many_questions_are_answered_as_one_by_one(kind, language):
    model = tiny_vlm(kind, language)
    asked = [Asked(i % 2, q, "red") for i, q in enumerate(("a?", "what is it that is red?", "how many?", "b or c?"))]
    pictures = [picture(1, (15, 15)), picture(2, (15, 15))]
    together = ask_all(model, pictures, asked, max_new_tokens=4, batch_size=3)
    for one, found in zip(asked, together, strict=True):
        alone = ask_all(model, [pictures[one.image]], [Asked(0, one.question, "red")], max_new_tokens=4)[0]
        assert found.ids == alone.ids
        assert found.p_answer == pytest.approx(alone.p_answer, rel=1e-4)
        inputs = model.prepare(pictures[one.image], one.question)
        plain = model.generate(inputs, max_new_tokens=4, do_sample=False, eos_token_id=None)
        assert plain[0, inputs.input_ids.shape[1] :].tolist()[: len(found.ids)] == list(found.ids)


@pytest.mark.parametrize(("kind", "language"), KINDS)
def test_an_edit_reaches_what_stands_before_it(kind, language):
    """Runs that go on from an earlier one are whole runs, though rows of the image see those behind them."""
    model = tiny_vlm(kind, language)
    inputs = model.prepare([picture(1), picture(2)], [QUESTION, "how many are there?"])
    last = int(inputs.layouts[0].images[0].positions[-1])
    rows = [
        (0, [Ablate("language.blocks.0.hook_attn_out", positions=[last])]),
        (1, [Knockout("answer", "question", layers=[1, 2])]),
        (1, [Ablate("language.blocks.0.hook_mlp_out", positions="answer")]),
    ]
    found, exact = (Branches(model, inputs, exact=exact).run(rows) for exact in (False, True))
    torch.testing.assert_close(found, exact, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(found[0], Branches(model, inputs).logits[0], atol=1e-4)


@pytest.mark.parametrize("where", [(0, 0), (1, 3), (4, 2)])
@pytest.mark.parametrize(("kind", "language"), KINDS[1:])
def test_a_bright_patch_lights_its_cell(kind, language, where):
    """In what the language model is given and, of patches that are pooled, in the encoder."""
    model = tiny_vlm(kind, language)
    side = model.image_size
    plain = np.zeros((side, side, 3), dtype=np.uint8)
    bright = plain.copy()
    cell = side // GRID
    row, col = where
    bright[row * cell : (row + 1) * cell, col * cell : (col + 1) * cell] = 255
    names = ["vision.hook_embed", "connector.hook_in", "language.hook_embed"]
    traces = [model.trace(image, QUESTION, capture=names) for image in (plain, bright)]
    span = traces[0].layout.image()
    assert span.grid == (GRID, GRID)
    assert span.pooled == (POOLED if kind == "gemma3" else 1)
    change = (traces[1]["vision.hook_embed"] - traces[0]["vision.hook_embed"])[0].norm(dim=-1)
    assert set(change.nonzero().flatten().tolist()) == set(span.cells_at("vision.hook_embed")[row * GRID + col])
    cells = patches_of("vision.hook_embed", change[None, :, None], [traces[0].layout])[0, :, 0]
    assert int(cells.argmax()) == row * GRID + col
    box = span.patch_to_box(row, col)
    assert (box.left, box.top, box.right, box.bottom) == (col * cell, row * cell, (col + 1) * cell, (row + 1) * cell)
    assert span.box_to_patches((box.left, box.top, box.right, box.bottom)).sum() == 1
    into = traces[1]["connector.hook_in"]
    assert patches_of("connector.hook_in", into, [traces[1].layout]).shape == (1, GRID * GRID, into.shape[-1])


def test_the_encoder_is_shown_with_its_own_patches():
    model = tiny_vlm("gemma3", "gemma3")
    trace = model.trace(picture(0, (30, 30)), QUESTION)
    assert image_attention(trace).shape[2:] == (GRID, GRID)
    inside = encoder_attention(trace, "mean")
    assert inside.shape[2:] == (GRID * POOLED, GRID * POOLED)
    np.testing.assert_allclose(inside.sum(("row", "col")), 1.0, rtol=1e-5)
    assert inside.coords["right"].values.tolist() == list(np.arange(1, GRID * POOLED + 1) * float(PATCH))
    with pytest.raises(vlm_probe.VlmProbeError, match=r"every 2 x 2 patches are one cell of the grid"):
        trace.layout.image().rows_at("vision.blocks.0.hook_resid_pre")


@pytest.mark.parametrize(("kind", "language"), KINDS)
def test_a_saved_checkpoint_opens_and_is_the_same(kind, language, tmp_path):
    model = tiny_vlm(kind, language)
    model.save_pretrained(tmp_path)
    loaded = vlm_probe.load(tmp_path, device="cpu", prompt=model.prompt)
    inputs = loaded.prepare(picture(), QUESTION)
    with torch.no_grad():
        assert loaded(inputs).logits.equal(model(inputs).logits)
    assert loaded.preparer is not None
    assert not loaded.preparer.pad, "LLaVA-Gemma's habit is none of theirs"
    assert loaded.image_scale == 1.0
    assert loaded.token_scale == pytest.approx(42**0.5)
    assert untyped(verify(loaded)["ok"]).all()


def test_the_chat_template_of_gemma_3_is_understood(tmp_path):
    """Its own, as the hub has it, in what matters here."""
    model = tiny_vlm("gemma3", "gemma3")
    model.tokenizer.chat_template = (
        "{{ bos_token }}{% for m in messages %}<start_of_turn>{{ m['role'] }}\n{% if m['content'] is string %}"
        "{{ m['content'] }}{% else %}{% for c in m['content'] %}{% if c['type'] == 'image' %}<start_of_image>"
        "{% else %}{{ c['text'] | trim }}{% endif %}{% endfor %}{% endif %}<end_of_turn>\n{% endfor %}"
        "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
    )
    model.save_pretrained(tmp_path)
    loaded = vlm_probe.load(tmp_path, device="cpu")
    assert loaded.prompt == "<bos><start_of_turn>user\n{images}{question}<end_of_turn>\n<start_of_turn>model\n"
    text = loaded.prepare(picture(), QUESTION).prompts[0]
    assert f"user\n\n\n<start_of_image><image><end_of_image>\n\n{QUESTION}<end_of_turn>" in text


@pytest.mark.parametrize(("kind", "language"), KINDS)
def test_the_whole_circuit_is_the_model(kind, language):
    """Its runs begin at the rows that the language model gets, where nobody sees any more what is an image."""
    model = tiny_vlm(kind, language)
    clean, corrupt = (model.prepare(picture(seed), QUESTION) for seed in (1, 2))
    metric = LogitDifference((5,), (9,))
    graph = edge_attribution(model, clean, corrupt, metric=metric, steps=2)
    found = faithfulness(model, graph, clean, corrupt, metric=metric, edges=[len(graph)], control=False)
    assert found["faithfulness"].iloc[-1] == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize(("kind", "language"), KINDS)
def test_an_empty_cache_changes_nothing(kind, language):
    model = tiny_vlm(kind, language)
    inputs = model.prepare(picture(), QUESTION)
    with torch.no_grad():
        given = (inputs.input_ids, inputs.pixel_values, inputs.attention_mask)
        found = model(*given, past_key_values=DynamicCache(), use_cache=True).logits
        torch.testing.assert_close(found, model(inputs).logits, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("kind", "language"), KINDS)
def test_what_is_kept_of_a_text_does_not_hang_on_what_follows(kind, language):
    model = tiny_vlm(kind, language)
    one, other = (build_bank(model, [text], dtype=torch.float32) for text in ("ab cd", "ab ce"))
    assert one.contexts[:4] == other.contexts[:4]
    for layer, rows in one.rows.items():
        torch.testing.assert_close(rows[:4], other.rows[layer][:4], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("size", [(47, 20), (16, 50), (30, 30)])
def test_crops_of_pan_and_scan_are_images_of_their_own(size):
    """As its own processor makes them, and mapped back to the picture."""
    hf = tiny_llava("gemma3", "gemma3")
    processor, tokenizer = its_own_processor("gemma3", hf)
    images = processor.image_processor
    images.do_pan_and_scan = True
    images.pan_and_scan_min_crop_size, images.pan_and_scan_max_num_crops = 10, 3
    images.pan_and_scan_min_ratio_to_activate = 1.2
    model = HookedVLM(hf, tokenizer=tokenizer, preparer=ImagePreparer(images, pad=False))
    text = f"<bos><start_of_turn>user\n<start_of_image>{QUESTION}<end_of_turn>\n<start_of_turn>model\n"
    its = processor(
        images=picture(0, size), text=text, return_tensors="pt", add_special_tokens=False,
        do_pan_and_scan=True, pan_and_scan_min_crop_size=10, pan_and_scan_max_num_crops=3,
        pan_and_scan_min_ratio_to_activate=1.2,
    )  # fmt: skip
    inputs = model.prepare(picture(0, size), QUESTION)
    assert inputs.input_ids.tolist() == its["input_ids"].tolist()
    assert inputs.tensors["token_type_ids"].tolist() == its["token_type_ids"].tolist()
    torch.testing.assert_close(inputs.pixel_values, its["pixel_values"])
    spans = inputs.layout.images
    assert len(spans) == (1 if size == (30, 30) else 1 + len(spans[1:]))
    assert (len(spans) > 1) == (size != (30, 30))
    covered = np.zeros((size[1], size[0]), dtype=int)
    for span in spans[1:]:
        first, last = span.patch_to_box(0, 0), span.patch_to_box(GRID - 1, GRID - 1)
        covered[round(first.top) : round(last.bottom), round(first.left) : round(last.right)] += 1
    assert (covered == (len(spans) > 1)).all(), "the crops lie side by side"
    assert (inputs.layout.pictures, inputs.layout.views()) == (spans[:1], spans), "views of one picture"
    box = (size[0] - 9.0, size[1] - 9.0, size[0] - 2.0, size[1] - 2.0)
    hit = set(positions_of(inputs.layout, "box", boxes=[box]).tolist())
    assert hit & set(spans[0].positions.tolist())
    assert hit & set(spans[-1].positions.tolist()), "what is taken out of the whole is taken out of its crop"
    with pytest.raises(vlm_probe.VlmProbeError, match=r"shows long pictures in crops too \(pan and scan\)"):
        ask_all(model, [picture(0, size)], [Asked(0, "a?", "red")])


def test_an_untrained_copy_sees():
    copy_ = untrained(tiny_vlm("gemma3", "gemma3"))
    with torch.no_grad():
        one, other = (copy_(copy_.prepare(picture(seed), QUESTION)).logits[0, -1] for seed in (1, 2))
    assert not torch.allclose(one, other, atol=1e-5)


def test_patches_that_are_pooled_are_blanked_and_pooled_together():
    model = tiny_vlm("gemma3", "gemma3")
    inputs = model.prepare(picture(0, (30, 30)), QUESTION)
    assert inputs.pixel_values is not None
    mask = np.zeros((1, GRID, GRID), dtype=bool)
    mask[0, 4, 3] = True
    changed = (without_patches(inputs, mask)[0, 0] != inputs.pixel_values[0]).any(0).nonzero()
    assert (changed.min(0).values.tolist(), changed.max(0).values.tolist()) == ([24, 18], [29, 23])
    items = [item for item in generated_items(4) if item.boxes]
    point = "vision.blocks.4.hook_resid_post"
    for pool in ("mean", "box"):
        expected = features(model, items, point, pool=pool)[point].values
        np.testing.assert_allclose(encoded(model, items, [point])[0][pool][0], expected, atol=1e-5)


def test_a_capture_of_pooled_patches_is_their_grid(tmp_path):
    model, items = tiny_vlm("gemma3", "gemma3"), generated_items(2)
    points = ["vision.blocks.1.hook_resid_post", "connector.hook_out"]
    capture(model, items, points, tmp_path / "store", positions="image")
    kept = open_store(tmp_path / "store")
    assert kept[points[0]].shape[:3] == (len(items), GRID, GRID)
    expected = features(model, items, points[0], pool="patches")[points[0]].values
    np.testing.assert_allclose(kept[points[0]].values, expected, atol=1e-5)


def test_a_trimmed_vocabulary_opens_again(tmp_path):
    model = tiny_vlm("paligemma", "gemma")
    smaller = trim(model, model.tokenizer(f"{QUESTION} red Q:= ")["input_ids"])
    save(smaller, tmp_path)
    loaded = vlm_probe.load(tmp_path, device="cpu", prompt=model.prompt)
    inputs = loaded.prepare(picture(), QUESTION)
    with torch.no_grad():
        torch.testing.assert_close(
            loaded(inputs).logits, smaller(smaller.prepare(picture(), QUESTION)).logits, atol=1e-5, rtol=1e-5
        )


def test_both_names_of_a_language_model_are_one_row():
    assert {LANGUAGES[language]().model_type for _, language in KINDS} == {"gemma", "gemma2", "gemma3_text"}
    assert HookedVLM(tiny_llava("paligemma", "gemma")).image_token_id == IMAGE_TOKEN
