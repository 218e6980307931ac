"""A tokenizer whose ids count the kept rows of a trimmed vocabulary."""

from __future__ import annotations

import json
from bisect import bisect_left
from pathlib import Path
from typing import Any

from vlm_probe.errors import VlmProbeError

KEPT_FILE = "kept_ids.json"
"""In a trimmed checkpoint: the original id of every row, in the rows' order."""


class RemappedTokenizer:
    """The original tokenizer behind a map of ids: it cuts text as before, and numbers the pieces anew.

    A text that needs a token that was left out is a VlmProbeError which names it. What is not defined here
    is the original's own.
    """

    def __init__(self, original: Any, kept: list[int]):
        self.original, self.kept = original, sorted(kept)
        self._new = {old: new for new, old in enumerate(self.kept)}

    def __getattr__(self, name: str) -> Any:
        if name in ("original", "kept", "_new"):  # while being unpickled or copied
            raise AttributeError(name)
        value = getattr(self.original, name)
        # pad_token_id and its like are single ids.
        if name.endswith("_token_id") and value is not None:
            return self._new.get(value)
        return value

    def __len__(self) -> int:
        """Kept tokens that the original knows; a placeholder it does not know stands behind them."""
        return bisect_left(self.kept, len(self.original))

    @property
    def all_special_ids(self) -> list[int]:
        return [self._new[i] for i in self.original.all_special_ids if i in self._new]

    def get_vocab(self) -> dict[str, int]:
        """Token -> new id, of kept tokens."""
        return {token: self._new[i] for token, i in self.original.get_vocab().items() if i in self._new}

    def lacks(self, text: str) -> list[str]:
        """The tokens of a text that were left out."""
        ids = self.original(text, add_special_tokens=False)["input_ids"]
        return [self.original.convert_ids_to_tokens(i) for i in ids if i not in self._new]

    def _map(self, ids: list[int]) -> list[int]:
        missing = [i for i in ids if i not in self._new]
        if missing:
            names = ", ".join(repr(self.original.convert_ids_to_tokens(i)) for i in dict.fromkeys(missing[:5]))
            raise VlmProbeError(
                f"the text needs {len(missing)} tokens that were trimmed away, {names} among them; keep them, or "
                "leave the text out"
            )
        return [self._new[i] for i in ids]

    def __call__(self, text: str | list[str], **kwargs: Any) -> Any:
        """As the original's; raises VlmProbeError for a text that needs a token that was left out."""
        encoded = self.original(text, **kwargs)
        ids = encoded["input_ids"]
        several = bool(ids) and isinstance(ids[0], list)
        encoded["input_ids"] = [self._map(row) for row in ids] if several else self._map(ids)
        return encoded

    def encode(self, text: str, **kwargs: Any) -> list[int]:
        return self(text, **kwargs)["input_ids"]

    def batch_decode(self, rows: Any, **kwargs: Any) -> list[str]:
        return [self.decode(row, **kwargs) for row in rows]

    @property
    def added_tokens_decoder(self) -> dict[int, Any]:
        return {self._new[i]: token for i, token in self.original.added_tokens_decoder.items() if i in self._new}

    def decode(self, ids: Any, **kwargs: Any) -> str:
        numbers = [int(ids)] if isinstance(ids, int) else [int(i) for i in ids]
        return self.original.decode([self.kept[i] for i in numbers], **kwargs)

    def convert_ids_to_tokens(self, ids: int | list[int]) -> Any:
        if isinstance(ids, int):
            return self.original.convert_ids_to_tokens(self.kept[ids])
        return self.original.convert_ids_to_tokens([self.kept[i] for i in ids])

    def convert_tokens_to_ids(self, tokens: str | list[str]) -> Any:
        found = self.original.convert_tokens_to_ids(tokens)
        if isinstance(found, list):
            return [self._new.get(i) for i in found]
        return None if found is None else self._new.get(found)

    def save_pretrained(self, folder: Path | str) -> None:
        """The original tokenizer, and the kept ids beside it."""
        self.original.save_pretrained(folder)
        (Path(folder) / KEPT_FILE).write_text(json.dumps(self.kept) + "\n")


def remapped(tokenizer: Any, folder: Path | None) -> Any:
    """The tokenizer of a folder, behind its map of ids where the checkpoint is a trimmed one."""
    file = None if folder is None else folder / KEPT_FILE
    if tokenizer is None or file is None or not file.is_file():
        return tokenizer
    return RemappedTokenizer(tokenizer, json.loads(file.read_text()))
