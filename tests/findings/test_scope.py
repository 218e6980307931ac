"""Results of small models are never printed as statements about the paper's."""

import pytest

from vlm_probe.findings import scope_of

REST = ": nothing here is a statement about the 2B or the 7B."


@pytest.mark.parametrize(
    ("models", "said"),
    [
        (["replica/small-clip"], "Replicas are miniatures" + REST),
        (["llava-gemma3-270m-lora", "smollm2-135m"], "The small real models are other models" + REST),
        (
            ["Intel/llava-gemma-2b", "replica/default", "gemma3-270m"],
            "Replicas are miniatures and the small real models are other models" + REST,
        ),
        (["Intel/llava-gemma-2b", "Intel/llava-gemma-7b"], ""),
    ],
)
def test_what_is_said_depends_on_the_models(models, said):
    assert scope_of(models) == said
