"""Pictures come in every form that holds one, and what is none is one line."""

import io
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from vlm_probe import VlmProbeError
from vlm_probe.inputs.images import open_image

VALUES = np.random.default_rng(0).integers(0, 256, (7, 11, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    Image.fromarray(VALUES).save(folder / "one.png")
    (folder / "none.png").write_text("no picture")
    return folder


@pytest.fixture(scope="module")
def site(folder):
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    "made",
    [
        lambda folder: folder / "one.png",
        lambda folder: str(folder / "one.png"),
        lambda folder: (folder / "one.png").read_bytes(),
        lambda folder: io.BytesIO((folder / "one.png").read_bytes()),
        lambda folder: Image.open(folder / "one.png"),
        lambda folder: VALUES,
        lambda folder: np.asfortranarray(VALUES),
        lambda folder: VALUES / 255,
        lambda folder: (VALUES / 255).astype(np.float32),
        lambda folder: torch.from_numpy(VALUES).permute(2, 0, 1),
        lambda folder: torch.from_numpy(VALUES).permute(2, 0, 1) / 255,
        lambda folder: (torch.from_numpy(VALUES).permute(2, 0, 1) / 255).requires_grad_(),
    ],
)
def test_one_picture_in_every_form(folder, made):
    opened = open_image(made(folder))
    assert opened.mode == "RGB"
    assert np.array_equal(np.asarray(opened), VALUES)


def test_an_open_file_and_a_url(folder, site):
    with (folder / "one.png").open("rb") as file:
        assert np.array_equal(np.asarray(open_image(file)), VALUES)
    assert np.array_equal(np.asarray(open_image(f"{site}/one.png")), VALUES)
    for name, message in (
        ("none.png", f"{site}/none.png is not an image that can be decoded"),
        ("two.png", f"{site}/two.png could not be fetched: HTTP Error 404: File not found"),
    ):
        with pytest.raises(VlmProbeError) as caught:
            open_image(f"{site}/{name}")
        assert str(caught.value) == message


def test_a_url_that_holds_too_much(site, monkeypatch):
    monkeypatch.setattr("vlm_probe.inputs.images.MAX_BYTES", 10)
    with pytest.raises(VlmProbeError, match="one.png is too large; at most 0 megabytes are read"):
        open_image(f"{site}/one.png")


def test_grey_is_a_picture():
    grey = open_image(VALUES[..., 0])
    assert grey.mode == "RGB"
    assert np.array_equal(np.asarray(grey)[..., 2], VALUES[..., 0])


ARRAY, TENSOR = "an array [row, column, 3]", "a tensor [3, row, column]"
NUMBERS = "of uint8, or of floats from 0 to 1, got"


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((0, 0, 3), np.uint8), f"an image must be {ARRAY} {NUMBERS} uint8 [0, 0, 3]"),
        (np.zeros((7, 11, 4), np.uint8), f"an image must be {ARRAY} {NUMBERS} uint8 [7, 11, 4]"),
        (np.zeros((7, 11, 3), np.int64), f"an image must be {ARRAY} {NUMBERS} int64 [7, 11, 3]"),
        (np.full((7, 11, 3), 1.5), f"an image must be {ARRAY} {NUMBERS} float64 [7, 11, 3]"),
        (np.full((7, 11, 3), np.nan), f"an image must be {ARRAY} {NUMBERS} float64 [7, 11, 3]"),
        (np.zeros((1, 7, 11, 3), np.uint8), f"an image must be {ARRAY} {NUMBERS} uint8 [1, 7, 11, 3]"),
        (torch.zeros(7, 11, 3), f"an image must be {TENSOR} {NUMBERS} float32 [7, 11, 3]"),
        (torch.zeros(3, 7, 0), f"an image must be {TENSOR} {NUMBERS} float32 [3, 7, 0]"),
        (Image.new("RGB", (0, 0)), "an image must have pixels, got 0 x 0"),
        (b"", "an image of 0 bytes is not an image that can be decoded"),
        (io.BytesIO(b"abc"), "'an open file' is not an image that can be decoded"),
        ("nowhere.png", "no image file at 'nowhere.png'"),
        (
            "http://127.0.0.1:9/x.png",
            "http://127.0.0.1:9/x.png could not be fetched: <urlopen error [Errno 111] Connection refused>",
        ),
    ],
)
def test_what_is_no_picture(image, message):
    with pytest.raises(VlmProbeError) as caught:
        open_image(image)
    assert str(caught.value) == message


@given(arrays.arrays(np.uint8, st.tuples(st.integers(1, 5), st.integers(1, 5), st.just(3))))
def test_numbers_come_back_as_they_were(values):
    assert np.array_equal(np.asarray(open_image(values)), values)
    assert np.array_equal(np.asarray(open_image(values / 255)), values)
    assert np.array_equal(np.asarray(open_image(torch.from_numpy(values).movedim(-1, 0))), values)
