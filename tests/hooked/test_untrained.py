"""Models whose weights, or whose encoder's, are others: what is swapped is swapped whole, and nothing else is."""

import pytest
import torch
from safetensors.torch import load_file
from tiny import tiny_language, tiny_llava, tiny_vlm

import vlm_probe
from vlm_probe.embedding import image_embeddings
from vlm_probe.errors import VlmProbeError
from vlm_probe.hooked import HookedVLM
from vlm_probe.hooked.untrained import untrained, with_encoder, with_random_encoder
from vlm_probe.scenes import sample_scene
from vlm_probe.zoo.replicas import folder_of

PICTURES = [sample_scene(seed).image(64) for seed in range(3)]


def weights(cell: str) -> dict[str, torch.Tensor]:
    return load_file(folder_of(cell).parent / f"encoder-{cell.rpartition('-')[2]}.safetensors")


@pytest.mark.parametrize("cell", ["small-clip", "small-dino"])
def test_an_encoder_from_its_file_is_the_same_one(cell):
    """By the names of a checkpoint, which are not those of the modules (DINOv2's)."""
    model = vlm_probe.load(f"replica/{cell}", device="cpu")
    same = with_encoder(model, weights(cell), words="once more")
    assert same.name == f"replica/{cell} (once more)"
    assert torch.equal(image_embeddings(same, PICTURES), image_embeddings(model, PICTURES))
    bare = {name.removeprefix("vision_tower."): value for name, value in weights(cell).items()}
    assert torch.equal(image_embeddings(with_encoder(model, bare), PICTURES), image_embeddings(model, PICTURES))


def test_another_encoder_changes_the_encoder_alone(replica):
    before = image_embeddings(replica, PICTURES)
    other = with_encoder(replica, {name: value * 1.5 for name, value in weights("small-clip").items()})
    assert not torch.allclose(image_embeddings(other, PICTURES), before, atol=1e-2)
    assert torch.equal(image_embeddings(replica, PICTURES), before), "the model itself is left as it was"
    ours, theirs = replica.hf.state_dict(), other.hf.state_dict()
    assert {name for name in ours if not torch.equal(ours[name], theirs[name])} == {
        name for name in ours if "vision_tower" in name
    }


def test_a_random_encoder_is_none_of_an_untrained_copy():
    """Both are drawn by torch, the encoder first: of one seed they were one, and nothing could differ from it."""
    copy = untrained(tiny_vlm())
    own, other = (image_embeddings(model, PICTURES) for model in (copy, with_random_encoder(copy)))
    assert not torch.allclose(own, other, atol=1e-2)
    again = image_embeddings(with_random_encoder(copy), PICTURES)
    assert torch.equal(other, again)
    assert not torch.allclose(image_embeddings(with_random_encoder(copy, seed=2), PICTURES), other, atol=1e-2)


def test_weights_that_are_another_encoders(replica):
    some = weights("small-clip")
    del some["vision_tower.post_layernorm.bias"]
    some["vision_tower.embeddings.position_embedding.weight"] = torch.zeros(7, 96)
    with pytest.raises(VlmProbeError) as caught:
        with_encoder(replica, some)
    assert str(caught.value) == (
        "these are not the weights of replica/default's encoder: 2 are missing, unknown or of another shape, such as "
        "embeddings.position_embedding.weight"
    )


@pytest.mark.parametrize("swap", [with_random_encoder, lambda model: with_encoder(model, {})])
def test_a_language_model_alone_has_none(swap):
    model = tiny_language()
    with pytest.raises(VlmProbeError) as caught:
        swap(model)
    assert str(caught.value) == f"{model.name} has no encoder"


def test_an_output_bias_stays():
    """transformers' LLaVA has no place for it; Phi's is put there on loading."""
    hf = tiny_llava("siglip", "phi")
    hf.lm_head.bias = torch.nn.Parameter(torch.randn(97))
    other = with_random_encoder(HookedVLM(hf))
    assert torch.equal(other.hf.lm_head.bias, hf.lm_head.bias)
