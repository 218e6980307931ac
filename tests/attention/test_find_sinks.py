"""Sinks of a model over many questions: those of its traces, the planted ones, and no others."""

import re
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from tiny import GRID, PATCH, WINDOW, tiny_vlm
from transformer_lens.hook_points import HookPoint

from vlm_probe import VlmProbeError
from vlm_probe.attention import find_sinks, sinks
from vlm_probe.items import Item

QUESTIONS = ["what", "is it red", "where", "how many stars", "is a cube there", "which one", "why", "a circle, no"]


def named(found: pd.DataFrame) -> list[list[Any]]:
    return found[["layer", "kind", "index"]].to_numpy(dtype=object).tolist()


def picture(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (PATCH * GRID,) * 2 + (3,), dtype=np.uint8))


@pytest.mark.parametrize(("tower", "language"), [("clip", "llama"), ("registers", "gemma2")])
def test_sinks_of_a_model_are_those_of_its_traces(tower, language):
    model = tiny_vlm(tower, language)
    pictures = [picture(0), picture(1)]
    found = find_sinks(model, pictures, QUESTIONS, factor=0.9, batch_size=3, by_image=True)
    assert set(found["image"]) == {"0", "1"}
    for name, own in found.groupby("image"):
        traces = [model.trace(pictures[int(str(name))], question) for question in QUESTIONS]
        expected = sinks(traces, factor=0.9)
        assert len(expected) > 3
        pd.testing.assert_frame_equal(own.drop(columns="image").reset_index(drop=True), expected, rtol=1e-4)
    if language == "gemma2":
        # Through the window of the other layers, the last queries of most questions see nothing before the question.
        assert len(QUESTIONS[1]) > WINDOW
        assert set(found["layer"]) == {1}


def plant(number: int, pattern: torch.Tensor, hook: HookPoint) -> torch.Tensor:
    """A third of all attention to a patch of tiny prompts: padding, "<bos>Q", the patches, ":" and the question."""
    planted = pattern.clone()
    for row in planted:
        position = int(row[0, -1].gt(0).nonzero()[0]) + 2 + number
        row[:, position:] *= 2 / 3
        row[:, position:, position] += 1 / 3
    return planted


@pytest.mark.parametrize("by_image", [False, True])
def test_a_sink_planted_in_a_model_is_found(by_image):
    model = tiny_vlm(language="llama")
    done: list[int] = []
    pictures = [picture(i) for i in range(3)]
    with model.hooks(fwd_hooks=[("language.blocks.1.attn.hook_pattern", partial(plant, 7))]):
        found = find_sinks(model, pictures, QUESTIONS, by_image=by_image, progress=done.append)
    without = find_sinks(model, pictures, QUESTIONS, by_image=by_image)
    assert len(without) == 0
    assert named(found) == [[1, "image", 7]] * (3 if by_image else 1)
    assert set(found["position"]) == {9}
    assert not by_image or found["image"].tolist() == ["0", "1", "2"]
    assert sum(done) == 24
    assert [found.attrs[name] for name in ("questions", "images", "prompts")] == [8, *((1, 8) if by_image else (3, 24))]
    assert ("caveat" in found.attrs) == by_image


def test_a_patch_that_is_a_sink_of_one_image_is_one_there_alone():
    model = tiny_vlm(language="llama")
    pictures = [picture(i) for i in range(3)]
    runs = 0

    def plant_in_the_first(pattern: torch.Tensor, hook: HookPoint) -> torch.Tensor:
        nonlocal runs
        runs += 1
        return plant(7, pattern, hook) if runs % 3 == 1 else pattern

    with model.hooks(fwd_hooks=[("language.blocks.1.attn.hook_pattern", plant_in_the_first)]):
        assert find_sinks(model, pictures, QUESTIONS).empty
        found = find_sinks(model, pictures, QUESTIONS, by_image=True)
    assert found[["image", "kind", "index"]].to_numpy(dtype=object).tolist() == [["0", "image", 7]]


@dataclass(frozen=True)
class Drawn:
    """What an item's image is drawn by."""

    seed: int

    def image(self, size: int) -> Image.Image:
        return picture(self.seed)


def item(image: str, question: str) -> Item:
    return Item(question, "scenes", "k", question, image, question, "red", source=Drawn(len(image)))


def test_items_bring_their_own_questions():
    model = tiny_vlm(language="llama")
    items = [item("a.png", q) for q in QUESTIONS[:4]] + [item("bb.png", q) for q in QUESTIONS[3:]]
    found = find_sinks(model, items, QUESTIONS, factor=1.1, by_image=True)
    alone = find_sinks(model, [picture(5), picture(6)], QUESTIONS, factor=1.1, by_image=True)
    assert found["image"].tolist() == [{"0": "a.png", "1": "bb.png"}[name] for name in alone["image"]]
    assert named(found) == named(alone)
    cases: list[tuple[list[Any], dict[str, Any], str]] = [
        (items, {"by_image": True}, "a.png: 4 different questions, sinks need 8; give more in questions=[...]"),
        (items, {"fewest": 9}, "all images: 8 different questions, sinks need 9; give more in "),
        ([picture(1)], {"fewest": 0}, "all images: 0 different questions, sinks need 1; give more in questions=[...]"),
        ([], {}, "there is no image to find sinks of"),
    ]
    for given, options, message in cases:
        with pytest.raises(VlmProbeError, match=f"^{re.escape(message)}"):
            find_sinks(model, given, **options)
    few = find_sinks(model, items, fewest=4, factor=1.1, by_image=True)
    assert few.attrs["caveat"] == "4 different questions: too few to say what it collects for others"
    assert "caveat" not in find_sinks(model, items).attrs


def test_a_file_is_named_by_its_path(tmp_path):
    path = tmp_path / "a.png"
    picture(3).save(path)
    found = find_sinks(tiny_vlm(language="llama"), [path], QUESTIONS, factor=1.1, by_image=True)
    assert set(found["image"]) == {str(path)}
