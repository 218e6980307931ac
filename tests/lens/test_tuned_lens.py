"""The tuned lens: untrained it is the logit lens, trained it comes nearer to the output."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tiny import tiny_language

from vlm_probe.errors import VlmProbeError
from vlm_probe.scenes import family_items
from vlm_probe.vocabulary import TunedLens, lens, train_tuned_lens


def test_it_comes_nearer_to_the_output_on_new_items(replica, tmp_path):
    items, new = list(family_items(40, seed=1)), list(family_items(1, seed=2))[:5]
    before = {name: value.clone() for name, value in replica.hf.state_dict().items()}
    tuned, log = train_tuned_lens(replica, items, steps=60, batch_size=4, rows=128)
    assert len(log) == 60
    assert (log.iloc[-10:].mean() < log.iloc[:3].mean()).drop("step").all()
    assert all(torch.equal(before[name], value) for name, value in replica.hf.state_dict().items())
    assert all(p.grad is None for p in replica.parameters())
    assert not any(point._forward_hooks for point in replica.hook_dict.values())
    tuned.save(tmp_path / "lens.safetensors")
    again = TunedLens.load(tmp_path / "lens.safetensors")
    for item in new:
        inputs = replica.prepare(item.picture(64), item.question)
        plain, better, same = (lens(replica, inputs, translate=t) for t in (None, tuned, again))
        early = {"layer": slice(0, -1)}
        assert float(better["kl_to_final"].isel(early).mean()) < 0.6 * float(plain["kl_to_final"].isel(early).mean())
        np.testing.assert_array_equal(better["top_id"].isel(layer=-1), plain["top_id"].isel(layer=-1))
        np.testing.assert_allclose(same["entropy"], better["entropy"], atol=1e-5)
    assert better.attrs["title"] == "tuned lens"


def test_untrained_it_is_the_logit_lens():
    model = tiny_language("llama")
    inputs = model.prepare(None, "a red star")
    fresh = TunedLens(3, 42)
    np.testing.assert_array_equal(
        lens(model, inputs)["top_log_probability"], lens(model, inputs, translate=fresh)["top_log_probability"]
    )


def test_what_is_no_lens(tmp_path, replica):
    save_file({"a": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(VlmProbeError, match=r"other.safetensors holds no tuned lens: it has no translators.0.weight$"):
        TunedLens.load(tmp_path / "other.safetensors")
    with pytest.raises(VlmProbeError, match="^there is no item to train a lens on$"):
        train_tuned_lens(replica, [])
