"""Many logistic regressions at once: all layers, folds, strengths and label sets in shared matrix products.

Each problem is scikit-learn's `LogisticRegression` behind `StandardScaler`: the same objective, the
same optimum, found by L-BFGS (Liu and Nocedal 1989) that runs on all problems side by side.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

HISTORY = 10
"""Steps that L-BFGS remembers, as scipy's does."""
TOLERANCE = 1e-4
"""Largest entry of the gradient of the mean loss at which a problem is solved, as scikit-learn's."""
_ARMIJO, _HALVINGS = 1e-4, 20
ROUNDING = 2e-7
"""Of a float32's value: features that spread no further are the same everywhere."""

Evaluate = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Parameters [problem, parameter] -> values [problem] and gradients [problem, parameter]."""


def _direction(gradient: Tensor, past: list[tuple[Tensor, Tensor, Tensor]]) -> Tensor:
    """The two-loop recursion: minus the approximate inverse Hessian times the gradient, per problem."""
    if not past:
        return -gradient / gradient.norm(dim=-1, keepdim=True).clamp(min=1.0)
    q, weights = gradient.clone(), []
    for s, y, rho in reversed(past):
        weight = rho * (s * q).sum(-1, keepdim=True)
        q.sub_(weight * y)
        weights.append(weight)
    s, y, rho = past[-1]
    q.mul_(1 / (rho * y.square().sum(-1, keepdim=True)).clamp(min=1e-12))
    for (s, y, rho), weight in zip(past, reversed(weights), strict=True):
        q.add_((weight - rho * (y * q).sum(-1, keepdim=True)) * s)
    return -q


def minimize(
    evaluate: Evaluate, start: Float[Tensor, "problem parameter"], *, steps: int = 300, tolerance: float = TOLERANCE
) -> Float[Tensor, "problem parameter"]:
    """L-BFGS on convex problems side by side, each with its own step length (Armijo, by halving).

    A solved problem stands still while the others go on.
    """
    x = start.clone()
    value, gradient = evaluate(x)
    past: list[tuple[Tensor, Tensor, Tensor]] = []
    for _ in range(steps):
        going = gradient.abs().amax(-1) > tolerance
        if not going.any():
            break
        direction = _direction(gradient, past)
        slope = (direction * gradient).sum(-1)
        # Rounding can spoil a direction where a problem is all but solved.
        direction = torch.where((slope < 0)[:, None], direction, -gradient)
        slope = torch.where(slope < 0, slope, -gradient.square().sum(-1))
        length = going.to(x.dtype)
        slack = 1e-6 * value.abs()
        for _ in range(_HALVINGS):
            new = x + length[:, None] * direction
            new_value, new_gradient = evaluate(new)
            failed = new_value > value + _ARMIJO * length * slope + slack
            if not failed.any():
                break
            length = torch.where(failed, length / 2, length)
        s, y = new - x, new_gradient - gradient
        bend = (s * y).sum(-1, keepdim=True)
        # Where nothing moved, nothing was learned of the curvature.
        rho = torch.where(bend > 1e-12, 1 / bend.clamp(min=1e-12), torch.zeros_like(bend))
        past = [*past[1 - HISTORY :], (s, y, rho)]
        x, value, gradient = new, new_value, new_gradient
    return x


class Problems:
    """Logistic regressions on the same features, behind their own standardisation, that are solved side by side.

    x: [layer, item, feature]. y: class numbers from 0, and train: the items that each is fitted on, both
    [problem, item]; every problem is solved at every layer.
    """

    def __init__(
        self,
        x: Float[Tensor, "layer item feature"],
        y: Int[Tensor, "problem item"],
        train: Bool[Tensor, "problem item"],
        classes: int,
    ):
        # One scaling for all keeps the sums of squares harmless; each problem's own comes on top. It is that of items
        # that are learned from: who is only asked moves no problem.
        learned = slice(None) if train.any(0).all() else train.any(0)
        mean = x[:, learned].mean(1, keepdim=True)
        x = x - mean
        spread = x[:, learned].square().mean(1, keepdim=True).sqrt()  # std() takes five times as long
        # Nobody learns from a feature that is the same everywhere but for its rounding, whatever it is elsewhere.
        self._x = x / torch.where(spread > mean.abs() * ROUNDING, spread, torch.inf)
        self._outputs = 1 if classes == 2 else classes
        self._n = train.sum(1)
        self._part = train.to(x.dtype) / train.sum(1, keepdim=True)
        part = train.double() / train.sum(1, keepdim=True)
        mean, spread = map(torch.stack, zip(*(_moments(part, layer) for layer in self._x), strict=True))
        self._mean, self._spread = mean[:, :, None], spread[:, :, None]
        target = torch.nn.functional.one_hot(y, classes).to(x.dtype).transpose(1, 2)
        self._target = target[:, -self._outputs :]

    def solve(
        self,
        strength: Float[Tensor, "layer problem"],
        start: Float[Tensor, "one parameter"] | None = None,
    ) -> Float[Tensor, "one parameter"]:
        """Parameters of every problem at every layer, one after the other.

        strength: inverse regularisation, scikit-learn's C, whose objective is minimised: C x sum of losses +
        |weights|^2 / 2, the intercept free, two classes by one weight vector. start: where to begin, such as the
        solution at another strength; zeros if None.
        """
        layers, _, features = self._x.shape
        penalty = 1 / (strength * self._n)[:, :, None, None]
        if start is None:
            start = self._x.new_zeros(layers * len(self._n), self._outputs * (features + 1))

        def evaluate(parameters: Tensor) -> tuple[Tensor, Tensor]:
            weights, bias = self._split(parameters)
            z = self._logits(weights, bias)
            if self._outputs == 1:
                total, probability = torch.nn.functional.softplus(z[:, :, 0]), z.sigmoid()
            else:
                total = z.logsumexp(2)
                probability = (z - total[:, :, None]).exp()
            loss = ((total - (z * self._target).sum(2)) * self._part).sum(-1)
            value = loss + 0.5 * (penalty * weights.square()).sum((-2, -1))
            residual = (probability - self._target) * self._part[:, None]
            sums = residual.sum(-1)
            raw = (residual.flatten(1, 2) @ self._x).unflatten(1, residual.shape[1:3])
            slope = (raw - sums[..., None] * self._mean) / self._spread + penalty * weights
            gradient = torch.cat([slope, sums[..., None]], dim=-1)
            return value.flatten(), gradient.flatten(2).flatten(0, 1)

        return minimize(evaluate, start)

    def logits(self, parameters: Float[Tensor, "one parameter"]) -> Float[Tensor, "layer problem class item"]:
        """Logits of all items, those left out of training too."""
        z = self._logits(*self._split(parameters))
        return torch.cat([torch.zeros_like(z), z], dim=2) if self._outputs == 1 else z

    def _logits(self, weights: Tensor, bias: Tensor) -> Tensor:
        raw = weights / self._spread
        shift = bias - (raw * self._mean).sum(-1)
        return (raw.flatten(1, 2) @ self._x.mT).unflatten(1, raw.shape[1:3]) + shift[..., None]

    def _split(self, parameters: Tensor) -> tuple[Tensor, Tensor]:
        shaped = parameters.view(len(self._x), len(self._n), self._outputs, self._x.shape[2] + 1)
        return shaped[..., :-1], shaped[..., -1]


def _moments(
    part: Float[Tensor, "problem item"], x: Float[Tensor, "item feature"]
) -> tuple[Float[Tensor, "problem feature"], Float[Tensor, "problem feature"]]:
    """Mean and standard deviation of every problem's own items; 1 where those are all the same.

    In double precision: a feature that is the same in all items of one problem, and not in those of another, would get
    the rounding of a difference of squares for its spread, and who is asked about would lie hundreds of it away.
    """
    own = x.double()
    mean = part @ own
    spread = (part @ own.square() - mean.square()).clamp(min=0).sqrt()
    still = spread < 1e-6 * mean.abs().clamp(min=1.0)
    return mean.to(x.dtype), spread.masked_fill(still, 1.0).to(x.dtype)


def fit_logistic(
    x: Float[Tensor, "layer item feature"],
    y: Int[Tensor, "problem item"],
    train: Bool[Tensor, "problem item"],
    strength: Float[Tensor, "layer problem"],
    classes: int,
) -> Float[Tensor, "layer problem class item"]:
    """Logits of all items after fitting every problem, on its training items, at every layer (`Problems`)."""
    problems = Problems(x, y, train, classes)
    return problems.logits(problems.solve(strength))
