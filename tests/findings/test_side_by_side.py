"""Models measured in processes of their own: the same numbers, no work twice, and nobody left behind."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import pytest

from vlm_probe import VlmProbeError
from vlm_probe.findings import FINDINGS, engine, generated_items, run, steps
from vlm_probe.findings.questions import QUESTIONS, default_replicas, replicas_for
from vlm_probe.findings.side_by_side import jobs_for, measure_ahead
from vlm_probe.opening import load

NAMES = ["replica/small-clip-v4096", "replica/small-clip-v20480"]
IDS = ["V1", "V2", "S3"]


@pytest.fixture(scope="module")
def ahead(tmp_path_factory):
    """Parts that two processes filled, the steps they told of, and the seconds they took."""
    parts, told = tmp_path_factory.mktemp("parts"), list[int]()
    took = measure_ahead(IDS, NAMES, generated_items(3), parts=parts, load=load, progress=told.append)
    return parts, told, took


def test_what_was_measured_ahead_is_what_a_run_alone_finds(ahead, monkeypatch):
    parts, told, took = ahead
    items = generated_items(3)
    alone = run(IDS, NAMES, items)

    def from_parts_alone(*args: object) -> dict[str, pd.DataFrame]:
        folder = args[-1]
        assert isinstance(folder, Path)
        assert folder.is_dir(), "measured twice"
        return engine._read(folder)

    monkeypatch.setattr(engine, "_part", from_parts_alone)
    after = run(IDS, NAMES, items, parts=parts)
    for id in IDS:
        for model in NAMES:
            for name, table in alone.measured[id][model].items():
                pd.testing.assert_frame_equal(after.measured[id][model][name], table)
    pd.testing.assert_frame_equal(after.evidence, alone.evidence)
    assert sum(told) == steps(IDS, NAMES, items)
    assert set(took) == set(IDS)
    assert all(seconds > 0 for seconds in took.values())


def test_a_model_that_cannot_be_opened_is_left_to_the_run(tmp_path):
    names = [NAMES[0], str(tmp_path / "no-such-model")]
    assert measure_ahead(["V1"], names, generated_items(3), parts=tmp_path / "parts", load=load).keys() == {"V1"}
    with pytest.raises(VlmProbeError, match="no-such-model"):
        run(["V1"], names, generated_items(3), parts=tmp_path / "parts")


def as_close(found: Any) -> Any:
    """What JSON holds, numbers to nine digits."""
    if isinstance(found, dict):
        return {name: as_close(value) for name, value in found.items()}
    if isinstance(found, list):
        return [as_close(value) for value in found]
    return f"{found:.9g}" if isinstance(found, float) else found


def test_a_killed_report_leaves_no_process_and_goes_on_to_the_same_results(tmp_path):
    ids, models = ("V1", "V4"), [part for name in NAMES for part in ("-m", name)]
    argv = ["report", *models, *(part for id in ids for part in ("-f", id)), "--items", "12", "--out", "report"]
    command = [sys.executable, "-m", "vlm_probe", *argv]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    begun = subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.DEVNULL)
    children: list[psutil.Process] = []
    try:
        until = time.monotonic() + 300
        parts = tmp_path / ".report.parts"
        while time.monotonic() < until and not list(parts.glob("*/V1/*")):
            time.sleep(0.1)
        children = psutil.Process(begun.pid).children(recursive=True)
        assert len(children) >= 2
    finally:
        begun.kill()
        begun.wait()
    _, alive = psutil.wait_procs(children, timeout=60)
    for one in alive:
        one.kill()
    assert not alive
    assert not (tmp_path / "report").exists()
    subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True)
    assert not parts.exists()
    # In processes of its own, too: in this one, after other tests, the last bits of sums are others.
    subprocess.run([*command[:-1], "whole"], cwd=tmp_path, env=environment, check=True, capture_output=True)
    resumed, whole = (json.loads((tmp_path / out / "results.json").read_text()) for out in ("report", "whole"))
    assert as_close(resumed) == as_close(whole)


def test_each_question_has_miniatures_that_differ_in_it_alone():
    for name, question in QUESTIONS.items():
        first, *others = (replica.removeprefix("replica/").split("-") for replica in question.replicas)
        assert others, name
        for other in others:
            assert len(set(first) ^ set(other)) in (1, 2), (first, other)
    assert set(default_replicas()) == {replica for one in QUESTIONS.values() for replica in one.replicas}


def test_no_model_is_opened_that_nothing_is_asked_of():
    assert default_replicas([FINDINGS["S1"], FINDINGS["X2"]]) == list(QUESTIONS["size"].replicas)
    assert default_replicas([FINDINGS["X1"]]) == []
    assert default_replicas(FINDINGS.values()) == default_replicas()


def test_a_finding_is_measured_on_the_models_it_names_and_compares_in_their_order():
    one, two = NAMES
    by_finding = {"V1": [two, one], "V2": [one]}
    found = run(["V1", "V2"], NAMES, generated_items(3), only=lambda finding: by_finding[finding.id])
    assert {id: list(tables) for id, tables in found.measured.items()} == by_finding
    pairs = found.evidence.loc[found.evidence["claim"].str.endswith("_more"), "models"]
    assert set(pairs) == {f"{two}, {one}"}
    for finding in FINDINGS.values():
        assert len(replicas_for(finding)) >= finding.models


def test_two_processes_for_miniatures_on_a_processor_alone():
    assert jobs_for(NAMES, "cpu") == (2 if (os.cpu_count() or 1) > 1 else 1)
    assert jobs_for(NAMES[:1], "cpu") == 1
    assert jobs_for(NAMES, "cuda") == 1
    assert jobs_for([*NAMES, "Intel/llava-gemma-2b"], "cpu") == 1
