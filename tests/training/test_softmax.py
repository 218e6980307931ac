"""The study `softmax`: arms differ in ids and rate alone, its measures are right where the truth is known."""

import json
import random
from math import nan

import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from tiny import untyped
from tiny_parts import fusion, put_parts
from torch import nn

from vlm_probe.errors import VlmProbeError
from vlm_probe.scenes import Scene, sample_scene
from vlm_probe.studies import grid_effects, softmax_differences, softmax_results
from vlm_probe.studies import softmax as study
from vlm_probe.studies.softmax import ARMS, SoftmaxArm, at_an_edge, chosen, collect, find_arm
from vlm_probe.training import softmax as training
from vlm_probe.training.connector import Parts
from vlm_probe.training.fusion import answer_loss, answer_states
from vlm_probe.training.packing import IGNORE
from vlm_probe.training.softmax import SoftmaxStage, gradient_parts, ids_of, score, task_ids, train_arm
from vlm_probe.zoo.catalog import FUSIONS


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    put_parts(tmp_path, monkeypatch)
    monkeypatch.setitem(FUSIONS, "llava-tiny-words", fusion(False))
    monkeypatch.setitem(ARMS, "tiny-words-random", SoftmaxArm("tiny-words", "random"))
    monkeypatch.setattr(training, "SCORED", {"dev": 3, "heldout": 5})
    monkeypatch.setattr(training, "IDS_KEPT", 211)
    monkeypatch.setattr(training, "READ_FOR_IDS", 100)


@pytest.fixture
def parts() -> Parts:
    return Parts(fusion(False), "cpu", 0)


def arm(ids: str = "all", **more) -> SoftmaxArm:
    return SoftmaxArm("tiny-words", ids, **more)


def kept(one: SoftmaxArm, parts: Parts, task: torch.Tensor) -> torch.Tensor:
    found = ids_of(one, parts, task)
    assert found is not None
    return found


def test_arms_have_names_of_their_own_and_the_ids_they_say(parts):
    assert len(ARMS) == 22  # with the toy
    assert [name for name, one in ARMS.items() if find_arm(name, 0) != one] == []
    task = task_ids(parts)
    for word in ("red", "star", "left"):
        assert set(parts.packer.encode(f" {word}")) <= set(task.tolist())
    assert len(task) < 100
    assert ids_of(arm("all"), parts, task) is None
    found = {ids: kept(arm(ids), parts, task) for ids in study.IDS if ids != "all"}
    assert torch.equal(found["task"], task)
    for ids in ("frequent", "random", "hard"):
        assert len(found[ids]) == 211 or ids == "frequent"  # of which the toy's vocabulary has fewer
        assert torch.equal(found[ids], found[ids].unique())
        assert set(task.tolist()) < set(found[ids].tolist())
    added = sorted(set(found["frequent"].tolist()) - set(task.tolist()))
    letters, byte = (parts.tokenizer.convert_tokens_to_ids(token) for token in (list("bcdfghijk"), "<0x41>"))
    assert {*letters} <= {*added, *task.tolist()}
    assert byte not in added
    assert not {*parts.tokenizer.all_special_ids} & set(added)
    assert torch.equal(found["random"], kept(arm("random"), parts, task))
    assert not torch.equal(found["random"], kept(arm("random", seed=1), parts, task))


def test_what_is_a_piece_of_a_word():
    said = {"\u2581the": True, "ing": True, "\u2581": False, "<0x41>": False, "<unused7>": False, "[multimodal]": False}
    said |= {"12": False, "<b>": False, "</h1>": False, "\u00e9t": True, "\n\n": False}
    assert {token: training.is_word_piece(token) for token in said} == said


