"""`vlm-probe example`: a picture, and what to ask about it."""

import shlex
import sys

import pytest
from PIL import Image

from vlm_probe import cli


def _run(monkeypatch: pytest.MonkeyPatch, *argv: str) -> None:
    monkeypatch.setattr(sys, "argv", ["vlm-probe", *argv])
    cli.main()


@pytest.mark.parametrize(("name", "seed"), [("scene.png", "0"), ("a folder/my scene.jpg", "7"), ("[x].png", "11")])
def test_the_line_it_prints_is_one_to_run(name, seed, tmp_path, monkeypatch, capsys, replica):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="0"):
        _run(monkeypatch, "example", name, "--seed", seed)
    path, line = capsys.readouterr().out.splitlines()
    assert path == name
    command, truth = line.split("    # it is ")
    program, inspect, picture, question = shlex.split(command)
    assert (program, inspect, picture) == ("vlm-probe", "inspect", name)
    with Image.open(tmp_path / picture) as opened:
        assert opened.size == (336, 336)
    answer = replica.answer(picture, question)
    assert truth in ("red", "green", "blue", "yellow", "purple", "cyan", "orange")
    assert isinstance(answer, str)
    if seed == "0":
        assert answer == truth


def test_a_name_that_is_no_picture_is_refused_before_anything_is_written(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="2"):
        _run(monkeypatch, "example", "scene.xyz")
    assert "no picture can be written as '.xyz'; name it scene.png, for one" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
