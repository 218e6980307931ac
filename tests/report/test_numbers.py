"""Every number that a report prints is in results.json, and results.json is what its schema says."""

import json
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import pytest
from jsonschema import Draft202012Validator

from vlm_probe.findings import generated_items, run
from vlm_probe.findings.writing import plain, schema, write_run
from vlm_probe.report import chapters
from vlm_probe.report.document import Block, Bullets, Paragraph, Section, Table
from vlm_probe.report.machine import made_with
from vlm_probe.report.manifest import digest, manifest_of
from vlm_probe.report.telling import VERDICTS, Telling

CONSTANTS = {"7", "2", "256", "95", "2024", "0.0001"}
"""Of the paper's questions and its year, the level of intervals, and the least p that is printed."""
NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?(?:e[+-]?\d+)?")


@pytest.fixture(scope="module")
def found(replica):
    return run(["S1", "V1", "V3", "X1"], ["replica/default"], generated_items(13), load=lambda name: replica)


@pytest.fixture(scope="module")
def results(found, tmp_path_factory):
    return json.loads((write_run(found, tmp_path_factory.mktemp("run")) / "results.json").read_text())


@pytest.fixture(scope="module")
def telling(found, tmp_path_factory):
    folder = tmp_path_factory.mktemp("report") / "figures"
    return Telling(found, chapters(found), folder, version="1", made=made_with(found, ""))


@pytest.fixture(scope="module")
def document(telling):
    return telling.document()


def test_results_are_what_the_schema_says(results):
    Draft202012Validator.check_schema(schema())
    Draft202012Validator(schema()).validate(results)


@pytest.mark.parametrize(
    ("wrong", "where"),
    [
        (lambda r: r["findings"][0]["evidence"][0].update(verdict="proven"), "verdict"),
        (lambda r: r["findings"][0]["evidence"][0].pop("low"), "low"),
        (lambda r: r["findings"][0].update(seconds=3.7), "seconds"),
        (lambda r: r.update(schema=1), "2 was expected"),
    ],
)
def test_the_schema_refuses_what_is_wrong(results, wrong, where):
    changed = json.loads(json.dumps(results))
    wrong(changed)
    errors = [error.message + str(error.path) for error in Draft202012Validator(schema()).iter_errors(changed)]
    assert any(where in error for error in errors), errors


def test_every_field_says_what_it_is():
    def fields(of: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
        yield from of.get("properties", {}).items()
        for one in of.get("$defs", {}).values():
            yield from fields(one)

    assert all(len(field.get("description", "")) > 5 for _, field in fields(schema()))


def test_two_runs_with_one_seed_are_one_file(found, replica, tmp_path):
    again = run(["S1", "V1", "V3", "X1"], ["replica/default"], generated_items(13), load=lambda name: replica)
    files = [(write_run(one, tmp_path / str(i)) / "results.json").read_bytes() for i, one in enumerate((found, again))]
    assert files[0] == files[1]


def _values(of: Any) -> Iterator[Any]:
    if isinstance(of, dict):
        for one in of.values():
            yield from _values(one)
    elif isinstance(of, list):
        for one in of:
            yield from _values(one)
    else:
        yield of


def _printed(results: dict[str, Any]) -> set[str]:
    """Every way in which a report may print what is in the results."""
    found = set[str]()
    for value in _values(results):
        if isinstance(value, str):
            found.update(NUMBER.findall(value))
        elif isinstance(value, int | float) and not isinstance(value, bool):
            for text in (
                f"{value:.3g}",
                f"{value:.3f}",
                f"{value:,}",
                str(value),
                f"{value:.0f}",
                f"{100 * value:.1f}",
            ):
                found.update(NUMBER.findall(text))
    # Names of columns and tables.
    found.update(NUMBER.findall(" ".join(_keys(results))))
    return found


def _keys(of: Any) -> Iterator[str]:
    if isinstance(of, dict):
        for key, value in of.items():
            yield key
            yield from _keys(value)
    elif isinstance(of, list):
        for one in of:
            yield from _keys(one)


def _said(blocks: tuple[Block, ...]) -> Iterator[str]:
    for block in blocks:
        if isinstance(block, Section) and block.heading not in ("How this was made", "To cite"):
            yield from _said(block.blocks)
        elif isinstance(block, Table):
            yield from (cell for row in block.rows for cell in row)
        elif isinstance(block, Bullets):
            yield from block.items
        elif isinstance(block, Paragraph) and block.text != VERDICTS:
            yield block.text


def _counts(results: dict[str, Any]) -> set[str]:
    """Counts of claims by verdict, of effects by sign: numbers of rows of the results."""
    most = max(
        sum(len(finding["evidence"]) for finding in results["findings"]),
        *(len(rows) for rows in results["published"].values()),
    )
    return {str(number) for number in range(most + 1)}


def test_every_number_on_the_page_is_in_the_results(document, results):
    known = _printed(results) | _counts(results) | CONSTANTS
    unknown = {
        f"{number} in {text[:80]!r}"
        for text in _said(document.sections)
        for number in NUMBER.findall(text)
        if number not in known
    }
    assert not unknown
    # And the search finds one that is not.
    assert "31.4159" not in known


def test_the_manifest_names_every_file_and_what_it_shows(telling, document, tmp_path):
    from vlm_probe.report.document import pictures

    folder = telling.folder
    manifest = manifest_of(pictures(document.sections), folder, "vlm-probe report")
    there = {file.name for file in folder.iterdir()}
    named = {name: sha for one in manifest["figures"].values() for name, sha in one["files"].items()}
    assert set(named) == there
    assert all(digest(folder / name) == sha for name, sha in named.items())
    for name, one in manifest["figures"].items():
        assert set(one["files"]) == {f"{name}.{suffix}" for suffix in ("png", "svg", "pdf", "csv")}, name
        assert one["title"]
        assert one["alt"]
        assert one["caption"]


def test_values_become_plain():
    assert plain(
        {"a": np.float32(0.5), "b": (np.int64(3), pd.NA), "c": float("inf"), "d": np.array([1.0, np.nan])}
    ) == {
        "a": 0.5,
        "b": [3, None],
        "c": None,
        "d": [1.0, None],
    }
