"""The figures of the repository are those its code draws, and nobody edited them."""

import json
from pathlib import Path

import pytest

from vlm_probe.figures import save
from vlm_probe.findings import run
from vlm_probe.report import chapters, draw
from vlm_probe.report.drawing import title_of
from vlm_probe.report.manifest import NAME, digest

FIGURES = Path(__file__).parents[2] / "figures"
MANIFEST = json.loads((FIGURES / NAME).read_text())


def test_every_file_is_the_one_that_was_made():
    named = {name: sha for one in MANIFEST["figures"].values() for name, sha in one["files"].items()}
    assert {file.name for file in FIGURES.iterdir()} == {*named, NAME}
    changed = [name for name, sha in named.items() if digest(FIGURES / name) != sha]
    assert not changed, "make figures draws them again; never edit one"
    assert len(MANIFEST["figures"]) > 30
    assert MANIFEST["commit"]


@pytest.mark.parametrize("id", ["X1", "X2", "V6"])
def test_a_figure_drawn_again_is_the_committed_one(id, tmp_path):
    """Of findings that open no model: a table of trained runs that changes, changes these."""
    (chapter,) = chapters(run([id], []))
    drawn = draw(chapter)
    assert drawn
    for name, (figure, data) in drawn.items():
        said = MANIFEST["figures"][f"{id}_{name}"]
        assert title_of(figure) == said["title"]
        for path in save(figure, tmp_path, f"{id}_{name}", data=data):
            if path.suffix in (".csv", ".svg"):  # others are compressed, by libraries that may differ
                assert path.read_bytes() == (FIGURES / path.name).read_bytes(), "run make figures"
