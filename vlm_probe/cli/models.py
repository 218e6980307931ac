"""`vlm-probe models`: what can be loaded, and what each needs."""

from __future__ import annotations

import os

from rich.table import Table

from vlm_probe.cli.terminal import console

HUB_MODELS = {
    "Intel/llava-gemma-2b": ("the paper's 2B, CLIP ViT-L/14-336", 2.82),
    "Intel/llava-gemma-7b": ("the paper's 7B, original layout", 8.86),
    "llava-hf/llava-1.5-7b-hf": ("the Llama baseline", 7.06),
}
"""What it is, and billions of parameters (a test counts them)."""


def models() -> None:
    """List what can be loaded, and what each needs."""
    from vlm_probe.zoo.catalog import FUSIONS, SOURCES, is_fetched, is_shipped
    from vlm_probe.zoo.replicas import DEFAULT, shipped

    table = Table()
    # A name is there to be copied: it is never broken across lines.
    table.add_column("name", no_wrap=True)
    for header in ("what it is", "needs", "here"):
        table.add_column(header)
    table.add_row("replica/default", f"the same as replica/{DEFAULT}", "nothing", "yes")
    for name in shipped():
        table.add_row(f"replica/{name}", "trained miniature of LLaVA-Gemma", "nothing: shipped in the package", "yes")
    for source in SOURCES.values():
        here = "yes" if is_fetched(source.name) else "not fetched"
        table.add_row(source.name, source.what, f"vlm-probe fetch {source.name}", here)
    for one in FUSIONS.values():
        how = "connector and adapters of ours" if one.adapters else "a connector of ours"
        parts = (one.encoder, one.language)
        here = "yes" if all(map(is_fetched, parts)) else "parts not fetched"
        here = here if is_shipped(one.name) else "not trained"
        table.add_row(one.name, f"{' and '.join(parts)}, joined by {how}", f"vlm-probe fetch {one.name}", here)
    for name, (what, billions) in HUB_MODELS.items():
        need = 2 * billions
        table.add_row(name, what, f"the Hub, {need:.0f} GB of memory in bfloat16", _here(name, need))
    table.add_row(
        "PATH",
        "any LLaVA checkpoint directory: Hugging Face or original layout, CLIP or DINOv2 encoder, "
        "Gemma, Gemma 2, Gemma 3, Llama or Qwen2",
        "its files",
        "",
    )
    console.print(table)


def _here(repository: str, gigabytes: float) -> str:
    """Whether a Hub model is in the local cache, and whether it fits."""
    import psutil
    from huggingface_hub import try_to_load_from_cache

    cached = isinstance(try_to_load_from_cache(repository, "config.json"), str)
    fits = psutil.virtual_memory().total / 1e9 > gigabytes
    offline = os.environ.get("HF_HUB_OFFLINE") == "1"
    where = "downloaded" if cached else "not downloaded" + (", HF_HUB_OFFLINE is set" if offline else "")
    return where + ("" if fits else ", more than this machine's memory")
