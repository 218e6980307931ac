"""V1 to V6: what a vocabulary costs, whether it is used and trained, whether probability leaks into it, whether a
smaller one would do, and whether its size itself matters (models trained alike but for it)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from vlm_probe.embedding import used_rows
from vlm_probe.errors import VlmProbeError
from vlm_probe.evidence import Evidence, evidence_table
from vlm_probe.evidence.comparison import compare
from vlm_probe.hooked import HookedVLM
from vlm_probe.hooked.anatomy import config, embedding, unembedding
from vlm_probe.items.item import Item
from vlm_probe.running.evaluation import evaluate
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
from vlm_probe.vocabulary.geometry import row_norms

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
    norms: pd.DataFrame
    """One row an id that counts: norm, and used (whether the text has it)."""
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
    at = keep.nonzero().flatten()
    norms = pd.DataFrame({"norm": row_norms(table).cpu()[at].numpy(), "used": [counts[i] > 0 for i in at.tolist()]})
    done(1)
    leaks = shrunk = said = None
    if model.vision_config is not None:
        used = needed_ids(model, items)
        leaks = leakage(model, items, used, sets={"undertrained": _suspects(model)})
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
        norms,
        leaks,
        shrunk,
        said,
    )


SUSPECT_SHARE = 0.02
"""The part of a vocabulary that counts as under-trained: what Land and Bartolo (2024) verify."""


def _suspects(model: HookedVLM) -> list[int]:
    """The rows of the unembedding that look least trained."""
    table = unembedding(model)
    found = undertrained(table, reference=known_unused(model), keep=used_rows(model))
    return found.loc[found["share"] < SUSPECT_SHARE, "token_id"].tolist()


def vocabulary_share(one: Counted) -> float:
    """The part of a model's parameters that is embedding and unembedding."""
    counts = dict(zip(one.budget["part"].tolist(), one.budget["parameters"].tolist(), strict=True))
    return (counts.get("embedding", 0) + counts.get("unembedding", 0)) / sum(counts.values())


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
    norm, used = one.norms["norm"].to_numpy(dtype=float), one.norms["used"].to_numpy(dtype=bool)
    if used.any() and not used.all():
        rows.append(
            Evidence.jackknifed(
                "V3",
                f"{name}: rows that the text uses are longer than rows it never uses (mean norm)",
                lambda kept: float(norm[kept][used[kept]].mean()),
                lambda kept: float(norm[kept][~used[kept]].mean()),
                np.arange(len(norm)),
            )
        )
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
        # Over layers: at the output an image position predicts what nobody trained it to predict.
        masses = one.leakage.pivot(index="id", columns="layer", values="image_undertrained_mass").loc[last["id"]]
        claim = f"{name}: image positions give the least trained rows more than a uniform output (mean of layers)"
        mean = masses.to_numpy(dtype=float).mean(1)
        rows.append(Evidence.paired("V4", claim, mean, last["undertrained_share"].to_numpy(), images))
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
