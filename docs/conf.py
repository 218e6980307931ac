"""The site: `make docs`. Built offline, with warnings as errors, and with nothing in it that lies elsewhere."""

import os
import shutil
import sys
from importlib import metadata
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent
sys.path.insert(0, str(HERE / "_ext"))

from examples import package_digest  # noqa: E402

# Kernels that run the pages' code inherit these; they draw into the page, whatever backend is set here.
os.environ |= {"HF_HUB_OFFLINE": "1", "PYTHONWARNINGS": "ignore::DeprecationWarning"}
os.environ.pop("MPLBACKEND", None)

project = "vlm_probe"
author = "The vlm_probe authors"
copyright = "the vlm_probe authors, Apache-2.0"
version = release = metadata.version("vlm_probe")

extensions = [
    "myst_nb",
    "autoapi.extension",
    "sphinx_copybutton",
    "house_docstrings",
    "mathml",
    "examples",
    "generated",
    "read_package",
    "outside_assets",
]
exclude_patterns = ["_ext", "_static", "_templates", "**/.ipynb_checkpoints"]
root_doc = "index"

html_theme = "furo"
html_title = "vlm_probe"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_math_renderer = "mathml"
html_show_sphinx = False
html_copy_source = False
# What is not said to be Python is a command or a message.
highlight_language = "none"
pygments_style = "friendly"
pygments_dark_style = "native"
maximum_signature_line_length = 100
copybutton_exclude = ".linenos, .gp, .go"
copybutton_selector = "div:not(.output) > div.highlight pre"

myst_enable_extensions = ["dollarmath", "amsmath", "deflist", "colon_fence", "attrs_inline"]
myst_heading_anchors = 3

# Notebooks are executed once: what they put out is kept under the package's own digest, so that it is never another's.
nb_execution_mode = "cache"
nb_execution_cache_path = str(ROOT / "build" / "docs" / f"executed-{package_digest()}")
for _old in (ROOT / "build" / "docs").glob("executed-*"):
    if str(_old) != nb_execution_cache_path:
        shutil.rmtree(_old)
nb_execution_in_temp = True
nb_execution_timeout = 600
nb_execution_raise_on_error = True
nb_execution_show_tb = True
nb_merge_streams = True
# A widget would fetch its code from elsewhere; its static form is shown in its place.
nb_ipywidgets_js: dict[str, dict[str, str]] = {}
nb_mime_priority_overrides = [("html", "application/vnd.jupyter.widget-view+json", None)]

autoapi_dirs = [str(ROOT / "vlm_probe")]
autoapi_root = "api"
autoapi_add_toctree_entry = False
autoapi_template_dir = "_templates/autoapi"
autoapi_options = ["members", "undoc-members"]
autoapi_member_order = "bysource"
autoapi_python_class_content = "class"
autoapi_ignore = ["*/__main__.py", "*/cli/*"]
python_use_unqualified_type_names = True
add_module_names = False
suppress_warnings = ["autoapi.python_import_resolution"]


def autoapi_prepare_jinja_env(jinja_env):
    """What `vlm_probe` offers is imported on first use, which no parser sees: names by where they are defined."""
    import vlm_probe

    offered = [getattr(vlm_probe, name) for name in vlm_probe.__all__]
    jinja_env.globals["lazily_offered"] = [f"{one.__module__}.{one.__name__}" for one in offered]
