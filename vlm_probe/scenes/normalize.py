"""Answers as benchmarks compare them: VQA's official normalisation, and yes or no in free text."""

from __future__ import annotations

import re

_DIGITS = {
    word: str(i)
    for i, word in enumerate(("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"))
} | {"none": "0"}
_ARTICLES = frozenset(("a", "an", "the"))
_WITH_APOSTROPHES = """
ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd've he's
how'd how'll how's i'd've i'm i've isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've
needn't not've o'clock oughtn't shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's
someone'd someone'd've someone'll someone's something'd something'd've something'll that's there'd there'd've
there're there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's
what've when's where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't would've
wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're you've
"""
_CONTRACTIONS = {whole.replace("'", ""): whole for whole in _WITH_APOSTROPHES.split()}
_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_PERIOD = re.compile(r"\.(?!\d)")
_COMMA_IN_NUMBER = re.compile(r"\d,\d")
_LETTER = re.compile(r"^\W*([a-z])\b", re.IGNORECASE)
_YES_NO = re.compile(r"\b(yes|no|not)\b")


def normalize_answer(text: str) -> str:
    """An answer as VQA's evaluation compares it (Goyal et al. 2017, arXiv:1612.00837; its `vqaEval`).

    Punctuation is dropped beside a space and becomes a space inside a word, periods go unless a digit
    follows, number words to ten become digits, articles go, apostrophes come back in contractions.

    Deviations: lower case throughout (the official code leaves the case of answers on which all ten
    annotators agree); doubly contracted forms are recognised without any of their apostrophes.
    """
    text = text.replace("\n", " ").replace("\t", " ").strip()
    out = text
    for mark in _PUNCTUATION:
        beside_space = f"{mark} " in text or f" {mark}" in text
        # At an end of the text the space it becomes is dropped below.
        out = out.replace(mark, "" if beside_space or _COMMA_IN_NUMBER.search(text) else " ")
    words = (_DIGITS.get(word, word) for word in _PERIOD.sub("", out).lower().split())
    return " ".join(_CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)


def yes_or_no(text: str) -> str:
    """ "yes" or "no" as POPE's evaluation reads it (Li et al. 2023, arXiv:2305.10355), or "".

    The first sentence decides: "no" where it says no or not, "yes" where it says yes. Deviation:
    POPE takes every other answer for a yes; here it is neither, and wrong.
    """
    found = set(_YES_NO.findall(text.split(".")[0].lower()))
    if found & {"no", "not"}:
        return "no"
    return "yes" if found else ""


def choice_letter(text: str) -> str:
    """The letter a multiple-choice answer begins with: "(a)", "A", "b. closed" -> "a", "a", "b"; or ""."""
    found = _LETTER.match(text)
    return found.group(1).lower() if found else ""
