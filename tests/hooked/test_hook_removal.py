"""No method leaves a hook: every public one that runs a model, generated from the list of them, however it ends.

Nobody picks the methods by hand (as in captum's test of the same name): whatever takes a model is found by
looking through the package, and must stand in `CASES` or, with a reason, in `REASONS`.
"""

import importlib
import inspect
import pkgutil
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import GRID, PATCH, tiny_vlm
from torch import nn
from transformer_lens.hook_points import HookPoint

import vlm_probe
from vlm_probe.attention import relevancy
from vlm_probe.causal import Ablate, Branches, Knockout, Replace, Steer, patching
from vlm_probe.causal.attribution_metric import LogitDifference
from vlm_probe.causal.circuits import edge_attribution
from vlm_probe.causal.pictures import blanked
from vlm_probe.causal.planning import plan
from vlm_probe.causal.positions import Places
from vlm_probe.embedding import scene_labels
from vlm_probe.findings.probed import POOL_OF, properties
from vlm_probe.hooked import HookedVLM, ModelInputs
from vlm_probe.hooked.families import families_of
from vlm_probe.hooked.wiring import layers_of
from vlm_probe.items import Item, twins_among
from vlm_probe.running import batches
from vlm_probe.running.asking import Asked
from vlm_probe.scenes import family_items

# Parts that are not looked through, and why.
ELSEWHERE = {"figures": "draws tables and maps, no model", "cli": "calls what is tested here", "__main__": "calls cli"}


def takes_a_model(function: Callable[..., Any]) -> bool:
    """By annotation; a parameter called model counts also where nothing, or anything, is said of it."""
    parameters = inspect.signature(function).parameters.values()
    untold = [p for p in parameters if p.name == "model" and p.annotation in (p.empty, Any, "Any")]
    return bool(untold) or any(re.search(r"\b(HookedVLM|Runs|GlobHooks)\b", str(p.annotation)) for p in parameters)


@cache
def methods() -> dict[str, Callable[..., Any]]:
    """All that is public and takes a model, by part ("lens.lens"), and all methods of a model, inherited ones too.

    By part, not by module: where in its part a function lives is nobody's concern.
    """
    found: dict[str, Callable[..., Any]] = {}

    def add(owner: str, functions: Mapping[str, Any]) -> None:
        for name, function in functions.items():
            if inspect.isfunction(function) and takes_a_model(function) and (name[0] != "_" or name == "__init__"):
                assert f"{owner}.{name}" not in found, f"two public functions {owner}.{name}: name them apart"
                found[f"{owner}.{name}"] = function

    for info in pkgutil.walk_packages(vlm_probe.__path__, "vlm_probe."):
        part = info.name.split(".")[1]
        if part not in ELSEWHERE:
            module = vars(importlib.import_module(info.name))
            own = {name: x for name, x in module.items() if getattr(x, "__module__", None) == info.name}
            add(part, own)
            for name, thing in own.items():
                if inspect.isclass(thing) and name[0] != "_" and thing not in HookedVLM.__mro__:
                    add(f"{part}.{name}", vars(thing))
    for name, function in inspect.getmembers(HookedVLM, inspect.isfunction):
        if (name[0] != "_" and not hasattr(nn.Module, name)) or name == "forward":
            found[f"HookedVLM.{name}"] = function
    return found


