"""Training on a disk that fills up: what was saved stays, and resuming comes to the very same weights and log."""

import errno
import json
import os

import pytest
import torch
from torch import nn

from vlm_probe.training import loop
from vlm_probe.training.loop import run_stage

STEPS = 101


class Toy:
    """A stage whose loss is a function of weights and step, as every stage's."""

    name, steps, learning_rate = "toy", STEPS, 1e-2

    def __init__(self):
        torch.manual_seed(0)
        self.module = nn.Sequential(nn.Linear(7, 7), nn.LayerNorm(7))
        self.seen: list[int] = []

    def parameters(self):
        return self.module.parameters()

    def loss(self, step):
        self.seen.append(step)
        x = torch.randn(5, 7, generator=torch.Generator().manual_seed(step))
        return self.module(x).square().mean() + self.module(x).mean(), {}

    def after_step(self, step):
        pass


def trained(folder, **options) -> Toy:
    stage = Toy()
    run_stage(stage, folder, **options)
    return stage


def same(one: Toy, other: Toy) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


@pytest.fixture
def whole(tmp_path):
    return trained(tmp_path / "whole", resume=False)


def test_a_state_that_cannot_be_saved_leaves_the_one_before(tmp_path, whole, monkeypatch):
    monkeypatch.setattr(loop, "SAVE_EVERY_S", -1.0)
    replace, left = os.replace, [42]

    def full(source, target):
        left[0] -= 1
        if left[0] == 0:
            raise OSError(errno.ENOSPC, "")
        replace(source, target)

    monkeypatch.setattr("vlm_probe.files.os.replace", full)
    with pytest.raises(OSError, match="No space left") as caught:
        trained(tmp_path / "half", resume=False)
    assert caught.value.filename == str(tmp_path / "half" / "toy.pt")
    again = trained(tmp_path / "half", resume=True)
    assert again.seen[0] == 41
    assert same(again, whole)
    assert (tmp_path / "half" / "toy.jsonl").read_bytes() == (tmp_path / "whole" / "toy.jsonl").read_bytes()
    assert not list(tmp_path.rglob("*.partial"))


def test_a_line_of_the_log_that_was_cut_off_is_none(tmp_path, whole):
    trained(tmp_path / "half", resume=False, until=51)
    log = tmp_path / "half" / "toy.jsonl"
    with log.open("a") as lines:
        lines.write('{"step": 60, "lo')
    assert same(trained(tmp_path / "half", resume=True), whole)
    steps = [json.loads(line)["step"] for line in log.read_text().splitlines()]
    assert steps == [0, 20, 40, 50, 60, 80, 100]


def test_a_log_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    def full(line):
        raise OSError(errno.EDQUOT, "")

    monkeypatch.setattr("vlm_probe.training.loop.json.dumps", full)  # as its file would
    with pytest.raises(OSError, match="quota exceeded") as caught:
        trained(tmp_path / "half", resume=False)
    assert caught.value.filename == str(tmp_path / "half" / "toy.jsonl")
