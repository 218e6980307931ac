"""What TransformerLens' tests of hooks ask (attaching, contexts, gradients, edits), asked of a HookedVLM."""

import copy
import logging

import pytest
import torch
from tiny import tiny_batch, tiny_language, tiny_llava, tiny_vlm

from vlm_probe.hooked import HookedVLM
from vlm_probe.names import dimensions

EMBED, RESID = "language.hook_embed", "language.blocks.1.hook_resid_post"
MAKERS = {"vlm": tiny_vlm, "language": tiny_language}


class Counter:
    """A hook that counts its calls."""

    def __init__(self):
        self.count = 0

    def __call__(self, x, hook):
        self.count += 1


@pytest.fixture(scope="module", params=MAKERS)
def shared(request):
    return MAKERS[request.param]()


@pytest.fixture
def model(shared):
    yield shared
    shared.reset_hooks(including_permanent=True)


@pytest.fixture
def batch(model):
    if model.vision_config is None:
        return {"input_ids": torch.tensor([[2, 5, 9, 14], [2, 7, 8, 30]])}
    return tiny_batch(model.hf)


@pytest.fixture
def counter():
    return Counter()


def hooked(model, direction="fwd", name=EMBED):
    return len(getattr(model.hook_dict[name], f"{direction}_hooks"))


def is_embed(name):
    return name == EMBED


# --- attaching and removing --------------------------------------------------------------------------


@pytest.mark.parametrize("name", [EMBED, is_embed, "language.hook_em*", ["language.hook_embed"]])
def test_run_with_hooks_attaches_for_one_run(model, batch, counter, name):
    model.run_with_hooks(**batch, fwd_hooks=[(name, counter)])
    assert model.list_hooks() == {}
    model(**batch)
    assert counter.count == 1


@pytest.mark.parametrize("name", [EMBED, is_embed, "language.hook_em*"])
def test_a_permanent_hook_stays_until_it_is_removed_as_such(model, batch, counter, name):
    model.add_perma_hook(name, counter)
    model.run_with_hooks(**batch, fwd_hooks=[])
    model(**batch)
    assert (counter.count, hooked(model)) == (2, 1)
    model.reset_hooks()
    model.remove_all_hook_fns()
    assert hooked(model) == 1
    model.remove_all_hook_fns(including_permanent=True)
    assert hooked(model) == 0
    model(**batch)
    assert counter.count == 2


@pytest.mark.parametrize("name", [EMBED, is_embed])
def test_a_context_hooks_while_it_lasts(model, batch, counter, name):
    with model.hooks(fwd_hooks=[(name, counter)]) as same:
        assert same is model
        assert hooked(model) == 1
        model.forward(**batch)
    assert (counter.count, hooked(model)) == (1, 0)


def test_contexts_nest(model, batch, counter):
    with model.hooks(fwd_hooks=[(is_embed, counter)]):
        model.forward(**batch)
        with model.hooks(fwd_hooks=[(is_embed, counter)]):
            assert hooked(model) == 2
            model.forward(**batch)
        assert (counter.count, hooked(model)) == (3, 1)
    assert hooked(model) == 0


def test_a_cache_inside_a_context_leaves_the_context_its_hook(model, batch, counter):
    with model.hooks(fwd_hooks=[(is_embed, counter)]):
        model.run_with_cache(**batch)
        assert hooked(model) == 1
    assert (counter.count, hooked(model)) == (1, 0)


def test_a_permanent_hook_outlives_a_context(model, batch, counter):
    model.add_perma_hook(is_embed, counter)
    with model.hooks(fwd_hooks=[(is_embed, counter)]):
        assert hooked(model) == 2
        model.forward(**batch)
    assert (counter.count, hooked(model)) == (2, 1)


def test_a_failing_inner_context_takes_its_own_hooks_alone(model, batch, counter):
    def fail(x, hook):
        raise ValueError("planned")

    def run():
        with model.hooks(fwd_hooks=[(is_embed, fail)]):
            assert hooked(model) == 2
            model.forward(**batch)

    with model.hooks(fwd_hooks=[(is_embed, counter)]):
        with pytest.raises(ValueError, match="planned"):
            run()
        assert (counter.count, hooked(model)) == (1, 1)
    assert hooked(model) == 0


def test_hooks_may_be_reset_inside_a_context(model, counter):
    with model.hooks(fwd_hooks=[(is_embed, counter)]):
        model.reset_hooks()
        assert hooked(model) == 0
    assert hooked(model) == 0


