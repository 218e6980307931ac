"""Attention over packed rows computes what attention over whole rows with a mask computes, and much less of it."""

import dataclasses
import random
from contextlib import nullcontext
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from tiny import LANGUAGES
from torch import nn
from transformers import AutoModelForCausalLM

from vlm_probe.scenes import sample_scene
from vlm_probe.training import attention
from vlm_probe.training import replica as recipe
from vlm_probe.training.attention import Segments
from vlm_probe.training.connector import PromptPacker
from vlm_probe.training.encoders import ClipStage
from vlm_probe.training.fusion import Connector, FusionStage, LanguageStage, answer_loss
from vlm_probe.training.loop import Stage, run_stage
from vlm_probe.training.packing import IGNORE, Packer, build_tokenizer
from vlm_probe.zoo.cells import CELLS, SIZES, Steps

CPU = torch.device("cpu")


def mask_of(segment: torch.Tensor) -> torch.Tensor:
    """[batch, 1, query, key] bool: what training gave to attention over whole rows, before."""
    same = (segment[:, :, None] == segment[:, None, :]) | (segment[:, None, :] == 0)
    return (same & torch.ones(segment.shape[1], segment.shape[1], dtype=torch.bool).tril())[:, None]


def whole_rows(segment: torch.Tensor, device: torch.device) -> Segments:
    """The reference in place of `Segments.of`: one block, which looks at everything through a mask."""
    length = segment.shape[1]
    return Segments([length], [length], [attention._Block(0, 0, 1, mask_of(segment).to(device))])


def numbered(rows: list[tuple[int, list[int]]], length: int) -> torch.Tensor:
    """`Packed.segment` of rows of a prefix's length and the segments'."""
    found = torch.full((len(rows), length), -1)
    for row, (prefix, lengths) in enumerate(rows):
        ids = [0] * prefix + [number for number, n in enumerate(lengths, start=1) for _ in range(n)]
        found[row, : len(ids)] = torch.tensor(ids)
    return found


ROWS = {
    "one prefix": ([(19, [7, 5, 11]), (19, [3, 2, 13]), (19, [5, 17])], 43),
    "prefixes of their own": ([(31, [2, 3]), (5, [41, 3]), (2, [1, 1, 1, 29, 7]), (17, [])], 53),
    "no segment": ([(23, []), (7, [])], 29),
    "segments over several blocks": ([(3, [97, 5]), (11, [2, 101])], 127),
    "a whole number of pieces": ([(32, [16, 16]), (32, [32])], 64),
}
HEADS = {"one": (5, 1), "as many": (3, 3), "grouped": (6, 2)}


