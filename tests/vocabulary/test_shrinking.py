"""Shrinking: answers and memory as rows are taken away, with intervals over images, of rows that other text chose."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from vlm_probe.errors import VlmProbeError
from vlm_probe.evidence import clustered_mean
from vlm_probe.running.evaluation import evaluate
from vlm_probe.scenes import family_items
from vlm_probe.vocabulary import apart, needed_ids, shrink, shrunk_answers, training_items


@pytest.fixture(scope="module")
def items():
    return list(family_items(4, families=("pope", "gqa", "vqav2"), seed=11))


@pytest.fixture(scope="module")
def order(replica, items):
    """Ids of training text, the most frequent first; the items' own behind them, so that all can be spelled."""
    found = needed_ids(replica, training_items(items, n=20))
    return [*found, *(i for i in needed_ids(replica, items) if i not in found)]


def test_answers_memory_and_time_as_rows_are_taken_away(replica, items, order):
    done = []
    table = shrink(replica, items, [len(order), 20, 0], order=order, progress=done.append)
    assert done == [1] * 4
    assert table["rows"].is_monotonic_decreasing
    assert table["parameters"].diff().dropna().lt(0).to_numpy().all()
    assert table["readable"].tolist()[:2] == [1, 1]
    assert table["readable"].iloc[-1] == 0
    assert table["same_answer"].iloc[1] == 1
    assert np.isnan(table["same_answer"].iloc[-1])
    assert table["accuracy"].iloc[0] == table["accuracy"].iloc[1] > 0.5
    assert table["accuracy"].iloc[-1] == 0
    difference = (table["rows"].iloc[0] - table["rows"].iloc[1]) * replica.text_config.hidden_size
    assert table["parameters"].iloc[0] - table["parameters"].iloc[1] == difference
    assert table["weight_bytes"].tolist() == [4 * count for count in table["parameters"]]
    right = evaluate(replica, items)["correct"].to_numpy(dtype=float)
    images = np.asarray([item.image for item in items])
    assert len(set(images)) < len(images)  # POPE asks twice
    expected = clustered_mean(right, images)
    np.testing.assert_allclose(table[["accuracy", "low", "high"]].iloc[0].to_numpy(dtype=float), expected)


def test_an_item_that_cannot_be_spelled_is_wrong_and_not_asked(replica, items, order):
    kept = [i for i in order if i not in replica.tokenizer(items[0].answer, add_special_tokens=False)["input_ids"]]
    found = shrunk_answers(replica, items, kept)
    lost = found.answers.query("not readable")
    assert items[0].id in set(lost["id"])
    assert lost["answer"].unique().tolist() == [""]
    assert not lost["correct"].to_numpy().any()
    rest = found.answers.query("readable")
    whole = evaluate(replica, [item for item in items if item.id in set(rest["id"])])
    assert rest["id"].tolist() == whole["id"].tolist()
    # What is appended to a question has to be spelled as well.
    assert not shrunk_answers(replica, items, order, suffix=" Zebra?").answers["readable"].to_numpy().any()


def test_items_from_files_want_an_order(replica, items):
    filed = [replace(items[0], source=Path("picture.png"))]
    with pytest.raises(VlmProbeError) as caught:
        shrink(replica, filed, [5])
    assert str(caught.value) == (
        "items from files have no training scenes: give order, the ids to keep, from text other than theirs"
    )
    assert training_items(filed) == []
    assert apart(filed) == (filed, [])
