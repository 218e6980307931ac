"""Do CLIP and DINOv2 encode different things (E1), and does CLIP miss what DINOv2 sees (E2)?

    python analyses/encoder_clip_vs_dino.py
    python analyses/encoder_clip_vs_dino.py --models A B --n 600 --images photos/

Every model is compared with the first. Writes to figures/: encoder_probe_<label> (probes by layer),
encoder_cka_<model> (layers against layers), encoder.csv (verdicts) and encoder_probes.csv; prints the verdicts.
With --images also blind_pairs/pairs.html: pictures of that folder that are alike for the first encoder and not for
the second.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from command import disclaim, each_model, options, print_verdicts, run

import vlm_probe
from vlm_probe.embedding import blind_pairs, images_in
from vlm_probe.figures import probe_by_layer, save, similarity_heatmap
from vlm_probe.findings import encoder_verdicts, layer_likeness, measure_encoder
from vlm_probe.findings.encoder import LABELS, PARTS
from vlm_probe.report import write_pairs
from vlm_probe.scenes import family_items


def main() -> None:
    parser = options("Do two encoders encode different things?", ("replica/small-clip", "replica/small-dino"), n=300)
    parser.add_argument("--images", type=Path, help="a folder of pictures to find blind pairs in")
    arguments = parser.parse_args()
    out: Path = arguments.out
    items = list(family_items(arguments.n, families=("gqa",), seed=arguments.seed))
    twins = list(family_items(arguments.n, families=("mmvp",), seed=arguments.seed))
    found = [
        measure_encoder(model, items, twins, seed=arguments.seed, progress=advance)
        for model, advance in each_model(arguments, PARTS)
    ]
    probes = pd.concat([one.probes for one in found], ignore_index=True)
    for label in LABELS:
        print(*save(probe_by_layer(probes, label), out, f"encoder_probe_{label}"), sep="\n")
    probes.to_csv(out / "encoder_probes.csv", index=False)
    tables = []
    for other in found[1:]:
        heat = similarity_heatmap(layer_likeness(found[0], other), rows=found[0].model, columns=other.model)
        print(*save(heat, out, f"encoder_cka_{other.model.replace('/', '-')}"), sep="\n")
        tables.append(encoder_verdicts(found[0], other))
        print_verdicts(tables[-1])
    if tables:
        pd.concat(tables, ignore_index=True).to_csv(out / "encoder.csv", index=False)
    if arguments.images is not None:
        pictures = images_in(arguments.images)
        pair = [vlm_probe.load(name, device=arguments.device) for name in (arguments.models * 2)[:2]]
        print(write_pairs(blind_pairs(pair[0], pair[1], pictures), pictures, out / "blind_pairs"))
    disclaim(arguments.models)


if __name__ == "__main__":
    run(main)
