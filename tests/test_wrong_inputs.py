"""A hundred wrong inputs: each is one line that says what is wrong, with exit code 2, and leaves nothing behind.

What needs no model to be found out is said before anything heavy is imported.
"""

import json
import shlex
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import tiny_batch, tiny_llava, tiny_vlm

import vlm_probe
from vlm_probe import VlmProbeError, attention, embedding, figures, findings, items
from vlm_probe.hooked import HookedVLM
from vlm_probe.lens.tuned_lens import TunedLens


def png() -> bytes:
    """Eight by eight pixels, without a library."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 8, 8, 8, 2, 0, 0, 0)
    rows = zlib.compress(b"".join(b"\0" + b"\x50\x60\x70" * 8 for _ in range(8)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


ROW = {"image": "a.png", "question": "What is it?", "answer": "a cup"}
FILES: dict[str, str | bytes] = {
    "a.png": png(),
    "cut.png": png()[:50],
    "empty.png": b"",
    "text.png": "no picture",
    "file": "in the way",
    "full/mine.txt": "mine",
    "nojson/config.json": "{ no",
    "list/config.json": "[]",
    "gpt2/config.json": '{"model_type": "gpt2"}',
    "bare/config.json": '{"model_type": "gemma"}',
    "adapter/adapter_config.json": '{"base_model_name_or_path": "nowhere"}',
    "good.jsonl": json.dumps(ROW) + "\n",
    "twice.jsonl": (json.dumps({**ROW, "id": "x"}) + "\n") * 2,
    "noanswer.jsonl": json.dumps({**ROW, "answer": ""}) + "\n",
    "broken.jsonl": json.dumps(ROW) + "\n{ no\n",
    "gone.jsonl": json.dumps({**ROW, "image": "gone.png"}) + "\n",
    "box.jsonl": json.dumps({**ROW, "boxes": [[0, 0, 30, 40]]}) + "\n",
    "blank.jsonl": "\n\n",
    "prose.txt": "some prose",
    "bare.csv": "image,text\na.png,What?\n",
    "bytes.csv": b"\xff\xfe\x00\x01",
    "no.parquet": b"PAR1 no",
}
"""What lies in the working folder, beside the empty folder `empty`."""

UNKNOWN = "unknown model {!r}: no such directory, and no Hub id (owner/name); nearest shipped are "
NO_QUESTIONS = (
    "{} is no question file known here: an item file of your own has image, question and answer (.jsonl, .csv or "
    ".parquet), of a benchmark's name the format: gqa, items, mme, mmvet, mmvp, pope, vqav2"
)
SKIP = " (--skip-bad leaves such items out)"
NAME_ONE = (
    "name what to train, replica/<size>-<encoder>[-nopre][-v<vocabulary>] or llava-<language model>[-lora], or give "
    "--grid for all replicas"
)

LIGHT: dict[str, str] = {
    "inspect nowhere.png What?": "no image file at 'nowhere.png'",
    "inspect empty What?": "no image file at 'empty'",
    "inspect a.png nowhere.png What?": "no image file at 'nowhere.png'",
    "inspect a.png ''": "the question is empty; ask something about the image",
    "inspect a.png What? -m nonsense": UNKNOWN.format("nonsense"),
    "inspect a.png What? -m ./nowhere": UNKNOWN.format("./nowhere"),
    "inspect a.png What? -m replica/small-clip -m nonsense": UNKNOWN.format("nonsense"),
    "inspect a.png What? -m gemma3-270": UNKNOWN.format("gemma3-270") + "'gemma3-270m', ",
    "inspect a.png What? -m replica/smal-clip": "no replica 'smal-clip'; nearest are 'small-clip', ",
    "inspect a.png What? -m file": "file is a file, expected a checkpoint directory",
    "inspect a.png What? -m empty": "empty is not a checkpoint: it has no config.json",
    "inspect a.png What? -m smollm2-135m": "smollm2-135m is not here yet; get it with: vlm-probe fetch smollm2-135m",
    "findings S1 -m nonsense": UNKNOWN.format("nonsense"),
    "findings S1 --items 0": "--items must be 1 or more, or a question file, got 0",
    "findings S1 --items -3": "--items must be 1 or more, or a question file, got -3",
    "findings S1 --items nowhere.jsonl": "no such file or folder: nowhere.jsonl",
    "findings S1 --items noanswer.jsonl": "noanswer.jsonl, line 1: no answer; an item has image, question and answer"
    + SKIP,
    "findings S1 --items broken.jsonl": "broken.jsonl, line 2: no JSON (Expecting property name enclosed in double "
    f"quotes){SKIP}",
    "findings S1 --items gone.jsonl": f"gone.jsonl, line 1: the image gone.png does not exist{SKIP}",
    "findings S1 --items box.jsonl": "box.jsonl, line 1: a box must be in shares of the image, 0 to 1, got [0, 0, 30, "
    f"40]{SKIP}",
    "findings S1 --items blank.jsonl": NO_QUESTIONS.format("blank.jsonl"),
    "findings S1 --items prose.txt": NO_QUESTIONS.format("prose.txt"),
    "findings S1 --items bytes.csv": "bytes.csv is not a text file (UTF-8)",
    "findings S1 --items bare.csv": "bare.csv is no item file, which has image, question, answer (it has ",
    "findings S1 --items no.parquet": "cannot read no.parquet: Could not open Parquet input source 'no.parquet': ",
    "findings S1 --items good.jsonl --images nowhere": "the image folder nowhere does not exist",
    "findings S1 --items good.jsonl --format pop": "no format 'pop'; nearest are 'pope'",
    "findings S1 --out file": "cannot write to file: File exists",
    "findings --out x": "name hypotheses (S1, V4) or models to measure; --out is for what they come to",
    "report -m nonsense": UNKNOWN.format("nonsense"),
    "report --items 11": "--items must be 12 or more, or a question file, got 11",
    "report --items nowhere.jsonl": "no such file or folder: nowhere.jsonl",
    "evaluate -m nonsense": UNKNOWN.format("nonsense"),
    "evaluate --items nowhere.jsonl": "no such file or folder: nowhere.jsonl",
    "evaluate --answers nowhere.parquet": "no such file or folder: nowhere.parquet",
    "items check nowhere.jsonl": "no such file or folder: nowhere.jsonl",
    "fetch gemma": "nothing called 'gemma' to fetch; nearest are 'gemma3-270m'",
    "train": NAME_ONE,
    "train replica/small-clip --grid": NAME_ONE,
}
"""Command -> how its message begins; found out without a model."""

HEAVY: dict[str, str] = {
    "inspect empty.png What?": "'empty.png' is not an image that can be decoded",
    "inspect cut.png What?": "'cut.png' cannot be decoded: image file is truncated",
    "inspect text.png What?": "'text.png' is not an image that can be decoded",
    "inspect a.png text.png What?": "'text.png' is not an image that can be decoded",
    "inspect http://127.0.0.1:9/x.png What?": "http://127.0.0.1:9/x.png could not be fetched: ",
    "inspect a.png What? -m nojson": "nojson/config.json is not valid JSON: ",
    "inspect a.png What? -m list": "list/config.json holds a list, expected an object",
    "inspect a.png What? -m gpt2": "gpt2 is a 'gpt2' checkpoint, expected a model with an encoder ",
    "inspect a.png What? -m bare": "bare holds no weights: expected *.safetensors or pytorch_model*.bin",
    "inspect a.png What? -m adapter": "adapter holds adapters of another model: " + UNKNOWN.format("nowhere"),
    "inspect a.png What? -m Intel/llava-gemma-2b": "unknown model 'Intel/llava-gemma-2b': no such directory, and the "
    "Hub did not give its config.json (HF_HUB_OFFLINE is set)",
    "inspect a.png What? --device toaster": "no device 'toaster' here: ",
    "inspect a.png What? --dtype int8": "dtype must be a floating torch dtype such as 'float32' or 'bfloat16', got ",
    "inspect a.png What? --embed-scale none": "embed_scale must be 'all' or 'text', got 'none'",
    "inspect a.png What? --prompt What?": "a prompt must hold {images} once, got 'What?'",
    "inspect a.png What? --prompt {images}": "a prompt must hold {question} once, got '{images}'",
    "inspect a.png What? --prompt {question}{images}": "a prompt must hold {images} before {question}, got ",
    "inspect a.png What? --prompt {images}{question}{foo}": "a prompt has {bos}, {images} and {question}, no {foo}: ",
    "inspect a.png What? --query nothing": "query: no positions 'nothing'; there are all, image, box, ",
    "inspect a.png What? --query box": "query: positions 'box' need the item's boxes, and there is none",
    "inspect a.png What? --query 'what |'": "query: no positions 'what |'; there are ",
    "inspect a.png What? --suffix benchmark": "a question of one's own is of no benchmark; give the suffix itself",
    "inspect a.png What? --out file --max-new-tokens 1": "cannot write file: File exists",
    "inspect a.png '<bos> What?'": "the question contains '<bos>', a special token of this model; leave it out",
    "findings S11": "no finding 'S11'; nearest are 'S1'",
    "findings C2": "nothing could be measured; C2: it takes 2 models or more, got 1",
    "findings S1 --items good.jsonl": "nothing could be measured; S1: it needs items with boxes of what they ask ",
    "report -f S11": "no finding 'S11'; nearest are 'S1'",
    "report --out file": "file exists and is no earlier report; name another folder with --out",
    "report --out full": "full exists and is no earlier report; name another folder with --out",
    "evaluate --items twice.jsonl": "item ids must differ, 'x' comes twice",
    "evaluate --items good.jsonl --images empty --images empty": "1 question files and 2 folders of images; give one ",
    "evaluate --answers good.jsonl": "good.jsonl, line 1: no target ",
    "evaluate --answers no.parquet": "cannot read no.parquet: ",
    "evaluate --items good.jsonl --out file": "cannot write to file/parts/",
    "items check empty": "empty is a folder without an item table (items.jsonl, items.csv or items.parquet) and ",
    "items check prose.txt": NO_QUESTIONS.format("prose.txt"),
    "scenes export out --split tset": "no split 'tset'; there are train, heldout, novel, any",
    "scenes export out --family pop": "no question family 'pop'; nearest are 'pope'",
    "scenes export file": "cannot write to file: File exists",
    "train replica/smal-clip": "no replica cell 'smal-clip' in the grid; nearest are 'small-clip', ",
    "train llava-gemma": "nothing called 'llava-gemma' to train; nearest are 'llava-gemma3-270m', ",
    "train replica/small-clip --device toaster": "no device 'toaster' here: ",
    "study gird": "no study 'gird'; nearest are 'grid'",
    "study grid --device toaster": "no device 'toaster' here: ",
    "study grid --arm smal-clip": "study grid has no arm 'smal-clip'; nearest are 'small-clip', ",
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    for name, content in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content.encode() if isinstance(content, str) else content)
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VLM_PROBE_CACHE", str(tmp_path / "cache"))
    return tmp_path


def there(folder: Path) -> dict[str, bytes | None]:
    return {str(path): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


@pytest.mark.parametrize("line", [*LIGHT, *HEAVY])
def test_on_the_command_line(refused, folder, line):
    before = there(folder)
    said = refused(*shlex.split(line))  # exit code 2, and one line
    assert said.startswith((LIGHT | HEAVY)[line])
    assert there(folder) == before, "something was written, or is gone"


def test_what_needs_no_model_is_said_before_anything_heavy_is_imported(folder):
    program = """
