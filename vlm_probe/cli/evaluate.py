"""`vlm-probe evaluate`: models asked the same items, scored and compared."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vlm_probe.cli.engine import Actors, Address, EngineName, Gpus, engine_of
from vlm_probe.cli.terminal import (
    Device,
    Dtype,
    EmbedScale,
    ItemFormat,
    Prompt,
    SkipBad,
    bar,
    check_models,
    err,
    load_model,
    load_quietly,
    plain,
    say,
    show,
)
from vlm_probe.errors import VlmProbeError

if TYPE_CHECKING:
    import pandas as pd

    from vlm_probe.hooked import HookedVLM
    from vlm_probe.items import Item
    from vlm_probe.running.evaluation import Evaluation


def evaluate(
    model: Annotated[list[str] | None, typer.Option("--model", "-m", help="May be given several times.")] = None,
    items: Annotated[
        list[str] | None,
        typer.Option(
            help="scenes (the default), or a question file: POPE, MMVP, GQA, VQAv2, MME (or the folder of its "
            "categories), MM-Vet, or an item file of your own. May be given several times."
        ),
    ] = None,
    images: Annotated[
        list[Path] | None, typer.Option(help="Folder with the question files' images; one for all, or one each.")
    ] = None,
    answers: Annotated[
        list[Path] | None,
        typer.Option(
            help="Answers given elsewhere: lmms-eval's samples (compared with each other), or an answers.parquet of "
            "the same items."
        ),
    ] = None,
    out: Annotated[
        Path, typer.Option(help="Folder for the answers and tables; an earlier evaluation's are replaced.")
    ] = Path("evaluation"),
    n: Annotated[int, typer.Option(min=1, help="Generated items of every family.")] = 200,
    seed: Annotated[int, typer.Option(help="Of the generated items, and of sign flips.")] = 0,
    format: ItemFormat = None,
    suffix: Annotated[
        str,
        typer.Option(
            help="Appended to every question, after a line break; benchmark for each benchmark's own answer format."
        ),
    ] = "",
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Length of an answer at most.")] = 16,
    skip_bad: SkipBad = False,
    prompt: Prompt = None,
    device: Device = None,
    dtype: Dtype = None,
    embed_scale: EmbedScale = None,
    engine: EngineName = "local",
    address: Address = None,
    actors: Actors = None,
    gpus: Gpus = None,
) -> None:
    """Ask models the same items, score every answer, and compare the models. A killed run goes on where it stopped."""
    names = list(dict.fromkeys(model or ([] if answers else ["replica/default"])))
    check_models(names)
    where = engine_of(engine, address, actors, gpus, device)
    for file in (*(name for name in items or [] if name != "scenes"), *(answers or [])):
        if not Path(file).exists():
            raise VlmProbeError(f"no such file or folder: {file}")
    with err.status("reading"):
        from vlm_probe.items.gathering import gather_items, read_answers
        from vlm_probe.running import evaluation
        from vlm_probe.running.scheduling import cluster
        from vlm_probe.scenes import family_items

        read, skipped = gather_items(
            list(dict.fromkeys(items or ["scenes"])),
            images or [],
            generated=lambda: family_items(n, seed=seed),
            format=format,
            skip_bad=skip_bad,
        )
        tables = [read_answers(file, skipped, skip_bad=skip_bad) for file in answers or []]
    _check_answers(dict(zip(answers or [], tables, strict=True)), read, names)
    load, here = partial(load_quietly, device=device, dtype=dtype, embed_scale=embed_scale, prompt=prompt), device
    if where.name != "local":
        # A GPU is the actors': here the model is only looked at, with numbers of the kind that theirs will be.
        load, here, dtype = _to_actors(load, device, dtype)
    with cluster(where):
        for name in names:
            loaded = load_model(name, here, dtype, embed_scale, prompt)
            with bar(plain(name), len(read)) as advance:
                asked = evaluation.evaluate(
                    loaded,
                    read,
                    parts=out / "parts",
                    suffix=suffix,
                    max_new_tokens=max_new_tokens,
                    skip_bad=skip_bad,
                    engine=where,
                    load=load,
                    progress=advance,
                )
            tables.append(asked)
            skipped += asked.attrs["skipped"]
    result = evaluation.write_evaluation(tables, out, seed=seed, skipped=skipped)
    for problem in skipped[:5]:
        err.print(f"skipped: {plain(problem)}", soft_wrap=True, highlight=False)
    if len(skipped) > 5:
        err.print(f"... {len(skipped)} in all, see {plain(str(out / 'skipped.txt'))}")
    _show_result(result)
    say(out)


def _to_actors(load: partial[HookedVLM], device: str | None, dtype: str | None) -> tuple[partial[HookedVLM], str, str]:
    """What opens the model in actors, and the device and dtype with which it is opened here beside them."""
    from vlm_probe.opening import find_device, find_dtype

    number = str(find_dtype(dtype, find_device(device))).removeprefix("torch.")
    return partial(load, dtype=number), "cpu", number


def _check_answers(tables: dict[Path, pd.DataFrame], items: list[Item], names: list[str]) -> None:
    """Whether answers given elsewhere can be compared with the models named; says, once, where images are not told."""
    for file, table in tables.items():
        if names and {item.id for item in items}.isdisjoint(table["id"]):
            raise VlmProbeError(f"{file} answers none of these items, so that {names[0]} cannot be compared with it")
    if untold := [str(file) for file, table in tables.items() if (table["image"].to_numpy() == "").any()]:
        which = f"{untold[0]} does" if len(untold) == 1 else f"{untold[0]} and {len(untold) - 1} more do"
        err.print(
            f"{plain(which)} not tell which questions are about one image: intervals take each question (or pair) for "
            "itself",
            soft_wrap=True,
            highlight=False,
        )


def _show_result(result: Evaluation) -> None:
    """The models' scores side by side, and every comparison."""
    wide = result.metrics.pivot_table(index=["family", "metric"], columns="model", values="value", sort=False)
    show(wide.reset_index(), "metrics")
    for table in result.comparisons:
        a, b = table.attrs["first"], table.attrs["second"]
        intervals = zip(table["difference"], table["low"], table["high"], strict=True)
        shown = table[["family", "n"]].assign(
            **{a: table["a"], b: table["b"]},
            difference=[
                f"{d:+.3f} (too few)" if math.isnan(low) else f"{d:+.3f} ({low:+.3f} to {high:+.3f})"
                for d, low, high in intervals
            ],
            p=table["p_holm"].fillna(table["p"]),
            verdict=table["verdict"].str.split(" (", regex=False).str[0],
        )
        show(shown, f"is {b} better than {a}? (95 % intervals; p after Holm over the families)")
