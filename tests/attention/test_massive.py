"""Massive activations: planted ones are found, ordinary hidden states have none, and no scale matters."""

import re
from typing import Any

import numpy as np
import pytest
import torch

from vlm_probe import VlmProbeError
from vlm_probe.attention import massive_activations
from vlm_probe.layout import ImageSpan, TokenLayout
from vlm_probe.trace import Trace

LENGTH, WIDTH = 17, 331
LAYOUT = TokenLayout(
    length=LENGTH,
    images=(ImageSpan(np.arange(5, 11), (2, 3), np.array([4]), leading=1),),
    text_positions=np.array([3, 11, 12, 13, 14, 15, 16]),
    question_positions=np.array([12, 13, 14]),
    answer_position=16,
    tokens=tuple("___Briiiiii:whyAB"),
)


def states(layers: int = 2) -> torch.Tensor:
    """Ordinary hidden states, [layer, position, dimension]; the first three positions are padding."""
    return torch.randn(layers, LENGTH, WIDTH, generator=torch.Generator().manual_seed(3))


def trace(hidden: torch.Tensor) -> Trace:
    return Trace(
        {f"language.blocks.{i}.hook_resid_post": state[None] for i, state in enumerate(hidden)},
        LAYOUT,
        torch.zeros(LENGTH, 3),
        {"model": "handmade"},
        depth={"language": len(hidden), "vision": 0},
    )


def planted() -> torch.Tensor:
    hidden = states()
    hidden[1, 3, 7] = -2000.0
    hidden[1, 8, 7] = 900.0
    hidden[1, 13, 11] = 800.0
    return hidden


def named(hidden: torch.Tensor, **options: Any) -> list[list[Any]]:
    found = massive_activations(trace(hidden), **options)
    return found[["layer", "position", "token", "kind", "index", "dimension"]].to_numpy(dtype=object).tolist()


FOUND = [[1, 3, "B", "text", 0, 7], [1, 8, "i", "image", 3, 7], [1, 13, "h", "question", 3, 11]]


def test_planted_ones_are_found_with_their_dimension():
    hidden = planted()
    assert named(hidden) == FOUND
    found = massive_activations(trace(hidden))
    assert found["value"].tolist() == [-2000, 900, 800]
    live = hidden[1, 3:]
    median = np.median(np.abs(live.numpy()))
    np.testing.assert_allclose(found["times_median"], np.array([2000, 900, 800]) / median, rtol=1e-3)
    rms = [float(hidden[1, p].square().mean().sqrt()) for p in (3, 8, 13)]
    np.testing.assert_allclose(found["times_rms"], np.array([2000, 900, 800]) / rms, rtol=1e-5)
    assert (found["times_rms"] <= np.sqrt(WIDTH)).all()
    assert named(hidden, ratio=2000) == FOUND[:1]
    assert named(hidden, least=850) == FOUND[:2]


def test_ordinary_hidden_states_have_none():
    assert massive_activations(trace(states())).empty
    # A dimension that is large everywhere is so nowhere in particular, and still not a thousand times the median.
    everywhere = states()
    everywhere[:, :, 5] += 100
    assert massive_activations(trace(everywhere)).empty
    assert massive_activations(trace(torch.zeros(1, LENGTH, WIDTH))).empty


@pytest.mark.parametrize("scale", [1e-6, 0.05, 30, 1e5])
def test_scale_does_not_matter(scale):
    assert named(planted() * scale) == FOUND
    assert massive_activations(trace(states() * scale)).empty


def test_each_layer_has_its_own_scale():
    hidden = planted()
    hidden[0] *= 1e4
    assert named(hidden) == FOUND


def test_padding_is_neither_found_nor_counted():
    hidden = planted()
    hidden[1, :3] = 1e6
    assert named(hidden) == FOUND


def test_what_is_missing_is_said():
    without = trace(states()[:0])
    message = "the trace holds no language residual stream; capture language.blocks.*.hook_resid_post"
    with pytest.raises(VlmProbeError, match=f"^{re.escape(message)}$"):
        massive_activations(without)
    with pytest.raises(VlmProbeError, match="^ratio must be above 0, got 0$"):
        massive_activations(trace(states()), ratio=0)
