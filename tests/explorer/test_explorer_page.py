"""The explorer in a browser: Chromium drives the page as a reader would, with the mouse and with keys alone."""

import base64
from typing import Any

import numpy as np
import pytest
from explorer_looks import HOSTILE, random_look
from playwright.sync_api import Page, expect

from vlm_probe.explorer import embedded, explore, module, style, unpacked
from vlm_probe.scenes import sample_scene, scene_image

PICTURE = ".vpx-picture"
WIDTHS = (360, 1400)


@pytest.fixture(scope="module")
def twins() -> list[dict[str, Any]]:
    """Two looks of one grid, and one of another."""
    return [random_look(seed=0), random_look(seed=1), random_look(seed=2, grid=(3, 5), depth=2, tokens=2)]


@pytest.fixture(scope="module")
def pages(tmp_path_factory, twins) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("pages")
    return {
        "one": explore(twins[:1]).save(folder / "one.html"),
        "twins": explore(twins).save(folder / "twins.html"),
        "hostile": explore([random_look(text=HOSTILE), random_look(text=HOSTILE, seed=1)]).save(
            folder / "#%3f&<i>.html", title=HOSTILE
        ),
    }


def test_two_on_one_page_leave_its_own_places_alone(visit, twins, tmp_path):
    path = tmp_path / "page.html"
    both = "".join(embedded([look], key=key) for look, key in zip(twins[:2], ("a", "b"), strict=True))
    path.write_text(f"<!doctype html><title>two</title><a href='#far'>far</a>{both}<h2 id='far'>far</h2>")
    page = visit(path, "far")
    expect(page.locator(PICTURE)).to_have_count(2)
    assert page.evaluate("location.hash") == "#far"
    page.locator(PICTURE).nth(1).focus()
    page.keyboard.press("ArrowRight")
    picked = address(page)
    assert picked
    assert all(name.startswith("b.") for name in picked)
    page.locator("a").click()
    assert page.evaluate("location.hash") == "#far"
    # The first explorer knows nothing of it, and neither is put back.
    assert page.locator(PICTURE).nth(1).evaluate("svg => svg.isConnected")


def address(page: Page) -> dict[str, str]:
    return page.evaluate("Object.fromEntries(new URLSearchParams(location.hash.slice(1)))")


def layer_of(page: Page) -> Any:
    return page.locator(".vpx-lead input[type=range]").first


def choose(page: Page, label: str, value: str) -> None:
    page.locator(".vpx-field", has_text=label).locator("select").first.select_option(value)


def fills(page: Page, side: int = 0) -> list[str]:
    return (
        page.locator(PICTURE)
        .nth(side)
        .evaluate("svg => [...svg.querySelectorAll('[data-patch]')].map(r => r.getAttribute('fill'))")
    )


def value_shown(page: Page, side: int = 0) -> float:
    return float(page.locator(".vpx-facts dd").nth(4 * side).inner_text().split()[0])


def test_mouse_token_map_layer_head_patch_and_window(visit, pages, twins):
    page, look = visit(pages["one"]), twins[0]
    page.get_by_role("button", name="t1").click()
    assert page.locator(".vpx-title").inner_text() == "Relevancy for ␣t1"
    page.locator(PICTURE).locator('[data-patch="17"]').click()
    assert page.locator(".vpx-details h4").inner_text() == "Patch 17: row 2, column 3"
    assert value_shown(page) == pytest.approx(unpacked(look["maps"]["relevancy"]["values"])[1, 17], rel=6e-3, abs=1e-3)

    choose(page, "Map", "attention")
    layer_of(page).fill("1")
    attention = look["attention"]
    assert value_shown(page) == pytest.approx(unpacked(attention["mean"])[1, 1, 17], rel=6e-3, abs=1e-3)
    choose(page, "Head", "1")
    assert page.locator(".vpx-title").inner_text() == "Attention, layer 1, head 1"
    values = unpacked(attention["each"])[1, 1, 1]
    assert value_shown(page) == pytest.approx(values[17], rel=6e-3, abs=1e-3)
    # Darker is more: the patch that is most opaque is that of the highest value.
    opaque = [float(fill.rstrip(")").split(",")[-1]) for fill in fills(page)]
    assert opaque[int(values.argmax())] == max(opaque)
    assert page.locator(".vpx-sinks circle").count() == 2, "a ring around the sink of this layer, and its casing"

    choose(page, "Map", "norm")
    assert value_shown(page) == pytest.approx(unpacked(look["norm"]["values"])[2, 17], rel=6e-3, abs=1e-3)

    page.locator('[data-window="2"]').click()
    said = page.locator(".vpx-chart + .vpx-key + p").inner_text()
    cut = look["knockout"]["sizes"][0]["probability"]["cut"][1][2]
    assert f"b cut in layer 2 (13 edges): probability of ␣t 0.900 → {cut:.3f}; as many random edges: " in said
    assert "n = 1" in page.locator(".vpx-knockout").inner_text()
    axes = page.locator(".vpx-curve text").all_text_contents()
    assert {"probability", "layer (windows at their middle)", "all", "0", "1", "2"} <= set(axes)
    told = {"token": "1", "map": "norm", "layer": "1", "head": "1", "patch": "17", "window": "2"}
    assert address(page) == told


