"""V1: what a vocabulary costs is counted, and said to be no more than that."""

import pytest
from tiny import LANGUAGES, tiny_language, tiny_vlm

from vlm_probe.evidence import Verdict, judge_all
from vlm_probe.findings import run
from vlm_probe.findings.v1_cost import AMOUNTS, FINDING, vocabulary_cost
from vlm_probe.hooked.anatomy import embedding, is_tied, parameter_count, unembedding
from vlm_probe.hooked.untrained import untrained
from vlm_probe.scenes import scene_items


@pytest.mark.parametrize("model", [tiny_language("gemma3"), tiny_vlm("clip", "llama")], ids=lambda m: str(m.name))
def test_parameters_are_those_of_the_matrices(model):
    tables = vocabulary_cost(model, [])
    cost = tables["cost"].iloc[0]
    own = embedding(model).numel() + (0 if is_tied(model) else unembedding(model).numel())
    assert (cost["vocabulary_parameters"], cost["parameters"]) == (own, parameter_count(model))
    assert cost["parameters_share"] == pytest.approx(own / parameter_count(model))
    assert (cost["rows"], cost["width"], cost["tied"]) == (*embedding(model).shape, is_tied(model))
    # The unembedding multiplies once a row and feature, and adds as often, whether it is the embedding or not.
    assert cost["vocabulary_flops_per_token"] == 2 * unembedding(model).numel()
    for name in AMOUNTS:
        assert cost[name] == cost[f"vocabulary_{name}"] + cost[f"other_{name}"]
        assert cost[f"{name}_share"] + cost[f"{name}_rest"] == pytest.approx(1)
        assert cost[name] == tables["parts"][name].to_numpy().sum()


def test_all_of_it_is_a_description():
    model = tiny_language("llama")
    measured = {name: vocabulary_cost(one, []) for name, one in (("a", model), ("b", tiny_vlm("clip", "gemma")))}
    rows = judge_all(FINDING.claims, measured)
    assert {row.verdict for row in rows} == {Verdict.DESCRIPTIVE}
    assert [row.models for row in rows if row.claim == "parameters_more"] == ["a, b"]
    assert {row.n for row in rows} == {1}


def test_a_model_and_its_untrained_copy_cost_the_same():
    model = tiny_language("gemma3")
    one, other = (vocabulary_cost(m, [])["cost"].iloc[0].to_dict() for m in (model, untrained(model)))
    assert one == other
    assert one["rows"] == LANGUAGES["gemma3"]().vocab_size


def test_it_is_measured_shown_and_drawn_from_its_tables():
    result = run(["V1"], ["replica/small-clip", "replica/small-clip-v320"], list(scene_items(1)))
    shown = result.shown(FINDING)
    assert set(shown.tables) == {"parts", "cost"}
    assert shown.tables["cost"]["model"].tolist() == ["replica/small-clip", "replica/small-clip-v320"]
    share = shown.tables["cost"]["parameters_share"].iloc[0]
    assert shown.summary[0].startswith(f"{share:.0%} of replica/small-clip's ")
    assert result.untrained == {}