def test_ids_hard_to_tell_are_those_most_like_each_of_the_task_s(parts, monkeypatch):
    """A twin of every row is found before a second one of any, wherever the rows' mean lies."""
    task = task_ids(parts)
    others = [i for i in range(len(parts.language.lm_head.weight)) if i not in set(task.tolist())]
    planted = random.Random(0).sample(others, 2 * len(task))
    weight = parts.language.lm_head.weight
    with torch.no_grad():
        own = torch.randn(len(task), weight.shape[1], generator=torch.manual_seed(1)).to(weight.dtype)
        weight[task], weight[planted[: len(task)]] = own, own
        for i, at in enumerate(planted[len(task) :]):  # near twins of the first alone
            weight[at] = own[0] + 0.1 * (i + 1)
        weight += 3.0
    monkeypatch.setattr(training, "IDS_KEPT", 2 * len(task))
    assert set(kept(arm("hard"), parts, task).tolist()) == {*task.tolist(), *planted[: len(task)]}


def test_arms_see_the_same_scenes_and_begin_from_the_same_connector(monkeypatch):
    seen = []
    for one in (arm("all"), arm("task", rate=2.0)):
        parts = Parts(fusion(False), "cpu", one.seed)
        stage = SoftmaxStage(parts, one, ids_of(one, parts, task_ids(parts)), 3)
        read: list[list[Scene]] = []

        def rows(scenes, stage=stage, read=read):
            read.append(scenes)
            return SoftmaxStage.rows(stage, scenes)

        monkeypatch.setattr(stage, "rows", rows)
        stage.loss(0)
        seen.append((read, stage.learning_rate, parts.connector.state_dict()))
    assert seen[0][0] == seen[1][0]
    assert seen[1][1] == 2 * seen[0][1]
    assert all(torch.equal(a, b) for a, b in zip(seen[0][2].values(), seen[1][2].values(), strict=True))


def batch(parts, n=2):
    stage = SoftmaxStage(parts, arm(), None, 3)
    scenes = [sample_scene(seed) for seed in range(n)]
    return stage, stage.pack(scenes, random.Random(0)), stage.rows(scenes)


def test_a_softmax_over_some_ids_is_that_of_all_with_the_others_at_nothing(parts):
    _, packed, rows = batch(parts)
    task = task_ids(parts)
    every = torch.arange(len(parts.language.lm_head.weight))
    torch.testing.assert_close(
        answer_loss(parts.language, packed, rows, ids=every)[0], answer_loss(parts.language, packed, rows)[0]
    )
    hidden, _ = answer_states(parts.language, packed, rows)
    logits = (hidden @ parts.language.lm_head.weight.T).float()
    masked = torch.full_like(logits, -torch.inf)
    masked[:, task] = logits[:, task]
    asked = packed.labels != IGNORE
    each = F.cross_entropy(masked, packed.labels[asked], reduction="none")
    answers = packed.answers[asked]
    expected = each[answers].mean() if answers.all() else each[answers].mean() + 0.5 * each[~answers].mean()
    loss, shares = answer_loss(parts.language, packed, rows, ids=task)
    torch.testing.assert_close(loss, expected)
    right = (masked.argmax(-1) == packed.labels[asked]).float().mean().item()
    assert shares["token_accuracy"] == pytest.approx(right)


def as_float32(parts) -> None:
    """Parts of a gradient are compared closer than half precision tells."""
    nn.Module.to(parts.language, torch.float32)


