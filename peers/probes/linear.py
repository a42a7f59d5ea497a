"""The linear probe: multinomial logistic regression on frozen features.

    minimize over W [C, D], b [C]:   mean cross-entropy(x W' + b, y) + l2 / 2 * ||W||^2

on features standardized with the training mean and deviation; the bias is not regularized. In terms of scikit-learn's
`LogisticRegression` on the same features, C = 1 / (n * l2). L-BFGS over all rows, in float32, from zero: there is no
randomness in it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from peers.probes.features import check_labelled

Labelled = tuple[Tensor, Tensor]
"""Features [n, D] and labels [n] int64."""

BUDGET = 2**25
"""Values of standardized features that are held (128 MiB); more than that is standardized anew in each pass."""

_BLOCKS = 32
"""A pass works on blocks of at most 1 / 32 of the budget: 4 MiB, small enough for a CPU's caches."""

_TOLERANCE = 1e-6
"""Converged when no component of the gradient is larger; float32 gradients of standardized features go to ~1e-7."""

_HISTORY = 10
"""Pairs of steps and gradient changes that L-BFGS remembers; more costs time and gains nothing here."""


@dataclass(frozen=True)
class LinearProbe:
    """Outcome of the probe.

    Attributes:
        accuracy: percent of the judged rows, 0 to 100.
        l2: the strength that was chosen.
        iterations: of L-BFGS at this strength, on top of those at the stronger ones.
        converged: it stopped because it could not improve, not because the iterations were used up.
    """

    accuracy: float
    l2: float
    iterations: int
    converged: bool


@dataclass(frozen=True)
class LinearFit:
    """A fitted classifier on standardized features.

    Attributes:
        weight: [C, D].
        bias: [C].
        objective: mean cross-entropy + l2 / 2 * ||weight||^2 over the training rows.
        iterations: of L-BFGS.
        converged: see `LinearProbe`.
    """

    weight: Tensor
    bias: Tensor
    objective: float
    iterations: int
    converged: bool


@dataclass(frozen=True)
class Standard:
    """Standardization with the mean and deviation of some rows.

    Attributes:
        mean: [D] float32.
        scale: [D] float32, 1 / deviation; 0 where the dimension is constant up to float32 rounding.
    """

    mean: Tensor
    scale: Tensor

    @classmethod
    def of(cls, x: Tensor, block: int) -> Standard:
        """Measured on rows x [n, D] in float64, `block` rows at a time."""
        mean = _sum(part.sum(0, dtype=torch.float64) for part in torch.split(x, block)) / len(x)
        square = _sum((part - mean).square_().sum(0) for part in torch.split(x, block))
        deviation = (square / len(x)).sqrt()
        varies = deviation > torch.finfo(torch.float32).eps * mean.abs()
        return cls(mean.float(), torch.where(varies, 1 / deviation, 0.0).float())

    def apply(self, x: Tensor) -> Tensor:
        """Rows [n, D] as float32, standardized; a new tensor."""
        return (x.float() - self.mean).mul_(self.scale)