REASONS = {
    "makes inputs": "HookedVLM.prepare HookedVLM.prepare_tensors HookedVLM.token_strings HookedVLM.picture "
    "embedding.patch_labels vocabulary.needed_ids",
    "tells or writes what the model is": "HookedVLM.provenance HookedVLM.weights_digest HookedVLM.save_pretrained "
    "vocabulary.save",
    "tells which points there are": "HookedVLM.setup HookedVLM.hook_points HookedVLM.list_hooks "
    "HookedVLM.check_hooks_to_add HookedVLM.match HookedVLM.point",
    "takes hooks away": "HookedVLM.remove_all_hook_fns HookedVLM.reset_hooks HookedVLM.clear_contexts",
    "reads weights and names": "hooked.config hooked.embedding hooked.unembedding hooked.is_tied hooked.head "
    "hooked.final_norm hooked.language_tower hooked.attention_modules hooked.norm_gain hooked.norm_before "
    "hooked.norm_after hooked.by_head hooked.heads_add hooked.score_settings "
    "hooked.parameter_count embedding.used_rows vocabulary.known_unused "
    "vocabulary.vocabulary_geometry vocabulary.always_kept findings.vocabulary_cost findings.vocabulary_use "
    "findings.trained_rows findings.word_rows findings.layers_of embedding.streams running.run_settings",
    "makes another model": "hooked.with_rows vocabulary.trim vocabulary.shrunk_answers hooked.untrained "
    "hooked.with_encoder hooked.with_random_encoder findings.another_seed",
    "tells what an intervention is, before a run": "causal.begins_at causal.visible causal.slides",
    "makes another picture": "causal.blanked causal.blurred causal.without_asked causal.without_other",
    "keeps what a run will need": "causal.Split.__init__ findings.Finding.__init__ findings.Shared.__init__",
    "reads what a run has left": "causal.tokens_of causal.qk_scores embedding.nearest_tokens hooked.target_token "
    "report.top_tokens",
    "counts the bytes of a run before it": "running.check_fits",
    "looks at what a run gave, or at what it will be asked": "running.check_numbers findings.unaskable",
    "trains a Hugging Face model that nobody has hooked": "training.answer_loss",
}
"""Why no case is needed -> the functions that neither run a model nor hook it."""
NO_RUN = {name for names in REASONS.values() for name in names.split()}

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
        patch.setattr(patching._Twins, "check", lambda run, number: None)
        f(*args, **kwargs)


def uncut(n_query: int, n_key: int) -> torch.Tensor:
    return torch.zeros(1, 1, n_query, n_key, dtype=torch.bool)


def see(x: torch.Tensor, hook: HookPoint) -> None:
    """A hook that changes nothing."""


def crash(x: torch.Tensor, hook: HookPoint) -> None:
    raise Planned


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
    "causal.with_pictures": lambda f, m: f(m, asked(), {"blank": blanked}, batch_size=1),
    "running.capture": lambda f, m: f(m, look(m), [POINT]),
    "running.run_batches": lambda f, m: list(f(m, asked(), [POINT], batch_size=1)),
    "running.answer_tokens": lambda f, m: f(m, look(m), 2),
    "running.answer_all": lambda f, m: f(m, [PICTURE], [QUESTION], 2),
    "running.ask_all": lambda f, m: f(m, [PICTURE], [Asked(0, QUESTION, "red")], max_new_tokens=2),
    "running.evaluate": lambda f, m: f(m, asked(), max_new_tokens=2),
    "attention.find_sinks": lambda f, m: f(m, [PICTURE], [QUESTION, "where?"], fewest=2),
    "attention.token_relevancy": lambda f, m: f(m, look(m)),
    "attention.relevancy": lambda f, m: f(m, look(m)),
    "attention.relevancy (encoder)": lambda f, m: f(m, look(m), through_encoder=True),
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
    "report.inspect": lambda f, m: f(m, "picture.png", QUESTION, out=Path("page"), max_new_tokens=1),
    "training.check_scores": lambda f, m: f(m, 1),
}
"""Function -> a call of it; what stands in brackets tells several of one function apart."""


@cache
def cases() -> dict[str, Case]:
    """All of them: those of findings need not be written, since a finding measures a model and items, and no more."""
    made: dict[str, Case] = {}
    for name, function in methods().items():
        needed = [p for p in inspect.signature(function).parameters.values() if p.default is p.empty]
        if name.startswith("findings.") and name not in NO_RUN and [p.name for p in needed] == ["model", "items"]:
            made[name] = lambda f, m: f(m, copies())
    return {**made, **CASES}


def test_every_public_method_has_a_case_or_a_reason():
    called = {name.split(" ")[0] for name in cases()}
    assert methods().keys() - called - NO_RUN == set(), "add a case to CASES, or a reason to REASONS"
    assert (called | NO_RUN) - methods().keys() == set(), "these are no more: take them out of CASES or REASONS"
    assert called & NO_RUN == set(), "what has a case needs no reason"


