"""A hook point is TransformerLens' hook point: what its tests of HookPoint and of list_hooks ask, asked of ours."""

import pytest
import torch
from tiny import tiny_batch, tiny_vlm
from transformer_lens.conversion_utils.conversion_steps.base_tensor_conversion import BaseTensorConversion
from transformer_lens.hook_points import HookPoint

from vlm_probe import VlmProbeError
from vlm_probe.hooked.points import Point, is_active

FIRST, SECOND = "language.blocks.0.hook_resid_post", "language.blocks.1.hook_resid_post"


def same(x, hook):
    return x


def other(x, hook):
    return x


@pytest.fixture
def point():
    return Point()


@pytest.fixture(scope="module")
def shared():
    return tiny_vlm()


@pytest.fixture
def model(shared):
    yield shared
    shared.reset_hooks(including_permanent=True)


class Doubling(BaseTensorConversion):
    """Shows a hook twice the activation, and adds ten to what it returns."""

    def handle_conversion(self, input_value, *full_context):
        return input_value * 2

    def revert(self, input_value, *full_context):
        return input_value + 10


# --- adding ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("direction", "held"), [("fwd", (1, 0)), ("bwd", (0, 1))])
def test_a_hook_is_added_in_its_direction(point, direction, held):
    point.add_hook(same, dir=direction)
    assert (len(point.fwd_hooks), len(point.bwd_hooks)) == held


def test_a_handle_knows_its_permanence_level_and_function(point):
    handle = point.add_hook(same, is_permanent=True, level=5)
    assert point.fwd_hooks == [handle]
    assert (handle.is_permanent, handle.context_level, handle.user_hook) == (True, 5, same)
    point.add_perma_hook(other, dir="bwd")
    assert [(h.is_permanent, h.user_hook) for h in point.bwd_hooks] == [(True, other)]


@pytest.mark.parametrize(("prepend", "expected"), [(False, 3 * 2 + 1), (True, (3 + 1) * 2)])
def test_a_prepended_hook_is_first_in_the_list_and_first_to_run(point, prepend, expected):
    point.add_hook(lambda x, hook: x * 2)
    last = point.add_hook(lambda x, hook: x + 1, prepend=prepend)
    assert point.fwd_hooks.index(last) == (0 if prepend else 1)
    assert point(torch.tensor(3)).item() == expected


@pytest.mark.parametrize("call", ["add_hook", "has_hooks", "remove_hooks"])
def test_an_invalid_direction_is_refused(point, call):
    arguments = (same,) if call == "add_hook" else ()
    with pytest.raises(ValueError, match="Invalid direction sideways"):
        getattr(point, call)(*arguments, dir="sideways")


# --- running -----------------------------------------------------------------------------------------


def test_a_point_is_an_identity_that_runs_its_hooks(point):
    x, seen = torch.tensor([1.0, 2.0]), []
    assert point(x) is x
    point.add_hook(lambda x, hook: seen.append((x, hook)))
    assert torch.equal(point(x), x)
    assert seen == [(x, point)]
    point.add_hook(lambda x, hook: x * 2)
    assert torch.equal(point(x), 2 * x)


def test_a_point_says_whether_it_has_fired(point):
    assert point.fired is False
    point(torch.zeros(1))
    assert point.fired is True


def test_a_conversion_stands_around_a_hook_that_returns_something(point):
    x = torch.tensor([1.0, 2.0, 3.0])
    point.enable_reshape(conversion := Doubling())
    assert point.hook_conversion is conversion
    seen = []
    point.add_hook(lambda x, hook: seen.append(x.clone()))
    assert torch.equal(point(x), x)
    assert torch.equal(seen[0], 2 * x)
    point.remove_hooks()
    point.add_hook(lambda x, hook: x + 1)
    assert torch.equal(point(x), torch.tensor([13.0, 15.0, 17.0]))
    point.enable_reshape(None)
    assert torch.equal(point(x), x + 1)


def test_a_conversion_works_inside_the_model(model):
    batch = tiny_batch(model.hf)
    plain = model.run_with_cache(**batch, names_filter=FIRST)[1][FIRST]
    model.hook_dict[FIRST].enable_reshape(Doubling())
    try:
        converted = model.run_with_cache(**batch, names_filter=FIRST)[1][FIRST]
    finally:
        model.hook_dict[FIRST].enable_reshape(None)
    torch.testing.assert_close(converted, 2 * plain)


# --- asking what is hooked ---------------------------------------------------------------------------

