"""C2: what differs between two connectors, one pretrained and the other not, say?

C1's measures, a probe at the connector's output and the answers, of a second model against the first. Of two models,
and of one seed each: it is said of these connectors alone. What they differ in is for who gives them to know.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from vlm_probe.embedding import features
from vlm_probe.evidence import Claim, Described, PairedMean, Tables
from vlm_probe.findings.connected import APARTNESS, NEARER, OUT, WORDS, connected, means
from vlm_probe.findings.finding import FigureOf, Finding, Section, Shown, TableOf
from vlm_probe.findings.probed import found_by_probe, object_kinds, properties
from vlm_probe.findings.shared import Shared, about
from vlm_probe.hooked import HookedVLM
from vlm_probe.items import Item


def connector_as_trained(
    model: HookedVLM, items: Sequence[Item], *, shared: Shared | None = None, seed: int = 0
) -> dict[str, pd.DataFrame]:
    """One model's side of the comparison.

    Returns the tables of `connected` but for gap, and probes (a row an item of `properties`, none where there is none):
    `shared.about`, object (what kind of object is asked about) and found (1 or 0: a probe at the connector's output, in
    the object's box, that never saw the question). Raises as `connected` does.
    """
    tables = connected(shared or Shared(model, items), items, seed=seed)
    del tables["gap"]
    asked = properties(items)
    table = about(asked).assign(object=object_kinds(asked), found=np.nan)
    if asked:
        rows = features(model, asked, [OUT], pool="box")[OUT].values
        answers, questions = (np.asarray([getattr(item, name) for item in asked]) for name in ("answer", "question"))
        for kind in table["kind"].unique():
            at = (table["kind"] == kind).to_numpy()
            table.loc[at, "found"] = found_by_probe(rows[None, at], answers[at], questions[at], seed=seed)[0]
    return {**tables, "probes": table}


CLAIMS = (
    Claim(
        "nearer",
        "{second}'s connector puts image rows nearer to words, beside rows turned at random, than {first}'s (cosine)",
        NEARER,
        control="{first}'s, and both turned at random",
        unit="images",
        of="pair",
        margin=0.01,
    ),
    Claim(
        "told_apart",
        "rows of {second}'s connector are easier to tell from words, beside other words, than those of {first}'s",
        APARTNESS,
        control="{first}'s",
        unit="images",
        of="pair",
        margin=0.05,
    ),
    Claim(
        "words",
        f"{{second}} answers more from {WORDS} words a row, beside a vocabulary turned at random, than {{first}}",
        PairedMean("items", "right_words", "right_turned", right_or_wrong=True),
        control="{first}'s",
        unit="images",
        of="pair",
        margin=0.05,
    ),
    Claim(
        "probe",
        "a probe at {second}'s connector finds what is asked of an object more often than one at {first}'s",
        PairedMean("probes", "found", clusters="object", right_or_wrong=True),
        control="{first}'s",
        unit="kinds of object",
        of="pair",
        margin=0.05,
    ),
    Claim(
        "answers",
        "{second} answers more of the items than {first}",
        PairedMean("items", "right", right_or_wrong=True),
        control="{first}'s",
        unit="images",
        of="pair",
        margin=0.05,
    ),
    Claim(
        "effective_rank",
        "effective rank of what {second}'s connector puts out, beside {first}'s",
        Described("stages", "effective_rank", where=f"point == '{OUT}'"),
        control="{first}'s",
        unit="models",
        of="pair",
        descriptive=True,
    ),
    Claim(
        "intrinsic_dimension",
        "intrinsic dimension of what {second}'s connector puts out, beside {first}'s",
        Described("stages", "intrinsic_dimension", where=f"point == '{OUT}'"),
        control="{first}'s",
        unit="models",
        of="pair",
        descriptive=True,
    ),
    Claim(
        "longer",
        "how much longer {second}'s image rows are than question rows (log2 of the ratio), beside {first}'s",
        Described("images", "longer"),
        control="{first}'s",
        unit="images",
        of="pair",
        descriptive=True,
    ),
)


def shown(measured: Mapping[str, Tables], items: Sequence[Item]) -> Shown:
    """The table measures: what is compared, of every model by itself."""
    apart = {"told_apart": "image rows told from words", "told_words": "other words told from words"}
    answers = {
        "right": "answers right",
        "right_words": f"right from {WORDS} words a row",
        "right_turned": "right from as many,\nvocabulary turned",
    }
    found = {"found": "property found by a probe"}
    parts = [
        means(measured, "images", apart),
        means(measured, "items", answers),
        means(measured, "probes", found, clusters="object"),
    ]
    return Shown(tables={"measures": pd.concat([part for part in parts if len(part)], ignore_index=True)})


FINDING = Finding(
    id="C2",
    question="What differs between two connectors?",
    explains="pretraining",
    claims=CLAIMS,
    measure=connector_as_trained,
    models=2,
    wants="items with images",
    shown=shown,
    caveats=(
        "It speaks of pretraining only where the models given differ in that alone: one connector pretrained, the "
        "other not. Two that also differ in their encoders differ for whatever reason.",
        "Two connectors, each trained once: the same recipe from another seed gives another connector, and what "
        "differs here may differ between two of those. What a recipe does is asked over seeds (X1).",
        "Effective rank and intrinsic dimension hang on width and number of rows; nothing is tested with them.",
    ),
    sections=(
        Section(
            "The two connectors",
            (
                FigureOf(
                    "compared",
                    "measures_by_model",
                    "measures",
                    "What is compared, of every model by itself.",
                    "measures of two connectors",
                    {"title": "What differs between the connectors?", "note": "95 % by Student's t"},
                ),
                TableOf("measures"),
            ),
        ),
    ),
    methods=(
        "As C1: nearness beside random rotations, telling apart beside other words, answers from words beside a turned "
        "vocabulary. Each is compared less its control, so that a wider model, in which all cosines are smaller, is "
        "not called farther from words. Nearness is tested with differences of turned rows, for two connectors that "
        "have nothing to do with words differ as much as chance has it, on however many images, and over images, for "
        "two that land equally differ by which images those are.",
        "Probe: as in S2, at the connector's output in the box of the object asked about, whole questions held out.",
    ),
)