def test_the_gradient_s_parts_are_those_of_the_loss(parts, monkeypatch):
    as_float32(parts)
    stage, packed, rows = batch(parts)
    task = task_ids(parts)
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: torch.enable_grad())
    rows = rows.detach().float().requires_grad_()
    whole, own = (
        torch.autograd.grad(answer_loss(parts.language, packed, rows, ids=ids)[0], rows)[0].flatten()
        for ids in (None, task)
    )
    found = gradient_parts(stage, packed, rows, task)
    assert found["cosine"] == pytest.approx(torch.cosine_similarity(whole, own, dim=0).item(), abs=1e-5)
    assert found["task_loss"] == pytest.approx(answer_loss(parts.language, packed, rows, ids=task)[0].item(), rel=1e-5)
    added = (whole - own).norm()
    assert found["others_share"] == pytest.approx((added / (added + own.norm())).item(), abs=1e-4)
    assert 0.05 < found["others_share"] < 0.95
    # A softmax is blind to what is added to every row alike, and so is this.
    parts.language.config.tie_word_embeddings = False
    shifted = parts.language.lm_head.weight.detach() + 0.7 * torch.randn(rows.shape[-1], generator=torch.manual_seed(0))
    parts.language.lm_head.weight = nn.Parameter(shifted)
    assert gradient_parts(stage, packed, rows, task) == pytest.approx(found, abs=1e-4)
    # Ids that have no chance add nothing.
    unused = torch.ones(len(shifted), dtype=torch.bool)
    unused[task] = False

    def with_a_one(*given):
        hidden, packed = answer_states(*given)
        return torch.cat([hidden, torch.ones(len(hidden), 1)], -1), packed

    monkeypatch.setattr(training, "answer_states", with_a_one)
    bias = torch.where(unused, -1e4, 0.0)[:, None]
    parts.language.lm_head.weight = nn.Parameter(torch.cat([shifted, bias], -1))
    assert gradient_parts(stage, packed, rows, task)["others_share"] == 0.0


def test_ids_that_all_are_right_pull_as_the_task_alone_does(parts):
    as_float32(parts)
    stage, packed, rows = batch(parts)
    found = gradient_parts(stage, packed, rows, torch.arange(len(parts.language.lm_head.weight)))
    assert found["others_share"] == 0.0
    assert found["cosine"] == pytest.approx(1.0, abs=1e-5)


def test_an_answer_is_right_where_every_token_of_it_is(parts, monkeypatch):
    """Planted states: known tokens are read off, others are told wrong, or named right among the task's ids alone."""
    task, told = task_ids(parts), random.Random(3)
    table = torch.eye(len(parts.language.lm_head.weight))
    parts.language.config.tie_word_embeddings = False
    parts.language.lm_head.weight = nn.Parameter(table.to(torch.bfloat16))
    other = next(i for i in range(len(table)) if i not in set(task.tolist()))
    expected: list[tuple[str, bool, bool]] = []
    asked: list[int] = []

    def planted(model, packed, rows):
        asked.append(len(rows))
        if len(asked) % 2 == 0:  # with other images: nothing is right
            n = int((packed.labels != IGNORE).sum())
            return torch.eye(len(table), dtype=torch.bfloat16)[[other] * n], packed
        states = []
        for row, kinds in enumerate(packed.kinds):
            for number, kind in enumerate(kinds, start=1):
                labels = packed.labels[row][(packed.segment[row] == number) & (packed.labels[row] != IGNORE)].tolist()
                flaws = [told.choice(["", "", "", "wrong", "other"]) for _ in labels]
                for label, flaw in zip(labels, flaws, strict=True):
                    wrong = int(task[0]) if label != int(task[0]) else int(task[1])
                    states.append(table[wrong] if flaw == "wrong" else table[label])
                    if flaw == "other":  # the right one of the task's, but an id that no answer has is before it
                        states[-1] = states[-1] + 2 * table[other]
                if kind != "caption":
                    expected.append((kind, "wrong" not in flaws, not any(flaws)))
        return 20 * torch.stack(states).to(torch.bfloat16), packed

    monkeypatch.setattr(training, "answer_states", planted)
    stage = SoftmaxStage(parts, arm(), None, 3)
    rows = untyped(pd.DataFrame(score(stage, task, "heldout")).set_index("kind"))
    known = untyped(pd.DataFrame(expected, columns=["kind", "task", "all"]))
    assert len(known) == 5 * stage.plan.questions == rows.loc["all", "n"]
    assert 0 < known["all"].mean() < known["task"].mean() < 1
    assert rows["accuracy_other_images"].eq(0).all()
    assert asked == [2, 2, 2, 2, 1, 1]
    for kind, own in [*known.groupby("kind"), ("all", known)]:
        assert rows.loc[kind, ["n", "accuracy", "accuracy_all_ids"]].tolist() == pytest.approx(
            [len(own), own["task"].mean(), own["all"].mean()], abs=1e-6
        )


