"""Does the connector land on the language manifold (C1), what does pretraining change (C2), is the answer unused (S2)?

    python analyses/connector.py
    python analyses/connector.py --models A B --n 600

Every model is measured, and compared with the first. Writes figures/connector_*.png and .svg, among them
connector_tokens_<model> (image and text rows where block 0 receives them) and connector_words_<model> (the nearest
vocabulary row of every patch), and figures/connector.csv, and prints the verdicts.
"""

from __future__ import annotations

from pathlib import Path

from command import load, measure_and_draw, options, run

from vlm_probe.embedding import nearest_tokens, project, token_rows
from vlm_probe.figures import projection, save, words_on_image
from vlm_probe.hooked import HookedVLM
from vlm_probe.items import Item

OUT, EMBED = "connector.hook_out", "language.hook_embed"


def draw_one(model: HookedVLM, items: list[Item], out: Path, seed: int) -> None:
    """The pictures of one model alone."""
    short = str(model.name).replace("/", "-")
    rows = token_rows(model, items[:120], EMBED, seed=seed)
    table = project(rows[EMBED], seed=seed)
    print(*save(projection(table), out, f"connector_tokens_{short}", data=table), sep="\n")
    inputs = model.prepare(items[0].picture(model.image_size), items[0].question)
    words = nearest_tokens(model, model.trace(inputs, capture=[OUT]))
    print(*save(words_on_image(inputs.images[0][0], words), out, f"connector_words_{short}", data=words), sep="\n")


def main() -> None:
    parser = options("What does the connector do?", ("replica/small-clip", "replica/small-clip-nopre"), n=200)
    arguments = parser.parse_args()
    found = measure_and_draw(arguments, ["C1", "C2", "S2"], "connector")
    for name in found.models:
        draw_one(load(arguments, name), found.items, arguments.out, arguments.seed)


if __name__ == "__main__":
    run(main)
