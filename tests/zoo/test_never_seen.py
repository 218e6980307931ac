"""Ids that the replicas' training text never had: shipped as they come out when the steps are packed once more."""

from vlm_probe.training.replica import never_seen as packed_anew
from vlm_probe.zoo.cells import CELLS
from vlm_probe.zoo.replicas import never_seen, shipped


def test_they_are_what_training_never_read():
    assert never_seen("small-clip") == packed_anew(CELLS["small-clip"])


def test_every_shipped_vocabulary_has_some():
    shares = {cell: len(never_seen(cell)) / CELLS[cell].vocabulary for cell in shipped()}
    assert all(0 < share < 1 for share in shares.values())
    assert 0.5 < shares["small-clip-v20480"] < 0.65, "most of the largest vocabulary is dead rows"
    assert never_seen("default") == never_seen("large-dino")