def test_questions_packed_together_score_as_each_alone(parts):
    """Loss of a question's answer, of one sequence with its image and nothing else, by plain transformers."""
    stage = SoftmaxStage(parts, arm(), None, 3)
    task = task_ids(parts)
    total, tokens = 0.0, 0
    with torch.no_grad():
        for scenes, packed in training._batches(stage, "dev", 3, "heldout"):
            rows = stage.rows(scenes)
            for row, kinds in enumerate(packed.kinds):
                for number, kind in enumerate(kinds, start=1):
                    if kind == "caption":
                        continue
                    at = (packed.segment[row] == 0) | (packed.segment[row] == number)
                    ids, labels = packed.input_ids[row][at], packed.labels[row][at]
                    embeds = parts.language.get_input_embeddings()(ids)
                    first = packed.patches_at
                    embeds[first : first + rows.shape[1]] = rows[row].to(embeds.dtype)
                    logits = parts.language(inputs_embeds=embeds[None]).logits[0][labels != IGNORE][:, task].float()
                    position = torch.searchsorted(task, labels[labels != IGNORE])
                    total += F.cross_entropy(logits, position, reduction="sum").item()
                    tokens += len(position)
    (found,) = [row for row in score(stage, task, "dev") if row["kind"] == "all"]
    assert found["loss"] == pytest.approx(total / tokens, rel=2e-2)  # bfloat16


class KilledError(Exception):
    pass


def test_a_killed_run_comes_to_the_same_scores(tmp_path, monkeypatch):
    one = arm("random")
    whole = json.loads(train_arm(one, tmp_path / "whole", steps=8).read_text())
    at = [(row["share"], row["batch"]) for row in whole["gradients"]]
    assert at == [(share, batch) for share in study.MEASURED_AT for batch in range(training.MEASURED_ON)]
    assert {row["scenes"] for row in whole["scores"]} == {16}
    monkeypatch.setattr("vlm_probe.training.loop.SAVE_EVERY_S", 0.0)
    for step in (1, 2, 5):

        def kill(progress, step=step):
            if progress.step == step:
                raise KilledError

        with pytest.raises(KilledError):
            train_arm(one, tmp_path / "killed", steps=8, listen=kill)
    again = json.loads(train_arm(one, tmp_path / "killed", steps=8).read_text())
    for found in (whole, again):
        del found["made"][0]["seconds"]
    assert again == whole
    trained = []
    train_arm(one, tmp_path / "killed", steps=8, listen=trained.append)
    assert not trained
    tables = collect(tmp_path / "killed")
    assert list(tables["scores"]) == [*study.SCORES]
    assert list(tables["gradients"]) == [*study.GRADIENTS]
    assert list(tables["made"]) == [*study.MADE]
    assert tables["scores"]["seed"].tolist() == [0] * len(whole["scores"])


def test_the_rate_is_chosen_by_the_loss_of_dev_scenes_from_seed_0():
    def row(name, loss, split="dev", seed=0):
        return {"arm": name, "split": split, "kind": "all", "seed": seed, "loss": loss}

    table = pd.DataFrame(
        [
            *(row(f"gemma3-270m-all{rate}", loss) for rate, loss in (("", 0.5), ("-x0.5", 0.4), ("-x2", 0.6))),
            *(row(f"gemma3-270m-task{rate}", loss) for rate, loss in (("", 0.3), ("-x0.5", 0.4), ("-x2", 0.3))),
            row("gemma3-270m-all-x2", 0.0, split="heldout"),
            row("gemma3-270m-all-x2", 0.0, seed=1),
            row("smollm2-135m-all", 0.1),  # its other rates are not there
            *(row(f"gemma3-270m-hard{rate}", loss) for rate, loss in (("", nan), ("-x0.5", nan), ("-x2", 0.9))),
        ]
    )
    best = chosen(table)
    assert [one.name for one in best] == ["gemma3-270m-task", "gemma3-270m-hard-x2", "gemma3-270m-all-x0.5"]
    assert at_an_edge(best) == ["gemma3-270m-hard-x2", "gemma3-270m-all-x0.5"]


