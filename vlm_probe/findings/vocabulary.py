"""V1 to V6: what a vocabulary costs, whether it is used and trained, whether probability leaks into it, whether a
smaller one would do, and whether its size itself matters (models trained alike but for it)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from vlm_probe.embedding import used_rows
from vlm_probe.errors import VlmProbeError
from vlm_probe.evidence import Evidence, evidence_table
from vlm_probe.evidence.comparison import compare
from vlm_probe.evidence.evidence import NAN
from vlm_probe.evidence.intervals import FEWEST_CLUSTERS
from vlm_probe.hooked import HookedVLM
from vlm_probe.hooked.anatomy import config, embedding, unembedding
from vlm_probe.items import Item
from vlm_probe.running.evaluation import evaluate
from vlm_probe.settings import SEED
from vlm_probe.vocabulary import (
    budget,
    geometry,
    growth,
    known_unused,
    leakage,
    needed_ids,
    scene_texts,
    shrink,
    undertrained,
    usage,
)

SHARES = (1.0, 0.75, 0.5, 0.25)
"""Parts of the used ids that are kept when the vocabulary shrinks."""
PARTS = 5
"""How often `count_vocabulary` reports progress."""


@dataclass
class Counted:
    """What `count_vocabulary` measured of one model."""

    model: str
    budget: pd.DataFrame
    usage: dict[str, object]
    growth: pd.DataFrame
    """Different ids along the text."""
    lengths: np.ndarray
    """Tokens of every text."""
    geometry: dict[str, float | int]
    spectrum: pd.DataFrame
    trained: pd.DataFrame | None
    """Rows the text uses and rows known to be untrained: token_id, indicator (`undertrained`), used; None where no id
    is known to be untrained."""
    leakage: pd.DataFrame | None
    """None for a language model alone, as the next two."""
    shrinking: pd.DataFrame | None
    answers: pd.DataFrame | None


def count_vocabulary(
    model: HookedVLM,
    items: Sequence[Item],
    *,
    texts: Sequence[str] = (),
    progress: Callable[[int], None] | None = None,
) -> Counted:
    """Measure one model's vocabulary.

    Parameters
    ----------
    items: questions with answers, for leakage, trimming and accuracy.
    texts: whose tokens are counted; the scenes' captions, questions and answers if none.
    progress: called with 1 after each of the five parts.

    Raises VlmProbeError without a tokenizer, and as the parts do.
    """
    if model.tokenizer is None:
        raise VlmProbeError(f"{model.name} has no tokenizer, so nothing can be said of its vocabulary")
    done = progress or (lambda n: None)
    given, answers = list(texts), [item.answer for item in items]
    if not given:
        given, answers = scene_texts()
    ids = model.tokenizer(given, add_special_tokens=False)["input_ids"]
    counts = Counter(i for one in ids for i in one)
    found = usage(model.tokenizer, given, answers=answers, name=str(model.name))
    curve = growth([i for one in ids for i in one])
    done(1)
    table = embedding(model)
    keep = used_rows(model).cpu()
    shape, spectrum = geometry(table, keep=keep, counts=counts)
    done(1)
    unused = known_unused(model)
    trained = _trained(model, counts, unused)
    leaks = shrunk = said = None
    if model.vision_config is not None:
        used = needed_ids(model, items)
        leaks = leakage(model, items, used, sets=_sets(sorted(set(unused) - set(used)), used))
        done(1)
        shrunk = shrink(model, items, [round(len(used) * share) for share in SHARES], order=used)
        shrunk = shrunk.assign(model=model.name)
        done(1)
        said = evaluate(model, items)
        done(1)
    cost = budget(config(model))
    return Counted(
        str(model.name),
        cost.assign(model=model.name),
        found,
        curve.assign(model=model.name),
        np.asarray([len(one) for one in ids]),
        shape,
        spectrum.assign(model=model.name),
        trained,
        leaks,
        shrunk,
        said,
    )


def _trained(model: HookedVLM, used: Mapping[int, int], unused: Sequence[int]) -> pd.DataFrame | None:
    """Rows that the text uses beside rows known to be untrained, which the indicator was not told of; None without.

    Half of the known ones are the indicator's reference, the other half are judged by it. Columns token_id, indicator,
    used.
    """
    if len(unused) < 2 * FEWEST_CLUSTERS:
        return None
    shuffled = np.random.default_rng(SEED).permutation(np.asarray(unused))
    told, held_out = np.array_split(shuffled, 2)
    found = undertrained(unembedding(model), told.tolist(), keep=used_rows(model))
    ids = found["token_id"].to_numpy()
    is_held_out, is_used = np.isin(ids, held_out), np.isin(ids, [i for i, count in used.items() if count > 0])
    asked = found.assign(used=is_used).loc[is_held_out | is_used]
    return asked.filter(["token_id", "indicator", "used"]).reset_index(drop=True)


def _sets(unused: Sequence[int], used: Sequence[int]) -> dict[str, list[int]]:
    """As many rows known to be untrained as rows that are used, both drawn at random; none where none is known."""
    n = min(len(unused), len(used))
    rng = np.random.default_rng(SEED)
    drawn = {"untrained": rng.permutation(np.asarray(unused, dtype=int))[:n], "trained": rng.permutation(used)[:n]}
    return {name: ids.tolist() for name, ids in drawn.items()} if n else {}


def vocabulary_share(one: Counted) -> float:
    """The part of a model's parameters that is embedding and unembedding."""
    counts = dict(zip(one.budget["part"].tolist(), one.budget["parameters"].tolist(), strict=True))
    return (counts.get("embedding", 0) + counts.get("unembedding", 0)) / sum(counts.values())


