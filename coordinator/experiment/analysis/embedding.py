"""A flat picture of how features lie: t-SNE, the same for the same features."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from torch import Tensor

from coordinator.experiment.analysis.geometry import centred, seen_from

Points = npt.NDArray[np.float64]
"""[n, 2] places in the plane."""

PERPLEXITY = 30.0
STEPS = 500
"""Steps of gradient descent, the first half of them with exaggerated attraction."""


def embed(z: Tensor) -> Points:
    """Places in the plane, so that images whose features are close lie close.

    t-SNE (van der Maaten & Hinton 2008) of what the k-NN probe compares: the features' directions from their mean.
    Begins at their principal components; nothing is drawn.

    Args:
        z: [n, D] features.

    Returns:
        [n, 2] float64; all zero where the features do not vary, or there are fewer than four rows.
    """
    if len(z) < 4 or not bool(centred(z).any()):
        return np.zeros((len(z), 2))
    # They take seconds to import.
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # comes with scikit-learn

    rows = seen_from(z, z.double().mean(0)).cpu().numpy()
    place = TSNE(
        perplexity=min(PERPLEXITY, (len(z) - 1) / 3),
        init="pca" if z.shape[1] >= 2 else "random",
        random_state=0,
        max_iter=STEPS,
    )
    with threadpool_limits(1):  # several threads add up in the order in which they come
        return np.asarray(place.fit_transform(rows), np.float64)


def aligned(points: Points, to: Points) -> Points:
    """Points turned and, where it helps, mirrored so that they lie as close as they can to others, one by one.

    Orthogonal Procrustes: R = U V' of the singular value decomposition of points' to, both centred. Distances between
    points stay as they are; their centre is moved to that of `to`.

    Args:
        points: [n, 2].
        to: [n, 2].

    Raises:
        ValueError: the shapes differ.
    """
    if points.shape != to.shape:
        raise ValueError(f"both must have one shape: found {list(points.shape)} and {list(to.shape)}")
    centre = to.mean(0)
    moved = points - points.mean(0)
    u, _, v = np.linalg.svd(moved.T @ (to - centre))
    turned: Points = moved @ (u @ v) + centre
    return turned