def test_pointing_looks_and_leaves_the_pick(visit, pages, twins):
    page = visit(pages["one"], "patch=3")
    page.locator('.vpx-cells [data-patch="2"]').hover()
    title = page.locator(".vpx-details h4")
    assert title.inner_text() == "Patch 2: row 0, column 2 (pointed at)"
    text = page.locator(".vpx-details").inner_text()
    assert "yes, in layer 1 (7.5 times an even share)" in text
    assert "x 40 to 60, y 0 to 20" in text
    # The words, by layer, that the look holds for this patch.
    look = twins[0]
    numbers = np.frombuffer(base64.b64decode(look["lens"]["words"]["data"]), "<u2").reshape(3, 35, 3)
    rows = page.locator(".vpx-table tr").all_inner_texts()
    assert [[word for word in row.split() if word.startswith("w")] for row in rows] == [
        [look["words"][i] for i in numbers[layer, 2]] for layer in range(3)
    ]
    page.mouse.move(1, 1)
    assert title.inner_text() == "Patch 3: row 0, column 3"
    assert address(page)["patch"] == "3"


def test_keys_alone(visit, pages):
    page = visit(pages["one"], "map=attention&layer=1&patch=16")

    def to(test: str) -> None:
        """Tab on until the element that has the focus passes a test."""
        for _ in range(40):
            page.keyboard.press("Tab")
            if page.evaluate(f"(e => {test})(document.activeElement)"):
                outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
                assert outline != "none", "what has the focus is seen to have it"
                return
        raise AssertionError(f"no element reached by tab passes {test}")

    to("e.dataset.focus === 'map'")
    page.keyboard.type("norm")
    assert address(page)["map"] == "norm"
    page.keyboard.press("ArrowUp")
    assert address(page)["map"] == "attention"
    to("e.tagName === 'BUTTON' && e.textContent.includes('t2')")
    page.keyboard.press("Enter")
    assert address(page)["token"] == "2"
    to("e.type === 'range'")
    page.keyboard.press("ArrowRight")
    assert address(page)["layer"] == "2"
    to("e.classList.contains('vpx-picture')")
    for key, patch in {"ArrowRight": 17, "ArrowUp": 10, "Home": 7, "ArrowLeft": 7, "End": 13, "ArrowDown": 20}.items():
        page.keyboard.press(key)
        assert address(page)["patch"] == str(patch), key
    status = page.get_by_role("status")
    assert status.inner_text().startswith("Patch 20, row 2, column 6. Attention, layer 2, mean of 2 heads: ")
    page.keyboard.press("PageDown")
    assert address(page)["layer"] == "1"
    assert "Attention, layer 1" in status.inner_text()
    to("e.getAttribute('aria-label') === 'Window of layers'")
    page.keyboard.press("ArrowRight")
    assert address(page)["window"] == "1"
    assert "cut in layer 1 (13 edges)" in status.inner_text()


def test_two_sides_and_their_difference(visit, pages, twins):
    page = visit(pages["twins"], "patch=11")
    assert page.locator(PICTURE).count() == 3
    values = [unpacked(look["maps"]["relevancy"]["values"])[0] for look in twins[:2]]
    shown = page.locator(".vpx-value").inner_text()
    assert shown.startswith("Patch 11: ")
    assert float(shown.split(": ")[1]) == pytest.approx(values[0][11] - values[1][11], rel=6e-3, abs=1e-3)
    # Picked on one side, picked on both, until that is taken back.
    page.locator(PICTURE).nth(1).locator('[data-patch="4"]').click()
    titles = page.locator(".vpx-details h4")
    assert titles.all_inner_texts() == ["Patch 4: row 0, column 4"] * 2
    page.get_by_label("pick on both sides").uncheck()
    page.locator(PICTURE).nth(1).locator('[data-patch="5"]').click()
    assert titles.all_inner_texts() == ["Patch 4: row 0, column 4", "Patch 5: row 0, column 5"]
    # Another grid has no difference, and says why.
    page.locator(".vpx-field", has_text="Beside it").locator("select").select_option("2")
    assert "No difference: the patches do not agree: 5 x 7 and 3 x 5." in page.locator(".vpx-difference").inner_text()
    page.locator(".vpx-field", has_text="Beside it").locator("select").select_option("none")
    assert page.locator(PICTURE).count() == 1
    assert address(page)["look2"] == "none"


