"""`vlm-probe report`: the page, the verdicts on the terminal, and folders that are left alone."""

import pytest

SHORT = ("report", "--items", 12, "--finding", "S1")


def test_the_default_replica(command, tmp_path):
    out = tmp_path / "[red]r"
    ended = command(*SHORT, "--out", out)
    assert ended.code == 0
    assert ended.out.strip().endswith(str(out / "index.html"))
    assert (out / "index.html").is_file()
    assert ended.out.lstrip().startswith("S1. Does the language model look at the right place?")
    assert "nothing here is a statement about the 2B or the 7B" in ended.out


def test_a_folder_with_other_things_in_it_is_left_alone(refused, tmp_path):
    precious = tmp_path / "precious.txt"
    precious.write_text("mine")
    assert refused(*SHORT, "--out", tmp_path) == (
        f"{tmp_path} exists and is no earlier report; name another folder with --out"
    )
    assert [p.name for p in tmp_path.iterdir()] == ["precious.txt"]


@pytest.mark.parametrize(
    ("name", "message"),
    [("replica/nought", "no replica 'nought'; nearest are "), ("[bold]", "unknown model '[bold]': no such directory")],
)
def test_an_unknown_model(refused, tmp_path, name, message):
    assert refused(*SHORT, "--model", name, "--out", tmp_path / "out").startswith(message)
    assert not (tmp_path / "out").exists()


def test_an_unknown_finding(refused, tmp_path):
    assert refused("report", "--finding", "Z9", "--out", tmp_path / "out").startswith("no finding 'Z9'; nearest are ")


def test_a_folder_that_cannot_be_written(refused, in_the_way):
    assert refused(*SHORT, "--out", in_the_way).startswith(f"cannot write to {in_the_way.parent}")
