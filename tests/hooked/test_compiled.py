"""torch.compile: an idle model runs as it does without, and what is hooked or cut in one is an error, never silence."""

import copy
import gc

import jaxtyping
import pytest
import torch
from tiny import tiny_batch, tiny_llava

from vlm_probe import VlmProbeError, causal
from vlm_probe.attention import token_relevancy
from vlm_probe.causal import Knockout
from vlm_probe.hooked import HookedVLM

SILENT = "did not fire in this run: .*a graph that torch.compile made feeds none: run the model that is not compiled"


@pytest.fixture(autouse=True)
def fresh_graphs():
    """Tracers do not see through the checks of types that are on while testing."""
    jaxtyping.config.update("jaxtyping_disable", True)
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()
    jaxtyping.config.update("jaxtyping_disable", False)


def test_an_idle_model_compiles_and_hooks_on_the_graph_are_refused():
    model = HookedVLM(tiny_llava())
    batch = tiny_batch(model.hf, batch=1)
    inputs = model.prepare_tensors(batch["input_ids"], batch["pixel_values"])
    cut = [Knockout("answer", "image", range(3))]
    with torch.no_grad():
        expected = model(inputs).logits
        without = causal.run(model, inputs, cut)[0].logits
        compiled = torch.compile(model, backend="eager")
        assert torch.equal(compiled(**inputs.tensors).logits, expected)
        with (
            model.hooks(fwd_hooks=[("language.blocks.*.hook_resid_post", lambda x, hook: x * 0)]),
            pytest.raises(VlmProbeError, match=SILENT),
        ):
            compiled(**inputs.tensors)
        # The model itself is not compiled.
        assert torch.equal(causal.run(model, inputs, cut)[0].logits, without)
        assert torch.equal(compiled(**inputs.tensors).logits, expected)


def test_what_is_compiled_in_place_refuses_hooks_knockouts_and_relevancy():
    model = HookedVLM(tiny_llava())
    batch = tiny_batch(model.hf, batch=1)
    inputs = model.prepare_tensors(batch["input_ids"], batch["pixel_values"])
    with torch.no_grad():
        expected = model(inputs).logits
        model.hf.model.compile(backend="eager")
        assert torch.equal(model(inputs).logits, expected)
        with pytest.raises(VlmProbeError, match=SILENT):
            model.run_with_cache(inputs, names_filter="*.hook_resid_post")
        with pytest.raises(VlmProbeError, match=SILENT):
            causal.run(model, inputs, [Knockout("answer", "image", range(3))])
        assert torch.equal(model(inputs).logits, expected)
        with pytest.raises(VlmProbeError, match=SILENT):
            token_relevancy(model, inputs)


def test_other_models_may_be_freed_while_one_is_compiled():
    others = [HookedVLM(tiny_llava()) for _ in range(2)]

    def freeing(graph, _examples):
        others.clear()
        gc.collect()
        return graph.forward

    model = HookedVLM(tiny_llava())
    batch = tiny_batch(model.hf, batch=1)
    inputs = model.prepare_tensors(batch["input_ids"], batch["pixel_values"])
    with torch.no_grad():
        expected = model(inputs).logits
        model.hf.model.compile(backend=freeing)
        assert torch.equal(model(inputs).logits, expected)
    assert not others


def test_a_copy_of_a_wrapped_model_reports_to_nothing():
    model = HookedVLM(tiny_llava())
    batch = tiny_batch(model.hf, batch=1)
    fired = []
    with torch.no_grad(), model.hooks(fwd_hooks=[("*.hook_z", lambda x, hook: fired.append(hook.name))]):
        copied = copy.deepcopy(model.hf.model.language_model)
        copied(input_ids=batch["input_ids"] % 7)
        assert not fired
        model(model.prepare_tensors(batch["input_ids"], batch["pixel_values"]))
        assert fired


def test_another_attention_function_is_named_where_nothing_would_be_cut_or_reported():
    model = HookedVLM(tiny_llava())
    batch = tiny_batch(model.hf, batch=1)
    inputs = model.prepare_tensors(batch["input_ids"], batch["pixel_values"])
    model.hf.set_attn_implementation("sdpa")
    for run in (
        lambda: causal.run(model, inputs, [Knockout("answer", "image", 1)]),
        lambda: token_relevancy(model, inputs),
    ):
        with pytest.raises(VlmProbeError, match="attention is computed by 'sdpa' now, which feeds no point"):
            run()