def test_ids_are_compared_with_the_task_s_alone_seed_by_seed_at_the_chosen_rates():
    """By hand: at its best rate training over all ids is 0.1 and 0.3 behind, in two seeds that did not choose it."""

    def rows(name, accuracy, loss, seed):
        own = {"arm": name, "kind": "all", "seed": seed, "n": 10, "accuracy": accuracy, "loss": loss}
        return [{**own, "split": split} for split in ("dev", "heldout")]

    table = pd.DataFrame(
        [
            *rows("gemma3-270m-task", 0.7, 1.0, 0),
            *rows("gemma3-270m-task-x0.5", 0.1, 1.5, 0),
            *rows("gemma3-270m-task-x2", 0.1, 1.5, 0),
            *rows("gemma3-270m-all", 0.1, 1.75, 0),
            *rows("gemma3-270m-all-x0.5", 0.6, 1.25, 0),
            *rows("gemma3-270m-all-x2", 0.1, 2.0, 0),
            *rows("gemma3-270m-task", 0.7, 1.0, 1),
            *rows("gemma3-270m-all-x0.5", 0.6, 1.25, 1),
            *rows("gemma3-270m-task", 0.8, 1.0, 2),
            *rows("gemma3-270m-all-x0.5", 0.5, 1.5, 2),
            *rows("smollm2-135m-task", 0.8, 1.0, 0),
        ]
    )
    found = softmax_differences(table).query("split == 'heldout'")
    assert found["second"].unique().tolist() == ["gemma3-270m-all"]
    assert found["first"].unique().tolist() == ["gemma3-270m-task"]
    assert found["difference"].tolist() == pytest.approx([-0.1, -0.3])
    (effect,) = grid_effects(found).to_dict("records")
    assert (effect["seeds"], effect["verdict"]) == (2, "undecided")
    assert effect["difference"] == pytest.approx(-0.2)
    assert softmax_differences(table, "loss").query("split == 'dev'")["difference"].tolist() == [0.25, 0.5]
    assert softmax_differences(table.iloc[:12]).empty
    alike = pd.concat([rows_of for seed in range(1, 7) for rows_of in [_alike(seed)]], ignore_index=True)
    first = table.query("seed == 0")
    (effect,) = grid_effects(
        softmax_differences(pd.concat([first, alike])).query("split == 'dev'"), margin=0.02
    ).to_dict("records")
    assert effect["verdict"] == "equivalent"


def _alike(seed: int) -> pd.DataFrame:
    """Two arms that differ by an item of a thousand, now one way and now the other."""
    about = {"kind": "all", "seed": seed, "n": 1000, "split": "dev", "loss": 1.0}
    right = {"gemma3-270m-task": 0.5, "gemma3-270m-all-x0.5": 0.5 + 0.001 * (-1) ** seed}
    return pd.DataFrame([{"arm": arm, "accuracy": share, **about} for arm, share in right.items()])


def test_what_is_not_there(monkeypatch):
    with pytest.raises(
        VlmProbeError, match=r"^study softmax has no arm 'gemma3-270m-al'; nearest are 'gemma3-270m-all'"
    ):
        find_arm("gemma3-270m-al", 0)
    monkeypatch.setattr(study, "_FILES", {"scores": ("nothing.csv", study.SCORES)})
    with pytest.raises(VlmProbeError, match="has no table yet; train it with vlm-probe study softmax"):
        softmax_results()
    with pytest.raises(VlmProbeError, match="no table 'score'; there are scores"):
        softmax_results("score")


def test_scenes_that_ask_for_more_than_the_task_s_ids_are_refused(parts):
    stage = SoftmaxStage(parts, arm(), None, 3)
    with pytest.raises(VlmProbeError, match=r"the softmax is over ids that \[.*\] are not among"):
        score(stage, task_ids(parts)[::2].contiguous(), "dev")
