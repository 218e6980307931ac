"""Every command says what it does and what its options are; wrong calls and errors end with exit code 2."""

import subprocess
import sys
from typing import Any

import pytest
import typer

from vlm_probe.cli import app
from vlm_probe.errors import VlmProbeError

COMMANDS = [
    "example",
    "inspect",
    "report",
    "findings",
    "evaluate",
    "capture",
    "models",
    "verify",
    "fetch",
    "train",
    "study",
    "scenes",
    "items",
    "store",
]


STORE = ["info", "verify", "repair"]


def walk(command, words=""):
    """Every command and sub-command, by the words that call it."""
    found = {words: command}
    for name, one in getattr(command, "commands", {}).items():
        found |= walk(one, f"{words} {name}".strip())
    return found


ALL: dict[str, Any] = walk(typer.main.get_command(app))


def listed(out: str) -> list[str]:
    """The names in the table of commands."""
    rows = out.split("─ Commands ─")[1].splitlines()[1:]
    return [row.removeprefix("│").split()[0] for row in rows if row.startswith("│ ") and row[2] != " "]


def test_the_help_lists_every_command_but_the_maintainers_one(command):
    ended = command("--help")
    assert ended.code == 0
    assert listed(ended.out) == COMMANDS
    assert set(ALL) == {"", *COMMANDS, "scenes export", "items check", "ship", *(f"store {name}" for name in STORE)}


@pytest.mark.parametrize("words", ALL)
def test_every_option_has_a_help_text(command, words):
    ended = command(*words.split(), "--help")
    assert ended.code == 0
    shown = " ".join(ended.out.replace("│", " ").split())
    for one in (ALL[words], *ALL[words].params):
        assert one.help, one.name
        assert " ".join(one.help.split()) in shown, one.name
    for param in ALL[words].params:
        assert all(name in shown for name in param.opts)


@pytest.mark.parametrize("words", ["", "scenes", "items", "store"])
def test_without_a_command_there_is_help(command, words):
    ended = command(*words.split())
    assert ended.code == 2
    assert listed(ended.out) == {"": COMMANDS, "scenes": ["export"], "items": ["check"], "store": STORE}[words]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("inspects",), "No such command 'inspects'"),
        (("models", "--all"), "No such option: --all"),
        (("inspect", "a.png"), "Missing argument 'image"),
        (("evaluate", "--n", "0"), "Invalid value for '--n'"),
        (("report", "--seed", "one"), "Invalid value for '--seed'"),
        (("scenes", "export", "out", "--size", "15"), "Invalid value for '--size'"),
    ],
)
def test_calls_that_cannot_be_read(command, argv, message):
    ended = command(*argv)
    assert (ended.code, ended.out) == (2, "")
    assert message in ended.err


def test_an_error_is_one_line_as_it_is(command, monkeypatch):
    def fail(name):
        raise VlmProbeError(f"no [bold]{name}[/bold]\n  in {'[a]/' * 60}")

    monkeypatch.setattr("vlm_probe.zoo.fetching.names_of", fail)
    monkeypatch.setenv("COLUMNS", "40")
    ended = command("fetch", "[x]")
    assert (ended.code, ended.out) == (2, "")
    assert ended.err == f"error: no [bold][x][/bold] in {'[a]/' * 60}\n"


def test_a_fault_of_ours_is_no_users_error(command, monkeypatch):
    monkeypatch.setattr("vlm_probe.zoo.fetching.names_of", lambda name: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        command("fetch", "toy")


def test_as_a_module_it_is_the_same():
    done = subprocess.run([sys.executable, "-m", "vlm_probe", "--help"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert listed(done.stdout) == COMMANDS
