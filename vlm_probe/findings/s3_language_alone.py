"""S3: does it answer from language alone?

Every question is asked again with a blank picture, with another item's, and, of generated scenes, with the scene drawn
again without the object asked about. Whatever is done to a picture changes some answers: beside that stands the scene
without another of its objects. How often a swapped or a blank picture changes an answer is told without a test: there
is no other picture that should leave it as it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import pandas as pd

from vlm_probe.causal.pictures import Change, blanked, blurred, swapped, with_pictures, without_asked, without_other
from vlm_probe.errors import VlmProbeError
from vlm_probe.evidence import Claim, Described, PairedMean, Tables, summarize
from vlm_probe.findings.finding import SHARES, FigureOf, Finding, Section, Shown, TableOf
from vlm_probe.findings.shared import Shared, about
from vlm_probe.hooked import HookedVLM
from vlm_probe.items import Item
from vlm_probe.items.normalize import yes_or_no
from vlm_probe.scenes import Scene

LEAST = 20
"""Images that decide at least."""
SHARE = 0.05
"""Of answers: one in twenty."""


def _can_lose(item: Item) -> bool:
    """Whether the object asked about, and another one, can be taken out of the picture."""
    return isinstance(item.source, Scene) and 0 < len(item.boxes) <= len(item.others)


def _pictured(items: Sequence[Item]) -> list[Item]:
    seen = [item for item in items if item.source is not None]
    return seen if len({item.image for item in seen}) > 1 else []


def from_language_alone(
    model: HookedVLM, items: Sequence[Item], *, shared: Shared | None = None, seed: int = 0
) -> dict[str, pd.DataFrame]:
    """How answers change with other pictures, item by item.

    Returns one table, items: `shared.about`; changed_blank, changed_swapped, changed_blurred, changed_asked and
    changed_other (1 where another first token is said; NaN where no object can be taken out), kl_blank, kl_swapped,
    kl_asked, kl_other (nats), kept_blank (1 - changed_blank), yes_blank (1 where "yes" is said to a blank picture;
    NaN where the question is not answered by yes or no).

    Raises VlmProbeError for a model without an encoder, and items of one picture.
    """
    if model.vision_config is None:
        raise VlmProbeError(f"{model.name} is a language model without an encoder: it has nothing but language")
    asked = _pictured(items)
    if not asked:
        raise VlmProbeError(f"it needs {FINDING.wants}; there is none among the {len(items)} given")
    ask = (shared or Shared(model, items)).question
    worded = [replace(item, question=ask(item)) for item in asked]
    found = _asked_with(model, worded, {"blank": blanked, "swapped": swapped(worded), "blurred": blurred})
    losing = [item for item in worded if _can_lose(item)]
    if losing:
        taken = {"asked": without_asked, "other": without_other}
        found = found.join(_asked_with(model, losing, taken), how="left")
    polar = [yes_or_no(item.answer) == item.answer.lower() for item in asked]
    said = found["says_blank"].tolist()
    yes = [1.0 if yes_or_no(model.token_strings([one])[0]) == "yes" else 0.0 for one in said]
    kept = [column for column in COLUMNS if column in found]
    table = about(asked).join(found[kept].reset_index(drop=True))
    for column in COLUMNS:
        table[column] = table[column].astype(float) if column in table else float("nan")
    table["kept_blank"] = 1 - table["changed_blank"]
    table["yes_blank"] = pd.Series(yes).where(pd.Series(polar))
    return {"items": table}


COLUMNS = tuple(
    f"{what}_{name}" for what in ("changed", "kl") for name in ("blank", "swapped", "blurred", "asked", "other")
)


def _asked_with(model: HookedVLM, items: Sequence[Item], changes: Mapping[str, Change]) -> pd.DataFrame:
    """By item, a column a measure and picture.

    Raises VlmProbeError for an item that cannot be asked: whoever measures names it, and goes on without.
    """
    table = with_pictures(model, items, changes)
    if table.attrs["left_out"]:
        raise VlmProbeError(table.attrs["left_out"][0])
    wide = table.pivot(index="id", columns="picture", values=["changed", "kl", "says"])
    wide.columns = [f"{what}_{name}" for what, name in wide.columns]
    return wide.loc[[item.id for item in items]]


CLAIMS = (
    Claim(
        "object",
        "{model}: its answer changes more often when the object asked about is taken out of the scene than when "
        "another one is",
        PairedMean("items", "changed_asked", "changed_other", "changed_asked == changed_asked", right_or_wrong=True),
        control="another object taken out",
        unit="images",
        margin=SHARE,
        least=LEAST,
    ),
    Claim(
        "object_more",
        "{second}'s answer changes with the object asked about (beyond another one) more often than {first}'s",
        PairedMean("items", "changed_asked", "changed_other", "changed_asked == changed_asked", right_or_wrong=True),
        control="the same difference in {first}",
        unit="images",
        of="pair",
        margin=SHARE,
        least=LEAST,
    ),
    Claim(
        "picture_more",
        "{second}'s answer changes with another item's picture more often than {first}'s",
        PairedMean("items", "changed_swapped", right_or_wrong=True),
        control="{first}'s answers",
        unit="images",
        of="pair",
        margin=SHARE,
        least=LEAST,
    ),
    Claim(
        "picture",
        "{model}: share of its answers that change with another item's picture, beside its own, hardly blurred",
        Described("items", "changed_swapped", "changed_blurred"),
        control="its own picture, hardly blurred",
        unit="items",
        descriptive=True,
    ),
    Claim(
        "kept_blank",
        "{model}: share of its answers that stay without a picture",
        Described("items", "kept_blank"),
        control="none",
        unit="items",
        descriptive=True,
    ),
    Claim(
        "yes_blank",
        "{model}: share of yes among its first words to a blank picture, of questions that yes or no answers",
        Described("items", "yes_blank", 0.5),
        control="one half",
        unit="items",
        descriptive=True,
    ),
)

_MEASURES = {
    "changed_asked": "changed: the object asked about gone",
    "changed_other": "changed: another object gone",
    "changed_swapped": "changed: another item's picture",
    "changed_blank": "changed: a blank picture",
    "changed_blurred": "changed: hardly blurred",
    "yes_blank": "yes to a blank picture",
}

_SAID = {
    "changed_asked": "scenes without the object asked about",
    "changed_other": "scenes without another",
    "changed_swapped": "another item's pictures",
    "changed_blank": "blank ones",
}


def shown(measured: Mapping[str, Tables], items: Sequence[Item]) -> Shown:
    """Tables changed (means with intervals) and items (as measured); a sentence a model."""
    whole = pd.concat([tables["items"].assign(model=model) for model, tables in measured.items()], ignore_index=True)
    table = summarize(whole, list(_MEASURES), ["model"])
    said = []
    for model in measured:
        rows = table.query("model == @model")
        own = dict(zip(rows["measure"].tolist(), rows["mean"].tolist(), strict=True))
        parts = [f"{own[measure]:.1%} of {words}" for measure, words in _SAID.items() if own[measure] == own[measure]]
        said.append(f"{model} says something else for {', '.join(parts)}.")
    # Pictures from files have no objects to take out.
    asked = table.loc[table["n"] > 0]
    words = [_MEASURES[measure] for measure in asked["measure"].tolist()]
    return Shown(tables={"changed": asked.assign(measure=words), "items": whole}, summary=said)


FINDING = Finding(
    id="S3",
    question="Does it answer from language alone?",
    explains="size",
    claims=CLAIMS,
    measure=from_language_alone,
    picks=_pictured,
    wants="items with pictures, two or more different ones; of generated scenes, objects are taken out as well",
    shown=shown,
    methods=(
        "Every question of {n} items is asked again: with the picture's mean colour alone, with the picture of the "
        "next item that has another, with its own behind a Gaussian blur (radius 1 % of the side), and, of generated "
        "scenes with another object, with the scene drawn again without what is asked about, and without as many other "
        "objects. Changed: whether the most probable first token is another one. The counterfactual scenes are drawn "
        "as those the replicas were trained on; a picture with blanked pixels is not.",
        "KL(own picture || changed picture) of the first token's distribution, in nats. Yes: the first token to a "
        "blank picture, of questions whose right answer is yes or no (POPE's yes-ratio, Li et al. 2023, "
        "arXiv:2305.10355). "
        "Differences: Student's t and sign flips over images, Holm over the claims.",
    ),
    caveats=(
        "An answer that stays may be the right one still: without the object asked about, a question about its colour "
        "has none, but whether there is one is answered no.",
        "The first token alone is looked at.",
        "A swapped picture may have the same answer, so that a model that sees everything does not change all of them.",
    ),
    sections=(
        Section(
            "The same question about other pictures",
            (
                FigureOf(
                    "changed",
                    "measures_by_model",
                    "changed",
                    "How often something else is said when the picture is another one; 95 % bootstrap intervals over "
                    "items. An answer from language alone changes with none of them.",
                    "answers that change with the picture",
                    {"title": "Does it answer from language alone?", "label": "share of items"},
                    says="Answers change with the object asked about",
                    claims=("object",),
                ),
                TableOf("changed", SHARES),
            ),
        ),
    ),
)