def test_one_scale_for_both_sides(visit, pages, twins):
    page = visit(pages["twins"], "map=attention&scale=shared")
    top = max(unpacked(look["attention"]["mean"])[0].max() for look in twins[:2])
    ends = [
        legend.inner_text().split()[1] for legend in page.locator(".vpx-pane:not(.vpx-difference) .vpx-legend").all()
    ]
    assert [float(end) for end in ends] == pytest.approx([top, top], rel=6e-3)


def test_an_address_leads_to_the_same_view(visit, pages):
    page = visit(pages["twins"])
    choose(page, "Map", "attention")
    layer_of(page).fill("1")
    choose(page, "Head", "1")
    choose(page, "Drawn as", "contour")
    page.get_by_role("button", name="t1").first.click()
    page.locator(PICTURE).first.locator('[data-patch="9"]').click()
    page.locator('[data-window="1"]').first.click()
    page.mouse.move(1, 1)
    text, at = page.locator(".vpx-panes").inner_text(), page.evaluate("location.hash")
    again = visit(pages["twins"], at[1:])
    assert again.locator(".vpx-panes").inner_text() == text
    assert again.evaluate("location.hash") == at
    # An address that is changed in place is followed; one of nonsense changes nothing.
    again.evaluate("location.hash = 'token=2&map=norm&layer=-1&patch=1'")
    expect(again.locator(".vpx-title").first).to_have_text("Norm, input")
    assert again.locator(".vpx-details h4").first.inner_text() == "Patch 1: row 0, column 1"
    again.evaluate("location.hash = 'token=999&map=__proto__&layer=x&patch=1e9&show=toString&look2=77&head=99'")
    expect(again.locator(".vpx-title").first).to_have_text("Relevancy for ␣t2")
    assert address(again)["map"] == "relevancy"


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", ["one", "twins", "hostile"])
def test_nothing_is_wider_than_the_window(visit, pages, name, width):
    page = visit(pages[name], "map=attention", width=width)
    page.wait_for_selector(".vpx-curve")
    out = page.evaluate(
        """[...document.querySelectorAll('.vpx :is(select, input, button, .vpx-picture, .vpx-curve, h4, p, td)')]
        .filter(e => { const r = e.getBoundingClientRect();
                       return r.width > 1 && (r.left < 0 || r.right > innerWidth + 0.5); })
        .map(e => e.outerHTML.slice(0, 99))"""
    )
    assert out == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_text_from_outside_stays_text(visit, pages):
    page = visit(pages["hostile"])
    assert page.evaluate("window.bad === undefined")
    shown = HOSTILE.encode(errors="replace").decode()
    assert page.locator("h1").inner_text().startswith("</script><script>window.bad=1</script><!--<img")
    # As JSON it keeps the half letter, which is no character, so that a browser shows a mark in its place.
    assert page.locator(".vpx-note").first.text_content().startswith(f"note{shown[:-1]}")
    assert page.locator(".vpx-question").first.text_content().startswith(f"What is it?{shown[:-1]}")
    tags = page.evaluate("[...new Set([...document.querySelectorAll('.vpx *')].map(e => e.localName))]")
    assert not {"script", "img", "iframe", "object", "a"} & set(tags)
    assert page.title().startswith("</script><script>")


