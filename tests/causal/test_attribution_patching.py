"""Scores are derivatives along clean minus corrupt: against finite differences, real patches and references by hand."""

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from tiny import LANGUAGES, tiny_batch, tiny_language, tiny_llava, tiny_vlm

from vlm_probe.causal.attribution import attribution_patching
from vlm_probe.causal.attribution_metric import LogitDifference
from vlm_probe.causal.branching import repeated
from vlm_probe.errors import VlmProbeError
from vlm_probe.hooked import HookedVLM, ModelInputs
from vlm_probe.names import dimensions, sequence_axis

METRIC: Any = LogitDifference((5,), (9,))
POSITIONS = ("image", "question & ~answer", "answer")
NODES = [
    "vision.hook_embed",
    "vision.blocks.2.attn.hook_k",
    "vision.blocks.3.hook_resid_mid",
    "connector.hook_out",
    "language.hook_embed",
    "language.blocks.0.attn.hook_q",
    "language.blocks.0.attn.hook_k",
    "language.blocks.1.attn.hook_v",
    "language.blocks.1.attn.hook_z",
    "language.blocks.1.attn.hook_pattern",
    "language.blocks.1.hook_attn_out",
    "language.blocks.1.hook_resid_mid",
    "language.blocks.2.hook_mlp_out",
    "language.blocks.2.hook_resid_post",
]


def nodes_of(model: HookedVLM) -> list[str]:
    """Those that a model has: Phi has no stream between attention and MLP."""
    return [name for name in NODES if name in model.hook_dict]


def scored(*args: Any, **changes: Any) -> Any:
    return attribution_patching(*args, **{"metric": METRIC, "exact": 0, **changes})


@cache
def twins(tower: str, language: str, step: float = 0.5) -> tuple[HookedVLM, ModelInputs, ModelInputs]:
    """A model, and padded batches whose images differ by so much."""
    hf = tiny_llava(tower, language)
    model = HookedVLM(hf)
    given = tiny_batch(hf, pad=True)
    noise = torch.randn(given["pixel_values"].shape, generator=torch.Generator().manual_seed(3))
    other = {**given, "pixel_values": given["pixel_values"] + step * noise}
    return model, model.prepare_tensors(**other), model.prepare_tensors(**given)


def mask_of(inputs: ModelInputs, name: str, where: str) -> torch.Tensor:
    """[example, row], written out: of tiny batches, whose prompts end with four tokens of question."""
    rows = []
    for layout in inputs.layouts:
        span = layout.image()
        length = inputs.input_ids.shape[1] if name.startswith("language") else int(span.rows_at(name)[-1]) + 1
        row = torch.zeros(length, dtype=torch.bool)
        row[{"image": span.rows_at(name).tolist(), "answer": [-1]}.get(where, [-4, -3, -2])] = True
        rows.append(row)
    return torch.stack(rows)


@torch.no_grad()
def moved(
    model: HookedVLM, inputs: ModelInputs, name: str, by: torch.Tensor, steps: Sequence[float]
) -> list[torch.Tensor]:
    """The metric with an activation moved by so many steps, for each of several."""
    n, ones = len(steps), [1] * (by.ndim - 1)
    far = torch.tensor(steps).repeat_interleave(len(inputs)).reshape(-1, *ones) * by.repeat(n, *ones)
    given = repeated(inputs, list(range(len(inputs))) * n)
    output = model.run_with_hooks(given, fwd_hooks=[(name, lambda x, hook: x + far)], logits_to_keep=1)
    return list(METRIC(output.logits[:, -1].double()).unflatten(0, (n, -1)))


def slope(model: HookedVLM, inputs: ModelInputs, name: str, by: torch.Tensor, step: float) -> torch.Tensor:
    """Richardson's extrapolation of central differences; steps are large, since the models compute in float32."""
    up, down, half_up, half_down = moved(model, inputs, name, by, [step, -step, step / 2, -step / 2])
    wide, narrow = (up - down) / (2 * step), (half_up - half_down) / step
    return (4 * narrow - wide) / 3


