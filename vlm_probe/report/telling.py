"""From what was measured to what a report says: the paper's questions as chapters, findings in them, an abstract."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from vlm_probe import figures
from vlm_probe.evidence import Verdict
from vlm_probe.figures.style import figure_of
from vlm_probe.findings import Run, scope_of
from vlm_probe.findings.finding import CasesOf, FigureOf, TableOf
from vlm_probe.findings.listing import evidence_listing
from vlm_probe.findings.questions import QUESTIONS, REAL, Question, effects_of
from vlm_probe.findings.skipped import left_out_lines
from vlm_probe.report import studied
from vlm_probe.report.abstract import how_many, in_short, in_the_paper, over_runs, published
from vlm_probe.report.document import Block, Bullets, Code, Document, Paragraph, Picture, Section, Table
from vlm_probe.report.drawing import Chapter, draw, draw_cases, title_of
from vlm_probe.report.inspection import provenance_table
from vlm_probe.studies.study import STUDIES

TITLE = "What the evidence says"
VERDICTS = (
    "Intervals are 95 %; p is corrected (Holm) over a finding's claims. A claim is supported, or contradicted, where "
    "both agree; equivalent where the whole interval lies inside the smallest difference that would matter; else "
    "undecided. What an untrained copy of a model shows too is undecided. Each row says what is independent: images "
    "say something about these checkpoints, training seeds about what they were made of."
)
CITED = """@article{hinck2024llavagemma,
  title = {LLaVA-Gemma: Accelerating Multimodal Foundation Models with a Compact Language Model},
  author = {Hinck, Musashi and Olson, Matthew L. and Cobbley, David and Tseng, Shao-Yen and Lal, Vasudev},
  year = {2024}, journal = {arXiv:2404.01331}
}
@software{vlm_probe,
  title = {vlm_probe: opening vision-language models up},
  author = {{The vlm_probe authors}}, version = {%s}
}"""


def listed(block: TableOf, table: pd.DataFrame) -> pd.DataFrame:
    """What a page shows of a table."""
    rows = table.query(block.where) if block.where else table
    if not block.columns:
        return rows
    return pd.DataFrame(rows[list(block.columns)]).set_axis(list(block.columns.values()), axis=1)


class Telling:
    """Tells a run as a document, and writes its pictures to a folder on the way.

    version: of the package. made: how the run was made (`machine.made_with`).
    """

    def __init__(self, found: Run, told: Sequence[Chapter], folder: Path, *, version: str, made: Mapping[str, Any]):
        self.found, self.told, self.folder, self.version, self.made = found, told, folder, version, made

    def document(self, *, explore: Section | None = None) -> Document:
        """The whole report. explore: a section that a reader of the page can play with."""
        found = self.found
        scope = scope_of(found.models)
        on = f"{', '.join(found.models)} on {len(found.items)} items. " if found.models else "Tables of the package. "
        by_question = {name: [c for c in self.told if c.finding.explains == name] for name in QUESTIONS}
        answered = [self._question(name, own) for name, own in by_question.items() if own]
        others = tuple(self._finding(c) for c in self.told if c.finding.explains not in QUESTIONS)
        sections = [
            Section("Abstract", self._abstract(by_question), "abstract"),
            Section("Verdicts", self._verdicts(), "verdicts"),
            *answered,
            *([Section("Other findings", others, "others")] if others else []),
            *([explore] if explore else []),
            Section("Appendix", self._appendix(), "appendix"),
        ]
        return Document(TITLE, on + scope, tuple(sections))

    def _abstract(self, by_question: dict[str, list[Chapter]]) -> tuple[Block, ...]:
        said: list[Block] = []
        for name, own in by_question.items():
            if own:
                said.append(Section(QUESTIONS[name].asked, tuple(in_short(QUESTIONS[name], own))))
        if self.found.skipped:
            said.append(Section("What could not be measured", (Bullets(tuple(map(str, self.found.skipped))),)))
        return tuple(said) or (Paragraph("Nothing was measured."),)

    def _verdicts(self) -> tuple[Block, ...]:
        """Of comparisons, which are what the questions are about; of single models where there are no others."""
        tested, compared = self._tested()
        if tested.empty:
            return (Paragraph("None."),)
        alone = tested.loc[~compared]
        if compared.any() and len(alone):
            more = f"{VERDICTS} Claims about single models stand in the appendix: {how_many(alone)}"
            return (Paragraph(more), _verdict_table(tested.loc[compared]))
        return (Paragraph(VERDICTS), _verdict_table(tested))

    def _tested(self) -> tuple[pd.DataFrame, pd.Series]:
        """All claims that were tested, and whether each compares models or trainings."""
        evidence = pd.concat([c.evidence for c in self.told], ignore_index=True) if self.told else pd.DataFrame()
        if evidence.empty:
            return evidence, pd.Series(dtype=bool)
        tested = evidence.loc[evidence["verdict"] != str(Verdict.DESCRIPTIVE)].reset_index(drop=True)
        return tested, tested["models"].str.contains(", ") | over_runs(tested)

    def _question(self, name: str, own: list[Chapter]) -> Section:
        question = QUESTIONS[name]
        blocks: list[Block] = [*self._published(question), *self._studied(question), *map(self._finding, own)]
        ids = " ".join(f"-f {c.finding.id}" for c in own)
        models = " ".join(f"-m {model}" for model in REAL)
        settle = Section(
            "What would settle it",
            (Paragraph(question.settled_by), Code(f"vlm-probe report {ids} {models}")),
        )
        return Section(question.asked, (*blocks, settle), name)

    def _published(self, question: Question) -> tuple[Block, ...]:
        """What the paper itself has on it."""
        if not question.factor:
            return ()
        first, second, up, down = in_the_paper(question)
        said, effects = f"{published(question)} Each is one run, so that they have no intervals.", effects_of(question)
        title = f"From {first} to {second} {up} of the paper's numbers go up, {down} do not"
        figure = figure_of(figures.published_effect(effects, title=title, first=first, second=second))
        caption = "The paper's own numbers: what the change does to each benchmark, all else equal."
        alt = f"published effects, {first} to {second}"
        picture = self._picture((figure, effects), f"published_{question.factor}", caption, alt)
        return (Section("The paper's own numbers", (Paragraph(said), picture)),)

    def _studied(self, question: Question) -> tuple[Block, ...]:
        """What trained miniatures say of it: the study grid, and the question's further one."""
        sections = []
        if said := studied.in_words(question):
            how = f"{said} A comparison is supported where what is changed to is right more often."
            sections.append(self._study(question, Paragraph(how), "The same change in trained miniatures"))
            sections.append(self._followed(question))
        if question.further and (told := studied.further_in_words(question)):
            heading = STUDIES[question.further[0]].question
            sections.append(self._study(question, Bullets(tuple(told)), heading, further=True))
            sections.append(self._followed(question, further=True))
        return tuple(section for section in sections if section is not None)

    def _study(self, question: Question, said: Block, heading: str, *, further: bool = False) -> Section:
        name = _name_of(question, further)
        alt = f"change of the share right, {name.replace('_', ' ')}, over training seeds"
        drawn = studied.drawn(question, further=further)
        picture = self._picture(drawn, f"studied_{name}", studied.CAPTION, alt)
        return Section(heading, (said, picture, studied.table(question, further=further)))

    def _followed(self, question: Question, *, further: bool = False) -> Section | None:
        """What goes with the effects that are decided; None where none was looked into."""
        if not (said := studied.followed_in_words(question, further=further)):
            return None
        name = _name_of(question, further)
        alt = f"what goes with the change, {name.replace('_', ' ')}, over training seeds"
        drawn = studied.followed_drawn(question, further=further)
        picture = self._picture(drawn, f"followed_{name}", studied.FOLLOWED, alt)
        return Section("What goes with it, from the picture to the answer", (Bullets(tuple(said)), picture))

    def _finding(self, chapter: Chapter) -> Section:
        """A finding; its figures are written on the way."""
        finding, own = chapter.finding, chapter.shown
        drawn = draw(chapter)
        cases = [(one, draw_cases(one)) for one in own.cases]
        blocks: list[Block] = [Bullets(tuple(own.summary))] if own.summary else []
        blocks.append(Table.of(evidence_listing(chapter.evidence), whole=True))
        for section in finding.sections:
            shown: list[Block] = []
            for block in section.blocks:
                if isinstance(block, FigureOf) and block.name in drawn:
                    file = f"{finding.id}_{block.name}"
                    shown.append(self._picture(drawn[block.name], file, block.caption, block.alt))
                elif isinstance(block, FigureOf) and block.table in own.tables:
                    shown.append(Paragraph("No figure: none of its numbers is at hand.", soft=True))
                elif isinstance(block, TableOf) and block.table in own.tables:
                    table = listed(block, own.tables[block.table])
                    shown += [Table.of(table)] if len(table) else []
            kinds = {block.name: block for block in section.blocks if isinstance(block, CasesOf)}
            for number, model in enumerate(self.found.models if kinds else ()):
                pictures = tuple(
                    self._picture(
                        drawn_cases,
                        f"{finding.id}_cases_{number}_{one.name}",
                        kinds[one.name].caption,
                        kinds[one.name].alt,
                    )
                    for one, drawn_cases in cases
                    if one.model == model and one.name in kinds
                )
                shown += [Section(model, pictures)] if pictures else []
            blocks += [Section(section.heading, tuple(shown))] if shown else []
        if finding.caveats:
            blocks.append(Section("What it does not say", (Bullets(finding.caveats),)))
        methods = tuple(text.format(n=len(self.found.items), seed=self.found.seed) for text in finding.methods)
        blocks.append(Section("Methods", (Bullets(methods),), folded=True))
        return Section(f"{finding.id}. {finding.question}", tuple(blocks), finding.id)

    def _appendix(self) -> tuple[Block, ...]:
        found = self.found
        made_of = [provenance_table(p).assign(model=name) for name, p in found.provenance.items()]
        provenance = pd.concat([*made_of, pd.DataFrame(columns=["model", "what", "value"])], ignore_index=True)
        provenance = provenance.reindex(columns=["model", "what", "value"]).query("what != 'model'")
        left_out = left_out_lines(found.left_out, len(found.items))
        files = (
            "All numbers to the last digit: results.json, the evidence also in evidence.csv; item by item: tables/; "
            "figures, and the data of each: figures/; how the run was made: run.json."
        )
        tested, compared = self._tested()
        alone = tested.loc[~compared] if compared.any() else tested.iloc[:0]
        return (
            *([Section("Verdicts about single models", (_verdict_table(alone),))] if len(alone) else []),
            *([Section("Items left out", (Paragraph(_LEFT_OUT), Bullets(tuple(left_out))))] if left_out else []),
            *([Section("Models", (Table.of(provenance),))] if len(provenance) else []),
            self._made(),
            Section("To cite", (Code(CITED % self.version),)),
            Paragraph(files, soft=True),
        )

    def _made(self) -> Section:
        """The command, what it ran on, and for how long."""
        made = dict(self.made)
        command, took = made.pop("command"), made.pop("seconds by finding")
        rows = [*made.items(), *((f"seconds, {finding}", seconds) for finding, seconds in took.items())]
        table = Table(("what", "value"), tuple((str(what), str(value)) for what, value in rows))
        return Section("How this was made", (*([Code(command)] if command else []), table))

    def _picture(self, drawn: tuple[Figure, pd.DataFrame], file: str, caption: str, alt: str) -> Picture:
        figure, data = drawn
        wide, title = float(figure.get_figwidth()), title_of(figure)
        figures.save(figure, self.folder, file, data=data)
        return Picture(file, wide, title, caption, alt)


def _name_of(question: Question, further: bool) -> str:
    return f"study_{question.further[0]}" if question.further and further else question.factor


_LEFT_OUT = (
    "They cannot be asked, so that findings which need them were measured without them; results.json names each."
)


def _verdict_table(tested: pd.DataFrame) -> Table:
    table = evidence_listing(tested).filter(["claim", "rests on", "difference", "p", "verdict"])
    table.insert(0, "", tested["finding"].tolist())
    return Table.of(table, whole=True)
