"""`vlm-probe models`: all that can be loaded, what each needs, and whether it is here."""

from types import SimpleNamespace

import pytest

from vlm_probe.cli import HUB_MODELS
from vlm_probe.cli.models import verified
from vlm_probe.zoo.catalog import FUSIONS, SOURCES
from vlm_probe.zoo.replicas import DEFAULT, shipped


@pytest.fixture
def rows(command, tmp_path, monkeypatch):
    """Gives the table's rows by name, from an empty cache unless a test fills it."""
    monkeypatch.setenv("VLM_PROBE_CACHE", str(tmp_path))

    def run() -> dict[str, list[str]]:
        ended = command("models")
        assert (ended.code, ended.err) == (0, "")
        lines = ended.out.split("\n\n")[0].splitlines()
        found = {}
        for first, second in zip(lines[::2], lines[1::2], strict=True):
            name, *here = first.split("  ")
            what, needs = second.removeprefix("  ").split("; needs ")
            found[name] = [what, needs, *(here or [""])]
        return found

    return run


def test_everything_that_opens_is_listed_once(rows):
    alone = [name for name in SOURCES if name != "dinov2-small"]  # an encoder: there is nothing to ask
    names = ["replica/default", *(f"replica/{name}" for name in shipped()), *alone, *FUSIONS, *HUB_MODELS, "PATH"]
    assert list(rows()) == names
    assert len(names) == len(set(names)) >= 10


@pytest.mark.parametrize("width", [20, 80, 300])
def test_names_are_whole_at_any_width(rows, monkeypatch, width):
    wide = rows()
    monkeypatch.setenv("COLUMNS", str(width))
    assert rows() == wide


def test_families_are_listed_with_what_was_verified(command):
    told = command("models").out.split("\n\n")[1]
    for row in verified():
        assert f"{row['title']}  {row['part']} {row['family']!r}\n  {row['checks']} checks hold" in told


def test_what_each_needs(rows):
    table = rows()
    assert table["replica/default"] == [f"the same as replica/{DEFAULT}", "nothing", "here"]
    assert table[f"replica/{DEFAULT}"][1:] == ["nothing: shipped in the package", "here"]
    assert table["gemma3-270m"][1] == "vlm-probe fetch gemma3-270m"
    assert table["llava-smollm2-135m"][:2] == [
        "dinov2-small and smollm2-135m, joined by a connector of ours",
        "vlm-probe fetch llava-smollm2-135m",
    ]
    assert "connector and adapters of ours" in table["llava-smollm2-135m-lora"][0]
    assert table["Intel/llava-gemma-7b"][1] == "the Hub, 18 GB of memory in bfloat16"


def test_what_is_fetched_is_here(rows, tmp_path):
    table = rows()
    assert table["smollm2-135m"][2] == "not fetched"
    assert table["llava-smollm2-135m"][2] == "parts not fetched"
    for name in ("smollm2-135m", "dinov2-small"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
    table = rows()
    assert table["smollm2-135m"][2] == table["llava-smollm2-135m"][2] == "here"
    assert table["gemma3-270m"][2] == "not fetched"
    assert table["llava-gemma3-270m"][2] == "parts not fetched"


def test_a_fusion_that_nobody_trained_does_not_open(rows, monkeypatch):
    monkeypatch.setattr("vlm_probe.zoo.catalog.is_shipped", lambda name: name != "llava-gemma3-270m")
    table = rows()
    assert "llava-gemma3-270m" not in table
    assert table["llava-gemma3-270m-lora"][2] == "parts not fetched"


def test_hub_models_in_the_local_cache_and_in_memory(rows, monkeypatch):
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(total=10e9))
    here = {"Intel/llava-gemma-2b"}
    monkeypatch.setattr(
        "huggingface_hub.try_to_load_from_cache", lambda repository, file: file if repository in here else None
    )
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert {name: rows()[name][2] for name in HUB_MODELS} == {
        "Intel/llava-gemma-2b": "downloaded",
        "Intel/llava-gemma-7b": "not downloaded, HF_HUB_OFFLINE is set, more than this machine's memory",
        "llava-hf/llava-1.5-7b-hf": "not downloaded, HF_HUB_OFFLINE is set, more than this machine's memory",
    }
    monkeypatch.delenv("HF_HUB_OFFLINE")
    assert rows()["Intel/llava-gemma-7b"][2] == "not downloaded, more than this machine's memory"
