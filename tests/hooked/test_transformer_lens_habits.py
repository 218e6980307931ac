"""Where TransformerLens would be silent or crash on our names: globs and checks in every method, and what is said."""

import inspect
import warnings

import pytest
import torch
from tiny import tiny_batch, tiny_language, tiny_vlm
from transformer_lens import HookedRootModule

from vlm_probe import VlmProbeError
from vlm_probe.hooked import HookedVLM

GLOB, NAMED = "language.blocks.*.hook_resid_mid", [f"language.blocks.{i}.hook_resid_mid" for i in range(3)]
WRONG = "language.blocks.0.hook_resid_mit"
UNKNOWN = (
    f"no hook point {WRONG!r}; nearest are 'language.blocks.0.hook_resid_mid', 'language.blocks.2.hook_resid_mid', "
    "'language.blocks.1.hook_resid_mid' (all: model.hook_dict)"
)


@pytest.fixture(scope="module")
def shared():
    return tiny_vlm()


@pytest.fixture
def model(shared):
    yield shared
    shared.reset_hooks(including_permanent=True)


@pytest.fixture
def batch(model):
    return tiny_batch(model.hf)


@pytest.fixture
def words():
    """Ids without an image."""
    return torch.tensor([[2, 5, 9, 14], [2, 7, 8, 30]])


def same(x, hook):
    return x


# --- every method that takes a name -------------------------------------------------------------------


def in_a_context(**hooks):
    def call(model, name):
        with model.hooks(**{direction: [(name, same)] for direction in hooks}):
            return list(model.list_hooks())

    return call


def run(model, name):
    seen = []
    model.run_with_hooks(**tiny_batch(model.hf), fwd_hooks=[(name, lambda x, hook: seen.append(hook.name))])
    return seen


def added(verb, *arguments):
    def call(model, name):
        getattr(model, verb)(*(name if a is GLOB else a for a in arguments))
        return list(model.list_hooks())

    return call


def listed(model, name):
    model.add_hook("*", same)
    return list(model.list_hooks(name))


CALLS = {
    "hooks": in_a_context(fwd_hooks=True),
    "hooks, backward": in_a_context(bwd_hooks=True),
    "run_with_hooks": run,
    "run_with_cache": lambda model, name: list(model.run_with_cache(**tiny_batch(model.hf), names_filter=name)[1]),
    "get_caching_hooks": lambda model, name: [n for n, _ in model.get_caching_hooks(name)[1]],
    "add_hook": added("add_hook", GLOB, same),
    "add_perma_hook": added("add_perma_hook", GLOB, same),
    "add_caching_hooks": added("add_caching_hooks", GLOB),
    "cache_some": added("cache_some", {}, GLOB),
    "list_hooks": listed,
}
"""Every method that names points, as (model, name) -> the names it reached."""
ONE_POINT = {"check_and_add_hook", "check_hooks_to_add"}
"""Take a point beside its name: no glob, but checked."""


def test_no_method_that_takes_a_name_is_left_out():
    said = {"name", "hook_point_name", "name_filter", "names_filter", "names", "fwd_hooks"}
    public = [m for m in inspect.getmembers(HookedVLM, inspect.isfunction) if hasattr(HookedRootModule, m[0])]
    own = [(name, f) for name, f in public if name[0] != "_" and not hasattr(torch.nn.Module, name)]
    takes = {name for name, f in own if said & set(inspect.signature(f).parameters)}
    assert takes == {name.split(",")[0] for name in CALLS} | ONE_POINT


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@pytest.mark.parametrize("name", [GLOB, NAMED, lambda name: name in NAMED], ids=["glob", "list", "predicate"])
def test_names_may_be_globs_lists_and_predicates(model, call, name):
    assert call(model, name) == NAMED


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@pytest.mark.parametrize("name", [WRONG, [*NAMED, WRONG]], ids=["alone", "in a list"])
def test_an_unknown_name_is_refused_and_nothing_is_hooked(model, call, name):
    with pytest.raises(VlmProbeError) as caught:
        call(model, name)
    assert str(caught.value) == UNKNOWN
    assert [n for n, handles in model.list_hooks().items() if any(h.user_hook is not same for h in handles)] == []


