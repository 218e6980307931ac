"""Hook points: all fire, edits reach what they should, nothing is left behind."""

import copy

import pytest
import torch
from tiny import tiny_batch, tiny_llava

from vlm_probe import VlmProbeError
from vlm_probe.hooked import HookedVLM
from vlm_probe.names import dimensions

LAYER_POINTS = (
    "hook_resid_pre",
    "hook_attn_out",
    "hook_resid_mid",
    "hook_mlp_out",
    "hook_resid_post",
    "attn.hook_q",
    "attn.hook_k",
    "attn.hook_v",
    "attn.hook_z",
    "attn.hook_attn_scores",
    "attn.hook_pattern",
    "mlp.hook_pre",
    "mlp.hook_post",
)


@pytest.fixture
def model():
    return HookedVLM(tiny_llava("dinov2", "gemma"))


def side_by_side(llava) -> bool:
    """Phi adds attention and MLP to one stream: there is nothing between the two."""
    return llava.config.text_config.model_type == "phi"


def no_hooks(model: HookedVLM) -> bool:
    return not any(p._forward_hooks or p._backward_hooks for p in model.hook_points())


def test_declared_names_are_those_of_the_design(any_llava):
    hooked = HookedVLM(any_llava)
    expected = {"vision.hook_embed", "language.hook_embed", "language.hook_logits"}
    expected |= {f"language.ln_final.hook_{p}" for p in ("scale", "normalized")}
    connector = {"paligemma": (), "gemma3": ("hook_pooled", "ln.hook_scale", "ln.hook_normalized")}
    own = connector.get(any_llava.config.model_type, ("hook_pre", "hook_post"))
    expected |= {f"connector.{p}" for p in ("hook_in", *own, "hook_out")}
    expected |= {f"vision.blocks.{i}.{p}" for i in range(5) for p in LAYER_POINTS}
    rotary = (*LAYER_POINTS, "attn.hook_rot_q", "attn.hook_rot_k")
    expected |= {f"language.blocks.{i}.{p}" for i in range(3) for p in rotary}
    if side_by_side(any_llava):
        expected -= {f"language.blocks.{i}.hook_resid_mid" for i in range(3)}
    assert set(hooked.hook_dict) == expected


@torch.no_grad()
def test_every_declared_hook_fires_once_with_its_declared_dimensions(any_llava):
    hooked = HookedVLM(any_llava)
    fired = []
    with hooked.hooks(fwd_hooks=[(lambda name: True, lambda x, hook: fired.append((hook.name, x)))]):
        hooked(**tiny_batch(any_llava))
    assert sorted(name for name, _ in fired) == sorted(hooked.hook_dict)
    sizes = {
        "batch": 2,
        "d_model": 42,
        "d_vision": 39,
        "vocabulary": 97,
        "one": 1,
        ("vision", "head"): 3,
        ("vision", "d_head"): 13,
        ("language", "d_head"): 10,
    }
    for name, x in fired:
        part = name.split(".")[0]
        for dim, size in zip(dimensions(name), x.shape, strict=True):
            wanted = sizes.get((part, dim), sizes.get(dim))
            if part == "language" and dim == "head":
                wanted = 2 if (name.endswith(("hook_k", "hook_v")) and "rot" not in name) or "rot_k" in name else 6
            assert wanted in (None, size), (name, dim, x.shape)


@torch.no_grad()
def test_identity_edits_change_nothing(any_llava):
    hooked = HookedVLM(any_llava)
    batch = tiny_batch(any_llava, pad=True)
    live = batch["attention_mask"].bool()
    idle = hooked(**batch).logits[live]
    for hook in (lambda x, hook: x, lambda x, hook: x.clone()):
        for name in hooked.hook_dict:
            edited = hooked.run_with_hooks(**batch, fwd_hooks=[(name, hook)]).logits[live]
            torch.testing.assert_close(edited, idle, atol=1e-5, rtol=1e-5, msg=lambda m, n=name: f"{n}: {m}")


@torch.no_grad()
def test_every_point_up_to_the_selected_layer_can_be_edited(any_llava):
    hooked = HookedVLM(any_llava)
    batch = tiny_batch(any_llava)
    idle = hooked(**batch).logits

    def nudge(x, hook):
        # Scores move unevenly, since a constant would cancel in the softmax; so do residuals in the norms.
        return x * torch.linspace(0.5, 1.5, x.shape[-1]) + 0.05

    for name in hooked.hook_dict:
        edited = hooked.run_with_hooks(**batch, fwd_hooks=[(name, nudge)]).logits
        # LLaVA's connector reads the output of layer 3 (of 5): layer 4 is behind it.
        behind = name.startswith("vision.blocks.4.") and hooked.vision_layers_read == 4
        assert torch.equal(edited, idle) if behind else not torch.allclose(edited, idle, atol=1e-4), name


