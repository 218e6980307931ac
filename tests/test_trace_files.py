"""A trace on disk: the same trace again, whole or not at all; and files that are none."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from tiny import tiny_batch, tiny_llava

from vlm_probe import VlmProbeError
from vlm_probe.hooked import HookedVLM
from vlm_probe.layout import ImageSpan, ImageTransform, TokenLayout
from vlm_probe.trace import Trace

LAYOUT = TokenLayout(
    length=17,
    images=(
        ImageSpan(
            np.arange(3, 9),
            (2, 3),
            np.asarray([2]),
            ImageTransform((37, 23), (29, 29), (29 / 37, 0.1), (0.0, -1 / 3)),
            7,
            1,
        ),
        ImageSpan(np.arange(9, 11), (1, 2), np.asarray([], dtype=np.int64)),
    ),
    text_positions=np.asarray([0, 1, 11, 12, 16]),
    question_positions=np.asarray([11, 12]),
    answer_position=16,
    tokens=("<bos>", " ", "<image>", "\n", "é", '"', "\u2028"),
)
DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int8, torch.uint8, torch.bool)


def made(**more) -> Trace:
    generator = torch.Generator().manual_seed(0)
    activations = {
        f"language.blocks.{i}.hook_resid_post": (100 * torch.randn(1, 5, 7, generator=generator)).to(dtype)
        for i, dtype in enumerate(DTYPES)
    }
    activations["vision.blocks.0.hook_resid_pre"] = torch.full((1, 2, 3), torch.nan)
    activations["connector.hook_out"] = torch.zeros(0, 3)
    given = {
        "activations": activations,
        "layout": LAYOUT,
        "logits": torch.randn(17, 11, generator=generator, dtype=torch.bfloat16),
        "provenance": {"model": "m", "versions.torch": "2", "note": 1 / 3},
        "depth": {"vision": 2, "language": 8},
        "vision_layers_read": 1,
        "images": [Image.fromarray(np.arange(4 * 5 * 3, dtype=np.uint8).reshape(4, 5, 3))],
        "image_scale": 1 / 7,
    }
    return Trace(**{**given, **more})


def assert_same(one: Trace, other: Trace) -> None:
    assert list(other.activations) == list(one.activations)
    for name, value in {**one.activations, "logits": one.logits}.items():
        read = other.logits if name == "logits" else other[name]
        assert (read.dtype, read.shape) == (value.dtype, value.shape), name
        # Bit by bit: NaN is NaN.
        assert torch.equal(read.flatten().view(torch.uint8), value.cpu().contiguous().flatten().view(torch.uint8)), name
    assert type(other.layout) is TokenLayout
    np.testing.assert_equal(asdict(other.layout), asdict(one.layout))
    for mine, read in zip(one.layout.images, other.layout.images, strict=True):
        assert (type(read), type(read.transform), type(read.grid)) == (ImageSpan, type(mine.transform), tuple)
        assert read.transform == mine.transform
        assert read.positions.dtype == mine.positions.dtype
    assert other.layout.tokens == one.layout.tokens
    for field in ("provenance", "depth", "vision_layers_read", "image_scale"):
        assert getattr(other, field) == getattr(one, field)
    assert [np.asarray(image).tolist() for image in other.images] == [np.asarray(i).tolist() for i in one.images]


def test_what_is_read_is_what_was_written(tmp_path):
    one = made()
    one.save(tmp_path / "new" / "trace.safetensors")
    assert_same(one, Trace.load(tmp_path / "new" / "trace.safetensors"))
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["trace.safetensors"]
    bare = made(images=[], layout=replace(LAYOUT, images=(), tokens=()))
    bare.save(str(tmp_path / "new" / "trace.safetensors"))
    assert_same(bare, Trace.load(str(tmp_path / "new" / "trace.safetensors")))


def test_tensors_that_share_memory_or_are_views(tmp_path):
    """What leaves one layer enters the next: one tensor under two names."""
    whole = torch.randn(3, 5, 7)
    shared = {"a": whole[:1], "b": whole[:1], "c": whole.transpose(1, 2)[1:2], "d": whole}
    one = made(activations=shared, logits=whole[2, :, 1:])
    one.save(tmp_path / "trace")
    assert_same(one, Trace.load(tmp_path / "trace"))


def test_a_models_trace_gives_the_same_results_again(replica, tmp_path):
    from vlm_probe.attention import head_summary, image_attention
    from vlm_probe.scenes import sample_scene, scene_image

    one = replica.trace(scene_image(sample_scene(3), 64), "What color is the circle?", capture=["*"])
    one.save(tmp_path / "trace")
    again = Trace.load(tmp_path / "trace")
    assert_same(one, again)
    assert repr(again) == repr(one)
    assert image_attention(again).identical(image_attention(one))
    assert head_summary(again).identical(head_summary(one))
    model = HookedVLM(tiny_llava())
    batch = tiny_batch(model.hf, batch=1)
    one = model.trace(model.prepare_tensors(batch["input_ids"], batch["pixel_values"]), capture=["*"])
    one.save(tmp_path / "trace")  # of tensors made elsewhere neither image nor prompt is known
    assert_same(one, Trace.load(tmp_path / "trace"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot read {path}: no such file"),
        ("folder", "cannot read {path}: it is a folder"),
        (b"no tensors", "{path} is no trace: expected a file that Trace.save wrote ({safetensors})"),
        ("lens", "{path} is no trace: expected a file that Trace.save wrote (it has no vlm_probe.trace)"),
        ("cut", "{path} is no trace: expected a file that Trace.save wrote ({safetensors})"),
        (
            {"names": ["x"]},
            "{path} is no trace: expected a file that Trace.save wrote (File does not contain tensor activations/x)",
        ),
        ({"names": []}, "{path} is no trace: expected a file that Trace.save wrote (it has no layout)"),
        (
            [],
            "{path} is no trace: expected a file that Trace.save wrote (list indices must be integers or slices, not "
            "str)",
        ),
    ],
)
def test_what_is_no_trace(tmp_path, content, message):
    path = tmp_path / "trace"
    if content == "folder":
        path.mkdir()
    elif content == "lens":
        save_file({"translators.0.weight": torch.zeros(2, 2)}, path)
    elif content == "cut":
        made().save(path)
        path.write_bytes(path.read_bytes()[:-10])
    elif isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        save_file({"logits": torch.zeros(2, 2)}, path, metadata={"vlm_probe.trace": json.dumps(content)})
    with pytest.raises(VlmProbeError) as caught:
        Trace.load(path)
    before, _, after = message.format(path=path, safetensors="\0").partition("\0")
    assert str(caught.value).startswith(before)
    assert str(caught.value).endswith(after)
    assert "\n" not in str(caught.value)
    assert _ or str(caught.value) == before


def test_nothing_half_written_takes_a_traces_place(tmp_path, monkeypatch, in_the_way):
    path = tmp_path / "trace"
    one = made()
    one.save(path)
    before = path.read_bytes()

    def full(tensors, file, metadata):
        file.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("vlm_probe.trace.save_file", full)
    with pytest.raises(VlmProbeError) as caught:
        made(logits=torch.zeros(1, 1)).save(path)
    assert str(caught.value) == f"cannot write {path}: No space left on device; make room and run it again"
    assert path.read_bytes() == before
    assert {p.name for p in tmp_path.iterdir()} == {"trace", "file"}
    with pytest.raises(VlmProbeError) as caught:
        one.save(in_the_way / "trace")
    assert str(caught.value) == f"cannot write to {in_the_way}: Not a directory"
