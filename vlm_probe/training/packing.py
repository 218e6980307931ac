"""The text side of the recipe: the tokenizer, and scenes packed into token sequences.

One sequence carries one scene: a prefix (image placeholders, or the caption in words) and several
segments (question and answer). A segment sees the prefix and itself, never another segment, and
its positions go on from the prefix: every question is learned exactly as it is asked alone.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property, lru_cache
from itertools import accumulate
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from vlm_probe.scenes import SHIPPED, Scene, World, ask, sample_scene
from vlm_probe.scenes.questions import plural

PAD, EOS, BOS, UNK, IMAGE, START, END = (
    "<pad>",
    "<eos>",
    "<bos>",
    "<unk>",
    "<image>",
    "<start_of_turn>",
    "<end_of_turn>",
)
SPECIAL = (PAD, EOS, BOS, UNK, IMAGE, START, END)
DESCRIBE = "Describe the image."
IGNORE = -100
QUESTIONS_PER_SCENE = 8

PROMPT = "{bos}" + START + "{images}{question}" + END
"""What `Packer` spells out, as a template for `HookedVLM`."""


LEXICON_SIZE = 24_000
ASIDE_WORDS = 6


@lru_cache(maxsize=1)
def _lexicon() -> tuple[list[str], list[float]]:
    """Words of another subject, and their cumulative weights (Zipf: the n-th word weighs 1/n).

    They stand for everything Gemma was trained on that no question about an image uses. They are
    drawn from syllables, so that any number of them is there, the same on every machine.
    """
    rng = random.Random("lexicon")
    syllables = [consonant + vowel for consonant in "bdfgklmnprstvz" for vowel in "aeiou"]
    words: dict[str, None] = {}
    while len(words) < LEXICON_SIZE:
        words["".join(rng.choices(syllables, k=rng.choice((2, 3, 3, 4))))] = None
    return list(words), list(accumulate(1 / n for n in range(1, LEXICON_SIZE + 1)))


def aside(rng: random.Random) -> str:
    """A few words that have nothing to do with any scene."""
    words, weights = _lexicon()
    return " ".join(rng.choices(words, cum_weights=weights, k=ASIDE_WORDS))


def _corpus(world: World) -> Iterator[str]:
    for seed in range(4000):
        scene = sample_scene(seed, "any", world=world)
        rng = random.Random(f"corpus/{seed}")
        yield scene.caption
        yield DESCRIBE
        for _ in range(4):
            question = ask(scene, rng)
            yield f"{question.text} {question.answer}"
    rng = random.Random("corpus/asides")
    for _ in range(10_000):
        yield aside(rng)
    # A word must not be missing because the corpus is small.
    yield from world.colors
    yield from world.shapes
    if world != SHIPPED:  # its tokenizers stay as they are; with more kinds and question types plurals are rarer
        yield from [plural(shape) for shape in world.shapes] * 300
    yield from _lexicon()[0]


@lru_cache(maxsize=4)
def _trained(vocabulary: int, world: World) -> str:
    """A tokenizer's state, as JSON."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token=UNK))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Metaspace(prepend_scheme="always"),
            pre_tokenizers.Split(Regex(r"[^\w▁]"), behavior="isolated"),
        ]
    )
    tokenizer.decoder = decoders.Sequence(
        [decoders.ByteFallback(), decoders.Metaspace(prepend_scheme="always"), decoders.Fuse()]
    )
    byte_tokens = [f"<0x{b:02X}>" for b in range(256)]  # the 256 values of a byte
    trainer = trainers.BpeTrainer(vocab_size=vocabulary, special_tokens=[*SPECIAL, *byte_tokens], show_progress=False)
    tokenizer.train_from_iterator(_corpus(world), trainer)
    # Byte tokens are ordinary vocabulary, not specials: decoding must turn them back into text.
    state = json.loads(tokenizer.to_str())
    state["added_tokens"] = [t for t in state["added_tokens"] if t["content"] in SPECIAL]
    return json.dumps(state)


@lru_cache(maxsize=4)
def build_tokenizer(vocabulary: int, world: World = SHIPPED, extra: int = 0) -> PreTrainedTokenizerFast:
    """A byte-fallback BPE like Gemma's, in miniature: any text encodes. A world's words are one token from the
    grid's 704 tokens on; with 320 they take two to six.

    extra: so many tokens more, `<extra0>` and so on, that no text is cut into: nothing merges to them. All others keep
    their ids.
    """
    state = json.loads(_trained(vocabulary, world))
    state["model"]["vocab"] |= {f"<extra{n}>": vocabulary + n for n in range(extra)}
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(state)),
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        unk_token=UNK,
        additional_special_tokens=[IMAGE, START, END],
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )


@dataclass
class Packed:
    """A batch of sequences: ids, positions, segments and labels."""

    input_ids: Tensor
    """[batch, position]"""
    position_ids: Tensor
    """[batch, position]; a segment's positions go on from the prefix."""
    segment: Tensor
    """[batch, position]: 0 in the prefix, which all see, then the number of a segment, which sees itself; -1 in what
    pads a row."""
    labels: Tensor
    """[batch, position], shifted: the token that comes next, or IGNORE."""
    answers: Tensor
    """[batch, position] bool: labels that belong to an answer, which takes reading."""
    first: Tensor
    """[batch, position] bool: where a question ends, and the first token of its answer is predicted."""
    patches_at: int
    """Where the image placeholders begin, in every row."""
    kinds: list[list[str]]
    """Question type of every segment."""

    def to(self, device: torch.device) -> Packed:
        """The same batch on another device."""
        tensors = {f.name: getattr(self, f.name) for f in fields(self) if isinstance(getattr(self, f.name), Tensor)}
        return replace(self, **{name: tensor.to(device) for name, tensor in tensors.items()})


