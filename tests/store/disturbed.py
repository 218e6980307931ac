"""A store that nothing disturbed, and copies of it to be spoilt; tests take these fixtures by assigning them."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image
from storing import POINTS, scenes

from vlm_probe.store import capture

ITEMS, SHARD = 17, 3
SHARDS = 6


@pytest.fixture(scope="module")
def items(tmp_path_factory):
    """Scenes as picture files, one of which is no picture."""
    folder, found = tmp_path_factory.mktemp("pictures"), []
    for number, item in enumerate(scenes(ITEMS)):
        file = folder / f"{number}.png"
        picture = item.picture(96)
        assert isinstance(picture, Image.Image)
        picture.save(file)
        found.append(replace(item, source=file))
    (folder / "4.png").write_bytes(b"no picture")
    return found


def captured(model, items, out, **more):
    return capture(model, items, POINTS, out, shard_items=SHARD, batch_size=2, **more)


@pytest.fixture(scope="module")
def whole(replica, items, tmp_path_factory):
    """A store that nothing disturbed."""
    out = tmp_path_factory.mktemp("whole") / "store"
    assert captured(replica, items, out).failed == 1
    return out


@pytest.fixture
def store(whole, tmp_path):
    """A copy of it, to be spoilt."""
    return Path(shutil.copytree(whole, tmp_path / "store"))
