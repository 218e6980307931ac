"""What the analyses share: their options, loading with a bar, and how they end."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pandas as pd
from rich.progress import Progress

import vlm_probe
from vlm_probe import VlmProbeError
from vlm_probe.findings import scope_of
from vlm_probe.hooked import HookedVLM
from vlm_probe.zoo.replicas import shipped


def options(about: str, models: Iterable[str], *, n: int) -> argparse.ArgumentParser:
    """--models, --n, --seed, --device and --out. models: the defaults, of which those that are shipped count."""
    default = [name for name in models if name.removeprefix("replica/") in shipped()]
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--models", nargs="+", default=default)
    parser.add_argument("--n", type=int, default=n, help="generated items (of every family)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device")
    parser.add_argument("--out", type=Path, default=Path("figures"))
    return parser


def each_model(arguments: argparse.Namespace, steps: int) -> Iterator[tuple[HookedVLM, Callable[[int], None]]]:
    """Every model loaded in turn, with what advances its bar by some of `steps`."""
    with Progress(transient=True) as bar:
        for name in arguments.models:
            task = bar.add_task(name, total=steps)
            yield vlm_probe.load(name, device=arguments.device), lambda done, t=task: bar.advance(t, done)


def print_verdicts(verdicts: pd.DataFrame) -> None:
    """A table of verdicts on the terminal."""
    print(f"\n{verdicts.attrs['title']}")
    # Three digits of each: a difference of a millionth is no zero.
    print(verdicts.to_string(index=False, float_format=lambda value: f"{value:.3g}"))


def run(main: Callable[[], None]) -> None:
    """Run an analysis; what its user did wrong is one line."""
    try:
        main()
    except VlmProbeError as error:
        sys.exit(f"error: {error}")


def disclaim(models: Iterable[str]) -> None:
    """Say what such models say nothing about."""
    if said := scope_of(models):
        print(said)
