"""`vlm-probe report`: every finding measured on the same items, as one page with figures and tables."""

from __future__ import annotations

import gc
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from matplotlib.figure import Figure

from vlm_probe import figures
from vlm_probe.errors import VlmProbeError
from vlm_probe.findings import scope_of
from vlm_probe.findings.finding import Cases, CasesOf, FigureOf, Finding, Results, TableOf
from vlm_probe.findings.registry import FINDINGS
from vlm_probe.hooked import HookedVLM
from vlm_probe.items import Item
from vlm_probe.report.inspection import provenance_table
from vlm_probe.report.page import figure_uri, rows_of, write_page
from vlm_probe.scenes import scene_items

_MARK = ".vlm_probe_report"
"""In every report's folder: only such a folder is ever replaced."""


@dataclass
class Chapter:
    """One finding and what it has to say."""

    finding: Finding
    results: Results

    @property
    def figures(self) -> list[FigureOf]:
        """All figures over tables, in the order of the page."""
        return [block for section in self.finding.sections for block in section.blocks if isinstance(block, FigureOf)]


@dataclass
class Measured:
    """All models on the same items."""

    items: list[Item]
    models: list[str]
    chapters: list[Chapter]
    provenance: dict[str, dict[str, Any]]
    seed: int
    seconds: float

    @property
    def tables(self) -> dict[str, pd.DataFrame]:
        """All chapters' tables by name."""
        return {name: table for chapter in self.chapters for name, table in chapter.results.tables.items()}


def steps(items: int, models: int, findings: Sequence[str] = tuple(FINDINGS)) -> int:
    """How often `measure` will report progress in all."""
    return items * models * sum(FINDINGS[one].steps_per_item for one in findings)


def measure(
    load: Callable[[str], HookedVLM],
    names: Sequence[str],
    *,
    items: int,
    seed: int,
    progress: Callable[[int], None],
    findings: Sequence[str] = tuple(FINDINGS),
) -> Measured:
    """Load each model in turn and measure it on the same held-out scenes, for every finding named (all).

    Raises VlmProbeError for a model without a tokenizer or an image processor.
    """
    began = time.time()
    chosen = list(scene_items(items, split="heldout", seed=seed))
    found: dict[str, dict[str, Any]] = {one: {} for one in findings}
    provenance = {}
    for name in names:
        model = load(name)  # one at a time: two real ones rarely fit together
        if model.tokenizer is None or model.preparer is None:
            raise VlmProbeError(f"{name} has no tokenizer or image processor, which a report needs")
        for one in findings:
            found[one][name] = FINDINGS[one].measure(model, chosen, progress=progress, seed=seed)
        provenance[name] = model.provenance()
        del model
        gc.collect()
        torch.cuda.empty_cache()
    chapters = [Chapter(FINDINGS[one], FINDINGS[one].results(found[one], chosen)) for one in findings]
    return Measured(chosen, list(names), chapters, provenance, seed, time.time() - began)


def draw(chapter: Chapter) -> dict[str, Figure]:
    """A chapter's figures over tables, by name."""
    drawn: dict[str, Figure] = {}
    for one in chapter.figures:
        figure = getattr(figures, one.plot)(chapter.results.tables[one.table]).figure
        assert isinstance(figure, Figure)
        drawn[one.name] = figure
    return drawn


def draw_cases(cases: Cases) -> Figure:
    return figures.case_panels(cases.panels, title=cases.title)


def check_out(out: Path) -> None:
    """Raise VlmProbeError where a report cannot go: a folder with other things in it, or no place to write.

    Asked before anything is measured.
    """
    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not (out / _MARK).exists())):
        raise VlmProbeError(f"{out} exists and is no earlier report; name another folder with --out")
    parent = next(p for p in (out.absolute().parent, *out.absolute().parents) if p.exists())
    if not os.access(parent, os.W_OK):
        raise VlmProbeError(f"cannot write to {parent}: permission denied")


def _chapter(chapter: Chapter, measured: Measured, folder: Path) -> dict[str, Any]:
    """A chapter for the template; its figures are written to `folder` on the way."""
    finding, results = chapter.finding, chapter.results
    shown: dict[str, str] = {}
    for name, figure in draw(chapter).items():
        shown[name] = figure_uri(figure, close=False)
        figures.save(figure, folder, name)
    pictures: dict[str, list[tuple[str, str]]] = {name: [] for name in measured.models}
    for cases in results.cases:
        figure = draw_cases(cases)
        pictures[cases.model].append((cases.name, figure_uri(figure, close=False)))
        figures.save(figure, folder, f"cases_{measured.models.index(cases.model)}_{cases.name}")
    sections = []
    for section in finding.sections:
        blocks: list[dict[str, Any]] = []
        for block in section.blocks:
            if isinstance(block, FigureOf):
                blocks.append({"uri": shown[block.name], "caption": block.caption, "alt": block.alt})
            elif isinstance(block, TableOf):
                blocks.append({"table": rows_of(results.tables[block.table])})
        kinds = {block.name: block for block in section.blocks if isinstance(block, CasesOf)}
        for model, own in pictures.items() if kinds else ():
            blocks.append({"heading": model})
            blocks += [{"uri": uri, "caption": kinds[n].caption, "alt": kinds[n].alt} for n, uri in own if n in kinds]
        sections.append({"heading": section.heading, "blocks": blocks})
    about = {"n": len(measured.items), "seed": measured.seed}
    return {
        "title": finding.title,
        "summary": results.summary,
        "verdicts": rows_of(results.tables["verdicts"]),
        "note": finding.note,
        "sections": sections,
        "methods": [paragraph.format(**about) for paragraph in finding.methods],
    }


def write_report(measured: Measured, out: Path) -> Path:
    """Write index.html, figures/, tables/ and results.json to a folder, all or nothing.

    An earlier report there is replaced once the new one is complete. Raises as `check_out` does.
    """
    check_out(out)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    except OSError as error:
        raise VlmProbeError(f"cannot write to {out.parent}: {error.strerror}") from error
    try:
        (partial / "tables").mkdir()
        for name, table in measured.tables.items():
            table.to_csv(partial / "tables" / f"{name}.csv", index=False)
        provenance = pd.concat(
            [provenance_table(p).assign(model=name) for name, p in measured.provenance.items()], ignore_index=True
        ).reindex(columns=["model", "what", "value"])
        write_page(
            partial / "index.html",
            "report.html",
            title=f"vlm_probe: {measured.chapters[0].finding.title.lower()}",
            models=measured.models,
            n=len(measured.items),
            scope=scope_of(measured.models),
            chapters=[_chapter(chapter, measured, partial / "figures") for chapter in measured.chapters],
            provenance=rows_of(provenance.query("what != 'model'")),
        )
        results = {
            "models": measured.provenance,
            "seed": measured.seed,
            "seconds": round(measured.seconds, 1),
            **{name: json.loads(table.to_json(orient="records") or "[]") for name, table in measured.tables.items()},
        }
        (partial / "results.json").write_text(json.dumps(results, indent=1) + "\n")
        (partial / _MARK).touch()
        partial.chmod(0o755)
        old = partial.with_name(f"{partial.name}-old")
        if out.exists():
            out.rename(old)
        partial.rename(out)
        shutil.rmtree(old, ignore_errors=True)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return out / "index.html"
