"""A hooked model beside the plain one: what is right passes everywhere, and what was planted wrong is found."""

import csv
import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tiny import LANGUAGES, TOWERS, tiny_batch, tiny_language, tiny_llava, tiny_vlm
from torch import nn
from transformers import LlavaForConditionalGeneration

import vlm_probe
from vlm_probe.errors import VlmProbeError
from vlm_probe.hooked import HookedVLM, families, joined
from vlm_probe.hooked.plain import plain_twin
from vlm_probe.hooked.verifying import verify

TABLE = Path(vlm_probe.__file__).parent / "hooked" / "verified.csv"
CLASSES = {
    "llava": ("clip", "gemma"),
    "llava_next": ("next", "mistral"),
    "paligemma": ("paligemma", "gemma2"),
    "prismatic": ("prismatic_fused", "llama"),
    "gemma3": ("gemma3", "gemma3"),
}


def checked(model: HookedVLM) -> Any:
    return verify(model)


def rows() -> list[dict[str, str]]:
    """Of every family and class a random miniature; encoders beside Gemma, language models beside CLIP."""
    pairs = [("encoder", families.VISION, config().model_type, (name, "gemma")) for name, config in TOWERS.items()]
    pairs += [
        ("language model", families.LANGUAGE, config().model_type, ("clip", name)) for name, config in LANGUAGES.items()
    ]
    pairs += [("model", joined.JOINED, kind, pair) for kind, pair in CLASSES.items()]
    found = []
    for part, known, family, pair in pairs:
        model = tiny_vlm(*pair)
        table = checked(model)
        assert table["ok"].all(), table
        found.append(
            {
                "part": part,
                "family": family,
                "title": known[family].title,
                "points": str(len(model.hook_dict)),
                "checks": str(len(table)),
                "difference": f"{max(table['difference'].max(), 1e-7):.0e}",
                "transformers": transformers.__version__,
            }
        )
    return found


