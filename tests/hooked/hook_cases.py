"""What hook removal is tried on: a call of every public function that takes a model, or why it needs none."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import GRID, PATCH
from transformer_lens.hook_points import HookPoint

from vlm_probe.attention import relevancy
from vlm_probe.causal import Ablate, Branches, Knockout, Replace, Steer, patching
from vlm_probe.causal.attribution_metric import LogitDifference
from vlm_probe.causal.circuits import edge_attribution
from vlm_probe.causal.mean_rows import KINDS, kinds_of
from vlm_probe.causal.pictures import blanked
from vlm_probe.causal.planning import plan
from vlm_probe.causal.positions import Places
from vlm_probe.embedding import scene_labels
from vlm_probe.explorer.packing import Words
from vlm_probe.findings.probed import POOL_OF, properties
from vlm_probe.hooked import HookedVLM, ModelInputs
from vlm_probe.items import Item, twins_among
from vlm_probe.lens.contextual_lens import build_bank
from vlm_probe.running.asking import Asked
from vlm_probe.scenes import family_items
from vlm_probe.store.picking import Pick

REASONS = {
    "makes inputs": (
        "causal.prepared causal.check_item HookedVLM.prepare HookedVLM.prepare_tensors "
        "HookedVLM.token_strings HookedVLM.picture embedding.patch_labels explorer.inputs_of vocabulary.needed_ids "
        "store.entry_of store.picture_of store.make_ready store.lengths_of"
    ),
    "tells or writes what the model is": (
        "causal.Able.describe HookedVLM.provenance HookedVLM.weights_digest HookedVLM.save_pretrained vocabulary.save"
    ),
    "tells which points there are": (
        "HookedVLM.setup HookedVLM.hook_points HookedVLM.list_hooks HookedVLM.check_hooks_to_add "
        "HookedVLM.match HookedVLM.point HookedVLM.layers_read HookedVLM.config_of"
    ),
    "takes hooks away": "HookedVLM.remove_all_hook_fns HookedVLM.reset_hooks HookedVLM.clear_contexts",
    "reads weights and names": (
        "hooked.config hooked.embedding hooked.unembedding hooked.is_tied hooked.head hooked.final_norm "
        "hooked.language_tower hooked.attention_modules hooked.head_bias hooked.norm_gain "
        "hooked.through_norm hooked.norm_before "
        "hooked.plain_twin hooked.tower_of hooked.in_words hooked.one_encoder attention.able "
        "hooked.norm_after hooked.by_head hooked.heads_add hooked.score_settings hooked.parameter_count "
        "embedding.used_rows vocabulary.known_unused vocabulary.vocabulary_geometry "
        "vocabulary.always_kept findings.vocabulary_cost findings.vocabulary_use findings.trained_rows "
        "findings.word_rows findings.layers_of embedding.streams running.run_settings"
    ),
    "makes another model": (
        "hooked.with_rows vocabulary.trim vocabulary.shrunk_answers hooked.untrained hooked.with_encoder "
        "hooked.with_random_encoder findings.another_seed"
    ),
    "tells what is hooked": "hooked.is_touched",
    "tells what an intervention is, before a run": ("causal.is_read causal.begins_at causal.visible causal.slides"),
    "makes a map of no run": "attention.centre_prior",
    "makes another picture": "causal.blanked causal.blurred causal.without_asked causal.without_other",
    "keeps what a run will need": (
        "attention.Without.__init__ causal.Split.__init__ findings.Finding.__init__ findings.Shared.__init__ "
        "store.ShardWorker.__init__ hooked.Checks.__init__"
    ),
    "reads what a run has left": (
        "causal.tokens_of causal.qk_scores embedding.nearest_tokens explorer.nearest_words hooked.target_token "
        "report.top_tokens"
    ),
    "counts the bytes of a run before it": "running.check_fits",
    "looks at what a run gave, or at what it will be asked": "running.check_numbers findings.unaskable",
    "hands a model, or what opens it, to measures and looks that have cases of their own": (
        "findings.measure_model findings.measure_ahead report.to_explore report.write_report "
        "training.look_inside training.score"
    ),
    "trains a Hugging Face model that nobody has hooked": "training.answer_loss training.answer_states",
}
"""Why no case is needed -> the functions that neither run a model nor hook it."""

PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 255, (PATCH * GRID, PATCH * GRID, 3), dtype=np.uint8))
POINT = "language.blocks.1.hook_resid_post"
QUESTION = "what?"
Case = Callable[[Callable[..., Any], HookedVLM], object]


def look(model: HookedVLM) -> ModelInputs:
    return model.prepare(PICTURE, QUESTION)


def asked(n: int = 2, family: str = "gqa") -> list[Item]:
    return list(family_items(n, families=(family,)))


@cache
def copies() -> tuple[Item, ...]:
    """Two scenes that differ in whatever is probed, five times each: the least that five folds take."""
    first, *others = [item for item in asked(40) if item.boxes]
    labels = scene_labels(first)
    other = next(o for o in others if all(scene_labels(o)[name] != labels[name] for name in POOL_OF))
    return tuple(replace(i, id=f"{i.id}-{n}", image=f"{i.id}-{n}") for i in (first, other) for n in range(5))


@cache
def of_properties() -> list[Item]:
    """Questions about a property of one object beside another."""
    return properties(list(family_items(60, families=("gqa", "mmvp"), seed=3)))


def as_if_right(f: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
    """Twins are patched that no tiny model answers right."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(patching._Twins, "wrong", lambda run: {})
        f(*args, **kwargs)


