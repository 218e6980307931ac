"""LLaVA-Gemma as it was trained: equal to what transformers 4.41.2 computed."""

import numpy as np
import pytest
import torch
from tiny import REFERENCE

import vlm_probe

FOLDERS = ["clip_gemma", "dino_gemma", "clip_llama", "clip_gemma_erf", "clip_gemma_original", "dino_gemma_original"]


def recorded(folder: str) -> dict[str, np.ndarray]:
    with np.load(REFERENCE / folder.removesuffix("_original") / "reference.npz") as file:
        return dict(file)


@pytest.fixture(params=FOLDERS)
def case(request, reference):
    return vlm_probe.load(reference / request.param, device="cpu"), recorded(request.param)


def close(actual: torch.Tensor, expected: np.ndarray, where=None, atol: float = 1e-4) -> None:
    found = actual.numpy()
    if where is not None:
        found, expected = found[where], expected[where]
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, atol=atol, rtol=0)


def real_rows(logits: torch.Tensor, values: dict[str, np.ndarray], model) -> tuple[torch.Tensor, slice]:
    """The original layout has no image row: its first 511 entries are compared."""
    n = values["logits"].shape[-1] - ("original" in model.name)
    return logits[..., :n], slice(0, n)


@torch.no_grad()
def test_every_recorded_activation(case):
    model, values = case
    output, cache = model.run_with_cache(
        *(torch.from_numpy(values[k]) for k in ("input_ids", "pixel_values", "attention_mask"))
    )
    logits, rows = real_rows(output.logits, values, model)
    close(logits, values["logits"][..., rows])
    for i in range(3):
        close(cache[f"language.blocks.{i}.hook_resid_pre"], values[f"lm_hidden_{i}"])
        close(cache[f"language.blocks.{i}.attn.hook_pattern"], values[f"lm_attn_{i}"])
    weight = model.hf.model.language_model.norm.weight
    offset = 0.0 if "llama" in model.name else 1.0
    close(cache["language.ln_final.hook_normalized"] * (offset + weight), values["lm_hidden_3"])
    for i in range(4):
        close(cache[f"vision.blocks.{i}.hook_resid_pre"], values[f"vision_hidden_{i}"])
        close(cache[f"vision.blocks.{i}.attn.hook_pattern"], values[f"vision_attn_{i}"])
    close(cache["vision.blocks.3.hook_resid_post"], values["vision_hidden_4"])
    close(cache["connector.hook_out"], values["projector"])


@torch.no_grad()
def test_text_alone_padded_batches_and_two_images(case):
    model, values = case
    seen = set()
    for kind in ("text", "pad", "multi"):
        given = {k.removeprefix(f"{kind}_"): v for k, v in values.items() if k.startswith(f"{kind}_")}
        ids = next(v for k, v in given.items() if k == "input_ids")
        pixels = given.get("pixel_values", values["pixel_values"])
        mask = given.get("attention_mask", np.ones_like(ids))
        inputs = model.prepare_tensors(
            torch.from_numpy(ids), None if kind == "text" else torch.from_numpy(pixels), torch.from_numpy(mask)
        )
        logits, rows = real_rows(model(inputs).logits, values, model)
        close(logits, given["logits"][..., rows], where=mask.astype(bool))
        counts = [len(layout.images) for layout in inputs.layouts]
        seen.add((kind, tuple(counts)))
        for layout in inputs.layouts:
            for span in layout.images:
                assert len(span.positions) == 16
                assert span.grid == (4, 4)
    assert ("text", (0,)) in seen
    assert ("multi", (2,)) in seen


def test_greedy_decoding_with_the_cache(case):
    model, values = case
    out = model.generate(
        input_ids=torch.from_numpy(values["input_ids"][:1]),
        pixel_values=torch.from_numpy(values["pixel_values"][:1]),
        attention_mask=torch.from_numpy(values["attention_mask"][:1]),
        max_new_tokens=8,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
    )
    assert out[0, -8:].tolist() == values["greedy_new_ids"].tolist()


@torch.no_grad()
@pytest.mark.parametrize(("prefix", "dtype"), [("bf16", torch.bfloat16), ("fp16", torch.float16)])
@pytest.mark.parametrize("folder", FOLDERS)
def test_half_precision_block_0_input_is_bit_for_bit(reference, folder, prefix, dtype):
    values = recorded(folder)
    model = vlm_probe.load(reference / folder, device="cpu", dtype=dtype)
    pixels = torch.from_numpy(values["pixel_values"]).to(dtype)
    _, cache = model.run_with_cache(
        torch.from_numpy(values["input_ids"]),
        pixels,
        torch.from_numpy(values["attention_mask"]),
        names_filter=["connector.hook_out", "language.hook_embed"],
    )
    recorded_projector = torch.from_numpy(values[f"{prefix}_projector"])
    recorded_input = torch.from_numpy(values[f"{prefix}_lm_hidden_0"])
    # The recorded connector output decides what can be asked: given the same features, the scaled
    # rows have to be the recorded ones to the last bit.
    with model.hooks(fwd_hooks=[("connector.hook_out", lambda x, hook: recorded_projector.to(dtype))]):
        _, fed = model.run_with_cache(
            torch.from_numpy(values["input_ids"]),
            pixels,
            torch.from_numpy(values["attention_mask"]),
            names_filter="language.hook_embed",
        )
    assert torch.equal(fed["language.hook_embed"].float(), recorded_input.float())
    difference = (cache["connector.hook_out"].float() - recorded_projector.float()).abs().max()
    assert difference <= 4 * torch.finfo(dtype).eps * recorded_projector.float().abs().max()


def test_the_scale_is_printed_and_can_be_overridden(reference):
    model = vlm_probe.load(reference / "clip_gemma", device="cpu")
    assert "embed_scale='all' (image rows x 9.79796)" in repr(model)
    other = vlm_probe.load(reference / "clip_gemma", device="cpu", embed_scale="text")
    assert other.image_scale == 1.0
    values = recorded("clip_gemma")
    given = [torch.from_numpy(values[k]) for k in ("input_ids", "pixel_values", "attention_mask")]
    with torch.no_grad():
        assert np.abs(other(*given).logits.numpy() - values["logits"]).max() > 1, "the known error of plain loading"


@torch.no_grad()
def test_in_bfloat16_the_factor_is_rounded_as_the_old_code_did(reference):
    values = recorded("clip_gemma")
    model = vlm_probe.load(reference / "clip_gemma", device="cpu", dtype="bfloat16")
    given = [torch.from_numpy(values[k]) for k in ("input_ids", "pixel_values", "attention_mask")]
    given[1] = given[1].bfloat16()
    with model.hooks(fwd_hooks=[("connector.hook_out", lambda x, hook: torch.ones_like(x))]):
        _, cache = model.run_with_cache(*given, names_filter="language.hook_embed")
    image = given[0] == 511
    assert (cache["language.hook_embed"][image].float() == float(values["bf16_normalizer"])).all()
