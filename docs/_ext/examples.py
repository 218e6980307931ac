"""Examples that are run while building: `{example}` shows code, what it prints, its last value and what it draws.

All of them run in this one process, where a model that one has loaded is there for the next; a kernel a page would load
it thirty times over. What they put out is kept, under the digest of the package and of the code.
"""

from __future__ import annotations

import ast
import base64
import contextlib
import functools
import hashlib
import io
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.errors import ExtensionError
from sphinx.util.docutils import SphinxDirective

ROOT = Path(__file__).parents[2]


@dataclass
class Output:
    """What an example puts out."""

    text: str = ""
    """What it prints, and its last value where that has no HTML."""
    html: str = ""
    """Of its last value: a table."""
    pictures: list[bytes] = field(default_factory=list)
    """PNG, of every figure that it left open."""


@functools.cache
def package_digest(root: Path = ROOT) -> str:
    """Of all of the package's source: what was computed with other source is computed anew."""
    digest = hashlib.sha256()
    for file in sorted((root / "vlm_probe").rglob("*.py")):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


class Runner:
    """Runs examples one after the other, each with names of its own."""

    def __init__(self) -> None:
        self.loaded: dict[str, Any] = {}

    def run(self, code: str, name: str) -> Output:
        """Run one. Whatever it raises is raised; figures are closed."""
        import matplotlib

        matplotlib.use("Agg")
        import matplotlib.pyplot as plt

        import vlm_probe
        from vlm_probe.opening import load

        def load_once(*args: Any, **kwargs: Any) -> Any:
            key = repr((args, sorted(kwargs.items())))
            if key not in self.loaded:
                self.loaded[key] = load(*args, **kwargs)
            return self.loaded[key]

        tree = ast.parse(code, filename=name)
        end = tree.body[-1]
        last = end if isinstance(end, ast.Expr) else None
        if last:
            tree.body.pop()
        names: dict[str, Any] = {"__name__": "__main__"}
        printed = io.StringIO()
        output = Output()
        setattr(vlm_probe, "load", load_once)  # noqa: B010  (the module's own name is a function of its __getattr__)
        try:
            with contextlib.redirect_stdout(printed):
                exec(compile(tree, name, "exec"), names)
                value = eval(compile(ast.Expression(last.value), name, "eval"), names) if last else None
            for number in plt.get_fignums():
                stream = io.BytesIO()
                plt.figure(number).savefig(stream, format="png", dpi=110, bbox_inches="tight")
                output.pictures.append(stream.getvalue())
        finally:
            delattr(vlm_probe, "load")
            plt.close("all")
        output.text = printed.getvalue()
        # An axes that is the last value is the picture.
        if value is not None and not output.pictures:
            if hasattr(value, "to_html"):
                output.html = value.to_html(border=0)
            else:
                output.text += repr(value)
        return output


RUNNER = Runner()


class Example(SphinxDirective):
    """```{example} with Python code in it; `:alt:` says what its picture shows."""

    has_content = True
    option_spec = {"alt": str}  # noqa: RUF012

    def run(self) -> list[nodes.Node]:
        code = "\n".join(self.content)
        block = nodes.literal_block(code, code, language="python")
        self.set_source_info(block)
        output = self.kept(code)
        shown: list[nodes.Node] = [block]
        if output.text.strip():
            text = nodes.literal_block(output.text, output.text.rstrip(), language="text", classes=["output"])
            shown.append(text)
        if output.html:
            shown.append(nodes.raw("", f'<div class="output">{output.html}</div>', format="html"))
        for number, picture in enumerate(output.pictures):
            folder = Path(self.env.app.outdir) / "_images"
            folder.mkdir(parents=True, exist_ok=True)
            file = f"{self.env.docname.replace('/', '-')}-{hashlib.sha256(picture).hexdigest()[:12]}.png"
            (folder / file).write_bytes(picture)
            up = "../" * self.env.docname.count("/")
            alt = nodes.Text(self.options.get("alt", "")).astext().replace('"', "&quot;")
            image = f'<img class="figure" src="{up}_images/{file}" alt="{alt}">'
            shown.append(nodes.raw("", f'<div class="output">{image}</div>', format="html"))
            if number == 0 and not self.options.get("alt"):
                raise self.error("an example that draws needs :alt:, what its picture shows")
        return shown

    def kept(self, code: str) -> Output:
        key = hashlib.sha256(code.encode()).hexdigest()[:16]
        path = ROOT / "build" / "docs" / f"executed-{package_digest()}" / "examples" / f"{key}.json"
        if path.exists():
            known = json.loads(path.read_text(encoding="utf-8"))
            return Output(known["text"], known["html"], [base64.b64decode(one) for one in known["pictures"]])
        try:
            output = RUNNER.run(code, self.env.docname)
        except Exception as error:
            raise ExtensionError(f"{self.env.docname}: the example fails: {type(error).__name__}: {error}") from error
        path.parent.mkdir(parents=True, exist_ok=True)
        pictures = [base64.b64encode(one).decode() for one in output.pictures]
        path.write_text(json.dumps({"text": output.text, "html": output.html, "pictures": pictures}), encoding="utf-8")
        return output


def setup(app: Any) -> dict[str, Any]:
    app.add_directive("example", Example)
    return {"parallel_read_safe": True}
