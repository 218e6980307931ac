"""What the evidence on a question comes to, in a few sentences: of the paper, of trained miniatures, of checkpoints."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any

import pandas as pd

from vlm_probe.evidence import Verdict
from vlm_probe.findings import FINDINGS, run
from vlm_probe.findings.questions import QUESTIONS, Question, effects_of
from vlm_probe.report import studied
from vlm_probe.report.document import Block, Bullets, Paragraph
from vlm_probe.report.drawing import Chapter, chapters, counted, joined, points
from vlm_probe.studies import FACTORS

_TOLD = 3
"""Decided claims that the abstract has in full, of every question and unit."""


def studies_in_short() -> dict[str, list[str]]:
    """What the package's own tables say, by what is asked: sentences, and none of what was measured on a checkpoint."""
    told = chapters(run([finding.id for finding in FINDINGS.values() if not finding.models], []))
    said = {}
    for name, question in QUESTIONS.items():
        own = [chapter for chapter in told if chapter.finding.explains == name]
        said[question.asked] = [*_known(question), *(_by_finding(own, _tested(own)) if own else ())]
    return said


def in_short(question: Question, own: Sequence[Chapter]) -> Iterator[Block]:
    """A question's part of the abstract: what is known of it, then what its chapters say of training runs and of single
    checkpoints, and what is open."""
    yield from map(Paragraph, _known(question))
    tested = _tested(own)
    if tested.empty:
        yield Paragraph("Nothing is tested here: these findings describe.")
        return
    of_training = over_runs(tested)
    trained, rows = tested.loc[of_training], tested.loc[~of_training]
    if len(trained):
        yield Paragraph("Over training runs, which say what a design does:")
        yield Bullets(tuple(_by_finding(own, trained)))
    if len(rows):
        yield Paragraph(f"About the checkpoints named, which say nothing of what made them so: {how_many(rows)}")
        if told := _decided(rows, lambda verdict, row: f"{verdict} ({row['finding']}): {row['sentence']}."):
            yield Bullets(tuple(told))
    few = Counter(rows.loc[_rests_on_little(rows), "reason"].tolist())
    if few:
        claims = "1 claim rests" if sum(few.values()) == 1 else f"{sum(few.values())} claims rest"
        yield Paragraph(f"What cannot be said yet: {claims} on too little ({'; '.join(sorted(few))}).")


def over_runs(evidence: pd.DataFrame) -> pd.Series:
    """Which rows rest on training again."""
    return evidence["unit"].str.contains("seeds")


def how_many(tested: pd.DataFrame) -> str:
    """How many claims came to what."""
    parts = counted(tested["verdict"].tolist())
    if len(parts) == 1:
        only = tested["verdict"].iloc[0]
        return f"all {len(tested)} claims are {only}." if len(tested) > 1 else f"1 claim, {only}."
    return f"of {len(tested)} claims {joined(parts)}."


def published(question: Question) -> str:
    """The paper's own numbers in a sentence; "" where it has none."""
    if not question.factor:
        return ""
    first, second, up, down = in_the_paper(question)
    return (
        f"Hinck et al. (2024) published {up + down} pairs of numbers that differ in this alone: from {first} to "
        f"{second} {up} go up and {down} go down or stay."
    )


def in_the_paper(question: Question) -> tuple[str, str, int, int]:
    """From what to what the paper's pairs change, and how many go up, and down or nowhere."""
    _, first, second = FACTORS[question.factor]
    words = {"yes": "pretrained", "no": "not pretrained"}
    changes = effects_of(question).query("missing == ''")["difference"].tolist()
    up = sum(value > 0 for value in changes)
    return words.get(first, first), words.get(second, second), up, len(changes) - up


def _known(question: Question) -> list[str]:
    """The paper's numbers, what the same change does in miniatures, and what goes with it."""
    about = (studied.in_words, studied.followed_briefly, studied.further_briefly)
    told = (published(question), *(words(question) for words in about))
    return [text for text in told if text]


def _tested(own: Sequence[Chapter]) -> pd.DataFrame:
    evidence = pd.concat([chapter.evidence for chapter in own], ignore_index=True)
    return evidence.loc[evidence["verdict"] != str(Verdict.DESCRIPTIVE)]


def _by_finding(own: Sequence[Chapter], trained: pd.DataFrame) -> Iterator[str]:
    """Of every finding over training seeds, what is asked and what came of it."""
    asked = {chapter.finding.id: chapter.finding.question for chapter in own}
    for id, rows in trained.groupby("finding", sort=False):
        yield f"{asked[str(id)]} ({id}) {_over_training(rows)}"


def _over_training(rows: pd.DataFrame) -> str:
    """What a finding's claims over training seeds came to: those that are decided in full, the others counted."""
    said = _decided(rows, lambda verdict, row: f"{verdict}: {row['sentence']} ({points([row['difference']])}).")
    few = _rests_on_little(rows)
    still = rows.loc[~few & (rows["verdict"] == str(Verdict.UNDECIDED))]
    if len(still):
        # Claims with one control are of one measure: only then does a range say anything.
        span = f" ({points(still['difference'].tolist())})" if len(set(rows["against"].tolist())) == 1 else ""
        said.append(f"Undecided: {len(still)} of {_claims(len(rows))}{span}.")
    for reason, part in rows.loc[few].groupby("reason", sort=False):
        said.append(f"Too little to decide {len(part)} of {_claims(len(rows))} ({reason}).")
    return " ".join(said)


def _claims(number: int) -> str:
    return "1 claim" if number == 1 else f"{number} claims"


def _rests_on_little(rows: pd.DataFrame) -> pd.Series:
    """Which claims are undecided for want of seeds, images or whatever they rest on."""
    return rows["reason"].str.endswith("would do")


def _decided(tested: pd.DataFrame, told: Callable[[str, dict[Hashable, Any]], str]) -> list[str]:
    """The claims that are decided: on two models before those on one, the surest first.

    told: a claim's sentence, of its verdict and its row.
    """
    rows = tested.loc[tested["verdict"] != str(Verdict.UNDECIDED)].to_dict("records")
    rows.sort(key=lambda row: ("," not in str(row["models"]), row["p_corrected"]))
    said = [told(str(row["verdict"]).capitalize(), row) for row in rows[:_TOLD]]
    if more := len(rows) - len(said):
        said.append(f"{more} more {'is' if more == 1 else 'are'} decided: see the verdicts.")
    return said