def written(found: list[dict[str, str]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(found[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(found)
    return text.getvalue()


def test_the_table_of_families_is_what_their_miniatures_give():
    """To record it anew: `python tests/hooked/test_verifying.py`."""
    found, recorded = rows(), list(csv.DictReader(TABLE.read_text().splitlines()))
    every = {*families.VISION, *families.LANGUAGE, *joined.JOINED}
    assert {row["family"] for row in found} == every, "each family has a miniature"
    moving = ("difference", "transformers")
    for row, expected in zip(found, recorded, strict=True):
        assert {k: v for k, v in row.items() if k not in moving} == {k: expected[k] for k in row if k not in moving}
        assert float(row["difference"]) <= 1e-5


def test_a_language_model_alone_and_tensors_without_words():
    alone = checked(tiny_language())
    assert alone["ok"].all()
    assert not alone["check"].str.contains("vision|connector").any()
    assert checked(HookedVLM(tiny_llava("registers", "gemma2")))["ok"].all()


@pytest.mark.parametrize("scale", ["all", "text"])
def test_it_is_compared_with_the_scale_that_is_set(scale):
    model = HookedVLM(tiny_llava("clip", "gemma"), embed_scale=scale)
    table = checked(model)
    assert table["ok"].all()
    assert table.attrs["image_scale"] == (42**0.5 if scale == "all" else 1.0)
    other = HookedVLM(tiny_llava("clip", "gemma"), embed_scale="text" if scale == "all" else "all")
    batch = tiny_batch(model.hf)
    logits = [plain_twin(one, "sdpa")(**batch).logits for one in (model, other)]
    assert not torch.allclose(*logits, atol=1e-3), "the scale would not be missed"


def somebodys(module: nn.Module, args: tuple, output: torch.Tensor) -> torch.Tensor:
    return output * 1.01


def wrong_row(**changes: Any) -> families.LanguageFamily:
    row = families.LANGUAGE["gemma"]
    return replace(row, blocks=replace(row.blocks, **changes))


@pytest.mark.parametrize(
    ("planted", "found"),
    [
        # A family's row that names the wrong module.
        (wrong_row(attn_out="post_attention_layernorm"), {"language: what layers add"}),
        (wrong_row(mlp_out="input_layernorm"), {"language: what layers add"}),
        (wrong_row(qkv=(("q_proj",), ("v_proj",), ("k_proj",))), {"language: patterns times values"}),
        (wrong_row(qkv=(("k_proj",), ("q_proj",), ("v_proj",))), {"language: queries, keys, values"}),
        (wrong_row(mlp_in=("mlp.up_proj",)), {"language: MLP"}),
        (wrong_row(mlp_down=("mlp.act_fn",)), {"language: MLP"}),
        (replace(families.LANGUAGE["gemma"], norm_offset=0.0), {"final norm and logits"}),
        (replace(families.LANGUAGE["gemma"], output="q_proj"), {"language: what heads add"}),
        (
            replace(families.LANGUAGE["gemma"], norm_before="post_attention_layernorm"),
            {"language: queries, keys, values"},
        ),
        (replace(families.LANGUAGE["gemma"], scales_tokens=False), {"rows the language model gets"}),
    ],
)
def test_a_row_that_is_wrong_is_found(monkeypatch, planted, found):
    monkeypatch.setitem(families.LANGUAGE, "gemma", planted)
    table = checked(tiny_vlm("clip", "gemma"))
    assert found <= set(table.loc[~table["ok"], "check"])


@pytest.mark.parametrize(
    ("where", "found"),
    [
        ("vision_tower.encoder.layers.1.mlp.fc1", {"idle logits", "vision: residual stream"}),
        ("multi_modal_projector.linear_2", {"idle logits"}),
        ("language_model.layers.1.self_attn.q_proj", {"idle logits", "language: attention patterns"}),
        ("language_model.norm", {"idle logits", "final norm and logits"}),
    ],
)
def test_a_model_that_computes_something_else_is_found(where, found):
    """A hook of somebody's that stays in the model is what its plain twin does not have."""
    model = tiny_vlm("clip", "llama")
    model.hf.model.get_submodule(where).register_forward_hook(somebodys)
    table = checked(model)
    assert found <= set(table.loc[~table["ok"], "check"])


def test_a_point_that_shows_something_else_is_found_wherever_it_is(monkeypatch):
    """Twice what it should, and edits halved: the model itself computes what it did."""
    from vlm_probe.hooked.points import Point

    usual, model = nn.Module.__call__, tiny_vlm("siglip", "gemma3")
    missed = []
    for name in model.hook_dict:
        if "blocks." in name and ".blocks.1." not in name:
            continue

        def doubled(self, x, name=name):
            if self.name != name:
                return usual(self, x)
            self.fired = True
            return usual(self, x * 2) / 2

        with monkeypatch.context() as patch:
            patch.setattr(Point, "__call__", doubled, raising=False)
            missed += [name] if checked(model)["ok"].all() else []
    assert missed == []


@pytest.mark.parametrize(
    "deaf",
    [
        "vision.blocks.2.attn.hook_pattern",
        "connector.hook_pre",
        "language.hook_embed",
        "language.blocks.0.attn.hook_attn_scores",
        "language.blocks.2.hook_mlp_out",
        "language.ln_final.hook_normalized",
        "language.hook_logits",
    ],
)
def test_a_point_that_nothing_hears_is_found(monkeypatch, deaf):
    """It is fed a copy: what is read there is right, and what is edited goes nowhere."""
    from vlm_probe.hooked.points import Point

    usual = nn.Module.__call__

    def aside(self, x):
        if self.name != deaf:
            return usual(self, x)
        usual(self, x.clone())
        return x

    monkeypatch.setattr(Point, "__call__", aside, raising=False)
    table = checked(tiny_vlm("clip", "gemma"))
    (row,) = table.loc[~table["ok"]].to_dict("records")
    assert row["check"] == f"{deaf.split('.')[0]}: edits reach the logits"
    assert row["said"] == f"an edit changes no logit at {deaf}"


def test_paths_that_only_some_runs_take_are_compared(monkeypatch):
    """Attention without a mask, where nothing is padded, and patterns that are hooked alone."""
    from vlm_probe.hooked import attention

    allowed, by_head = attention._allowed, attention._pattern_by_head
    with monkeypatch.context() as patch:
        patch.setattr(attention, "_allowed", lambda mask, *rest: (None, None) if mask is None else allowed(mask, *rest))
        table = checked(tiny_vlm("siglip", "phi"))
        assert "language: attention patterns" in set(table.loc[~table["ok"], "check"])
    monkeypatch.setattr(attention, "_pattern_by_head", lambda *given, **more: by_head(*given, **more).flip(1))
    table = checked(tiny_vlm("siglip", "phi"))
    assert set(table.loc[~table["ok"], "check"]) == {"vision: attention patterns", "language: attention patterns"}


def test_what_a_layer_adds_is_not_lost_in_a_large_stream(monkeypatch):
    """In bfloat16, beside a row of thousands: nothing at all passed once, at the same point, for what was added."""
    from vlm_probe.hooked.points import Point

    usual, model = nn.Module.__call__, tiny_vlm("clip", "llama").to(torch.bfloat16)
    with torch.no_grad():
        model.hf.get_input_embeddings().weight[:, 5] += 20_000
    assert checked(model)["ok"].all()

    def nothing(self, x):
        if self.name != "language.blocks.1.hook_mlp_out":
            return usual(self, x)
        usual(self, x * 0)
        return x

    monkeypatch.setattr(Point, "__call__", nothing, raising=False)
    table = checked(model)
    assert "language: what layers add" in set(table.loc[~table["ok"], "check"])


YARN = {"rope_theta": 1e4, "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 50}


@pytest.mark.parametrize("language", ["llama", "mistral"])
def test_a_rotation_that_also_scales_holds(language):
    config = tiny_llava("clip", language).config
    own = dict(config.text_config.rope_parameters or {})
    config.text_config.rope_parameters = {**own, **YARN}
    torch.manual_seed(1)
    assert checked(HookedVLM(LlavaForConditionalGeneration(config).eval()))["ok"].all()


def test_an_encoder_whose_embeddings_alone_are_read_holds():
    assert checked(HookedVLM(tiny_llava("clip", "llama", vision_feature_layer=-6)))["ok"].all()


def test_a_model_that_was_changed_after_loading_holds():
    """Cast, in training, with matrices that are no longer one: the plain twin is that, not its configuration."""
    model = HookedVLM(tiny_llava("clip", "gemma"))
    assert model.hf.config.tie_word_embeddings
    with torch.no_grad():
        model.hf.lm_head.weight = nn.Parameter(model.hf.lm_head.weight + 0.3)
    model.to(torch.bfloat16)
    model.hf.train()
    torch.manual_seed(0)
    state = torch.get_rng_state()
    assert checked(model)["ok"].all()
    assert model.hf.training
    assert torch.equal(torch.get_rng_state(), state)


def test_weights_that_are_not_those_of_the_configuration_are_refused():
    hf = tiny_llava("clip", "llama")
    hf.model.language_model.layers = hf.model.language_model.layers[:2]
    with pytest.raises(VlmProbeError, match=r"model is not the model that its configuration describes"):
        verify(HookedVLM(hf))


def test_a_model_with_hooks_is_refused_and_none_is_left():
    model = tiny_vlm("clip", "gemma")
    model.add_hook("language.hook_embed", lambda x, hook: x)
    with pytest.raises(VlmProbeError, match=r"model has hooks, which would be compared too"):
        verify(model)
    model.reset_hooks()
    assert checked(model)["ok"].all()
    assert not any(p._forward_hooks for p in model.hook_points())


def test_the_command_says_so_and_ends_with_one_where_they_differ(command, monkeypatch):
    ended = command("verify", "replica/default", "--device", "cpu")
    assert (ended.code, ended.err) == (0, "")
    assert "all 24 checks hold" in ended.out
    assert "embedding scale, measured: token rows x 10.583, image rows x 1" in ended.out
    monkeypatch.setitem(families.LANGUAGE, "gemma", wrong_row(mlp_out="input_layernorm"))
    ended = command("verify", "replica/default", "--device", "cpu")
    assert ended.code == 1
    assert "differs from plain transformers: language: what layers add" in " ".join(ended.err.split())


if __name__ == "__main__":
    TABLE.write_text(written(rows()))
