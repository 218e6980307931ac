"""What TransformerLens' tests of caching and of ActivationCache ask, asked of a HookedVLM and of what it returns."""

import copy
import pickle
from collections.abc import Mapping
from unittest.mock import patch

import pytest
import torch
from tiny import tiny_batch, tiny_language, tiny_vlm
from transformer_lens.hook_points import HookPoint
from transformer_lens.utilities.slice import Slice

from vlm_probe import VlmProbeError
from vlm_probe.hooked.cache import ActivationCache
from vlm_probe.names import dimensions

PATTERN = "language.blocks.2.attn.hook_pattern"


@pytest.fixture(scope="module")
def model():
    return tiny_vlm()


@pytest.fixture(autouse=True)
def nothing_is_left_hooked(model):
    yield
    left = model.list_hooks()
    model.reset_hooks()
    assert left == {}


@pytest.fixture(scope="module")
def batch(model):
    return tiny_batch(model.hf)


@pytest.fixture(scope="module")
def one(model):
    return tiny_batch(model.hf, batch=1)


@pytest.fixture
@torch.no_grad()
def cache(model, batch):
    return model.run_with_cache(**batch)[1]


# --- run_with_cache ----------------------------------------------------------------------------------


@torch.no_grad()
def test_a_cache_has_every_point_in_the_order_of_firing(model, batch):
    output, cache = model.run_with_cache(**batch)
    assert list(cache) == list(cache.keys()) == list(model.hook_dict)
    assert [len(x) for x in cache.values()] == [2] * len(cache)
    torch.testing.assert_close(output.logits, model(**batch).logits, atol=1e-5, rtol=1e-5)
    fired = []
    model.run_with_hooks(**batch, fwd_hooks=[("*", lambda x, hook: fired.append(hook.name))])
    assert fired == list(cache)


def test_every_name_is_an_attribute_path_to_its_point(model):
    for name, point in model.hook_dict.items():
        found = model
        for part in name.split("."):
            found = getattr(found, part)
        assert isinstance(found, HookPoint)
        assert found is point is model.point(name) is model.mod_dict[name]


@torch.no_grad()
def test_a_cache_holds_what_a_hook_sees(model, batch):
    seen = {}
    model.run_with_hooks(**batch, fwd_hooks=[("language.*", lambda x, hook: seen.update({hook.name: x.clone()}))])
    cache = model.run_with_cache(**batch, names_filter="language.*")[1]
    assert list(cache) == list(seen)
    for name, x in cache.items():
        torch.testing.assert_close(x, seen[name], atol=1e-6, rtol=1e-6)


@torch.no_grad()
@pytest.mark.parametrize(
    "names_filter",
    ["*resid_pre", ["vision.*resid_pre", "language.*resid_pre"], lambda name: "resid_pre" in name],
    ids=["glob", "globs", "predicate"],
)
def test_a_filter_gives_what_it_names(model, batch, names_filter):
    cache = model.run_with_cache(**batch, names_filter=names_filter)[1]
    assert list(cache) == [name for name in model.hook_dict if "resid_pre" in name]


@torch.no_grad()
def test_inputs_may_be_tensors_or_prepared(model, batch):
    prepared = model.prepare_tensors(**batch)
    output, cache = model.run_with_cache(prepared)
    other, others = model.run_with_cache(**batch)
    assert torch.equal(output.logits, other.logits)
    assert list(cache) == list(others)
    assert all(torch.equal(cache[name], others[name]) for name in cache)


@torch.no_grad()
def test_a_cache_goes_to_a_device_and_the_model_stays(model, batch):
    with patch.object(model.hf, "to", wraps=model.hf.to) as moved:
        cache = model.run_with_cache(**batch, names_filter="*pattern", device="meta")[1]
    assert moved.call_count == 0
    assert {x.device.type for x in cache.values()} == {"meta"}
    assert model.device.type == "cpu"


def test_cached_activations_carry_no_graph(model, batch):
    cache = model.run_with_cache(**batch, names_filter="*.hook_resid_post")[1]
    assert not any(x.requires_grad for x in cache.values())


