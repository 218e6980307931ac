"""Shards, here and on Ray: each done, once where nothing fails, with the same results; and nobody is left behind."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import warnings
from functools import partial

import pandas as pd
import psutil
import pytest
from shard_work import failing, killed, noted, squares

from vlm_probe.errors import VlmProbeError, VlmProbeWarning
from vlm_probe.findings import generated_items, run
from vlm_probe.opening import load
from vlm_probe.running import evaluation
from vlm_probe.running.evaluation import evaluate
from vlm_probe.running.on_ray import RETRIES
from vlm_probe.running.scheduling import LOCAL, Engine, cluster, run_shards
from vlm_probe.scenes import family_items

RAY = Engine("ray", actors=2)
MODEL = "replica/small-clip"


@pytest.fixture(scope="module")
def ray_here():
    """One cluster for all tests of this file: starting one takes seconds."""
    with cluster(RAY):
        yield


def actors_alive(driver: psutil.Process) -> list[psutil.Process]:
    found = []
    for one in driver.children(recursive=True):
        try:
            found += [one] if "MapWorker" in one.name() + " ".join(one.cmdline()) else []
        except psutil.Error:
            continue
    return found


def wait_for_no_actor() -> None:
    until = time.monotonic() + 30
    while (left := actors_alive(psutil.Process())) and time.monotonic() < until:
        time.sleep(0.1)
    assert not left


def test_here_shards_are_done_in_order_by_one_worker(tmp_path):
    told = []
    run_shards([3, 1, 4], partial(squares, tmp_path), done=lambda number, result: told.append((number, result[:2])))
    assert told == [(3, (9, os.getpid())), (1, (1, os.getpid())), (4, (16, os.getpid()))]
    assert len(list(tmp_path.glob("made-*"))) == 1
    with pytest.raises(VlmProbeError, match="shard 3 has no picture"), pytest.warns(VlmProbeWarning):
        run_shards([3], partial(failing, tmp_path, "user"))


@pytest.mark.parametrize("engine", [LOCAL, RAY], ids=lambda engine: engine.name)
def test_of_no_shards_no_worker_is_made(engine):
    run_shards([], lambda: pytest.fail("made"), engine=engine)


def test_on_ray_every_shard_is_done_once(ray_here, tmp_path):
    told = {}
    run_shards(range(7, 20), partial(squares, tmp_path), engine=RAY, done=told.__setitem__)
    assert {number: square for number, (square, _, _) in told.items()} == {n: n**2 for n in range(7, 20)}
    workers = {pid for _, pid, _ in told.values()}
    assert len(workers) == 2
    assert os.getpid() not in workers
    assert {threads for _, _, threads in told.values()} == {1}
    assert all(noted(tmp_path, number) == 2 for number in told), "and now"
    assert {file.name for file in tmp_path.glob("made-*")} == {f"made-{pid}" for pid in workers}
    wait_for_no_actor()


def test_a_shard_whose_worker_was_killed_is_done_again(ray_here, tmp_path):
    told = []
    with pytest.warns(VlmProbeWarning, match="^a worker of Ray was killed; its shard was done again$"):
        run_shards(
            range(9), partial(killed, tmp_path, 4, 1), engine=RAY, done=lambda number, result: told.append(result)
        )
    assert sorted(told) == list(range(9))
    assert noted(tmp_path, 4) == 2 + 1


def test_a_shard_that_kills_every_worker_is_given_up(ray_here, tmp_path):
    with pytest.raises(VlmProbeError) as caught:
        run_shards([5], partial(killed, tmp_path, 5, 99), engine=RAY)
    assert str(caught.value) == (
        "a shard lost its worker 4 times, as it does where memory is too short for so many models at once: "
        "take fewer actors"
    )
    assert noted(tmp_path, 5) == 1 + RETRIES + 1
    wait_for_no_actor()


@pytest.mark.parametrize(
    ("kind", "error", "said"),
    [
        ("make", VlmProbeError, "no such model"),
        ("user", VlmProbeError, "shard 3 has no picture"),
        ("unreadable", RuntimeError, "UnreadableError: shard 3"),
    ],
)
def test_an_error_of_a_worker_is_the_callers_as_it_is_and_not_tried_again(ray_here, tmp_path, capfd, kind, error, said):
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        with pytest.raises(error) as caught:
            run_shards([3], partial(failing, tmp_path, kind), engine=RAY)
    assert (type(caught.value), str(caught.value)) == (error, said)
    assert caught.value.__cause__ is None
    if kind != "make":
        assert noted(tmp_path, 3) == 1 + 1
    if kind == "unreadable":
        assert "in work" in caught.value.__notes__[0], "where it was raised"
    wait_for_no_actor()
    assert capfd.readouterr() == ("", "")
    assert not heard


def test_what_shards_warn_of_is_heard(ray_here, tmp_path):
    with pytest.warns(VlmProbeWarning) as heard:
        run_shards([8, 9], partial(failing, tmp_path, "user"), engine=RAY)
    assert sorted(str(one.message) for one in heard) == ["shard 8 is odd", "shard 9 is odd"]


def test_what_fails_here_ends_the_actors(ray_here, tmp_path):
    def full(number: int, result: object) -> None:
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        run_shards(range(50), partial(squares, tmp_path), engine=RAY, done=full)
    wait_for_no_actor()
    assert len(list(tmp_path.iterdir())) < 50


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"name": "dask"}, "no engine 'dask'; there are local and ray"),
        ({"address": "auto"}, "an address, actors and GPUs are for engine ray; the engine is local"),
        ({"gpus": 0.0}, "an address, actors and GPUs are for engine ray; the engine is local"),
        ({"name": "ray", "actors": 0}, "actors must be 1 or more, got 0"),
        ({"name": "ray", "gpus": -0.5}, "GPUs an actor must be 0 or more, got -0.5"),
        ({"name": "ray", "cpus": 0}, "processors an actor must be more than 0, got 0"),
    ],
)
def test_engines_that_are_none(given, message):
    with pytest.raises(VlmProbeError) as caught:
        Engine(**given)
    assert str(caught.value) == message


def test_no_machine_has_what_an_actor_takes(ray_here, tmp_path):
    with pytest.raises(VlmProbeError) as caught:
        run_shards([1], partial(squares, tmp_path), engine=Engine("ray", gpus=33))
    assert str(caught.value).startswith(
        "an actor takes 1 processors and 33 GPUs, and no machine of the Ray cluster has"
    )


def test_a_cluster_that_is_not_there(tmp_path):
    """Said by a process that is connected to none."""
    with socket.socket() as bound:  # and does not listen
        bound.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{bound.getsockname()[1]}"
        argv = [sys.executable, "-m", "vlm_probe", "evaluate", "--n", "1", "--engine", "ray", "--address", address]
        ended = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, timeout=100, check=False)
    said = f"error: cannot reach a Ray cluster at {address}: [Errno 111] Connection refused"
    assert (ended.returncode, ended.stdout, ended.stderr.strip()) == (2, "", said)


def test_without_ray_it_is_said_how_to_install_it(refused, monkeypatch, tmp_path):
    said = "engine ray needs Ray: pip install 'vlm-probe[ray]'"
    monkeypatch.setattr("vlm_probe.running.scheduling.find_spec", lambda name: None)
    with pytest.raises(VlmProbeError) as caught:
        run_shards([1], partial(squares, tmp_path), engine=RAY)
    assert str(caught.value) == said
    for name in ("evaluate", "findings"):
        asked = ("S3", "--model", MODEL) if name == "findings" else ("--model", MODEL)
        assert refused(name, *asked, "--engine", "ray", "--out", tmp_path / "out") == said
        assert refused(name, *asked, "--actors", 2).startswith("an address, actors and GPUs are for engine ray")


def test_answers_of_actors_are_those_of_one_process(ray_here, monkeypatch, tmp_path):
    monkeypatch.setattr(evaluation, "IMAGES_AT_ONCE", 5)
    items, counted = list(family_items(6, seed=2)), list[int]()
    model = load(MODEL, device="cpu")
    here = evaluate(model, items)
    opens = partial(load, device="cpu")
    given = {"engine": RAY, "load": opens}
    there = evaluate(model, items, parts=tmp_path / "parts", progress=counted.append, **given)
    pd.testing.assert_frame_equal(there, here, check_exact=True)
    assert sum(counted) == len(items)
    # Parts that one engine left are gone on from by the other.
    parts = sorted((tmp_path / "parts").rglob("*.parquet"))
    assert len(parts) == len(evaluation.chunks(items))
    before = parts[0].read_bytes()
    parts[0].unlink()
    pd.testing.assert_frame_equal(evaluate(model, items, parts=tmp_path / "parts"), here, check_exact=True)
    assert parts[0].read_bytes() == before

    with pytest.raises(VlmProbeError, match="engine ray opens the model in other processes; give load="):
        evaluate(model, items, engine=RAY)
    with model.hooks(fwd_hooks=[("connector.hook_out", lambda x, hook: 0 * x)]):
        with pytest.raises(VlmProbeError) as caught:
            evaluate(model, items, **given)
        assert str(caught.value) == (
            f"load opens {MODEL} in an actor as another model than the one given (hooks [] for ['connector.hook_out'])"
            "; an engine of actors takes a model as load opens it, without hooks or edits"
        )


def test_findings_of_actors_are_those_of_one_process(ray_here, command, tmp_path):
    models = ("--model", MODEL, "--model", f"{MODEL}-v4096")
    asked = ("findings", "S3", *models, "--items", 3, "--device", "cpu")
    for out, engine in (("here", ()), ("there", ("--engine", "ray", "--actors", 2))):
        ended = command(*asked, *engine, "--out", tmp_path / out)
        assert ended.code == 0, ended.err
    for name in ("evidence.csv", "results.json"):
        assert (tmp_path / "there" / name).read_bytes() == (tmp_path / "here" / name).read_bytes()
    with pytest.raises(VlmProbeError, match=f"engine ray opens models in other processes; give {MODEL} by its name"):
        run(["S3"], [load(MODEL, device="cpu")], generated_items(3), engine=RAY)


@pytest.fixture
def begun(tmp_path):
    """Begins an evaluation on a cluster of its own, waits until it has a part, and gives it with all its processes."""
    everyone: list[psutil.Process] = []

    def begin(argv: list[str]) -> tuple[subprocess.Popen[str], list[psutil.Process], set[int]]:
        parts = len(list(tmp_path.rglob("*.parquet")))
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        # What a shell starts in the background ignores interrupts, and so would what it starts.
        heard = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
        one = subprocess.Popen(argv, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True, preexec_fn=heard)
        driver = psutil.Process(one.pid)
        everyone.append(driver)
        until = time.monotonic() + 120
        while time.monotonic() < until and one.poll() is None and len(list(tmp_path.rglob("*.parquet"))) == parts:
            time.sleep(0.05)
        children = driver.children(recursive=True)
        everyone.extend(children)
        actors = {child.pid for child in actors_alive(driver)}
        assert actors
        return one, children, actors

    yield begin
    for one in everyone:
        if one.is_running():
            one.kill()


def test_a_run_that_was_ended_leaves_nobody_and_goes_on_to_the_same_answers(ray_here, begun, command, tmp_path):
    # Enough that it is still at work when it is told to end.
    asked = ["evaluate", "-m", MODEL, "--n", "120", "--device", "cpu"]
    argv = [sys.executable, "-m", "vlm_probe", *asked, "--engine", "ray", "--actors", "1", "--out", "out"]
    for how in (signal.SIGINT, signal.SIGKILL):
        for _ in range(3):
            one, children, actors = begun(argv)
            one.send_signal(how)
            _, said = one.communicate(timeout=60)
            if one.returncode != 0:
                break
            shutil.rmtree(tmp_path / "out")  # on a busy machine it was over before it was told
        assert one.returncode == (-how if how == signal.SIGKILL else 130)
        assert "Traceback" not in said
        # What Ray itself began without being its child ends a minute after a kill; our actors do at once.
        ours = children if how == signal.SIGINT else [child for child in children if child.pid in actors]
        assert not psutil.wait_procs(ours, timeout=20)[1]
        assert not (tmp_path / "out" / "answers.parquet").exists()
    assert command(*asked, "--engine", "ray", "--out", tmp_path / "out").code == 0
    assert command(*asked, "--out", tmp_path / "here").code == 0
    for name in ("answers.parquet", "metrics.csv"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "here" / name).read_bytes()
