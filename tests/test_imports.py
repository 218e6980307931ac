"""Imports are light and run one way; files stay short; Hugging Face's model is read in few places."""

import ast
import subprocess
import sys
from collections.abc import Iterable, Iterator
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


METHODS = {"attention", "embedding", "vocabulary", "lens", "causal"}
EVERYTHING = frozenset(p.stem for p in PACKAGE.iterdir() if p.suffix == ".py" or (p / "__init__.py").exists())
FORBIDDEN: dict[str, Iterable[str]] = {
    "errors": EVERYTHING,
    "files": EVERYTHING - {"errors"},
    "settings": EVERYTHING,
    "names": EVERYTHING - {"errors"},
    "layout": EVERYTHING - {"errors"},
    "zoo": EVERYTHING - {"errors", "files"},
    "checkpoints": {"hooked"},
    "inputs": {"hooked", "zoo", "checkpoints", "running"},
    "running": {"hooked", "training", "findings"},
    "store": {"training"},
    "hooked": {"zoo", "checkpoints", "store", "opening"},
    "items": {"scenes", "hooked", "running"},
    "evidence": {"findings", "hooked", "studies", *METHODS},
    **{method: {"findings", "figures", "report"} for method in METHODS},
    "figures": {"hooked", "findings", "evidence", "studies", "running", "opening", *METHODS},
    "findings": {"figures", "report", "training", "matplotlib", "seaborn"},
    "studies": {"figures", "report", "findings"},
    "training": {"findings", "figures", "report"},
}
"""Arrows that must never exist (design section 7); "anything -> cli" stands below."""


