"""The token at which the scored word begins, with tokenizers of every kind."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import tiny_tokenizer
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from vlm_probe.attention import relevancy
from vlm_probe.errors import VlmProbeError
from vlm_probe.inputs.remapped import RemappedTokenizer
from vlm_probe.items import Item, score_answer
from vlm_probe.running.answer_token import answer_token
from vlm_probe.scenes import sample_scene


def byte_level() -> Any:
    """One token a byte, but for " blue" with its space, and without one "blu" and "e"."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("b", "l"), ("bl", "u"), ("\u0120", "blu"), ("\u0120blu", "e")]
    pieces = [*alphabet, *("".join(pair) for pair in merges)]
    tokenizer = Tokenizer(models.BPE(vocab={piece: i for i, piece in enumerate(pieces)}, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def whole_words() -> Any:
    """SentencePiece's way: a word carries its space, and the decoder takes the first one away."""
    words = [
        "<unk>",
        "</s>",
        "\u2581",
        *(f"\u2581{w}" for w in ("The", "the", "answer", "Answer:", "is", "It's", "It", "a", "blue", "red")),
        ".",
    ]
    tokenizer = Tokenizer(models.BPE({w: i for i, w in enumerate(words)}, [], unk_token="<unk>", ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(".", "isolated"), pre_tokenizers.Metaspace(prepend_scheme="first")]
    )
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="first")
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", unk_token="<unk>")


@pytest.fixture(scope="module", params=["characters", "bytes", "words", "replica", "trimmed"])
def tokenizer(request):
    own = {"characters": tiny_tokenizer, "bytes": byte_level, "words": whole_words}
    if request.param in own:
        return own[request.param]()
    original = request.getfixturevalue("replica").tokenizer
    return original if request.param == "replica" else trimmed(original)


def trimmed(tokenizer) -> RemappedTokenizer:
    """Without the padding: every other token has another number."""
    return RemappedTokenizer(tokenizer, list(range(1, len(tokenizer))))


def cut(tokenizer, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize("word", ["blue", "red"])
@pytest.mark.parametrize("before", ["", "The answer is ", "the answer is a ", "It is ", "Answer: ", "It's a "])
@pytest.mark.parametrize("behind", ["", "."])
def test_the_word_begins_at_its_token(tokenizer, before, word, behind):
    ids = cut(tokenizer, before + word + behind)
    index = answer_token(tokenizer, ids, word)
    assert tokenizer.decode(ids[index:]).strip() == word + behind
    assert not tokenizer.decode(ids[index + 1 :]).strip().startswith(word)
    if not before:
        assert index == 0


OTHERS = st.lists(
    st.sampled_from(["the", "a", "it", "is", "of", "cross", "3", "\u00e9t\u00e9", "\U0001f600", "-", "dr\u00f4le"])
)


@settings(max_examples=60, deadline=None)
@given(OTHERS, OTHERS, st.sampled_from(["blue", "\u00e9cru", "circle", "12", "left side"]))
def test_wherever_it_stands(replica, before, behind, word):
    """Letters of several bytes, of which tokens hold one each, before the word, in it and behind it."""
    for tokenizer in (byte_level(), replica.tokenizer, trimmed(replica.tokenizer)):
        ids = cut(tokenizer, " ".join([*before, word, *behind]))
        index = answer_token(tokenizer, ids, word)
        assert tokenizer.decode(ids[index:]).split() == [*word.split(), *behind]


@pytest.mark.parametrize(
    ("said", "text", "rest"),
    [
        ("It is it.", "it", "it."),  # the frame has the word too
        ("blue, not red, blue", "blue", "blue, not red, blue"),
        ("it is raining", "it is raining", "it is raining"),  # the frame was scored with it
        ("The answer is Two dogs", "2 dogs", "Two dogs"),  # as it is compared
        ("The answer is t-shirt.", "t shirt", "t-shirt."),
        ("It is a dog.", "dog", "dog."),
        ("It is a dog.", "a dog", "a dog."),
        ("on top of the table", "top of table", "top of the table"),
        ("(b) closed", "b", "b) closed"),
        ("The answer is (a).", "a", "a)."),
        ("I see a dog", "dog", "dog"),  # no frame
        ("There is not", "no", "not"),  # what was read from the words
        ("The answer is 5.", "7", "5."),
        ("The answer is 5.", "", "5."),
        ("It is bluish blue", "blue", "blue"),  # whole words
        (" !?", "blue", "!?"),
        ("  ", "blue", ""),
    ],
)
def test_what_is_looked_for(said, text, rest):
    tokenizer: Any = tiny_tokenizer()
    ids = cut(tokenizer, said)
    index = answer_token(tokenizer, ids, text)
    assert tokenizer.decode(ids[index:]).lstrip() == rest


def test_special_tokens_are_none_of_the_answer():
    tokenizer: Any = tiny_tokenizer()
    ids = [tokenizer.bos_token_id, *cut(tokenizer, "It is red"), tokenizer.eos_token_id]
    assert answer_token(tokenizer, ids, "red") == 1 + len("It is ")
    assert answer_token(tokenizer, [tokenizer.eos_token_id], "red") == 0
    with pytest.raises(VlmProbeError) as caught:
        answer_token(tokenizer, [], "red")
    assert str(caught.value) == "an answer without a token has none at which 'red' begins"


def test_relevancy_can_be_asked_of_it(replica):
    item = Item("x", "scenes", "color", "x", "i", "What color is it?", "blue")
    inputs = replica.prepare(sample_scene(3).image(replica.image_size), item.question)
    ids = cut(replica.tokenizer, "The answer is red.")
    index = answer_token(replica.tokenizer, ids, score_answer(item, replica.tokenizer.decode(ids))[0])
    map_ = relevancy(replica, inputs.with_answer(ids[:index]), target=ids[index])
    assert index > 0
    assert map_.attrs["title"] == "Relevancy for 'red'"