class Rows:
    """Training rows as blocks of standardized features and labels, to be passed over many times.

    Args:
        x: [n, D] features.
        y: [n] labels.
        classes: labels lie in 0 .. classes - 1; bounds a block too, as logits are [rows, classes].
        budget: values; see `BUDGET`.
    """

    def __init__(self, x: Tensor, y: Tensor, classes: int, budget: int = BUDGET) -> None:
        self.classes = classes
        self.block = max(1, budget // _BLOCKS // max(x.shape[1], classes))
        self.standard = Standard.of(x, self.block)
        self._y = y.to(x.device)
        self._held = x.numel() <= budget
        self._x = self.standard.apply(x) if self._held else x

    def __len__(self) -> int:
        return len(self._x)

    @property
    def like(self) -> Tensor:
        """A [C, D + 1] float32 of zeros where the rows are."""
        return torch.zeros(self.classes, self._x.shape[1] + 1, device=self._x.device)

    def __iter__(self) -> Iterator[Labelled]:
        for x, y in zip(torch.split(self._x, self.block), torch.split(self._y, self.block), strict=True):
            yield (x if self._held else self.standard.apply(x)), y


def linear_probe(
    train: Labelled,
    choose: Labelled,
    judged: Labelled,
    *,
    classes: int,
    grid: Sequence[float],
    steps: int,
    budget: int = BUDGET,
) -> LinearProbe:
    """Fit on the training rows at every strength, choose one, judge it.

    The strengths are fitted from strong to weak, each from the last one's solution. The one with the best accuracy on
    `choose` is taken, of equals the stronger. The probe runs on the device of the training features; rows beyond the
    budget are never standardized all at once.

    Args:
        train: rows to fit; not every class needs to be among them.
        choose: rows that choose the strength.
        judged: rows that the accuracy is about.
        classes: labels lie in 0 .. classes - 1.
        grid: L2 strengths, in any order.
        steps: most L-BFGS iterations for each strength.
        budget: values of standardized features that may be held.

    Raises:
        ValueError: features or labels cannot be used (says how many are not finite), or a strength is negative.
    """
    for what, part in (("training", train), ("validation", choose), ("test", judged)):
        check_labelled(what, *part, classes)
    if not grid or min(grid) < 0:
        raise ValueError(f"L2 strengths must be at least 0, and at least one of them: found {list(grid)}")
    rows = Rows(*train, classes, budget)
    best: tuple[float, float, LinearFit] | None = None
    start: LinearFit | None = None
    for l2 in sorted(set(grid), reverse=True):
        start = fit(rows, l2=l2, steps=steps, start=start)
        accuracy = _accuracy(start, rows, choose)
        if best is None or accuracy > best[0]:
            best = accuracy, l2, start
    assert best is not None  # noqa: S101  # the grid is not empty
    _, l2, chosen = best
    return LinearProbe(_accuracy(chosen, rows, judged), l2, chosen.iterations, chosen.converged)


@torch.no_grad()
def fit(rows: Rows, *, l2: float, steps: int, start: LinearFit | None = None) -> LinearFit:
    """Minimize the regularized cross-entropy at one strength.

    Args:
        rows: the training rows.
        l2: strength.
        steps: most L-BFGS iterations.
        start: where to begin; by default at zero.
    """
    theta = torch.nn.Parameter(rows.like if start is None else torch.column_stack([start.weight, start.bias]))
    evaluations = 4 * steps  # a strong-Wolfe search takes one or two for a step, rarely more
    solver = torch.optim.LBFGS(
        [theta],
        max_iter=steps,
        max_eval=evaluations,
        tolerance_grad=_TOLERANCE,
        tolerance_change=1e-9,
        history_size=_HISTORY,
        line_search_fn="strong_wolfe",
    )

    def closure() -> float:
        loss, theta.grad = _objective(theta.data, rows, l2)
        return loss

    solver.step(closure)  # type: ignore[no-untyped-call]  # torch ships L-BFGS without types
    state = solver.state[theta]
    return LinearFit(
        weight=theta.data[:, :-1].clone(),
        bias=theta.data[:, -1].clone(),
        objective=closure(),
        iterations=state["n_iter"],
        converged=state["n_iter"] < steps and state["func_evals"] < evaluations,
    )


@torch.no_grad()
def _objective(theta: Tensor, rows: Rows, l2: float) -> tuple[float, Tensor]:
    """Objective and its gradient [C, D + 1] at theta [C, D + 1], the bias in the last column.

    By hand, not by autograd: half the time on small sets, and nothing is kept from block to block.
    """
    weight, bias = theta[:, :-1], theta[:, -1]
    loss = torch.zeros((), dtype=torch.float64, device=theta.device)
    gradient = torch.zeros_like(theta)
    for x, y in rows:
        log_p = torch.addmm(bias, x, weight.T).log_softmax(1)
        y = y.unsqueeze(1)
        loss -= log_p.gather(1, y).sum(dtype=torch.float64)
        error = log_p.exp_()
        error.scatter_add_(1, y, error.new_full((1, 1), -1.0).expand_as(y))
        gradient[:, :-1].addmm_(error.T, x)
        gradient[:, -1] += error.sum(0)
    gradient /= len(rows)
    gradient[:, :-1].add_(weight, alpha=l2)
    return float(loss / len(rows) + l2 / 2 * weight.square().sum()), gradient


@torch.no_grad()
def _accuracy(classifier: LinearFit, rows: Rows, judged: Labelled) -> float:
    right = 0
    for x, y in zip(torch.split(judged[0], rows.block), torch.split(judged[1], rows.block), strict=True):
        x = rows.standard.apply(x.to(classifier.weight.device))
        found = torch.addmm(classifier.bias, x, classifier.weight.T).argmax(1)
        right += int((found == y.to(found.device)).sum())
    return 100 * right / len(judged[1])


def _sum(parts: Iterator[Tensor]) -> Tensor:
    total = next(parts)
    for part in parts:
        total = total + part
    return total
