"""Is the vocabulary trained (V3)? Rows of both its matrices: norms, spectrum, neighbours, under-trained ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float
from scipy.stats import skew, spearmanr
from torch import Tensor

from vlm_probe.embedding.nearest import nearest_rows, used_rows
from vlm_probe.errors import VlmProbeError
from vlm_probe.hooked import HookedVLM
from vlm_probe.hooked.anatomy import embedding, is_tied, unembedding
from vlm_probe.hooked.untrained import MARK
from vlm_probe.zoo.replicas import never_seen, shipped

BLOCK = 8192
"""Rows taken at a time; sums are in float64."""


def row_norms(table: Float[Tensor, "row feature"]) -> Float[Tensor, " row"]:
    """Euclidean norm of every row, float32, a block at a time."""
    return torch.cat([part.float().norm(dim=1) for part in table.detach().split(BLOCK)])


def _moments(table: Float[Tensor, "row feature"], keep: Bool[Tensor, " row"]) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, covariance and mean unit row of the kept rows, float64; never holds more than a block of them."""
    width, n = table.shape[1], int(keep.sum())
    total, unit = (torch.zeros(width, dtype=torch.float64) for _ in range(2))
    square = torch.zeros(width, width, dtype=torch.float64)
    for start in range(0, len(table), BLOCK):
        rows = table[start : start + BLOCK][keep[start : start + BLOCK]].detach().double().cpu()
        total += rows.sum(0)
        square += rows.T @ rows
        unit += (rows / rows.norm(dim=1, keepdim=True).clamp(min=1e-12)).sum(0)
    mean = total / n
    return mean, square / n - torch.outer(mean, mean), unit / n


def _partition_isotropy(table: Tensor, keep: Tensor, directions: Float[Tensor, "feature direction"]) -> float:
    """min Z(u) / max Z(u), Z(u) = sum over rows of exp(u . row), over the principal directions (both signs)."""
    both = torch.cat([directions, -directions], dim=1)
    z = torch.full((both.shape[1],), -torch.inf, dtype=torch.float64)
    for start in range(0, len(table), BLOCK):
        rows = table[start : start + BLOCK][keep[start : start + BLOCK]].detach().double().cpu()
        if len(rows):
            z = torch.logaddexp(z, (rows @ both).logsumexp(0))
    return float((z.min() - z.max()).exp())