def _trained_row(one: Counted) -> Evidence:
    claim = f"{one.model}: rows that the text uses can be told from untrained ones (share of pairs; control 0.5)"
    nothing = (0, NAN, NAN, NAN, NAN, NAN)
    if one.trained is None:
        return Evidence("V3", claim, *nothing, "undecided (too few ids are known to be untrained)")
    counts = one.trained["used"].to_numpy()
    if min(counts.sum(), (~counts).sum()) < FEWEST_CLUSTERS:
        return Evidence("V3", claim, *nothing, "undecided (too few rows)")
    indicator, used = one.trained["indicator"].to_numpy(dtype=float), one.trained["used"].to_numpy(dtype=bool)

    def ordered(kept: np.ndarray) -> float:
        ranks = rankdata(indicator[kept])
        n = int(used[kept].sum())
        return float((ranks[used[kept]].sum() - n * (n + 1) / 2) / (n * (len(kept) - n)))

    return Evidence.jackknifed("V3", claim, ordered, lambda kept: 0.5, np.arange(len(indicator)))


def vocabulary_verdicts(one: Counted) -> pd.DataFrame:
    """V1 to V5 for one model, columns of `evidence.COLUMNS`."""
    name, rows = one.model, []
    vocabulary = int(str(one.usage["vocabulary"]))
    share = float(str(one.usage["used_share"]))
    rows.append(
        Evidence.counted(
            "V1", f"{name}: more than half of the parameters are vocabulary", vocabulary_share(one), 0.5, 1
        )
    )
    rows.append(
        Evidence.counted("V2", f"{name}: the text uses more than half of the vocabulary", share, 0.5, vocabulary)
    )
    rows.append(_trained_row(one))
    if one.leakage is not None:
        last = one.leakage.query("layer == layer.max()")
        images = last["image"].to_numpy()
        rows.append(
            Evidence.paired(
                "V4",
                f"{name}: probability on tokens never used, at the output, against what a uniform output gives",
                last["unused_mass"].to_numpy(),
                last["unused_share"].to_numpy(),
                images,
            )
        )
        if "untrained_share" in last:
            # Over layers: at the output an image position predicts what nobody trained it to predict.
            means = [
                one.leakage.pivot(index="id", columns="layer", values=f"image_{kind}_mass").loc[last["id"]]
                for kind in ("untrained", "trained")
            ]
            claim = f"{name}: image positions give untrained rows more than as many used ones (mean of layers)"
            values = [masses.to_numpy(dtype=float).mean(1) for masses in means]
            rows.append(Evidence.paired("V4", claim, values[0], values[1], images))
    if one.shrinking is not None:
        whole, trimmed = one.shrinking.iloc[0], one.shrinking.iloc[1]
        claim = f"{name}: with the used tokens alone it answers worse (share right; {int(trimmed['rows'])} rows)"
        n = one.shrinking.attrs.get("items", 0)
        rows.append(Evidence.counted("V5", claim, float(whole["accuracy"]), float(trimmed["accuracy"]), n))
    return evidence_table(rows, title=name, first=name)


def vocabulary_comparison(first: Counted, second: Counted) -> pd.DataFrame:
    """The second model's vocabulary against the first's, columns of `evidence.COLUMNS`.

    V6 says whether the second answers the same questions better: where both were trained alike but for the
    vocabulary (the replica sweep), that is the effect of its size; elsewhere they differ in more.

    Raises VlmProbeError where they were measured on different texts or items.
    """
    a, b = first.model, second.model
    if len(first.lengths) != len(second.lengths):
        raise VlmProbeError(f"{a} and {b} were measured on different texts; measure both on one list")
    n = len(first.lengths)
    rows = [
        Evidence.counted(
            "V1",
            f"{b}: a larger part of the parameters is vocabulary than in {a}",
            vocabulary_share(second),
            vocabulary_share(first),
            1,
        ),
        Evidence.paired(
            "V2",
            f"{b}: fewer tokens for the same text than {a} (tokens of {a}; of {b})",
            first.lengths.astype(float),
            second.lengths.astype(float),
            np.arange(n),
        ),
    ]
    if first.leakage is not None and second.leakage is not None:
        one, two = (table.query("layer == layer.max()").set_index("id") for table in (first.leakage, second.leakage))
        both = one.index.intersection(two.index, sort=False)
        one, two = one.loc[both], two.loc[both]
        images = one["image"].to_numpy()
        for column, words in (("unused_mass", "more probability on tokens never used"), ("entropy", "higher entropy")):
            claim = f"{b}: {words} than {a}, at the output"
            rows.append(Evidence.paired("V4", claim, two[column].to_numpy(), one[column].to_numpy(), images))
    if first.answers is not None and second.answers is not None:
        found = compare(pd.concat([first.answers, second.answers], ignore_index=True), a, b).iloc[-1]
        said = {name: found[name] for name in ("n", "difference", "low", "high", "verdict")}
        claim = f"{b} answers more questions than {a}"
        rows.append(Evidence("V6", claim, value=found["b"], control=found["a"], **said))
    return evidence_table(rows, title=f"{b} against {a}", first=a, second=b)
