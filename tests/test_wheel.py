"""A wheel built from the checkout carries the replicas and works outside it, in an environment of its own."""

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TRY = """
import pathlib, vlm_probe
from vlm_probe.scenes import sample_scene, scene_image
assert pathlib.Path(vlm_probe.__file__).is_relative_to({site!r}), vlm_probe.__file__
model = vlm_probe.load("replica/default", device="cpu")
scene = sample_scene(1)
print(model.answer(scene_image(scene, 64), "How many objects are there?"))
"""


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """A fresh virtual environment with the wheel in it; dependencies are borrowed from this one."""
    base = tmp_path_factory.mktemp("wheel")
    source = base / "source"
    # What git tracks, as it is now: a file that was never added must be missed.
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, listed.split("\0")):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, source / name, follow_symlinks=False)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", base, source], check=True)
    (wheel,) = base.glob("vlm_probe-*.whl")
    venv.create(base / "env", with_pip=False)
    python = base / "env" / "bin" / "python"
    where = [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    inside = Path(subprocess.run(where, capture_output=True, text=True, check=True).stdout.strip())
    # A plain path line: packages are found there, but no editable install of the checkout is.
    (inside / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    subprocess.run([*pip, "--python", python, "install", "--no-deps", "--no-index", wheel], check=True)
    return base / "env", inside, base


def run(environment, *argv: str) -> subprocess.CompletedProcess:
    env, _, base = environment
    clean = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"HF_HUB_OFFLINE": "1"}
    return subprocess.run(
        [env / "bin" / argv[0], *argv[1:]], cwd=base, env=clean, capture_output=True, text=True, check=False
    )


def test_the_installed_wheel_loads_its_replica_and_answers(environment):
    done = run(environment, "python", "-c", TRY.format(site=str(environment[1])))
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() in {"zero", "one", "two", "three"}


def test_the_installed_command_writes_a_report(environment):
    small = ["-m", "replica/small-clip", "-f", "S1", "--items", "12"]
    done = run(environment, "vlm-probe", "report", *small, "--out", "out")
    assert done.returncode == 0, done.stderr
    assert (environment[2] / "out" / "index.html").is_file()
    listed = run(environment, "vlm-probe", "models").stdout
    assert "replica/small-clip" in listed
    assert "replica/small-dino" in listed
