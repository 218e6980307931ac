"""`vlm-probe train`: what is trained where, with what told; training itself is stubbed (see tests/training)."""

from types import SimpleNamespace

import pandas as pd
import pytest

from vlm_probe.studies.grid import grid_scores
from vlm_probe.training import card, connector, connector_card, replica, sweep
from vlm_probe.training.loop import Progress
from vlm_probe.zoo.catalog import FUSIONS
from vlm_probe.zoo.cells import CELLS

NAME_IT = (
    "name what to train, replica/<size>-<encoder>[-nopre][-v<vocabulary>] or llava-<language model>[-lora], or give "
    "--grid for all replicas"
)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ((), NAME_IT),
        (("replica/small-clip", "--grid"), NAME_IT),
        (
            ("llava-gemma3-270",),
            "nothing called 'llava-gemma3-270' to train; nearest are 'llava-gemma3-270m', 'llava-gemma3-270m-lora', "
            "'llava-smollm2-135m'",
        ),
        (("replica/small-clip", "--device", "toaster"), "no device 'toaster' here: "),
    ],
)
def test_what_cannot_be_trained(refused, tmp_path, argv, message):
    assert refused("train", *argv, "--runs", tmp_path / "runs").startswith(message)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("name", ["replica/huge-clip", "replica/medium-clip"])
def test_a_cell_that_is_not_in_the_grid(refused, tmp_path, name):
    short = name.removeprefix("replica/")
    said = refused("train", name, "--runs", tmp_path / "runs")
    assert said.startswith(f"no replica cell '{short}' in the grid; nearest are ")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("argv", [("small-clip",), ("llava-smollm2-135m",), ("--grid",), ("--grid", "--keep-shipped")])
def test_a_runs_folder_that_cannot_be_written(refused, in_the_way, argv):
    assert refused("train", *argv, "--runs", in_the_way).startswith(f"cannot write to {in_the_way}")


@pytest.fixture
def noted(monkeypatch):
    """In place of both recipes: notes what they are told, and lets two stages take a step each."""
    told = SimpleNamespace(trained=None, options={}, exported=None, card=None, items=None)

    def train(what, runs, *, listen, **options):
        told.trained, told.options = what, {**options, "runs": runs}
        (runs / f"seed-{getattr(what, 'seed', 0)}" / what.name).mkdir(parents=True, exist_ok=True)
        listen(Progress("encoder", 1, 2, {"loss": 0.5}))
        listen(Progress("joint", 3, 3, {"loss": 0.125}))
        return what

    def export(trained, folder):
        assert not (folder / "card.json").exists(), "an earlier card tells of other weights"
        told.exported = folder

    def score(folder, items, bar):
        told.items = items
        with bar("scoring", items) as advance:
            advance(items)
        return {}, {}

    def write_card(what, runs, folder, scores, check, **options):
        told.card, told.card_options = folder, options

    for recipe, writer in ((replica, card), (connector, connector_card)):
        monkeypatch.setattr(recipe, "train", train)
        monkeypatch.setattr(recipe, "export", export)
        monkeypatch.setattr(writer, "write_card", write_card)
    monkeypatch.setattr(card, "score", score)
    return told


def test_a_replica(command, noted, tmp_path):
    runs = tmp_path / "[red]runs"
    folder = runs / "seed-3" / "small-dino-nopre" / "model"
    folder.mkdir(parents=True)
    (folder / "card.json").write_text("of an earlier run")
    ended = command("train", "replica/small-dino-nopre", "--runs", runs, "--seed", 3, "--items", 20, "--resume")
    assert (ended.code, ended.out) == (0, f"{folder}\n")
    assert noted.trained.name == "small-dino-nopre"
    assert noted.trained.seed == 3
    assert noted.options == {"runs": runs, "resume": True, "device": "cpu"}
    assert noted.exported == noted.card == folder
    assert noted.items == 20
    assert CELLS["small-dino-nopre"].seed == 0


def test_a_fusion(command, noted, tmp_path):
    ended = command("train", "llava-smollm2-135m-lora", "--runs", tmp_path, "--seed", 2)
    folder = tmp_path / "seed-2" / "llava-smollm2-135m-lora" / "model"
    assert (ended.code, ended.out) == (0, f"{folder}\n")
    assert noted.trained is FUSIONS["llava-smollm2-135m-lora"]
    steps = connector.Steps()
    assert noted.options == {"runs": tmp_path, "steps": steps, "seed": 2, "resume": False, "device": "cpu"}
    assert noted.exported == noted.card == folder
    assert noted.card_options == {"steps": steps, "seed": 2}
    assert noted.items == 1200


@pytest.mark.parametrize("name", ["small-clip", "llava-gemma3-270m"])
def test_every_stage_has_its_bar_and_the_model_goes_where_told(command, noted, tmp_path, name):
    ended = command("train", name, "--runs", tmp_path / "runs", "--out", tmp_path / "model")
    assert (ended.code, ended.out) == (0, f"{tmp_path / 'model'}\n")
    assert noted.exported == noted.card == tmp_path / "model"
    bars = {line.split()[0]: line.split() for line in ended.err.splitlines() if "loss" in line}
    assert {stage: (line[2], line[-1]) for stage, line in bars.items()} == {
        "encoder": ("1/2", "0.500"),
        "joint": ("3/3", "0.125"),
    }


@pytest.fixture
def grid(monkeypatch):
    """In place of training the grid: notes the cells and how they would be trained."""
    told = SimpleNamespace(cells=[], options={})

    def run_grid(runs, cells, *, finished, **options):
        told.cells, told.options = [(cell.name, cell.seed) for cell in cells], options
        for cell in cells:
            finished(cell)

    monkeypatch.setattr(sweep, "run_grid", run_grid)
    monkeypatch.setattr(sweep, "adopt_shipped", lambda runs: ["small-clip", "large-dino"])
    return told


def test_the_grid(command, grid, tmp_path):
    ended = command("train", "--grid", "--runs", tmp_path / "new", "--seeds", 2, "--jobs", 3, "--items", 15)
    assert ended.code == 0
    assert grid.cells == [(cell.name, cell.seed) for cell in sweep.order_of_grid(2)]
    assert grid.options == {"jobs": 3, "items": 15, "device": "cpu"}
    assert "held-out scenes, all questions" in ended.out
    assert ended.out.splitlines()[-1] == str(tmp_path / "new" / "scores.csv")
    assert pd.read_csv(tmp_path / "new" / "scores.csv").empty


def test_shipped_cells_are_kept_with_their_scores(command, grid, tmp_path):
    ended = command("train", "--grid", "--runs", tmp_path, "--seeds", 2, "--keep-shipped")
    assert ended.code == 0
    kept = {("small-clip", 0), ("large-dino", 0)}
    assert grid.cells == [(c.name, c.seed) for c in sweep.order_of_grid(2) if (c.name, c.seed) not in kept]
    scores = pd.read_csv(tmp_path / "scores.csv")
    assert set(zip(scores["cell"], scores["seed"], strict=True)) == kept
    shipped = grid_scores().query("cell == 'small-clip' and seed == 0 and split == 'heldout' and kind == 'all'")
    row = next(line.split("│") for line in ended.out.splitlines() if "│ small-clip" in line)
    assert row[4].strip() == f"{shipped['accuracy'].item():.3f}"


def test_shipping_nothing(refused, tmp_path):
    assert refused("ship", "--runs", tmp_path / "[a]") == f"{tmp_path / '[a]'} has no finished cell"