def imports_of(source: str) -> Iterator[tuple[str, str]]:
    """Every (module, name) a source imports, wherever it stands; name is "" for a module itself."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield from ((node.module, alias.name) for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)


def modules(package: Path) -> dict[str, Path]:
    """Dotted name -> file, of everything below a package's folder; a package's name is that of its `__init__`."""
    found = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def arrows(package: Path) -> dict[str, set[str]]:
    """Module -> what it imports: modules of the package by their full name, others by their first word.

    The package's own `__init__` only names what others hold, and is left out.
    """
    known, root = modules(package), package.name
    graph = {}
    for name, path in known.items():
        if name == root:
            continue
        targets = set()
        for module, thing in imports_of(path.read_text()):
            full = f"{module}.{thing}"
            inside = full if full in known else module
            targets.add(inside if inside in known else module.split(".")[0])
        graph[name] = targets - {root}
    return graph


def part_of(module: str) -> str:
    return module.split(".")[1] if "." in module else module


def wrong_arrows(package: Path) -> list[str]:
    found = []
    for module, targets in arrows(package).items():
        part = part_of(module)
        forbidden = set(FORBIDDEN.get(part, ())) - {part} | ({"cli"} - {part})
        found += [f"{module} -> {t}" for t in sorted(targets) if part != "__main__" and part_of(t) in forbidden]
    return found


def circle_in(graph: dict[str, set[str]]) -> list[str]:
    """The nodes of one circle, or nothing."""
    done: set[str] = set()
    for start in graph:
        path: list[str] = []
        on_path: set[str] = set()

        def walk(node: str, path=path, on_path=on_path) -> list[str]:
            if node in on_path:
                return path[path.index(node) :]
            if node in done or node not in graph:
                return []
            path.append(node)
            on_path.add(node)
            for target in sorted(graph[node]):
                if found := walk(target):
                    return found
            done.add(path.pop())
            on_path.discard(node)
            return []

        if found := walk(start):
            return found
    return []


def part_graph(package: Path) -> dict[str, set[str]]:
    graph: dict[str, set[str]] = {}
    for module, targets in arrows(package).items():
        graph.setdefault(part_of(module), set()).update(part_of(t) for t in targets if "." in t)
    return {part: targets - {part} for part, targets in graph.items()}


def test_no_arrow_runs_the_wrong_way():
    assert wrong_arrows(PACKAGE) == []


def test_no_circle():
    assert circle_in(arrows(PACKAGE)) == []
    assert circle_in(part_graph(PACKAGE)) == []


PRIVATE = [
    (module, f"{target}.{name}")
    for module, path in modules(PACKAGE).items()
    for target, name in imports_of(path.read_text())
    if target.startswith("vlm_probe") and name.startswith("_") and not name.startswith("__")
]


def test_nobody_imports_anothers_privates():
    assert PRIVATE == []


def test_the_report_knows_no_finding_by_name():
    graph = arrows(PACKAGE)
    particular = {m for m in graph if m.startswith("vlm_probe.findings.") and m.split(".")[2][:2] in PARTICULAR}
    assert particular
    for module, targets in graph.items():
        if part_of(module) == "report":
            assert not targets & particular, module


PARTICULAR = {f"{letter}{number}" for letter in "svecx" for number in range(1, 10)}
"""How files of single hypotheses begin."""


MAY_READ_HF = {"hooked", "checkpoints", "training"}


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_the_hugging_face_model_is_read_in_few_places(path):
    if path.relative_to(PACKAGE).parts[0] in MAY_READ_HF:
        return
    nodes = ast.walk(ast.parse(path.read_text()))
    read = [node.lineno for node in nodes if isinstance(node, ast.Attribute) and node.attr == "hf"]
    assert read == [], f"{path}: ask vlm_probe.hooked.anatomy"


def planted(tmp_path: Path, files: dict[str, str]) -> Path:
    root = tmp_path / "vlm_probe"
    for name, source in {"__init__.py": "", **files}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        for folder in (root / name).parent.relative_to(root).parts:
            (root / folder / "__init__.py").touch()
        (root / name).write_text(source)
    return root


@pytest.mark.parametrize(
    ("file", "source", "arrow"),
    [
        ("zoo/cells.py", "from vlm_probe.scenes import world", "vlm_probe.zoo.cells -> vlm_probe.scenes"),
        (
            "running/a.py",
            "def f():\n    from vlm_probe.hooked.model import X",
            "vlm_probe.running.a -> vlm_probe.hooked.model",
        ),
        ("figures/a.py", "import vlm_probe.attention.maps", "vlm_probe.figures.a -> vlm_probe.attention.maps"),
        ("findings/a.py", "import matplotlib.pyplot as plt", "vlm_probe.findings.a -> matplotlib"),
        ("lens/a.py", "from vlm_probe import report", "vlm_probe.lens.a -> vlm_probe.report"),
        ("opening.py", "from vlm_probe.cli.terminal import app", "vlm_probe.opening -> vlm_probe.cli.terminal"),
    ],
)
def test_a_planted_arrow_is_found(tmp_path, file, source, arrow):
    there = {f"{part}/__init__.py": "" for part in ("scenes", "hooked", "attention", "report", "cli")}
    there |= {"hooked/model.py": "", "attention/maps.py": "", "cli/terminal.py": ""}
    assert wrong_arrows(planted(tmp_path, there)) == []
    assert wrong_arrows(planted(tmp_path, {file: source})) == [arrow]


def test_a_planted_circle_is_found(tmp_path):
    hidden = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from vlm_probe.layout.a import A\n"
    root = planted(tmp_path, {"layout/a.py": "from vlm_probe.layout.b import B\n", "layout/b.py": hidden})
    assert circle_in(arrows(root)) == ["vlm_probe.layout.a", "vlm_probe.layout.b"]
    # Between parts, where no two modules import each other.
    files = {"lens/a.py": "from vlm_probe.items.a import A\n", "items/b.py": "from vlm_probe.lens.b import B\n"}
    root = planted(tmp_path / "parts", {**files, "items/a.py": "", "lens/b.py": ""})
    assert circle_in(arrows(root)) == []
    assert circle_in(part_graph(root)) == ["items", "lens"]


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_files_stay_short_and_none_is_a_dumping_ground(path):
    assert len(path.read_text().splitlines()) <= 400
    assert path.stem not in {"utils", "util", "helpers", "misc", "common"}