import json, shlex, sys
from vlm_probe.cli import main
for line in json.loads(sys.stdin.read()):
    sys.argv = ["vlm-probe", *shlex.split(line)]
    try:
        main()
    except SystemExit as ended:
        assert ended.code == 2, line
    heavy = sorted({"torch", "transformers", "matplotlib", "sklearn"} & set(sys.modules))
    assert not heavy, (line, heavy)
"""
    ended = subprocess.run(
        [sys.executable, "-c", program], input=json.dumps(list(LIGHT)), text=True, capture_output=True
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr.count("error: ") == len(LIGHT)


@pytest.fixture(scope="module")
def model():
    return tiny_vlm()


@pytest.fixture(scope="module")
def seen(model):
    return model.trace(np.full((15, 15, 3), 90, np.uint8), "Red?")


IMAGE = np.full((15, 15, 3), 90, np.uint8)
TEXT: Any = "photo.png"  # where it does not belong
CALLS = {
    "lists that do not pair up": (
        lambda m, t: m.prepare([IMAGE], ["a", "b"]),
        "1 images for 2 questions; lists must pair up",
    ),
    "15 of 16 image tokens": (
        lambda m, t: m.prepare_tensors(tiny_batch(m.hf, batch=1)["input_ids"][:, :-5], torch.zeros(1, 3, 15, 15)),
        "input_ids holds 24 image tokens (96); pixel_values holds 1 images of 25 each, which take 25",
    ),
    "a hook name that is none": (
        lambda m, t: m.run_with_cache(**tiny_batch(m.hf), names_filter="language.blocks.9.hook_q"),
        "no hook point 'language.blocks.9.hook_q'; nearest are ",
    ),
    "shorthand that is none": (
        lambda m, t: m.run_with_cache(**tiny_batch(m.hf))[1]["patern", 0],
        "no activation ('patern', 0), which is 'language.blocks.0.hook_patern', in this cache; nearest are ",
    ),
    "what a trace does not hold": (
        lambda m, t: t["language.hook_embed"],
        "the trace holds no 'language.hook_embed'; it holds ",
    ),
    "a word that was not asked": (
        lambda m, t: attention.image_attention(t, "green"),
        "query: no positions 'green'; there are ",
    ),
    "a position outside": (
        lambda m, t: attention.image_attention(t, [999]),
        "query: positions must be between 0 and ",
    ),
    "a second image": (lambda m, t: attention.image_attention(t, image=1), "image 1 was asked for, the prompt has 1"),
    "a token outside": (
        lambda m, t: attention.relevancy(m, m.prepare(IMAGE, "a"), target=97),
        "target token 97 is outside the vocabulary of 97",
    ),
    "a prompt without a question": (
        lambda m, t: HookedVLM(tiny_llava(), prompt="{images}"),
        "a prompt must hold {question} once, got '{images}'",
    ),
    "a figure of a path": (lambda m, t: figures.overlay(TEXT, TEXT), "overlay takes "),
    "a figure of a text": (lambda m, t: figures.layer_strip(t.images[0], TEXT), "layer_strip takes "),
    "a finding that is none": (lambda m, t: findings.run(["S11"], [m]), "no finding 'S11'; nearest are 'S1'"),
    "a model given twice": (lambda m, t: findings.run(["V1"], [m, m]), "model is given twice; models are told apart"),
    "a file that is none": (lambda m, t: items.read_items("nowhere.csv"), "cannot read nowhere.csv: No such file or "),
    "a lens that is none": (lambda m, t: TunedLens.load(Path("nowhere")), "cannot read nowhere: no such file"),
    "a trace that is none": (lambda m, t: type(t).load(Path("nowhere")), "cannot read nowhere: no such file"),
    "an attribution that is none": (
        lambda m, t: embedding.attribute(m, m.prepare(IMAGE, "a"), method="magic"),
        "no attribution method 'magic'; there are integrated_gradients, layer_conductance, occlusion",
    ),
    "a dtype that is none": (lambda m, t: vlm_probe.load("replica/default", dtype="int8"), "dtype must be a floating "),
}


@pytest.mark.parametrize("what", CALLS)
def test_in_python(model, seen, what):
    call, message = CALLS[what]
    with pytest.raises(VlmProbeError) as caught:
        call(model, seen)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_questions_that_are_no_text():
    """Of users who have no type checker on, as these tests have."""
    program = """
import sys
sys.path.insert(0, sys.argv[1])
from tiny import tiny_vlm
from vlm_probe import VlmProbeError
model = tiny_vlm()
for question in (3, None, [3], ["a", None]):
    try:
        model.prepare(None, question)
    except VlmProbeError as error:
        print(error)
"""
    ended = subprocess.run([sys.executable, "-c", program, Path(__file__).parent], text=True, capture_output=True)
    assert ended.stdout.splitlines() == [
        "a question must be text, or a list of texts, got a int",
        "a question must be text, or a list of texts, got a NoneType",
        "a question must be text, got a int",
        "a question must be text, got a NoneType",
    ]
