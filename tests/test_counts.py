"""What is computed, counted: operations, passes, and bytes that are made or copied. Seconds are benchmarks/'s."""

from collections import Counter
from functools import partial
from unittest import mock

import pytest
import torch
from tiny import tiny_batch, tiny_llava
from torch.utils._python_dispatch import TorchDispatchMode
from transformers.models.clip.modeling_clip import CLIPVisionEmbeddings

from vlm_probe import load
from vlm_probe.attention import token_relevancy
from vlm_probe.hooked import HookedVLM
from vlm_probe.lens.logit_lens import stream_lens
from vlm_probe.report import inspect
from vlm_probe.running.asking import Asked, ask_all
from vlm_probe.scenes import scene_items
from vlm_probe.store import capture

COPIES = ("clone", "copy_", "_to_copy", "repeat", "contiguous")


class Counted(TorchDispatchMode):
    """Operations by their names, and the bytes of the largest tensor and of all that were made."""

    def __init__(self):
        super().__init__()
        self.names: list[str] = []
        self.largest = 0
        self.copied = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        given = func(*args, **(kwargs or {}))
        name = func._schema.name.removeprefix("aten::")
        self.names.append(name)
        for one in given if isinstance(given, (tuple, list)) else [given]:
            if isinstance(one, torch.Tensor):
                self.largest = max(self.largest, one.nbytes)
                self.copied += one.nbytes * (name in COPIES)
        return given


def counted(run) -> Counted:
    with Counted() as found:
        run()
    return found


@pytest.fixture
def model():
    return HookedVLM(tiny_llava())


@pytest.fixture
def inputs(model):
    batch = tiny_batch(model.hf, batch=1)
    return model.prepare_tensors(batch["input_ids"], batch["pixel_values"])


@torch.no_grad()
def cached(model, inputs, names):
    model.run_with_cache(inputs, names_filter=names)


@torch.no_grad()
def test_an_idle_model_does_what_plain_transformers_does(model, inputs):
    """Operation by operation; but that a vision layer behind the one that is read gets one token."""
    plain = tiny_llava()
    model.embed_scale = "text"
    expected = counted(lambda: plain(**inputs.tensors))
    assert counted(lambda: model.hf(**inputs.tensors)).names == expected.names
    spared = counted(lambda: model(inputs)).names
    more = Counter(spared) - Counter(expected.names)
    assert set(more) <= {"slice"}
    assert not Counter(expected.names) - Counter(spared)


@torch.no_grad()
def test_residual_streams_are_kept_without_a_copy(model, inputs):
    """What enters a layer is copied once, what is between attention and MLP twice: an edit must reach no other place,
    and both places that a layer holds it in."""
    idle = counted(lambda: model(inputs))
    stream = inputs.layout.length * model.hf.config.text_config.hidden_size * 4
    for name, copies in (("post", 0), ("pre", 1), ("mid", 2)):
        kept = counted(partial(cached, model, inputs, f"language.blocks.*.hook_resid_{name}"))
        assert (Counter(kept.names) - Counter(idle.names)).keys() <= {"detach", "alias", "clone", "copy_"}
        assert kept.copied - idle.copied == copies * stream * model.layers["language"]


@torch.no_grad()
def test_a_pattern_costs_its_own_layer_alone(model, inputs):
    sdpa = "_scaled_dot_product_flash_attention_for_cpu"
    idle = Counter(counted(lambda: model(inputs)).names)
    one = counted(partial(cached, model, inputs, "language.blocks.1.attn.hook_pattern"))
    assert Counter(one.names)[sdpa] == idle[sdpa] - 1
    text = model.hf.config.text_config
    assert Counter(one.names)["_softmax"] == text.num_attention_heads
    # Of all heads at once there is the pattern, and nothing else of its size but what holds every token's logit.
    pattern = text.num_attention_heads * inputs.layout.length**2 * 4
    assert one.largest <= max(pattern, counted(lambda: model(inputs)).largest)


def test_relevancy_is_one_forward_and_one_backward_pass(model, inputs):
    sdpa = "_scaled_dot_product_flash_attention_for_cpu"
    text = model.hf.config.text_config
    layers, heads = text.num_hidden_layers, text.num_attention_heads
    with torch.no_grad():
        forward = Counter(counted(lambda: model(inputs)).names)
    once = Counter(counted(lambda: token_relevancy(model, inputs)).names)
    assert once[sdpa] == forward[sdpa]
    assert once[f"{sdpa}_backward"] == layers
    assert once["_softmax"] == layers * heads
    again = Counter(counted(lambda: token_relevancy(model, inputs, recompute=True)).names)
    assert again[sdpa] == forward[sdpa] + layers
    assert again["_softmax"] == once["_softmax"]


def test_the_lens_never_makes_whole_logits():
    generator = torch.Generator().manual_seed(0)
    table, hidden = torch.randn(1009, 13, generator=generator), [torch.randn(31, 13, generator=generator)] * 5
    found = counted(lambda: stream_lens(hidden, table, block=101))
    assert found.largest <= max(5 * 31 * 101 * 4, table.nbytes)


def passes(run) -> Counter:
    """Of the whole model, and of its encoder."""
    found: Counter = Counter()
    forward, seen = HookedVLM.forward, CLIPVisionEmbeddings.forward

    def counting(*args, **kwargs):
        found["model"] += 1
        return forward(*args, **kwargs)

    def seeing(self, pixel_values, **kwargs):
        found["pictures"] += pixel_values.shape[0]
        return seen(self, pixel_values, **kwargs)

    with mock.patch.object(HookedVLM, "forward", counting), mock.patch.object(CLIPVisionEmbeddings, "forward", seeing):
        run()
    return found


def test_questions_about_an_image_share_its_encoding():
    model = load("replica/small-clip", device="cpu")
    item = next(iter(scene_items(1, seed=3)))
    asked = [Asked(0, question, "red") for question in ("What color is the star?", "Is there a red circle?")] * 3
    found = passes(lambda: ask_all(model, [model.picture(item)], asked, max_new_tokens=2))
    assert found["pictures"] == 1


def test_a_capture_is_one_pass_a_batch_and_writes_what_was_asked_for(tmp_path):
    model = load("replica/small-clip", device="cpu")
    items = list(scene_items(7, seed=3))
    name = "language.blocks.1.hook_resid_post"
    found = passes(lambda: capture(model, items, name, tmp_path / "store", batch_size=3))
    # The first item's picture is seen once more, to learn what there will be to write.
    assert (found["pictures"], found["model"]) == (8, 4)


def test_a_page_of_inspect_takes_a_known_number_of_passes(tmp_path):
    """It was 67: each control of the knockouts ran the route again, and each map asked for probabilities anew."""
    model = load("replica/small-clip", device="cpu")
    item = next(iter(scene_items(1, seed=3)))
    found = passes(lambda: inspect(model, model.picture(item), item.question, out=tmp_path, max_new_tokens=1))
    assert found["model"] <= 36
