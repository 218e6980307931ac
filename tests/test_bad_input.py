"""What bad input gets: one line that says what was received, expected and available; exit code 2."""

import json
import shutil
import struct
import sys
import zlib

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import tiny_batch, tiny_llava

import vlm_probe
from vlm_probe import VlmProbeError
from vlm_probe.cli import main
from vlm_probe.errors import nearest
from vlm_probe.hooked import HookedVLM
from vlm_probe.zoo.replicas import shipped


def run(capsys, monkeypatch, *argv: str) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["vlm-probe", *argv])
    with pytest.raises(SystemExit) as caught:
        main()
    out, err = capsys.readouterr()
    code = caught.value.code
    return (code if isinstance(code, int) else 0), out, err


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "picture.png"
    Image.fromarray(np.full((37, 53, 3), 90, dtype=np.uint8)).save(path)
    return path


def bomb(path) -> None:
    """A valid PNG header that promises 20,000 x 20,000 pixels in a few bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    )


def test_images_that_cannot_be_used(tmp_path, capsys, monkeypatch, picture):
    text = tmp_path / "text.jpg"
    text.write_text("no picture at all")
    huge = tmp_path / "huge.png"
    bomb(huge)
    cut = tmp_path / "cut.png"
    cut.write_bytes(picture.read_bytes()[:60])
    expected = {
        tmp_path / "nowhere.png": f"error: no image file at '{tmp_path / 'nowhere.png'}'\n",
        text: "error: 'text.jpg' is not an image that can be decoded\n",
        huge: "error: 'huge.png' is too large; at most 100 megapixels are read\n",
    }
    out = tmp_path / "out"
    for path, message in expected.items():
        code, _, err = run(capsys, monkeypatch, "inspect", str(path), "What is it?", "--out", str(out))
        assert (code, err) == (2, message)
    code, _, err = run(capsys, monkeypatch, "inspect", str(cut), "What is it?", "--out", str(out))
    assert code == 2
    assert err.startswith("error: 'cut.png' cannot be decoded")
    assert not out.exists(), "nothing is half-written"


def test_a_large_but_decodable_image_is_refused_by_size(monkeypatch, picture):
    monkeypatch.setattr("vlm_probe.inputs.images.MAX_PIXELS", 1000)
    with pytest.raises(VlmProbeError, match=r"'picture.png' is 53 x 37 pixels"):
        vlm_probe.inputs.images.open_image(picture)


def test_empty_question_and_unknown_models(tmp_path, capsys, monkeypatch, picture):
    code, _, err = run(capsys, monkeypatch, "inspect", str(picture), "  ")
    assert (code, err) == (2, "error: the question is empty; ask something about the image\n")
    code, _, err = run(capsys, monkeypatch, "inspect", str(picture), "What?", "--model", "replica/smal-clip")
    assert code == 2
    # Which cells are shipped grows with the grid; the nearest of them comes first.
    assert err == f"error: no replica 'smal-clip'; nearest are {nearest('smal-clip', ['default', *shipped()])}\n"
    assert "nearest are 'small-clip'," in err
    code, _, err = run(capsys, monkeypatch, "inspect", str(picture), "What?", "--model", "nonsense")
    assert code == 2
    assert err.startswith("error: unknown model 'nonsense': no such directory, and no Hub id (owner/name)")
    code, _, err = run(capsys, monkeypatch, "inspect", str(picture), "What?", "--model", "Intel/llava-gemma-2b")
    assert code == 2
    assert err == (
        "error: unknown model 'Intel/llava-gemma-2b': no such directory, and the Hub did not give its "
        "config.json (HF_HUB_OFFLINE is set)\n"
    )
    code, _, err = run(capsys, monkeypatch, "train", "replica/huge-clip")
    assert code == 2
    assert err.startswith("error: no replica cell 'huge-clip' in the grid; nearest are ")


@pytest.fixture
def checkpoint(tmp_path):
    folder = tmp_path / "checkpoint"
    tiny_llava().save_pretrained(folder, max_shard_size="40KB")
    return folder


def test_directories_that_are_no_llava_checkpoint(tmp_path, checkpoint):
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(VlmProbeError, match=r"empty is not a checkpoint: it has no config\.json"):
        vlm_probe.load(empty)
    (empty / "config.json").write_text("{ not json")
    with pytest.raises(VlmProbeError, match=r"config\.json is not valid JSON"):
        vlm_probe.load(empty)
    (empty / "config.json").write_text('{"model_type": "gpt2"}')
    with pytest.raises(VlmProbeError, match="is a 'gpt2' checkpoint, expected a LLaVA one"):
        vlm_probe.load(empty)
    shutil.copy(checkpoint / "config.json", empty / "config.json")
    with pytest.raises(VlmProbeError, match=r"holds no weights: expected \*\.safetensors or pytorch_model"):
        vlm_probe.load(empty)
    with pytest.raises(VlmProbeError, match="is a file, expected a checkpoint directory"):
        vlm_probe.load(checkpoint / "config.json")


def test_a_missing_shard_and_missing_weights_are_named(checkpoint):
    shards = sorted(checkpoint.glob("model-*.safetensors"))
    assert len(shards) > 2
    shards[1].unlink()
    with pytest.raises(VlmProbeError) as caught:
        vlm_probe.load(checkpoint)
    assert str(caught.value) == (
        f"{checkpoint} lacks 1 of the {len(shards)} shards that model.safetensors.index.json names: {shards[1].name}"
    )
    index = checkpoint / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    content["weight_map"] = {k: v for k, v in content["weight_map"].items() if v != shards[1].name}
    index.write_text(json.dumps(content))
    with pytest.raises(VlmProbeError, match=r"lacks \d+ weights a LLaVA model needs: "):
        vlm_probe.load(checkpoint)


def test_weights_that_are_cut_off_or_misshapen(tmp_path):
    tiny_llava().save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(VlmProbeError, match="could not be loaded"):
        vlm_probe.load(tmp_path)
    weights.write_bytes(whole)
    config = json.loads((tmp_path / "config.json").read_text())
    config["text_config"]["intermediate_size"] = 59
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(
        VlmProbeError, match=r"has 9 weights of a shape its config\.json does not promise: .* expected "
    ):
        vlm_probe.load(tmp_path)
    config["text_config"]["model_type"] = "nonesuch"
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(VlmProbeError, match=r"config\.json is not understood"):
        vlm_probe.load(tmp_path)
    config["text_config"]["model_type"] = "phi"
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(
        VlmProbeError, match="a language model of type 'phi' is not supported; supported are gemma, gemma2"
    ):
        vlm_probe.load(tmp_path)


def test_an_original_layout_without_its_tower(reference, tmp_path):
    folder = tmp_path / "original"
    shutil.copytree(reference / "clip_gemma_original", folder)
    folder.chmod(0o755)
    (folder / "vision-tower").chmod(0o755)
    shutil.rmtree(folder / "vision-tower")
    with pytest.raises(VlmProbeError) as caught:
        vlm_probe.load(folder)
    assert str(caught.value) == (
        f"{folder} is in the original LLaVA layout and its encoder is missing: config.json names "
        "mm_vision_tower='./vision-tower', expected a folder with config.json there"
    )


def test_a_directory_without_tokenizer_loads_and_says_so_when_asked(checkpoint, picture):
    model = vlm_probe.load(checkpoint, device="cpu")
    batch = tiny_batch(model.hf)
    with torch.no_grad():
        assert model(model.prepare_tensors(batch["input_ids"], batch["pixel_values"])).logits.shape == (2, 32, 97)
    with pytest.raises(VlmProbeError, match="has no tokenizer, so a question cannot be prepared; use prepare_tensors"):
        model.prepare(picture, "What?")


def test_wrong_options(checkpoint):
    for kwargs, message in (
        ({"dtype": "int8"}, "dtype must be a floating torch dtype such as 'float32' or 'bfloat16', got 'int8'"),
        ({"quantization": "3bit"}, "quantization must be one of 8bit, 4bit, got '3bit'"),
        ({"quantization": "4bit", "device": "cpu"}, "quantization '4bit' needs a CUDA device, got cpu"),
    ):
        with pytest.raises(VlmProbeError) as caught:
            vlm_probe.load(checkpoint, **kwargs)
        assert str(caught.value) == message
    with pytest.raises(VlmProbeError, match=r"^no device 'toaster' here: Expected one of cpu, cuda"):
        vlm_probe.load(checkpoint, device="toaster")


def test_a_capture_that_does_not_fit_is_refused_before_running(monkeypatch):
    model = HookedVLM(tiny_llava())
    batch = tiny_batch(model.hf, batch=1)
    inputs = model.prepare_tensors(batch["input_ids"], batch["pixel_values"])
    monkeypatch.setattr("vlm_probe.running.capture.free_memory", lambda device: 100_000)
    with pytest.raises(
        VlmProbeError, match=r"capturing \d+ activations needs .* GiB are free on cpu; the \d+ smallest"
    ):
        model.trace(inputs, capture=["*"])
    small = model.trace(inputs, capture=["language.blocks.0.attn.hook_pattern"])
    assert len(small.activations) == 1


def test_the_memory_estimate_is_the_memory_kept(any_llava):
    from vlm_probe.running.capture import _bytes_needed

    model = HookedVLM(any_llava)
    batch = tiny_batch(any_llava, batch=1)
    inputs = model.prepare_tensors(batch["input_ids"], batch["pixel_values"])
    trace = model.trace(inputs, capture=["*"])
    estimate = _bytes_needed(model, inputs, list(trace.activations))
    for name, tensor in trace.activations.items():
        kept = tensor.numel() * tensor.element_size()
        # Keys and values are estimated as if they were not shared, patches as if CLS stayed: never less.
        assert kept <= estimate[name] <= 3.1 * kept, name


def test_special_tokens_in_a_question_are_refused(replica, picture):
    with pytest.raises(VlmProbeError) as caught:
        replica.prepare(picture, "Is <image> a token?")
    assert str(caught.value) == "the question contains '<image>', a special token of this model; leave it out"


def test_out_folder_with_other_things_in_it_is_left_alone(tmp_path, capsys, monkeypatch):
    precious = tmp_path / "precious.txt"
    precious.write_text("mine")
    code, _, err = run(capsys, monkeypatch, "report", "--items", "12", "--out", str(tmp_path))
    assert code == 2
    assert err.endswith(f"error: {tmp_path} exists and is no earlier report; name another folder with --out\n")
    assert [p.name for p in tmp_path.iterdir()] == ["precious.txt"]


POPE_LINE = '{"question_id": 1, "image": "1.jpg", "text": "Is there a dog?", "label": "no"}\n'


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["evaluate", "--items", "{tmp}/gone.json"], "cannot read {tmp}/gone.json: No such file or directory"),
        (["evaluate", "--items", "{tmp}/pope.jsonl"], "say where they are with --images FOLDER"),
        (
            ["evaluate", "--items", "{tmp}/pope.jsonl", "--images", "{tmp}"],
            "{tmp}/pope.jsonl, line 1: the image {tmp}/1.jpg does not exist",
        ),
        (["evaluate", "--items", "{tmp}/pope.jsonl", "--format", "pop"], "no format 'pop'; nearest are 'pope'"),
        (["evaluate", "--model", "replica/nought"], "no replica 'nought'"),
        (["evaluate", "--answers", "{tmp}/gone.parquet"], "cannot read {tmp}/gone.parquet"),
        (["scenes", "export", "{tmp}/out", "--family", "popes"], "no question family 'popes'; nearest are 'pope'"),
        (["scenes", "export", "{tmp}/out", "--split", "held"], "no split 'held'; there are train, heldout, novel, any"),
        (["scenes", "export", "{tmp}/pope.jsonl/out"], "cannot write to {tmp}/pope.jsonl/out: Not a directory"),
        (
            ["train"],
            "name what to train, replica/<size>-<encoder>[-nopre][-v<vocabulary>] or "
            "llava-<language model>[-lora], or give --grid for all replicas",
        ),
        (["train", "replica/small-clip", "--grid"], "name what to train"),
        (["train", "llava-gemma3-270"], "nothing called 'llava-gemma3-270' to train; nearest are 'llava-gemma3-270m'"),
        (["train", "replica/medium-clip"], "no replica cell 'medium-clip' in the grid; nearest are"),
    ],
)
def test_evaluation_and_training(capsys, monkeypatch, tmp_path, argv, message):
    (tmp_path / "pope.jsonl").write_text(POPE_LINE)
    code, out, err = run(
        capsys,
        monkeypatch,
        *(a.format(tmp=tmp_path) for a in argv),
        *(["--out", str(tmp_path / "evaluation")] if argv[0] == "evaluate" else []),
    )
    assert code == 2
    assert out == ""
    assert message.format(tmp=tmp_path) in err
    assert err.strip().count("\n") == 0
    assert not (tmp_path / "evaluation").exists()
    assert not (tmp_path / "out").exists()