def along(name: str, difference: torch.Tensor, rows: torch.Tensor, head: int) -> torch.Tensor:
    """The part of a difference that a node has."""
    shape = [1] * difference.ndim
    shape[0], shape[sequence_axis(name)] = rows.shape
    kept = difference * rows.reshape(shape)
    if head >= 0:
        axis = dimensions(name).index("head")
        one = torch.zeros(difference.shape[axis])
        one[head] = 1
        kept = kept * one.reshape([-1 if i == axis else 1 for i in range(difference.ndim)])
    return kept


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("tower", ["clip", "dinov2"])
def test_scores_are_derivatives(tower, language):
    model, clean, corrupt = twins(tower, language)
    nodes = nodes_of(model)
    table = scored(model, clean, corrupt, points=nodes, positions=POSITIONS)
    values = [model.run_with_cache(inputs, names_filter=nodes)[1] for inputs in (clean, corrupt)]
    rng = np.random.default_rng(5)
    checked = 0
    for name in nodes:
        own = table[(table["point"] == name)]
        where = rng.choice(own["positions"].unique())
        head = int(rng.choice(own["head"].unique()))
        by = along(name, values[0][name] - values[1][name], mask_of(corrupt, name, where), head)
        expected = slope(model, corrupt, name, by, 0.02 if name.endswith("pattern") else 0.1)
        found = own[(own["positions"] == where) & (own["head"] == head)].sort_values("example")["score"].to_numpy()
        scale = max(own["score"].abs().max(), 1e-3)
        assert found == pytest.approx(expected.numpy(), abs=0.01 * scale), (name, where, head)
        checked += bool((expected.abs() > 0.05 * scale).any())
    assert checked > len(nodes) / 2  # not zeros against zeros


@pytest.mark.parametrize("language", ["gemma3", "qwen2"])
def test_the_exact_effect_is_that_of_a_patch_by_hand(language):
    model, clean, corrupt = twins("dinov2", language)
    names = [name for name in NODES if "pattern" not in name]
    table = scored(model, clean, corrupt, points=names, positions=POSITIONS, exact=19)
    values = [model.run_with_cache(inputs, names_filter=names)[1] for inputs in (clean, corrupt)]
    measured = table.dropna(subset="exact")
    assert len(measured) == 19 == table.attrs["exact_nodes"]
    for row in measured.sample(5, random_state=2).itertuples():
        name = row.point
        by = along(name, values[0][name] - values[1][name], mask_of(corrupt, name, row.positions), row.head)
        before, after = moved(model, corrupt, name, by, [0.0, 1.0])
        assert row.exact == pytest.approx(float((after - before)[row.example]), abs=2e-5)
    scores, effects = measured["score"].rank(), measured["exact"].rank()
    assert table.attrs["spearman"] == pytest.approx(scores.corr(effects))
    assert table.attrs["pearson"] == pytest.approx(measured["score"].corr(measured["exact"]))


@pytest.mark.parametrize("language", LANGUAGES)
def test_near_each_other_scores_are_effects(language):
    model, clean, corrupt = twins("clip", language, step=0.004)
    names = [name for name in nodes_of(model) if "pattern" not in name]
    table = scored(model, clean, corrupt, points=names, positions=POSITIONS, exact=23)
    assert table.attrs["pearson"] > 0.998
    measured = table.dropna(subset="exact")
    # The slope, too: a correlation would not see a factor.
    ratio = (measured["score"] * measured["exact"]).sum() / (measured["score"] ** 2).sum()
    assert ratio == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("changes", [{}, {"qk_fix": True, "grad_drop": True}], ids=["plain", "star"])
@pytest.mark.parametrize("language", LANGUAGES)
def test_patching_clean_with_clean_is_nothing(language, changes):
    model, clean, _ = twins("clip", language)
    table = scored(model, clean, clean, points=nodes_of(model), positions=POSITIONS, **changes)
    assert table["score"].abs().max() == 0
    if changes:
        assert table["grad_drop"].abs().max() == 0


@pytest.mark.parametrize("language", ["gemma", "llama", "qwen2"])
def test_what_is_linear_adds_up(language):
    """Single positions to their group; without a post-norm, heads to what attention adds."""
    model, clean, corrupt = twins("clip", language)
    names = ["connector.hook_out", "language.hook_embed", "language.blocks.1.attn.hook_z"]
    each = scored(model, clean, corrupt, points=names, positions="each")
    for name in names:
        own = each[each["point"] == name]
        for where in ("image", "answer"):
            if name.startswith("connector") and where == "answer":
                continue
            whole = scored(model, clean, corrupt, points=name, positions=where)
            rows = mask_of(corrupt, name, where)
            inside = own[[rows[e, int(p)].item() for e, p in zip(own["example"], own["positions"], strict=True)]]
            sums = inside.groupby(["example", "head"])["score"].sum()
            assert sums.to_numpy() == pytest.approx(whole.set_index(["example", "head"])["score"].to_numpy(), abs=1e-4)
    block = "language.blocks.1"
    table = scored(
        model, clean, corrupt, points=[f"{block}.attn.hook_z", f"{block}.hook_attn_out"], positions=POSITIONS
    )
    heads = table[table["head"] >= 0].groupby(["example", "positions"])["score"].sum()
    whole = table[table["head"] < 0].groupby(["example", "positions"])["score"].sum()
    assert heads.to_numpy() == pytest.approx(whole.to_numpy(), abs=1e-5)


