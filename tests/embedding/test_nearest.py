"""Nearest vocabulary rows: streamed equals dense, padding never counts, planted words are found."""

import pytest
import torch
from tiny import tiny_vlm

from vlm_probe.embedding.nearest import nearest_rows, nearest_tokens, used_rows
from vlm_probe.errors import VlmProbeError
from vlm_probe.scenes import sample_scene, scene_image

GENERATOR = torch.Generator().manual_seed(5)
TABLE = torch.randn(101, 7, generator=GENERATOR)
VECTORS = torch.randn(13, 7, generator=GENERATOR)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("block", [1, 17, 101, 500])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_streamed_equals_dense(metric, block, dtype):
    table = TABLE.to(dtype)
    keep = torch.rand(101, generator=torch.Generator().manual_seed(1)) < 0.7
    found = nearest_rows(VECTORS, table, k=4, metric=metric, keep=keep, block=block, scale=1.7)
    full = table.float()
    if metric == "cosine":
        score = torch.nn.functional.cosine_similarity(VECTORS[:, None], full[None], dim=-1)
    else:
        score = -(VECTORS[:, None] - 1.7 * full[None]).norm(dim=-1)
    best, ids = score.masked_fill(~keep, -torch.inf).topk(4, dim=1)
    assert torch.equal(found.ids, ids)
    torch.testing.assert_close(found.scores, best if metric == "cosine" else -best, atol=1e-4, rtol=1e-4)


def test_rows_that_do_not_count_are_never_near():
    table = torch.cat([TABLE, VECTORS])
    keep = torch.ones(len(table), dtype=torch.bool)
    assert nearest_rows(VECTORS, table, k=1).ids[:, 0].tolist() == list(range(101, 114))
    keep[101:] = False
    assert (nearest_rows(VECTORS, table, k=3, keep=keep).ids < 101).all()
    with pytest.raises(VlmProbeError, match=r"^k must be between 1 and the 101 rows that count, got 102$"):
        nearest_rows(VECTORS, table, k=102, keep=keep)


def test_padding_and_zero_rows_do_not_stand_for_tokens():
    model = tiny_vlm()
    weight = model.hf.get_input_embeddings().weight
    with torch.no_grad():
        weight[5] = 0
    used = used_rows(model)
    assert not used[5]
    assert used[6]
    assert len(used) == len(weight)
    model.tokenizer = None
    assert used_rows(model).sum() == len(weight) - 1


@pytest.mark.parametrize("language", ["gemma", "llama"])
def test_a_planted_word_is_found_at_its_patch(language):
    model = tiny_vlm("clip", language)
    scene = scene_image(sample_scene(1), 15)
    weight = model.hf.get_input_embeddings().weight.detach()
    planted = 41

    def plant(rows, hook):
        rows[0, 7] = weight[planted] * model.token_scale / model.image_scale
        return rows

    with model.hooks(fwd_hooks=[("connector.hook_out", plant)]):
        trace = model.trace(scene, "What?", capture=["connector.hook_out", "language.hook_embed"])
    for point in ("connector.hook_out", "language.hook_embed"):
        for metric in ("cosine", "euclidean"):
            table = nearest_tokens(model, trace, point=point, metric=metric, k=3)
            assert len(table) == 25 * 3
            at = table.query("row == 1 and col == 2 and rank == 0").iloc[0]
            assert at["token_id"] == planted
            assert at["token"] == model.token_strings([planted])[0]
            assert at["score"] == pytest.approx(1 if metric == "cosine" else 0, abs=2e-3)


def test_points_of_another_width_are_refused(replica):
    scene = scene_image(sample_scene(1), 64)
    trace = replica.trace(scene, "What color is the star?", capture=["connector.hook_in"])
    with pytest.raises(
        VlmProbeError, match=r"^connector.hook_in has shape \[1, 64, 96\], token rows have 112 features"
    ):
        nearest_tokens(replica, trace, point="connector.hook_in")
    with pytest.raises(VlmProbeError, match="the trace holds no 'connector.hook_out'"):
        nearest_tokens(replica, trace)
