"""Answers as benchmarks compare them: VQA's official normalisation, yes or no, letters and words in free text."""

from __future__ import annotations

import re

_DIGITS = {
    word: str(i)
    for i, word in enumerate(("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"))
} | {"none": "0"}
_ARTICLES = frozenset(("a", "an", "the"))
_WITH_APOSTROPHES = """
ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've he's
how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've
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
_LETTERS = (
    re.compile(r"^\W*([a-z])(?:[).:,]|\s*\n|\s+[-\u2013\u2014]\s|\W*$)"),
    # "A" and "I" are words too.
    re.compile(r"^\W*([b-hj-z])\b"),
    re.compile(r"\b(?:answer|option|choice)\b\W*(?:is\b\W*)?([a-z])(?:[).:,]|\W*$)"),
)
_TOKEN = re.compile(r"(?<!\w)-?\d+(?:[.,]\d+)*|\w+")
_FRAME = re.compile(
    # "The answer is", "Correct answer:", and then perhaps "it is", "they're", "there are"; something must follow.
    r"(?=\w)(?:(?:the\s+)?(?:(?:correct|right|final|short)\s+)?answer\s*(?:is\b\s*:?|:)\s*)?"
    r"(?:(?:(?:it|this|that|there)(?:\s+is|['\u2019]s)|(?:they|these|those|there)(?:\s+are|['\u2019]re))\s+)?(?=\S)",
    re.IGNORECASE,
)
# Where taking the marks away joins no two words or numbers.
_BOLD = re.compile(r"(?<![\w.,-])\*\*([^*]+)\*\*(?!\w|[.,]\d)")
_PAIRED = {'"': '"', "'": "'", "*": "*", "`": "`", "\u201c": "\u201d", "\u2018": "\u2019"}
_YES_NO = re.compile(r"\b(yes|no|not)\b")


def normalize_answer(text: str) -> str:
    """An answer as VQA's evaluation compares it (Goyal et al. 2017, arXiv:1612.00837; its `vqaEval`).

    Punctuation is dropped beside a space and becomes a space inside a word, periods go unless a digit
    follows, number words to ten become digits, articles go, apostrophes come back in contractions.

    Deviations: always the same for an answer and for what annotators said (the official code leaves
    annotators' answers as they are where all ten agree, so that "two" from all of them would not equal
    an answer of "2"; the published annotations are normalised already); doubly contracted forms are
    recognised without any of their apostrophes.

    >>> normalize_answer("The two-tone cat.")
    '2 tone cat'
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
    POPE takes every other answer for a yes; here it is neither, and wrong. POPE's script also looks for the very words
    "No", "no" and "not" between spaces, so that "NO", "No!" and "Not at all" are yes to it; here they are no.

    >>> yes_or_no("Yes, there is a cat. No dog, though."), yes_or_no("It is not."), yes_or_no("a cat")
    ('yes', 'no', '')
    """
    found = set(_YES_NO.findall(text.split(".")[0].lower()))
    if found & {"no", "not"}:
        return "no"
    return "yes" if found else ""


def choice_letter(text: str) -> str:
    """The letter that a multiple-choice answer gives, in lower case, or "".

    At the start, alone, on a line of its own or before a mark: "(a)", "A", "b. closed", "A - open"; any
    but "a" and "i" also before a word; else behind "answer", "option" or "choice": "The answer is (a)".

    >>> choice_letter("(b) closed"), choice_letter("The answer is A."), choice_letter("a cat")
    ('b', 'a', '')
    """
    found = (pattern.search(text.lower()) for pattern in _LETTERS)
    return next((match.group(1) for match in found if match), "")


def plain_answer(text: str) -> str:
    """What a short sentence answers: the text without the frame that it begins with, marks around it and a last period.

    A frame is "the answer is" or "answer:" (the, correct, right, final and short may stand before "answer"), or "it
    is", "this is", "that is", "there is", "they are", "these are", "those are", "there are" (also contracted), or one
    of the first and then one of the second, in any case. What is left is all that followed, so that "not blue" and
    "blue and red" stay what they are; a text that is a frame and nothing else stays too. Marks are quotation marks,
    backticks and asterisks, in pairs. The rule is our own: no benchmark's evaluation does this.

    >>> [plain_answer(text) for text in ("The answer is blue.", "It's not blue.", "**Answer:** -3", "It is")]
    ['blue', 'not blue', '-3', 'It is']
    """
    said = _bare(_BOLD.sub(r"\1", text))
    frame = _FRAME.match(said)
    return _bare(said[frame.end() :] if frame else said) or text.strip()


def _bare(text: str) -> str:
    """A text without spaces at its ends, last periods, and pairs of marks around all of it."""
    while True:
        text = text.strip().rstrip(".").rstrip()
        if len(text) < 2 or _PAIRED.get(text[0]) != text[-1]:
            return text
        text = text[1:-1]


def word_spans(text: str, *, articles: bool = False) -> list[tuple[str, int]]:
    """Words and numbers of a text in lower case, and where each begins in it (counted in characters).

    Marks are left out, and articles unless asked for. A number keeps its sign, number words are digits.
    """
    found = ((match.group().lower().replace(",", ""), match.start()) for match in _TOKEN.finditer(text))
    return [(_DIGITS.get(word, word), start) for word, start in found if articles or word not in _ARTICLES]


def words_of(text: str) -> list[str]:
    """Words and numbers of a text as `word_spans` has them, without articles."""
    return [word for word, _ in word_spans(text)]