class Planned(RuntimeError):
    """Raised by the test, and by nothing else."""


@dataclass
class Fuse:
    """Counts the calls of what it is laid into, and blows in one of them."""

    error: type[BaseException] = Planned
    at: int = 0
    calls: int = 0

    def laid(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            self.calls += 1
            if self.calls == self.at:
                raise self.error
            return function(*args, **kwargs)

        return call


def run(name: str, model: HookedVLM, forward: Fuse, hook: Fuse) -> None:
    """A case, with fuses deep inside both towers and in every hook that the method itself attaches to a point.

    Captum attaches its hooks past TransformerLens: the fuse lies in torch's own register.
    """
    register = HookPoint.register_forward_hook

    def registered(point: HookPoint, function: Callable[..., Any], **kwargs: Any) -> Any:
        return register(point, hook.laid(function), **kwargs)

    vision, language = families_of(model.hf.config)
    assert vision is not None
    last_read: Any = layers_of(model.hf.model.vision_tower, vision.blocks)[model.vision_layers_read - 1]
    last: Any = layers_of(model.hf.model.language_model, language.blocks)[-1]
    with pytest.MonkeyPatch.context() as patch:
        for deep in (last_read.mlp, last.mlp):
            patch.setattr(deep, "forward", forward.laid(deep.forward))
        patch.setattr(HookPoint, "register_forward_hook", registered)
        cases()[name](methods()[name.split(" ")[0]], model)


def state(model: HookedVLM) -> Iterator[tuple[str, object]]:
    """What a method must leave as it was, one thing after the other: a run comes last, where hooks have their say."""
    points, modules, parameters = dict(model.hook_dict), dict(model.named_modules()), dict(model.named_parameters())
    kinds = [kind for kind in vars(nn.Module()) if kind.startswith("_") and kind.endswith("_hooks")]
    found = {f"{n} {k}": getattr(p, k) for n, p in points.items() for k in ("fwd_hooks", "bwd_hooks", *kinds)}
    yield "hooks at points", [name for name, some in found.items() if some]
    hooks = {f"{n} {k}": getattr(m, k).values() for n, m in modules.items() for k in kinds}
    yield "hooks at modules", {name: list(map(id, some)) for name, some in hooks.items()}
    yield "a run under way", (model._read, model.context_level, model.is_caching, torch.is_grad_enabled())
    learning = {n: p.requires_grad for n, p in parameters.items()}
    yield "who learns", learning | {n: m.training for n, m in modules.items()}
    yield "gradients", [n for n, p in parameters.items() if p.grad is not None or p._backward_hooks]
    with torch.no_grad():
        logits = model(look(model)).logits
    yield "logits", logits.numpy().tobytes()


@cache
def pristine() -> tuple[HookedVLM, dict[str, object]]:
    """A model of which some parameters ask for no gradient, so that asking for all of them is noticed."""
    model = tiny_vlm()
    for parameter in list(model.hf.parameters())[::3]:
        parameter.requires_grad_(False)
    dict(state(model))  # transformers attaches hooks of its own at the first run
    before = dict(state(model))
    assert [before[k] for k in ("hooks at points", "a run under way", "gradients")] == [[], (None, 0, False, True), []]
    return model, before


@contextmanager
def left_as_it_was() -> Iterator[HookedVLM]:
    """A model that must be as before in the end. All tests share it, which builds it once, until one of them fails."""
    model, before = pristine()
    try:
        yield model
        for what, after in state(model):
            assert after == before[what], f"not as before: {what}"
    except BaseException:
        pristine.cache_clear()
        raise


@cache
def run_well(name: str) -> tuple[int, int]:
    """A case run to its end, once: how often what lies deep was called, and how often the method's own hooks."""
    forward, hook = Fuse(), Fuse()
    with left_as_it_was() as model:
        run(name, model, forward, hook)
    return forward.calls, hook.calls


@pytest.fixture(autouse=True)
def _folder_with_a_picture(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    PICTURE.save("picture.png")


@pytest.mark.parametrize("name", cases())
def test_nothing_is_left_after_success(name):
    assert run_well(name)[0] > 0, "this case runs no model: it belongs into REASONS"


@pytest.mark.parametrize("when", ["first", "last"])
@pytest.mark.parametrize("where", ["forward", "hook", "interrupted forward"])
@pytest.mark.parametrize("name", cases())
def test_nothing_is_left_after_a_crash(name, where, when):
    """In the first call or the last; a hook is one of the method's own, or a user's around it where it has none."""
    forward, hook = run_well(name)
    error = KeyboardInterrupt if where.startswith("interrupted") else Planned
    calls = hook if where == "hook" else forward
    fuse, none = Fuse(error, calls if when == "last" else 1), Fuse()
    users: list[Any] = [("vision.blocks.2.hook_resid_post", crash), (POINT, crash)]
    with left_as_it_was() as model, pytest.raises(error), nullcontext() if calls else model.hooks(fwd_hooks=users):
        run(name, model, *((none, fuse) if where == "hook" else (fuse, none)))


@contextmanager
def hooks_that_stay(model: HookedVLM, *args: Any, hooks: Any = HookedVLM.hooks, **kwargs: Any) -> Iterator[HookedVLM]:
    with hooks(model, *args, **{**kwargs, "reset_hooks_end": False}):
        yield model


@contextmanager
def running_until_a_crash(model: HookedVLM, kwargs: dict[str, Any]) -> Iterator[None]:
    model._read = model.vision_layers_read
    yield
    model._read = None


@contextmanager
def frozen_until_a_crash(model: HookedVLM) -> Iterator[None]:
    learning = [p for p in model.hf.parameters() if p.requires_grad]
    model.hf.requires_grad_(False)
    yield
    for parameter in learning:
        parameter.requires_grad_(True)


@pytest.mark.parametrize(
    ("name", "broken", "error", "noticed"),
    [
        ("HookedVLM.run_with_cache", {"hooks": hooks_that_stay}, None, "hooks at points"),
        ("embedding.image_embeddings", {"hooks": hooks_that_stay}, Planned, "hooks at points"),
        ("attention.relevancy", {"hooks": hooks_that_stay}, KeyboardInterrupt, "hooks at points"),
        ("HookedVLM.forward", {"_running": running_until_a_crash}, Planned, "a run under way"),
        ("attention.relevancy", {"frozen": frozen_until_a_crash}, Planned, "who learns"),
        ("attention.relevancy", {"frozen": lambda model: nullcontext()}, None, "gradients"),
        ("HookedVLM.forward", {"_running": lambda m, _: nullcontext(m.hf.lm_head.weight.data.add_(1))}, None, "logits"),
    ],
)
def test_what_is_left_is_noticed(name, broken, error, noticed, monkeypatch):
    """A package that cleans up badly, on purpose: otherwise all of the above could pass by looking at nothing."""
    calls, _ = run_well(name)
    ((attribute, replacement),) = broken.items()
    if hasattr(HookedVLM, attribute):
        monkeypatch.setattr(HookedVLM, attribute, replacement)
    else:
        monkeypatch.setitem(inspect.unwrap(methods()[name]).__globals__, attribute, replacement)
    ends = nullcontext() if error is None else pytest.raises(error)
    with pytest.raises(AssertionError, match=f"not as before: {noticed}"), left_as_it_was() as model, ends:
        run(name, model, Fuse(error or Planned, calls if error else 0), Fuse())


@pytest.mark.parametrize("owner", [HookedVLM, batches])
def test_a_method_without_a_case_is_noticed(owner, monkeypatch):
    def peek(model):
        """Public, and new."""

    peek.__module__ = "vlm_probe.running.batches"
    monkeypatch.setattr(owner, "peek", peek, raising=False)
    known, new = methods(), methods.__wrapped__()
    assert [name.split(".")[1] for name in set(new) - set(known)] == ["peek"]
    monkeypatch.setitem(globals(), "methods", lambda: new)
    with pytest.raises(AssertionError, match="add a case to CASES, or a reason to REASONS"):
        test_every_public_method_has_a_case_or_a_reason()