@pytest.mark.parametrize("verb", sorted(ONE_POINT))
def test_a_point_is_checked_against_its_name(model, verb):
    point = model.hook_dict[NAMED[0]]
    with pytest.raises(VlmProbeError) as caught:
        getattr(model, verb)(point, WRONG, same)
    assert str(caught.value) == UNKNOWN
    with pytest.raises(VlmProbeError) as caught:
        getattr(model, verb)(point, NAMED[1], same)
    assert str(caught.value) == f"the hook point {NAMED[1]!r} is another one than {NAMED[0]!r}"
    assert model.list_hooks() == {}
    getattr(model, verb)(point, NAMED[0], same)
    assert list(model.list_hooks()) == [NAMED[0]] * (verb == "check_and_add_hook")


def test_the_dictionaries_of_points_and_modules_list_the_nearest(model):
    for look in (lambda: model.hook_dict[WRONG], lambda: model.point(WRONG)):
        with pytest.raises(VlmProbeError) as caught:
            look()
        assert str(caught.value) == UNKNOWN
    with pytest.raises(KeyError) as caught:
        model.mod_dict["language.blocks.7"]
    assert str(caught.value) == (
        "no module 'language.blocks.7'; nearest are 'language.blocks.2', 'language.blocks.1', 'language.blocks.0' "
        "(all: model.mod_dict)"
    )
    assert WRONG not in model.hook_dict
    assert model.hook_dict.get(WRONG) is None


def test_a_predicate_may_select_nothing(model, batch):
    assert dict(model.run_with_cache(**batch, names_filter=lambda name: False)[1]) == {}


# --- without an image ---------------------------------------------------------------------------------


@pytest.mark.parametrize("names", [None, "*", ["*hook_pattern", "language.hook_embed"], lambda n: n.endswith("_q")])
def test_without_an_image_all_means_the_language_model(model, words, names):
    cache = model.run_with_cache(words, names_filter=names)[1]
    expected = [name for name in model.match(names) if name.startswith("language.")]
    assert list(cache) == expected != model.match(names)
    seen = []
    hooks = [(names, lambda x, hook: seen.append(hook.name))]
    model.run_with_hooks(input_ids=words, fwd_hooks=hooks)
    assert seen == expected
    prepared = model.prepare_tensors(words)
    assert list(model.run_with_cache(prepared, names_filter=names)[1]) == expected


@pytest.mark.parametrize("given", ["keyword", "position", "prepared"])
def test_with_an_image_all_means_all(model, batch, given):
    arguments = {
        "keyword": ((), batch),
        "position": ((batch["input_ids"], batch["pixel_values"]), {}),
        "prepared": ((model.prepare_tensors(**batch),), {}),
    }
    args, kwargs = arguments[given]
    assert list(model.run_with_cache(*args, **kwargs)[1]) == list(model.hook_dict)


def cached(model, names, **inputs):
    model.run_with_cache(**inputs, names_filter=names)


def edited(model, names, **inputs):
    model.run_with_hooks(**inputs, fwd_hooks=[(names, same)])


@pytest.mark.parametrize("call", [cached, edited])
@pytest.mark.parametrize(
    ("names", "said"),
    [("vision.blocks.*", "'vision.blocks.*'"), (lambda name: name.startswith("vision.blocks"), "the predicate")],
)
def test_names_of_the_encoder_alone_select_nothing_without_an_image(model, words, call, names, said):
    with pytest.raises(VlmProbeError) as caught:
        call(model, names, input_ids=words)
    assert str(caught.value) == (
        f"{said} selects 'vision.blocks.0.hook_resid_pre' and 64 more, none of which fires in a run without an image"
    )


@pytest.mark.parametrize("call", [cached, edited])
@pytest.mark.parametrize("names", ["vision.hook_embed", ["language.hook_embed", "vision.hook_embed"]])
def test_a_point_of_the_encoder_named_without_an_image_is_an_error(model, words, call, names):
    with pytest.raises(VlmProbeError, match=r"did not fire in this run: vision\.hook_embed; it was given no image$"):
        call(model, names, input_ids=words)
    assert model.list_hooks() == {}


def test_a_trace_without_an_image_has_the_patterns_there_are(model):
    trace = model.trace(None, "what?")
    assert list(trace.activations) == [f"language.blocks.{i}.attn.hook_pattern" for i in range(3)]


# --- gradients ----------------------------------------------------------------------------------------