@pytest.mark.parametrize("language", ["gemma3", "qwen2"])
def test_grad_drop_is_the_mean_of_gradients_without_a_layer(language):
    model, clean, corrupt = twins("clip", language)
    names = ["language.hook_embed", "language.blocks.1.attn.hook_v", "language.blocks.1.hook_mlp_out"]
    table = scored(model, clean, corrupt, points=names, positions=["image"], grad_drop=True)
    source = model.run_with_cache(clean, names_filter=names)[1]
    rows = mask_of(corrupt, names[0], "image")
    sums = dict.fromkeys(names, torch.zeros(()))
    for layer in range(3):
        kept: dict[str, Any] = {}

        def keep(x: torch.Tensor, hook: Any, kept: dict[str, Any] = kept) -> None:
            x.retain_grad()
            kept[hook.name] = x

        drop = [(f"language.blocks.{layer}.hook_{part}_out", lambda x, hook: x.detach()) for part in ("attn", "mlp")]
        hooks: list[Any] = [(name, keep) for name in names] + drop
        METRIC(model.run_with_hooks(corrupt, fwd_hooks=hooks).logits[:, -1]).sum().backward()
        for name, x in kept.items():
            if x.grad is not None:
                product = ((source[name] - x) * x.grad).detach().reshape(*rows.shape, -1, 10 if "attn" in name else 42)
                # What a dropped layer adds is no node in that pass.
                own = f"language.blocks.{layer}.hook_mlp_out" != name
                sums[name] = sums[name] + own * (product.sum(-1) * rows[..., None]).sum(1).abs()
    model.zero_grad()
    for name in names:
        found = table[table["point"] == name].sort_values(["example", "head"])["grad_drop"].to_numpy()
        passes = 3 if name == "language.hook_embed" else 2
        assert found == pytest.approx((sums[name] / passes).flatten().numpy(), rel=1e-3)
        assert found.min() > 0


def saturated() -> tuple[HookedVLM, ModelInputs, ModelInputs]:
    """Attention of the last layer looks at one position alone, another one in clean than in corrupt."""
    model, clean, corrupt = twins.__wrapped__("clip", "llama", step=2.0)
    with torch.no_grad():
        for projection in ("q_proj", "k_proj"):
            getattr(model.hf.model.language_model.layers[2].self_attn, projection).weight.mul_(6)
    return model, clean, corrupt


def test_the_qk_fix_sees_through_a_saturated_softmax():
    model, clean, corrupt = saturated()
    point = "language.blocks.2.attn.hook_pattern"
    assert model.run_with_cache(corrupt, names_filter=point)[1][point][:, :, -1].amax(-1).median() > 0.99
    found = {}
    for fix in (False, True):
        points = ["language.blocks.2.attn.hook_q", "language.blocks.2.attn.hook_k"]
        found[fix] = scored(
            model, clean, corrupt, points=points, positions=["image", "answer", 3, 17], qk_fix=fix, exact=10**6
        ).attrs
    assert found[True]["pearson"] > 0.9
    assert found[False]["pearson"] < found[True]["pearson"] - 0.3


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_qk_fix_holds_all_but_the_pattern_fixed(language):
    """By hand: the pattern of a real patch, and the derivative along its change."""
    model, clean, corrupt = twins("clip", language, step=2.0)
    for point in ("language.blocks.1.attn.hook_q", "language.blocks.1.attn.hook_rot_k", "vision.blocks.2.attn.hook_k"):
        table = scored(model, clean, corrupt, points=point, positions=["image"], qk_fix=True)
        pattern = point.rsplit(".", 1)[0] + ".hook_pattern"
        values = [model.run_with_cache(i, names_filter=[point, pattern])[1] for i in (clean, corrupt)]
        by = along(point, values[0][point] - values[1][point], mask_of(corrupt, point, "image"), 1)
        patched = {}

        def keep(x: torch.Tensor, hook: Any, patched: dict[str, torch.Tensor] = patched) -> None:
            patched["pattern"] = x

        with torch.no_grad():
            hooks = [(point, lambda x, hook, by=by: x + by), (pattern, keep)]
            model.run_with_hooks(corrupt, fwd_hooks=hooks)
        expected = slope(model, corrupt, pattern, patched["pattern"] - values[1][pattern], 0.1).numpy()
        found = table[table["head"] == 1].sort_values("example")["score"].to_numpy()
        assert found == pytest.approx(expected, abs=0.01 * abs(expected).max() + 2e-5), point
        assert abs(expected).max() > 5e-4


