"""Imports are light and run one way; files stay short; Hugging Face's model is read in few places."""

import subprocess
import sys
from pathlib import Path

import pytest

import vlm_probe

PACKAGE = Path(__file__).parents[1] / "vlm_probe"
HEAVY = {"matplotlib", "captum", "umap", "ray", "torch", "transformers", "transformer_lens", "pandas", "seaborn"}


def loaded_by(code: str) -> set[str]:
    script = f"import sys; {code}; print(' '.join({{m.split('.')[0] for m in sys.modules}}))"
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    return set(out.splitlines()[-1].split())


def test_importing_the_package_loads_nothing_heavy():
    assert not HEAVY & loaded_by("import vlm_probe")


def test_loading_the_command_line_loads_nothing_heavy():
    code = (
        "import sys; sys.argv = ['vlm-probe', '--help']\n"
        "import vlm_probe.cli\n"
        "try: vlm_probe.cli.main()\n"
        "except SystemExit: pass"
    )
    assert not HEAVY & loaded_by(f"exec({code!r})")


def test_the_hooked_model_needs_no_plotting():
    assert not {"matplotlib", "captum", "umap", "ray", "seaborn"} & loaded_by("from vlm_probe import load")


def test_the_package_shows_its_public_names():
    assert {"load", "HookedVLM", "attention", "figures", "scenes", "layout"} <= set(dir(vlm_probe))
    for name in dir(vlm_probe):
        getattr(vlm_probe, name)


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_files_stay_short_and_none_is_a_dumping_ground(path):
    assert len(path.read_text().splitlines()) <= 400
    assert path.stem not in {"utils", "util", "helpers", "misc", "common"}
