"""What a run of hypotheses holds, and how they are measured on one model, from parts and into them."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, cast

import pandas as pd

from vlm_probe.errors import VlmProbeError, nearest
from vlm_probe.evidence import Evidence, Tables, evidence_table, judge_all
from vlm_probe.files import naming
from vlm_probe.findings.finding import Finding, Measure, Shown
from vlm_probe.findings.registry import FINDINGS
from vlm_probe.findings.scope import scope_of
from vlm_probe.findings.shared import Shared, clusters_of
from vlm_probe.findings.skipped import LeftOut, Skipped, left_out_lines, unaskable
from vlm_probe.hooked import HookedVLM
from vlm_probe.hooked.untrained import untrained as untrained_copy
from vlm_probe.items import Item
from vlm_probe.running.evaluation import chunks
from vlm_probe.running.resuming import resumed, run_settings
from vlm_probe.scenes import family_items, scene_items

Model = str | HookedVLM
Only = Callable[[Finding], Sequence[str]]


def generated_items(n: int, *, seed: int = 0) -> list[Item]:
    """Held-out scenes with what all findings ask for: `n` with every type of question in turn, and `n` of twins."""
    twins = family_items(n, families=("mmvp",), seed=seed)
    return [*scene_items(n, split="heldout", seed=seed), *twins]


@dataclass
class Run:
    """What was measured of each model, and what it comes to."""

    findings: list[Finding]
    models: list[str]
    items: list[Item]
    seed: int
    measured: dict[str, dict[str, Tables]] = field(default_factory=dict)
    """By finding and model."""
    untrained: dict[str, dict[str, Tables]] = field(default_factory=dict)
    """Of untrained copies, by finding and the model's own name."""
    skipped: list[Skipped] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)
    """Items without which findings were measured that a model could not be asked with them."""
    provenance: dict[str, dict[str, Any]] = field(default_factory=dict)
    seconds: float = 0.0
    took: dict[str, float] = field(default_factory=dict)
    """Seconds by finding, of all models; of parts that were there already next to none."""
    suffix: str = ""

    def judged(self, finding: Finding) -> list[Evidence]:
        """The claims of one finding."""
        measured, bare = self.measured.get(finding.id, {}), self.untrained.get(finding.id, {})
        return judge_all(finding.claims, measured, finding=finding.id, untrained=bare, scope=scope_of)

    @property
    def evidence(self) -> pd.DataFrame:
        """All claims, a row each, columns `evidence.evidence.COLUMNS`."""
        rows = [row for finding in self.findings for row in self.judged(finding)]
        return evidence_table(rows, title="evidence")

    @property
    def notes(self) -> list[str]:
        """What could not be measured, and how many items were left out: a line each."""
        return [*(f"not measured: {one}" for one in self.skipped), *left_out_lines(self.left_out, len(self.items))]

    def tables(self, finding: Finding) -> dict[str, pd.DataFrame]:
        """A finding's tables, all models' rows together: a column model, and untrained (whether it is a bare copy)."""
        parts: dict[str, list[pd.DataFrame]] = {}
        for bare, of in ((False, self.measured), (True, self.untrained)):
            for model, tables in of.get(finding.id, {}).items():
                for name, table in tables.items():
                    own = table.drop(columns=[c for c in ("model", "untrained") if c in table])
                    own.insert(0, "untrained", bare)
                    own.insert(0, "model", model)
                    parts.setdefault(name, []).append(own)
        # By name: tables that were read from parts come in another order.
        return {name: pd.concat(parts[name], ignore_index=True) for name in sorted(parts)}

    def shown(self, finding: Finding) -> Shown:
        """What the finding shows: summaries for its figures, sentences, single cases."""
        measured = self.measured.get(finding.id, {})
        return finding.shown(measured, self.items) if measured else Shown()


def find(ids: Sequence[str]) -> list[Finding]:
    """Findings by their ids, in any case, each once.

    Raises VlmProbeError for an id there is none of.
    """
    for one in ids:
        if one.upper() not in FINDINGS:
            raise VlmProbeError(f"no finding {one!r}; nearest are {nearest(one.upper(), FINDINGS)}")
    return [FINDINGS[one] for one in dict.fromkeys(i.upper() for i in ids)]


def _name(model: Model) -> str:
    return model if isinstance(model, str) else str(model.name)


def steps(
    ids: Sequence[str],
    models: Sequence[Model],
    items: Sequence[Item],
    *,
    untrained: bool | None = None,
    only: Only | None = None,
) -> int:
    """How often `run` will report progress in all."""
    count = 0
    for finding in find(ids):
        if not finding.models:
            continue
        for name in asked_of(finding, [_name(model) for model in models], only):
            copies = 2 if finding.untrained and _wants_copy(name, untrained) else 1
            count += copies * len(finding.picks(items))
    return count


def asked_of(finding: Finding, names: Sequence[str], only: Only | None) -> list[str]:
    """The models that a finding is measured on, in the order in which they are compared."""
    return list(names if only is None else only(finding))


def _wants_copy(name: str, untrained: bool | None) -> bool:
    return name.startswith("replica/") if untrained is None else untrained


def able_among(result: Run, only: Only | None) -> list[Finding]:
    """The findings that lack nothing, whatever the models are; of the others the result says what they lack."""
    able = []
    for finding in result.findings:
        if lacking := _lacking(finding, asked_of(finding, result.models, only), result.items):
            result.skipped.append(Skipped(finding.id, "", lacking))
        else:
            able.append(finding)
    return able


