"""V3: is the vocabulary trained?

Half of the rows that are known to be untrained say what such rows look like; whether that tells anything is judged on
the other half, beside rows that the items' text uses. Without rows known to be untrained there is no telling: the norm
points the wrong way where nothing ever shrank the rows that were not used.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float
from scipy.stats import rankdata
from torch import Tensor

from vlm_probe.embedding import used_rows
from vlm_probe.errors import VlmProbeError
from vlm_probe.evidence import Claim, Described, OfAllRows, Tables
from vlm_probe.findings.finding import FigureOf, Finding, Section, Shown, TableOf
from vlm_probe.findings.shared import Shared
from vlm_probe.hooked import HookedVLM
from vlm_probe.hooked.anatomy import unembedding
from vlm_probe.items import Item
from vlm_probe.vocabulary import known_unused, needed_ids, undertrained

LIKE = 0.9
"""A row looks untrained whose indicator is no larger than that of this share of the judged rows known to be so."""


def trained_rows(
    model: HookedVLM,
    items: Sequence[Item],
    *,
    shared: Shared | None = None,
    seed: int = 0,
    reference: Sequence[int] = (),
) -> dict[str, pd.DataFrame]:
    """Which rows of the unembedding look untrained.

    items: whose text says which rows are surely trained, no more. reference: ids known to be untrained; `known_unused`
    if none are given.

    Returns the tables of `judged_rows`.

    Raises VlmProbeError without a tokenizer, and where hardly any id is known to be untrained.
    """
    known = list(reference) or known_unused(model)
    if model.tokenizer is None or len(known) < 2:
        raise VlmProbeError(
            f"{len(known)} ids of {model.name} are known to be untrained, of which half are told and half judged: give "
            "ids that its training text never has, trained_rows(model, items, reference=ids); the norm of a row does "
            "not tell"
        )
    special = set(model.tokenizer.all_special_ids)
    used = [i for i in needed_ids(model, items) if i not in special]
    return judged_rows(unembedding(model), known, used, keep=used_rows(model), seed=seed)


def judged_rows(
    table: Float[Tensor, "row feature"],
    known: Sequence[int],
    used: Iterable[int],
    *,
    keep: Bool[Tensor, " row"] | None = None,
    seed: int = 0,
) -> dict[str, pd.DataFrame]:
    """Rows of a vocabulary by how untrained they look to whoever is told of half of those that are.

    table: the unembedding. known: ids that are untrained. used: ids that are trained. keep: rows that count.

    Returns three tables. rows: a row a vocabulary row that counts, with token_id, indicator (`undertrained`; smaller
    is more suspicious), norm, what (known_told, known_judged, used or other) and looks_untrained (see `LIKE`). pairs:
    judged and used rows at random side by side, as many of each: pair, known_id, used_id, known, used (their
    indicators). shares: one row, with the share of rows that look untrained among used and other ones.
    """
    given = np.unique(np.asarray(known, dtype=int))
    rng = np.random.default_rng(seed)
    told, judged = np.array_split(rng.permutation(given), 2)
    rows = undertrained(table, told.tolist(), keep=keep).filter(["token_id", "indicator", "norm"])
    ids, indicator = rows["token_id"].to_numpy(), rows["indicator"].to_numpy(dtype=float)
    is_told, is_judged = np.isin(ids, told), np.isin(ids, judged)
    is_used = np.isin(ids, list(used)) & ~is_told & ~is_judged
    what = np.select([is_told, is_judged, is_used], ["known_told", "known_judged", "used"], "other")
    limit = np.quantile(indicator[is_judged], LIKE) if is_judged.any() else np.nan
    rows = rows.assign(what=what, looks_untrained=indicator <= limit)
    order = np.argsort(ids)
    left, right = (rng.permutation(order[which[order]]) for which in (is_judged, is_used))
    n = min(len(left), len(right))
    left, right = left[:n], right[:n]
    pairs = {"known_id": ids[left], "used_id": ids[right], "known": indicator[left], "used": indicator[right]}
    looks = {name: rows.loc[what == name, "looks_untrained"].mean() for name in ("used", "other")}
    return {
        "rows": rows,
        "pairs": pd.DataFrame({"pair": np.arange(n), **pairs}),
        "shares": pd.DataFrame([{**looks, "known": len(given), "rows": len(rows)}]),
    }


def in_order(pairs: pd.DataFrame) -> float:
    """The share of all pairs of a used and a known untrained row in which the used one looks better trained.

    The area under the ROC curve; 0.5 says that nothing is told.
    """
    if pairs.empty:
        return float("nan")
    used, known = pairs["used"].to_numpy(dtype=float), pairs["known"].to_numpy(dtype=float)
    ranks = rankdata(np.concatenate([used, known]))
    return float((ranks[: len(used)].sum() - len(used) * (len(used) + 1) / 2) / (len(used) * len(known)))


WORDS = {
    "known_judged": "known to be untrained",
    "used": "used by the items' text",
    "other": "all others",
}


def _shown(measured: Mapping[str, Tables], items: Sequence[Item]) -> Shown:
    """Tables curves (share of rows up to an indicator) and shares of all models; a sentence a model."""
    curves, shares, said = [], [], []
    at = np.linspace(0, 1, 51)
    for model, tables in measured.items():
        rows, row = tables["rows"], tables["shares"].to_dict("records")[0]
        for what, words in WORDS.items():
            own = rows.loc[rows["what"] == what, "indicator"].to_numpy(dtype=float)
            if len(own):
                curve = {"model": model, "rows": words, "indicator": np.quantile(own, at), "share": at, "n": len(own)}
                curves.append(pd.DataFrame(curve))
        shares.append(tables["shares"].assign(model=model))
        said.append(
            f"{row['other']:.1%} of {model}'s rows of which nothing is known look as untrained as {LIKE:.0%} of those "
            f"known to be, and so do {row['used']:.1%} of those that the text uses."
        )
    return Shown(
        tables={"curves": pd.concat(curves, ignore_index=True), "shares": pd.concat(shares, ignore_index=True)},
        summary=said,
    )


FINDING = Finding(
    id="V3",
    question="Is the vocabulary trained?",
    explains="vocabulary",
    claims=(
        Claim(
            "told",
            "{model}: rows that the items' text uses look better trained than rows known to be untrained (share of "
            "pairs)",
            OfAllRows("pairs", in_order, 0.5, clusters="pair", key="pair"),
            control="half of the pairs, as where nothing is told",
            unit="pairs of vocabulary rows",
            least=30,
            # One pair in twenty more than by chance: less would be of no use to whoever looks for such rows.
            margin=0.05,
        ),
        Claim(
            "suspects",
            "{model}: share of its other rows that look untrained",
            Described("shares", "other", "used"),
            control="of rows that the items' text uses, the share that does",
            unit="vocabularies",
            descriptive=True,
        ),
        Claim(
            "suspects_more",
            "{second} beside {first}: share of its other rows that look untrained",
            Described("shares", "other"),
            control="the share in {first}",
            unit="vocabularies",
            of="pair",
            descriptive=True,
        ),
    ),
    measure=trained_rows,
    wants="items (their text says which rows are trained)",
    shown=_shown,
    sections=(
        Section(
            "Which rows look untrained",
            (
                FigureOf(
                    "indicator",
                    "indicator_curves",
                    "curves",
                    "Share of rows whose indicator is at most so large. Where the indicator tells, rows known to be "
                    "untrained lie to the left of used ones; the rest lies where its rows do.",
                    "share of rows by indicator",
                    says="Rows in use look better trained than untrained ones",
                    claims=("told",),
                ),
                TableOf(
                    "shares",
                    {
                        "model": "model",
                        "rows": "rows",
                        "known": "known to be untrained",
                        "used": "share of used rows that look untrained",
                        "other": "share of all others that do",
                    },
                ),
            ),
        ),
    ),
    methods=(
        "Indicator: Land and Bartolo 2024, arXiv:2405.05417, section 2.2: cosine distance of a row of the "
        "unembedding to the mean of rows known to be untrained, after the first principal component of all rows has "
        "been taken out.",
        "Known to be untrained: tokens whose names say that they are unused, and for replicas those that no step of "
        "their training ever read. Half of them, drawn at random (seed {seed}), make the indicator; the other half "
        "are judged by it, beside as many rows that the items' text uses: area under the ROC curve, its interval by "
        "leaving blocks of pairs out (Tukey 1958) and Student's t.",
        f"A row looks untrained if its indicator is no larger than that of {LIKE:.0%} of the judged ones.",
    ),
    caveats=(
        "Where used rows cannot be told from those known to be untrained, the share that looks untrained says nothing.",
        "That a row looks untrained is a suspicion; vocabulary.repeats asks the model to say the token.",
        "That a text never uses a token does not make its row untrained.",
    ),
)
