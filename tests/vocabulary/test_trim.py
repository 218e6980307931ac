"""Trimming: the same logits for what is kept, the same answers, a checkpoint that loads, and clear refusals."""

import pytest
import torch
from tiny import tiny_vlm

import vlm_probe
from vlm_probe.errors import VlmProbeError
from vlm_probe.hooked import HookedVLM
from vlm_probe.running.evaluation import evaluate
from vlm_probe.scenes import family_items
from vlm_probe.vocabulary import always_kept, needed_ids, save, trim


@pytest.fixture(scope="module")
def items():
    return list(family_items(6, seed=11))


def said(model, items):
    return evaluate(model, items)["answer"].tolist()


def test_with_all_used_ids_kept_nothing_changes(replica, items):
    small = trim(replica, needed_ids(replica, items), items=items)
    kept = torch.as_tensor(small.tokenizer.kept)
    assert len(kept) < 400 < 704
    assert said(small, items) == said(replica, items)
    picture = items[0].picture(replica.image_size)
    inputs = replica.prepare(picture, items[0].question)
    own = small.prepare(picture, items[0].question)
    assert torch.equal(kept[own.input_ids], inputs.input_ids)
    with torch.no_grad():
        expected, (found, cache) = replica(inputs).logits[..., kept], small.run_with_cache(own)
    torch.testing.assert_close(found.logits, expected, atol=1e-5, rtol=1e-5)
    assert set(cache) == set(small.hook_dict)


@pytest.mark.parametrize("language", ["gemma", "gemma3", "llama", "phi"])
def test_every_family_tied_or_not(language):
    model = tiny_vlm("clip", language)
    small = trim(model, range(20, 60))
    kept = torch.as_tensor(small.tokenizer.kept)
    inputs = model.prepare(torch.zeros(15, 15, 3, dtype=torch.uint8).numpy(), "5 < 7")
    own = small.prepare(torch.zeros(15, 15, 3, dtype=torch.uint8).numpy(), "5 < 7")
    with torch.no_grad():
        torch.testing.assert_close(small(own).logits, model(inputs).logits[..., kept], atol=1e-5, rtol=1e-5)
    weights = small.hf.get_input_embeddings().weight, small.hf.get_output_embeddings().weight
    assert (weights[0] is weights[1]) == model.hf.config.get_text_config().tie_word_embeddings
    # Everything but the vocabulary is shared with the original, which is unchanged.
    mine, theirs = dict(small.hf.named_parameters()), dict(model.hf.named_parameters())
    shared = [name for name in mine if mine[name].data_ptr() == theirs[name].data_ptr()]
    assert len(shared) >= len(mine) - 2


def test_saved_and_loaded_it_is_the_same(replica, items, tmp_path):
    small = trim(replica, needed_ids(replica, items))
    again = vlm_probe.load(save(small, tmp_path / "small"), dtype="float32")
    assert isinstance(again, HookedVLM)
    assert again.tokenizer.kept == small.tokenizer.kept
    assert again.embed_scale == small.embed_scale
    assert said(again, items) == said(small, items)


def test_special_and_byte_tokens_stay(replica):
    small = trim(replica, [])
    names = set(small.tokenizer.get_vocab())
    assert {"<bos>", "<eos>", "<image>"} <= names
    assert len([name for name in names if name.startswith("<0x")]) == 256
    assert set(small.tokenizer.kept) == always_kept(replica)


def test_what_cannot_be_trimmed(replica, items):
    with pytest.raises(VlmProbeError, match=r"^ids \[704, 705\] are outside the model's vocabulary of 704$"):
        trim(replica, [3, 704, 705])
    answers = [i for i in needed_ids(replica, items) if i not in replica.tokenizer(items[0].answer)["input_ids"]]
    with pytest.raises(
        VlmProbeError, match=rf"^item {items[0].id} \('.*': '{items[0].answer}'\) needs tokens that are"
    ):
        trim(replica, answers, items=items[:1])
    small = trim(replica, [])
    with pytest.raises(VlmProbeError, match="^the text needs [0-9]+ tokens that were trimmed away, '"):
        small.prepare(items[0].picture(64), items[0].question)
    bare = HookedVLM(tiny_vlm().hf.__class__(tiny_vlm().hf.config), name="bare")
    with pytest.raises(VlmProbeError, match="^bare has no tokenizer: nothing says which rows are whose$"):
        trim(bare, [1])


def test_trimmed_twice_it_still_knows_the_first_numbers(replica, items, tmp_path):
    used = needed_ids(replica, items)
    once = trim(replica, [*used, *range(600, 650)])
    twice = trim(once, needed_ids(once, items), items=items)
    assert set(twice.tokenizer.kept) == set(trim(replica, used).tokenizer.kept)
    again = vlm_probe.load(save(twice, tmp_path / "twice"), dtype="float32")
    assert said(again, items) == said(replica, items)
