"""The site's own pages: examples run, messages are those that are given, and nothing needs what lies elsewhere.

`make docs` builds the whole site, with warnings as errors; here is what it does not see, and what is quicker so.
"""

import json
import os
import re
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
sys.path.insert(0, str(DOCS / "_ext"))

from gallery import gallery  # noqa: E402
from house_docstrings import in_rst  # noqa: E402
from outside_assets import outside_assets  # noqa: E402

METHODS = sorted(path for path in (DOCS / "methods").glob("*.md") if path.stem != "index")
ERRORS = sorted(path for path in (DOCS / "errors").glob("*.md") if path.stem != "index")
WITH_EXAMPLES = [*METHODS, DOCS / "quickstart.md", *ERRORS]
SECTIONS = ["What it shows", "Equation", "Example", "When it misleads", "Cost", "Source"]

_EXAMPLE = re.compile(r"```\{example\}\n(?::alt: ([^\n]+)\n\n)?(.*?)```", re.DOTALL)
_RAISES = re.compile(r"```text\n([^`]*?)\n```\n(?:(?!```).)*?```python\n(.*?)```", re.DOTALL)
_NAMED = re.compile(r"`(vlm_probe[\w.]*)\.(\w+)`")
_SAID = re.compile(r"```text\n([^`]*?)\n```\n\n<!-- said in (\S+) -->")


def examples():
    for path in WITH_EXAMPLES:
        for number, match in enumerate(_EXAMPLE.finditer(path.read_text())):
            yield pytest.param(match[2], bool(match[1]), id=f"{path.stem}-{number}")


def provoked():
    for path in ERRORS:
        # What is only quoted is not followed by what provokes it.
        text = _SAID.sub("", path.read_text())
        for number, match in enumerate(_RAISES.finditer(text)):
            yield pytest.param(match[2], match[1], id=f"{path.stem}-{number}")


def named():
    for path in METHODS:
        for module, attribute in _NAMED.findall(path.read_text().split("## Source")[1]):
            yield pytest.param(f"from {module} import {attribute}\n", id=f"{path.stem}-{attribute}")


def quoted():
    for path in ERRORS:
        for number, match in enumerate(_SAID.finditer(path.read_text())):
            yield pytest.param(match[1], ROOT / match[2], id=f"{path.stem}-{number}")


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """Code -> what became of it: all of it in one process, as a user's, where types are not checked."""
    codes = [str(param.values[0]) for param in (*examples(), *provoked(), *named())]
    folder = tmp_path_factory.mktemp("pages")
    done = subprocess.run(
        [sys.executable, ROOT / "tests" / "running_pages.py"],
        cwd=folder,
        env=os.environ | {"VLM_PROBE_CACHE": str(folder / "cache")},
        input=json.dumps(codes),
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    return dict(zip(codes, json.loads(done.stdout.splitlines()[-1]), strict=True))


@pytest.mark.parametrize(("code", "draws"), examples())
def test_an_example_runs_and_shows_something(ran, code, draws):
    became = ran[code]
    assert became["raised"] == ""
    assert bool(became["pictures"]) == draws
    assert became["text"].strip() or became["html"] or draws


@pytest.mark.parametrize(("code", "message"), provoked())
def test_a_message_is_the_one_on_its_page(ran, code, message):
    assert ran[code]["raised"] in ("VlmProbeError", "UnknownName", "VlmProbeWarning")
    assert ran[code]["message"] == message


@pytest.mark.parametrize(("message", "source"), quoted())
def test_a_quoted_message_stands_in_its_source(message, source):
    assert message in source.read_text()


@pytest.mark.parametrize("path", METHODS, ids=lambda path: path.stem)
def test_a_method_page_has_every_section(path):
    text = path.read_text()
    assert re.findall(r"^## (.+)$", text, re.MULTILINE) == SECTIONS
    assert len(_EXAMPLE.findall(text)) == 1
    assert len(text.splitlines()) < 120


@pytest.mark.parametrize("code", named())
def test_what_a_method_page_names_is_there(ran, code):
    assert ran[code]["raised"] == ""


@pytest.mark.parametrize("path", METHODS, ids=lambda path: path.stem)
def test_a_method_page_names_what_does_it(path):
    assert _NAMED.search(path.read_text().split("## Source")[1])


@pytest.mark.parametrize("folder", ["methods", "errors", "extend"])
def test_every_page_is_in_the_index_of_its_folder(folder):
    index = (DOCS / folder / "index.md").read_text()
    pages = {path.stem for path in (DOCS / folder).glob("*.md")} - {"index"}
    assert pages == {line for line in index.splitlines() if line in pages}


def test_commands_of_the_quick_start_run(tmp_path):
    blocks = re.findall(r"```bash\n(.*?)```", (DOCS / "quickstart.md").read_text(), re.DOTALL)
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        ["bash", "-e", "-c", "\n".join(blocks)],
        cwd=tmp_path,
        env=os.environ | {"PATH": path},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "page" / "inspect.html").exists()


