"""What becomes of a report's folder: an earlier report is replaced whole, and nothing of the user's is ever lost."""

import pytest

from vlm_probe import VlmProbeError
from vlm_probe.findings import run
from vlm_probe.report import write_report
from vlm_probe.report.build import check_out


def names(folder):
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


def test_an_earlier_report_leaves_nothing_behind(tmp_path):
    out = tmp_path / "report"
    write_report(run(["V6"], []), out)
    first = names(out)
    write_report(run(["X1"], []), out)
    assert {name for name in names(out) if "V6_" in name} == set()
    assert any("X1_" in name for name in names(out))
    write_report(run(["V6"], []), out)
    assert names(out) == first


def test_a_report_with_something_else_in_it_is_refused(tmp_path):
    out = tmp_path / "report"
    write_report(run(["X1"], []), out)
    (out / "figures" / "mine.png").write_text("mine")
    before = names(out)
    for go in (lambda: check_out(out), lambda: write_report(run(["X1"], []), out)):
        with pytest.raises(VlmProbeError) as caught:
            go()
        assert str(caught.value) == (
            f"{out} holds an earlier report and figures/mine.png, which is not of it; move that elsewhere, or name "
            "another folder with --out"
        )
    assert names(out) == before
    (out / "figures" / "mine.png").unlink()
    write_report(run(["X1"], []), out)


def test_an_earlier_report_is_back_where_the_new_one_cannot_take_its_place(tmp_path, monkeypatch):
    out = tmp_path / "report"
    write_report(run(["X1"], []), out)
    before = names(out)
    rename = type(out).rename

    def fail(path, target):
        if target == out and not path.name.endswith("-old"):
            raise OSError(28, "No space left on device")
        return rename(path, target)

    monkeypatch.setattr(type(out), "rename", fail)
    with pytest.raises(VlmProbeError) as caught:
        write_report(run(["V6"], []), out)
    assert str(caught.value) == f"cannot write {out}: No space left on device; make room and run it again"
    assert [p.name for p in tmp_path.iterdir()] == ["report"]
    assert names(out) == before
