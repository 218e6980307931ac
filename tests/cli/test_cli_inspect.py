"""`vlm-probe inspect`: the answer, its first tokens and the page; what cannot be inspected is said before loading."""

import struct
import zlib

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from vlm_probe.errors import nearest
from vlm_probe.scenes import sample_scene, scene_image
from vlm_probe.zoo.replicas import shipped

QUESTION = "How many objects are there?"


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "[red]scene.png"
    scene_image(sample_scene(3), 64).save(path)
    return path


@pytest.fixture
def no_loading(monkeypatch):
    monkeypatch.setattr("vlm_probe.opening.load", lambda *a, **k: pytest.fail("it loaded a model"))


def test_a_scene_on_the_default_replica(command, replica, picture, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    out = tmp_path / "[bold]out"
    ended = command("inspect", picture, QUESTION, "--out", out, "--max-new-tokens", 2, "--device", "cpu")
    assert ended.code == 0
    answer, *table, page = ended.out.splitlines()
    assert answer == replica.answer(picture, QUESTION, max_new_tokens=2)
    assert page == str(out / "inspect.html")
    assert [p.name for p in out.iterdir()] == ["inspect.html"]
    text = (out / "inspect.html").read_text()
    assert QUESTION in text
    assert "replica/default" in text
    assert "first token" in table[1]
    likely = [float(row.split("│")[2]) for row in table if row.startswith("│")]
    assert len(likely) == 8
    assert likely == sorted(likely, reverse=True)


def test_brackets_in_an_answer_are_printed_as_they_are(command, picture, tmp_path, monkeypatch):
    from vlm_probe.report import inspection

    def found(model, image, question, *, out, max_new_tokens, progress):
        top = pd.DataFrame({"token": ["[b]"], "probability": [0.25]})
        return inspection.Inspection("[red]7[/red]" if question == QUESTION else "", [1], top, out / "[i].html")

    monkeypatch.setattr(inspection, "inspect", found)
    monkeypatch.setattr("vlm_probe.opening.load", lambda *a, **k: None)
    answer, *table, page = command("inspect", picture, QUESTION, "--out", tmp_path).out.splitlines()
    assert answer == "[red]7[/red]"
    assert table[3].replace(" ", "") == "│[b]│0.2500│"
    assert page == str(tmp_path / "[i].html")
    assert command("inspect", picture, "Nothing?").out.startswith("(an empty answer)\n")


def test_an_answer_format_is_appended_to_the_question(command, refused, picture, tmp_path, monkeypatch):
    from vlm_probe.report import inspection

    asked = []

    def found(model, image, question, *, out, max_new_tokens, progress):
        asked.append(question)
        top = pd.DataFrame({"token": ["a"], "probability": [0.25]})
        return inspection.Inspection("7", [1], top, out / "inspect.html")

    monkeypatch.setattr(inspection, "inspect", found)
    monkeypatch.setattr("vlm_probe.opening.load", lambda *a, **k: None)
    assert command("inspect", picture, QUESTION, "--suffix", "Be short.", "--out", tmp_path).code == 0
    assert asked == [f"{QUESTION}\nBe short."]
    said = refused("inspect", picture, QUESTION, "--suffix", "benchmark")
    assert said == "a question of one's own is of no benchmark; give the suffix itself"


def test_a_folder_that_cannot_be_written(refused, picture, in_the_way):
    said = refused("inspect", picture, QUESTION, "--out", in_the_way)
    assert said.startswith("cannot write ")
    assert str(in_the_way) in said


def bomb(path) -> None:
    """A valid PNG header that promises 20,000 x 20,000 pixels in a few bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    )


def test_images_that_cannot_be_used(tmp_path, refused, no_loading):
    text = tmp_path / "text.jpg"
    text.write_text("no picture at all")
    huge = tmp_path / "huge.png"
    bomb(huge)
    whole, cut = tmp_path / "whole.png", tmp_path / "cut.png"
    Image.fromarray(np.full((37, 53, 3), 90, dtype=np.uint8)).save(whole)
    cut.write_bytes(whole.read_bytes()[:60])
    expected = {
        tmp_path / "nowhere.png": f"no image file at '{tmp_path / 'nowhere.png'}'",
        tmp_path / "[b]" / "[i].png": f"no image file at '{tmp_path / '[b]' / '[i].png'}'",
        text: "'text.jpg' is not an image that can be decoded",
        huge: "'huge.png' is too large; at most 100 megapixels are read",
    }
    out = tmp_path / "out"
    for path, message in expected.items():
        assert refused("inspect", path, "What is it?", "--out", out) == message
    assert refused("inspect", cut, "What is it?", "--out", out).startswith("'cut.png' cannot be decoded")
    assert not out.exists(), "nothing is half-written"


def test_an_empty_question(refused, picture, no_loading):
    assert refused("inspect", picture, "  ") == "the question is empty; ask something about the image"


def test_unknown_models(refused, picture):
    said = refused("inspect", picture, "What?", "--model", "replica/smal-clip")
    # Which cells are shipped grows with the grid; the nearest of them comes first.
    assert said == f"no replica 'smal-clip'; nearest are {nearest('smal-clip', ['default', *shipped()])}"
    assert "nearest are 'small-clip'," in said
    said = refused("inspect", picture, "What?", "--model", "nonsense")
    assert said.startswith("unknown model 'nonsense': no such directory, and no Hub id (owner/name)")
    assert refused("inspect", picture, "What?", "--model", "Intel/llava-gemma-2b") == (
        "unknown model 'Intel/llava-gemma-2b': no such directory, and the Hub did not give its "
        "config.json (HF_HUB_OFFLINE is set)"
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--device", "toaster"), "no device 'toaster' here: "),
        (("--dtype", "int8"), "dtype must be a floating torch dtype such as 'float32' or 'bfloat16', got 'int8'"),
        (("--embed-scale", "none"), "embed_scale must be 'all' or 'text', got 'none'"),
    ],
)
def test_options_of_loading_are_heeded(refused, picture, tmp_path, options, message):
    assert refused("inspect", picture, QUESTION, "--out", tmp_path / "out", *options).startswith(message)
    assert not (tmp_path / "out").exists()
