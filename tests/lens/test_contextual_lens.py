"""The contextual lens streams to what a dense comparison gives, from a bank that is what single runs are."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from tiny import GRID, PATCH, PATCHES, tiny_vlm, untyped

from vlm_probe import VlmProbeError
from vlm_probe.embedding.nearest import cosines_when_turned, nearest_rows, turned_at_random
from vlm_probe.lens.contextual_lens import Bank, _Reservoir, build_bank, contextual_lens, point_of
from vlm_probe.scenes import scene_items
from vlm_probe.scenes.world import sample_scene

TEXTS = ["a red star at the left.", "a red circle at the top.", "", "two blue stars", "a red star"]


@pytest.fixture(scope="module")
def model():
    return tiny_vlm(language="gemma3")


@pytest.fixture(scope="module")
def bank(model):
    return build_bank(model, iter(TEXTS), per_token=3, batch_size=2, dtype=torch.float32)


@pytest.fixture(scope="module")
def inputs(model):
    pixels = np.random.default_rng(3).integers(0, 255, (PATCH * GRID, PATCH * GRID, 3), dtype=np.uint8)
    return model.prepare(Image.fromarray(pixels), "what?")


def words(model, bank) -> list[str]:
    return ["".join(model.token_strings(list(own))) for own in bank.contexts]


def test_a_bank_holds_every_prefix_once(model):
    done = []
    bank = build_bank(model, iter(TEXTS), layers=[1], per_token=101, batch_size=2, progress=done.append)
    assert done == [2, 2, 1]
    every = {text[:n] for text in TEXTS for n in range(1, len(text) + 1)}  # a token a character
    assert Counter(words(model, bank)) == Counter(every)
    assert list(bank.rows) == [1]
    assert bank.rows[1].shape == (len(every), 42)
    assert (bank.about["texts"], bank.about["left_out"]) == (4, [])


@torch.no_grad()
def test_rows_are_those_of_single_runs(model, bank):
    assert list(bank.rows) == [-1, 0, 1, 2]
    for number in range(0, len(bank), 7):
        own = "".join(model.token_strings(list(bank.contexts[number])))
        alone = model.prepare(None, own + "?")  # a context alone may end in a space, which no question does
        at = alone.layout.question_positions[len(bank.contexts[number]) - 1]
        _, cache = model.run_with_cache(alone)
        for layer, rows in bank.rows.items():
            row = cache[point_of(layer)][0, at]
            torch.testing.assert_close(rows[number], row / row.norm(), atol=1e-5, rtol=0)


def test_a_token_keeps_so_many_contexts_each_as_likely(model, bank):
    counts = Counter(own[-1] for own in bank.contexts)
    assert max(counts.values()) == 3
    kept = Counter[int]()
    for seed in range(500):
        drawn = _Reservoir([0], 2, 3, torch.float32, seed)
        for other in range(11):
            slot = drawn.slot((other, 5))
            assert drawn.slot((other, 5)) is None  # met before
            if slot is not None:
                drawn.put(0, [slot], torch.tensor([[1.0, other]]))
        assert len(drawn.contexts) == 3
        rows = drawn.rows[0][:3]
        assert (rows[:, 1] / rows[:, 0]).round().tolist() == [own[0] for own in drawn.contexts]
        kept.update(own[0] for own in drawn.contexts)
    # 500 draws of 3 among 11: 136 of each, give or take 10.
    assert all(100 < kept[other] < 175 for other in range(11))


@torch.no_grad()
@pytest.mark.parametrize("across", [True, False])
def test_streamed_equals_dense(model, bank, inputs, across):
    table = contextual_lens(model, inputs, bank, k=4, across=across, block=5)
    assert len(table) == 4 * PATCHES * 4
    _, cache = model.run_with_cache(inputs)
    at = torch.as_tensor(inputs.layout.image_positions)
    for layer in bank.rows:
        vectors = cache[point_of(layer)][0, at]
        vectors = vectors / vectors.norm(dim=1, keepdim=True)
        own = list(bank.rows) if across else [layer]
        best = (vectors @ torch.cat([bank.rows[one] for one in own]).T).topk(4, dim=1)
        rows = table.query(f"layer == {layer}")
        np.testing.assert_allclose(rows["similarity"], best.values.flatten(), atol=1e-5)
        top = rows.query("rank == 0")
        of, number = np.divmod(best.indices[:, 0].numpy(), len(bank))
        assert top["bank_layer"].tolist() == [own[i] for i in of]
        # What block 0 receives is the same for a token in all contexts: there any of them may be named.
        told = (top["bank_layer"] >= 0).to_numpy()
        assert (top["context"] + top["token"])[told].tolist() == [words(model, bank)[i] for i in number[told]]
        assert top["token_id"].tolist() == [bank.contexts[i][-1] for i in number]
    assert table.query("layer == 0 and rank == 0")[["row", "col"]].to_numpy().tolist() == [
        [i, j] for i in range(GRID) for j in range(GRID)
    ]
    assert not table.isna().any().any()


def test_a_trace_gives_what_its_inputs_give(model, bank, inputs):
    trace = model.trace(inputs, capture=["language.blocks.[02].hook_resid_post"])
    from_trace = untyped(contextual_lens(model, trace, bank, control=False))
    assert from_trace["layer"].unique().tolist() == [0, 2]
    assert from_trace["turned"].isna().all()
    from_inputs = contextual_lens(model, inputs, bank, layers=[0, 2], control=False)
    np.testing.assert_allclose(from_trace["similarity"], from_inputs["similarity"], atol=1e-6)


@torch.no_grad()
def test_a_planted_patch_is_found_in_its_context(model, bank, inputs):
    _, cache = model.run_with_cache(inputs, names_filter=point_of(1))
    patch = cache[point_of(1)][0, inputs.layout.image_positions[7]]
    rows = {layer: own.clone() for layer, own in bank.rows.items()}
    rows[2][11] = patch / patch.norm()  # of another layer than the patch's
    planted = Bank(rows, bank.contexts, bank.about)
    best = contextual_lens(model, inputs, planted, k=1, layers=[1]).iloc[7]
    assert best["similarity"] == pytest.approx(1, abs=1e-5)
    assert (best["bank_layer"], best["context"] + best["token"]) == (2, words(model, bank)[11])
    # Turned with its neighbours around their mean it is near to nothing.
    assert best["turned"] < 0.9


def test_patches_that_have_nothing_to_do_with_texts_are_as_near_as_turned_ones(model, inputs):
    bank = build_bank(model, TEXTS)
    noise = {layer: torch.randn(len(bank), 42, generator=torch.Generator().manual_seed(5)) for layer in bank.rows}
    unrelated = Bank(noise, bank.contexts, bank.about)
    table = untyped(contextual_lens(model, inputs, unrelated, k=1))
    assert table["similarity"].mean() == pytest.approx(table["turned"].mean(), abs=0.05)


def test_the_replicas_patches_are_nearer_to_captions_than_turned_ones(replica):
    bank = build_bank(replica, (sample_scene(seed).caption for seed in range(101)), layers=[1, 2, 3])
    item = next(scene_items(1, seed=3))
    table = contextual_lens(replica, replica.prepare(replica.picture(item), item.question), bank, layers=[2, 3])
    mean = untyped(table.query("rank == 0")).groupby("layer")[["similarity", "turned"]].mean()
    assert (mean["similarity"] > mean["turned"] + 0.03).all()
    assert table.attrs["contexts"] == len(bank)


def test_a_bank_is_kept_in_a_file(model, bank, inputs, tmp_path):
    bank.save(tmp_path / "new" / "bank.safetensors")
    again = Bank.load(tmp_path / "new" / "bank.safetensors")
    assert (again.contexts, again.about, list(again.rows)) == (bank.contexts, bank.about, list(bank.rows))
    assert all(torch.equal(again.rows[layer], rows) for layer, rows in bank.rows.items())
    assert repr(again) == f"Bank({model.name}: {len(bank)} contexts, layers -1, 0, 1, 2)"
    some = Bank.load(tmp_path / "new" / "bank.safetensors", layers=[2])
    assert list(some.rows) == [2]
    with pytest.raises(VlmProbeError, match="holds layers -1, 0, 1, 2, not 3"):
        Bank.load(tmp_path / "new" / "bank.safetensors", layers=[2, 3])
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["bank.safetensors"]


def test_texts_are_read_from_a_file_a_line_each(model, tmp_path):
    path = tmp_path / "texts.txt"
    path.write_text("a red star\n\n<image> of it\nblue\n")
    bank = build_bank(model, path, layers=[0], per_token=101)
    assert {"a red star", "blue"} <= set(words(model, bank))
    assert bank.about["texts"] == 2
    assert bank.about["left_out"] == [
        "text '<image> of it': the question contains '<image>', a special token of this model; leave it out"
    ]


def test_what_cannot_be_done_is_said(model, bank, inputs, tmp_path):
    nothing = tmp_path / "nothing.safetensors"
    save_file({"rows/0": torch.zeros(2, 3)}, nothing)
    other = Bank(bank.rows, bank.contexts, {"model": "another"})
    few = Bank({0: bank.rows[0]}, bank.contexts, bank.about)
    cases = {
        "layers are -1 to 2, got [3]": lambda: build_bank(model, TEXTS, layers=[3]),
        "per_token must be at least 1, got 0": lambda: build_bank(model, TEXTS, per_token=0),
        "no text could be taken; there is none": lambda: build_bank(model, ["", " "]),
        "texts are several texts, or a Path to a file of them, got one text": lambda: build_bank(model, "a red star"),
        f"cannot read {tmp_path / 'no'}: no such file": lambda: Bank.load(tmp_path / "no"),
        f"cannot read {tmp_path}: it is a folder": lambda: Bank.load(tmp_path),
        f"{nothing} is no bank: expected a file that Bank.save wrote ('vlm_probe.bank')": lambda: Bank.load(nothing),
        f"this bank is of another, the model is {model.name}: build one of it": lambda: contextual_lens(
            model, inputs, other
        ),
        "layers are -1 to 2, got 7": lambda: contextual_lens(model, inputs, bank, layers=[7]),
        "the bank holds layers 0, not 1": lambda: contextual_lens(model, inputs, few, layers=[0, 1], across=False),
        f"k must be between 1 and the {len(bank)} rows that count, got 1000": lambda: contextual_lens(
            model, inputs, bank, k=1000
        ),
        "the prompt has no image, and the lens is on its patches": lambda: contextual_lens(
            model, model.prepare(None, "what?"), bank
        ),
        "the trace holds no residual stream; capture language.blocks.*.hook_resid_post": lambda: contextual_lens(
            model, model.trace(inputs, capture=["connector.hook_out"]), bank
        ),
    }
    for said, call in cases.items():
        with pytest.raises(VlmProbeError) as caught:
            call()
        assert str(caught.value) == said
    with pytest.raises(VlmProbeError, match="cannot read texts from no.txt: .*No such file"):
        build_bank(model, Path("no.txt"))


def test_vectors_turned_once_are_the_first_of_those_turned_often():
    generator = torch.Generator().manual_seed(3)
    vectors, table = torch.randn(7, 5, generator=generator), torch.randn(11, 5, generator=generator)
    alone = nearest_rows(turned_at_random(vectors, seed=2), table, k=1).scores[:, 0]
    assert torch.equal(alone, cosines_when_turned(vectors, table, draws=1, seed=2)[0])
    assert not torch.equal(alone, cosines_when_turned(vectors, table, draws=1, seed=3)[0])
