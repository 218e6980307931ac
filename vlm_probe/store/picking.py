"""Which rows of an activation a store keeps of an item: those of a group of positions, or the mean over them."""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from vlm_probe.errors import VlmProbeError
from vlm_probe.items.item import Item
from vlm_probe.layout import TokenLayout
from vlm_probe.layout.groups import GROUPS, positions_of
from vlm_probe.names import dimensions, part_of

_OF_IMAGES = {"image", "box", "background"}
"""Groups that the encoder and the connector have as well."""
_WITHOUT_IMAGES = {"text", "question", "prompt", "tail", "answer"}
OTHER = "other"
"""Behind "mean": an object of the same image that is not asked about, as `embedding.features` pools it."""


@dataclass(frozen=True)
class Pick:
    """Positions as `capture` is told them, read.

    >>> Pick.of("mean"), Pick.of("mean(question)").where, Pick.of("box | answer").mean
    (Pick(where='image', mean=True), 'question', False)
    """

    where: str
    """A group, or an expression of groups (`layout.groups`)."""
    mean: bool
    """Whether one row, their mean, is kept in place of all."""

    @classmethod
    def of(cls, positions: str) -> Pick:
        """Raises VlmProbeError for what is no group ("sink" is none here: nobody has looked for sinks yet)."""
        text = positions.strip()
        mean = re.fullmatch(r"mean(?:\((.+)\))?", text)
        pick = cls(text, False) if mean is None else cls((mean[1] or "image").strip(), True)
        names = _names(pick.where)
        if not names or "sink" in names or (OTHER in names and pick != cls(OTHER, True)):
            groups = ", ".join(name for name in GROUPS if name != "sink")
            raise VlmProbeError(
                f"no positions {positions!r} to keep; there are {groups}, "
                f"words of the question, combinations with &, | and ~, and mean, mean(box), mean({OTHER}), ..."
            )
        return pick

    @property
    def names(self) -> set[str]:
        """The groups and words in it; a quoted word keeps its quotes, as it is no group."""
        return _names(self.where)

    @property
    def whole_image(self) -> bool:
        return self.where == "image"

    @property
    def single(self) -> bool:
        """Whether every item has one row."""
        return self.mean or self.where == "answer"

    @property
    def text_only(self) -> bool:
        """Whether the positions are the language model's alone."""
        return not (self.names & (_OF_IMAGES | {OTHER}) or self.where == "all")

    @property
    def patches_only(self) -> bool:
        return self.names <= _OF_IMAGES | {OTHER} and "~" not in self.where

    def check(self, names: Sequence[str]) -> None:
        """Raises VlmProbeError for points without these positions, or without a feature vector a position."""
        for name in names:
            dims = dimensions(name)
            if "query" in dims or dims[-1] in ("one", "vocabulary"):
                raise VlmProbeError(f"{name} has dimensions {', '.join(dims)}: no feature vector per position")
            if not name.startswith("language.") and self.where != "all" and not self.patches_only:
                raise VlmProbeError(
                    f"{name} has no positions {self.where!r}, only the language model has; of the image there are "
                    f"all, {', '.join(sorted(_OF_IMAGES))}, mean"
                )

    def longest(self, ids: int, asked: int, image: int) -> int:
        """How many rows an item can have in the language model, of a prompt of so many positions.

        asked: positions of the question. image: positions of images.
        """
        if self.names <= {"question"} and "~" not in self.where:
            return asked
        if self.names <= _WITHOUT_IMAGES and "~" not in self.where:
            return ids - image
        return ids

    def dims(self, name: str) -> tuple[str, ...]:
        """The dimensions between item and feature: none for one row, the grid for all patches of one image."""
        if self.single:
            return ()
        if self.whole_image:
            return ("row", "col")
        if self.patches_only:
            return ("patch",)
        return ("position",) if name.startswith("language.") else (f"{part_of(name).replace('.', '_')}_position",)

    def places(self, layout: TokenLayout, item: Item) -> Int[np.ndarray, " position"]:
        """The positions in an item's sequence, padding included.

        Raises VlmProbeError as `positions_of` does.
        """
        spans = [np.concatenate([span.extra_positions, span.positions]) for span in layout.images]
        live = np.sort(np.concatenate([layout.text_positions, *spans]))
        if self.where == "all":
            return live
        if self.where == OTHER:
            if not item.others:
                raise VlmProbeError("the item has no other object")
            return layout.image().positions
        # As in `embedding.features`: of a picture that is also shown in tiles or crops, the whole.
        live = layout.image().positions if self.patches_only else live
        found = np.intersect1d(positions_of(layout, self.where, boxes=item.boxes), live)  # "~" names padding, too
        if len(found) == 0:
            raise VlmProbeError(f"this prompt has no {self.where} positions")
        return found

    def rows(
        self, name: str, layout: TokenLayout, item: Item, places: Int[np.ndarray, " position"], length: int
    ) -> Int[np.ndarray, " row"]:
        """Where those positions stand along the position axis of an activation of so many rows an item (or image).

        Of one whose patches the connector pools: in the order of the grid, as `anatomy.patches_of` gives its cells.
        """
        if name.startswith("language."):
            return places
        if self.where == "all":
            return np.arange(length)
        span = layout.image()
        at, cells = np.searchsorted(span.positions, places), span.cells_at(name)
        return cells[at, 0] if cells.shape[1] == 1 else at

    def weights(
        self, layout: TokenLayout, item: Item, places: Int[np.ndarray, " position"], rows: int
    ) -> Float[np.ndarray, " row"]:
        """How much each of so many rows counts in the mean; they add up to 1. Boxes count by how much of a patch they
        cover, as in `embedding.features`."""
        if self.where not in ("box", OTHER):
            return np.full(rows, 1 / rows)
        box = (item.boxes if self.where == "box" else item.others)[0]
        span = layout.image()
        covered = span.box_coverage(box).ravel()[np.searchsorted(span.positions, places)]
        if covered.sum() == 0:
            raise VlmProbeError(f"the {self.where} lies outside what the model sees of its image")
        return covered / covered.sum()


