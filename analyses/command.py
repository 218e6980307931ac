"""What the analyses share: their options, measuring findings behind a bar, and how they end."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import pandas as pd
from rich.progress import Progress

import vlm_probe
from vlm_probe import VlmProbeError, findings
from vlm_probe.figures import save
from vlm_probe.files import DISK_ERRORS, disk_trouble, replacing
from vlm_probe.findings import Run, generated_items, scope_of, steps
from vlm_probe.findings.listing import evidence_text
from vlm_probe.hooked import HookedVLM
from vlm_probe.items import Item
from vlm_probe.report import chapters, draw
from vlm_probe.zoo.replicas import shipped


def options(about: str, models: Iterable[str], *, n: int) -> argparse.ArgumentParser:
    """What all analyses take. models: the defaults, of which those that are shipped count."""
    default = [name for name in models if name.removeprefix("replica/") in shipped()]
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--models", nargs="+", default=default, help="compared with the first")
    parser.add_argument("--n", type=int, default=n, help="generated scenes, and as many twins")
    parser.add_argument("--seed", type=int, default=0, help="of the scenes and of every draw")
    parser.add_argument("--device", default=argparse.SUPPRESS, help="cpu, cuda, ... (default: CUDA if there is one)")
    parser.add_argument("--dtype", default=argparse.SUPPRESS, help="(default: float32 on the CPU, bfloat16 on a GPU)")
    parser.add_argument(
        "--embed-scale",
        default=argparse.SUPPRESS,
        help="all or text: whether image rows are scaled like text rows (default: the checkpoint's own)",
    )
    parser.add_argument(
        "--prompt",
        default=argparse.SUPPRESS,
        help="template with {images} and {question} (default: the checkpoint's own)",
    )
    parser.add_argument("--suffix", default="", help="appended to every question; benchmark for each one's own")
    parser.add_argument("--out", type=Path, default=Path("figures"), help="folder for figures and tables")
    return parser


def load(arguments: argparse.Namespace, name: str) -> HookedVLM:
    """A model as the options say."""
    given = {key: getattr(arguments, key, None) for key in ("device", "dtype", "embed_scale", "prompt")}
    return vlm_probe.load(name, **given)


def each_model(arguments: argparse.Namespace, steps: int) -> Iterator[tuple[HookedVLM, Callable[[int], None]]]:
    """Every model loaded in turn, with what advances its bar by some of `steps`."""
    with Progress(transient=True) as bar:
        for name in arguments.models:
            task = bar.add_task(name, total=steps)
            yield load(arguments, name), lambda done, t=task: bar.advance(t, done)


def measure_and_draw(
    arguments: argparse.Namespace, ids: Sequence[str], prefix: str, items: Sequence[Item] | None = None
) -> Run:
    """Measure findings on the models that the options name and on items (generated if none); show what it comes to.

    Writes every figure as <out>/<prefix>_<figure>.png and .svg and the evidence as <out>/<prefix>.csv, prints the
    verdicts and what could not be measured.
    """
    asked = generated_items(arguments.n, seed=arguments.seed) if items is None else list(items)
    with Progress(transient=True) as bar:
        task = bar.add_task("measuring", total=steps(ids, arguments.models, asked))
        found = findings.run(
            ids,
            arguments.models,
            asked,
            seed=arguments.seed,
            suffix=arguments.suffix,
            load=lambda name: load(arguments, name),
            progress=lambda n: bar.advance(task, n),
        )
    draw_all(found, arguments.out, f"{prefix}_")
    write_table(found.evidence, arguments.out / f"{prefix}.csv")
    print_verdicts(found)
    for one in found.skipped:
        print(f"not measured: {one}")
    disclaim(arguments.models)
    return found


def draw_all(found: Run, out: Path, prefix: str = "") -> None:
    """Every finding's figures as files, their paths printed."""
    for chapter in chapters(found):
        for name, (figure, data) in draw(chapter).items():
            print(*save(figure, out, f"{prefix}{name}", data=data), sep="\n")


def write_table(table: pd.DataFrame, path: Path) -> None:
    """A table as CSV, whole or not at all."""
    with replacing(path) as partial:
        table.to_csv(partial, index=False)


def print_verdicts(found: Run) -> None:
    """Every finding's verdicts on the terminal."""
    evidence = found.evidence
    for finding in found.findings:
        rows = evidence.loc[evidence["finding"] == finding.id]
        if len(rows):
            print(f"\n{finding.id}. {finding.question}")
            for row in rows.to_dict("records"):
                print(f"  {row['verdict']}: {row['sentence']}\n      {evidence_text(row)}")


def run(main: Callable[[], None]) -> None:
    """Run an analysis; what its user did wrong, and a disk that is full, is one line and exit code 2."""
    try:
        main()
    except VlmProbeError as error:
        said = str(error)
    except OSError as error:
        if error.errno not in DISK_ERRORS:
            raise
        said = disk_trouble(error)
    else:
        return
    print(f"error: {said}", file=sys.stderr)
    sys.exit(2)


def disclaim(models: Iterable[str]) -> None:
    """Say what such models say nothing about."""
    if said := scope_of(models):
        print(said)
