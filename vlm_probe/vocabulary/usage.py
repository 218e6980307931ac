"""Is the vocabulary used (V2)? What a tokenizer makes of real text: fertility, coverage, growth, scripts."""

from __future__ import annotations

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import gammaln

from vlm_probe.errors import VlmProbeError
from vlm_probe.items.readers import read_items
from vlm_probe.scenes import family_items
from vlm_probe.scenes.world import Scene

_FIELDS = ("text", "question", "answer", "caption")
"""Fields of a JSONL line that hold text."""
_MARKS = str.maketrans({"▁": " ", "Ġ": " ", "Ċ": "\n", "ĉ": "\t"})


def _checked(texts: Iterable[str]) -> list[str]:
    found = list(texts)
    if not found:
        raise VlmProbeError("there is no text to count tokens in")
    empty = sum(not text.strip() for text in found)
    if empty == len(found):
        raise VlmProbeError(f"all {len(found)} texts are empty")
    return [text for text in found if text.strip()]


def _encode(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """Ids without special tokens."""
    return tokenizer(list(texts), add_special_tokens=False)["input_ids"]


def usage(
    tokenizer: Any, texts: Iterable[str], *, answers: Iterable[str] = (), name: str | None = None
) -> dict[str, Any]:
    """What a tokenizer makes of texts.

    Parameters
    ----------
    tokenizer: a Hugging Face tokenizer.
    texts: empty ones are left out.
    answers: short answers, for single_token_answers.

    Returns
    -------
    tokenizer, vocabulary (entries), texts, words (runs of letters, digits or other visible characters),
    characters, tokens; tokens_per_word (fertility), tokens_per_character; used and used_share (different
    ids, and their share of the vocabulary); heaps_k and heaps_beta (different ids = k tokens^beta, least
    squares in logarithms along the text; Heaps 1978); zipf_exponent and zipf_r2 (frequency against rank, in
    logarithms, ids that occur twice or more); single_token_answers (share of answers that are one token
    behind a space, as answers stand in a sentence; NaN without answers).

    Raises VlmProbeError where there is no text.
    """
    kept = _checked(texts)
    ids = _encode(tokenizer, kept)
    words = sum(len(words_in(text)) for text in kept)
    characters = sum(map(len, kept))
    flat = [i for row in ids for i in row]
    counts = Counter(flat)
    k, beta = heaps(flat)
    exponent, r2 = zipf(list(counts.values()))
    # Behind another word, since tokenizers treat the beginning of a text in ways of their own.
    before = len(_encode(tokenizer, ["x"])[0])
    single = [len(row) - before == 1 for row in _encode(tokenizer, [f"x {a.strip()}" for a in answers])]
    return {
        "tokenizer": name or getattr(tokenizer, "name_or_path", "") or type(tokenizer).__name__,
        "vocabulary": len(tokenizer),
        "texts": len(kept),
        "words": words,
        "characters": characters,
        "tokens": len(flat),
        "tokens_per_word": len(flat) / max(1, words),
        "tokens_per_character": len(flat) / characters,
        "used": len(counts),
        "used_share": len(counts) / len(tokenizer),
        "heaps_k": k,
        "heaps_beta": beta,
        "zipf_exponent": exponent,
        "zipf_r2": r2,
        "single_token_answers": float(np.mean(single)) if single else float("nan"),
    }


def words_in(text: str) -> list[str]:
    """Runs of letters and digits, and every other visible character alone."""
    return re.findall(r"\w+|[^\w\s]", text)


def growth(ids: Sequence[int], *, points: int = 50) -> pd.DataFrame:
    """Different ids among the first n tokens: columns tokens, used, at about `points` places (even in logarithms)."""
    if not ids:
        raise VlmProbeError("there is no token to count")
    seen: set[int] = set()
    different = np.empty(len(ids), dtype=int)
    for n, token in enumerate(ids):
        seen.add(token)
        different[n] = len(seen)
    at = np.unique(np.geomspace(1, len(ids), points).round().astype(int))
    return pd.DataFrame({"tokens": at, "used": different[at - 1]})


def expected_growth(ids: Sequence[int], *, points: int = 50) -> pd.DataFrame:
    """As `growth`, of tokens in random order: how many different ids n of them hold on average (rarefaction).

    Hurlbert 1971 (doi:10.2307/1934145), equation 18: sum_i 1 - C(N - N_i, n) / C(N, n). Exact, and free of the order of
    texts: a list of questions sorted by type would make a step where every type begins.
    """
    if not ids:
        raise VlmProbeError("there is no token to count")
    total = len(ids)
    counts, kinds = np.unique(np.unique(np.asarray(ids), return_counts=True)[1], return_counts=True)
    at = np.unique(np.geomspace(1, total, points).round().astype(int))
    rest, n = (total - counts)[None], at[:, None]
    with np.errstate(invalid="ignore"):
        missed = np.exp(
            gammaln(rest + 1) - gammaln(rest - n + 1) - gammaln(total + 1) + gammaln(total - n + 1),
            where=rest >= n,
            out=np.zeros((len(at), len(counts))),
        )
    return pd.DataFrame({"tokens": at, "used": ((1 - missed) * kinds).sum(axis=1)})


def heaps(ids: Sequence[int]) -> tuple[float, float]:
    """(k, beta) of Heaps' law, used = k tokens^beta, by least squares on `growth` in logarithms."""
    curve = growth(ids)
    if len(curve) < 2:
        return float(curve["used"].iloc[0]), float("nan")
    beta, log_k = np.polyfit(np.log(curve["tokens"]), np.log(curve["used"]), 1)
    return float(np.exp(log_k)), float(beta)


def zipf(counts: Sequence[int]) -> tuple[float, float]:
    """(exponent, R^2) of Zipf's law over what occurs twice or more; NaNs where fewer than three do."""
    often = np.sort(np.asarray([c for c in counts if c > 1]))[::-1]
    if len(often) < 3 or often[0] == often[-1]:
        return float("nan"), float("nan")
    x, y = np.log(np.arange(1, len(often) + 1)), np.log(often)
    slope, start = np.polyfit(x, y, 1)
    residual = y - (slope * x + start)
    return float(-slope), float(1 - residual.var() / y.var())


@lru_cache(maxsize=65536)
def _script(character: str) -> str:
    """The script of a letter, by its Unicode name ("LATIN", "CJK", ...)."""
    return unicodedata.name(character, "UNKNOWN").split(" ")[0].split("-")[0].lower()


def category(token: str, *, special: bool = False) -> str:
    """What kind of entry a token is: special, byte, space, digits, punctuation, mixed, or a script ("latin").

    Part of the bytes of a character, which decodes to the replacement character, counts as byte.
    """
    if special:
        return "special"
    if re.fullmatch(r"<0x[0-9A-Fa-f]{2}>", token) or "\N{REPLACEMENT CHARACTER}" in token:
        return "byte"
    text = token.translate(_MARKS).strip()
    if not text:
        return "space"
    letters = [c for c in text if c.isalpha()]
    if not letters:
        return "digits" if all(c.isdigit() for c in text) else "punctuation"
    scripts = {_script(c) for c in letters}
    return scripts.pop() if len(scripts) == 1 else "mixed"


def _texts_of(tokenizer: Any) -> list[tuple[int, str]]:
    """Every entry as the text it stands for; byte-level entries are read back into characters."""
    vocabulary = tokenizer.get_vocab()
    byte_level = any("Ġ" in token for token in list(vocabulary)[:2000]) or "Ġthe" in vocabulary
    entries = []
    for token, i in vocabulary.items():
        text = tokenizer.decode([i]) if byte_level else token
        entries.append((i, text))
    return sorted(entries)


def categories(tokenizer: Any, texts: Iterable[str] = ()) -> pd.DataFrame:
    """The vocabulary by kind of entry, and how much of each some texts use.

    Returns one row a category, most entries first: category, entries, share, used, occurrences (the last two
    zero without texts).
    """
    special = set(tokenizer.all_special_ids) | set(getattr(tokenizer, "added_tokens_decoder", {}))
    given = list(texts)
    counts = Counter(i for row in _encode(tokenizer, given) for i in row) if given else Counter()
    rows = [(category(text, special=i in special), int(counts[i] > 0), counts[i]) for i, text in _texts_of(tokenizer)]
    table = pd.DataFrame(rows, columns=["category", "used", "occurrences"])
    found = table.groupby("category", as_index=False).agg(
        entries=("used", "size"), used=("used", "sum"), occurrences=("occurrences", "sum")
    )
    found.insert(2, "share", found["entries"] / found["entries"].sum())
    found = found.sort_values("entries", ascending=False, ignore_index=True)
    found.attrs = {"title": "the vocabulary by kind of entry", "units": "entries"}
    return found


def used_ids(tokenizer: Any, texts: Iterable[str]) -> list[int]:
    """The different ids of some texts, most frequent first (then by number)."""
    counts = Counter(i for row in _encode(tokenizer, _checked(texts)) for i in row)
    return [i for i, _ in sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))]