@torch.no_grad()
def test_an_edit_of_resid_mid_reaches_the_skip_connection_and_the_mlp(any_llava):
    hooked = HookedVLM(any_llava)
    batch = tiny_batch(any_llava)
    for part in ("vision",) if side_by_side(any_llava) else ("vision", "language"):
        at = f"{part}.blocks.1.hook_"
        with hooked.hooks(fwd_hooks=[(at + "resid_mid", lambda x, hook: torch.zeros_like(x))]):
            _, cache = hooked.run_with_cache(**batch, names_filter=[at + "resid_post", at + "mlp_out"])
        torch.testing.assert_close(cache[at + "resid_post"], cache[at + "mlp_out"])


@torch.no_grad()
def test_patching_with_its_own_activation_changes_nothing_and_with_anothers_moves_to_it(any_llava):
    hooked = HookedVLM(any_llava)
    clean, other = tiny_batch(any_llava), tiny_batch(any_llava)
    other["pixel_values"] = other["pixel_values"].flip(0)
    for name in (
        "vision.blocks.3.hook_resid_post",
        "vision.blocks.2.hook_resid_mid",
        "connector.hook_out",
        "language.blocks.0.hook_attn_out" if side_by_side(any_llava) else "language.blocks.0.hook_resid_mid",
        "language.blocks.2.hook_resid_post",
    ):
        clean_logits, clean_cache = hooked.run_with_cache(**clean, names_filter=name)
        other_logits, other_cache = hooked.run_with_cache(**other, names_filter=name)
        assert not torch.allclose(clean_logits.logits, other_logits.logits)
        same = hooked.run_with_hooks(**clean, fwd_hooks=[(name, lambda x, hook, c=clean_cache: c[hook.name])])
        torch.testing.assert_close(same.logits, clean_logits.logits, atol=0, rtol=0)
        moved = hooked.run_with_hooks(**clean, fwd_hooks=[(name, lambda x, hook, c=other_cache: c[hook.name])])
        if name in ("vision.blocks.3.hook_resid_post", "connector.hook_out"):
            # All that differs between the two runs passes through here.
            torch.testing.assert_close(moved.logits, other_logits.logits, atol=1e-5, rtol=1e-5)
        elif name == "language.blocks.2.hook_resid_post":
            torch.testing.assert_close(moved.logits, other_logits.logits, atol=0, rtol=0)
        else:
            assert not torch.allclose(moved.logits, clean_logits.logits, atol=1e-4)


@torch.no_grad()
def test_edits_in_place_count_as_edits(any_llava):
    """The commonest idiom: x[...] = 0 and return x, or return nothing at all."""
    hooked = HookedVLM(any_llava)
    batch = tiny_batch(any_llava)

    def apart(x, hook):
        edited = x.clone()
        edited[:, 5:9] *= 0.5
        return edited

    def within(x, hook):
        x[:, 5:9] *= 0.5

    # Attention points have heads where others have positions; the model does not mind.
    for name in hooked.hook_dict:
        expected = hooked.run_with_hooks(**batch, fwd_hooks=[(name, apart)]).logits
        got = hooked.run_with_hooks(**batch, fwd_hooks=[(name, within)]).logits
        torch.testing.assert_close(got, expected, atol=1e-6, rtol=1e-6, msg=lambda m, n=name: f"{n}: {m}")


def test_a_model_is_wrapped_once_and_never_copied(model):
    with pytest.raises(VlmProbeError, match="is wrapped in a HookedVLM already"):
        HookedVLM(model.hf)
    with pytest.raises(VlmProbeError, match="cannot be copied"):
        copy.deepcopy(model)


@torch.no_grad()
def test_another_vision_layer_may_be_asked_for_in_a_call(any_llava):
    if any_llava.config.model_type != "llava":
        with pytest.raises(VlmProbeError, match="takes no argument 'vision_feature_layer'"):
            HookedVLM(any_llava)(**tiny_batch(any_llava), vision_feature_layer=-1)
        return
    twin = copy.deepcopy(any_llava)
    batch = tiny_batch(any_llava)
    hooked = HookedVLM(any_llava, embed_scale="text")
    text = "eager" if any_llava.config.text_config.model_type == "gemma2" else "sdpa"
    twin.set_attn_implementation({"": "sdpa", "vision_config": "sdpa", "text_config": text})
    for layer in (-1, -3, 2, -6):
        expected = twin(**batch, vision_feature_layer=layer).logits
        assert torch.equal(hooked(**batch, vision_feature_layer=layer).logits, expected)


