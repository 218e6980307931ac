"""What the explorer packs is what it was, to a step; a page with it is small, and no text in it is more than text."""

import json
import re

import numpy as np
import pytest
from explorer_looks import HOSTILE, random_look
from PIL import Image

from vlm_probe.errors import VlmProbeError
from vlm_probe.explorer import explore, module, packed, unpacked
from vlm_probe.explorer.packing import LONGEST, Words, picture


def test_values_come_back_to_half_a_step_of_their_own_row():
    rng = np.random.default_rng(3)
    # A faint row beside a strong one, one of both signs, and one that is the same everywhere.
    values = rng.random((2, 4, 13)) * np.array([1e-6, 1.0, 1e4, 0.0])[:, None]
    values[0, 1] -= 0.5
    values[:, 3] = 7.3
    step = (values.max(-1) - values.min(-1)) / 255
    assert (np.abs(unpacked(packed(values)) - values).max(-1) <= 0.5 * step + 1e-6 * np.abs(values).max(-1)).all()
    assert unpacked(packed(values))[0, 0].max() > 0, "a faint map is not lost beside a strong one"


def test_what_is_no_number_is_not_packed():
    with pytest.raises(VlmProbeError, match=r"^2 of 6 values are no finite numbers$"):
        packed(np.array([[0.0, np.nan, 1.0], [np.inf, 2.0, 3.0]]))


@pytest.mark.parametrize(("n", "bits"), [(7, 16), (65_537, 32)])
def test_words_are_kept_once(n, bits):
    words = Words()
    made = words.numbers([[f"w{i}" for i in range(n)], ["w3"] * n])
    assert made["bits"] == bits
    assert made["shape"] == [2, n]
    assert len(words.texts) == n


def test_a_picture_keeps_its_size_and_takes_little_room():
    rng = np.random.default_rng(0)
    large = picture(Image.fromarray(rng.integers(0, 255, (1009, 1511, 3), dtype=np.uint8)))
    assert (large["width"], large["height"], large["sharp"]) == (1511, 1009, False)
    assert large["uri"].startswith("data:image/jpeg;base64,")
    assert len(large["uri"]) < LONGEST**2, "noise, the worst there is"
    small = picture(Image.new("RGBA", (31, 17)))
    assert small["uri"].startswith("data:image/png;base64,")
    assert small["sharp"]


def test_one_item_of_576_patches_and_18_layers_stays_below_two_megabytes():
    # Eight heads, as many tokens as are looked at, a large vocabulary of which nearly every word is another one.
    look = random_look(grid=(24, 24), depth=18, heads=8, tokens=8, vocabulary=30_000, side=28)
    size = len(explore(look).html().encode())
    assert size < 2_000_000, size
    assert len(look["words"]) > 20_000


def test_no_text_ends_the_data_or_begins_a_comment():
    looks = [random_look(text=HOSTILE)]
    text = explore(looks).html(title=HOSTILE)
    # Of the page's own: two scripts (data, module), and no comment anywhere.
    assert len(re.findall(r"<script", text)) == 2
    assert len(re.findall(r"</script", text)) == 2
    assert "<!--" not in text
    assert "<img" not in text
    data = re.search(r'<script type="application/json">(.*?)</script>', text, re.DOTALL)
    assert data is not None
    assert json.loads(data[1])["looks"] == looks


def test_the_module_is_one_and_fetches_nothing():
    source = module()
    assert "</script" not in source
    assert "<!--" not in source
    assert not re.search(
        r"^\s*import\b|\bimport\(|\bfetch\(|XMLHttpRequest|WebSocket|innerHTML|outerHTML|insertAdjacentHTML|\beval\(",
        source,
        re.M,
    )
    # The one address is a name: that of SVG's elements.
    assert re.findall(r"https?://[^\"]*", source) == ["http://www.w3.org/2000/svg"]
