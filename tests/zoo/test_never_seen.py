"""Ids that the replicas' training text never had, as they are shipped."""

from vlm_probe.training.replica import never_seen as packed_anew
from vlm_probe.zoo.cells import CELLS
from vlm_probe.zoo.replicas import never_seen, shipped


def test_no_step_of_the_training_reads_one():
    """Every 40th step packed once more (`never_seen` of all of them, which gave the list, takes half a minute)."""
    listed, anew = set(never_seen("small-clip")), set(packed_anew(CELLS["small-clip"], every=40))
    assert listed <= anew
    assert len(anew - listed) < 0.1 * CELLS["small-clip"].vocabulary, (
        "what a fortieth does not read is rarely read at all"
    )


def test_every_shipped_vocabulary_has_some():
    shares = {cell: len(never_seen(cell)) / CELLS[cell].vocabulary for cell in shipped()}
    assert all(0 < share < 1 for share in shares.values())
    assert 0.5 < shares["small-clip-v20480"] < 0.65, "most of the largest vocabulary is dead rows"
    assert never_seen("default") == never_seen("large-dino")