@torch.no_grad()
@pytest.mark.parametrize("verb", ["add_caching_hooks", "cache_some", "cache_all"])
def test_caching_hooks_may_be_added_and_stay(model, batch, verb):
    held = {}
    arguments = {"add_caching_hooks": ["*.hook_z", False, None, False, held], "cache_some": [held, "*.hook_z"]}
    getattr(model, verb)(*arguments.get(verb, [held]))
    assert model.is_caching
    model(**batch)
    assert list(held) == [name for name in model.hook_dict if verb == "cache_all" or name.endswith("hook_z")]
    model.reset_hooks()
    assert not model.is_caching


@torch.no_grad()
def test_caching_hooks_may_be_had_without_adding_them(model, batch):
    cache, fwd, bwd = model.get_caching_hooks("connector.*", incl_bwd=True)
    named = [f"connector.hook_{point}" for point in ("in", "pre", "post", "out")]
    assert [name for name, _ in fwd] == [name for name, _ in bwd] == named
    assert model.list_hooks() == {}
    with model.hooks(fwd_hooks=fwd):
        model(**batch)
    assert cache["connector.out"].shape == (2, 25, 42)


# --- positions and batches ---------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("remove", [False, True])
@pytest.mark.parametrize(
    "cut", [0, 13, -1, [2, 5], (3, 9), (1, 20, 4), Slice((3, 9)), torch.tensor([4, 1])], ids=lambda c: str(c)
)
def test_pos_slice_cuts_the_axis_that_is_the_sequence(model, one, cut, remove):
    whole = model.run_with_cache(**one)[1]
    sliced = model.run_with_cache(**one, pos_slice=cut, remove_batch_dim=remove)[1]
    assert list(sliced) == list(model.hook_dict)
    at = [cut] if isinstance(cut, int) else cut
    at = Slice(at).slice if not isinstance(at, Slice) else at.slice
    for name, x in whole.items():
        dims = dimensions(name)
        expected = x.select(0, 0)
        if dims[1] in ("position", "patch"):
            expected = expected[at]
        else:
            assert dims == ("batch", "head", "query", "key")
            expected = expected[:, at]
        assert torch.equal(sliced[name], expected if remove else expected[None]), name
        assert sliced[name].untyped_storage().nbytes() < x.untyped_storage().nbytes(), name


def test_pos_slice_cuts_gradients_alike(model, one):
    names = ["language.blocks.1.attn.hook_rot_k", "language.blocks.1.attn.hook_pattern"]
    arguments = {**one, "labels": one["input_ids"], "return_type": "loss", "incl_bwd": True, "names_filter": names}
    cache = model.run_with_cache(**arguments, pos_slice=(3, 8), remove_batch_dim=True)[1]
    assert {name: tuple(x.shape) for name, x in cache.items()} == {
        names[0]: (5, 2, 10),
        names[1]: (6, 5, 32),
        f"{names[0]}_grad": (5, 2, 10),
        f"{names[1]}_grad": (6, 5, 32),
    }


@torch.no_grad()
def test_a_position_that_a_part_does_not_have_is_refused(model, one):
    with pytest.raises(VlmProbeError) as caught:
        model.run_with_cache(**one, pos_slice=30)
    assert str(caught.value) == (
        "pos_slice [30] goes beyond vision.hook_embed, which has 26 positions; name the points of one part in "
        "names_filter, and positions that it has"
    )
    assert len(model.run_with_cache(**one, names_filter="language.*", pos_slice=30)[1]) == 49


@torch.no_grad()
@pytest.mark.parametrize(("part", "what"), [("language", "examples"), ("vision", "images")])
def test_a_batch_of_two_has_no_batch_dimension_to_remove(model, batch, part, what):
    name = f"{part}.blocks.1.hook_resid_post"
    message = (
        f"remove_batch_dim needs a batch of one, and {name} has one of 2 {what}: run them one at a time, or keep the "
        "dimension"
    )
    with pytest.raises(VlmProbeError) as caught:
        model.run_with_cache(**batch, names_filter=name, remove_batch_dim=True)
    assert str(caught.value) == message
    cache = model.run_with_cache(**batch, names_filter=name)[1]
    with pytest.raises(VlmProbeError) as caught:
        cache.remove_batch_dim()
    assert str(caught.value) == message
    assert cache.has_batch_dim
    assert len(cache[name]) == 2


