"""Interventions do what they say: against references written another way, and against nothing."""

import re
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import JOINED, LANGUAGES, tiny_batch, tiny_language, tiny_vlm

from vlm_probe import VlmProbeError, causal
from vlm_probe.causal import Ablate, Knockout, Replace, Steer
from vlm_probe.causal.branching import Branches
from vlm_probe.causal.planning import visible
from vlm_probe.hooked import HookedVLM, ModelInputs
from vlm_probe.layout.groups import positions_of

RNG = np.random.default_rng(3)
PICTURES: list[Any] = [Image.fromarray(RNG.integers(0, 255, (15, 15, 3), dtype=np.uint8)) for _ in range(3)]
QUESTIONS = ["what?", "why is it so", "or this one? or not"]
BOXES = [[(0, 0, 5, 5)], [(3, 3, 9, 9)], [(9, 9, 12, 15)]]
RESIDUAL = "language.blocks.1.hook_resid_post"


def batch(model: HookedVLM, *, pad: bool = True) -> ModelInputs:
    return model.prepare(list(PICTURES), QUESTIONS if pad else ["what?", "why??", "which"])


def rows(inputs: ModelInputs, where: str) -> torch.Tensor:
    mask = torch.zeros(inputs.input_ids.shape, dtype=torch.bool)
    for i, layout in enumerate(inputs.layouts):
        mask[i, positions_of(layout, where, boxes=BOXES[i])] = True
    return mask


@torch.no_grad()
def masked_scores(model: HookedVLM, inputs: ModelInputs, where: dict[str, torch.Tensor]) -> torch.Tensor:
    """Logits with the scores of edges set to minus infinity by hand, in attention's explicit form."""
    hooks = [
        (name, lambda x, hook, edges=edges: x.masked_fill(edges[:, None], -torch.inf)) for name, edges in where.items()
    ]
    return model.run_with_hooks(inputs, fwd_hooks=hooks).logits


@pytest.mark.parametrize("pad", [False, True], ids=["alike", "padded"])
@pytest.mark.parametrize("language", LANGUAGES)
def test_a_knockout_equals_scores_that_are_masked_by_hand(language, pad):
    model = tiny_vlm("clip", language)
    inputs = batch(model, pad=pad)
    queries, keys = "question & ~answer", "image & ~box"
    edges = rows(inputs, queries)[:, :, None] & rows(inputs, keys)[:, None, :]
    names = {f"language.blocks.{layer}.attn.hook_attn_scores": edges for layer in (0, 2)}
    with torch.no_grad():
        plain = model(inputs).logits
        cut = causal.run(model, inputs, [Knockout(queries, keys, [0, 2])], boxes=BOXES)[0].logits
    live = inputs.attention_mask.bool()
    torch.testing.assert_close(cut[live], masked_scores(model, inputs, names)[live], atol=1e-5, rtol=1e-5)
    assert (cut - plain)[live].abs().max() > 1e-2
    found = causal.proven(model, inputs, [Knockout(queries, keys, [0, 2])], boxes=BOXES)
    assert found["left"].tolist() == [0, 0]
    assert max(found["off"]) < 1e-6
    assert found["edges"].tolist() == [int(edges.sum()) * 6] * 2


@pytest.mark.parametrize("tower", ["clip", "dinov2", "registers"])
def test_a_knockout_in_the_encoder_equals_masked_scores(tower):
    model = tiny_vlm(tower)
    inputs = batch(model)
    lead = inputs.layouts[0].images[0].leading
    edges = torch.zeros(3, lead + 25, lead + 25, dtype=torch.bool)
    for i, layout in enumerate(inputs.layouts):
        box = torch.from_numpy(layout.box_to_patches(BOXES[i][0]).ravel())
        edges[i, lead:, lead:] = ~box[:, None] & box[None, :]
    read = range(model.vision_layers_read)
    names = {f"vision.blocks.{layer}.attn.hook_attn_scores": edges for layer in read}
    with torch.no_grad():
        cut = causal.run(model, inputs, [Knockout("background", "box", part="vision")], boxes=BOXES)[0].logits
        plain = model(inputs).logits
    live = inputs.attention_mask.bool()
    torch.testing.assert_close(cut[live], masked_scores(model, inputs, names)[live], atol=1e-5, rtol=1e-5)
    assert (cut - plain)[live].abs().max() > 1e-3


