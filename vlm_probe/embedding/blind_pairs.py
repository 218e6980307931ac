"""Pairs of images that are close for one encoder and far for another (CLIP-blind pairs, MMVP)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from vlm_probe.embedding.encoder import run_encoder, streams
from vlm_probe.errors import VlmProbeError
from vlm_probe.hooked import HookedVLM
from vlm_probe.hooked.anatomy import one_encoder
from vlm_probe.inputs.images import ImageLike, open_image

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
POOLS = ("mean", "cls")
_SAMPLE, _BLOCK, _CANDIDATES = 200_000, 512, 50


def images_in(folder: Path | str) -> list[Path]:
    """The image files of a folder, by name; VlmProbeError where there are fewer than two."""
    folder = Path(folder)
    if not folder.is_dir():
        raise VlmProbeError(f"no folder at {str(folder)!r}")
    found = sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES)
    if len(found) < 2:
        raise VlmProbeError(f"{folder} holds {len(found)} images ({', '.join(SUFFIXES)}); pairs need at least 2")
    return found


@torch.no_grad()
def image_embeddings(
    model: HookedVLM,
    images: Sequence[ImageLike],
    *,
    point: str | None = None,
    pool: str = "mean",
    batch_size: int = 32,
    progress: Callable[[int], None] | None = None,
) -> Float[Tensor, "image feature"]:
    """One vector an image from a model's encoder alone; the language model does not run.

    point: a residual stream of the encoder; what the connector reads if None (of several encoders name one).
    pool: "mean" over patches, or "cls".

    Raises VlmProbeError for an unknown point or pool, and images that cannot be read.
    """
    if pool not in POOLS:
        raise VlmProbeError(f"no pool {pool!r}; there are {', '.join(POOLS)}")
    if point is None:
        one_encoder(model, "what stands for an image")
    name = point or f"vision.blocks.{model.vision_layers_read - 1}.hook_resid_post"
    (name,) = streams(model, [name])
    assert model.inputs.patches is not None
    before = model.inputs.patches.before(name)
    if pool == "cls" and before == 0:
        raise VlmProbeError(f"the encoder of {model.name} has no CLS token; pool the mean over its patches")
    found: list[Tensor] = []
    for seen, rows in run_encoder(model, images, [name], batch_size=batch_size):
        found.append(rows[name][:, before:].mean(1) if pool == "mean" else rows[name][:, 0])
        if progress is not None:
            progress(len(seen))
    return torch.cat(found)


def unit_rows(x: Float[Tensor, "image feature"]) -> Float[Tensor, "image feature"]:
    """Directions from the mean image: without centring, all pooled features look alike."""
    centred = x - x.mean(0, keepdim=True)
    return centred / centred.norm(dim=1, keepdim=True).clamp(min=1e-12)


def twin_percentiles(x: Float[Tensor, "image feature"], *, seed: int = 0) -> Float[Tensor, " pair"]:
    """How alike twins are: the share of other pairs of these images that are less alike (cosine of `unit_rows`).

    x: embeddings of twins, one behind the other: images 0 and 1, 2 and 3. Other pairs are all that are no twins, or a
    sample of 200,000.

    Raises VlmProbeError for an odd number of images, fewer than two pairs, and values that are not finite.
    """
    if len(x) % 2 or len(x) < 4:
        raise VlmProbeError(f"{len(x)} images are no two pairs of twins or more: nothing can be compared")
    bad = (~x.isfinite()).any(dim=1).nonzero().flatten().tolist()
    if bad:
        raise VlmProbeError(f"the embeddings of images {bad[:5]} are not finite")
    units, (i, j) = unit_rows(x.double()), _pairs(len(x), seed)
    apart = i // 2 != j // 2
    others = (units[i[apart]] * units[j[apart]]).sum(1).sort().values
    own = (units[0::2] * units[1::2]).sum(1)
    return (torch.searchsorted(others, own) / len(others)).float()


def _pairs(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Numbers of the two images of every pair, or of a sample of pairs."""
    if n * (n - 1) // 2 <= _SAMPLE:
        i, j = torch.triu_indices(n, n, 1).unbind(0)
        return i, j
    i, j = torch.randint(n, (2, _SAMPLE), generator=torch.Generator().manual_seed(seed)).unbind(0)
    return i[i != j], j[i != j]


