"""Runs the code of the site's pages, one after the other in one process: JSON in, what became of each as JSON out."""

import contextlib
import json
import os
import sys
import tempfile
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "docs" / "_ext"))

from examples import Runner

from vlm_probe import VlmProbeError, VlmProbeWarning


def became(runner: Runner, code: str) -> dict[str, object]:
    """What a piece of code puts out, or what it raises; a warning of ours counts as raised."""
    raised, message, text, html, pictures = "", "", "", "", 0
    try:
        with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder), warnings.catch_warnings():
            warnings.simplefilter("error", VlmProbeWarning)
            output = runner.run(code, "page")
            text, html, pictures = output.text, output.html, len(output.pictures)
    except (VlmProbeError, VlmProbeWarning) as error:
        raised, message = type(error).__name__, str(error)
    except Exception as error:
        raised, message = f"{type(error).__name__}: {error}", str(error)
    for model in runner.loaded.values():
        model.hf.set_attn_implementation("vlm_probe")  # a page takes it away to say what happens then
    return {"raised": raised, "message": message, "text": text, "html": html, "pictures": pictures}


if __name__ == "__main__":
    os.environ["HF_HUB_OFFLINE"] = "1"
    runner = Runner()
    print(json.dumps([became(runner, code) for code in json.load(sys.stdin)]))