def test_patches_are_drawn_where_the_layout_has_them(visit, replica, tmp_path):
    picture = scene_image(sample_scene(3), 71).crop((0, 0, 71, 43))
    inputs = replica.prepare(picture, "What color is the star?")
    page = visit(
        explore(inputs, replica, tokens=[5], maps=["relevancy"], words=0, windows=()).save(tmp_path / "page.html")
    )
    rects = page.evaluate(
        """[...document.querySelectorAll('.vpx-cells rect')].map(r => {
            const [x, y, w, h] = ['x', 'y', 'width', 'height'].map(k => Number(r.getAttribute(k)));
            return [x, y, x + w, y + h]; })"""
    )
    span = inputs.layout.image()
    expected = [tuple(span.patch_to_box(row, col)) for row, col in np.ndindex(*span.grid)]
    assert np.abs(np.array(rects) - np.array(expected)).max() < 1e-3
    image = page.locator(f"{PICTURE} image").first
    assert [float(image.get_attribute(name) or "nan") for name in ("x", "y", "width", "height")] == [0, 0, 71, 43]
    text = page.locator(".vpx").inner_text()
    assert "Lens words: not here. It was switched off: leave words=0 out of the call." in text
    assert "Knockout curve: not here." in text


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_is_read_in_the_light_and_in_the_dark(visit, pages, scheme):
    page = visit(pages["one"], scheme=scheme)
    lightness = """color => { const c = document.createElement('canvas').getContext('2d'); c.fillStyle = color;
        c.fillRect(0, 0, 1, 1); const [r, g, b] = c.getImageData(0, 0, 1, 1).data; return (r + g + b) / 765; }"""
    paper = page.evaluate(f"({lightness})(getComputedStyle(document.body).backgroundColor)")
    for selector in (".vpx-details h4", ".vpx-word", ".vpx-facts dt", ".vpx-controls select", ".vpx-knockout p"):
        ink = page.evaluate(f"({lightness})(getComputedStyle(document.querySelector('{selector}')).color)")
        assert abs(ink - paper) > 0.35, selector
    assert (paper < 0.3) == (scheme == "dark")


def test_a_trace_alone_opens_and_says_what_is_missing(visit, replica, tmp_path):
    trace = replica.trace(scene_image(sample_scene(3), 64), "What color is the star?")
    page = visit(explore(trace).save(tmp_path / "page.html"))
    text = page.locator(".vpx").inner_text()
    assert "Lens words: not here. A trace alone does not tell it: explore(trace, model)." in text
    assert page.locator(".vpx-title").inner_text().startswith("Attention, layer 3")


def test_inspect_begins_with_the_explorer_and_prints_its_pictures(visit, replica, tmp_path):
    from vlm_probe.report import inspect

    picture = scene_image(sample_scene(3), 64)
    made = inspect(replica, picture, "What color is the star?", out=tmp_path, max_new_tokens=1)
    page = visit(made.page, "map=integrated+gradients", width=360)
    assert page.locator(".vpx-title").first.inner_text().startswith("Integrated gradients for ")
    text = page.locator(".vpx").inner_text()
    assert "not here" not in text
    assert "control, turned at random" in text
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    page.emulate_media(media="print")
    assert not page.locator(".vpx").is_visible()
    assert page.get_by_alt_text("attention by layer", exact=True).first.is_visible()


RENDER = """async ([source, css, data, state]) => {
    const style = document.createElement('style');
    style.textContent = css;
    document.head.append(style);
    const made = await import(`data:text/javascript;base64,${source}`);
    // As anywidget's model: traits that are set, saved and listened to.
    const traits = { data, state }, listening = [];
    window.model = {
        saved: 0, traits, listening, get: name => traits[name], set: (name, value) => { traits[name] = value; },
        save_changes: () => { window.model.saved += 1; },
        on: (name, f) => listening.push(f), off: (name, f) => listening.splice(listening.indexOf(f), 1),
    };
    window.close_widget = made.default.render({ model: window.model, el: document.body });
}"""


def test_the_same_module_as_a_widget(visit, tmp_path, twins):
    (tmp_path / "cell.html").write_text("<!doctype html><title>cell</title><body></body>")
    page = visit(tmp_path / "cell.html")
    source = base64.b64encode(module().encode()).decode()
    page.evaluate(RENDER, [source, style(), {"looks": twins[:1]}, "patch=6&token=1"])
    assert page.locator(".vpx-details h4").inner_text() == "Patch 6: row 0, column 6"
    page.locator(f'{PICTURE} [data-patch="8"]').click()
    assert "patch=8" in page.evaluate("window.model.traits.state")
    assert page.evaluate("window.model.saved") > 0
    assert page.evaluate("location.hash") == "", "several widgets of a notebook do not fight over the address"
    # Python picks.
    page.evaluate("window.model.traits.state = 'patch=1&map=norm&layer=0'; window.model.listening.forEach(f => f())")
    assert page.locator(".vpx-title").inner_text() == "Norm, layer 0"
    page.evaluate("window.close_widget()")
    assert page.evaluate("window.model.listening.length") == 0
