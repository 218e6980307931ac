"""No method leaves a hook: every public one that runs a model, generated from the list of them, however it ends.

Nobody picks the methods by hand (as in captum's test of the same name): whatever takes a model is found by
looking through the package, and must stand in `CASES` or, with a reason, in `REASONS`.
"""

import importlib
import inspect
import pkgutil
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest
import torch
from hook_cases import CASES, PICTURE, POINT, REASONS, Case, copies, look
from tiny import tiny_vlm
from torch import nn
from transformer_lens.hook_points import HookPoint

import vlm_probe
from vlm_probe.hooked import HookedVLM
from vlm_probe.hooked.families import families_of
from vlm_probe.hooked.wiring import layers_of
from vlm_probe.running import batches

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


NO_RUN = {name for names in REASONS.values() for name in names.split()}


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


def crash(x: torch.Tensor, hook: HookPoint) -> None:
    raise Planned


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
    model._read = [-2]
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
