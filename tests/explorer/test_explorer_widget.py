"""The explorer in a notebook: a widget whose data reach the kernel's front end; and what is said without anywidget."""

import sys

import nbformat
import pytest
from explorer_looks import random_look
from nbclient import NotebookClient

from vlm_probe.errors import VlmProbeError
from vlm_probe.explorer import explore, module

CELLS = """
import sys; sys.path.insert(0, {folder!r})
from explorer_looks import random_look
import vlm_probe
explorer = vlm_probe.explore([random_look(), random_look(seed=1)])
explorer
===
explorer.widget().state = "patch=3"
print(explorer.widget() is explorer.widget(), explorer.widget().state)
"""


def test_in_an_executed_notebook(tmp_path, request, monkeypatch):
    monkeypatch.delenv("MPLBACKEND", raising=False)
    notebook = nbformat.v4.new_notebook()
    sources = CELLS.format(folder=str(request.path.parent)).split("===")
    notebook.cells = [nbformat.v4.new_code_cell(source.strip()) for source in sources]
    NotebookClient(notebook, timeout=120, kernel_name="python3", resources={"metadata": {"path": tmp_path}}).execute()
    shown, picked = (cell.outputs for cell in notebook.cells)
    assert shown[0]["data"]["text/plain"].startswith("Explorer(")
    assert [output.output_type for output in (*shown, *picked)] == ["execute_result", "stream"], "and no error"
    view = shown[0].data["application/vnd.jupyter.widget-view+json"]
    states = notebook.metadata.widgets["application/vnd.jupyter.widget-state+json"]["state"]
    widget = states[view["model_id"]]
    assert widget["model_module"] == "anywidget"
    assert widget["state"]["_esm"] == module()
    assert ".vpx" in widget["state"]["_css"]
    assert widget["state"]["data"] == {"looks": [random_look(), random_look(seed=1)]}
    assert picked[0].text == "True patch=3\n"


def test_without_anywidget_it_says_what_to_install_and_saves_all_the_same(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "anywidget", None)
    monkeypatch.delitem(sys.modules, "vlm_probe.explorer.widget", raising=False)
    explorer = explore(random_look())
    for show in (explorer.widget, explorer._repr_mimebundle_):
        with pytest.raises(VlmProbeError) as error:
            show()
        assert str(error.value) == (
            "the explorer in a notebook needs anywidget: pip install anywidget (or vlm-probe[notebooks]); without it, "
            "explore(...).save('page.html') writes a page"
        )
    assert explorer.save(tmp_path / "page.html").stat().st_size > 10_000
