"""Linear probes that are asked about what they never saw: parts of the items are held out whole, one by one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped

from vlm_probe.embedding.logistic import fit_logistic
from vlm_probe.embedding.probe import STRENGTHS
from vlm_probe.errors import VlmProbeError


def dealt(
    y: Shaped[np.ndarray, " item"], groups: Shaped[np.ndarray, " item"], *, parts: int = 5, seed: int = 0
) -> Int[np.ndarray, " item"]:
    """The number of the part that every item is dealt to: groups stay whole, and labels are spread evenly."""
    from sklearn.model_selection import StratifiedGroupKFold  # slow to import

    found = np.zeros(len(y), dtype=np.int64)
    folds = StratifiedGroupKFold(parts, shuffle=True, random_state=seed)
    for number, (_, own) in enumerate(folds.split(np.zeros(len(y)), y, groups)):
        found[own] = number
    return found


def transferred_predictions(
    x: Float[np.ndarray, "layer item feature"],
    y: Shaped[np.ndarray, " item"],
    parts: Shaped[np.ndarray, " item"],
    *,
    strengths: Sequence[float] = STRENGTHS,
    elsewhere: Float[np.ndarray, "layer item feature"] | None = None,
    device: str | None = None,
) -> Shaped[np.ndarray, "layer item"]:
    """What a probe that saw all other parts predicts for the items of each, in the labels' own type.

    With colours for parts, a probe of shapes is asked about the shapes of a colour that it never saw. Holding out
    single kinds (red stars) would not do: where red has every shape but one in training, a probe that finds the colour
    learns that red is no star, and the better it finds it the more often it is wrong, below chance.

    Logistic regression behind standardisation (`embedding.logistic`). strengths: inverse regularisation; taken is what
    does best when the parts that were seen are held out one by one. Of one alone nothing is chosen. elsewhere: features
    of the same items in which the probes, trained on x, are read instead (at another object of each image, say).

    Raises VlmProbeError for fewer than three parts, one label alone, a label that stands in one part only (no probe
    that did not see it can name it), and features that are not finite or all the same.
    """
    names, codes = np.unique(y, return_inverse=True)
    which, part = np.unique(parts, return_inverse=True)
    _check(x, names, codes, part, len(which))
    there = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    features = torch.as_tensor(x, dtype=torch.float32, device=there)
    truth = torch.as_tensor(codes, device=there)
    inside = torch.as_tensor(part[None] == np.arange(len(which))[:, None], device=there)

    def predict(train: torch.Tensor, strength: torch.Tensor) -> torch.Tensor:
        return fit_logistic(features, truth.expand(len(train), -1), train, strength, len(names)).argmax(2)

    n = len(which)
    chosen = torch.zeros(len(x), n, dtype=torch.long, device=there)
    if len(strengths) > 1:
        pairs = [(out, also) for out in range(n) for also in range(n) if out != also]
        seen = torch.stack([~(inside[out] | inside[also]) for out, also in pairs])
        asked = torch.stack([inside[also] for _, also in pairs]).float()
        right = []
        for strength in strengths:
            found = predict(seen, torch.full((len(x), len(pairs)), strength, device=there)) == truth
            right.append((found * asked).sum(-1).unflatten(1, (n, n - 1)).sum(-1))
        chosen = torch.stack(right).argmax(0)
    if elsewhere is not None:
        other = torch.as_tensor(elsewhere, dtype=torch.float32, device=there)
        # Trained on by nobody.
        features, truth = torch.cat([features, other], dim=1), torch.cat([truth, truth])
        inside = torch.cat([inside, torch.ones_like(inside)], dim=1)
    found = predict(~inside, torch.tensor(list(strengths), device=there)[chosen])[..., -len(codes) :]
    own = torch.as_tensor(part, device=there).expand(len(x), 1, -1)
    return names[found.gather(1, own)[:, 0].cpu().numpy()]


def predictions_elsewhere(
    x: Float[np.ndarray, "layer item feature"],
    y: Shaped[np.ndarray, " item"],
    parts: Shaped[np.ndarray, " item"],
    asked: Float[np.ndarray, "layer other feature"],
    asked_parts: Shaped[np.ndarray, " other"],
    *,
    strengths: Sequence[float] = STRENGTHS,
    device: str | None = None,
) -> Shaped[np.ndarray, "layer other"]:
    """What a probe that was trained on all other parts says of items it never saw, which are of no use to it.

    As `transferred_predictions`, but for who is asked: with colours for parts, a probe that learned shapes from objects
    of other colours in some scenes is asked about those of this colour in others; who is of a part that x has not, is
    asked of a probe that saw all of x. The strength is what does best where the parts of x are held out one by one; of
    those that do equally well it is the first.

    Raises VlmProbeError as `transferred_predictions` does, for parts of another type, and features of `asked` that are
    not finite.
    """
    if (parts.dtype.kind in "iuf") != (asked_parts.dtype.kind in "iuf"):  # nothing would be held out
        raise VlmProbeError(f"parts are {parts.dtype}, those that are asked about {asked_parts.dtype}: none is another")
    if not np.isfinite(asked).all():
        raise VlmProbeError("the features that are asked about have NaN or infinite values")
    found = [transferred_predictions(x, y, parts, strengths=[one], device=device) == y for one in strengths]
    best = np.stack(found).mean(2).argmax(0)
    names, codes = np.unique(y, return_inverse=True)
    which = np.unique(asked_parts)
    there = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    n, others = x.shape[1], asked.shape[1]
    every = torch.as_tensor(np.concatenate([x, asked], axis=1), dtype=torch.float32, device=there)
    truth = torch.as_tensor(np.append(codes, np.zeros(others, dtype=codes.dtype)), device=there)
    seen = np.append(parts[None] != which[:, None], np.zeros((len(which), others), dtype=bool), axis=1)
    strength = torch.tensor([[strengths[i]] * len(which) for i in best], device=there)
    logits = fit_logistic(
        every, truth.expand(len(which), -1), torch.as_tensor(seen, device=there), strength, len(names)
    )
    said = names[logits.argmax(2)[..., n:].cpu().numpy()]
    return said[:, np.searchsorted(which, asked_parts), np.arange(others)]


def _check(x: np.ndarray, names: np.ndarray, codes: np.ndarray, part: np.ndarray, parts: int) -> None:
    bad = int((~np.isfinite(x)).any(axis=(0, 2)).sum())
    if bad:
        raise VlmProbeError(f"the features have NaN or infinite values in {bad} of {x.shape[1]} items; leave those out")
    if bool((x == x[:, :1]).all(axis=(1, 2)).any()):
        raise VlmProbeError("the features are the same for every item: there is nothing to probe")
    if parts < 3:
        raise VlmProbeError(f"{parts} parts are too few to hold one out and choose by the others; give at least 3")
    if len(names) < 2:
        raise VlmProbeError(f"all {len(codes)} labels are {str(names[0])!r}: a probe needs two classes or more")
    seen = np.zeros((len(names), parts), dtype=bool)
    seen[codes, part] = True
    alone = names[seen.sum(1) < 2]
    if len(alone):
        raise VlmProbeError(f"the label {str(alone[0])!r} stands in one part only: no other part's probe can name it")
