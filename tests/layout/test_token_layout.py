"""Geometry: boxes of the original image to patches and back, through pad, resize and crop."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers import CLIPImageProcessor

from vlm_probe import VlmProbeError
from vlm_probe.inputs.images import ImagePreparer
from vlm_probe.layout import ImageSpan, ImageTransform, TokenLayout, lay_out

SIDES = st.integers(7, 400)


def span_of(transform: ImageTransform, grid: tuple[int, int]) -> ImageSpan:
    return ImageSpan(np.arange(grid[0] * grid[1]), grid, np.zeros(0, dtype=np.int64), transform)


def transforms(width: int, height: int) -> list[ImageTransform]:
    edge = 35
    short = (edge, int(edge * height / width)) if width <= height else (int(edge * width / height), edge)
    return [
        ImageTransform.of((width, height), (edge, edge), pad=True),
        ImageTransform.of((width, height), (41, 41), pad=True, crop=(edge, edge)),
        ImageTransform.of((width, height), short, crop=(edge, edge)),
        ImageTransform.of((width, height), (21, 35)),
    ]


@settings(deadline=None)
@given(SIDES, SIDES, st.tuples(*[st.floats(0, 1)] * 4))
def test_boxes_go_there_and_back(width, height, corners):
    x0, x1 = sorted((corners[0] * width, corners[1] * width))
    y0, y1 = sorted((corners[2] * height, corners[3] * height))
    for transform in transforms(width, height):
        back = transform.to_original(transform.to_model((x0, y0, x1, y1)))
        np.testing.assert_allclose(back, (x0, y0, x1, y1), atol=1e-6 * max(width, height))


@settings(deadline=None)
@given(SIDES, SIDES, st.integers(0, 4), st.integers(0, 6))
def test_a_patch_box_covers_its_patch_and_no_other(width, height, row, col):
    for transform in transforms(width, height):
        span = span_of(transform, (5, 7))
        coverage = span.box_coverage(span.patch_to_box(row, col))
        expected = np.zeros((5, 7))
        expected[row, col] = 1
        np.testing.assert_allclose(coverage, expected, atol=1e-6)


@settings(deadline=None)
@given(SIDES, SIDES, st.tuples(*[st.floats(0, 1)] * 4))
def test_coverage_adds_up_to_the_visible_area_of_the_box(width, height, corners):
    x0, x1 = sorted((corners[0] * width, corners[1] * width))
    y0, y1 = sorted((corners[2] * height, corners[3] * height))
    for transform in transforms(width, height):
        span = span_of(transform, (5, 7))
        left, top, right, bottom = transform.to_model((x0, y0, x1, y1))
        w, h = transform.size
        visible = max(0, min(right, w) - max(left, 0)) * max(0, min(bottom, h) - max(top, 0))
        coverage = span.box_coverage((x0, y0, x1, y1))
        assert coverage.sum() * (w / 7) * (h / 5) == pytest.approx(visible, abs=1e-6 * w * h)
        assert ((coverage > 0) == span.box_to_patches((x0, y0, x1, y1))).all()


@settings(deadline=None, max_examples=40)
@given(st.integers(9, 200), st.integers(9, 200), st.booleans(), st.sampled_from(["crop", "square"]), st.data())
def test_a_painted_spot_lands_in_the_patch_the_geometry_says(width, height, pad, kind, data):
    """The real processor on a real picture: where the white square went is where the box maps to."""
    processor = CLIPImageProcessor(
        size={"shortest_edge": 40} if kind == "crop" else {"height": 40, "width": 40},
        crop_size={"height": 40, "width": 40},
        do_center_crop=kind == "crop",
        resample=Image.Resampling.BOX,
    )
    preparer = ImagePreparer(processor, pad=pad)
    side = max(3, min(width, height) // 3)
    x = data.draw(st.integers(0, width - side))
    y = data.draw(st.integers(0, height - side))
    pixels = np.zeros((height, width, 3), dtype=np.uint8)
    pixels[y : y + side, x : x + side] = 255
    black, _ = preparer(Image.fromarray(np.zeros_like(pixels)))
    tensor, transform = preparer(Image.fromarray(pixels))
    assert tensor.shape == (3, 40, 40)
    changed = ((tensor - black)[0] > 1.5).numpy().reshape(5, 8, 5, 8).mean((1, 3))
    coverage = span_of(transform, (5, 5)).box_coverage((x, y, x + side, y + side))
    assert (changed[coverage > 0.99] > 0.5).all()
    assert (changed[coverage < 0.01] < 0.3).all()


def test_padding_is_not_visible():
    span = span_of(ImageTransform.of((100, 50), (40, 40), pad=True), (4, 4))
    assert span.visible().tolist() == [[False] * 4, [True] * 4, [True] * 4, [False] * 4]
    assert span.patch_to_box(1, 0) == (0.0, 0.0, 25.0, 25.0)
    assert span.patch_to_box(0, 0) == (0.0, -25.0, 25.0, 0.0)


def layout_of(ids: list[int], mask: list[int] | None = None, images: int = 1, each: int = 5) -> TokenLayout:
    return lay_out(
        np.array(ids),
        np.array(mask or [1] * len(ids)),
        image_token_id=9,
        grids=[(2, 2)] * images,
        tokens_per_image=[each] * images,
        transforms=[None] * images,
    )


def test_layout_with_padding_extra_tokens_and_two_images():
    ids = [0, 0, 2, *[9] * 5, 3, *[9] * 5, 4, 5]
    layout = layout_of(ids, [0, 0, *[1] * 14], images=2)
    assert [s.extra_positions.tolist() for s in layout.images] == [[3], [9]]
    assert [s.positions.tolist() for s in layout.images] == [[4, 5, 6, 7], [10, 11, 12, 13]]
    assert layout.image_positions.tolist() == [4, 5, 6, 7, 10, 11, 12, 13]
    assert layout.text_positions.tolist() == [2, 8, 14, 15]
    assert layout.question_positions.tolist() == [14, 15]
    assert layout.answer_position == 15


def test_wrong_numbers_of_placeholders_and_patches_are_refused():
    with pytest.raises(VlmProbeError) as caught:
        layout_of([2, 9, 9, 9, 3])
    assert str(caught.value) == "the prompt holds 3 image placeholders (token 9), its 1 images need 5"
    layout = layout_of([2, *[9] * 5, 3])
    with pytest.raises(VlmProbeError, match="boxes need model.prepare"):
        layout.box_to_patches((0, 0, 1, 1))
    with pytest.raises(VlmProbeError, match="image 1 was asked for, the prompt has 1"):
        layout.image(1)
    span = span_of(ImageTransform.of((8, 8), (8, 8)), (2, 2))
    with pytest.raises(VlmProbeError, match=r"patch \(2, 0\) is outside the grid of 2 rows x 2 columns"):
        span.patch_to_box(2, 0)


def test_pixels_left_over_belong_to_no_patch():
    transform = ImageTransform.of((17, 17), (17, 17))
    span = ImageSpan(np.arange(25), (5, 5), np.zeros(0, dtype=np.int64), transform, 3)
    assert span.patch_to_box(4, 4) == (12.0, 12.0, 15.0, 15.0)
    assert span.box_coverage((15, 15, 17, 17)).sum() == 0
