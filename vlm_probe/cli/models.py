"""`vlm-probe models`: what can be loaded, and what each needs."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator
from importlib import resources

from vlm_probe.cli.terminal import console, plain

HUB_MODELS = {
    "Intel/llava-gemma-2b": ("the paper's 2B, CLIP ViT-L/14-336", 2.82),
    "Intel/llava-gemma-7b": ("the paper's 7B, original layout", 8.86),
    "llava-hf/llava-1.5-7b-hf": ("the Llama baseline", 7.06),
}
"""What it is, and billions of parameters (a test counts them)."""


def models() -> None:
    """List what can be loaded, and what each needs."""
    # Two lines a model, and no table: a name is there to be copied, and stays whole however narrow the terminal is.
    for name, what, needs, here in _listed():
        console.print(f"[bold]{plain(name)}[/bold]  {here}".rstrip(), highlight=False, soft_wrap=True)
        console.print(f"  {plain(what)}; needs {plain(needs)}", style="dim", highlight=False, soft_wrap=True)
    console.print(
        "\n[bold]Families[/bold], and what `vlm-probe verify` finds on a random miniature of each", highlight=False
    )
    for row in verified():
        found = f"{row['checks']} checks hold, {row['points']} points, within {row['difference']} of transformers"
        found = f"{found} {row['transformers']}"
        console.print(
            f"{plain(row['title'])}  [dim]{row['part']} {row['family']!r}[/dim]", highlight=False, soft_wrap=True
        )
        console.print(f"  {found}", style="dim", highlight=False, soft_wrap=True)


def _listed() -> Iterator[tuple[str, str, str, str]]:
    """Name, what it is, what it needs, whether it is here: of everything that `load` opens."""
    from vlm_probe.zoo.catalog import FUSIONS, SOURCES, is_fetched, is_shipped
    from vlm_probe.zoo.replicas import DEFAULT, shipped

    yield "replica/default", f"the same as replica/{DEFAULT}", "nothing", "here"
    for name in shipped():
        yield f"replica/{name}", "trained miniature of LLaVA-Gemma", "nothing: shipped in the package", "here"
    for source in SOURCES.values():
        if source.kind == "gguf":  # an encoder alone is a part of others, and nothing to load
            here = "here" if is_fetched(source.name) else "not fetched"
            yield source.name, f"a language model alone: {source.what}", f"vlm-probe fetch {source.name}", here
    for one in FUSIONS.values():
        if is_shipped(one.name):
            how = "connector and adapters of ours" if one.adapters else "a connector of ours"
            parts = (one.encoder, one.language)
            here = "here" if all(map(is_fetched, parts)) else "parts not fetched"
            yield one.name, f"{' and '.join(parts)}, joined by {how}", f"vlm-probe fetch {one.name}", here
    for name, (what, billions) in HUB_MODELS.items():
        need = 2 * billions
        yield name, what, f"the Hub, {need:.0f} GB of memory in bfloat16", _here(name, need)
    families = verified()
    classes, encoders, languages = (
        "; ".join(row["title"] for row in families if row["part"] == part)
        for part in ("model", "encoder", "language model")
    )
    yield (
        "PATH",
        f"any checkpoint directory of these: {classes}; LLaVA's also in its original layout. Encoders: {encoders}. "
        f"Language models: {languages}. Such a language model alone; adapters of peft's on one of them",
        "its files",
        "",
    )


def verified() -> list[dict[str, str]]:
    """A row a family: part, family (the configuration's model_type), title, and how its miniature did in `verify`."""
    text = resources.files("vlm_probe").joinpath("hooked/verified.csv").read_text()
    return list(csv.DictReader(text.splitlines()))


def _here(repository: str, gigabytes: float) -> str:
    """Whether a Hub model is in the local cache, and whether it fits."""
    import psutil
    from huggingface_hub import try_to_load_from_cache

    cached = isinstance(try_to_load_from_cache(repository, "config.json"), str)
    fits = psutil.virtual_memory().total / 1e9 > gigabytes
    offline = os.environ.get("HF_HUB_OFFLINE") == "1"
    where = "downloaded" if cached else "not downloaded" + (", HF_HUB_OFFLINE is set" if offline else "")
    return where + ("" if fits else ", more than this machine's memory")