def test_what_lies_elsewhere_is_found_and_links_are_not(tmp_path):
    (tmp_path / "a.html").write_text(
        '<a href="https://arxiv.org">a paper</a> <link rel="canonical" href="https://here.org">'
        '<link rel="stylesheet" href="https://one.org/a.css"><script src="//two.org/a.js"></script>'
        '<img src="b.png" srcset="b.png 1x, https://three.org/b.png 2x">'
        '<style>@import "https://four.org/c.css";</style><script>import("https://five.org/m.js")</script>'
    )
    (tmp_path / "b.css").write_text("@font-face { src: url(https://six.org/f.woff) } a { background: url(here.png) }")
    found = outside_assets(tmp_path)
    assert [re.findall(r"(\w+)\.org", one) for one in found] == [
        ["one"],
        ["two"],
        ["three"],
        ["four"],
        ["five"],
        ["six"],
    ]


def test_the_gallery_is_the_manifests(tmp_path):
    figures = tmp_path / "figures"
    figures.mkdir()
    (figures / "a.png").write_bytes(b"drawn")
    assert "../figures/a.png" in gallery(tmp_path)  # before there is a manifest
    figure = {"command": "python a.py", "title": "A", "alt": "a line", "caption": "It rises.", "files": {}}
    figure["files"] = {"a.png": sha256(b"drawn").hexdigest()}
    manifest = {"commit": "0123456789abcdef", "versions": {"torch": "2.13"}, "figures": {"a": figure}}
    (figures / "manifest.json").write_text(json.dumps(manifest))
    made = gallery(tmp_path)
    for said in ("## A", ":alt: a line", "It rises.", "python a.py", "`0123456789ab` with torch 2.13"):
        assert said in made
    (figures / "a.png").write_bytes(b"edited")
    with pytest.raises(ValueError, match=r"figures/a\.png is not what the manifest's figure 'a' was drawn as"):
        gallery(tmp_path)
    (figures / "a.png").unlink()
    with pytest.raises(ValueError, match=r"the manifest's figure 'a' has no file figures/a\.png"):
        gallery(tmp_path)


def test_the_real_gallery_can_be_made():
    assert gallery(ROOT)


def test_docstrings_of_the_house_become_markup():
    lines = ["One line, with `code` and a * b.", "", "    m = |x_|", "", "Parameters", "----------", "x, y_: two"]
    lines += ["    numbers.", "", "Returns", "-------", "Their sum.", "", "Raises VlmProbeError never."]
    assert "\n".join(in_rst(lines)).strip().splitlines() == [
        r"One line, with ``code`` and a \* b.",
        "",
        "::",
        "",
        "    m = |x_|",
        "",
        ":Parameters:",
        "    ``x``, ``y_``",
        "        two numbers.",
        "",
        ":Returns:",
        "    Their sum.",
        "",
        "Raises VlmProbeError never.",
    ]
