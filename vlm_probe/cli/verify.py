"""`vlm-probe verify`: a checkpoint's hooked model beside the plain one."""

from __future__ import annotations

from typing import Annotated

import typer

from vlm_probe.cli.terminal import Device, Dtype, EmbedScale, console, err, load_model, show


def verify(
    model: Annotated[str, typer.Argument(help="A name from `vlm-probe models`, a Hub id or a checkpoint's folder.")],
    device: Device = None,
    dtype: Dtype = None,
    embed_scale: EmbedScale = None,
) -> None:
    """Compare a checkpoint's hooked model with plain transformers; ends with exit code 1 where they differ."""
    opened = load_model(model, device=device, dtype=dtype, embed_scale=embed_scale)
    with err.status("comparing"):
        from vlm_probe.hooked.verifying import verify as compare

        table = compare(opened)
    numbers = {name: table[name].map(lambda x: "0" if x == 0 else f"{x:.0e}") for name in ("difference", "allowed")}
    shown = table.assign(**numbers, ok=["yes" if ok else "NO" for ok in table["ok"]])
    show(shown, str(table.attrs["title"]))
    scale = f"token rows x {opened.token_scale:g}, image rows x {opened.image_scale:g}"
    console.print(f"embedding scale, measured: {scale}", highlight=False)
    wrong = table.loc[~table["ok"], "check"].tolist()
    if wrong:
        err.print(f"differs from plain transformers: {', '.join(wrong)}", style="red", highlight=False)
        raise typer.Exit(1)
    console.print(f"all {len(table)} checks hold", highlight=False)