HOOKED = {
    "nothing": [],
    "forward": [{"dir": "fwd"}],
    "backward": [{"dir": "bwd"}],
    "both": [{"dir": "fwd"}, {"dir": "bwd"}],
    "three alike": [{"dir": "fwd", "level": 0}] * 3,
    "permanent": [{"dir": "fwd", "is_permanent": True}],
    "permanent both": [{"dir": "fwd", "is_permanent": True}, {"dir": "bwd", "is_permanent": True}],
    "mixed": [{"dir": "fwd", "is_permanent": True}, {"dir": "fwd"}],
    "levels": [{"dir": "fwd", "level": 0}, {"dir": "fwd", "level": 1}, {"dir": "bwd", "level": 2}],
    "permanent at 0": [{"dir": "fwd", "level": 0, "is_permanent": True}, {"dir": "fwd", "level": 1}],
    "permanent at 5": [{"dir": "fwd", "level": 5, "is_permanent": True}],
    "all kinds": [
        {"dir": "fwd", "level": 0, "is_permanent": True},
        {"dir": "fwd", "level": 1},
        {"dir": "bwd", "level": 0},
        {"dir": "bwd", "level": 2, "is_permanent": True},
    ],
}
QUESTIONS = [
    {"dir": direction, "including_permanent": permanent, "level": level}
    for direction in ("fwd", "bwd", "both")
    for permanent in (True, False)
    for level in (None, -1, 0, 1, 2, 3, 5)
]


@pytest.mark.parametrize("added", HOOKED.values(), ids=HOOKED.keys())
def test_has_hooks_answers_every_question_about_them(point, added):
    for arguments in added:
        point.add_hook(same, **arguments)
    for asked in QUESTIONS:
        expected = any(
            asked["dir"] in ("both", a["dir"])
            and (asked["including_permanent"] or not a.get("is_permanent", False))
            and asked["level"] in (None, a.get("level"))
            for a in added
        )
        assert point.has_hooks(**asked) is expected, asked
    assert point.has_hooks() is bool(added)
    assert is_active(point) is bool(added)


@pytest.mark.parametrize(("arguments", "kept"), [({}, ["bwd"]), ({"dir": "both"}, []), ({"dir": "bwd"}, ["fwd"])])
def test_removing_hooks_spares_the_permanent_and_the_other_direction(point, arguments, kept):
    for direction in ("fwd", "bwd"):
        point.add_hook(same, dir=direction)
        point.add_hook(same, dir=direction, is_permanent=True)
    point.remove_hooks(**arguments)
    for direction in ("fwd", "bwd"):
        assert point.has_hooks(dir=direction, including_permanent=False) is (direction in kept)
        assert point.has_hooks(dir=direction)
    point.remove_hooks(dir="both", including_permanent=True)
    assert not point.has_hooks()


def test_a_point_is_named_and_counted_in_its_repr(model):
    assert repr(Point()) == "HookPoint()"
    point = model.hook_dict[FIRST]
    assert repr(point) == f"HookPoint(name={FIRST!r})"
    for _ in range(2):
        point.add_hook(same)
    assert repr(point) == f"HookPoint(name={FIRST!r}, 2 fwd)"
    point.add_hook(same, dir="bwd")
    assert repr(point) == f"HookPoint(name={FIRST!r}, 2 fwd, 1 bwd)"


def test_every_point_of_a_model_is_one_of_ours(model):
    assert all(isinstance(p, Point) and isinstance(p, HookPoint) for p in model.hook_points())
    assert [p.name for p in model.hook_points()] == list(model.hook_dict)


def test_the_layer_is_read_behind_the_prefix(model):
    layers = {name: point.layer() for name, point in model.hook_dict.items() if ".blocks." in name}
    assert layers == {name: int(name.split(".")[2]) for name in layers}
    assert layers["vision.blocks.4.attn.hook_q"] == 4


@pytest.mark.parametrize("name", ["connector.hook_out", "language.hook_embed", "language.ln_final.hook_scale", None])
def test_a_point_in_no_block_has_no_layer(model, name):
    point = Point() if name is None else model.hook_dict[name]
    with pytest.raises(VlmProbeError) as caught:
        point.layer()
    assert str(caught.value) == f"the hook point {name!r} is in no block, so it has no layer"


# --- listing -----------------------------------------------------------------------------------------


def test_nothing_is_listed_where_nothing_is_hooked(model):
    assert model.list_hooks() == {}


@pytest.mark.parametrize(
    ("names", "listed"),
    [
        (None, [FIRST, SECOND]),
        (FIRST, [FIRST]),
        ([SECOND], [SECOND]),
        ([SECOND, FIRST], [FIRST, SECOND]),
        ("language.blocks.*", [FIRST, SECOND]),
        (["*.1.hook_resid_post", "connector.*"], [SECOND]),
        (lambda name: name.startswith("language.blocks.0"), [FIRST]),
        ("vision.*", []),
    ],
)
def test_hooks_are_listed_by_name_globs_and_predicate(model, names, listed):
    model.add_hook(FIRST, same)
    model.add_hook(SECOND, other)
    found = model.list_hooks(names)
    assert list(found) == listed
    for name, handles in found.items():
        assert [handle.user_hook for handle in handles] == [same if name == FIRST else other]


def test_hooks_are_listed_by_direction_and_permanence(model):
    model.add_hook(FIRST, same, dir="fwd", is_permanent=True)
    model.add_hook(FIRST, other, dir="bwd")
    listed = {d: [h.user_hook for h in model.list_hooks(dir=d)[FIRST]] for d in ("fwd", "bwd", "both")}
    assert listed == {"fwd": [same], "bwd": [other], "both": [same, other]}
    assert [h.user_hook for h in model.list_hooks(including_permanent=False)[FIRST]] == [other]
    assert model.list_hooks(dir="fwd", including_permanent=False) == {}