def test_a_language_model_alone_and_the_default_metric():
    model = tiny_language("gemma3")
    with torch.no_grad():
        for parameter in model.hf.parameters():
            parameter.normal_(0, 0.3)
    clean, corrupt = model.prepare(None, "what is it"), model.prepare(None, "what is")
    with pytest.raises(VlmProbeError, match="laid out alike"):
        scored(model, clean, corrupt, positions="each")
    corrupt = model.prepare(None, "whxx is yz")
    table: Any = attribution_patching(model, clean, corrupt, positions="each", exact=30)
    says = [int(model(i, return_type="logits")[0, -1].argmax()) for i in (clean, corrupt)]
    assert table.attrs["metric"] == f"LogitDifference(answers=({says[0]},), others=({says[1]},))"
    assert table.attrs["clean.0"] > 0 > table.attrs["corrupt.0"]
    embedded = table[table["point"] == "language.hook_embed"].set_index("positions")["score"]
    assert (embedded != 0).sum() == sum(a != b for a, b in zip("what is it", "whxx is yz", strict=True))


def test_a_metric_of_texts_and_one_of_ones_own():
    model = tiny_vlm()
    inputs = [model.prepare(picture, "what?") for picture in (torch.rand(3, 15, 15), torch.zeros(3, 15, 15))]
    ids = model.inputs.tokenizer("rb")["input_ids"]
    assert LogitDifference.of(model, "r", "b") == LogitDifference((ids[0],), (ids[1],))
    table = scored(model, *inputs, metric=lambda logits: logits.logsumexp(-1), points="connector.hook_out")
    assert set(table["positions"]) == {"image"}  # of the default's, those that there are
    assert table.attrs["units"] == "metric"
    assert table["score"].abs().max() > 0


def test_nothing_is_left_behind_where_it_fails():
    model, clean, corrupt = twins("clip", "gemma")

    def broken(logits: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("planned")

    with pytest.raises(RuntimeError, match="planned"):
        scored(model, clean, corrupt, metric=broken, qk_fix=True)
    assert all(not point.fwd_hooks and not point._forward_hooks for point in model.hook_dict.values())
    assert all(p.requires_grad and p.grad is None for p in model.hf.parameters())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"points": "language.blocks.0.attn.hook_attn_scores"},
            "language.blocks.0.attn.hook_attn_scores is no node to patch; residual streams, what is added to them and "
            "heads are",
        ),
        (
            {"points": "vision.blocks.4.hook_resid_post"},
            "nothing depends on vision.blocks.4.hook_resid_post: the connector reads 4 layers of the encoder",
        ),
        ({"positions": ["box"]}, "example 0: positions 'box' need the item's boxes, and there is none"),
        (
            {"points": "connector.hook_out", "positions": ["image", "question"]},
            "none of the points has question positions: connector.hook_out",
        ),
        ({"positions": []}, "give at least one group of positions"),
        (
            {"metric": lambda logits: logits.sum()},
            "the metric takes logits [example, vocabulary] to numbers [2], it gave []",
        ),
        (
            {"metric": LogitDifference((1, 2, 3), (4,))},
            "the metric has tokens of 3 examples, and there are 2",
        ),
    ],
)
def test_what_is_refused(changes, message):
    model, clean, corrupt = twins("clip", "gemma")
    with pytest.raises(VlmProbeError) as caught:
        scored(model, clean, corrupt, **changes)
    assert str(caught.value) == message


def test_runs_that_say_the_same_need_a_metric():
    model, clean, _ = twins("clip", "gemma")
    with pytest.raises(VlmProbeError, match=r"^both runs of example 0 are answered with token \d+; give a metric"):
        scored(model, clean, clean, metric=None)
