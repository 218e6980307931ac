"""A report as data, and what its PDF says: words stay words, whatever is in them."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pypdfium2
import pytest
from matplotlib import pyplot as plt
from tiny import untyped

from vlm_probe import VlmProbeError
from vlm_probe.figures import save
from vlm_probe.findings import FINDINGS, questions, run
from vlm_probe.findings.questions import QUESTIONS
from vlm_probe.report import studied
from vlm_probe.report.abstract import in_short
from vlm_probe.report.document import Bullets, Code, Document, Paragraph, Picture, Section, Table, pictures, plain
from vlm_probe.report.drawing import chapters
from vlm_probe.report.machine import made_with
from vlm_probe.report.page import pictures_in, write_page
from vlm_probe.report.pdf import write_pdf
from vlm_probe.report.telling import Telling

HOSTILE = (
    '#image("/etc/passwd")',
    "$x^2$ *bold* _it_ `raw` @ref",
    "<script>alert(1)</script>",
    "= no heading",
    "\\n#let",
)


def words_of(pdf) -> str:
    """All text of a PDF, without spaces: lines break anywhere."""
    document = pypdfium2.PdfDocument(pdf)
    return "".join("".join(page.get_textpage().get_text_range().split()) for page in document)


@pytest.fixture
def document(tmp_path):
    figure, ax = plt.subplots(figsize=(3.3, 2))
    ax.plot([1, 3, 2])
    save(figure, tmp_path / "figures", "a b")
    table = pd.DataFrame({"<b>model</b>": [*HOSTILE[:2], "x" * 90], "value": [0.12345, np.nan, 7.0]})
    blocks = (
        *map(Paragraph, HOSTILE),
        Bullets(HOSTILE),
        Code(HOSTILE[2]),
        Table.of(table),
        Picture("a b", 3.3, title=HOSTILE[3], caption=HOSTILE[0], alt=HOSTILE[1]),
    )
    inner = Section(HOSTILE[1], blocks, "inner", folded=True)
    return Document(HOSTILE[0], HOSTILE[2], (Section(HOSTILE[3], (inner,), "outer"),))


def test_words_stay_words_in_the_pdf(document, tmp_path):
    before = sorted(p.name for p in tmp_path.iterdir())
    path = write_pdf(document, tmp_path)
    text = words_of(path)
    for said in HOSTILE:
        # In a paragraph, in a list, and at least once more.
        assert text.count("".join(said.split())) >= 2, said
    assert "0.123" in text
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([*before, "report.pdf"])


def test_words_stay_words_on_the_page(document, tmp_path):
    uri = pictures_in(tmp_path / "figures")
    write_page(tmp_path / "index.html", "report.html", **plain(document), picture_uri=uri)
    page = (tmp_path / "index.html").read_text()
    assert "<script" not in page
    assert page.count("&lt;script&gt;alert(1)&lt;/script&gt;") >= 3
    assert '<a href="#inner">' in page
    assert "<details><summary>$x^2$" in page


def test_a_pdf_that_cannot_be_written_leaves_nothing(document, tmp_path):
    (tmp_path / "figures" / "a b.svg").unlink()
    with pytest.raises(VlmProbeError, match="cannot be set: .*not found"):
        write_pdf(document, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["figures"]


def test_every_finding_is_about_one_of_the_papers_questions():
    assert {finding.explains for finding in FINDINGS.values()} == set(QUESTIONS)


def test_a_report_answers_the_papers_questions_in_turn(tmp_path):
    found = run(["X2", "V6", "X1"], [])
    told = chapters(found)
    made = made_with(found, "vlm-probe report -f X2")
    telling = Telling(found, told, tmp_path, version="1.2.3", made=made)
    document = telling.document()
    abstract, verdicts, size, vocabulary, encoder, appendix = document.sections
    assert [one.id for one in document.sections[2:5]] == ["size", "vocabulary", "encoder"]
    assert [one.heading for one in (size, vocabulary, encoder)] == [
        QUESTIONS[one.id].asked for one in (size, vocabulary, encoder)
    ]
    for section, id in ((size, "X1"), (vocabulary, "V6"), (encoder, "X2")):
        assert [block.id for block in section.blocks if isinstance(block, Section) and block.id] == [id]
        assert f"vlm-probe report -f {id} -m Intel/llava-gemma-2b -m Intel/llava-gemma-7b" in str(section)
    # Where the paper has numbers they are told; of the vocabulary it has none.
    assert [("The paper's own numbers" in str(one)) for one in (size, vocabulary, encoder)] == [True, False, True]
    studies = [("The same change in trained miniatures" in str(one)) for one in (size, vocabulary, encoder)]
    assert studies == [True, False, True]
    tested = found.evidence.query("verdict != 'descriptive'")
    (table,) = [block for block in verdicts.blocks if isinstance(block, Table)]
    assert len(table.rows) == len(tested)
    assert len(abstract.blocks) >= 3
    assert "version = {1.2.3}" in str(appendix)
    assert "Code(text='vlm-probe report -f X2')" in str(appendix)
    written = {(p.stem, p.suffix) for p in tmp_path.iterdir()}
    drawn = [one.file for one in pictures(document.sections)]
    assert written == {(name, suffix) for name in drawn for suffix in (".png", ".svg", ".pdf", ".csv")}
    assert len(drawn) == len(set(drawn))


def test_what_miniatures_say_stands_in_a_sentence(monkeypatch):
    _, effects = questions.studied(QUESTIONS["size"])
    assert set(effects["seeds"]) == {5}
    rows = untyped(
        effects.iloc[:3].assign(difference=[0.031, 0.012, 0.02], verdict=["supported", "equivalent", "undecided"])
    )

    def said(rows):
        monkeypatch.setattr(studied, "studied", lambda question: (rows, rows))
        return studied.in_words(QUESTIONS["size"])

    head = "Share right in miniatures that differ in this alone, over 5 training seeds: a larger language model brings "
    assert said(rows) == (
        f"{head}+1.2 to +3.1 points; 2 of 3 comparisons are decided (1 for it and 1 without a difference that matters)."
    )
    less = rows.assign(difference=-0.02, verdict=["contradicted", "undecided", "undecided"])
    assert said(less) == f"{head}-2.0 points; 1 of 3 comparisons is decided (1 against it)."
    both = rows.assign(difference=[-0.01, 0.0, 0.02], verdict="undecided", seeds=[2, 5, 5])
    few = head.replace("5 training", "2 to 5 training")
    assert said(both) == f"{few}-1.0 to +2.0 points; none of 3 comparisons is decided."
    assert said(rows.iloc[:0]) == ""


def test_what_goes_with_it_is_told_where_it_is_decided(monkeypatch):
    row = {"first": "a", "second": "b", "split": "heldout"}
    rows = [
        {**row, "kind": "answers", "difference": 0.06, "verdict": "supported"},
        {**row, "kind": "lost with\nanother picture", "difference": 0.058, "verdict": "supported"},
        {**row, "kind": "shapes read", "difference": -0.21, "verdict": "contradicted"},
        {**row, "kind": "more shapes read", "difference": 0.21, "verdict": "undecided"},
        {**row, "kind": "as many shapes read", "difference": 0.001, "verdict": "equivalent"},
    ]

    effects = untyped(questions.studied(QUESTIONS["size"])[1])

    def said(rows, decided=2):
        found = pd.DataFrame(rows, columns=[*row, "kind", "difference", "verdict"])
        verdicts = ["supported"] * decided + ["undecided"] * (len(effects) - decided)
        monkeypatch.setattr(studied, "followed", lambda question: (found, found))
        monkeypatch.setattr(studied, "studied", lambda question: (effects, effects.assign(verdict=verdicts)))
        return studied.followed_briefly(QUESTIONS["size"])

    pair = "a to b, held-out scenes"
    assert said(rows) == (
        f"What goes with 1 of these 2 was looked into: {pair}, lost with another picture +5.8 points, "
        "shapes read -21.0 points."
    )
    both = said([rows[0], rows[3], {**rows[0], "split": "novel"}, {**rows[2], "split": "novel"}])
    assert both == (
        f"What goes with 2 of these 2 was looked into: {pair}, nothing else is decided; "
        "a to b, scenes with novel kinds, shapes read -21.0 points."
    )
    assert said([]) == "None of these 2 was looked into in 5 seeds to say what goes with it."
    assert said([], 1) == "It was not looked into in 5 seeds to say what goes with it."
    assert said([], 0) == ""


def test_the_abstract_counts_verdicts_and_names_what_is_decided(tmp_path):
    found = run(["X1"], [])
    (chapter,) = chapters(found)
    evidence = untyped(chapter.evidence.copy())
    tested = evidence.index[evidence["verdict"] != "descriptive"]
    evidence.loc[tested, ["verdict", "reason"]] = ["undecided", "3 training seeds, 5 would do"]
    evidence.loc[tested[0], ["verdict", "reason"]] = ["contradicted", ""]
    told, made = [replace(chapter, evidence=evidence)], made_with(found, "")
    said = str(Telling(found, told, tmp_path, version="1", made=made).document().sections[0])
    n = len(tested)
    by = 100 * evidence.loc[tested[0], "difference"]
    came = f"Contradicted: {evidence.loc[tested[0], 'sentence']} ({by:+.1f} points). "
    few = f"Too little to decide {n - 1} of {n} claims (3 training seeds, 5 would do)."
    assert f"{chapter.finding.question} (X1) {came}{few}" in said


def test_of_checkpoints_the_abstract_tells_the_surest_claims_on_two_models_first():
    (chapter,) = chapters(run(["X1"], []))
    template = chapter.evidence.loc[chapter.evidence["verdict"] != "descriptive"].iloc[0].to_dict()
    rows = [
        ("one, sure", "a", 0.001, "supported", ""),
        ("two, less sure", "a, b", 0.04, "contradicted", ""),
        ("two, sure", "a, b", 0.01, "supported", ""),
        ("one, less sure", "a", 0.03, "equivalent", ""),
        ("open", "a, b", 0.2, "undecided", "the interval includes 0"),
        ("few", "a, b", np.nan, "undecided", "7 images, 20 would do"),
    ]
    names = ["sentence", "models", "p_corrected", "verdict", "reason"]
    evidence = pd.DataFrame([{**template, "unit": "images", **dict(zip(names, row, strict=True))} for row in rows])
    blocks = list(in_short(QUESTIONS["vocabulary"], [replace(chapter, evidence=evidence)]))
    about, told, few = blocks[-3:]
    assert "of 6 claims 2 supported, 1 contradicted, 1 equivalent and 2 undecided." in str(about)
    assert isinstance(told, Bullets)
    assert told.items == (
        "Supported (X1): two, sure.",
        "Contradicted (X1): two, less sure.",
        "Supported (X1): one, sure.",
        "1 more is decided: see the verdicts.",
    )
    assert "What cannot be said yet: 1 claim rests on too little (7 images, 20 would do)." in str(few)
