"""Imports are light and run one way; files stay short."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

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


# What each part may import, besides itself; everything may import errors.
ALLOWED = {
    "errors": set(),
    "tokens": set(),
    "statistics": set(),
    "files": set(),
    "trace": {"tokens"},
    "scenes": set(),
    "real_small": {"scenes", "hooked", "replicas"},
    "hooked": {"tokens", "trace", "replicas.shipped", "real_small.catalog"},
    "attention": {"tokens", "trace", "hooked"},
    "embedding": {"tokens", "trace", "statistics", "hooked", "scenes"},
    "vocabulary": {"tokens", "trace", "statistics", "hooked", "scenes", "embedding"},
    "figures": {"tokens"},
    "replicas": {"scenes", "hooked"},
    "findings": {
        "tokens",
        "trace",
        "statistics",
        "hooked",
        "attention",
        "embedding",
        "vocabulary",
        "scenes",
        "real_small.catalog",
    },
    "report": {"tokens", "trace", "hooked", "attention", "embedding", "scenes", "findings", "figures"},
    "cli": {"hooked", "replicas", "real_small", "scenes", "findings", "report"},
    "__init__": {"hooked", "tokens", "trace"},
    "__main__": {"cli"},
}


def part_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_run_one_way(path):
    part = part_of(path)
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{a.name}" for a in node.names] if node.module == "vlm_probe" else [node.module]
        elif isinstance(node, ast.Import):
            names = [a.name for a in node.names]
        for name in names:
            if not name.startswith("vlm_probe."):
                continue
            inner = name.removeprefix("vlm_probe.")
            top = inner.split(".")[0]
            permitted = ALLOWED[part] | {part, "errors", "files"}
            assert top in permitted or any(inner.startswith(p) for p in permitted if "." in p), f"{path}: {name}"


def test_files_stay_short_and_none_is_a_dumping_ground():
    for path in PACKAGE.rglob("*.py"):
        assert len(path.read_text().splitlines()) <= 400, path
        assert path.stem not in {"utils", "util", "helpers", "misc", "common"}, path
