"""Six questions about an image of 256 tokens: sharing its work against six whole prompts.

    python benchmarks/shared_prefix.py [--repeats 7] [--layers 10] [--out shared_prefix]

Both ways answer greedily and score the right answer. "one by one" is six whole runs, "batched" one
left-padded batch of six whole prompts. Answers and probabilities are checked to agree.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from measure import interleaved, ratio, record
from PIL import Image
from transformers import CLIPImageProcessor, CLIPVisionConfig, GemmaConfig, LlavaConfig, LlavaForConditionalGeneration

from vlm_probe.hooked import HookedVLM
from vlm_probe.inputs.images import ImagePreparer
from vlm_probe.running.asking import Answered, Asked, ask_all
from vlm_probe.training.packing import IMAGE, PROMPT, build_tokenizer
from vlm_probe.zoo.cells import VOCABULARY

SIDE, PATCH = 224, 14
QUESTIONS = (
    ("What color is the star?", "red"),
    ("Is there a blue circle?", "yes"),
    ("How many objects are there?", "three"),
    ("Is the red star left of the blue circle?", "no"),
    ("What shape is the green object?", "square"),
    ("What color is the star, and is it on the left or on the right?", "red, left"),
)
NEW = 4


LAYERS = 10


def build(layers: int = LAYERS) -> HookedVLM:
    """About 100M parameters, 256 image tokens, random weights; fewer layers are for a trial."""
    tokenizer = build_tokenizer(VOCABULARY)
    vision = CLIPVisionConfig(
        hidden_size=512,
        intermediate_size=2048,
        num_hidden_layers=max(2, layers - 2),
        num_attention_heads=8,
        image_size=SIDE,
        patch_size=PATCH,
    )
    text = GemmaConfig(
        vocab_size=VOCABULARY,
        hidden_size=768,
        intermediate_size=3072,
        num_hidden_layers=layers,
        num_attention_heads=8,
        num_key_value_heads=1,
        head_dim=96,
        eos_token_id=1,
        pad_token_id=0,
        bos_token_id=2,
    )
    torch.manual_seed(0)
    image_token = int(tokenizer.get_vocab()[IMAGE])
    config = LlavaConfig(vision_config=vision, text_config=text, image_token_index=image_token)
    processor = CLIPImageProcessor(size={"height": SIDE, "width": SIDE}, do_center_crop=False)
    hf = LlavaForConditionalGeneration(config).eval()
    return HookedVLM(hf, tokenizer=tokenizer, preparer=ImagePreparer(processor, pad=True), prompt=PROMPT)


def main() -> None:
    parser = argparse.ArgumentParser(description="Sharing an image's work among questions")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--layers", type=int, default=LAYERS)
    parser.add_argument("--out")
    arguments = parser.parse_args()
    model = build(arguments.layers)
    noise = np.random.default_rng(0).integers(0, 255, (SIDE, SIDE, 3), dtype=np.uint8)
    image = Image.fromarray(noise)
    asked = [Asked(0, question, answer) for question, answer in QUESTIONS]

    def shared() -> list[Answered]:
        return ask_all(model, [image], asked, max_new_tokens=NEW)

    def one_by_one() -> list[Answered]:
        return [ask_all(model, [image], [one], max_new_tokens=NEW)[0] for one in asked]

    def plain() -> list[str]:
        return [model.answer(image, question, max_new_tokens=NEW) for question, _ in QUESTIONS]

    def batched() -> list[str]:
        return model.answer_all([image] * len(QUESTIONS), [question for question, _ in QUESTIONS], max_new_tokens=NEW)

    together, alone = shared(), one_by_one()
    assert [a.text for a in together] == [a.text for a in alone] == plain()
    gap = max(abs(a.p_answer - b.p_answer) for a, b in zip(together, alone, strict=True))
    variants = {"shared": shared, "one by one, scored": one_by_one, "one by one, answers only": plain}
    variants["batched, answers only"] = batched
    times = interleaved(variants, arguments.repeats)
    rows = [
        {
            "task": "six questions about one image, answers scored",
            "library": "vlm_probe",
            "against": base,
            "time": ratio(times, "shared", base),
            "difference": gap,
            "goals": {"time": 0.25},
        }
        for base in list(variants)[1:]
    ]
    record(
        "shared_prefix",
        {
            "parameters": sum(p.numel() for p in model.hf.parameters()),
            "image_tokens": (SIDE // PATCH) ** 2,
            "questions": len(QUESTIONS),
            "new_tokens": NEW,
            "rows": rows,
        },
        arguments.out,
    )


if __name__ == "__main__":
    main()
