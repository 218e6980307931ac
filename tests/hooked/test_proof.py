"""A hooked point that does not fire is an error, whatever silences it; and nothing outside can silence it unseen."""

import copy
from importlib.metadata import version

import pytest
import torch
from packaging.version import Version
from tiny import tiny_batch, tiny_language, tiny_llava, tiny_vlm
from transformers import LlavaForConditionalGeneration

from vlm_probe import VlmProbeError
from vlm_probe.attention import relevancy
from vlm_probe.causal import Knockout, applied
from vlm_probe.hooked import HookedVLM

PATTERNS = "language.blocks.*.attn.hook_pattern"
SILENCED = (
    "3 hooked points did not fire in this run: language.blocks.0.attn.hook_pattern, "
    "language.blocks.1.attn.hook_pattern, language.blocks.2.attn.hook_pattern; attention is computed by 'eager' now, "
    "which feeds no point: model.hf.set_attn_implementation('vlm_probe') brings it back"
)


LAYERS = "vision_feature_layer must be from -6 to 5 for 5 layers, and not 0 (-6 is the same), got"


def same(x, hook):
    return x


def test_a_twin_that_shares_the_configuration_silences_nothing():
    hf = tiny_llava()
    twin = LlavaForConditionalGeneration(hf.config)
    model = HookedVLM(hf)
    twin.set_attn_implementation("eager")
    _, cache = model.run_with_cache(**tiny_batch(hf), names_filter=PATTERNS)
    assert len(cache) == 3
    configs = {id(module.config) for module in hf.modules() if hasattr(module, "config")}
    assert len(configs) == 3  # LLaVA's, the encoder's, the language model's: shared within the model as before
    assert configs.isdisjoint(id(module.config) for module in twin.modules() if hasattr(module, "config"))


def _persistent(run):
    def with_hook(model, inputs):
        model.add_hook(PATTERNS, same)
        run(model, inputs)

    return with_hook


WAYS = {
    "cache": lambda model, inputs: model.run_with_cache(inputs, names_filter=PATTERNS),
    "hooks": lambda model, inputs: model.run_with_hooks(inputs, fwd_hooks=[(PATTERNS, same)]),
    "persistent": _persistent(lambda model, inputs: model(inputs)),
    "plain call": _persistent(lambda model, inputs: model.hf(**inputs.tensors)),
    "generate": _persistent(lambda model, inputs: model.generate(inputs, max_new_tokens=2)),
    "relevancy": lambda model, inputs: relevancy(model, inputs, target=5),
}


@pytest.mark.parametrize("way", WAYS)
def test_another_attention_implementation_is_named(way):
    model = tiny_vlm()
    inputs = model.prepare_tensors(**tiny_batch(model.hf, batch=1))
    model.hf.set_attn_implementation("eager")
    with pytest.raises(VlmProbeError) as caught:
        WAYS[way](model, inputs)
    # Relevancy hooks the encoder too.
    assert str(caught.value) == SILENCED or (way == "relevancy" and "did not fire in this run" in str(caught.value))
    model.reset_hooks()
    model.hf.set_attn_implementation("vlm_probe")
    assert len(model.run_with_cache(inputs, names_filter=PATTERNS)[1]) == 3


def test_a_run_without_an_image_fires_nothing_that_sees():
    model = tiny_vlm()
    ids = tiny_batch(model.hf)["input_ids"][:, :3]
    with pytest.raises(VlmProbeError) as caught, model.hooks([("connector.hook_out", same)]):
        model(ids)
    assert str(caught.value) == "1 hooked point did not fire in this run: connector.hook_out; it was given no image"
    assert not model.connector.any_active()
    # What is left over of one run says nothing about the next.
    with torch.no_grad(), model.hooks([("connector.hook_out", same)]):
        model(**tiny_batch(model.hf))
        with pytest.raises(VlmProbeError, match="it was given no image"):
            model(ids)


def test_steps_of_an_answer_see_no_image_again():
    model = tiny_vlm()
    inputs = model.prepare_tensors(**tiny_batch(model.hf))
    seen = []
    with model.hooks([("vision.blocks.0.hook_resid_post", lambda x, hook: seen.append(x.shape))]):
        model.generate(inputs, max_new_tokens=3, min_new_tokens=3)
        assert len(seen) == 1
        with torch.no_grad():
            cache = model(inputs, use_cache=True).past_key_values
            model(torch.tensor([[5], [7]]), past_key_values=cache)
    assert len(seen) == 2


@pytest.mark.parametrize("language", ["gemma", "gemma2", "gemma3", "llama", "qwen2"])
@pytest.mark.parametrize("tower", ["clip", "dinov2"])
def test_output_attentions_gives_the_patterns_and_silences_nothing(tower, language, recwarn):
    model = HookedVLM(tiny_llava(tower, language), embed_scale="text")
    plain = tiny_llava(tower, language)
    plain.set_attn_implementation("eager")
    batch = tiny_batch(model.hf, pad=True)
    with torch.no_grad():
        expected = plain(**batch, output_attentions=True).attentions
        ours = model(**batch, output_attentions=True).attentions
        output, cache = model.run_with_cache(**batch, output_attentions=True, names_filter=PATTERNS)
    assert len(ours) == len(expected) == len(cache) == 3
    real = batch["attention_mask"].bool()
    for own, theirs, cached, also in zip(ours, expected, cache.values(), output.attentions, strict=True):
        at = real[:, None, :, None].expand_as(own)
        torch.testing.assert_close(own[at], theirs[at], atol=1e-5, rtol=1e-5)
        assert torch.equal(also, cached)
    assert not [w for w in recwarn if "eager" in str(w.message)]


