"""`vlm-probe report`: the page, the shares right on the terminal, and folders that are left alone."""

import json

import pytest

SHORT = ("report", "--items", 12)


def test_the_default_replica(command, tmp_path):
    out = tmp_path / "[red]r"
    ended = command(*SHORT, "--out", out)
    assert ended.code == 0
    assert ended.out.strip().endswith(str(out / "index.html"))
    assert (out / "index.html").is_file()
    assert ended.out.startswith("share right, 95 % intervals ")
    header, *_ = [line.replace("┃", "").split() for line in ended.out.splitlines() if "┃" in line]
    assert header == ["kind", "n", "replica/default", "chance", "blind", "guess"]
    rows = {line.split()[1]: line.split("│") for line in ended.out.splitlines() if line.startswith("│")}
    assert rows["all"][2].strip() == "12"
    overall = next(row for row in json.loads((out / "results.json").read_text())["accuracy"] if row["kind"] == "all")
    assert rows["all"][3].strip() == f"{overall['accuracy']:.2f} ({overall['low']:.2f}–{overall['high']:.2f})"
    assert rows["all"][4].strip() == f"{overall['chance']:.3f}"
    assert rows["all"][5].strip() == f"{overall['blind']:.3f}"


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


def test_a_folder_that_cannot_be_written(refused, in_the_way):
    assert refused(*SHORT, "--out", in_the_way).startswith(f"cannot write to {in_the_way.parent}")