@torch.no_grad()
def test_the_batch_dimension_is_removed_before_or_after(model, one):
    before = model.run_with_cache(**one, remove_batch_dim=True)[1]
    after = model.run_with_cache(**one)[1]
    assert (before.has_batch_dim, after.has_batch_dim) == (False, True)
    whole = dict(after)
    # A second time does nothing.
    assert after.remove_batch_dim().remove_batch_dim() is after
    assert not after.has_batch_dim
    for name, x in whole.items():
        assert torch.equal(before[name], x[0])
        assert torch.equal(after[name], x[0])


# --- the cache itself --------------------------------------------------------------------------------

SHORT = {
    ("pattern", 2): PATTERN,
    ("attn", 2): PATTERN,
    ("pattern", -1): PATTERN,
    ("pattern", 2, "attn"): PATTERN,
    ("pattern", 2, None): PATTERN,
    "pattern2": PATTERN,
    "blocks.2.attn.hook_pattern": PATTERN,
    ("language.pattern", 2): PATTERN,
    ("k", -3): "language.blocks.0.attn.hook_k",
    ("rot_q", 0): "language.blocks.0.attn.hook_rot_q",
    ("resid_post", 1): "language.blocks.1.hook_resid_post",
    ("post", 1, "mlp"): "language.blocks.1.mlp.hook_post",
    "embed": "language.hook_embed",
    ("embed", None): "language.hook_embed",
    "hook_embed": "language.hook_embed",
    "scale": "language.ln_final.hook_scale",
    "normalized": "language.ln_final.hook_normalized",
    "logits": "language.hook_logits",
    ("vision.pattern", 4): "vision.blocks.4.attn.hook_pattern",
    ("vision.pattern", -1): "vision.blocks.4.attn.hook_pattern",
    "vision.pattern4": "vision.blocks.4.attn.hook_pattern",
    ("vision.pre", 0): "vision.blocks.0.mlp.hook_pre",
    "vision.embed": "vision.hook_embed",
    "connector.pre": "connector.hook_pre",
    "connector.out": "connector.hook_out",
}


@pytest.mark.parametrize(("key", "name"), SHORT.items(), ids=map(str, SHORT))
def test_a_shorthand_is_the_activation_it_means(cache, key, name):
    assert cache[key] is cache[name] is cache.get(key) is cache.cache_dict[name]
    assert key in cache


UNKNOWN = {
    "language.blocks.0.hook_resid_pots": (
        "no activation 'language.blocks.0.hook_resid_pots' in this cache; nearest are "
        "'language.blocks.0.hook_resid_post', 'language.blocks.2.hook_resid_post', 'language.blocks.1.hook_resid_post' "
        "(all: cache.keys())"
    ),
    ("patern", 2): (
        "no activation ('patern', 2), which is 'language.blocks.2.hook_patern', in this cache; nearest are "
        "'language.blocks.2.attn.hook_pattern', 'language.blocks.1.attn.hook_pattern', "
        "'language.blocks.0.attn.hook_pattern' (all: cache.keys())"
    ),
    ("pattern", 3): (
        "no activation ('pattern', 3), which is 'language.blocks.3.attn.hook_pattern', in this cache; nearest are "
        "'language.blocks.2.attn.hook_pattern', 'language.blocks.1.attn.hook_pattern', "
        "'language.blocks.0.attn.hook_pattern' (all: cache.keys())"
    ),
}


@pytest.mark.parametrize(("key", "message"), UNKNOWN.items(), ids=map(str, UNKNOWN))
def test_an_unknown_name_lists_the_nearest(cache, key, message):
    with pytest.raises(VlmProbeError) as caught:
        cache[key]
    assert str(caught.value) == message
    assert isinstance(caught.value, KeyError)
    assert key not in cache
    assert cache.get(key, "nothing") == "nothing"


