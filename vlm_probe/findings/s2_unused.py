"""S2: is the answer in the image tokens but unused?

A linear probe is read in the box of the object asked about, at the connector's output and behind every language layer,
for questions that it never saw, and is compared with the model's own answer to them. That a probe finds something
there says little before it beats six numbers of the same pixels, an encoder that nobody trained, and itself in the box
of another object of the image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from vlm_probe.embedding import features
from vlm_probe.embedding.encoder import encoded
from vlm_probe.errors import VlmProbeError
from vlm_probe.evidence import Claim, Described, PairedMean, Tables
from vlm_probe.findings.connected import OUT, means
from vlm_probe.findings.finding import SHARES, FigureOf, Finding, Section, Shown, TableOf
from vlm_probe.findings.probed import at_other_object, found_by_probe, object_kinds, properties
from vlm_probe.findings.shared import Shared, about
from vlm_probe.hooked import HookedVLM
from vlm_probe.hooked.anatomy import one_encoder
from vlm_probe.hooked.untrained import with_random_encoder
from vlm_probe.items import Item

ENCODERS = 3
"""Encoders with random weights, of which the best is the control: one drawn badly would be beaten by anything."""
CONTROLS = {"pixels": "six numbers of the same pixels", "random": "a random encoder", "other": "another object's box"}


def layers_of(model: HookedVLM) -> list[str]:
    """The language model's layers, by hook name."""
    return [f"language.blocks.{i}.hook_resid_post" for i in range(len(model.language.blocks))]


def found_but_unused(
    model: HookedVLM, items: Sequence[Item], *, shared: Shared | None = None, seed: int = 0
) -> dict[str, pd.DataFrame]:
    """What probes find of the property asked for, and what the model answers, item by item.

    items: those that are no `properties`, or whose object or the other one lies outside what the model sees, are left
    out.

    Returns two tables. items: `shared.about`, object (what kind of object is asked about), right (the model's answer),
    found_connector and found_last (the probe at the connector's output, and behind the last language layer),
    other_connector and other_last (the same probes in another object's box), random (the best of `ENCODERS` random
    encoders, by kind of question), pixels: 1 or 0. layers: id, kind, object, point, found and other at the connector
    and behind every language layer.

    Raises VlmProbeError for a model without an encoder, and items none of which asks for a property.
    """
    if model.vision_config is None:
        raise VlmProbeError(f"{model.name} has no encoder; give a model that takes images")
    one_encoder(model, "S2")
    own, end = shared or Shared(model, items), f"vision.blocks.{model.vision_layers_read - 1}.hook_resid_post"
    asked = _seen(model, items, end)
    if not asked:
        raise VlmProbeError(f"it needs {WANTS}; there is none among the {len(items)} given")
    points, n = [OUT, *layers_of(model)], len(asked)
    both = features(model, [*asked, *at_other_object(asked)], points, pool="box")
    pixels = encoded(model, asked, [end])[1]["box"]
    bare = [own.random_encoder, *(with_random_encoder(model, seed=s) for s in range(1, ENCODERS))]
    random = [encoded(one, asked, [end])[0]["box"][0] for one in bare]

    table = about(asked).assign(object=object_kinds(asked))
    table["right"] = own.answers(asked)["correct"].to_numpy(dtype=float)
    answers, questions = (np.asarray([getattr(item, name) for item in asked]) for name in ("answer", "question"))
    layers = []
    for kind in table["kind"].unique():
        at = (table["kind"] == kind).to_numpy()

        def found(x: np.ndarray, other: np.ndarray | None = None, at: np.ndarray = at) -> np.ndarray:
            second = None if other is None else other[None, at]
            return found_by_probe(x[None, at], answers[at], questions[at], elsewhere=second, seed=seed)[0]

        for point in points:
            rows = table.loc[at, ["id", "kind", "object"]].assign(point=point)
            there, elsewhere = both[point].values[:n], both[point].values[n:]
            rows["found"], rows["other"] = found(there), found(there, elsewhere)
            layers.append(rows)
            for place in [place for place, its in (("connector", OUT), ("last", points[-1])) if its == point]:
                table.loc[at, f"found_{place}"], table.loc[at, f"other_{place}"] = rows["found"], rows["other"]
        table.loc[at, "random"] = max((found(one) for one in random), key=np.mean)
        table.loc[at, "pixels"] = found(pixels)
    return {"items": table, "layers": pd.concat(layers, ignore_index=True)}


def _seen(model: HookedVLM, items: Sequence[Item], end: str) -> list[Item]:
    """The `properties` whose boxes, and other objects' boxes, lie in what the model sees of their images."""
    asked = properties(items)
    for which in (list, at_other_object):
        if asked:
            unseen = np.isnan(encoded(model, which(asked), [end])[1]["box"]).sum(axis=1).tolist()
            asked = [item for item, n in zip(asked, unseen, strict=True) if n == 0]
    return properties(asked)


WANTS = (
    "items that ask for a property of one object, with its box and another object's, five or more of an answer and "
    "about two different things (generated scenes: color, shape)"
)
PLACES = {"connector": "at the connector's output", "last": "behind the last language layer"}
ASKED = "kind != 'color'"
"""Colors are described only: six numbers of the pixels tell them nearly always, so that nothing there says anything."""


