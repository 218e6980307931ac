"""What the studies say of the paper's questions, for README; nothing is written by hand.

python docs/_ext/what_it_says.py     # writes README's part anew
"""

from __future__ import annotations

import sys
from pathlib import Path
from textwrap import fill

from vlm_probe.report.abstract import studies_in_short

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "benchmarks"))
from tables import between  # noqa: E402

README = ROOT / "README.md"
BEGIN, END = "<!-- what it says: begin -->", "<!-- what it says: end -->"
"""Between these lines README is written by `make figures`."""


def written_readme() -> str:
    """README with what the studies say made anew: a point a question."""
    points = [
        fill(f"- **{asked}** {' '.join(said)}", 120, subsequent_indent="  ", break_on_hyphens=False)
        for asked, said in studies_in_short().items()
    ]
    return between(README.read_text("utf-8"), BEGIN, END, "\n".join(points))


if __name__ == "__main__":
    README.write_text(written_readme(), "utf-8")
