"""Does the connector land on the language manifold (C1), what does pretraining change (C2), is the answer unused (S2)?

    python analyses/connector.py
    python analyses/connector.py --models A B --n 600

Every model is compared with the first. Writes to figures/: connector_gap, connector_effective_rank,
connector_intrinsic_dimension, connector_tokens_<model> (image and text rows where block 0 receives them),
connector_words_<model> (the nearest vocabulary row of every patch), connector.csv (verdicts) and
connector_stages.csv; prints the verdicts.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from command import disclaim, each_model, options, print_verdicts, run

from vlm_probe.embedding import nearest_tokens, project, token_rows
from vlm_probe.figures import dimension_by_stage, gap_by_layer, projection, save, words_on_image
from vlm_probe.findings import connector_verdicts, measure_connector, pretraining_verdicts
from vlm_probe.findings.connector import EMBED, OUT, PARTS
from vlm_probe.hooked import HookedVLM
from vlm_probe.items.item import Item
from vlm_probe.scenes import family_items


def draw_one(model: HookedVLM, items: list[Item], out: Path, seed: int) -> None:
    """The figures of one model alone."""
    short = str(model.name).replace("/", "-")
    rows = token_rows(model, items[:120], EMBED, seed=seed)
    print(*save(projection(project(rows[EMBED], seed=seed)), out, f"connector_tokens_{short}"), sep="\n")
    inputs = model.prepare(items[0].picture(model.image_size), items[0].question)
    words = nearest_tokens(model, model.trace(inputs, capture=[OUT]))
    print(*save(words_on_image(inputs.images[0][0], words), out, f"connector_words_{short}"), sep="\n")


def main() -> None:
    parser = options("What does the connector do?", ("replica/small-clip", "replica/small-clip-nopre"), n=300)
    arguments = parser.parse_args()
    out: Path = arguments.out
    items = list(family_items(arguments.n, families=("gqa",), seed=arguments.seed))
    found = []
    for model, advance in each_model(arguments, PARTS + 1):
        found.append(measure_connector(model, items, seed=arguments.seed, progress=advance))
        draw_one(model, items, out, arguments.seed)
        advance(1)
    gaps = pd.concat([one.gap for one in found], ignore_index=True)
    stages = pd.concat([one.stages for one in found], ignore_index=True)
    print(*save(gap_by_layer(gaps), out, "connector_gap"), sep="\n")
    for measure in ("effective_rank", "intrinsic_dimension"):
        print(*save(dimension_by_stage(stages, measure), out, f"connector_{measure}"), sep="\n")
    tables = [connector_verdicts(one) for one in found] + [pretraining_verdicts(found[0], one) for one in found[1:]]
    for table in tables:
        print_verdicts(table)
    pd.concat(tables, ignore_index=True).to_csv(out / "connector.csv", index=False)
    stages.merge(gaps, on=["model", "point"], how="left").to_csv(out / "connector_stages.csv", index=False)
    disclaim(arguments.models)


if __name__ == "__main__":
    run(main)
