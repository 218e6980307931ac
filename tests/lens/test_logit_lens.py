"""The streamed lens equals the dense one, and at the last layer the model itself."""

import numpy as np
import pytest
import torch
from tiny import tiny_language, tiny_vlm

from vlm_probe.errors import VlmProbeError
from vlm_probe.vocabulary import lens, stream_lens

GENERATOR = torch.Generator().manual_seed(0)
LAYERS, POSITIONS, VOCABULARY, WIDTH = 5, 23, 1009, 31


def rows(scale: float = 1.0) -> list[torch.Tensor]:
    return [scale * torch.randn(POSITIONS, WIDTH, generator=GENERATOR) for _ in range(LAYERS)]


@pytest.mark.parametrize("scale", [0.1, 1.0, 5.0])
@pytest.mark.parametrize(("block", "together"), [(128, 40), (7, 3), (5000, 1000)])
@pytest.mark.parametrize("soft_cap", [None, 200.0])
def test_streamed_equals_dense(scale, block, together, soft_cap):
    hidden, table = rows(scale), torch.randn(VOCABULARY, WIDTH, generator=GENERATOR)
    tokens = torch.randint(VOCABULARY, (POSITIONS, 3), generator=GENERATOR)
    sets = {"low": range(100), "high": range(100, VOCABULARY)}
    found = stream_lens(hidden, table, k=7, tokens=tokens, sets=sets, block=block, rows=together, soft_cap=soft_cap)
    logits = torch.stack(hidden) @ table.T
    logits = logits if soft_cap is None else soft_cap * torch.tanh(logits / soft_cap)
    p = logits.double().log_softmax(-1)
    top = p.topk(7)
    assert torch.equal(found.top_ids, top.indices)
    close = {"atol": 1e-4, "rtol": 1e-4, "check_dtype": False}
    torch.testing.assert_close(found.top_log_probability, top.values, **close)
    torch.testing.assert_close(found.entropy, -(p.exp() * p).sum(-1), **close)
    own = p.gather(-1, tokens[None].expand(LAYERS, -1, -1))
    torch.testing.assert_close(found.log_probability, own, **close)
    assert found.rank is not None
    assert torch.equal(found.rank, (p[..., None, :] > own[..., None]).sum(-1))
    torch.testing.assert_close(found.kl_to_final, (p[-1:].exp() * (p[-1:] - p)).sum(-1), **close)
    assert found.kl_to_next is not None
    torch.testing.assert_close(found.kl_to_next[:-1], (p[1:].exp() * (p[1:] - p[:-1])).sum(-1), **close)
    assert found.kl_to_next[-1].isnan().all()
    torch.testing.assert_close(found.mass["low"], p[..., :100].exp().sum(-1), **close)
    torch.testing.assert_close(found.mass["low"] + found.mass["high"], torch.ones(LAYERS, POSITIONS), **close)


def test_half_precision_is_read_in_its_own_products():
    hidden, table = rows(), torch.randn(VOCABULARY, WIDTH, generator=GENERATOR).bfloat16()
    found = stream_lens(hidden, table, k=1, block=100)
    dense = torch.stack([h.bfloat16() @ table.T for h in hidden]).float()
    assert torch.equal(found.top_ids[..., 0], dense.argmax(-1))


@pytest.mark.parametrize("language", ["gemma", "gemma2", "gemma3", "llama", "phi"])
def test_the_last_layer_is_the_model(language):
    model = tiny_vlm("clip", language)
    if language == "phi":
        model.hf.lm_head.bias = torch.nn.Parameter(torch.randn(97))
    inputs = model.prepare(np.zeros((15, 15, 3), dtype=np.uint8), "red?")
    found = lens(model, inputs, tokens=["r", 7], sets={"all": range(97)}, k=4, block=10)
    with torch.no_grad():
        p = model(inputs).logits[0].log_softmax(-1)
    assert found.sizes == {"layer": 3, "position": len(p), "k": 4, "token": 2, "set": 1}
    last = found.isel(layer=-1)
    assert np.array_equal(last["top_id"].values, p.topk(4).indices.numpy())
    np.testing.assert_allclose(last["top_log_probability"].values, p.topk(4).values.numpy(), atol=1e-4)
    np.testing.assert_allclose(last["log_probability"].sel(token="7").values, p[:, 7].numpy(), atol=1e-4)
    np.testing.assert_allclose(found["mass"].values, 1, atol=1e-5)
    np.testing.assert_allclose(last["kl_to_final"].values, 0, atol=1e-5)
    assert (found["kl_to_final"] > -1e-5).all()
    assert not any(point._forward_hooks for point in model.hook_dict.values())


def test_where_to_read(replica):
    from vlm_probe.scenes import sample_scene, scene_image

    inputs = replica.prepare(scene_image(sample_scene(3), 64), "How many objects are there?")
    image = lens(replica, inputs, positions="image", divergences=False)
    assert image.sizes["position"] == 64
    assert "kl_to_final" not in image
    answer = lens(replica, inputs, positions="answer", k=1)
    said = str(answer["top_token"].values[-1, 0, 0]).strip()
    assert said == replica.answer(inputs.images[0][0], "How many objects are there?")
    assert lens(replica, inputs, positions=[3, 5])["position"].values.tolist() == [3, 5]


def test_a_language_model_alone():
    model = tiny_language("gemma3")
    found = lens(model, model.prepare(None, "a red star"), positions="text")
    assert found.sizes["layer"] == 3


@pytest.mark.parametrize(
    ("how", "message"),
    [
        (
            {"positions": "images"},
            "no positions 'images'; there are all, image, box, background, sink, text, question, prompt, tail, ",
        ),
        ({"positions": [400]}, "positions must be between 0 and "),
        ({"tokens": [97]}, "target token 97 is outside the vocabulary of 97"),
        ({"sets": {"odd": [5, 97]}}, "set 'odd' holds ids outside the vocabulary of 97"),
        ({"k": 98}, "k must be between 1 and the vocabulary's 97, got 98"),
    ],
)
def test_what_cannot_be_read(how, message):
    model = tiny_vlm()
    inputs = model.prepare(np.zeros((15, 15, 3), dtype=np.uint8), "red?")
    with pytest.raises(VlmProbeError) as caught:
        lens(model, inputs, **how)
    assert str(caught.value).startswith(message)


def test_rows_of_another_width():
    with pytest.raises(VlmProbeError, match=r"^layer 0 has rows of shape \[23, 31\], expected \[23\] x 30 as"):
        stream_lens(rows(), torch.zeros(50, 30))
    with pytest.raises(VlmProbeError, match="^there is no layer to read$"):
        stream_lens([], torch.zeros(50, 30))
