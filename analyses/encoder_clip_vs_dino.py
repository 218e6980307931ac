"""Do CLIP and DINOv2 encode different things (E1), and does CLIP miss what DINOv2 sees (E2)?

    python analyses/encoder_clip_vs_dino.py
    python analyses/encoder_clip_vs_dino.py --models A B --n 600 --images photos/

Every model is measured, and compared with the first. Writes figures/encoder_*.png and .svg and figures/encoder.csv, and
prints the verdicts. With --images also blind_pairs/pairs.html: pictures of that folder that are alike for the first
encoder and not for the second.
"""

from __future__ import annotations

from pathlib import Path

from command import load, measure_and_draw, options, run

from vlm_probe.embedding import blind_pairs, images_in
from vlm_probe.report import write_pairs


def main() -> None:
    parser = options("Do two encoders encode different things?", ("replica/small-clip", "replica/small-dino"), n=300)
    parser.add_argument("--images", type=Path, help="a folder of pictures to find blind pairs in")
    arguments = parser.parse_args()
    # Said before anything is measured, where there are none.
    pictures = None if arguments.images is None else images_in(arguments.images)
    measure_and_draw(arguments, ["E1", "E2"], "encoder")
    if pictures is not None:
        pair = [load(arguments, name) for name in (arguments.models * 2)[:2]]
        print(write_pairs(blind_pairs(pair[0], pair[1], pictures), pictures, arguments.out / "blind_pairs"))


if __name__ == "__main__":
    run(main)