def test_a_context_may_keep_its_hooks(model, counter):
    with model.hooks(fwd_hooks=[(EMBED, counter)], reset_hooks_end=False):
        pass
    assert hooked(model) == 1


def test_an_error_in_a_hook_reaches_the_caller(model, batch):
    def fail(x, hook):
        raise ValueError("planned")

    model.add_hook("language.blocks.0.attn.hook_v", fail)
    with pytest.raises(ValueError, match="planned"):
        model(**batch)


@pytest.mark.parametrize("name", [EMBED, is_embed])
def test_a_hook_of_a_context_carries_its_level(model, counter, name):
    with model.hooks(), model.hooks(fwd_hooks=[(name, counter)], bwd_hooks=[(name, counter)]):
        point = model.hook_dict[EMBED]
        assert [handle.context_level for handle in (*point.fwd_hooks, *point.bwd_hooks)] == [2, 2]
        assert list(model.list_hooks()) == [EMBED]


@pytest.mark.parametrize("clear", [True, False])
def test_contexts_of_points_are_cleared_where_asked(model, batch, clear):
    def remember(x, hook):
        hook.ctx["seen"] = x.shape

    model.run_with_hooks(**batch, fwd_hooks=[(EMBED, remember)], clear_contexts=clear)
    assert ("seen" in model.hook_dict[EMBED].ctx) is not clear
    model.clear_contexts()
    assert model.hook_dict[EMBED].ctx == {}


# --- backward ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("answer", [lambda g: (g,), lambda g: g, lambda g: None], ids=["tuple", "tensor", "nothing"])
@pytest.mark.parametrize("name", [is_embed, RESID])
def test_a_backward_hook_runs_with_the_backward_pass(model, batch, counter, name, answer):
    def hook(gradient, hook):
        counter(gradient, hook)
        return answer(gradient)

    at = EMBED if name is is_embed else RESID
    with model.hooks(bwd_hooks=[(name, hook)]):
        assert hooked(model, "bwd", at) == 1
        logits = model(**batch).logits
        assert counter.count == 0
        logits.sum().backward()
    assert (counter.count, hooked(model, "bwd", at)) == (1, 0)


def test_a_backward_hook_changes_the_gradient(model, batch):
    seen = []
    hooks = [(RESID, lambda g, hook: 3 * g), ("language.blocks.1.hook_resid_pre", lambda g, hook: seen.append(g))]
    for bwd in (hooks, hooks[1:]):
        with model.hooks(bwd_hooks=bwd):
            model(**batch).logits.sum().backward()
    torch.testing.assert_close(seen[0], 3 * seen[1])


@pytest.mark.parametrize("reset", [lambda m: m.reset_hooks(), lambda m: m.remove_all_hook_fns("bwd")])
def test_resetting_removes_backward_hooks(model, counter, reset):
    model.add_hook(RESID, counter, dir="bwd")
    model.add_hook(RESID, counter, dir="fwd")
    reset(model)
    assert not model.hook_dict[RESID].has_hooks(dir="bwd")


def test_run_with_hooks_warns_that_backward_hooks_will_be_gone(model, batch, counter, caplog):
    with caplog.at_level(logging.WARNING):
        model.run_with_hooks(**batch, bwd_hooks=[(EMBED, counter)])
    assert "removes the backward hooks before a backward pass can occur" in caplog.text
    assert hooked(model, "bwd") == 0


def test_a_cache_leaves_other_backward_hooks_alone(model, batch, counter):
    model.add_hook(RESID, counter, dir="bwd")
    model.run_with_cache(**batch, names_filter=RESID)
    assert hooked(model, "bwd", RESID) == 1


# --- editing -----------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("prepend", [True, False])
@pytest.mark.parametrize("zero_is_added", [0, 1])
def test_of_two_hooks_the_prepended_runs_first(model, batch, prepend, zero_is_added):
    def zero(x, hook):
        x[:] = 0.0
        return x

    def noise(x, hook):
        return torch.randn_like(x)

    for hook in (zero, noise) if zero_is_added == 0 else (noise, zero):
        model.add_hook("language.blocks.2.hook_resid_post", hook, prepend=prepend)
    # An RMSNorm of nothing is nothing, and the output layer has no bias.
    zero_was_last = (zero_is_added == 1) != prepend
    assert bool((model(**batch).logits == 0).all()) is zero_was_last


