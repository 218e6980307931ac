"""What does a large vocabulary cost, is it used and trained, does it leak, would a smaller one do (V1 to V6)?

    python analyses/vocabulary_256k.py
    python analyses/vocabulary_256k.py --models llava-smollm2-135m llava-gemma3-270m
    python analyses/vocabulary_256k.py --models gemma3-270m smollm2-135m --text questions.jsonl
    python analyses/vocabulary_256k.py --models Intel/llava-gemma-2b llava-hf/llava-1.5-7b-hf --n 300

Every model is measured, and compared with the first; whether the size of a vocabulary itself does anything is decided
over training seeds (V6, no model is opened). Writes figures/vocabulary_*.png and .svg and figures/vocabulary.csv, and
prints the verdicts and what could not be measured: of text alone, whatever asks about images.
"""

from __future__ import annotations

from pathlib import Path

from command import measure_and_draw, options, run

from vlm_probe.items import Item
from vlm_probe.vocabulary import read_texts

SWEEP = ("replica/small-clip", "replica/small-clip-v320", "replica/small-clip-v4096", "replica/small-clip-v20480")


def as_items(texts: list[str]) -> list[Item]:
    """Lines of text as items without image or answer."""
    names = [f"text-{number}" for number in range(len(texts))]
    return [Item(name, "text", "text", name, name, text, "") for name, text in zip(names, texts, strict=True)]


def main() -> None:
    parser = options("What does a large vocabulary cost, and would a smaller one do?", SWEEP, n=40)
    parser.add_argument("--text", type=Path, help="text to count tokens in; the scenes' questions if not given")
    arguments = parser.parse_args()
    items = None if arguments.text is None else as_items(read_texts(arguments.text))
    measure_and_draw(arguments, ["V1", "V2", "V3", "V4", "V5", "V6"], "vocabulary", items)


if __name__ == "__main__":
    run(main)
