"""Notebooks: stripped in git, every one runs from top to bottom, and leaves nothing behind."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))


def test_they_are_numbered():
    assert [path.stem[:3] for path in NOTEBOOKS] == [f"{number:02d}_" for number in range(1, 10)]


def cells_of(path: Path, kind: str) -> list[str]:
    return [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == kind]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_is_stripped(path):
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "code":
            assert not cell.outputs
            assert cell.execution_count is None


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_begins_with_a_title_and_names_no_place_of_ours(path):
    assert cells_of(path, "markdown")[0].startswith("# ")
    for source in (*cells_of(path, "markdown"), *cells_of(path, "code")):
        assert not re.search(r"(?<![\w.])/(home|tmp|work|root|Users)/", source)


def test_the_explanation_leaves_numbers_and_verdicts_to_its_cells():
    """Its tables grow with every seed: a sentence with a result in it would be wrong some day."""
    (path,) = (path for path in NOTEBOOKS if path.stem == "09_the_explanation")
    for source in cells_of(path, "markdown"):
        prose = re.sub(r"`[^`]*`|\]\([^)]*\)", "", source)
        assert set(re.findall(r"\b(supported|contradicted|equivalent)\b", prose)) <= {"contradicted"}, prose
        known = r"\b[A-Z]\d\b|\b[27]B\b|256k|Hinck et al\. 2024|\bDINOv2\b|section[s]? \d( and \d)?|^#+ \d\."
        assert not re.findall(r"\d", re.sub(known, "", prose, flags=re.MULTILINE)), prose


Said = list[str]
"""What a notebook printed, cell by cell."""


def said_by(notebook: Any) -> Said:
    said = []
    for cell in notebook.cells:
        outputs = cell.get("outputs", ())
        texts = (out.get("text") or out.data.get("text/markdown") or out.data.get("text/plain", "") for out in outputs)
        said.append("\n".join(texts))
    return said


def what_was_measured_is_said(said: Said) -> None:
    """Where the paper's models are not at hand, what comes of miniatures is not called theirs."""
    (told,) = (text for text in said if "the paper's models" in text.lower() and "measured" in text)
    assert "The paper's models are NOT measured below" in told
    assert "Nothing below is about the 2B or the 7B" in told
    after = said[said.index(told) + 1 :]
    assert any("nothing here is a statement about the 2B or the 7B" in text for text in after)
    assert not any("llava-gemma" in text.lower() for text in after)


def a_wrong_scale_and_prompt_cost_answers(said: Said) -> None:
    (table,) = (text for text in said if "as a stranger's folder" in text)
    right = {line.rsplit(maxsplit=1)[0]: float(line.split()[-1]) for line in table.splitlines()[1:]}
    assert list(right) == ["as a stranger's folder", "with its scale", "with its prompt", "with both"]
    assert max(list(right.values())[:3]) < right["with both"] - 0.2
    (checked,) = (text for text in said if "findings: S1" in text)
    assert "1 thing is wrong" in checked
    (messages,) = (text for text in said if "a folder with no config.json:" in text)
    assert "nothing is wrong" not in messages


def every_question_is_answered_or_said_to_be_open(said: Said) -> None:
    from vlm_probe.findings.questions import QUESTIONS

    for question in QUESTIONS.values():
        assert sum(question.settled_by in text for text in said) == 1
    (story,) = (text for text in said if "**The riddle is a difference of differences.**" in text)
    assert "nothing here is a statement about the 2B or the 7B" in story
    assert not re.search(r"\bnan\b", story)


CHECKS: dict[str, Callable[[Said], None]] = {
    "07_2b_against_7b_on_a_gpu": what_was_measured_is_said,
    "08_bring_your_own_checkpoint": a_wrong_scale_and_prompt_cost_answers,
    "09_the_explanation": every_question_is_answered_or_said_to_be_open,
}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_runs(path, tmp_path, monkeypatch):
    # The kernel draws into the notebook, whatever backend the tests use, and has no GPU: another run would be another.
    monkeypatch.delenv("MPLBACKEND", raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    here, elsewhere = tmp_path / "here", tmp_path / "elsewhere"
    here.mkdir()
    elsewhere.mkdir()
    monkeypatch.setenv("TMPDIR", str(elsewhere))
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": here}}).execute()
    outputs = [out for cell in notebook.cells if cell.cell_type == "code" for out in cell.outputs]
    assert any("image/png" in out.get("data", {}) for out in outputs)
    assert [out.text for out in outputs if out.output_type == "stream" and out.name == "stderr"] == []
    assert list(here.iterdir()) == []
    if path.stem in CHECKS:
        CHECKS[path.stem](said_by(notebook))
