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


def weights(*sizes: tuple[int, int]) -> dict[str, torch.Tensor]:
    """Translators of these widths: of the weight, and of the bias."""
    named = {f"translators.{i}.weight": torch.zeros(wide, wide) for i, (wide, _) in enumerate(sizes)}
    return {**named, **{f"translators.{i}.bias": torch.zeros(wide) for i, (_, wide) in enumerate(sizes)}}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot read {path}: no such file"),
        ("folder", "cannot read {path}: it is a folder"),
        (b"no weights", "{path} holds no tuned lens: it is no safetensors file (...)"),
        ({"a": torch.zeros(2)}, "{path} holds no tuned lens: it has no translators.0.weight"),
        (
            weights((7, 7), (5, 5)),
            "{path} holds no tuned lens: translators.1.bias is 5, expected 7",
        ),
        (weights((7, 7)) | {"b": torch.zeros(1)}, "{path} holds no tuned lens: b is 1, expected not there"),
        (
            {"translators.0.weight": torch.zeros(7, 7), "translators.2.bias": torch.zeros(7)},
            "{path} holds no tuned lens: translators.0.bias is not there, expected 7",
        ),
        (
            {"translators.0.weight": torch.zeros(5, 7), "translators.0.bias": torch.zeros(7)},
            "{path} holds no tuned lens: translators.0.weight is 5x7, expected 7x7",
        ),
        (
            {"translators.0.weight": torch.tensor(1.0), "translators.0.bias": torch.zeros(7)},
            "{path} holds no tuned lens: translators.0.bias is 7, expected 1",
        ),
    ],
)
def test_what_is_no_lens(tmp_path, content, message):
    path = tmp_path / "lens.safetensors"
    if content == "folder":
        path.mkdir()
    elif isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        save_file(content, path)
    with pytest.raises(VlmProbeError) as caught:
        TunedLens.load(path)
    before, _, after = message.format(path=path).partition("...")
    said = str(caught.value)
    assert said.startswith(before)
    assert said.endswith(after)
    assert _ or said == before


def test_a_lens_of_another_model(tmp_path, replica):
    path = tmp_path / "lens.safetensors"
    TunedLens(3, 42).save(path)
    assert TunedLens.load(path, model=tiny_language("llama")).width == 42
    with pytest.raises(VlmProbeError) as caught:
        TunedLens.load(path, model=replica)
    assert str(caught.value) == (
        f"{path} is a tuned lens of 3 layers of 42 features, replica/default has 4 of 112: train one with "
        "train_tuned_lens"
    )
    with pytest.raises(VlmProbeError) as caught:
        TunedLens(5, 42)(torch.zeros(2, 112), 0)
    assert str(caught.value) == (
        "this tuned lens is of 5 layers of 42 features, it was given 112 features behind layer 0: take the model it "
        "was trained on"
    )
    with pytest.raises(VlmProbeError, match="given 42 features behind layer 5"):
        TunedLens(5, 42)(torch.zeros(2, 42), 5)


def test_a_lens_is_written_whole_or_not_at_all(tmp_path, monkeypatch, in_the_way):
    path = tmp_path / "lens.safetensors"
    TunedLens(3, 7).save(path)
    before = path.read_bytes()

    def full(tensors, file):
        file.write_bytes(b"half")
        raise OSError(28, "")

    monkeypatch.setattr("vlm_probe.lens.tuned_lens.save_file", full)
    with pytest.raises(VlmProbeError) as caught:
        TunedLens(3, 5).save(path)
    assert str(caught.value) == f"cannot write {path}: No space left on device; make room and run it again"
    assert path.read_bytes() == before
    with pytest.raises(VlmProbeError, match=f"^cannot write to {in_the_way}: Not a directory$"):
        TunedLens(3, 5).save(in_the_way / "lens")


def test_a_lens_needs_items(replica):
    with pytest.raises(VlmProbeError, match="^there is no item to train a lens on$"):
        train_tuned_lens(replica, [])