def disagreeing_pairs(
    close: Float[Tensor, "image _"], far: Float[Tensor, "same _"], *, top: int = 50, seed: int = 0
) -> pd.DataFrame:
    """Pairs of rows that are near each other in `close` and not in `far`; see `blind_pairs` for what is returned.

    Never holds more than a block of all pairs; percentiles are against a sample of 200,000 pairs (all
    of them, where there are fewer).

    Raises VlmProbeError for different numbers of rows, fewer than two, or values that are not finite.
    """
    if len(close) != len(far):
        raise VlmProbeError(f"{len(close)} and {len(far)} embeddings: give both encoders the same images")
    if len(close) < 2:
        raise VlmProbeError(f"{len(close)} images make no pair; give at least 2")
    for which, x in (("first", close), ("second", far)):
        bad = (~x.isfinite()).any(dim=1).nonzero().flatten().tolist()
        if bad:
            raise VlmProbeError(f"the {which} encoder's embeddings of images {bad[:5]} are not finite")
    n, units = len(close), [unit_rows(x.float()) for x in (close, far)]
    i, j = _pairs(n, seed)
    ranked = [(u[i] * u[j]).sum(1).sort().values for u in units]
    kept: list[pd.DataFrame] = []
    for start in range(0, n, _BLOCK):
        rows = torch.arange(start, min(start + _BLOCK, n))
        similarity = [u[rows] @ u.T for u in units]
        share = [torch.searchsorted(r, s.contiguous()) / len(r) for r, s in zip(ranked, similarity, strict=True)]
        gap = share[0] - share[1]
        gap[torch.arange(n)[None, :] <= rows[:, None]] = -2.0  # each pair once, and none with itself
        # The best of every image, not of the block: one odd image would fill that.
        each = gap.topk(min(_CANDIDATES, n), dim=1)
        best = (each.indices + n * torch.arange(len(rows))[:, None])[each.values > -2]
        first, second = rows[best // n], best % n
        at = (best // n, second)
        columns = {
            "first": first,
            "second": second,
            "similarity_a": similarity[0][at],
            "similarity_b": similarity[1][at],
        }
        columns |= {"percentile_a": share[0][at], "percentile_b": share[1][at]}
        kept.append(pd.DataFrame({name: values.numpy() for name, values in columns.items()}))
    table = pd.concat(kept, ignore_index=True)
    table["gap"] = table["percentile_a"] - table["percentile_b"]
    table = table.sort_values("gap", ascending=False, kind="stable")
    # An odd image would stand in every pair.
    used: set[int] = set()
    chosen = []
    for row, (one, two) in enumerate(zip(table["first"], table["second"], strict=True)):
        if len(chosen) == top:
            break
        if not {one, two} & used:
            used |= {one, two}
            chosen.append(row)
    return table.iloc[chosen].reset_index(drop=True)


def blind_pairs(
    encoder_a: HookedVLM,
    encoder_b: HookedVLM,
    images: Path | str | Sequence[ImageLike],
    *,
    top: int = 50,
    pool: str = "mean",
    skip_bad: bool = False,
    progress: Callable[[int], None] | None = None,
) -> pd.DataFrame:
    """Pairs of images that are close for encoder a and far for encoder b (Tong et al. 2024, arXiv:2401.06209).

    Parameters
    ----------
    encoder_a, encoder_b: models whose encoders are compared (at what their connectors read).
    images: a folder, or images.
    top: pairs at most; an image stands in one pair at most.
    skip_bad: leave out images that cannot be read; `attrs["skipped"]` names them.
    progress: called with the number of images just done, twice over.

    Returns
    -------
    The largest gap first: first and second (numbers of images), name_first and name_second (file names, or
    the numbers), similarity_a and similarity_b (cosine), percentile_a and percentile_b (share of all pairs
    that are less alike), gap (their difference).

    Deviation: MMVP takes CLIP's projected CLS row, and cosines above 0.95 and below 0.6. Those cutoffs fit two
    encoders; here the embeddings are centred and ranked, so that any two can be compared.

    Raises VlmProbeError for an image that cannot be read, and fewer than two.
    """
    pictures = list(images_in(images)) if isinstance(images, str | Path) else list(images)
    skipped = []
    if skip_bad:
        good = []
        for picture in pictures:
            try:
                open_image(picture)
                good.append(picture)
            except VlmProbeError as error:
                skipped.append(str(error))
        pictures = good
    embedded = [image_embeddings(m, pictures, pool=pool, progress=progress) for m in (encoder_a, encoder_b)]
    table = disagreeing_pairs(*embedded, top=top)
    names = [Path(p).name if isinstance(p, str | Path) else str(i) for i, p in enumerate(pictures)]
    for side in ("first", "second"):
        table[f"name_{side}"] = [names[i] for i in table[side]]
    table.attrs = {
        "title": f"close for {encoder_a.name}, far for {encoder_b.name}",
        "a": encoder_a.name,
        "b": encoder_b.name,
        "images": len(pictures),
        "pool": pool,
        "skipped": skipped,
        "citation": "Tong et al. 2024, arXiv:2401.06209",
    }
    return table
