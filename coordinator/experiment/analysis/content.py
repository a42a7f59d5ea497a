"""How much of what features tell apart is a plain attribute of the images."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from coordinator.experiment.analysis.geometry import centred

RIDGE = 1e-3
"""Strength of the penalty, for each fitted image: attributes are alike, and plain least squares would be unstable."""


class Explained:
    """The share of the features' variance that a linear function of some attributes predicts.

    Ridge regression from standardized attributes a [n, A] to centred features z [n, D], fitted on some images:

        W = (a'a + RIDGE n I)^-1 a'z

    and judged on others by R^2, weighted by variance: 1 - sum |z - prediction|^2 / sum |z - mean of z|^2, sums over
    images and dimensions. In terms of scikit-learn: Ridge(alpha=RIDGE * n) on standardized attributes, and
    r2_score(multioutput="variance_weighted"). In float64.

    Args:
        fitted: attributes [n, A] and features [n, D] of the images that are fitted.
        judged: the same of other images.

    Raises:
        ValueError: the shapes do not fit each other.
    """

    def __init__(self, fitted: tuple[Tensor, Tensor], judged: tuple[Tensor, Tensor]) -> None:
        (a, z), (b, y) = fitted, judged
        found = [list(x.shape) for x in (a, z, b, y)]
        if not (
            len(a) == len(z) > 0
            and len(b) == len(y) > 0
            and found[0][1:] == found[2][1:]
            and found[1][1:] == found[3][1:]
        ):
            raise ValueError(f"expected attributes and features of the same images, twice: found {found}")
        a, z, b, y = (x.double() for x in (a, z, b, y))
        mean, deviation = a.mean(0), a.std(0, correction=0)
        # What does not vary up to rounding explains nothing.
        scale = torch.where(deviation > 1e-6 * mean.abs().clamp_min(1e-6), 1 / deviation, 0.0)
        a, self._attributes = (a - mean) * scale, (b - mean) * scale
        self._gram = a.T @ a + RIDGE * len(a) * torch.eye(a.shape[1], dtype=a.dtype, device=a.device)
        self._cross = a.T @ centred(z)
        self._target = y - z.mean(0)
        self._spread = float(centred(y).square().sum())

    @torch.no_grad()
    def by(self, columns: Sequence[int]) -> float:
        """R^2 on the judged images from these attributes alone.

        Args:
            columns: of the attributes.

        Returns:
            at most 1; below 0 where the prediction is worse than the mean; nan where the features do not vary.
        """
        chosen = list(columns)
        if not self._spread > 0:
            return math.nan
        gram, cross = self._gram[chosen][:, chosen], self._cross[chosen]
        prediction = self._attributes[:, chosen] @ torch.linalg.solve(gram, cross)
        return 1 - float((self._target - prediction).square().sum()) / self._spread
