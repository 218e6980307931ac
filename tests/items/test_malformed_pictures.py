"""Whatever a file holds: an upright RGB picture, or one line that names the file."""

import io
import threading
import tracemalloc
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from malformed_pictures import CASES, RGB, WHOLE, Case, saved
from PIL import Image

from vlm_probe.errors import VlmProbeError
from vlm_probe.inputs.images import MAX_PIXELS, open_image
from vlm_probe.items.item import PictureBytes


def opened(source) -> Image.Image | str:
    """The picture, or the message; any other exception, and any warning, is an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            return open_image(source)
        except VlmProbeError as error:
            return str(error)


def check(case: Case, made: Image.Image | str, name: str) -> None:
    if isinstance(made, str):
        assert not case.opens, made
        assert name in made
        assert "\n" not in made
        assert len(made) < 500
        return
    assert case.opens is not False
    assert made.mode == "RGB"
    assert 0 not in made.size
    assert made.width * made.height <= MAX_PIXELS
    assert case.size in (None, made.size)
    if case.truth is not None:
        assert np.abs(np.asarray(made).astype(int) - case.truth).max() <= case.near
    again = open_image(made)
    assert np.array_equal(np.asarray(again), np.asarray(made))  # it is not turned twice


def test_there_are_many():
    assert len(CASES) >= 300
    assert len({case.name for case in CASES}) == len(CASES)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_picture_or_a_line(case, tmp_path):
    file = tmp_path / f"one.{case.ending}"
    file.write_bytes(case.content)
    tracemalloc.start()
    made = opened(file)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100_000_000
    check(case, made, f"'one.{case.ending}'")
    for other, name in (
        (case.content, f"an image of {len(case.content)} bytes"),
        (PictureBytes(case.content, "'a.tar/one'"), "'a.tar/one'"),
        (io.BytesIO(case.content), "'an open file'"),
    ):
        check(case, opened(other), name)


@pytest.mark.parametrize("name", ["png", "jpg", "bmp"])
def test_a_picture_that_was_opened_and_not_read(name, tmp_path):
    (tmp_path / "cut").write_bytes(WHOLE[name][:-40])
    with Image.open(tmp_path / "cut") as image:
        made = opened(image)
    assert isinstance(made, str)
    assert made.startswith("'cut' cannot be decoded: ")


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(sorted(WHOLE)), st.data())
def test_any_bytes_changed(name, data):
    content = bytearray(WHOLE[name])
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    check(Case(name, bytes(content)), opened(bytes(content)), f"an image of {len(content)} bytes")


def test_a_large_picture_that_is_allowed_gives_no_warning(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)  # Pillow warns from there, and refuses from twice that
    assert isinstance(opened(saved(Image.fromarray(RGB), "PNG")), Image.Image)
    assert opened(saved(Image.new("RGB", (20, 20)), "PNG")).__class__ is str


def test_many_threads_leave_the_filters_of_warnings_as_they_were():
    before = list(warnings.filters)
    content = WHOLE["jpg"]
    threads = [threading.Thread(target=lambda: [open_image(content) for _ in range(50)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert list(warnings.filters) == before
