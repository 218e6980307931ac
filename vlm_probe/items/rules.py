"""How an answer is scored, by what its item has: the rules that families share, and the one for families without.

A rule takes an item and an answer, and gives the answer as it is compared, and its score in [0, 1]. What is one
benchmark's alone stands in its reader (`readers/`).
"""

from __future__ import annotations

from collections.abc import Callable

from vlm_probe.items.item import Item
from vlm_probe.items.metrics import vqa_accuracy
from vlm_probe.items.normalize import choice_letter, normalize_answer, plain_answer, words_of, yes_or_no

Rule = Callable[[Item, str], tuple[str, float]]
"""Takes an item and an answer. Gives the answer as it is compared, and its score in [0, 1]."""

YES_NO = ("yes", "no")
"""Truths of yes/no questions."""


def by_form(item: Item, text: str) -> tuple[str, float]:
    """The rule of families that have none of their own: by what the item has.

    A multiple choice is right by its letter (`letter`), items with annotators have VQA's soft accuracy (`annotated`),
    yes/no questions are read as POPE reads them (`yes_no`), items in parts have the share of parts (`in_parts`), and
    all else is compared whole, in a frame or without (`plain`).
    """
    if item.kind == "choice":
        return letter(item, text)
    if item.answers:
        return annotated(item, text)
    if item.answer in YES_NO:
        return yes_no(item, text)
    return in_parts(item, text) if item.parts else plain(item, text)


def letter(item: Item, text: str) -> tuple[str, float]:
    """1 for the letter of the right choice (`choice_letter`)."""
    said = choice_letter(text)
    return said, float(said != "" and said == choice_letter(item.answer))


def yes_no(item: Item, text: str) -> tuple[str, float]:
    """1 for the right one of yes and no, read from a sentence as POPE's evaluation does (`yes_or_no`)."""
    said = yes_or_no(text)
    return said, float(said == item.answer)


def annotated(item: Item, text: str) -> tuple[str, float]:
    """VQA's soft accuracy (`vqa_accuracy`); the right answer is what the one annotator said where none is known."""
    return normalize_answer(text), vqa_accuracy(text, item.answers or (item.answer,))


def in_parts(item: Item, text: str) -> tuple[str, float]:
    """The share of the item's parts of which the words of an alternative stand in the answer, side by side."""
    words = words_of(text)
    named = [any(_stand_in(words_of(one), words) for one in part.split("<OR>")) for part in item.parts]
    return normalize_answer(text), sum(named) / len(named)


def _stand_in(wanted: list[str], words: list[str]) -> bool:
    n = len(wanted)
    return n > 0 and any(words[i : i + n] == wanted for i in range(len(words) - n + 1))


def plain(item: Item, text: str) -> tuple[str, float]:
    """1 where the whole answer, or what its frame holds (`plain_answer`), is the right answer after `normalize_answer`.

    "The answer is blue." is right for "blue"; "blue and red" and "not blue" are not. Yes and no are words as any other.
    """
    wanted, whole, said = normalize_answer(item.answer), normalize_answer(text), plain_answer(text)
    if not wanted:  # "A": an article, and nothing else
        return said.lower(), float(said.lower() == item.answer.strip(" .").lower())
    if whole == wanted:
        return whole, 1.0
    framed = normalize_answer(said)
    return framed, float(framed == wanted)