def uncut(n_batch: int, n_query: int, n_key: int) -> torch.Tensor:
    return torch.zeros(1, 1, n_query, n_key, dtype=torch.bool)


def see(x: torch.Tensor, hook: HookPoint) -> None:
    """A hook that changes nothing."""


def staying(attach: Callable[..., Any], model: HookedVLM, *args: Any, **kwargs: Any) -> None:
    """Hooks that stay until their owner takes them away: `reset_hooks` must leave none either."""
    try:
        attach(model, *args, **kwargs)
        model(look(model))
    finally:
        model.reset_hooks(including_permanent=True)


def run_in(context: AbstractContextManager[Any], model: HookedVLM) -> None:
    with context:
        model(look(model))


def with_gradients(f: Callable[..., Any], model: HookedVLM) -> None:
    inputs = look(model)
    try:
        f(model, inputs, labels=inputs.input_ids, return_type="loss", incl_bwd=True, names_filter=[POINT])
    finally:
        model.zero_grad()  # the backward pass was asked for, and so were its gradients


CHANGES = [Knockout("answer", "image", 1), Ablate(POINT, "question"), Steer("connector.hook_out", torch.ones(42))]


FIVE_OR_NINE = LogitDifference((5,), (9,))


def pair_of(model: HookedVLM) -> tuple[ModelInputs, ModelInputs]:
    return look(model), model.prepare(Image.new("RGB", PICTURE.size), QUESTION)


def places(model: HookedVLM) -> Places:
    return Places.of(look(model).layouts, None, (), model.device)


def captured(capture: Any, model: HookedVLM, points: list[str]) -> None:
    """Into a folder of its own: what is there already would not be run again."""
    with TemporaryDirectory() as folder:
        capture(model, asked(), points, folder, batch_size=1)


