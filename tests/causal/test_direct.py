"""Parts add up to the logit, in every family, and each part is what the logit loses when it alone is taken away."""

from functools import cache
from typing import Any

import pytest
import torch
from tiny import LANGUAGES, tiny_batch, tiny_language, tiny_llava, tiny_vlm

from vlm_probe.causal.direct import direct_logit_attribution
from vlm_probe.errors import VlmProbeError
from vlm_probe.hooked import HookedVLM, ModelInputs, anatomy


@cache
def hooked(tower: str, language: str, pad: bool = True):
    hf = tiny_llava(tower, language)
    model = HookedVLM(hf)
    return model, model.prepare_tensors(**tiny_batch(hf, pad=pad))


def parts_of(model: HookedVLM, inputs: ModelInputs, **changes: Any) -> Any:
    return direct_logit_attribution(model, inputs, **changes)


def with_output_bias(monkeypatch, language: str):
    def config():
        made = LANGUAGES_BEFORE[language]()
        made.attention_bias = True
        return made

    monkeypatch.setitem(LANGUAGES, language, config)


LANGUAGES_BEFORE = dict(LANGUAGES)


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("tower", ["clip", "dinov2"])
def test_parts_sum_to_the_logit(tower, language):
    model, inputs = hooked(tower, language)
    with torch.no_grad():
        logits = model(inputs, return_type="logits")[:, -1]
    depth, heads = model.layers["language"], model.text_config.num_attention_heads
    for by, parts in (("layer", 1), ("head", heads)):
        table = parts_of(model, inputs, by=by)
        # Phi's norms, projections and output layer have biases.
        biases = 0 if language != "phi" else 1 + depth * (by == "head")
        assert len(table) == len(inputs) * (1 + depth * (1 + parts) + biases)
        sums = table.groupby("example")["value"].sum().to_numpy()
        assert sums == pytest.approx(logits.amax(-1).numpy(), rel=1e-4, abs=1e-4)
        assert [table.attrs["target.0"], table.attrs["target.1"]] == logits.argmax(-1).tolist()


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_part_is_what_the_logit_loses_without_it(language):
    """With the final norm's scale held at what it is, everything behind the last layer is linear."""
    model, inputs = hooked("clip", language)
    table = parts_of(model, inputs, target=[5, 13], against=[11, 17])
    last = model.layers["language"] - 1
    _, cache = model.run_with_cache(inputs, names_filter="language.ln_final.hook_scale")
    held = ("language.ln_final.hook_scale", lambda x, hook: cache["language.ln_final.hook_scale"])

    def difference(*hooks):
        logits = model.run_with_hooks(inputs, fwd_hooks=[held, *hooks], return_type="logits")[:, -1]
        return torch.stack([logits[0, 5] - logits[0, 11], logits[1, 13] - logits[1, 17]])

    whole = difference()
    lost = whole - difference((f"language.blocks.{last}.hook_mlp_out", lambda x, hook: torch.zeros_like(x)))
    mlp = table[(table["part"] == "mlp") & (table["layer"] == last)]["value"]
    assert lost.tolist() == pytest.approx(mlp.tolist(), rel=1e-3, abs=1e-4)

    # A head of the last layer, with the MLP behind it and the post-norm's scale held.
    _, before = model.run_with_cache(inputs, names_filter=[f"language.blocks.{last}.hook_*_out"])

    def keep(x, hook):
        return before[hook.name]

    z_name, out_name = f"language.blocks.{last}.attn.hook_z", f"language.blocks.{last}.hook_attn_out"
    z = model.run_with_cache(inputs, names_filter=z_name)[1][z_name]
    parts, bias = anatomy.heads_add(model, last, z)
    torch.testing.assert_close(parts.sum(2) + bias, before[out_name], rtol=1e-4, atol=1e-5)
    lost = whole - difference(
        (out_name, lambda x, hook: x - parts[:, :, 3]), (f"language.blocks.{last}.hook_mlp_out", keep)
    )
    head = table[(table["head"] == 3) & (table["layer"] == last)]["value"]
    assert lost.tolist() == pytest.approx(head.tolist(), rel=1e-3, abs=1e-4)


@pytest.mark.parametrize("language", ["gemma3", "llama"])
def test_the_bias_of_the_output_projection_is_a_part(language, monkeypatch):
    with_output_bias(monkeypatch, language)
    model, inputs = hooked.__wrapped__("clip", language)
    table = parts_of(model, inputs, target=7)
    assert (table["part"] == "attn bias").sum() == len(inputs) * model.layers["language"]
    assert table.loc[table["part"] == "attn bias", "value"].abs().min() > 0
    sums = table.groupby("example")[["value", "logit"]].agg({"value": "sum", "logit": "first"})
    assert sums["value"].to_numpy() == pytest.approx(sums["logit"].to_numpy(), rel=1e-4, abs=1e-4)
    by_layer = parts_of(model, inputs, target=7, by="layer")
    attn = by_layer[by_layer["part"] == "attn"].set_index(["example", "layer"])["value"]
    inside = table[table["part"].isin(["head", "attn bias"])].groupby(["example", "layer"])["value"].sum()
    assert inside.to_numpy() == pytest.approx(attn.to_numpy(), rel=1e-4, abs=1e-4)


def test_gemma_2_is_attributed_before_its_soft_cap():
    model = tiny_language("gemma2")
    with torch.no_grad():
        model.hf.lm_head.weight.mul_(300)  # far into the cap
    inputs = model.prepare(None, "what is it")
    table = parts_of(model, inputs, target=9)
    capped = model(inputs, return_type="logits")[0, -1, 9]
    cap = model.text_config.final_logit_softcapping
    whole = table["value"].sum()
    assert abs(whole) > cap
    assert cap * torch.tensor(whole / cap).tanh().item() == pytest.approx(capped.item(), rel=1e-4)


def test_another_position_and_a_difference():
    model, inputs = hooked("dinov2", "gemma", pad=False)
    logits = model(inputs, return_type="logits")[:, 4].detach()
    table = parts_of(model, inputs, target=3, against=[5, 7], position=4)
    sums = table.groupby("example")["value"].sum()
    assert sums.tolist() == pytest.approx(
        [float(logits[0, 3] - logits[0, 5]), float(logits[1, 3] - logits[1, 7])], 1e-4
    )


def test_a_text_is_the_token_that_begins_it():
    model: Any = tiny_vlm()
    inputs = model.prepare(torch.rand(3, 15, 15), "what?")
    assert parts_of(model, inputs, target="r").attrs["target.0"] == model.tokenizer("r")["input_ids"][0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"by": "neuron"}, "by must be 'layer' or 'head', got 'neuron'"),
        ({"target": [1, 2, 3]}, "there are 3 targets and 2 examples; give one, or one an example"),
        ({"target": 97}, "target token 97 is outside the vocabulary of 97"),
        ({"position": 32}, "position must be between 0 and 31, got 32"),
        ({"position": 0}, "position 0 is padding in an example"),
    ],
)
def test_what_is_refused(changes, message):
    model, inputs = hooked("clip", "gemma")
    with pytest.raises(VlmProbeError) as caught:
        parts_of(model, inputs, **changes)
    assert str(caught.value) == message