class Packer:
    """Encodes prefixes and segments; remembers encodings, since the scene language is small."""

    def __init__(self, tokenizer: Any):
        self.tokenizer = tokenizer
        self._known: dict[str, list[int]] = {}

    @cached_property
    def id(self) -> dict[str, int]:
        """Ids of the special tokens."""
        return {token: int(self.tokenizer.get_vocab()[token]) for token in SPECIAL}

    def encode(self, text: str) -> list[int]:
        ids = self._known.get(text)
        if ids is None:
            ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
            self._known[text] = ids
        return ids

    def opening(self) -> list[int]:
        """What stands before the image."""
        return [self.id[BOS], self.id[START]]

    def placeholder(self) -> int:
        """The id that stands for a patch."""
        return self.id[IMAGE]

    def padding(self) -> int:
        """The id that fills up a row."""
        return self.id[PAD]

    def describe(self, scene: Scene) -> tuple[list[int], int]:
        """A segment that asks for the caption."""
        before = [*self.encode(DESCRIBE), self.id[END]]
        return [*before, *self.caption(scene), self.id[EOS]], len(before)

    def segment(self, question: str, answer: str) -> tuple[list[int], int]:
        """A question with its answer, and how many of the ids are before the answer."""
        before = [*self.encode(question), self.id[END]]
        return [*before, *self.encode(answer), self.id[EOS]], len(before)

    def caption(self, scene: Scene) -> list[int]:
        """The caption's ids, object by object (so that the memory of encodings stays small)."""
        return [i for o in scene.objects for i in self.encode(f"a {o.name} at the {o.place}.")]

    def pack(
        self,
        scenes: list[Scene],
        rng: random.Random,
        *,
        patches: int | None,
        describe: bool,
        questions: int,
        learn_all: bool,
        among: Sequence[str] | None = None,
        asides: bool = False,
        further: Sequence[Sequence[int]] = (),
        multiple: int = 1,
    ) -> Packed:
        """Pack scenes into one batch.

        patches: number of image placeholders in the prefix; None puts the caption there instead.
        describe: let the first segment ask for the caption.
        questions: how many question segments follow.
        among: the question types to draw from; those of the scenes' world if None.
        learn_all: labels on every token (language modelling) rather than on answers only.
        asides: give every fourth row a segment about something else.
        further: of every row, the ids of a last segment that is about something else.
        multiple: pad to a multiple of so many positions (kernels are made anew for every new length).
        """
        rows: list[tuple[list[int], ...]] = []
        kinds: list[list[str]] = []
        for row, scene in enumerate(scenes):
            prefix = self.opening()
            prefix += [self.placeholder()] * patches if patches is not None else self.caption(scene)
            asked: list[tuple[str, list[int], int]] = []
            if describe:
                asked.append(("caption", *self.describe(scene)))
            for _ in range(questions):
                q = ask(scene, rng, among=among)
                asked.append((q.kind, *self.segment(q.text, q.answer)))
            words = [*further[row]] if further else []
            if asides and row % 4 == 0:
                # Not remembered: hardly ever the same twice.
                words = self.tokenizer(aside(rng), add_special_tokens=False)["input_ids"]
            if words:
                asked.append(("aside", [*words, self.id[END], self.id[EOS]], len(words) + 1))
            ids, segment = list(prefix), [0] * len(prefix)
            labels = [*prefix[1:], IGNORE] if learn_all and patches is None else [IGNORE] * len(prefix)
            positions, answers, first = list(range(len(prefix))), [0] * len(prefix), [0] * len(prefix)
            for number, (kind, piece, before) in enumerate(asked, start=1):
                following = [*piece[1:], IGNORE]
                if not learn_all:
                    following[: before - 1] = [IGNORE] * (before - 1)
                ids += piece
                labels += following
                # Repeating a caption that stands in the prefix is no answer to weigh like the others.
                weighs = 0 if kind == "aside" or (kind == "caption" and patches is None) else 1
                answers += [0] * (before - 1) + [weighs] * (len(piece) - before) + [0]
                first += [int(i == before - 1) for i in range(len(piece))]
                segment += [number] * len(piece)
                positions += range(len(prefix), len(prefix) + len(piece))
            rows.append((ids, labels, segment, positions, answers, first))
            kinds.append([kind for kind, _, _ in asked])
        length = -(-max(len(ids) for ids, *_ in rows) // multiple) * multiple
        ids, labels, segment, positions, answers, first = (
            torch.tensor([row[i] + [fill] * (length - len(row[i])) for row in rows])
            for i, fill in enumerate((self.padding(), IGNORE, -1, 0, 0, 0))
        )
        return Packed(ids, positions, segment, labels, answers.bool(), first.bool(), len(self.opening()), kinds)
