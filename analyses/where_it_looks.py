"""Where do models look? (finding S1)

    python analyses/where_it_looks.py --models replica/small-clip replica/small-dino
    python analyses/where_it_looks.py --models Intel/llava-gemma-2b Intel/llava-gemma-7b --n 600

Every model is measured, and compared with the first. Writes figures/where_it_looks_*.png and .svg and
figures/where_it_looks.csv, and prints the verdicts.
"""

from command import measure_and_draw, options, run


def main() -> None:
    parser = options("Where do models look?", ("replica/small-clip", "replica/small-dino"), n=200)
    measure_and_draw(parser.parse_args(), ["S1"], "where_it_looks")


if __name__ == "__main__":
    run(main)
