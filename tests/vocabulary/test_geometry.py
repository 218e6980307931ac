"""Geometry by hand and planted; under-trained rows are found, padding is not reported; leakage adds up."""

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from tiny import tiny_language, tiny_vlm

import vlm_probe
from vlm_probe.embedding import anisotropy, effective_rank, participation_ratio, used_rows
from vlm_probe.errors import VlmProbeError
from vlm_probe.hooked.anatomy import unembedding
from vlm_probe.hooked.untrained import untrained
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
from vlm_probe.zoo.catalog import is_fetched

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
    found = undertrained(table, known, keep=keep)
    assert set(found["token_id"]) == set(range(2104))
    assert sorted(found.loc[found["reference"].to_numpy(), "token_id"]) == sorted(known)
    unknown = found[~found["reference"]]
    assert roc_auc_score(np.isin(unknown["token_id"], list(planted)), -unknown["indicator"]) > 0.95
    assert found["share"].iloc[0] == 0


def test_rows_that_nothing_ever_shrank_are_found_though_they_are_the_longest():
    """As in the replicas: by the norm, every one of them would pass for the best trained."""
    strongest, drift = torch.linalg.qr(torch.randn(31, 2, generator=GENERATOR)).Q.T
    trained = 0.3 * torch.randn(997, 31, generator=GENERATOR)
    trained = trained + 2 * torch.outer(torch.randn(997, generator=GENERATOR), strongest)
    left = 0.6 * torch.randn(101, 31, generator=GENERATOR) + 4 * drift
    found = undertrained(torch.cat([trained, left]), list(range(997, 1047)))
    unknown = found.loc[~found["reference"]]
    never = unknown["token_id"].to_numpy() >= 997
    assert roc_auc_score(never, -unknown["norm"]) < 0.05
    assert roc_auc_score(never, -unknown["indicator"]) > 0.95


def test_without_a_row_known_to_be_untrained_nothing_is_told():
    with pytest.raises(VlmProbeError) as error:
        undertrained(TABLE, [])
    assert str(error.value) == (
        "no id is known to be untrained, so that nothing tells under-trained rows: give reference ids, such as tokens "
        "whose names say that they are unused (known_unused) or that the training text never has"
    )


def test_half_of_a_replicas_never_seen_rows_finds_the_other_half(replica):
    unused = known_unused(replica)
    assert len(unused) == 313
    assert not set(unused) & set(replica.tokenizer("is there a red star at the top left?")["input_ids"])
    found = undertrained(unembedding(replica), unused[::2], keep=used_rows(replica))
    asked = found[~found["reference"]]
    never = np.isin(asked["token_id"], unused)
    assert roc_auc_score(never, -asked["indicator"]) > 0.95
    assert roc_auc_score(never, -asked["norm"]) < 0.1


def test_an_untrained_copy_knows_the_same_ids_which_tell_nothing_there(replica):
    bare = untrained(replica)
    assert known_unused(bare) == known_unused(replica)
    found = undertrained(unembedding(bare), known_unused(bare)[::2], keep=used_rows(bare))
    asked = found[~found["reference"]]
    assert 0.35 < roc_auc_score(np.isin(asked["token_id"], known_unused(bare)), -asked["indicator"]) < 0.65


def test_a_model_says_what_it_was_asked_to_repeat():
    model = tiny_language("llama")
    table = repeats(model, [5, 17, 40])
    assert table["token_id"].tolist() == [5, 17, 40]
    assert table["probability"].between(0, 1).all()
    # Where a token's row is the answer to everything, it is always said.
    with torch.no_grad():
        model.hf.lm_head.weight.zero_()
        model.hf.lm_head.weight[17] = 100 * torch.ones(42)
    sure: Any = repeats(model, [5, 17]).set_index("token_id")["probability"]
    assert sure[17] == pytest.approx(1, abs=0.01) or sure[5] < 0.5


WORDS = (" house", " computer", " the", " tree", " blue", " running", " city", " music", " water", " science", " seven")


@pytest.mark.parametrize("name", ["gemma3-270m", "smollm2-135m"])
def test_ordinary_words_can_be_said_and_unused_tokens_cannot(name, monkeypatch):
    """The space that a token carries is its own: none is left before it, nor a quotation mark after which none fits."""
    monkeypatch.delenv("VLM_PROBE_CACHE", raising=False)
    if not is_fetched(name):
        pytest.skip(f"{name} is not in the cache (vlm-probe fetch real-small)")
    model = vlm_probe.load(name, device="cpu")
    ids = [model.tokenizer(word, add_special_tokens=False)["input_ids"][-1] for word in WORDS]
    assert repeats(model, ids)["probability"].to_numpy().min() > 0.9
    unused = known_unused(model)
    if unused:  # SmolLM2 has none
        assert repeats(model, unused[5:25])["probability"].to_numpy().max() < 0.01


def test_the_matrices_of_a_model(replica):
    table = vocabulary_geometry(replica)
    assert table["matrix"].tolist() == ["embedding"]  # tied
    assert vocabulary_geometry(tiny_vlm("clip", "llama"))["matrix"].tolist() == ["embedding", "unembedding"]
    assert known_unused(tiny_vlm("clip", "llama")) == []


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
    by_layer: Any = table.groupby("layer")["unused_mass"].mean()
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
        # Sums of hundreds of float32: which way they are rounded is the processor's.
        np.testing.assert_allclose(whole, table[f"{place}unused_mass"], atol=1e-5)
    assert (table["image_even_mass"] > 0).to_numpy().all()
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
        undertrained(TABLE, [911])