CASES: dict[str, Case] = {
    "HookedVLM.forward": lambda f, m: f(m, look(m)),
    "HookedVLM.generate": lambda f, m: f(m, look(m), max_new_tokens=2, do_sample=False),
    "HookedVLM.trace": lambda f, m: f(m, PICTURE, QUESTION, capture=["*"]),
    "HookedVLM.answer_tokens": lambda f, m: f(m, look(m), max_new_tokens=2),
    "HookedVLM.answer_all": lambda f, m: f(m, [PICTURE, PICTURE], [QUESTION, "where?"], max_new_tokens=2),
    "HookedVLM.answer": lambda f, m: f(m, PICTURE, QUESTION, max_new_tokens=2),
    "HookedVLM.hooks": lambda f, m: run_in(f(m, [("*.hook_resid_post", see)], [(POINT, see)]), m),
    "HookedVLM.run_with_hooks": lambda f, m: f(m, look(m), fwd_hooks=[("*.attn.hook_pattern", see)]),
    "HookedVLM.run_with_cache": lambda f, m: f(m, look(m)),
    "HookedVLM.run_with_cache (gradients)": with_gradients,
    "HookedVLM.get_caching_hooks": lambda f, m: run_in(m.hooks(*f(m, ["*.hook_resid_post"], incl_bwd=True)[1:]), m),
    "HookedVLM.add_hook": lambda f, m: staying(f, m, "*.hook_resid_post", see),
    "HookedVLM.add_perma_hook": lambda f, m: staying(f, m, POINT, see),
    "HookedVLM.check_and_add_hook": lambda f, m: staying(f, m, m.point(POINT), POINT, see),
    "HookedVLM.add_caching_hooks": lambda f, m: staying(f, m, ["*.hook_resid_post"], incl_bwd=True),
    "HookedVLM.cache_all": lambda f, m: staying(f, m, {}),
    "HookedVLM.cache_some": lambda f, m: staying(f, m, {}, lambda name: name == POINT),
    "hooked.encode": lambda f, m: f(m, look(m).pixel_values),
    "hooked.frozen": lambda f, m: run_in(f(m), m),
    "hooked.following": lambda f, m: run_in(f(m), m),
    "hooked.cut": lambda f, m: run_in(f(m, "language", 1, uncut), m),
    "hooked.starting_at": lambda f, m: run_in(f(m, 1), m),
    "hooked.checkpointed": lambda f, m: run_in(f(m, "language"), m),
    "causal.applied": lambda f, m: run_in(f(m, look(m), CHANGES), m),
    "causal.run": lambda f, m: f(m, look(m), CHANGES, names_filter=POINT),
    "causal.carried_out": lambda f, m: run_in(f(m, plan(m, look(m), [(0, CHANGES)], places(m))), m),
    "causal.plan": lambda f, m: f(m, look(m), [(0, [Replace(POINT, "answer", look(m))])], places(m)),
    "causal.value_of": lambda f, m: f(m, look(m), CHANGES[1], POINT, places(m), torch.tensor([0])),
    "causal.activation_of": lambda f, m: f(m, look(m), POINT),
    "causal.Branches.__init__": lambda f, m: Branches(m, look(m)).run([(0, [one]) for one in CHANGES]),
    "causal.knockout_sweep": lambda f, m: f(m, asked(), batch_size=1),
    "causal.proven": lambda f, m: f(m, look(m), CHANGES[:1]),
    "causal.patch_sweep": lambda f, m: as_if_right(f, m, twins_among(asked(4, "mmvp")), batch_size=1),
    "causal.patch": lambda f, m: as_if_right(f, m, twins_among(asked(4, "mmvp"))[0], "connector.hook_out", "image"),
    "causal.direct_logit_attribution": lambda f, m: f(m, look(m)),
    "causal.attribution_patching": lambda f, m: f(m, *pair_of(m), metric=FIVE_OR_NINE, exact=2),
    "causal.attribution_patching (QK fix and GradDrop)": lambda f, m: f(
        m, *pair_of(m), metric=FIVE_OR_NINE, points=["vision.hook_embed", "*.attn.hook_[qk]"], grad_drop=True, exact=2
    ),
    "causal.edge_attribution": lambda f, m: f(m, *pair_of(m), metric=FIVE_OR_NINE, steps=2, exact=2),
    "causal.faithfulness": lambda f, m: f(
        m,
        edge_attribution(m, *pair_of(m), metric=FIVE_OR_NINE, steps=0),
        *pair_of(m),
        metric=FIVE_OR_NINE,
        edges=[1, 20],
    ),
    "causal.mean_rows": lambda f, m: f(m, iter([look(m)]), [POINT], kinds_of, len(KINDS)),
    "causal.find_heads": lambda f, m: f(m, of_properties()[:2], sinks=[0], batch_size=1),
    "causal.confirm_heads": lambda f, m: f(m, asked(), [(1, 2)], draws=1, singles=False, batch_size=1),
    "causal.ablate_sinks": lambda f, m: f(m, asked(), {1: [0]}, batch_size=1),
    "causal.direction_between": lambda f, m: f(m, asked()[:1], asked()[1:], POINT),
    "causal.steer_sweep": lambda f, m: f(m, asked(), torch.ones(42), POINT, [1], batch_size=1),
    "causal.back_patch": lambda f, m: f(m, asked(), layers=[(2, 1)], batch_size=1),
    "causal.with_pictures": lambda f, m: f(m, asked(), {"blank": blanked}, batch_size=1),
    "running.capture": lambda f, m: f(m, look(m), [POINT]),
    "running.run_batches": lambda f, m: list(f(m, asked(), [POINT], batch_size=1)),
    "running.answer_tokens": lambda f, m: f(m, look(m), 2),
    "running.answer_all": lambda f, m: f(m, [PICTURE], [QUESTION], 2),
    "running.ask_all": lambda f, m: f(m, [PICTURE], [Asked(0, QUESTION, "red")], max_new_tokens=2),
    "running.evaluate": lambda f, m: f(m, asked(), max_new_tokens=2),
    "attention.attention_map": lambda f, m: f(m, look(m)),
    "attention.rollout_map": lambda f, m: f(m, look(m)),
    "attention.encoder_map": lambda f, m: f(m, look(m)),
    "attention.knockout_map": lambda f, m: f(m, look(m), target=5),
    "attention.per_token": lambda f, m: f(m, look(m), tokens=[5, 6]),
    "attention.deletion_insertion": lambda f, m: f(m, look(m), relevancy(m, look(m)), target=5, steps=2),
    "attention.asked_word": lambda f, m: f(m, asked()[0]),
    "attention.sensitivity": lambda f, m: f(
        m, look(m), 5, relevancy, np.ones((GRID, GRID)), radius=0.1, noises=1, generator=torch.Generator()
    ),
    "attention.faithfulness": lambda f, m: f(
        m, asked(1), maps=["gradient x input"], steps=1, draws=1, noises=1, bare=m
    ),
    "embedding.attribute (gradient x input)": lambda f, m: f(m, look(m), method="gradient_x_input", point=POINT),
    "embedding.attribute (at a point)": lambda f, m: f(m, look(m), point=POINT, steps=4),
    "attention.find_sinks": lambda f, m: f(m, [PICTURE], [QUESTION, "where?"], fewest=2),
    "attention.token_relevancy": lambda f, m: f(m, look(m)),
    "attention.relevancy": lambda f, m: f(m, look(m)),
    "attention.relevancy (encoder)": lambda f, m: f(m, look(m), through_encoder=True),
    "attention.relevancy (recompute)": lambda f, m: f(m, look(m), through_encoder=True, recompute=True),
    "embedding.attribute (gradients)": lambda f, m: f(m, look(m), steps=4),
    "embedding.attribute (occlusion)": lambda f, m: f(m, look(m), method="occlusion"),
    "embedding.attribute (conductance)": lambda f, m: f(m, look(m), method="layer_conductance", point=POINT, steps=4),
    "embedding.run_encoder": lambda f, m: list(f(m, [PICTURE], ["vision.hook_embed"])),
    "embedding.encoded": lambda f, m: f(m, copies(), ["vision.blocks.1.hook_resid_post"]),
    "embedding.pooled": lambda f, m: f(m, asked(), {"mean": POINT}, batch_size=1),
    "embedding.image_embeddings": lambda f, m: f(m, [PICTURE, PICTURE], batch_size=1),
    "embedding.blind_pairs": lambda f, m: f(m, m, [PICTURE, PICTURE]),
    "embedding.features": lambda f, m: f(m, asked(), ["vision.hook_embed", POINT], batch_size=1),
    "embedding.token_rows": lambda f, m: f(m, asked(), [POINT], batch_size=1),
    "embedding.patch_rows": lambda f, m: f(m, asked(), ["connector.*", POINT], batch_size=1),
    "embedding.modality_gap": lambda f, m: f(m, copies(), rows_per_item=2),
    "hooked.verify": lambda f, m: f(m),
    "lens.build_bank": lambda f, m: f(m, ["a red star", "two blue stars"], batch_size=1),
    "lens.contextual_lens": lambda f, m: f(m, look(m), build_bank(m, ["a red star"]), k=2),
    "lens.lens": lambda f, m: f(m, look(m)),
    "lens.normed_rows": lambda f, m: f(m, look(m), np.arange(3)),
    "lens.train_tuned_lens": lambda f, m: f(m, asked(), steps=2, batch_size=1),
    "vocabulary.leakage": lambda f, m: f(m, asked(), range(50)),
    "vocabulary.repeats": lambda f, m: f(m, [20, 21]),
    "vocabulary.shrink": lambda f, m: f(m, asked(), [40]),
    "vocabulary.answer_and_image_rows": lambda f, m: f(m, asked()[0]),
    "findings.where_it_looks": lambda f, m: f(m, asked(1)),
    "findings.leaked_probability": lambda f, m: f(m, asked(), reference=[20, 21, 22, 23]),
    "findings.where_decided": lambda f, m: as_if_right(f, m, asked(4, "mmvp")),
    "findings.twins_apart": lambda f, m: f(m, asked(4, "mmvp")),
    "findings.found_but_unused": lambda f, m: f(m, of_properties()),
    "findings.run": lambda f, m: f(["S1"], [m], asked(1)),
    "attention.blanking": lambda f, m: f(m, look(m), relevancy(m, look(m)), target=5, draws=2),
    "explorer.look": lambda f, m: f(m, look(m), tokens=[5, 6], bank=build_bank(m, ["a red star"]), words=1),
    "explorer.explore": lambda f, m: f(look(m), m, maps=["relevancy"], words=0, windows=()),
    "explorer.lens_words": lambda f, m: f(m, look(m), look(m).layout.image(), Words(), 2),
    "explorer.contexts": lambda f, m: f(
        m, m.trace(look(m), capture=["*"]), build_bank(m, ["a red star"]), 0, Words(), 2
    ),
    "explorer.knockout": lambda f, m: f(m, PICTURE, QUESTION),
    "store.capture": lambda f, m: captured(f, m, ["vision.hook_embed", POINT]),
    "store.run_kept": lambda f, m: f(m, look(m), ["vision.hook_embed", POINT], lambda name, x: x),
    "store.measure_shapes": lambda f, m: f(m, asked(), ["vision.hook_embed", POINT], Pick.of("mean")),
    "store.describe": lambda f, m: f(
        m, asked(), [POINT], positions="mean", dtype="float32", shard_items=None, batch_size=1
    ),
    "report.inspect": lambda f, m: f(m, "picture.png", QUESTION, out=Path("page"), max_new_tokens=1),
    "training.check_scores": lambda f, m: f(m, 1),
}
"""Function -> a call of it; what stands in brackets tells several of one function apart."""
