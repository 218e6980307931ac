"""The report's page in a browser: wide, narrow, in the dark, with keys alone; and what its explorers show."""

import re

import pytest

from vlm_probe.findings import generated_items, run
from vlm_probe.report import write_report

HOSTILE = "</script><img src=x onerror=alert(1)>"
MOST = 6_000_000
"""Bytes of a report's page."""


@pytest.fixture(scope="module")
def page(replica, tmp_path_factory):
    found = run(["S1", "V1", "X1"], ["replica/default"], generated_items(12), load=lambda name: replica)
    command = f"vlm-probe report --out '{HOSTILE}'"
    return write_report(found, tmp_path_factory.mktemp("page") / "re#port", command=command, load=lambda name: replica)


@pytest.mark.parametrize("width", [360, 1400])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_reads_at_any_width_and_in_the_dark(visit, page, width, scheme):
    opened = visit(page, width=width, scheme=scheme)
    assert opened.evaluate("document.documentElement.scrollWidth") <= width
    ink, paper = opened.evaluate(
        "() => [getComputedStyle(document.body).color, getComputedStyle(document.body).backgroundColor]"
    )
    brightness = [sum(map(int, re.findall(r"\d+", color)[:3])) for color in (ink, paper)]
    assert abs(brightness[0] - brightness[1]) > 400
    assert (brightness[0] > brightness[1]) == (scheme == "dark")
    assert opened.locator("figure.drawn img").count() > 3
    # A picture that could not be read has no width of its own; each has words for those who do not see it.
    assert opened.evaluate("[...document.images].every(i => i.naturalWidth > 0 && i.alt)")
    assert opened.locator("img[onerror]").count() == 0
    assert page.stat().st_size < MOST


def test_the_contents_lead_where_they_say_with_keys_alone(visit, page):
    opened = visit(page)
    opened.keyboard.press("Tab")
    assert opened.evaluate("document.activeElement.textContent") == "Skip the contents"
    for heading in ("Verdicts", "Look for yourself", "Appendix"):
        link = opened.locator("nav a", has_text=heading).first
        link.focus()
        opened.keyboard.press("Enter")
        place = opened.evaluate("location.hash.slice(1)")
        assert opened.locator(f"[id='{place}']").inner_text() == heading
        opened.wait_for_function(
            "id => Math.abs(document.getElementById(id).getBoundingClientRect().top) < 900", arg=place
        )


def test_its_explorers_show_an_item_and_twins(visit, page):
    opened = visit(page)
    pictures = opened.locator(".vpx-picture")
    assert pictures.count() >= 3  # one look, and two with their difference
    pictures.first.focus()
    before = opened.evaluate("location.hash")
    opened.keyboard.press("ArrowRight")
    assert opened.evaluate("location.hash") != before
    assert "one." in opened.evaluate("location.hash")
