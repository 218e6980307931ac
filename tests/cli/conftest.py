"""The command line, run in this process."""

import sys
from dataclasses import dataclass

import pytest

from vlm_probe.cli import main


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