def test_the_cache_holds_what_was_seen_before_a_later_edit(model):
    name = "language.blocks.1.hook_resid_mid"
    seen = {}
    hooks = [(name, lambda x, hook: seen.setdefault("before", x)), (name, lambda x, hook: x + 1)]
    with torch.no_grad():
        plain = model.run_with_cache(**tiny_batch(model.hf), names_filter=name)[1][name]
        model.run_with_hooks(**tiny_batch(model.hf), fwd_hooks=hooks)
    assert torch.equal(seen["before"], plain)


def test_backward_hooks_see_the_gradient_of_their_activation(any_llava):
    hooked = HookedVLM(any_llava)
    batch = tiny_batch(any_llava)
    names = [
        "vision.blocks.1.hook_resid_mid",
        "connector.hook_out",
        "language.blocks.1.hook_mlp_out" if side_by_side(any_llava) else "language.blocks.1.hook_resid_mid",
        "language.blocks.2.attn.hook_pattern",
        "language.blocks.0.attn.hook_q",
        "language.ln_final.hook_normalized",
    ]
    for name in names:
        gradient = {}
        with hooked.hooks(bwd_hooks=[(name, lambda g, hook, out=gradient: out.update({hook.name: g.clone()}))]):
            logits = hooked(**batch).logits
            logits[0, -1, 5].backward()
        # The same value as a leaf of the graph, in the activation's place: autograd's own answer.
        leaf = {}

        def replace(x, hook, leaf=leaf):
            leaf["x"] = x.detach().clone().requires_grad_()
            return leaf["x"]

        with hooked.hooks(fwd_hooks=[(name, replace)]):
            hooked(**batch).logits[0, -1, 5].backward()
        assert gradient[name].abs().max() > 0
        torch.testing.assert_close(gradient[name], leaf["x"].grad, atol=1e-6, rtol=1e-4)


def test_run_with_cache_collects_gradients_of_a_loss(model):
    batch = tiny_batch(model.hf)
    loss, cache = model.run_with_cache(
        **batch, labels=batch["input_ids"], return_type="loss", incl_bwd=True, names_filter=["connector.hook_out"]
    )
    assert loss.ndim == 0
    assert cache["connector.hook_out_grad"].shape == cache["connector.hook_out"].shape
    assert cache["connector.hook_out_grad"].abs().max() > 0


def test_no_hook_is_left_after_success_or_a_crash(model):
    batch = tiny_batch(model.hf)

    def crash(x, hook):
        raise RuntimeError("planned")

    with torch.no_grad():
        idle = model(**batch).logits
        model.run_with_cache(**batch)
        assert no_hooks(model)
        for name in ("vision.blocks.1.attn.hook_pattern", "connector.hook_out", "language.blocks.2.hook_mlp_out"):
            with pytest.raises(RuntimeError, match="planned"):
                model.run_with_hooks(**batch, fwd_hooks=[("*.hook_resid_pre", lambda x, hook: x * 2), (name, crash)])
            assert no_hooks(model)
            assert model._read is None
            assert torch.equal(model(**batch).logits, idle)


def test_a_wrong_name_is_refused_before_any_hook_is_added(model):
    batch = tiny_batch(model.hf)
    message = (
        "no hook point 'language.blocks.0.attn.hook_patern'; nearest are "
        "'language.blocks.0.attn.hook_pattern', 'language.blocks.2.attn.hook_pattern', "
        "'language.blocks.1.attn.hook_pattern' (all: model.hook_dict)"
    )
    wrong = "language.blocks.0.attn.hook_patern"
    with pytest.raises(VlmProbeError) as caught:
        model.run_with_hooks(**batch, fwd_hooks=[("connector.hook_out", lambda x, hook: x), (wrong, lambda x, hook: x)])
    assert str(caught.value) == message
    with pytest.raises(VlmProbeError, match="no hook point"):
        model.run_with_cache(**batch, names_filter=[wrong])
    with pytest.raises(VlmProbeError, match="no hook point"):
        model.add_hook(wrong, lambda x, hook: x)
    assert no_hooks(model)


def test_hooks_may_be_named_by_globs(model):
    _, cache = model.run_with_cache(
        **tiny_batch(model.hf), names_filter=["vision.blocks.*.hook_resid_post", "connector.*"]
    )
    assert len(cache) == 5 + 4


@torch.no_grad()
def test_knocking_out_attention_scores_is_exact(any_llava):
    hooked = HookedVLM(any_llava)
    name = "language.blocks.1.attn.hook_attn_scores"

    def block(scores, hook):
        scores = scores.clone()
        scores[:, :, -1, 3:20] = -torch.inf
        return scores

    with hooked.hooks(fwd_hooks=[(name, block)]):
        _, cache = hooked.run_with_cache(**tiny_batch(any_llava), names_filter="language.blocks.1.attn.hook_pattern")
    row = cache["language.blocks.1.attn.hook_pattern"][:, :, -1]
    assert (row[..., 3:20] == 0).all()
    torch.testing.assert_close(row.sum(-1), torch.ones_like(row.sum(-1)))