def geometry(
    table: Float[Tensor, "row feature"],
    *,
    keep: Bool[Tensor, " row"] | None = None,
    counts: Mapping[int, int] | None = None,
    sample: int = 1000,
    seed: int = 0,
) -> tuple[dict[str, float | int], pd.DataFrame]:
    """The shape of a vocabulary matrix.

    Parameters
    ----------
    table: embedding or unembedding, in any dtype.
    keep: rows that count: `used_rows(model)` leaves padding out; all if None.
    counts: id -> how often it occurs in some text, for the relation of norm and frequency.
    sample: rows whose nearest neighbours among all are looked for.

    Returns
    -------
    A summary: rows (that count), padding (those that do not), norm_median and norm_5, norm_95 (percentiles),
    effective_rank (exp of the entropy of the centred matrix's singular values; Roy and Vetterli 2007),
    participation_ratio, anisotropy (mean cosine of two different rows), isotropy (min over max of the partition
    function along the principal directions, without centring; Mu and Viswanath 2018, arXiv:1702.01417, equation 2; 1 is
    isotropic), norm_frequency (Spearman correlation over ids that occur; NaN without counts), neighbor_cosine
    (median cosine to the nearest other row), hubness (skewness of how often a row is among another's ten nearest;
    Radovanovic et al. 2010).
    And the spectrum: columns direction, singular_value, share (of the variance, cumulated).

    Raises VlmProbeError for values that are not finite, and fewer than 12 rows that count.
    """
    used = torch.ones(len(table), dtype=torch.bool) if keep is None else keep.cpu()
    n = int(used.sum())
    if n < 12:
        raise VlmProbeError(f"{n} rows are too few for a geometry, give at least 12")
    norms = row_norms(table).cpu()
    bad = int((~norms[used].isfinite()).sum())
    if bad:
        raise VlmProbeError(f"{bad} of {n} rows have NaN or infinite values")
    mean, covariance, unit = _moments(table, used)
    variance = torch.linalg.eigvalsh(covariance).flip(0).clamp(min=0)
    # Without centring: the mean is a direction too, often the strongest.
    directions = torch.linalg.eigh(covariance + torch.outer(mean, mean)).eigenvectors
    singular = (variance * n).sqrt()
    p = singular / singular.sum()
    quantiles = torch.quantile(norms[used][:: max(1, n // 1_000_000)], torch.tensor([0.05, 0.5, 0.95]))
    chosen = torch.randperm(n, generator=torch.Generator().manual_seed(seed))[:sample]
    at = used.nonzero().flatten()[chosen]
    near = nearest_rows(table[at.to(table.device)], table, k=min(11, n), keep=used)
    others = near.ids.cpu() != at[:, None]  # a row is its own nearest
    first = near.scores.cpu().masked_fill(~others, -torch.inf).amax(1)
    hits = np.bincount(near.ids.cpu()[others].numpy(), minlength=len(table))[used.numpy()]
    relation = float("nan")
    if counts:
        ids = [i for i, c in counts.items() if c > 0 and bool(used[i])]
        if len(ids) > 2:
            relation = float(np.asarray(spearmanr(norms[ids].numpy(), [counts[i] for i in ids]))[0])
    summary: dict[str, float | int] = {
        "rows": n,
        "padding": len(table) - n,
        "norm_5": float(quantiles[0]),
        "norm_median": float(quantiles[1]),
        "norm_95": float(quantiles[2]),
        "effective_rank": float(torch.exp(-(p * p.clamp(min=1e-300).log()).sum())),
        "participation_ratio": float(variance.sum() ** 2 / variance.square().sum()),
        "anisotropy": float((unit @ unit * n - 1) / (n - 1)),
        "isotropy": _partition_isotropy(table, used, directions),
        "norm_frequency": relation,
        "neighbor_cosine": float(first.median()),
        "hubness": float(skew(hits)),
    }
    spectrum = pd.DataFrame(
        {
            "direction": np.arange(len(singular)),
            "singular_value": singular.numpy(),
            "share": (variance.cumsum(0) / variance.sum()).numpy(),
        }
    )
    return summary, spectrum


def known_unused(model: HookedVLM) -> list[int]:
    """Ids on which nothing was ever trained, as far as that is known.

    Those whose names say so ("<unused7>", "<reserved_3>", "[unused1]"), and for shipped replicas those that their
    training text never had (also for untrained copies of them, where they are as good as any others).
    """
    if model.tokenizer is None:
        return []
    name = str(model.name).removesuffix(MARK)
    cell = name.removeprefix("replica/")
    if name.startswith("replica/") and cell in ("default", *shipped()):
        return never_seen(cell)
    marks = ("<unused", "<reserved", "[unused", "<|reserved", "<|unused")
    return sorted(i for token, i in model.tokenizer.get_vocab().items() if token.lower().startswith(marks))


def undertrained(
    table: Float[Tensor, "row feature"], reference: Sequence[int], *, keep: Bool[Tensor, " row"] | None = None
) -> pd.DataFrame:
    """Tokens that look as if they had hardly been trained (Land and Bartolo 2024, arXiv:2405.05417, section 2.2).

    The indicator is the cosine distance of a row to the mean of rows known to be untrained, after the first principal
    component of all rows has been taken out. Without such rows there is none: the norm alone points the wrong way where
    nothing ever shrank the rows that were not used.

    Parameters
    ----------
    table: the unembedding (tied: the embedding).
    reference: ids known to be untrained: `known_unused`, or ids that the training text never has.
    keep: rows that count: `used_rows(model)` leaves padding out.

    Returns
    -------
    One row an id that counts, most suspicious first: token_id, indicator (smaller is more suspicious), norm, reference
    (whether it is one of those given), share (of rows that are more suspicious).

    Deviation: the paper verifies the lowest 2 % by prompting; `repeats` does that for any ids.

    Raises VlmProbeError without reference ids, and for such outside the table.
    """
    known = [int(i) for i in reference]
    if not known:
        raise VlmProbeError(
            "no id is known to be untrained, so that nothing tells under-trained rows: give reference ids, such as "
            "tokens whose names say that they are unused (known_unused) or that the training text never has"
        )
    if not 0 <= min(known) <= max(known) < len(table):
        raise VlmProbeError(f"reference ids must be between 0 and {len(table) - 1}")
    used = torch.ones(len(table), dtype=torch.bool) if keep is None else keep.cpu()
    ids = used.nonzero().flatten()
    _, covariance, _ = _moments(table, used)
    first = torch.linalg.eigh(covariance).eigenvectors[:, -1].float()

    def without(rows: Tensor) -> Tensor:
        rows = rows.detach().float().cpu()
        return rows - torch.outer(rows @ first, first)

    target = without(table[known]).mean(0)
    target = target / target.norm().clamp(min=1e-12)
    parts = [without(part) for part in table.split(BLOCK)]
    cosine = torch.cat([part @ target / part.norm(dim=1).clamp(min=1e-12) for part in parts])
    found = pd.DataFrame(
        {
            "token_id": ids.numpy(),
            "indicator": (1 - cosine)[ids].numpy(),
            "norm": row_norms(table).cpu()[ids].numpy(),
            "reference": np.isin(ids.numpy(), known),
        }
    )
    found = found.sort_values("indicator", kind="stable", ignore_index=True)
    found["share"] = np.arange(len(found)) / len(found)
    found.attrs = {"title": "under-trained tokens", "units": "cosine distance", "reference": len(known)}
    return found


@dataclass(frozen=True)
class Repetition:
    """A prompt that asks for a token again: an opening, the token between two texts, so many times."""

    opening: str
    between: tuple[str, ...]
    """What stands before each mention of the token, in turn."""
    times: int
    """Mentions before the one that is asked for."""


REPETITIONS = (
    Repetition("This machine gives back exactly what it is given:", ("\nGiven: «", "»\nBack: «"), 41),
    Repetition("The same piece of text, over and over again:\n", ("",), 50),
    Repetition("", ("",), 4),
)
"""Prompts after which a model that knows a token says it: examples of repeating, and the bare token (the kinds of Land
and Bartolo's section 2.3, in words of our own; their third, which asks what a phrase means, wants a chat model). The
token stands where its own space, if it has one, is the only one."""


@torch.no_grad()
def repeats(model: HookedVLM, ids: Sequence[int], *, batch_size: int = 16) -> pd.DataFrame:
    """Whether the model can say each token when it is asked to repeat it.

    Returns token_id, token, probability (the highest over `REPETITIONS`, of the token itself; its authors' code takes
    what stays below 0.001 for surely unsayable, and what is above 0.1 for sayable).

    Raises VlmProbeError without a tokenizer.
    """
    tokenizer = model.tokenizer
    if tokenizer is None:
        raise VlmProbeError(f"{model.name} has no tokenizer, so nothing can be repeated")
    best = torch.zeros(len(ids))
    start = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]

    def cut(text: str) -> list[int]:
        return tokenizer(text, add_special_tokens=False)["input_ids"] if text else []

    for prompt in REPETITIONS:
        # Pieces are cut alone and the token put between them: no text has to spell it.
        try:
            opening, between = cut(prompt.opening), [cut(text) for text in prompt.between]
        except VlmProbeError:  # a trimmed vocabulary that does not hold the words
            continue
        for first in range(0, len(ids), batch_size):
            part = list(ids[first : first + batch_size])
            rows = []
            for token in part:
                row = [*start, *opening]
                for mention in range(prompt.times):
                    row += [*between[mention % len(between)], token]
                rows.append(row + between[prompt.times % len(between)])
            out = model(torch.tensor(rows, device=model.device), logits_to_keep=1).logits[:, -1].float().softmax(-1)
            said = out[torch.arange(len(part)), torch.as_tensor(part)].cpu()
            best[first : first + len(part)] = torch.maximum(best[first : first + len(part)], said)
    table = pd.DataFrame({"token_id": list(ids), "token": model.token_strings(list(ids)), "probability": best.numpy()})
    table.attrs = {"title": "tokens repeated on demand", **model.provenance()}
    return table


def vocabulary_geometry(model: HookedVLM, *, counts: Mapping[int, int] | None = None) -> pd.DataFrame:
    """`geometry` of a model's embedding, and of its unembedding where that is another matrix; one row each."""
    tables = {"embedding": embedding(model)}
    if not is_tied(model):
        tables["unembedding"] = unembedding(model)
    rows = [{"matrix": name, **geometry(t, keep=used_rows(model), counts=counts)[0]} for name, t in tables.items()]
    table = pd.DataFrame(rows)
    table.attrs = {"title": "geometry of the vocabulary", **model.provenance()}
    return table
