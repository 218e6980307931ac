"""Every class in 8 and 4 bit, on a GPU: it loads, its points fire, and its logits are near those of bfloat16."""

from importlib.util import find_spec

import numpy as np
import pytest
import torch
from tiny import JOINED, tiny_vlm

import vlm_probe
from vlm_probe.hooked import HookedVLM

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available() or find_spec("bitsandbytes") is None,
    reason="quantization needs a CUDA device and bitsandbytes",
)
KINDS = [("clip", "gemma"), *((kind, "gemma3" if kind == "gemma3" else "llama") for kind in JOINED)]


@pytest.mark.parametrize("bits", ["8bit", "4bit"])
@pytest.mark.parametrize(("kind", "language"), KINDS)
def test_a_quantized_model_is_hooked_and_near_the_whole_one(kind, language, bits, tmp_path):
    made: HookedVLM = tiny_vlm(kind, language)
    made.save_pretrained(tmp_path)
    picture = np.random.default_rng(3).integers(0, 255, (20, 37, 3), dtype=np.uint8)
    whole = vlm_probe.load(tmp_path, device="cuda", prompt=made.prompt)
    small = vlm_probe.load(tmp_path, device="cuda", prompt=made.prompt, quantization=bits)
    inputs = whole.prepare(picture, "what?")
    with torch.no_grad():
        expected = whole(inputs).logits[0, -1].float()
        output, cache = small.run_with_cache(small.prepare(picture, "what?"))
    found = output.logits[0, -1].float()
    assert set(cache) == set(small.hook_dict)
    assert torch.cosine_similarity(found, expected, dim=0) > (0.98 if bits == "8bit" else 0.8)
    with torch.no_grad():
        idle = small(small.prepare(picture, "what?")).logits[0, -1].float()
    torch.testing.assert_close(idle, found, atol=0.1, rtol=0.1)