def test_points_that_no_gradient_reached_are_named(model, batch):
    batch |= {"labels": batch["input_ids"], "return_type": "loss", "incl_bwd": True}
    with pytest.warns(UserWarning, match="no gradient") as caught:
        _, cache = model.run_with_cache(**batch)
    assert [str(w.message) for w in caught] == [
        "no gradient reached 13 of 119 points, whose '_grad' is not in the cache: vision.blocks.4.hook_resid_pre, "
        "vision.blocks.4.attn.hook_q, vision.blocks.4.attn.hook_k and 10 more. The output does not depend on them (as "
        "on vision layers behind the one that the connector reads), or nothing before them requires a gradient"
    ]
    reached = [name for name in model.hook_dict if not name.startswith("vision.blocks.4.")]
    assert sorted(cache) == sorted([*model.hook_dict, *(f"{name}_grad" for name in reached)])
    assert all(cache[f"{name}_grad"].shape == cache[name].shape for name in reached)
    with pytest.warns(UserWarning, match=r"reached 1 of 2 points, .* cache: vision.blocks.4.hook_mlp_out. The output"):
        model.run_with_cache(**batch, names_filter=["vision.blocks.4.hook_mlp_out", "connector.hook_out"])


def test_nothing_is_said_where_every_gradient_came(model, batch):
    batch |= {"labels": batch["input_ids"], "return_type": "loss", "incl_bwd": True}
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        cache = model.run_with_cache(**batch, names_filter=["vision.blocks.3.*", "language.*"])[1]
    assert sum(name.endswith("_grad") for name in cache) == len(cache) / 2


NEEDS_ONE = "incl_bwd=True runs backward from the model's output, which must be one number: pass labels=... and "


@pytest.mark.parametrize(
    ("return_type", "got"),
    [
        ("output", "LlavaCausalLMOutputWithPast"),
        ("logits", "a tensor of shape (2, 32, 97)"),
        (None, "NoneType"),
    ],
)
def test_gradients_need_one_number(model, batch, return_type, got):
    with pytest.raises(VlmProbeError) as caught:
        model.run_with_cache(**batch, return_type=return_type, incl_bwd=True)
    assert str(caught.value) == f"{NEEDS_ONE}return_type='loss'; got {got}"
    assert model.list_hooks() == {}


@torch.no_grad()
def test_gradients_need_gradients(model, batch):
    with pytest.raises(VlmProbeError) as caught:
        model.run_with_cache(**batch, labels=batch["input_ids"], return_type="loss", incl_bwd=True)
    assert str(caught.value) == (
        "incl_bwd=True needs gradients, and the output has none: run it outside torch.no_grad(), with weights that "
        "require them"
    )


# --- what a run takes and returns ---------------------------------------------------------------------


@torch.no_grad()
def test_what_is_returned_may_be_chosen(model, batch):
    output = model(**batch, labels=batch["input_ids"])
    assert torch.equal(model(**batch, return_type="logits"), output.logits)
    assert torch.equal(model(**batch, labels=batch["input_ids"], return_type="loss"), output.loss)
    seen = []
    hooks = [("language.hook_logits", lambda x, hook: seen.append(x))]
    assert model.run_with_hooks(**batch, return_type=None, fwd_hooks=hooks) is None
    assert torch.equal(seen[0], output.logits)
    nothing, cache = model.run_with_cache(**batch, return_type=None, names_filter="language.hook_logits")
    assert nothing is None
    assert torch.equal(cache["logits"], output.logits)


@pytest.mark.parametrize("name", ["stop_at_layer", "prepend_bos", "start_at_layer"])
@pytest.mark.parametrize("verb", ["__call__", "run_with_cache", "run_with_hooks"])
def test_an_argument_that_would_be_ignored_is_refused(model, batch, verb, name):
    with pytest.raises(VlmProbeError) as caught:
        getattr(model, verb)(**batch, **{name: 1})
    assert f"takes no argument {name!r}" in str(caught.value)
    assert model.list_hooks() == {}


@torch.no_grad()
@pytest.mark.parametrize("make", [tiny_vlm, tiny_language])
def test_ids_without_a_batch_dimension_are_a_batch_of_one(make):
    model = make()
    ids = torch.tensor([2, 5, 9])
    output, cache = model.run_with_cache(ids)
    expected, whole = model.run_with_cache(ids[None])
    assert output.logits.shape == (1, 3, 97)
    assert torch.equal(output.logits, expected.logits)
    assert all(torch.equal(cache[name], x) for name, x in whole.items())
    assert torch.equal(model.run_with_hooks(ids, return_type="logits"), model(ids[None]).logits)