@torch.no_grad()
def test_a_zeroed_residual_changes_the_output(model, batch):
    plain = model(**batch, return_type="logits")
    name = "language.blocks.0.hook_resid_pre"
    edited = model.run_with_hooks(**batch, return_type="logits", fwd_hooks=[(name, lambda x, hook: 0 * x)])
    assert not torch.allclose(plain, edited)


@torch.no_grad()
def test_ablating_a_head_of_values_is_zeroing_its_weights():
    """The reference is plain transformers, whose value projection of that head is zero."""
    plain = tiny_llava()
    batch = tiny_batch(plain)
    batch["labels"] = batch["input_ids"]
    twin = copy.deepcopy(plain)
    twin.set_attn_implementation("sdpa")
    untouched = twin(**batch).loss
    twin.model.language_model.layers[0].self_attn.v_proj.weight[10:20] = 0

    def ablate(v, hook):
        v[:, :, 1, :] = 0
        return v

    model = HookedVLM(plain, embed_scale="text")
    loss = model.run_with_hooks(**batch, return_type="loss", fwd_hooks=[("language.blocks.0.attn.hook_v", ablate)])
    assert abs(loss - untouched) > 1e-4
    torch.testing.assert_close(loss, twin(**batch).loss, atol=1e-5, rtol=1e-5)


# --- what fires --------------------------------------------------------------------------------------


def test_every_point_fires_once(model, batch):
    seen = []
    model.run_with_hooks(**batch, return_type=None, fwd_hooks=[(lambda name: True, lambda x, hook: seen.append(hook))])
    assert sorted(hook.name for hook in seen) == sorted(model.hook_dict)


def test_an_embedding_has_three_dimensions_and_a_value_four(model, batch):
    shapes = {}
    names = [EMBED, "language.blocks.0.attn.hook_v"]
    model.run_with_hooks(**batch, fwd_hooks=[(names, lambda x, hook: shapes.update({hook.name: tuple(x.shape)}))])
    n, length = batch["input_ids"].shape
    assert shapes == {EMBED: (n, length, 42), names[1]: (n, length, 2, 10)}
    assert all(len(dimensions(name)) == len(shape) for name, shape in shapes.items())


def test_hooks_of_several_points_fire_apart(model, batch):
    fired = set()
    names = ["language.blocks.0.hook_resid_pre", "language.blocks.0.hook_resid_post"]
    hooks = [(name, lambda x, hook, n=name: fired.add((n, hook.name))) for name in names]
    model.run_with_hooks(**batch, fwd_hooks=hooks)
    assert fired == {(name, name) for name in names}


def test_a_hook_may_use_up_what_another_left(model, batch):
    left = {}
    model.add_perma_hook("language.blocks.0.hook_resid_mid", lambda x, hook: left.update(x=x.clone()))
    # A second call would find nothing to pop.
    model.add_perma_hook("language.blocks.0.hook_mlp_out", lambda x, hook: left.pop("x") + 0 * x)
    model(**batch)
    assert left == {}


@torch.no_grad()
def test_scores_of_patterns_are_collected_by_layer(model, batch):
    """The main demo's idiom: a predicate, `hook.layer()`, and no output asked for."""
    calls, scores = [], torch.full((3, 6), torch.nan)

    def collect(pattern, hook):
        calls.append(hook.name)
        scores[hook.layer()] = pattern.diagonal(dim1=-2, dim2=-1, offset=-2).mean((0, -1))
        return pattern

    def is_pattern(name):
        return name.startswith("language") and name.endswith("pattern")

    assert model.run_with_hooks(**batch, return_type=None, fwd_hooks=[(is_pattern, collect)]) is None
    assert calls == [f"language.blocks.{i}.attn.hook_pattern" for i in range(3)]
    assert bool(((scores > 0) & (scores < 1)).all())


@torch.no_grad()
def test_a_padded_batch_is_seen_as_its_rows_alone():
    model = tiny_vlm()
    batch, seen = tiny_batch(model.hf, pad=True), []
    name = "language.blocks.2.hook_resid_post"
    model.run_with_hooks(**batch, fwd_hooks=[(name, lambda x, hook: seen.append(x[:, -1]))])
    for i, row in enumerate(seen[0]):
        live = batch["attention_mask"][i].bool()
        ids, pixels = batch["input_ids"][i, live][None], batch["pixel_values"][i : i + 1]
        output, cache = model.run_with_cache(ids, pixels, names_filter=name)
        torch.testing.assert_close(cache[name][0, -1], row, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(output.logits[0, -1], model(**batch).logits[i, -1], atol=1e-5, rtol=1e-5)
