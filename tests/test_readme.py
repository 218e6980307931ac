"""What the guide says of the miniatures is what the committed scores say; README's examples run as they stand."""

import re
import shlex
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from vlm_probe import cli, evaluate, load
from vlm_probe.scenes import scene_items
from vlm_probe.scenes.items import asks_novel
from vlm_probe.studies import grid_differences, grid_effects
from vlm_probe.studies.grid import grid_scores
from vlm_probe.training.card import ITEMS_SEED
from vlm_probe.zoo.replicas import shipped

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "docs" / "_ext"))
import what_it_says  # noqa: E402

TEXT = (ROOT / "README.md").read_text()
SAID = (ROOT / "docs" / "guide" / "replicas.md").read_text()


def percent(share: float) -> str:
    return f"{100 * share:.1f}"


def row_of(cell: str, scores: pd.DataFrame) -> str:
    """A cell's line: seed 0 with its interval, its novel kinds, and what other seeds have on held-out scenes."""
    heldout = scores.query("cell == @cell and split == 'heldout' and kind == 'all'").set_index("seed")
    novel = scores.query("cell == @cell and split == 'novel' and kind == 'all' and seed == 0")["accuracy"].iloc[0]
    first = heldout.loc[0]
    others = ", ".join(f"{percent(value)} %" for value in heldout["accuracy"].drop(0).sort_index())
    low, high = percent(first["low"]), percent(first["high"])
    return f"| `{cell}` | {percent(first['accuracy'])} % ({low} to {high}) | {percent(novel)} % | {others} |"


@pytest.mark.parametrize("cell", shipped())
def test_the_replicas_scores_are_those_committed(cell):
    lines = [line for line in SAID.splitlines() if line.startswith(f"| `{cell}` |")]
    assert lines == [row_of(cell, grid_scores())]


def points(share: float) -> str:
    return f"{100 * share:+.1f}"


def test_what_it_says_of_the_grid_is_what_the_scores_say():
    scores = grid_scores()
    differences = grid_differences(scores.query("split == 'heldout' and kind == 'all'"))
    effects = grid_effects(differences).set_index(["first", "second"])
    size: Any = effects.loc[("small-clip", "large-clip")]
    each = differences.query("first == 'small-clip' and second == 'large-clip'")["difference"].to_numpy()
    assert (size["seeds"], (each > 0).all()) == (3, True)
    pretrained = effects.loc[("small-clip-nopre", "small-clip")]
    assert pretrained["seeds"] == 3
    once = [
        f"{cell} by {points(effects.loc[(f'{cell}-nopre', cell), 'difference'])}"
        for cell in ("small-dino", "large-dino", "large-clip")
    ]
    said = {
        f"large-clip is right more often than small-clip from all three seeds ({points(each.min())} to "
        f"{points(each.max())} points), which does not decide it: mean {points(size['difference'])}, 95 % interval "
        f"over seeds {points(size['low'])} to {points(size['high'])}.",
        f"Pretraining the connector changes {', '.join(once)} points (one seed), and small-clip by "
        f"{points(pretrained['difference'])} (mean of three seeds; {points(pretrained['low'])} to "
        f"{points(pretrained['high'])}).",
    }
    vocabularies = effects.loc[effects["factor"] == "vocabulary"]
    assert (vocabularies["seeds"] == 3).to_numpy().all()
    assert vocabularies["verdict"].str.startswith("undecided").to_numpy().all()
    names = ["small-clip-v320", "small-clip", "small-clip-v4096", "small-clip-v20480"]
    whole = effects.loc[(names[0], names[-1])]
    first, second, third = (points(effects.loc[pair, "difference"]) for pair in pairwise(names))
    said.add(
        f"From the smallest vocabulary to the largest the share right changes by {points(whole['difference'])} points "
        f"(mean of three seeds; 95 % interval {points(whole['low'])} to {points(whole['high'])}), from one to the next "
        f"by {first}, {second} and {third}: all undecided."
    )
    text = " ".join(SAID.split()).replace("`", "")
    for sentence in said:
        assert sentence in text, sentence


def test_what_it_says_of_novel_kinds_is_so():
    asked = [item for item in scene_items(1200, split="novel", seed=ITEMS_SEED) if asks_novel(item)]
    shapes = [item for item in asked if item.kind == "shape"]
    assert {len(item.distractors) for item in shapes} == {4}
    right = {cell: evaluate(load(f"replica/{cell}", device="cpu"), shapes)["correct"].mean() for cell in NOVEL_SHAPES}
    first, second, third = (f"`{cell}`" for cell in NOVEL_SHAPES)
    a, b, c = (f"{100 * share:.0f} %" for share in right.values())
    text = " ".join(SAID.split())
    assert (
        f"({len(asked)} of those questions ask about the novel kind itself; of the {len(shapes)} that ask for its "
        f"shape {first} has {a} right, {second} {b}, {third} {c}, where one in five is chance)"
    ) in text


NOVEL_SHAPES = ("small-clip", "small-dino", "large-clip")


def blocks(language: str) -> list[str]:
    """README's code blocks of a language; "" for those of commands."""
    return [part.partition("\n")[2] for part in TEXT.split("```")[1::2] if part.partition("\n")[0] == language]


def test_readme_runs_as_it_stands_from_a_folder_with_nothing_in_it(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (commands,) = [block for block in blocks("") if "vlm-probe example" in block]
    said = []
    for line in commands.splitlines():
        program, *argv = shlex.split(line, comments=True)
        assert program == ".venv/bin/vlm-probe"
        monkeypatch.setattr(sys, "argv", ["vlm-probe", *argv])
        with pytest.raises(SystemExit, match="0"):
            cli.main()
        said.append(capsys.readouterr().out)
    example, inspected, found = said
    answer = example.rpartition("# it is ")[2].strip()
    assert inspected.splitlines()[0] == answer
    assert (tmp_path / "inspect" / "inspect.html").exists()
    assert "supported" in found
    (python,) = blocks("python")
    namespace: dict[str, Any] = {}
    exec(compile(python, "README.md", "exec"), namespace)
    assert namespace["maps"].dims == ("layer", "head", "row", "col")


def test_what_it_says_so_far_is_what_the_studies_say():
    assert what_it_says.written_readme() == TEXT
    assert " ".join(TEXT.split()).count("miniatures that differ in this alone") == 3, "of size, encoder and pretraining"


def test_what_readme_links_to_is_there():
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", TEXT)
    assert len(links) > 10
    for link in links:
        assert (ROOT / link).exists(), link