@pytest.mark.parametrize("language", ["gemma", "llama"])
def test_a_knockout_of_every_layer_equals_a_mask_given_to_plain_transformers(language):
    model = tiny_language(language)
    ids = torch.tensor([[2, 5, 8, 13, 21, 34, 55]])
    inputs = model.prepare_tensors(ids)
    cut = causal.run(model, inputs, [Knockout([4, 6], [1, 2])])[0].logits
    mask = torch.ones(7, 7, dtype=torch.bool).tril()
    mask[4, 1:3] = mask[6, 1:3] = False
    given = torch.zeros(1, 1, 7, 7).masked_fill(~mask, torch.finfo(torch.float32).min)
    model.hf.set_attn_implementation("eager")
    plain = model.hf(ids, attention_mask=given).logits
    torch.testing.assert_close(cut, plain, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("language", LANGUAGES)
def test_generated_tokens_are_cut_as_the_answer_position_is(language):
    model = tiny_vlm("clip", language)
    inputs = model.prepare(PICTURES[0], "why is it so")
    cut = Knockout("answer", "question & ~answer")
    settings = {"max_new_tokens": 4, "do_sample": False, "output_logits": True, "return_dict_in_generate": True}
    with torch.no_grad():
        plain = model.generate(inputs, **settings)
        with causal.applied(model, inputs, [cut]):
            found = model.generate(inputs, **settings)
    length, own = inputs.input_ids.shape[1], found.sequences[0].tolist()
    keys = positions_of(inputs.layout, "question & ~answer").tolist()
    for n in range(4):  # without a cache, from the beginning, every generated position cut by its number
        longer = inputs.with_answer(own[length : length + n]) if n else inputs
        queries = [inputs.layout.answer_position, *range(length, length + n)]
        with torch.no_grad():
            logits = causal.run(model, longer, [Knockout(queries, keys)])[0].logits[0, -1]
        torch.testing.assert_close(found.logits[n][0], logits, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(found.logits[0], plain.logits[0], atol=1e-2)


INTERVENTIONS = {
    "knockout": lambda clean: Knockout("answer", "question & ~answer"),
    "late knockout": lambda clean: Knockout("question", "image", layers=[2]),
    "knockout of heads": lambda clean: Knockout("answer", "question & ~answer", layers=1, heads=[1, 3]),
    "edges": lambda clean: Knockout([31, 33], [30, 31], paired=True),
    "residual": lambda clean: Replace(RESIDUAL, "box", clean),
    "answer": lambda clean: Replace("language.blocks.2.hook_resid_pre", "answer", clean),
    "connector": lambda clean: Replace("connector.hook_out", "box", clean),
    "encoder": lambda clean: Replace("vision.blocks.1.hook_resid_post", "box", clean),
    "pattern": lambda clean: Replace("language.blocks.1.attn.hook_pattern", "question", clean, heads=[0, 5]),
    "key": lambda clean: Replace("language.blocks.1.attn.hook_k", "image", clean, heads=[1]),
    "norm": lambda clean: Replace("language.ln_final.hook_normalized", "answer", clean),
    "embedding": lambda clean: Replace("language.hook_embed", "box", clean),
    "back-patching": lambda clean: Replace(
        "language.blocks.0.hook_resid_post", "answer", clean, source_point="language.blocks.2.hook_resid_post"
    ),
    "mean": lambda clean: Ablate("language.blocks.0.attn.hook_z", "question", heads=[2]),
    "zero": lambda clean: Ablate("language.blocks.1.hook_mlp_out", "question", by="zero"),
    "resample": lambda clean: Ablate("language.blocks.1.hook_attn_out", "answer", by="resample"),
    "steer": lambda clean: Steer(RESIDUAL, torch.linspace(-1, 1, 42), 2, True, "question"),
}


@pytest.mark.parametrize("language", LANGUAGES)
def test_going_on_from_where_a_run_differs_equals_single_runs(language):
    model = tiny_vlm("dinov2", language)
    inputs = batch(model)
    _, clean = model.run_with_cache(model.prepare(PICTURES[::-1], QUESTIONS))
    made = [make(clean) for make in INTERVENTIONS.values()]
    asked = [(i, [one]) for one in made for i in range(3)]
    branches = Branches(model, inputs, boxes=BOXES)
    found = branches.run(asked)
    with torch.no_grad():
        single = [causal.run(model, inputs, [one], boxes=BOXES)[0].logits[:, -1] for one in made]
    torch.testing.assert_close(found, torch.cat(single), atol=1e-5, rtol=1e-5)
    anew = Branches(model, inputs, boxes=BOXES, exact=True, rows_at_once=7).run(asked)
    torch.testing.assert_close(found, anew, atol=1e-5, rtol=1e-5)
    change = (found - branches.logits.repeat(len(INTERVENTIONS), 1)).abs().amax(1)
    # A sliding window may keep the question from the box: but of three examples one answer or another has changed.
    assert (change.reshape(-1, 3).amax(1) > 1e-4).sum() >= len(INTERVENTIONS) - 8
    assert branches.run([]).shape == (0, 97)


def test_patching_clean_with_clean_changes_nothing_and_all_of_it_gives_the_other_run():
    model = tiny_vlm()
    inputs = batch(model)
    other = model.prepare(PICTURES[::-1], QUESTIONS)
    names = [RESIDUAL, "connector.hook_out", "language.blocks.0.attn.hook_z", "language.blocks.2.mlp.hook_post"]
    with torch.no_grad():
        plain, own = model.run_with_cache(inputs, names_filter=names)
        theirs, _clean = model.run_with_cache(other, names_filter=names)
        for name in names:
            same = causal.run(model, inputs, [Replace(name, "all", own)])[0].logits
            assert torch.equal(same, plain.logits), name
        for point in (RESIDUAL, "connector.hook_out"):
            whole = causal.run(model, inputs, [Replace(point, "all", other)])[0].logits
            live = inputs.attention_mask.bool()
            torch.testing.assert_close(whole[live], theirs.logits[live], atol=1e-5, rtol=1e-5)
            assert not torch.allclose(whole[live], plain.logits[live], atol=1e-3)


def test_mean_resample_zero_and_steer_put_in_what_they_say():
    model = tiny_vlm()
    inputs = batch(model)
    _, own = model.run_with_cache(inputs, names_filter=RESIDUAL)
    x, at = own[RESIDUAL], rows(inputs, "box")

    def after(one) -> torch.Tensor:
        return causal.run(model, inputs, [one], names_filter=RESIDUAL, boxes=BOXES)[1][RESIDUAL]

    expected = x.clone()
    expected[at] = x[at].mean(0)
    torch.testing.assert_close(after(Ablate(RESIDUAL, "box")), expected)
    expected[at] = 0
    torch.testing.assert_close(after(Ablate(RESIDUAL, "box", by="zero")), expected)
    with pytest.raises(VlmProbeError, match="takes rows of a prompt that is laid out otherwise"):
        after(Ablate(RESIDUAL, "box", by="resample"))  # where one has its image another has padding
    alike = batch(model, pad=False)
    _, before = model.run_with_cache(alike, names_filter=RESIDUAL)
    swapped = causal.run(model, alike, [Ablate(RESIDUAL, "box", by="resample")], names_filter=RESIDUAL, boxes=BOXES)[1]
    y, there = before[RESIDUAL], rows(alike, "box")
    torch.testing.assert_close(swapped[RESIDUAL], torch.where(there[..., None], y[[1, 2, 0]], y))
    direction = torch.linspace(-1, 2, 42)
    live = inputs.attention_mask.bool()
    added = after(Steer(RESIDUAL, direction, 3.0)) - x
    torch.testing.assert_close(added[live], (3 * direction).expand(int(live.sum()), -1), atol=1e-5, rtol=1e-5)
    assert not added[~live].any()
    matched = (after(Steer(RESIDUAL, direction, 0.5, True)) - x)[live]
    torch.testing.assert_close(matched.norm(dim=-1), 0.5 * x[live].norm(dim=-1))
    reference = model.prepare(PICTURES[:2], ["ab", "c"])
    _, theirs = model.run_with_cache(reference, names_filter=RESIDUAL)
    ours = torch.zeros(reference.input_ids.shape, dtype=torch.bool)
    for i, layout in enumerate(reference.layouts):
        ours[i, positions_of(layout, "image")] = True
    found = after(Ablate(RESIDUAL, "image", reference=reference))[rows(inputs, "image")]
    torch.testing.assert_close(found, theirs[RESIDUAL][ours].mean(0).expand_as(found))


def test_only_the_named_heads_change():
    model = tiny_vlm()
    inputs = batch(model)
    name = "language.blocks.1.attn.hook_z"
    _, before = model.run_with_cache(inputs, names_filter=name)
    after = causal.run(model, inputs, [Ablate(name, "question", by="zero", heads=[4])], names_filter=name)[1]
    at = rows(inputs, "question")
    assert not after[name][at][:, 4].any()
    assert before[name][at][:, 4].any()
    rest = [0, 1, 2, 3, 5]
    assert torch.equal(after[name][:, :, rest], before[name][:, :, rest])


def test_interventions_add_up_and_gradients_flow():
    model = tiny_vlm()
    inputs = batch(model)
    one, two = Knockout("answer", "image", layers=0), Ablate("language.blocks.1.hook_mlp_out", "answer", by="zero")
    together = causal.run(model, inputs, [one, two])[0].logits
    with causal.applied(model, inputs, [one]), causal.applied(model, inputs, [two]):
        nested = model(inputs).logits
        nested[:, -1].sum().backward()
    torch.testing.assert_close(together, nested)
    assert model.hf.get_input_embeddings().weight.grad.abs().sum() > 0
    one, rest = (Knockout("answer", "image", heads=heads) for heads in ([1], [0, 2, 3, 4, 5]))
    with causal.applied(model, inputs, [one]), causal.applied(model, inputs, [rest]):
        parts = model(inputs).logits
    whole = causal.run(model, inputs, [Knockout("answer", "image")])[0].logits
    torch.testing.assert_close(parts, whole, atol=1e-5, rtol=1e-5)


def test_interventions_of_one_point_have_their_turn():
    """In one list, in contexts within each other and row by row alike: each sees what those before it made."""
    model = tiny_vlm()
    inputs = model.prepare(PICTURES[0], "what?")
    add, none = Steer(RESIDUAL, torch.linspace(-1, 1, 42), positions="answer"), Ablate(RESIDUAL, "answer", by="zero")
    for order in ([add, add], [add, none], [none, add], [add, none, add]):
        with causal.applied(model, inputs, order[:1]), causal.applied(model, inputs, order[1:]):
            nested = model(inputs).logits
        torch.testing.assert_close(causal.run(model, inputs, order)[0].logits, nested)
    found = Branches(model, inputs).run([(0, [none, add]), (0, [add, none]), (0, [add]), (0, [add, add])])
    for row, order in zip(found, ([none, add], [add, none], [add], [add, add]), strict=True):
        torch.testing.assert_close(row, causal.run(model, inputs, order)[0].logits[0, -1], atol=1e-5, rtol=1e-5)
    assert (found[0] - found[1]).abs().max() > 0.1
    assert (found[2] - found[3]).abs().max() > 0.1


def test_logits_are_edited_at_the_positions_that_are_made():
    model = tiny_vlm()
    inputs = model.prepare(PICTURES[0], "what?")
    one = Ablate("language.hook_logits", "answer", by="zero")
    for kept in (0, 1, 3):
        logits = causal.run(model, inputs, [one], logits_to_keep=kept)[0].logits
        assert not logits[0, -1].any()
        assert logits[0, :-1].any() or kept == 1
    push = torch.zeros(97)
    push[40] = 100
    with causal.applied(model, inputs, [Steer("language.hook_logits", push, positions="answer")]):
        out = model.generate(inputs, max_new_tokens=3, do_sample=False)
    assert out[0, -3:].tolist() == [40, 40, 40]


def test_going_on_within_other_interventions_and_with_sinks_by_layer():
    model = tiny_vlm()
    inputs = model.prepare(PICTURES[0], "why is it so")
    outer, inner = Knockout("question & ~answer", "image", layers=[0]), Knockout("answer", "question & ~answer", [2])
    with torch.no_grad():
        both = causal.run(model, inputs, [outer, inner])[0].logits[0, -1]
        with causal.applied(model, inputs, [outer]):
            found = Branches(model, inputs).run([(0, [inner])])[0]
    torch.testing.assert_close(found, both, atol=1e-5, rtol=1e-5)
    sinks = {1: [30], 2: [5, 12]}
    cut = Knockout("sink", "image & ~sink", layers=[1, 2])
    with torch.no_grad():
        single = causal.run(model, inputs, [cut], sinks=sinks)[0].logits[0, -1]
    torch.testing.assert_close(Branches(model, inputs, sinks=sinks).run([(0, [cut])])[0], single, atol=1e-5, rtol=1e-5)


def test_nothing_is_left_behind_after_a_crash():
    model = tiny_vlm()
    inputs = batch(model)
    with torch.no_grad():
        plain = model(inputs).logits
    both = [Knockout("answer", "image"), Ablate(RESIDUAL, "answer")]
    with pytest.raises(KeyboardInterrupt), causal.applied(model, inputs, both):
        raise KeyboardInterrupt
    branches = Branches(model, inputs)
    with pytest.raises(VlmProbeError, match="features"):
        branches.run([(0, [Steer(RESIDUAL, torch.ones(41))])])
    with torch.no_grad():
        assert torch.equal(model(inputs).logits, plain)


def test_how_interventions_print():
    assert repr(Knockout("answer", "image", range(2, 5))) == "Knockout('answer' -/-> 'image', language layers 2-4)"
    assert repr(Knockout([3, 4], [1, 2], 1, 5, paired=True)) == "Knockout(2 edges, language layer 1, head 5)"
    assert repr(Ablate(RESIDUAL, 7, heads=[1, 4])) == f"Ablate({RESIDUAL} at 7, heads 1, 4, by mean)"
    assert repr(Steer(RESIDUAL, torch.ones(3), 2)) == f"Steer({RESIDUAL} at 'all', x 2)"
    assert repr(Replace(RESIDUAL, [1], torch.ones(3))) == f"Replace({RESIDUAL} at 1 positions, from a Tensor)"


SOURCE = torch.zeros(1, 4, 42)
WRONG = {
    "an unknown point": (Ablate("language.blocks.1.hook_resid", "image"), "no hook point"),
    "an unknown group": (Knockout("answer", "imagery"), "no positions 'imagery'"),
    "a layer out of range": (Knockout("answer", "image", 3), "layers are 0 to 2, got 3"),
    "a window out of range": (Knockout("answer", "image", range(2, 5)), "layers are 0 to 2, got 3"),
    "a head out of range": (Knockout("answer", "image", heads=6), "heads are 0 to 5, got 6"),
    "a key-value head out of range": (
        Ablate("language.blocks.1.attn.hook_k", "image", heads=2),
        "heads are 0 to 1, got 2",
    ),
    "a point without heads": (Ablate(RESIDUAL, "image", heads=0), "has no heads"),
    "no edge": (Knockout("image", "answer"), "cuts nothing"),
    "a whole row": (Knockout("answer", "all"), "leaves position"),
    "no boxes": (Ablate(RESIDUAL, "box"), "need the item's boxes"),
    "a source of another shape": (Replace(RESIDUAL, "answer", SOURCE), "laid out alike"),
    "a source without it": (Replace(RESIDUAL, "answer", {"connector.hook_out": SOURCE}), "the source holds no"),
    "one row's mean": (Ablate(RESIDUAL, "answer"), "mean of one row"),
    "nothing to resample": (Ablate(RESIDUAL, "answer", by="resample"), "one example"),
    "another way": (Ablate(RESIDUAL, "answer", by="median"), "by must be"),
    "text in the encoder": (Ablate("vision.blocks.0.hook_resid_post", "question"), "no patches"),
    "a direction of zeros": (Steer(RESIDUAL, torch.zeros(42)), "not all zero"),
    "a direction of another length": (Steer(RESIDUAL, torch.ones(41)), "has 41 features"),
    "True for a number": (Knockout("answer", "image", heads=True), "heads are numbers from 0 to 5, got True"),
    "a mask for positions": (Ablate(RESIDUAL, [True, False]), "given by number or by name, got True"),
    "a layer that nothing reads": (Ablate("vision.blocks.4.hook_resid_post", "image"), "reads no layer"),
    "no strength": (Steer(RESIDUAL, torch.ones(42), float("nan")), "strength nan"),
    "another width": (Replace(RESIDUAL, "all", torch.zeros(1, 35, 1)), "does not fit an activation"),
    "edges that do not pair": (Knockout([1, 2], [0], paired=True), "as many numbers"),
}


@pytest.mark.parametrize(("one", "said"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_is_said_before_anything_runs(one, said):
    model = tiny_vlm()
    inputs = model.prepare(PICTURES[0], "what?")
    with pytest.raises(VlmProbeError, match=re.escape(said)):
        causal.run(model, inputs, [one])


def test_a_batch_other_than_the_planned_one_is_refused():
    model = tiny_vlm()
    inputs = batch(model)
    said = pytest.raises(VlmProbeError, match="edited for 3 examples, and this run has 1")
    with causal.applied(model, inputs, [Ablate(RESIDUAL, "answer")]), said:
        model(model.prepare(PICTURES[0], "what?"))
    said = pytest.raises(VlmProbeError, match="attention is cut for 1 examples, and this run has 3")
    with causal.applied(model, model.prepare(PICTURES[0], "what?"), [Knockout("answer", "image")]), said:
        model(inputs)
    with pytest.raises(VlmProbeError, match="boxes of 2 examples, and 3 examples"):
        causal.run(model, inputs, [Ablate(RESIDUAL, "box")], boxes=BOXES[:2])
    with pytest.raises(VlmProbeError, match="example 1: positions 'box' need"):
        causal.run(model, inputs, [Ablate(RESIDUAL, "box")], boxes=[BOXES[0], [], BOXES[2]])


@pytest.mark.parametrize(
    ("tower", "language"),
    [
        *(("clip", language) for language in LANGUAGES),
        *((kind, "gemma2") for kind in JOINED if kind != "next"),
        ("gemma3", "gemma3"),
    ],
)
def test_what_a_query_may_look_at_is_where_its_attention_is_not_zero(tower, language):
    """Of padded prompts that are longer than the miniatures' sliding windows."""
    model = tiny_vlm(tower, language)
    given = tiny_batch(model.hf, pad=True)
    given.pop("token_type_ids", None)  # made anew
    inputs = model.prepare_tensors(**given)
    _, cache = model.run_with_cache(inputs, names_filter=["language.blocks.*.attn.hook_pattern"])
    for layer in range(model.layers["language"]):
        pattern = cache[f"language.blocks.{layer}.attn.hook_pattern"]
        for example in range(len(inputs)):
            live = inputs.attention_mask[example].bool()
            found = visible(model, inputs, layer, example)[live]
            assert torch.equal(found, (pattern[example] > 0).any(0)[live]), (layer, example)