def _lacking(finding: Finding, names: Sequence[str], items: Sequence[Item]) -> str:
    """What a finding lacks, whatever the models are; "" for nothing."""
    if not finding.models:
        return ""
    if len(names) < finding.models:
        return f"it takes {finding.models} model{'s' * (finding.models > 1)} or more, got {len(names)}"
    if not finding.picks(items):
        return f"it needs {finding.wants}; there is none among the {len(items)} given"
    return ""


def measure_model(
    model: HookedVLM,
    name: str,
    findings: Sequence[Finding],
    result: Run,
    *,
    untrained: bool | None,
    parts: Path | None,
    progress: Callable[[int], None] | None,
) -> None:
    """Findings on one model and, where it is wanted, on an untrained copy of it, into the result."""
    _measure_model(model, name, findings, result, result.measured, parts, progress)
    bare = [finding for finding in findings if finding.untrained and name in result.measured.get(finding.id, {})]
    if bare and _wants_copy(name, untrained):
        _measure_model(untrained_copy(model), name, bare, result, result.untrained, parts, progress)


def _measure_model(
    model: HookedVLM,
    name: str,
    findings: Sequence[Finding],
    result: Run,
    into: dict[str, dict[str, Tables]],
    parts: Path | None,
    progress: Callable[[int], None] | None,
) -> None:
    """Every finding on one model; what one cannot do is noted, and the others go on."""
    suffix = result.suffix
    settings = run_settings(model, result.items, seed=result.seed, suffix=suffix) if parts is not None else {}
    with nullcontext() if parts is None else resumed(parts, str(model.name), settings) as folder:
        shared = _shared(model, findings, result.items, suffix, folder)
        left: list[LeftOut] | None = None
        for finding in findings:
            began = time.monotonic()
            measure = partial(_tables, finding, model, seed=result.seed)
            try:
                found = measure(finding.picks(result.items), shared, folder, progress=progress)
            except VlmProbeError as error:
                # One answer that this model cannot begin would cost the whole finding: is it that?
                left = unaskable(model, result.items, suffix) if left is None else left
                bad = {one.item for one in left}
                kept = [item for item in result.items if item.id not in bad]
                if not left or not finding.picks(kept):
                    result.skipped.append(Skipped(finding.id, str(model.name), str(error)))
                    continue
                own = None if folder is None else folder / "without"
                try:
                    found = measure(finding.picks(kept), _shared(model, [finding], kept, suffix, own), own)
                except VlmProbeError as other:
                    result.skipped.append(Skipped(finding.id, str(model.name), str(other)))
                    continue
                if into is result.measured:  # the same are left out for an untrained copy
                    result.left_out += [one for one in left if one not in result.left_out]
            into.setdefault(finding.id, {})[name] = found
            result.took[finding.id] = result.took.get(finding.id, 0.0) + time.monotonic() - began


def _shared(
    model: HookedVLM, findings: Sequence[Finding], items: Sequence[Item], suffix: str, folder: Path | None
) -> Shared:
    """What findings share about a model: answers and activations of all the items that any of them takes."""
    wanted = {item.id for finding in findings for item in finding.picks(items)}
    shared = Shared(
        model,
        [item for item in items if item.id in wanted],
        suffix=suffix,
        parts=None if folder is None else folder / "answers",
    )
    for finding in findings:
        if finding.reads is not None and model.vision_config is not None:
            shared.want(finding.reads(model))
    return shared


def _tables(
    finding: Finding,
    model: HookedVLM,
    picked: list[Item],
    shared: Shared,
    folder: Path | None,
    *,
    seed: int,
    progress: Callable[[int], None] | None = None,
) -> Tables:
    """One finding's tables of one model; `progress` hears of all its items, whether they could be measured or not."""
    done, counted = progress or (lambda n: None), 0
    try:
        tables: list[dict[str, pd.DataFrame]] = []
        for number, part in enumerate(chunks(picked) if finding.itemwise else [picked]):
            own = None if folder is None else folder / finding.id / f"{number:06d}"
            tables.append(_part(finding, model, part, shared, seed, own))
            counted += len(part)
            done(len(part))
    except VlmProbeError:
        done(len(picked) - counted)
        raise
    whole = {key: pd.concat([t[key] for t in tables], ignore_index=True) for key in tables[0]}
    if finding.itemwise:  # a part does not know which of its items go together with another part's
        cluster = dict(zip([item.id for item in picked], clusters_of(picked), strict=True))
        for table in whole.values():
            if "cluster" in table:
                table["cluster"] = [cluster[name] for name in table["id"].tolist()]
    return whole


def _part(
    finding: Finding, model: HookedVLM, items: list[Item], shared: Shared, seed: int, folder: Path | None
) -> dict[str, pd.DataFrame]:
    """The tables of some items, from their folder where it is there."""
    if folder is not None and folder.is_dir():
        return _read(folder)
    tables = cast(Measure, finding.measure)(model, items, shared=shared, seed=seed)
    if folder is None:
        return tables
    draft = folder.with_suffix(".partial")
    shutil.rmtree(draft, ignore_errors=True)
    with naming(folder):
        draft.mkdir(parents=True)
        for name, table in tables.items():
            table.attrs = {}
            table.to_parquet(draft / f"{name}.parquet", index=False)
        os.replace(draft, folder)
    return _read(folder)  # what a run that goes on will read


def _read(folder: Path) -> dict[str, pd.DataFrame]:
    return {file.stem: pd.read_parquet(file) for file in _tables_in(folder)}


def _tables_in(folder: Path) -> Iterator[Path]:
    yield from sorted(folder.glob("*.parquet"))