def compare_usage(tokenizers: dict[str, Any], texts: Iterable[str], *, answers: Iterable[str] = ()) -> pd.DataFrame:
    """`usage` of the same texts by several tokenizers, one row each."""
    kept, short = _checked(texts), list(answers)
    table = pd.DataFrame([usage(t, kept, answers=short, name=name) for name, t in tokenizers.items()])
    table.attrs = {"title": "what tokenizers make of the same texts", "texts": len(kept)}
    return table


def scene_texts(n: int = 500, *, seed: int = 0) -> tuple[list[str], list[str]]:
    """(texts, answers) that generated scenes give: captions, questions with answers, and the answers alone."""
    items = list(family_items(n, seed=seed))
    captions = [item.source.caption for item in items if isinstance(item.source, Scene)]
    return captions + [f"{item.question} {item.answer}" for item in items], [item.answer for item in items]


def read_texts(path: Path | str) -> list[str]:
    """Texts of a file: one a line of plain text; the text fields of JSONL lines; the questions of a benchmark's file.

    Raises VlmProbeError where the file cannot be read or holds no text.
    """
    path = Path(path)
    if not path.is_file():
        raise VlmProbeError(f"no file at {str(path)!r}")
    try:
        lines = path.read_text(encoding="utf-8").rstrip("\n").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise VlmProbeError(f"{path} cannot be read as text: {error}") from error
    if path.suffix not in (".json", ".jsonl"):
        return _checked(lines)
    found = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
        except json.JSONDecodeError as error:
            if found:
                raise VlmProbeError(f"{path}, line {number} is not valid JSON: {error}") from error
            break  # one JSON document over several lines: a benchmark's file
        if isinstance(entry, dict):
            found += [str(entry[name]) for name in _FIELDS if entry.get(name)]
    if found:
        return _checked(found)
    items, _ = read_items(path, skip_bad=True)
    return _checked([item.question for item in items])