def _names(where: str) -> set[str]:
    """The names in an expression of positions; none where it is not one."""
    try:
        nodes = list(ast.walk(ast.parse(where, mode="eval").body))
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return set()
    known = (ast.Name, ast.Constant, ast.UnaryOp, ast.Invert, ast.BinOp, ast.BitAnd, ast.BitOr, ast.Load)
    constants = [node.value for node in nodes if isinstance(node, ast.Constant)]
    if not all(isinstance(node, known) for node in nodes) or not all(isinstance(one, str) for one in constants):
        return set()
    words = {f"{node.value!r}" for node in nodes if isinstance(node, ast.Constant)}
    return words | {node.id for node in nodes if isinstance(node, ast.Name)}


def pooled(
    activation: Float[Tensor, "example position *feature"],
    rows: Sequence[Int[np.ndarray, " _"]],
    weights: Sequence[Float[np.ndarray, " _"]] | None,
) -> Float[Tensor, "kept feature"]:
    """The kept rows of every example, one behind the other; with weights one row an example, in float32.

    It runs where the activation is, so that nothing else leaves the device.
    """
    flat = activation.flatten(2)
    lengths = [len(own) for own in rows]
    example = torch.as_tensor(np.repeat(np.arange(len(rows)), lengths), device=flat.device)
    at = torch.as_tensor(np.concatenate(rows), device=flat.device)
    kept = flat[example, at]
    if weights is None:
        return kept
    share = torch.as_tensor(np.concatenate(weights), device=flat.device, dtype=torch.float32)
    # Not index_add: on a GPU its order of adding, and with it the last bits, differ from run to run.
    counts = torch.as_tensor(lengths, device=flat.device)
    return torch.segment_reduce(kept.float() * share[:, None], "sum", lengths=counts, axis=0)
