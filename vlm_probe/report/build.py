"""`vlm-probe report`: accuracy and where the model looks, over held-out scenes, with controls."""

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
from vlm_probe.findings import Looking, scope_of, where_it_looks
from vlm_probe.findings.s1_where_it_looks import SHUFFLES
from vlm_probe.hooked import HookedVLM
from vlm_probe.inputs.images import open_image
from vlm_probe.items import Item, accuracy_table
from vlm_probe.report.inspection import provenance_table
from vlm_probe.report.page import figure_uri, rows_of, write_page
from vlm_probe.scenes import scene_items

CASES = 8
"""Best and worst cases shown of each model."""
_MARK = ".vlm_probe_report"
"""In every report's folder: only such a folder is ever replaced."""


@dataclass
class Measured:
    """All models on the same items."""

    items: list[Item]
    looking: dict[str, Looking]
    provenance: dict[str, dict[str, Any]]
    seed: int
    seconds: float

    def table(self, of: Callable[[Looking], pd.DataFrame]) -> pd.DataFrame:
        return pd.concat([of(looking) for looking in self.looking.values()], ignore_index=True)

    @property
    def accuracy(self) -> pd.DataFrame:
        tables = [accuracy_table(one.items).assign(model=name) for name, one in self.looking.items()]
        table = pd.concat(tables, ignore_index=True)
        return table.reindex(columns=["model", *[c for c in table.columns if c != "model"]])


def measure(
    load: Callable[[str], HookedVLM], names: Sequence[str], *, items: int, seed: int, progress: Callable[[int], None]
) -> Measured:
    """Load each model in turn and measure it on the same held-out scenes."""
    began = time.time()
    chosen = list(scene_items(items, split="heldout", seed=seed))
    looking, provenance = {}, {}
    for name in names:
        model = load(name)  # one at a time: two real ones rarely fit together
        if model.tokenizer is None or model.preparer is None:
            raise VlmProbeError(f"{name} has no tokenizer or image processor, which a report needs")
        looking[name] = where_it_looks(model, chosen, progress=progress, seed=seed)
        provenance[name] = model.provenance()
        del model
        gc.collect()
        torch.cuda.empty_cache()
    return Measured(chosen, looking, provenance, seed, time.time() - began)


def draw(measured: Measured) -> dict[str, Figure]:
    """The report's figures by name."""
    layers = measured.table(Looking.layer_means)
    plots = {
        "accuracy": (figures.accuracy_by_type, measured.accuracy),
        "box_share": (figures.box_share_by_layer, layers),
        "image_mass": (figures.image_mass_by_layer, layers[layers["layer"] >= 0]),
        "pointing": (figures.pointing_game, measured.table(Looking.pointing)),
    }
    drawn: dict[str, Figure] = {}
    for name, (plot, table) in plots.items():
        figure = plot(table).figure
        assert isinstance(figure, Figure)
        drawn[name] = figure
    return drawn


def draw_cases(measured: Measured, name: str, *, best: bool) -> Figure:
    """The items whose relevancy lies most (or least) inside their box, as pictures."""
    looking = measured.looking[name]
    boxed = looking.items.query("area > 0")
    chosen = boxed.sort_values("relevancy_in_box", ascending=not best, kind="stable").head(CASES)
    by_id = {item.id: item for item in measured.items}
    size = looking.render_size
    cases = []
    for row in chosen.to_dict("records"):
        item = by_id[row["id"]]
        shares = f"{row['relevancy_in_box']:.2f} in the box, area {row['area']:.2f}"
        mark = "right" if row["correct"] else f"wrong, it is {row['truth']}"
        image = open_image(item.picture(size))
        cases.append(
            {
                "image": image,
                "map": looking.maps[row["id"]],
                "span": None,
                "boxes": [box.to_pixels(*image.size) for box in item.boxes],
                "text": f"{row['question']}\n{row['answer'] or '(nothing)'} ({mark})\n{shares}",
            }
        )
    kind = "most" if best else "least"
    return figures.case_panels(cases, title=f"{name}: relevancy {kind} inside the box")


def _summary(measured: Measured) -> list[str]:
    lines = []
    for name, one in measured.looking.items():
        overall = measured.accuracy.query("model == @name and kind == 'all'").iloc[0]
        pointing = one.pointing().set_index("measure")
        hit, shuffled = pointing.loc["points"], pointing.loc["points_shuffled"]
        lines.append(
            f"{name} answers {overall['accuracy']:.1%} of {overall['n']} questions right "
            f"[{overall['low']:.1%}, {overall['high']:.1%}]; its most relevant patch is in the right box for "
            f"{hit['mean']:.1%} [{hit['low']:.1%}, {hit['high']:.1%}] of {int(hit['n'])} items with one, in a box "
            f"of another item for {shuffled['mean']:.1%}. A guess that never sees the image is right for "
            f"{overall['blind']:.1%}."
        )
    return lines


def check_out(out: Path) -> None:
    """Raise VlmProbeError where a report cannot go: a folder with other things in it, or no place to write.

    Asked before anything is measured.
    """
    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not (out / _MARK).exists())):
        raise VlmProbeError(f"{out} exists and is no earlier report; name another folder with --out")
    parent = next(p for p in (out.absolute().parent, *out.absolute().parents) if p.exists())
    if not os.access(parent, os.W_OK):
        raise VlmProbeError(f"cannot write to {parent}: permission denied")


def write_report(measured: Measured, out: Path) -> Path:
    """Write index.html, figures/, tables/ and results.json to a folder, all or nothing.

    An earlier report there is replaced once the new one is complete. Raises as `check_out` does.
    """
    check_out(out)
    names = list(measured.looking)
    verdicts, pointing = measured.table(Looking.verdicts), measured.table(Looking.pointing)
    tables = {
        "accuracy": measured.accuracy,
        "layers": measured.table(Looking.layer_means),
        "pointing": pointing,
        "verdicts": verdicts,
        "items": measured.table(lambda one: one.items),
    }
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    except OSError as error:
        raise VlmProbeError(f"cannot write to {out.parent}: {error.strerror}") from error
    try:
        (partial / "tables").mkdir()
        for name, table in tables.items():
            table.to_csv(partial / "tables" / f"{name}.csv", index=False)
        uris = {}
        for name, figure in draw(measured).items():
            uris[name] = figure_uri(figure, close=False)
            figures.save(figure, partial / "figures", name)
        cases = []
        for number, name in enumerate(names):
            pair = {"model": name}
            for kind in ("best", "worst"):
                figure = draw_cases(measured, name, best=kind == "best")
                pair[kind] = figure_uri(figure, close=False)
                figures.save(figure, partial / "figures", f"cases_{number}_{kind}")
            cases.append(pair)
        provenance = pd.concat(
            [provenance_table(p).assign(model=name) for name, p in measured.provenance.items()], ignore_index=True
        ).reindex(columns=["model", "what", "value"])
        write_page(
            partial / "index.html", "report.html",
            title="vlm_probe: where does it look?", models=names, n=len(measured.items), scope=scope_of(names),
            summary=_summary(measured), verdicts=rows_of(verdicts), accuracy=rows_of(measured.accuracy),
            pointing=rows_of(pointing), figures=uris, cases=cases,
            shuffles=SHUFFLES,
            seed=measured.seed,
            provenance=rows_of(provenance.query("what != 'model'")),
        )  # fmt: skip
        results = {
            "models": measured.provenance,
            "seed": measured.seed,
            "seconds": round(measured.seconds, 1),
            **{name: json.loads(tables[name].to_json(orient="records") or "[]") for name in tables},
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
