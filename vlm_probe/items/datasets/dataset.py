"""A dataset that is read as it is asked for."""

from __future__ import annotations

import operator
import threading
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Protocol, SupportsIndex, TypeVar, overload, runtime_checkable

from vlm_probe.errors import VlmProbeError
from vlm_probe.items.entries import BadEntryError
from vlm_probe.items.item import Item

DEFAULT_QUESTION = "Describe the image."
"""Asked where a dataset has no questions."""


@dataclass(frozen=True)
class Options:
    """What `open_dataset` was told."""

    images: Path | None = None
    question: str = DEFAULT_QUESTION
    columns: Mapping[str, str] = field(default_factory=dict)
    every: bool = False
    """Of a folder: files with other endings than pictures have, too."""


@runtime_checkable
class Index(Protocol):
    """Where a dataset's items are; a few bytes each."""

    @property
    def bad(self) -> Mapping[int, str]:
        """Numbers that stand for what cannot be read at all (a shard, or the rest of one), and what is wrong."""
        ...

    def __len__(self) -> int: ...


I = TypeVar("I", bound=Index)  # noqa: E741


if TYPE_CHECKING:
    Items = Sequence[Item]
else:
    Items = Sequence
"""Items of which any may be malformed: what checks types at run time would read one of a `Sequence[Item]`, and fail."""


class First(Items):
    """The first items of others, each read when it is asked for; a slice of a dataset would read all of them."""

    def __init__(self, items: Items, n: int) -> None:
        self.items, self.n = items, min(n, len(items))

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self.items[number] for number in range(*index.indices(self.n))]
        if not -self.n <= operator.index(index) < self.n:
            raise IndexError(f"there are {self.n} items, and no item {index}")
        return self.items[operator.index(index) % self.n]


class Dataset(Items, Generic[I]):
    """Items by their number. Memory grows with their number alone, by some tens of bytes each.

    `data[i]` raises BadEntryError, a VlmProbeError, that names file and row where that item cannot be read; the others
    can be. Who wants to go on catches VlmProbeError around each `data[i]`: iteration, and a slice, end with the first.
    It is pickled as its path and options, and indexed anew where it is unpickled (VlmProbeError where it then has
    another number of items); threads may share it, and a forked process may go on with it.
    """

    def __init__(self, path: Path, options: Options) -> None:
        self.path, self.options = path, options
        self._expected: int | None = None
        self._index: I | None = None
        self._lock = threading.Lock()

    @abstractmethod
    def _indexed(self) -> I:
        """Where the items are; VlmProbeError where there is none, or the whole cannot be read."""

    @abstractmethod
    def _item(self, index: I, number: int) -> Item:
        """One item; BadEntryError where it is malformed."""

    @property
    def _opened(self) -> I:
        """The index, made when it is first asked for."""
        if self._index is None:
            with self._lock:
                if self._index is None:
                    index = self._indexed()
                    self._check(index)
                    self._index = index
        return self._index

    def _check(self, index: I) -> None:
        if len(index) == len(index.bad):
            why = f"; the first problem: {next(iter(index.bad.values()))}" if index.bad else ""
            raise VlmProbeError(f"{self.path} holds no item{why}")
        if self._expected not in (None, len(index)):
            raise VlmProbeError(f"{self.path} held {self._expected} items when it was opened, and now {len(index)}")

    def __len__(self) -> int:
        return len(self._opened)

    @overload
    def __getitem__(self, index: SupportsIndex) -> Item: ...

    @overload
    def __getitem__(self, index: slice) -> list[Item]: ...

    def __getitem__(self, index: SupportsIndex | slice) -> Item | list[Item]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        number, known = operator.index(index), self._opened
        if not -len(known) <= number < len(known):
            raise IndexError(f"{self.path} holds {len(known)} items, and no item {number}")
        number %= len(known)
        if number in known.bad:
            raise BadEntryError(known.bad[number])
        return self._item(known, number)

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "options": self.options, "expected": len(self)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        Dataset.__init__(self, state["path"], state["options"])
        self._expected = state["expected"]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.path)!r})"