@pytest.mark.parametrize("made", [tiny_vlm, tiny_language])
def test_every_hooked_point_fires_in_every_family_or_says_so(made):
    model = made()
    batch = tiny_batch(model.hf) if model.vision_config is not None else {"input_ids": torch.tensor([[2, 5, 7]])}
    with torch.no_grad():
        _, cache = model.run_with_cache(**batch)
    assert list(cache) == list(model.hook_dict)


def test_a_point_that_nothing_feeds_is_named(monkeypatch):
    model = tiny_vlm()
    batch = tiny_batch(model.hf)
    layer = model.hf.model.language_model.layers[1]
    monkeypatch.setattr(layer, "forward", lambda hidden_states, **kwargs: copy.copy(hidden_states))
    with torch.no_grad(), pytest.raises(VlmProbeError) as caught:
        model.run_with_hooks(**batch, fwd_hooks=[("language.blocks.1.hook_mlp_out", same)])
    assert str(caught.value) == (
        "1 hooked point did not fire in this run: language.blocks.1.hook_mlp_out; the model did not compute what feeds "
        "them (a graph that torch.compile made feeds none: run the model that is not compiled)"
    )


def test_what_is_no_argument_is_refused_and_tensors_without_a_batch_get_one():
    model = tiny_vlm("clip", "gemma3")
    ids = torch.tensor([2, 5, 7, 11])
    with pytest.raises(VlmProbeError) as caught:
        model(ids, stop_at_layer=1)
    assert str(caught.value) == (
        "LlavaForConditionalGeneration takes no argument 'stop_at_layer'; nearest are 'vision_feature_layer'"
    )
    with torch.no_grad():
        assert torch.equal(model(ids, return_type="logits"), model(ids[None], return_type="logits"))
        assert model(ids, return_type=None) is None
        labelled = model(ids, labels=ids[None], return_type="loss")
    assert labelled.ndim == 0
    for given, message in (
        ({"return_type": "both"}, "return_type must be 'output', 'logits', 'loss' or None, got 'both'"),
        ({"return_type": "loss"}, "a loss needs labels: model(inputs, labels=..., return_type='loss')"),
        ({"vision_feature_layer": 7}, f"{LAYERS} 7"),
        ({"vision_feature_layer": 0}, f"{LAYERS} 0"),
        ({"vision_feature_layer": [1, -7]}, f"{LAYERS} [1, -7]"),
        ({"input_ids": None}, "there is nothing to run: model.prepare(image, question) makes inputs"),
    ):
        with pytest.raises(VlmProbeError) as caught:
            model(**{"input_ids": ids, **given})
        assert str(caught.value) == message


def test_what_a_model_is_not_made_of():
    pytest.importorskip("peft")
    from peft import LoraConfig, get_peft_model

    adapted = get_peft_model(tiny_llava(), LoraConfig(target_modules=["q_proj"]))
    with pytest.raises(VlmProbeError) as caught:
        HookedVLM(adapted)
    assert str(caught.value) == (
        "HookedVLM takes a Hugging Face model, got a PeftModel: merge its adapters first, "
        "HookedVLM(model.merge_and_unload())"
    )
    HookedVLM(adapted.merge_and_unload())
    for prompt, lacks in (
        ("{bos}{images}", "{question}"),
        ("{question}", "{images}"),
        ("{images}{question}" * 2, "{images}"),
    ):
        with pytest.raises(VlmProbeError) as caught:
            HookedVLM(tiny_llava(), prompt=prompt)
        assert str(caught.value) == f"a prompt must hold {lacks} once, got {prompt!r}"
    if not torch.cuda.is_available():
        with pytest.raises(VlmProbeError, match="model cannot be moved: Torch not compiled with CUDA enabled"):
            tiny_vlm().to("cuda")
    assert tiny_vlm().to(torch.float64).dtype == torch.float64


OLDER = Version(version("transformers")) < Version("5.20")
WITHIN = pytest.mark.skipif(OLDER, reason="these transformers encode the image within the runs, for every beam")


@pytest.mark.parametrize(
    "given",
    [
        {"use_cache": False},
        {},
        pytest.param({"prefill_chunk_size": 4}, marks=WITHIN),
        pytest.param({"num_beams": 2}, marks=WITHIN),
    ],
)
@pytest.mark.parametrize("change", ["cut", "hook"])
def test_an_encoder_need_run_once_in_a_call(given, change):
    """Without a cache `generate` runs the language model on the whole prompt for every token, and the encoder once."""
    model = tiny_vlm()
    batch = tiny_batch(model.hf, batch=1)
    inputs = model.prepare_tensors(batch["input_ids"], batch["pixel_values"])
    asked = {"max_new_tokens": 3, "do_sample": False, **given}
    plain = model.generate(inputs, **asked)
    changed = (
        applied(model, inputs, [Knockout((0,), (1, 2), None, part="vision")])
        if change == "cut"
        else model.hooks(fwd_hooks=[("vision.blocks.1.hook_resid_post", same)])
    )
    with changed:
        assert model.generate(inputs, **asked).shape == plain.shape
    with model.hooks(fwd_hooks=[("vision.blocks.1.hook_resid_post", same)]), pytest.raises(VlmProbeError):
        model(input_ids=torch.tensor([[2, 5, 7]]))  # what fired in another call is no proof