@pytest.mark.parametrize("heads", HEADS)
@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("piece", [3, attention.PIECE, 1009])
def test_outputs_and_gradients_are_those_of_whole_rows_with_a_mask(monkeypatch, rows, heads, piece):
    monkeypatch.setattr(attention, "PIECE", piece)
    segment = numbered(*ROWS[rows])
    torch.manual_seed(0)
    d_head = 7
    q, k, v = (
        torch.randn(*segment.shape[:1], n, segment.shape[1], d_head, requires_grad=True)
        for n in (HEADS[heads][0], HEADS[heads][1], HEADS[heads][1])
    )
    whole_k, whole_v = (x.repeat_interleave(q.shape[1] // x.shape[1], dim=1) for x in (k, v))
    expected = F.scaled_dot_product_attention(q, whole_k, whole_v, mask_of(segment), scale=0.3).transpose(1, 2)
    found = attention._over_segments(q, k, v, Segments.of(segment, CPU), 0.3)
    # Nothing is read from what pads a row, and so no gradient comes from there.
    real = (segment >= 0)[..., None, None]
    torch.testing.assert_close(found * real, expected * real, atol=1e-5, rtol=1e-5)
    assert found.isfinite().all()
    back = torch.randn_like(found) * real
    grads = (torch.autograd.grad(z, (q, k, v), back) for z in (found, expected))
    for one, other in zip(*grads, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("text", [False, True])
def test_less_than_half_of_the_scores_of_a_row_of_the_recipe_are_computed(text):
    packer = Packer(build_tokenizer(CELLS["small-clip"].vocabulary))
    scenes = [sample_scene(i) for i in range(32)]
    patches = None if text else 64
    packed = packer.pack(scenes, random.Random(0), patches=patches, describe=False, questions=12, learn_all=text)
    segments = Segments.of(packed.segment, CPU)
    scores = sum(block.mask.shape[2] * block.mask.shape[3] for block in segments.blocks)
    assert scores < 0.5 * packed.segment.shape[1] ** 2


def test_a_segment_sees_the_prefix_and_itself_only():
    packer = Packer(build_tokenizer(CELLS["small-clip"].vocabulary))
    packed = packer.pack([sample_scene(3)], random.Random(0), patches=7, describe=True, questions=3, learn_all=False)
    positions, segments = packed.position_ids[0], Segments.of(packed.segment, CPU)
    edges = torch.tensor([0, *segments.pieces]).cumsum(0).tolist()
    seen: list[list[int]] = []
    for block in segments.blocks:
        at = [*range(edges[block.far]), *range(edges[block.near], edges[block.end])]
        seen += [[at[i] for i in row.nonzero().flatten()] for row in block.mask[0, 0]]
    starts = [i for i in range(1, len(positions)) if positions[i] == 9]
    assert len(starts) == 4
    assert seen[:9] == [[*range(query + 1)] for query in range(9)]
    for start, end in pairwise([*starts, len(positions)]):
        assert seen[start:end] == [[*range(9), *range(start, query + 1)] for query in range(start, end)]


@pytest.mark.parametrize("family", ["gemma", "gemma3", "llama"])
def test_every_question_is_learned_as_it_is_asked_alone(monkeypatch, family):
    """Of all families that are trained: against plain causal runs of the prefix and one segment, by eager attention."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())
    tokenizer = build_tokenizer(320)
    config = LANGUAGES[family]()
    config.vocab_size, config.sliding_window = len(tokenizer), 512
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_config(config).eval()
    packer = PromptPacker(tokenizer, "<image>")
    scenes, patches = [sample_scene(i) for i in range(3)], 23
    packed = packer.pack(
        scenes, random.Random(0), patches=patches, describe=True, questions=5, learn_all=False, multiple=32
    )
    rows = torch.randn(len(scenes), patches, config.hidden_size)
    model.set_attn_implementation(attention.FLOAT32_ATTENTION)
    with torch.no_grad():
        loss, _ = answer_loss(model, packed, rows)
    model.set_attn_implementation("eager")
    alone = []
    for row, segment in enumerate(packed.segment):
        for number in range(1, 7):
            at = (segment == 0) | (segment == number)
            with torch.no_grad():
                embeds = model.get_input_embeddings()(packed.input_ids[row, at])[None].clone()
                embeds[0, packed.patches_at : packed.patches_at + patches] = rows[row]
                logits = model(inputs_embeds=embeds).logits[0]
            labels = packed.labels[row, at]
            alone.append(F.cross_entropy(logits[labels != IGNORE], labels[labels != IGNORE], reduction="none"))
    torch.testing.assert_close(loss, torch.cat(alone).mean(), atol=1e-5, rtol=1e-5)


def losses_of_20_steps(folder, size: str) -> dict[str, list[float]]:
    cell = dataclasses.replace(CELLS[f"{size}-clip"], steps=Steps(20, 20, 20, 20, 20))
    packer = Packer(build_tokenizer(cell.vocabulary))
    language = LanguageStage(cell, packer)
    torch.manual_seed(2)
    connector = Connector(cell.vision["hidden_size"], cell.language.hidden_size)
    encoder = ClipStage(cell, packer).encoder
    found: dict[str, list[float]] = {}

    def train(stage: Stage) -> None:
        run_stage(stage, folder, resume=False, listen=lambda p: found.setdefault(p.stage, []).append(p.figures["loss"]))

    train(language)
    for name in recipe.FUSION_STAGES:  # each made when its turn comes: it says which weights learn
        train(FusionStage(name, cell, packer, encoder, connector, language.module))
    return found


@pytest.mark.parametrize("size", SIZES)
def test_twenty_steps_of_every_stage_have_the_losses_of_whole_rows(tmp_path, monkeypatch, size):
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # float32 throughout
    # Muon rounds to bfloat16 on its way, and the first step of AdamW is the gradient's sign: of rounding by 1e-7 they
    # make 1e-3, whatever computed it.
    monkeypatch.setattr("vlm_probe.training.loop._optimizers", lambda stage: [torch.optim.SGD(stage.parameters())])
    monkeypatch.setattr("vlm_probe.training.loop.schedule", lambda step, steps, peak: 0.3)
    monkeypatch.setattr(LanguageStage, "batch", 3)
    monkeypatch.setattr(FusionStage, "batch", 2)
    found = losses_of_20_steps(tmp_path / "found", size)
    monkeypatch.setattr(Segments, "of", staticmethod(whole_rows))
    expected = losses_of_20_steps(tmp_path / "expected", size)
    assert {stage: len(values) for stage, values in found.items()} == dict.fromkeys(
        ("language", *recipe.FUSION_STAGES), 20
    )
    for stage, values in expected.items():
        assert values[-1] < values[0] - 0.01, stage
        assert found[stage] == pytest.approx(values, abs=1e-4), stage


def test_the_same_twice_is_the_same_bit_for_bit():
    segment = numbered(*ROWS["prefixes of their own"])

    def gradients():
        torch.manual_seed(3)
        q, k, v = (torch.randn(4, n, 53, 11, requires_grad=True) for n in (6, 2, 2))
        z = attention._over_segments(q, k, v, Segments.of(segment, CPU), None)
        return (z, *torch.autograd.grad(z.square().sum(), (q, k, v)))

    assert all(torch.equal(one, other) for one, other in zip(gradients(), gradients(), strict=True))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("encoder", ["clip", "dino"])
def test_a_gpu_trains_every_stage_as_a_cpu_does(tmp_path, encoder):
    cell = dataclasses.replace(CELLS[f"small-{encoder}"], steps=Steps(3, 3, 3, 5, 3))
    losses: dict[str, dict[str, list[float]]] = {"cpu": {}, "cuda": {}}
    for device, found in losses.items():
        trained = recipe.train(
            cell,
            tmp_path / device,
            device=device,
            listen=lambda progress, found=found: found.setdefault(progress.stage, []).append(progress.figures["loss"]),
        )
        parts: list[nn.Module] = [trained.encoder, trained.connector, trained.language]
        assert {p.device.type for part in parts for p in part.parameters()} == {device}
    assert list(losses["cuda"]) == list(losses["cpu"])
    for stage, values in losses["cpu"].items():
        assert losses["cuda"][stage] == pytest.approx(values, rel=0.05), stage
