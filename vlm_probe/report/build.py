"""`vlm-probe report`: every finding measured on the same items, as a page and a paper with figures and tables."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from markupsafe import Markup

from vlm_probe import __version__
from vlm_probe.errors import VlmProbeError
from vlm_probe.explorer import embedded
from vlm_probe.files import make_folder, writing
from vlm_probe.findings import Run, write_run
from vlm_probe.hooked import HookedVLM
from vlm_probe.report.document import pictures, plain
from vlm_probe.report.drawing import chapters
from vlm_probe.report.exploring import to_explore
from vlm_probe.report.machine import made_with
from vlm_probe.report.manifest import NAME as MANIFEST
from vlm_probe.report.manifest import manifest_of
from vlm_probe.report.page import pictures_in, write_page
from vlm_probe.report.pdf import write_pdf
from vlm_probe.report.telling import Telling

_MARK = ".vlm_probe_report"
"""In every report's folder, and lists its files: only such a folder is replaced, where it holds nothing else."""


def parts_of(out: Path) -> Path:
    """Where a report that is being measured keeps what is done, beside its folder."""
    return out.with_name(f".{out.name}.parts")


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


def write_report(found: Run, out: Path, *, command: str = "", load: Callable[[str], HookedVLM] | None = None) -> Path:
    """Write a run as index.html and report.pdf, with figures/, tables/, evidence.csv, results.json and run.json.

    results.json has all numbers of both, and is the same for the same run (`findings.writing.results_of`); run.json
    says how it was made: command, hardware, durations. All or nothing is written.

    command: that measured the run. load: opens miniatures by name, for the page's explorers; without, it has none.

    An earlier report there is replaced once the new one is complete. Raises as `check_out` does, and where it cannot be
    written.
    """
    check_out(out)
    make_folder(out.parent)
    with writing(out):
        _write_report(found, out, Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent)), command, load)
    return out / "index.html"


def _write_report(found: Run, out: Path, partial: Path, command: str, load: Callable[[str], HookedVLM] | None) -> None:
    """Write a report into a folder beside its own, and put that in its place; `partial` is gone in any case."""
    old = partial.with_name(f"{partial.name}-old")
    try:
        write_run(found, partial)
        told = chapters(found)
        for chapter in told:
            for name, table in chapter.shown.tables.items():
                table.to_csv(partial / "tables" / f"{chapter.finding.id}_{name}.csv", index=False)
        made = made_with(found, command)
        (partial / "run.json").write_text(json.dumps(made, indent=1) + "\n")
        telling = Telling(found, told, partial / "figures", version=__version__, made=made)
        document = telling.document(explore=None if load is None else to_explore(found, load))
        (partial / "figures").mkdir(exist_ok=True)
        drawn = manifest_of(pictures(document.sections), partial / "figures", command)
        (partial / "figures" / MANIFEST).write_text(json.dumps(drawn, indent=1) + "\n")
        write_page(
            partial / "index.html",
            "report.html",
            **plain(document),
            picture_uri=pictures_in(partial / "figures"),
            explorer=lambda looks, key: Markup(embedded(looks, key=key)),
        )
        write_pdf(document, partial)
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
