"""`vlm-probe inspect`: the answer, its first tokens and the page; what cannot be inspected is said before loading."""

import json
import re
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


def found_by(monkeypatch, answer):
    """`inspect` replaced by one that finds `answer(question)`; returns what it was asked."""
    from vlm_probe.report import inspection

    asked = []

    def found(models, images, question, *, out, query, max_new_tokens, progress):
        asked.append((list(models), images, question, query))
        top = pd.DataFrame({"token": ["[b]"], "probability": [0.25]})
        looked = inspection.Looked("[m]", "i.png", answer(question), [1], top, None, ["[note]"])
        return inspection.Inspection([looked], out / "[i].html")

    monkeypatch.setattr(inspection, "inspect", found)
    monkeypatch.setattr("vlm_probe.opening.load", lambda name, **options: (name, options["prompt"]))
    return asked


def test_brackets_in_an_answer_are_printed_as_they_are(command, picture, tmp_path, monkeypatch):
    found_by(monkeypatch, lambda question: "[red]7[/red]" if question == QUESTION else "")
    ended = command("inspect", picture, QUESTION, "--out", tmp_path)
    answer, *table, page = ended.out.splitlines()
    assert answer == "[red]7[/red]"
    assert table[3].replace(" ", "") == "│[b]│0.2500│"
    assert page == str(tmp_path / "[i].html")
    assert ended.err.splitlines()[-1] == "not to be trusted: [note]"
    assert command("inspect", picture, "Nothing?").out.startswith("(an empty answer)\n")


def test_an_answer_format_is_appended_to_the_question(command, refused, picture, tmp_path, monkeypatch):
    asked = found_by(monkeypatch, lambda question: "7")
    options = ("--suffix", "Be short.", "--out", tmp_path, "--query", "objects", "--prompt", "{images}\\n{question}")
    assert command("inspect", picture, QUESTION, *options).code == 0
    loaded = [("replica/default", "{images}\n{question}")]
    assert asked == [(loaded, [str(picture)], f"{QUESTION}\nBe short.", "objects")]
    said = refused("inspect", picture, QUESTION, "--suffix", "benchmark")
    assert said == "a question of one's own is of no benchmark; give the suffix itself"


def test_several_models_and_pictures_are_compared(command, picture, tmp_path):
    second = tmp_path / "second.png"
    scene_image(sample_scene(4), 64).save(second)
    names = ("replica/small-clip", "replica/small-dino")
    options = [word for name in names for word in ("--model", name)]
    ended = command("inspect", picture, second, QUESTION, "--out", tmp_path / "out", "--max-new-tokens", 1, *options)
    assert ended.code == 0
    rows = [line.split("│")[1:4] for line in ended.out.splitlines() if line.startswith("│")]
    assert [[cell.strip() for cell in row][:2] for row in rows] == [
        [image, name] for name in names for image in ("[red]scene.png", "second.png")
    ]
    page = (tmp_path / "out" / "inspect.html").read_text()
    assert page.count("<details") == 4
    assert page.count("relevancy by model") == 2
    assert "Not to be trusted" not in page


def explored(page):
    """What the explorer of a page is given."""
    found = re.search(r'<script type="application/json">(.*?)</script>', page.read_text(), re.DOTALL)
    assert found is not None
    return json.loads(found[1])["looks"]


def test_the_explorer_shows_all_that_a_small_model_can_tell(command, picture, tmp_path):
    hostile = picture.rename(tmp_path / "<!--<script>alert(1)<:script>.png")
    assert command("inspect", hostile, QUESTION, "--out", tmp_path, "--max-new-tokens", 1).code == 0
    (look,) = explored(tmp_path / "inspect.html")
    assert look["missing"] == {}
    assert (look["name"], look["question"]) == (hostile.name, QUESTION)
    assert list(look["maps"])[-1] == "integrated gradients"
    assert (look["knockout"]["draws"], len(look["tokens"])) == (3, 1)
    text = (tmp_path / "inspect.html").read_text()
    assert "<!--<script>" not in text
    assert "<script>alert" not in text


def test_what_takes_long_is_left_out_of_the_explorer_and_named(command, picture, tmp_path, monkeypatch):
    monkeypatch.setattr("vlm_probe.report.inspection.SMALL", 0)
    monkeypatch.setattr("vlm_probe.report.inspection.OPERATIONS", 0)
    shown = ("--out", tmp_path, "--max-new-tokens", 1, "--device", "cpu")
    assert command("inspect", picture, QUESTION, *shown).code == 0
    (look,) = explored(tmp_path / "inspect.html")
    makes = "for this model here: vlm_probe.explore(inputs, model) in Python makes it"
    assert (look["missing"]["lens"], look["missing"]["knockout"]) == (
        f"it takes minutes {makes}",
        f"it takes hundreds of runs {makes}",
    )
    assert list(look["maps"]) == ["relevancy", "relevancy through the encoder", "gradient x input"]


def test_the_attention_of_a_word_and_one_that_is_none(command, refused, picture, tmp_path):
    shown = ("--out", tmp_path / "out", "--max-new-tokens", 1)
    assert command("inspect", picture, QUESTION, "--query", "objects", *shown).code == 0
    page = (tmp_path / "out" / "inspect.html").read_text()
    assert "Attention from &#39;objects&#39; to the image" in page
    assert "Can the left map be believed?" in page
    said = refused("inspect", picture, QUESTION, "--query", "object", *shown)
    assert said.startswith("query: no positions 'object'; there are all, image, box")


def test_what_a_replica_never_met_is_said_on_page_and_terminal(command, picture, tmp_path):
    ended = command("inspect", picture, "What is on the table?", "--out", tmp_path, "--max-new-tokens", 1)
    note = "no question it was trained on has 'table'"
    assert ended.err.splitlines()[-1] == f"not to be trusted: {note}"
    assert f"Not to be trusted: {note.replace(chr(39), '&#39;')}." in (tmp_path / "inspect.html").read_text()


def test_a_prompt_beyond_the_context_is_said(command, picture, tmp_path):
    ended = command("inspect", picture, "star " * 500, "--out", tmp_path, "--max-new-tokens", 1)
    (said,) = [line for line in ended.err.splitlines() if "longer than" in line]
    assert said.startswith("not to be trusted: a prompt of ")
    assert "positions is longer than replica/default was made for (" in said


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
