"""The gallery: every figure of figures/manifest.json, with its picture, caption, command and files."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path


def figures_of(root: Path) -> tuple[dict[str, dict], str]:
    """The figures by name, and a sentence on where they come from.

    Before there is a manifest, the pictures in the folder. ValueError for a file of it that is missing or was changed.
    """
    folder = root / "figures"
    manifest = folder / "manifest.json"
    if not manifest.exists():
        # No folder at all: the figures are being drawn.
        pictures = sorted(folder.glob("*.png"))
        return {p.stem: {"title": p.stem, "alt": p.stem, "files": {p.name: ""}} for p in pictures}, ""
    known = json.loads(manifest.read_text(encoding="utf-8"))
    for name, figure in known["figures"].items():
        for file, digest in figure["files"].items():
            path = folder / file
            if not path.is_file():
                raise ValueError(f"the manifest's figure {name!r} has no file {path.relative_to(root)}")
            if hashlib.sha256(path.read_bytes()).hexdigest() != digest:
                raise ValueError(f"{path.relative_to(root)} is not what the manifest's figure {name!r} was drawn as")
    versions = ", ".join(f"{package} {version}" for package, version in known["versions"].items())
    commit = f"at commit `{known['commit'][:12]}` " if known["commit"] else ""
    return known["figures"], f"Drawn {commit}with {versions}."


def gallery(root: Path) -> str:
    """The page's text below its title, in MyST."""
    figures, said = figures_of(root)
    parts = [said]
    for name, figure in figures.items():
        # A path without a folder is looked for by name: some figures may stand in a folder of their own.
        pictures = [file for file in figure["files"] if file.endswith(".png")]
        if not pictures:
            raise ValueError(f"the manifest's figure {name!r} has no picture (.png)")
        parts.append(f"## {one_line(figure['title'])}")
        parts.append(f"```{{image}} ../figures/{pictures[0]}\n:alt: {one_line(figure['alt'])}\n:class: figure\n```")
        if figure.get("caption"):
            parts.append(figure["caption"])
        if figure.get("command"):
            parts.append(f"```{{code-block}} text\n{figure['command']}\n```")
        files = [f"{{download}}`{Path(file).suffix[1:]} <../figures/{file}>`" for file in figure["files"]]
        parts.append("Files: " + ", ".join(files))
    return "\n\n".join(part for part in parts if part) or "No figure has been drawn yet: `make figures`."


def one_line(text: str) -> str:
    return " ".join(text.split())
