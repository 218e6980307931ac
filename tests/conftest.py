"""Offline, with jaxtyping's shapes checked by beartype in everything under vlm_probe."""

import os
import sys
from dataclasses import dataclass

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["MPLBACKEND"] = "Agg"

import type_checks

type_checks.install("vlm_probe")

import pytest  # noqa: E402

pytest_plugins = ["browsing"]

# Neither torch nor the package is imported here: what hands tests to workers would wait for it, and they for that.

LONGEST = (
    "test_scripts.py",
    "test_docs.py",
    "test_replica.py",
    "test_e1.py",
    "test_study.py",
    "test_c2.py",
    "test_c1.py",
    "test_report.py",
    "test_notebooks.py",
    "test_left_out.py",
    "test_wheel.py",
    "test_cli_report.py",
    "test_cli_findings.py",
)
"""Files that take longest, which start first: a worker that comes to one last leaves the other one idle."""


def pytest_configure(config):
    # Else files of many tests would start first, and these have few.
    config.option.loadscopereorder = False
    # How long an example takes says nothing on a machine that others use, too.
    from hypothesis import settings

    settings.register_profile("house", deadline=None)
    settings.load_profile("house")
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(NamedAtOnce(config))


class NamedAtOnce:
    """Says what failed when it fails: where the whole run is cut off there is no summary to read."""

    def __init__(self, config):
        self.config = config

    def pytest_runtest_logreport(self, report):
        if report.failed:
            crash = getattr(report.longrepr, "reprcrash", None)
            said = crash.message.splitlines()[0] if crash else ""
            self.config.get_terminal_writer().line(f"\n{report.nodeid} ({report.when}): {said}")


def pytest_collection_modifyitems(items):
    rank = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path.name, len(rank)))


def pytest_generate_tests(metafunc):
    if "any_llava" in metafunc.fixturenames:
        from tiny import PAIRS

        metafunc.parametrize("any_llava", ["-".join(pair) for pair in PAIRS], indirect=True)


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Two workers share two cores."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def reference():
    """The folder of recorded reference checkpoints."""
    from tiny import REFERENCE

    if not REFERENCE.is_dir():
        pytest.skip(f"no reference checkpoints at {REFERENCE}")
    return REFERENCE


@pytest.fixture
def any_llava(request):
    """Tiny random LLaVAs: every tower and every language model there is."""
    from tiny import tiny_llava

    tower, language = request.param.split("-")
    return tiny_llava(tower, language)


@pytest.fixture(scope="session")
def replica():
    """The shipped default replica; tests leave no hook and no weight changed."""
    import vlm_probe

    return vlm_probe.load("replica/default", device="cpu")


@dataclass
class Ended:
    """What a command left on the terminal."""

    code: int
    out: str
    err: str


@pytest.fixture
def command(capsys, monkeypatch):
    """Runs `vlm-probe` with arguments, on a terminal of 200 columns."""
    monkeypatch.setenv("COLUMNS", "200")
    # What commands set for themselves is unset with everything else.
    monkeypatch.setenv("TRANSFORMERS_VERBOSITY", "error")

    from vlm_probe.cli import main
    from vlm_probe.cli.terminal import console, err

    # Consoles keep the width they were made under, which a worker of xdist sets.
    for one in (console, err):
        monkeypatch.setattr(one, "_width", None)

    def run(*argv: object) -> Ended:
        monkeypatch.setattr(sys, "argv", ["vlm-probe", *map(str, argv)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            main()
        code = caught.value.code
        return Ended(code if isinstance(code, int) else 0, *capsys.readouterr())

    return run


@pytest.fixture
def refused(command):
    """Runs a wrong command: exit code 2, nothing on stdout, one line on stderr. Gives that line's message."""

    def run(*argv: object) -> str:
        ended = command(*argv)
        assert (ended.code, ended.out) == (2, "")
        # A progress bar that was there before leaves an empty line.
        line = ended.err.strip()
        assert line.startswith("error: ")
        assert line.count("\n") == 0
        return line.removeprefix("error: ")

    return run


@pytest.fixture
def in_the_way(tmp_path):
    """A folder that cannot be made: there is a file above it."""
    (tmp_path / "file").write_text("")
    return tmp_path / "file" / "out"
