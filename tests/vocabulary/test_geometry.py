"""Geometry by hand and planted; under-trained rows are found, padding is not reported; leakage adds up."""

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from tiny import tiny_language, tiny_vlm

from vlm_probe.embedding import anisotropy, effective_rank, participation_ratio, used_rows
from vlm_probe.errors import VlmProbeError
from vlm_probe.scenes import family_items
from vlm_probe.vocabulary import (
    geometry,
    known_unused,
    leakage,
    needed_ids,
    repeats,
    undertrained,
    vocabulary_geometry,
)

GENERATOR = torch.Generator().manual_seed(4)
TABLE = torch.randn(911, 17, generator=GENERATOR) * torch.linspace(0.2, 2, 17) + 0.3


def test_streamed_sums_equal_the_measures_of_the_whole_matrix(monkeypatch):
    monkeypatch.setitem(geometry.__globals__, "BLOCK", 100)
    found, spectrum = geometry(TABLE)
    assert found["effective_rank"] == pytest.approx(effective_rank(TABLE), rel=1e-6)
    assert found["participation_ratio"] == pytest.approx(participation_ratio(TABLE), rel=1e-6)
    assert found["anisotropy"] == pytest.approx(anisotropy(TABLE), rel=1e-6)
    singular = torch.linalg.svdvals((TABLE - TABLE.mean(0)).double()).numpy()
    np.testing.assert_allclose(spectrum["singular_value"], singular, rtol=1e-6)
    assert spectrum["share"].iloc[-1] == pytest.approx(1)
    unit = torch.nn.functional.normalize(TABLE, dim=1)
    nearest = (unit @ unit.T).fill_diagonal_(-1).amax(1)
    assert found["neighbor_cosine"] == pytest.approx(float(nearest.median()), abs=1e-5)
    assert (found["rows"], found["padding"]) == (911, 0)


def test_a_round_cloud_is_isotropic_and_a_shifted_one_is_not():
    cloud = torch.randn(4001, 13, generator=GENERATOR) * 0.3
    assert geometry(cloud)[0]["isotropy"] > 0.9
    assert geometry(cloud + 2)[0]["isotropy"] < 0.1


def test_norms_that_go_with_frequency():
    counts = {i: i + 1 for i in range(911)}
    longer = torch.nn.functional.normalize(TABLE, dim=1) * torch.arange(1, 912)[:, None]
    assert geometry(longer, counts=counts)[0]["norm_frequency"] == pytest.approx(1)
    assert np.isnan(geometry(longer)[0]["norm_frequency"])


def test_padding_rows_are_left_out():
    padded = torch.cat([TABLE, torch.zeros(89, 17)])
    keep = torch.arange(1000) < 911
    one, two = geometry(TABLE)[0], geometry(padded, keep=keep)[0]
    assert two["padding"] == 89
    assert {k: v for k, v in two.items() if k != "padding"} == pytest.approx(
        {k: v for k, v in one.items() if k != "padding"}, nan_ok=True
    )


def test_planted_undertrained_rows_are_found_and_padding_is_not():
    trained = torch.randn(2003, 31, generator=GENERATOR) + 0.5
    direction = torch.randn(31, generator=GENERATOR)
    # What gradient never reached stays at the initialisation, drifting alike.
    left = 0.15 * torch.randn(101, 31, generator=GENERATOR) + 0.4 * direction
    table = torch.cat([trained, left, torch.zeros(37, 31)])
    keep = torch.arange(len(table)) < 2104
    planted = set(range(2003, 2104))
    known = list(planted)[:20]
    by_distance = undertrained(table, reference=known, keep=keep)
    by_norm = undertrained(table, keep=keep)
    for found in (by_distance, by_norm):
        assert set(found["token_id"]) == set(range(2104))
        unknown = found[~found["token_id"].isin(known)]
        assert roc_auc_score(unknown["token_id"].isin(planted), -unknown["indicator"]) > 0.95
        assert found["share"].iloc[0] == 0
    assert "cosine distance" in by_distance.attrs["indicator"]
    assert by_norm.attrs["indicator"] == "norm"