@pytest.mark.parametrize("key", [3, None, (), ("pattern", 2, None, 1), (2, "pattern"), ""])
def test_what_is_no_name_is_unknown_too(cache, key):
    assert key not in cache
    assert cache.get(key) is None
    with pytest.raises(VlmProbeError, match="^no activation "):
        cache[key]


def test_an_empty_cache_says_so():
    with pytest.raises(VlmProbeError) as caught:
        ActivationCache()["pattern", 2]
    assert str(caught.value) == (
        "no activation ('pattern', 2), which is 'language.blocks.2.attn.hook_pattern', in this cache; it is empty"
    )
    assert repr(ActivationCache()) == "ActivationCache(empty)"


def test_a_cache_is_a_dict(cache):
    assert isinstance(cache, dict)
    assert isinstance(cache, Mapping)
    assert list(cache.items()) == list(zip(cache.keys(), cache.values(), strict=True))
    assert {**cache}.keys() == dict(cache).keys() == cache.keys()
    for twin in (copy.copy(cache), pickle.loads(pickle.dumps(cache))):
        assert torch.equal(twin["pattern", -1], cache[PATTERN])
        assert list(twin) == list(cache)
    assert cache.pop(PATTERN) is not None
    assert ("pattern", 2) not in cache


@pytest.mark.parametrize("asked", [True, False])
def test_what_is_returned_is_a_dict_and_a_cache(model, batch, asked):
    cache = model.run_with_cache(**batch, return_cache_object=asked)[1]
    assert isinstance(cache, dict)
    assert isinstance(cache, ActivationCache)


def test_a_cache_says_briefly_what_it_holds(model, one):
    cache = model.run_with_cache(**one, names_filter=["vision.*hook_pattern", "language.hook_embed"])[1]
    size = (5 * 3 * 26 * 26 + 32 * 42) * 4 / 2**20
    assert repr(cache) == f"ActivationCache(6 activations: 5 of vision, 1 of language; {size:.1f} MiB on cpu)"


def test_a_cache_moves_in_place(cache):
    assert cache.to("meta") is cache
    assert {x.device.type for x in cache.values()} == {"meta"}


@pytest.mark.parametrize(("name", "layers"), [("resid_post", 3), ("language.z", 3), ("vision.resid_post", 5)])
@pytest.mark.parametrize("before", [-1, None, 1, 2])
def test_activations_of_layers_are_stacked(cache, name, layers, before):
    stack = cache.stack_activation(name, before)
    n = before if before in (1, 2) else layers
    assert len(stack) == n
    assert all(torch.equal(stack[i], cache[name, i]) for i in range(n))


@pytest.mark.parametrize(("layer", "name"), [(4, "resid_post"), (0, "pattern"), (-2, "pattern")])
def test_layers_that_are_not_there_are_not_stacked(cache, layer, name):
    with pytest.raises(VlmProbeError) as caught:
        cache.stack_activation(name, layer)
    assert str(caught.value) == f"cannot stack {name!r} of the layers before {layer}: there are 3"


def test_a_layer_that_was_not_cached_is_not_stacked(model, one):
    cache = model.run_with_cache(**one, names_filter=PATTERN)[1]
    with pytest.raises(VlmProbeError, match=r"no activation \('pattern', 0, None\)"):
        cache.stack_activation("pattern")


@pytest.mark.parametrize("method", ["decompose_resid", "logit_attrs", "apply_slice_to_batch_dim", "toggle_autodiff"])
def test_what_has_no_one_meaning_here_is_not_there(cache, method):
    assert not hasattr(cache, method)


def test_a_language_model_alone_has_the_same_cache():
    language = tiny_language()
    cache = language.run_with_cache(torch.tensor([[2, 5, 9]]))[1]
    assert list(cache) == list(language.hook_dict)
    assert cache["pattern", -1] is cache[PATTERN]
    assert cache.stack_activation("pattern").shape == (3, 1, 6, 3, 3)
