"""Questions that share an image's work: answers and probabilities are those of whole prompts."""

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import LANGUAGES, tiny_vlm

from vlm_probe.errors import VlmProbeError
from vlm_probe.running.asking import Asked, ask_all


def pictures(n: int) -> list[Image.Image]:
    rng = np.random.default_rng(3)
    return [Image.fromarray(rng.integers(0, 255, (11, 17, 3), dtype=np.uint8)) for _ in range(n)]


QUESTIONS = [
    Asked(0, "Is it?", "yes"),
    Asked(2, "What is there to be seen?", "a"),
    Asked(0, "What?", "two dogs"),
    Asked(1, "How many?", "3"),
    Asked(0, "Where is the longest of all the questions?", "here"),
    Asked(2, "Is it?", "no"),
]


def alone(model, image, one: Asked) -> tuple[str, float, float]:
    """The same, the plain way: a whole prompt, then the prompt with the answer behind it."""
    inputs = model.prepare(image, one.question)
    right = model.tokenizer(one.answer, add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        logits = model(inputs.with_answer(right)).logits[0].double()
    log_p = logits[-len(right) - 1 : -1].log_softmax(-1)
    p = log_p[range(len(right)), right].sum().exp().item()
    first = log_p[0].exp()
    return model.answer(image, one.question, max_new_tokens=5), p, -(first * first.log()).sum().item()


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("batch_size", [64, 2])
def test_shared_prefixes_change_no_answer_and_no_probability(language, batch_size):
    # Gemma 2 and 3 here have a sliding window shorter than any prompt.
    model, images = tiny_vlm("clip", language), pictures(3)
    found = ask_all(model, images, QUESTIONS, max_new_tokens=5, batch_size=batch_size)
    for one, answered in zip(QUESTIONS, found, strict=True):
        text, p, entropy = alone(model, images[one.image], one)
        assert answered.text == text, one
        assert answered.p_answer == pytest.approx(p, rel=1e-3, abs=0)
        assert answered.entropy == pytest.approx(entropy, abs=1e-4)
        assert np.isnan(answered.p_yes), "no single token spells yes here"


def test_probabilities_of_a_trained_model_are_those_of_whole_prompts(replica):
    """Answers of one word and of several, likely and unlikely ones, questions of one image apart from each other."""
    from vlm_probe.scenes import family_items

    items = list(family_items(5, seed=3, families=("mmvet", "gqa", "pope")))
    names = list(dict.fromkeys(item.image for item in items))
    pictures = [next(i for i in items if i.image == name).picture(replica.image_size) for name in names]
    asked = [Asked(names.index(item.image), item.question, item.answer) for item in items]
    asked += [Asked(one.image, one.question, other) for one, other in zip(asked[:7], ["red", "two"] * 4, strict=False)]
    lengths, likely = set(), []
    for one, answered in zip(asked, ask_all(replica, pictures, asked, max_new_tokens=5, batch_size=3), strict=True):
        text, p, entropy = alone(replica, pictures[one.image], one)
        assert answered.text == text, one
        assert answered.p_answer == pytest.approx(p, abs=1e-5), one
        assert answered.entropy == pytest.approx(entropy, abs=1e-4)
        length = len(replica.tokenizer(one.answer, add_special_tokens=False)["input_ids"])
        lengths.add(length)
        likely.append(length > 1 and 0.1 < p < 1)
    assert {1} < lengths
    assert sum(likely) >= 3


def test_yes_probability_counts_every_spelling(replica):
    from vlm_probe.scenes import sample_scene, scene_image

    scene = sample_scene(2)
    question = f"Is there a {scene.objects[0].name}?"
    (found,) = ask_all(replica, [scene_image(scene, replica.image_size)], [Asked(0, question, "yes")])
    inputs = replica.prepare(scene_image(scene, replica.image_size), question)
    with torch.no_grad():
        p = replica(inputs).logits[0, -1].softmax(-1)
    yes, no = (replica.tokenizer(w, add_special_tokens=False)["input_ids"] for w in ("yes", "no"))
    assert len(yes) == len(no) == 1
    assert found.p_yes == pytest.approx((p[yes[0]] / (p[yes[0]] + p[no[0]])).item(), abs=1e-5)
    assert found.p_answer == pytest.approx(p[yes[0]].item(), abs=1e-5)
    assert found.text == replica.answer(scene_image(scene, replica.image_size), question)


def test_the_generated_tokens_are_kept():
    model, images = tiny_vlm(), pictures(3)
    lengths = set()
    for one, answered in zip(QUESTIONS, ask_all(model, images, QUESTIONS, max_new_tokens=5), strict=True):
        inputs = model.prepare(images[one.image], one.question)
        assert list(answered.ids) == model.answer_tokens(inputs, max_new_tokens=5)[0]
        assert model.tokenizer.decode(answered.ids, skip_special_tokens=True).strip() == answered.text
        lengths.add(len(answered.ids))
    assert max(lengths) <= 5


def test_each_image_is_encoded_once():
    model, images = tiny_vlm(), pictures(2)
    seen = []
    model.add_hook("vision.hook_embed", lambda x, hook: seen.append(len(x)))
    ask_all(model, images, [Asked(i % 2, f"What is {i}?", "x") for i in range(7)], max_new_tokens=2)
    assert sum(seen) == 2
    model.reset_hooks()


def test_an_empty_right_answer_is_refused():
    with pytest.raises(VlmProbeError, match=r"^the right answer to 'What\?' is empty$"):
        ask_all(tiny_vlm(), pictures(1), [Asked(0, "What?", " ")])
