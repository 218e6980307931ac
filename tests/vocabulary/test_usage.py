"""What tokenizers make of text: by hand, on planted laws, and on the real question text."""

import json
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import SHARED, tiny_tokenizer
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from vlm_probe.errors import VlmProbeError
from vlm_probe.vocabulary import (
    categories,
    compare_usage,
    expected_growth,
    growth,
    heaps,
    read_texts,
    scene_texts,
    usage,
    used_ids,
    zipf,
)
from vlm_probe.zoo.catalog import cache_folder, is_fetched


def words_tokenizer() -> PreTrainedTokenizerFast:
    """A token a word, and "un" + "known" for one of them."""
    vocabulary = {"<unk>": 0, "a": 1, "red": 2, "star": 3, "un": 4, "##known": 5, "Ж": 6, "<0x41>": 7, "7": 8, ".": 9}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")


def test_fertility_by_hand():
    found = usage(words_tokenizer(), ["a red star.", "", "unknown a"], answers=["red", "unknown"], name="toy")
    # Words: a, red, star, ., unknown, a. Tokens: a red star . un ##known a.
    assert (found["texts"], found["words"], found["tokens"], found["characters"]) == (2, 6, 7, 20)
    assert found["tokens_per_word"] == pytest.approx(7 / 6)
    assert found["tokens_per_character"] == pytest.approx(7 / 20)
    assert (found["used"], found["vocabulary"]) == (6, 10)
    assert found["used_share"] == pytest.approx(0.6)
    assert found["single_token_answers"] == 0.5
    assert used_ids(words_tokenizer(), ["a red star.", "unknown a"])[0] == 1


@given(st.lists(st.integers(0, 5), min_size=1, max_size=7), st.randoms())
def test_expected_growth_is_the_mean_over_every_order(ids, random):
    curve = expected_growth(ids, points=100)
    assert curve["tokens"].tolist() == list(range(1, len(ids) + 1))
    # Every choice of n of the tokens, counted out.
    for n, used in curve.itertuples(index=False):
        every = [len(set(some)) for some in combinations(ids, n)]
        assert used == pytest.approx(sum(every) / len(every))
    shuffled = random.sample(ids, len(ids))
    assert expected_growth(shuffled, points=100).equals(curve)
    with pytest.raises(VlmProbeError, match="there is no token to count"):
        expected_growth([])


def test_heaps_by_hand_and_planted():
    curve = growth([5, 5, 6, 5, 7], points=5)
    assert curve.to_dict("list") == {"tokens": [1, 2, 3, 5], "used": [1, 1, 2, 3]}
    assert heaps(range(400)) == (pytest.approx(1), pytest.approx(1))  # never one twice
    assert heaps([3] * 400) == (pytest.approx(1), pytest.approx(0))
    # Token n^2 is new at place n: used = sqrt(tokens).
    ids, new = [], 0
    for place in range(1, 10_001):
        new += int(round(place**0.5) ** 2 == place)
        ids.append(new)
    k, beta = heaps(ids)
    assert beta == pytest.approx(0.5, abs=0.03)
    assert k == pytest.approx(1, rel=0.25)


def test_zipf_planted():
    exponent, r2 = zipf([round(100_000 / rank**1.3) for rank in range(1, 500)])
    assert exponent == pytest.approx(1.3, abs=0.03)
    assert r2 > 0.99
    assert np.isnan(zipf([1, 1, 1])[0])


def test_categories():
    table = categories(words_tokenizer(), ["a red star 7"]).set_index("category")
    assert table["entries"].drop("latin").eq(1).to_numpy().all()
    assert set(table.index) == {"latin", "special", "cyrillic", "byte", "digits", "punctuation"}
    assert table.loc["latin", "used"] == 3
    assert table["share"].to_numpy().sum() == pytest.approx(1)
    assert table["occurrences"].to_numpy().sum() == 4


def test_parts_of_characters_are_bytes():
    words = {"a": 0, "Ġthe": 1, "Ð¶": 2, "ã": 3}  # Latin twice, a Cyrillic letter, the first byte of many CJK ones
    backend = Tokenizer(models.BPE(vocab=words, merges=[]))
    backend.decoder = decoders.ByteLevel()
    table = categories(PreTrainedTokenizerFast(tokenizer_object=backend)).set_index("category")["entries"]
    assert table.to_dict() == {"latin": 2, "cyrillic": 1, "byte": 1}


def test_side_by_side_on_the_scenes_text():
    texts, answers = scene_texts(20)
    table = compare_usage({"characters": tiny_tokenizer(), "words": words_tokenizer()}, texts, answers=answers)
    assert table["tokenizer"].tolist() == ["characters", "words"]
    fertility: Any = table.set_index("tokenizer")["tokens_per_word"]
    assert fertility["characters"] > 3 > fertility["words"]
    assert len(table["texts"].unique()) == 1


def test_reading_text(tmp_path):
    (tmp_path / "plain.txt").write_text("one line\n\nanother\n")
    assert read_texts(tmp_path / "plain.txt") == ["one line", "another"]
    lines = [{"text": "a", "question": "b?"}, {"answer": "c"}]
    (tmp_path / "lines.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert read_texts(tmp_path / "lines.jsonl") == ["a", "b?", "c"]
    (tmp_path / "bad.jsonl").write_text('{"text": "a"}\n\n{"text": \n')
    with pytest.raises(VlmProbeError, match=r"bad.jsonl, line 3 is not valid JSON: "):
        read_texts(tmp_path / "bad.jsonl")
    with pytest.raises(VlmProbeError, match="^no file at "):
        read_texts(tmp_path / "none")
    (tmp_path / "empty.txt").write_text("\n \n")
    with pytest.raises(VlmProbeError, match="^all 2 texts are empty$"):
        read_texts(tmp_path / "empty.txt")
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(VlmProbeError, match="cannot be read as text"):
        read_texts(tmp_path / "binary.txt")


def test_no_text():
    with pytest.raises(VlmProbeError, match="^there is no text to count tokens in$"):
        usage(tiny_tokenizer(), [])
    with pytest.raises(VlmProbeError, match="^there is no token to count$"):
        growth([])


@pytest.mark.parametrize(("name", "size"), [("gemma3-270m", 262_144), ("smollm2-135m", 49_152)])
def test_real_tokenizers_on_real_questions(name, size):
    if not is_fetched(name):
        pytest.skip(f"no {name} in {cache_folder()}; get it with: vlm-probe fetch {name}")
    file = SHARED / "benchmarks" / "llava_qa90_questions.jsonl"
    if not file.is_file():
        pytest.skip(f"no {file}")
    tokenizer = AutoTokenizer.from_pretrained(cache_folder() / name)
    texts = read_texts(file)
    found = usage(tokenizer, texts, answers=["yes", "no", "two"])
    assert found["vocabulary"] == size
    assert 1 < found["tokens_per_word"] < 1.4
    assert found["used_share"] < 0.02
    assert found["single_token_answers"] == 1
    kinds = categories(tokenizer, texts).set_index("category")
    assert kinds["entries"].sum() == size
    assert kinds.index[0] == "latin"