def _claims() -> tuple[Claim, ...]:
    """For each place, one claim a control and then what the finding asks; and what colors come to."""
    found = []
    for place, at in PLACES.items():
        ids = {control: f"{place}_beats_{control}" for control in CONTROLS}
        for control, what in CONTROLS.items():
            column, beaten = (f"other_{place}", f"in {what}") if control == "other" else (control, f"one of {what}")
            found.append(
                Claim(
                    ids[control],
                    f"{{model}}: a probe {at} finds a shape (or other property, no color) more often than {beaten}",
                    PairedMean("items", f"found_{place}", column, ASKED, clusters="object", right_or_wrong=True),
                    control=what,
                    unit="kinds of object",
                    margin=MARGIN,
                    # Of an untrained copy the boxes differ as well; what training adds is the random encoder's to say.
                    untrained=control == "random",
                )
            )
        found.append(
            Claim(
                f"{place}_unused",
                f"{{model}}: a probe {at}, given the box, finds a shape (or other property, no color) more often than "
                "the model answers it",
                PairedMean("items", f"found_{place}", "right", ASKED, clusters="object", right_or_wrong=True),
                control="the model's own answers",
                unit="kinds of object",
                margin=MARGIN,
                requires=tuple(ids.values()),
            )
        )
        found.append(
            Claim(
                f"{place}_color",
                f"{{model}}: share of colors that a probe {at}, given the box, finds",
                Described("items", f"found_{place}", "right", where="kind == 'color'"),
                control="the model's own answers",
                unit="items",
                descriptive=True,
            )
        )
    return tuple(found)


MARGIN = 0.05
"""One item in twenty: less is no reason to say that something is there, or unused."""


def shown(measured: Mapping[str, Tables], items: Sequence[Item]) -> Shown:
    """Tables found and layers; a sentence a model."""
    columns = {
        "right": "the model answers",
        "found_connector": "probe at the connector",
        "found_last": "probe behind the last layer",
        "other_connector": "connector, another's box",
        "other_last": "last layer, another's box",
        "random": "probe of a random encoder",
        "pixels": "probe of six pixel numbers",
    }
    parts, along = [], []
    for kind in dict.fromkeys(kind for tables in measured.values() for kind in tables["items"]["kind"].unique()):
        own = {name: {key: t.loc[t["kind"] == kind] for key, t in tables.items()} for name, tables in measured.items()}
        words = {column: f"{kind}: {text}" for column, text in columns.items()}
        parts.append(means(own, "items", words, clusters="object"))
        for model, tables in own.items():
            for point, rows in tables["layers"].groupby("point", sort=False):
                at = means({model: {"rows": rows}}, "rows", {"found": kind}, clusters="object")
                along.append(at.assign(point=point, other=float(rows["other"].to_numpy(dtype=float).mean())))
    found = pd.concat(parts, ignore_index=True)
    layers = pd.concat(along, ignore_index=True).rename(columns={"measure": "kind"})
    return Shown(tables={"found": found, "layers": layers}, summary=[_sentence(*one) for one in measured.items()])


def _sentence(model: str, tables: Tables) -> str:
    said = []
    for kind, rows in tables["items"].groupby("kind", sort=False):
        share = rows[["right", "found_connector", "found_last"]].mean()
        said.append(
            f"the {kind} of {len(rows)} objects is answered right in {share['right']:.1%}, found by a probe in "
            f"{share['found_connector']:.1%} at the connector and {share['found_last']:.1%} behind the last layer"
        )
    return f"{model}: {'; '.join(said)}."


_LAYERS = {
    "model": "model",
    "kind": "property",
    "point": "read at",
    "mean": "share found",
    "low": "95 % from",
    "high": "to",
    "other": "in another's box",
    "n": "n",
}
"""Columns that a page shows."""

FINDING = Finding(
    id="S2",
    question="Is the answer in the image tokens but unused?",
    explains="size",
    claims=_claims(),
    measure=found_but_unused,
    picks=properties,
    wants=WANTS,
    shown=shown,
    caveats=(
        "The probe is handed the box; the model has to find the object that the question names. What the probe knows "
        "and the model does not say may be lost in finding it.",
        "The probe is linear and reads the mean over the box: what it does not find may be there all the same.",
        "Image rows stand before the question, so what they hold in any layer hangs on the image alone.",
    ),
    sections=(
        Section(
            "What do probes find, and what does the model answer?",
            (
                FigureOf(
                    "unused",
                    "measures_by_model",
                    "found",
                    "Share of items whose property is found by a linear probe in the box of the object asked about, "
                    "for questions that the probe never saw, beside its controls and the model's own answers.",
                    "share found by probes and answered by the model",
                    {
                        "title": "Is the answer there, and is it said?",
                        "note": "95 % by Student's t over kinds of object",
                    },
                    says="The connector holds shapes that the answer does not",
                    claims=("connector_unused",),
                ),
                TableOf("found", SHARES),
            ),
        ),
        Section("Layer by layer", (TableOf("layers", _LAYERS),)),
    ),
    methods=(
        "Items: those that ask for a property of one object whose box is known, beside another object. Whole questions "
        "are held out: a probe for shapes that is asked about red objects never saw one, so that no kind of object is "
        "on both sides. (Single kinds held out would teach a probe that red is no star: below chance.)",
        "Probe: logistic regression behind standardisation of the mean over the patches that the box covers, weighted "
        "by how much; regularisation chosen within the questions that were seen. Controls: the same probe in another "
        f"object's box; the best of {ENCODERS} random encoders of the same shape, where the connector would read; mean "
        "and spread of each color channel over the same patches of the pixels that the encoder is given.",
        "Unit: kinds of object (a question and its answer, a red star), for a probe errs by kinds. With images as "
        "units, probes of equal features were called different in up to 19 % of simulated runs; with kinds, in 3 to 6.",
    ),
)
