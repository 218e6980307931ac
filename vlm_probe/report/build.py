"""`vlm-probe report`: every finding measured on the same items, as one page with figures and tables."""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from vlm_probe import figures
from vlm_probe.errors import VlmProbeError
from vlm_probe.figures.style import figure_of
from vlm_probe.files import make_folder, writing
from vlm_probe.findings import Run, scope_of, write_run
from vlm_probe.findings.finding import Cases, CasesOf, FigureOf, Finding, Shown, TableOf
from vlm_probe.findings.listing import evidence_listing
from vlm_probe.findings.skipped import left_out_lines
from vlm_probe.report.inspection import provenance_table
from vlm_probe.report.page import figure_uri, rows_of, write_page

_MARK = ".vlm_probe_report"
"""In every report's folder, and lists its files: only such a folder is replaced, where it holds nothing else."""


def parts_of(out: Path) -> Path:
    """Where a report that is being measured keeps what is done, beside its folder."""
    return out.with_name(f".{out.name}.parts")


@dataclass
class Chapter:
    """One finding and what it has to say."""

    finding: Finding
    evidence: pd.DataFrame
    shown: Shown

    @property
    def figures(self) -> list[FigureOf]:
        """All figures over tables that there are, with a number to draw, in the order of the page."""
        blocks = [block for section in self.finding.sections for block in section.blocks]
        tables = self.shown.tables
        return [one for one in blocks if isinstance(one, FigureOf) and at_hand(tables.get(one.table))]


def at_hand(table: pd.DataFrame | None) -> bool:
    """Whether a table holds any number: of others there is nothing to draw."""
    return table is not None and bool(table.select_dtypes("number").notna().to_numpy().any())


def chapters(found: Run) -> list[Chapter]:
    """Every finding that was measured."""
    evidence = found.evidence
    rows = {finding.id: evidence.loc[evidence["finding"] == finding.id] for finding in found.findings}
    return [Chapter(one, rows[one.id], found.shown(one)) for one in found.findings if len(rows[one.id])]


def draw(chapter: Chapter) -> dict[str, Figure]:
    """A chapter's figures over tables, by name."""
    drawn: dict[str, Figure] = {}
    for one in chapter.figures:
        drawn[one.name] = figure_of(getattr(figures, one.plot)(chapter.shown.tables[one.table], **one.given))
    return drawn


def listed(block: TableOf, table: pd.DataFrame) -> pd.DataFrame:
    """What a page shows of a table."""
    rows = table.query(block.where) if block.where else table
    if not block.columns:
        return rows
    return pd.DataFrame(rows[list(block.columns)]).set_axis(list(block.columns.values()), axis=1)


def draw_cases(cases: Cases) -> Figure:
    return figure_of(figures.case_panels(cases.panels, title=cases.title))


def check_out(out: Path) -> None:
    """Raise VlmProbeError where a report cannot go: a folder with other things in it, or no place to write.

    Asked before anything is measured.
    """
    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not (out / _MARK).exists())):
        raise VlmProbeError(f"{out} exists and is no earlier report; name another folder with --out")
    written = (out / _MARK).read_text().splitlines() if (out / _MARK).exists() else []
    if written and (others := sorted(set(_files_in(out)) - {*written, _MARK})):
        raise VlmProbeError(
            f"{out} holds an earlier report and {others[0]}, which is not of it; move that elsewhere, or name another "
            "folder with --out"
        )
    parent = next(p for p in (out.absolute().parent, *out.absolute().parents) if p.exists())
    if not os.access(parent, os.W_OK):
        raise VlmProbeError(f"cannot write to {parent}: permission denied")


def _files_in(folder: Path) -> list[str]:
    return [file.relative_to(folder).as_posix() for file in folder.rglob("*") if not file.is_dir()]


def _chapter(chapter: Chapter, found: Run, folder: Path) -> dict[str, Any]:
    """A chapter for the template; its figures are written to `folder` on the way."""
    finding, own = chapter.finding, chapter.shown
    pictures: dict[str, str] = {}
    for name, figure in draw(chapter).items():
        pictures[name] = figure_uri(figure, close=False)
        figures.save(figure, folder, f"{finding.id}_{name}")
    cases: dict[str, list[tuple[str, str]]] = {name: [] for name in found.models}
    for one in own.cases:
        figure = draw_cases(one)
        cases[one.model].append((one.name, figure_uri(figure, close=False)))
        figures.save(figure, folder, f"{finding.id}_cases_{found.models.index(one.model)}_{one.name}")
    sections = []
    for section in finding.sections:
        blocks: list[dict[str, Any]] = []
        for block in section.blocks:
            if isinstance(block, FigureOf) and block.name in pictures:
                blocks.append({"uri": pictures[block.name], "caption": block.caption, "alt": block.alt})
            elif isinstance(block, FigureOf) and block.table in own.tables:
                blocks.append({"text": "No figure: none of its numbers is at hand."})
            elif isinstance(block, TableOf) and block.table in own.tables:
                table = listed(block, own.tables[block.table])
                blocks += [{"table": rows_of(table)}] if len(table) else []
        kinds = {block.name: block for block in section.blocks if isinstance(block, CasesOf)}
        for model, drawn in cases.items() if kinds else ():
            blocks.append({"heading": model})
            blocks += [{"uri": uri, "caption": kinds[n].caption, "alt": kinds[n].alt} for n, uri in drawn if n in kinds]
        if blocks:
            sections.append({"heading": section.heading, "blocks": blocks})
    about = {"n": len(found.items), "seed": found.seed}
    return {
        "id": finding.id,
        "question": finding.question,
        "summary": own.summary,
        "verdicts": rows_of(evidence_listing(chapter.evidence)),
        "sections": sections,
        "methods": [paragraph.format(**about) for paragraph in finding.methods],
        "caveats": finding.caveats,
    }


def write_report(found: Run, out: Path) -> Path:
    """Write index.html, figures/, tables/, evidence.csv and results.json to a folder, all or nothing.

    An earlier report there is replaced once the new one is complete. Raises as `check_out` does, and where it cannot be
    written.
    """
    check_out(out)
    make_folder(out.parent)
    with writing(out):
        _write_report(found, out, Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent)))
    return out / "index.html"


def _write_report(found: Run, out: Path, partial: Path) -> None:
    """Write a report into a folder beside its own, and put that in its place; `partial` is gone in any case."""
    old = partial.with_name(f"{partial.name}-old")
    try:
        write_run(found, partial)
        told = chapters(found)
        for chapter in told:
            for name, table in chapter.shown.tables.items():
                table.to_csv(partial / "tables" / f"{chapter.finding.id}_{name}.csv", index=False)
        made_of = [provenance_table(p).assign(model=name) for name, p in found.provenance.items()]
        provenance = pd.concat([*made_of, pd.DataFrame(columns=["model", "what", "value"])], ignore_index=True)
        write_page(
            partial / "index.html",
            "report.html",
            title="vlm_probe: what the evidence says",
            models=found.models,
            n=len(found.items),
            scope=scope_of(found.models),
            chapters=[_chapter(chapter, found, partial / "figures") for chapter in told],
            skipped=found.skipped,
            left_out=left_out_lines(found.left_out, len(found.items)),
            provenance=rows_of(provenance.reindex(columns=["model", "what", "value"]).query("what != 'model'")),
        )
        (partial / _MARK).write_text("".join(f"{name}\n" for name in _files_in(partial)))
        partial.chmod(0o755)
        if out.exists():
            out.rename(old)
        partial.rename(out)
        shutil.rmtree(old, ignore_errors=True)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        if old.exists():
            old.rename(out)
        raise
