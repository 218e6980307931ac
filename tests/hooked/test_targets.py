"""The token that begins an answer is the one that stands behind the model's own prompt."""

import pytest

from vlm_probe.errors import VlmProbeError
from vlm_probe.inputs.prompts import encode_prompt, first_answer_token, token_text
from vlm_probe.training.connector import PROMPT as SPACED
from vlm_probe.training.packing import PROMPT, build_tokenizer


@pytest.fixture(scope="module")
def byte_level():
    """A byte-level BPE as GPT-2's: " red" and "red" are two tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<eos>", "<image>"]
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(["red red red", "a red star", "Answer: red", "star"] * 50, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>", bos_token="<eos>")


@pytest.mark.parametrize(
    ("template", "spelled"),
    [(SPACED, "Ġred"), ("{bos}{images}\n{question}\n", "red"), ("{bos}{question}", "red")],
)
def test_with_or_without_space_as_the_prompt_has_it(byte_level, template, spelled):
    first = first_answer_token(byte_level, template, "red")
    assert byte_level.convert_ids_to_tokens(first) == spelled


@pytest.mark.parametrize("template", [PROMPT, SPACED])
def test_it_is_the_token_that_asking_scores(template):
    tokenizer = build_tokenizer(704)
    image = tokenizer.convert_tokens_to_ids("<image>")
    assert isinstance(image, int)
    for answer in ("red", "left, red", "größe"):
        first = first_answer_token(tokenizer, template, answer)
        asked, whole = (
            encode_prompt(tokenizer, template, "Is it so?", images="<image>", image_token_id=image, answer=said).ids
            for said in ("", answer)
        )
        assert whole[: len(asked)] == asked
        assert first == whole[len(asked)]


def test_a_text_with_its_own_space_gets_no_second_one(byte_level):
    for target in ("red", " red"):
        first = first_answer_token(byte_level, SPACED, target)
        assert byte_level.convert_ids_to_tokens(first) == "Ġred"


def test_a_special_token_is_itself(byte_level):
    for template in (SPACED, PROMPT, "{bos}{question}"):
        assert first_answer_token(byte_level, template, "<eos>") == byte_level.eos_token_id


def test_a_question_may_not_spell_the_placeholder_whatever_its_name(byte_level):
    star = byte_level.convert_tokens_to_ids("star")
    assert star != byte_level.unk_token_id
    with pytest.raises(
        VlmProbeError, match="^the question contains 'star', a special token of this model; leave it out$"
    ):
        encode_prompt(byte_level, SPACED, "Is it a star?", images="<image>", image_token_id=star)


def test_tokens_are_shown_as_text_whatever_the_tokenizer(byte_level):
    pieces = build_tokenizer(704)
    for tokenizer in (byte_level, pieces):
        red = tokenizer(" red", add_special_tokens=False)["input_ids"][-1]
        assert token_text(tokenizer, red) == " red"
        assert token_text(tokenizer, len(tokenizer) + 3) == f"<{len(tokenizer) + 3}>"
    assert token_text(byte_level, byte_level.eos_token_id) == "<eos>"


def test_no_answer_has_no_token():
    tokenizer = build_tokenizer(704)
    for template in (PROMPT, SPACED, "{bos}{question}"):
        assert first_answer_token(tokenizer, template, "") is None
