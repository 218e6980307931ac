"""From claims and tables to evidence: estimates, one correction for all claims of a finding, and verdicts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from vlm_probe.errors import VlmProbeError
from vlm_probe.evidence.claim import Claim
from vlm_probe.evidence.estimate import NAN, Estimate
from vlm_probe.evidence.evidence import Evidence
from vlm_probe.evidence.paired import holm
from vlm_probe.evidence.statistics import Tables
from vlm_probe.evidence.verdict import Verdict, decide


@dataclass(frozen=True)
class _Asked:
    """A claim about some models."""

    claim: Claim
    models: tuple[str, ...]
    found: Estimate
    bare: Estimate | None
    """Of their untrained copies, where all have one."""
    half: bool
    """Whether some have one, and others have none."""

    @property
    def testable(self) -> bool:
        enough = self.found.clusters >= self.claim.least
        return enough and not self.claim.descriptive and not np.isnan(self.found.p)


def _nobody(models: Sequence[str]) -> str:
    return ""


def judge(claim: Claim, *tables: Tables, models: Sequence[str] = ()) -> Evidence:
    """One claim alone, about one model's tables or two models'.

    Raises VlmProbeError for another number of tables than the claim is about, tables or columns that were not measured,
    and a claim that rests on another (judge those together).
    """
    expected = 1 if claim.of == "model" else 2
    if len(tables) != expected:
        raise VlmProbeError(f"claim {claim.id!r} is about {expected} model(s), got tables of {len(tables)}")
    names = list(models) or ["model"] if expected == 1 else list(models) or ["first", "second"]
    return judge_all([claim], dict(zip(names, tables, strict=True)))[0]


def judge_all(
    claims: Sequence[Claim],
    measured: Mapping[str, Tables],
    *,
    finding: str = "",
    untrained: Mapping[str, Tables] | None = None,
    scope: Callable[[Sequence[str]], str] = _nobody,
) -> list[Evidence]:
    """All claims of a finding about all models; pairs are every other model against the first.

    measured: the finding's tables by model. untrained: of untrained copies, by the same names: a claim in which a model
    does not differ from its own copy is undecided, and so is a pair of which one alone has a copy. scope: a sentence on
    what results of these models say nothing about.

    p-values are corrected together (Holm 1979), over all that are tested on enough clusters.

    Raises VlmProbeError for tables or columns that were not measured, and a claim that rests on one that there is none
    of, or that stands after it.
    """
    asked = _ask(claims, measured, untrained or {})
    corrected = iter(holm([one.found.p for one in asked if one.testable]))
    p = {id(one): next(corrected) if one.testable else NAN for one in asked}
    order = {claim.id: number for number, claim in enumerate(claims)}
    said: dict[tuple[str, tuple[str, ...]], Verdict] = {}
    rows = []
    for one in asked:
        missing = [name for name in one.claim.requires if order.get(name, len(order)) >= order[one.claim.id]]
        if missing:
            raise VlmProbeError(f"claim {one.claim.id!r} rests on {', '.join(missing)}, which is not judged before it")
        verdict, reason = _verdict(one.claim, one.found, p[id(one)])
        verdict, reason = _resting(one, verdict, reason, said)
        if verdict.decided and one.claim.untrained and (lacks := _not_more_than_untrained(one)):
            verdict, reason = Verdict.UNDECIDED, lacks
        said[one.claim.id, one.models] = verdict
        rows.append(_evidence(one, p[id(one)], verdict, reason, finding, scope))
    return rows


def _ask(claims: Sequence[Claim], measured: Mapping[str, Tables], untrained: Mapping[str, Tables]) -> list[_Asked]:
    asked = []
    for claim in claims:
        names = [name for name in measured if not claim.about or name in claim.about]
        groups = [(name,) for name in names] if claim.of == "model" else [(names[0], other) for other in names[1:]]
        for group in groups:
            bare = [untrained[name] for name in group if name in untrained]
            estimates = claim.statistic([measured[name] for name in group])
            copies = claim.statistic(bare) if len(bare) == len(group) else None
            asked.append(_Asked(claim, group, estimates, copies, half=len(bare) not in (0, len(group))))
    return asked


def _verdict(claim: Claim, found: Estimate, p: float) -> tuple[Verdict, str]:
    if claim.descriptive:
        return (Verdict.DESCRIPTIVE, "") if found.n else (Verdict.UNDECIDED, f"no {claim.unit}")
    if found.clusters < claim.least:
        return Verdict.UNDECIDED, f"{found.clusters} {claim.unit}, {claim.least} would do"
    return decide(found.difference, found.low, found.high, p, margin=claim.margin, more=claim.more)


def _not_more_than_untrained(one: _Asked) -> str:
    """Why what was found says nothing of training; "" where it goes beyond what an untrained copy shows.

    By the difference of the two, its interval as if they were measured apart: that one is significant and the other is
    not says nothing of their difference (Gelman and Stern 2006).
    """
    if one.half:
        return "of one of the two models there is no untrained copy"
    if one.bare is None:
        return ""
    found, bare = one.found, one.bare
    reach = np.hypot(found.high - found.low, bare.high - bare.low) / 2
    beyond = (found.difference - bare.difference) * np.sign(found.difference)
    if beyond > reach:
        return ""
    return "an untrained copy shows as much" if beyond <= 0 else "not clearly more than an untrained copy shows"


def _resting(
    one: _Asked, verdict: Verdict, reason: str, said: Mapping[tuple[str, tuple[str, ...]], Verdict]
) -> tuple[Verdict, str]:
    """The verdict, undecided where what the claim rests on is not supported: of a pair, or of both its models."""

    if not one.claim.requires or verdict in (Verdict.UNDECIDED, Verdict.DESCRIPTIVE):
        return verdict, reason
    # That two things are as large as makes no difference may rest on what makes none either, but not on the unknown.
    enough = {Verdict.SUPPORTED, verdict} if verdict == Verdict.EQUIVALENT else {Verdict.SUPPORTED}
    lacking = []
    for name in one.claim.requires:
        each = [(name, one.models)] if (name, one.models) in said else [(name, (model,)) for model in one.models]
        if not all(said.get(key) in enough for key in each):
            lacking.append(name)
    if lacking:
        return Verdict.UNDECIDED, f"it rests on {', '.join(lacking)}, which is not supported"
    return verdict, reason


def _evidence(
    one: _Asked,
    p: float,
    verdict: Verdict,
    reason: str,
    finding: str,
    scope: Callable[[Sequence[str]], str],
) -> Evidence:
    claim, found = one.claim, one.found
    names = dict(zip(("model",) if claim.of == "model" else ("first", "second"), one.models, strict=True))
    return Evidence(
        finding=finding,
        claim=claim.id,
        sentence=claim.sentence.format(**names),
        models=", ".join(one.models),
        n=found.n,
        clusters=found.clusters,
        unit=claim.unit,
        value=found.value,
        against=claim.control.format(**names),
        control=found.control,
        difference=found.difference,
        low=found.low,
        high=found.high,
        p=found.p,
        p_corrected=p,
        verdict=verdict,
        reason=reason,
        untrained=NAN if one.bare is None else one.bare.difference,
        scope=scope(one.models),
    )
