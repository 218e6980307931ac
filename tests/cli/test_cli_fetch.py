"""`vlm-probe fetch`: which models a name brings, and what is said meanwhile (see tests/zoo for fetching itself)."""

from pathlib import Path

import pytest

from vlm_probe.zoo.catalog import SOURCES


@pytest.fixture
def asked_for(monkeypatch):
    """In place of fetching: notes the names, and says and returns things with brackets."""
    names: list[str] = []

    def fetch_model(name, *, say):
        names.append(name)
        say(f"terms of {name}: [bold]read me[/bold]")
        return Path("/cache/[red]") / name

    monkeypatch.setattr("vlm_probe.zoo.fetching.fetch_model", fetch_model)
    return names


@pytest.mark.parametrize(
    ("name", "models"),
    [
        ("dinov2-small", ["dinov2-small"]),
        ("llava-gemma3-270m-lora", ["gemma3-270m", "dinov2-small"]),
        ("real-small", list(SOURCES)),
    ],
)
def test_a_name_brings_its_models(command, asked_for, name, models):
    ended = command("fetch", name)
    assert ended.code == 0
    assert asked_for == models
    assert ended.out == "".join(f"/cache/[red]/{one}\n" for one in models)
    assert ended.err == "".join(f"terms of {one}: [bold]read me[/bold]\n" for one in models)


def test_an_unknown_name(refused, asked_for):
    assert refused("fetch", "smollm2-135") == (
        "nothing called 'smollm2-135' to fetch; nearest are 'smollm2-135m', 'llava-smollm2-135m', "
        "'llava-smollm2-135m-lora'"
    )
    assert refused("fetch", "[bold]").startswith("nothing called '[bold]' to fetch")
    assert asked_for == []


def test_a_cache_that_cannot_be_written(refused, in_the_way, monkeypatch):
    monkeypatch.setenv("VLM_PROBE_CACHE", str(in_the_way))
    assert refused("fetch", "dinov2-small") == f"cannot write to {in_the_way}: Not a directory"