def test_a_model_says_what_it_was_asked_to_repeat():
    model = tiny_language("llama")
    table = repeats(model, [5, 17, 40])
    assert table["token_id"].tolist() == [5, 17, 40]
    assert table["probability"].between(0, 1).all()
    # Where a token's row is the answer to everything, it is always said.
    with torch.no_grad():
        model.hf.lm_head.weight.zero_()
        model.hf.lm_head.weight[17] = 100 * torch.ones(42)
    sure = repeats(model, [5, 17]).set_index("token_id")["probability"]
    assert sure[17] == pytest.approx(1, abs=0.01) or sure[5] < 0.5


def test_the_matrices_of_a_model(replica):
    table = vocabulary_geometry(replica)
    assert table["matrix"].tolist() == ["embedding"]  # tied
    assert vocabulary_geometry(tiny_vlm("clip", "llama"))["matrix"].tolist() == ["embedding", "unembedding"]
    assert known_unused(replica) == []


def test_leakage_adds_up_and_ends_at_the_model(replica):
    items = list(family_items(4, families=("gqa", "vqav2"), seed=9))
    used = needed_ids(replica, items)
    table = leakage(replica, items, used)
    assert len(table) == len(items) * 4
    for item, rows in table.groupby("id"):
        one = next(i for i in items if i.id == item)
        inputs = replica.prepare(one.picture(64), one.question)
        with torch.no_grad():
            p = replica(inputs).logits[0, -1].softmax(-1)
        last = rows.iloc[-1]
        token = used_rows(replica)
        inside = torch.zeros(704, dtype=torch.bool)
        inside[used] = True
        assert last["unused_mass"] == pytest.approx(float(p[token & ~inside].sum()), abs=1e-5)
        assert last["padding_mass"] == pytest.approx(float(p[~token].sum()), abs=1e-6)
        answer = replica.tokenizer(one.answer, add_special_tokens=False)["input_ids"][0]
        assert last["rank"] == int((p > p[answer]).sum())
        assert last["log_probability"] == pytest.approx(float(p[answer].log()), abs=1e-4)
    by_layer = table.groupby("layer")["unused_mass"].mean()
    assert by_layer.iloc[0] > by_layer.iloc[-1]


def test_mass_on_further_sets_is_that_of_their_tokens(replica):
    items = list(family_items(2, families=("gqa",), seed=4))
    used = needed_ids(replica, items)
    never = sorted(set(used_rows(replica).nonzero().flatten().tolist()) - set(used))
    halves = {"even": never[::2], "odd": never[1::2]}
    table = leakage(replica, items, used, sets=halves)
    assert table["even_share"].unique().tolist() == [len(halves["even"]) / 704]
    for place in ("", "image_"):
        whole = table[f"{place}even_mass"] + table[f"{place}odd_mass"]
        np.testing.assert_allclose(whole, table[f"{place}unused_mass"], atol=1e-6)
    assert (table["image_even_mass"] > 0).all()
    for name, ids in (("unused", [5]), ("none", []), ("far", [704])):
        with pytest.raises(VlmProbeError, match=f"^set '{name}' of {len(ids)} tokens: a name other than"):
            leakage(replica, items, used, sets={name: ids})


@pytest.mark.parametrize(
    ("used", "message"),
    [
        ([], "0 of 704 tokens are used: there is nothing to leak from or to"),
        (range(704), "704 of 704 tokens are used: there is nothing to leak from or to"),
        ([3, 704], "used ids must be between 0 and 703, got 3 to 704"),
    ],
)
def test_what_cannot_leak(replica, used, message):
    with pytest.raises(VlmProbeError) as caught:
        leakage(replica, [], used)
    assert str(caught.value) == message


def test_what_has_no_geometry():
    with pytest.raises(VlmProbeError, match="^11 rows are too few for a geometry, give at least 12$"):
        geometry(TABLE[:11])
    with pytest.raises(VlmProbeError, match="^911 of 911 rows have NaN or infinite values$"):
        geometry(TABLE * float("nan"))
    with pytest.raises(VlmProbeError, match="^reference ids must be between 0 and 910$"):
        undertrained(TABLE, reference=[911])
