"""The weighted k-nearest-neighbour probe on frozen features.

Wu et al. 2018 (arXiv 1805.01978) in the form that DINO (arXiv 2104.14294) made the custom: cosine similarity, the k
nearest training images vote for their class with the weight exp(similarity / temperature). Features are first centred
with the training mean: outputs behind a ReLU share a large positive component, and without it the angles say more.
"""

from __future__ import annotations

import torch
from torch import Tensor

from peers.probes.features import check_labelled

CHUNK = 256
"""Rows whose similarities to all training rows are held at once: 51 MB for 50,000 training rows."""


def knn_accuracy(
    train_x: Tensor,
    train_y: Tensor,
    test_x: Tensor,
    test_y: Tensor,
    *,
    k: int,
    temperature: float,
    classes: int,
    chunk: int = CHUNK,
) -> float:
    """Share of test rows whose class the neighbours vote for.

    Args:
        train_x: [n, D] floating point; the probe runs on its device, in its dtype.
        train_y: [n] int64, any device.
        test_x: [m, D], any device.
        test_y: [m] int64, any device.
        k: neighbours that vote.
        temperature: a neighbour's weight is exp(similarity / temperature).
        classes: labels lie in 0 .. classes - 1.
        chunk: test rows at a time. Beyond its inputs the probe holds one copy of `train_x` and a few [chunk, n].

    Returns:
        percent, 0 to 100.

    Raises:
        ValueError: k is over n, or features or labels cannot be used.
    """
    check_labelled("test", test_x, test_y, classes)
    voted = knn_predict(train_x, train_y, test_x, k=k, temperature=temperature, classes=classes, chunk=chunk)
    return 100 * int((voted == test_y.to(voted.device)).sum()) / len(test_y)


@torch.no_grad()
def knn_predict(
    train_x: Tensor,
    train_y: Tensor,
    test_x: Tensor,
    *,
    k: int,
    temperature: float,
    classes: int,
    chunk: int = CHUNK,
) -> Tensor:
    """The class that each test row's neighbours vote for; arguments as for `knn_accuracy`.

    Ties are settled: among equally similar training rows the first ones vote, among equal votes the lowest class wins.
    A row without direction (zero once centred) is similar to none: 0 to all.

    Returns:
        [m] int64, on the device of `train_x`.

    Raises:
        ValueError: k is over n, or features or labels cannot be used.
    """
    check_labelled("training", train_x, train_y, classes)
    if not 1 <= k <= len(train_x):
        raise ValueError(f"k must lie in 1 .. {len(train_x)}, the number of training rows: found {k}")
    mean = train_x.mean(0)
    train_x, train_y = _directions(train_x, mean), train_y.to(train_x.device)
    voted = []
    for rows in torch.split(test_x, chunk):
        similarity = _directions(rows.to(train_x), mean) @ train_x.T
        nearest = _nearest(similarity, k)
        # Added from the closest on: a fixed order on any device, in which equal votes are equal to the last bit.
        close, order = similarity.gather(1, nearest).sort(dim=1, descending=True, stable=True)
        labels = train_y[nearest.gather(1, order)]
        # Relative to the closest: one factor for the whole row, and no overflow at a low temperature.
        weight = ((close - close[:, :1]) / temperature).exp()
        votes = weight.new_zeros(len(rows), classes)
        for label, share in zip(labels.T, weight.T, strict=True):
            votes.scatter_add_(1, label.unsqueeze(1), share.unsqueeze(1))
        voted.append(votes.argmax(1))
    return torch.cat(voted)


def _directions(x: Tensor, mean: Tensor) -> Tensor:
    """Rows [n, D] seen from the mean, with length 1; zero rows stay zero."""
    x = x - mean
    tiny = torch.finfo(x.dtype).tiny
    # The largest value first: squares of very large or very small ones would leave the range.
    for order in (torch.inf, 2):
        x.div_(torch.linalg.vector_norm(x, order, dim=1, keepdim=True).clamp_min_(tiny))
    return x


def _nearest(similarity: Tensor, k: int) -> Tensor:
    """Columns of the k largest values in each row, [m, k], ascending; among equal values the first columns.

    `topk` leaves open which of several equal values it takes; features of a collapsed network are full of them.
    """
    if k == similarity.shape[1]:
        return torch.arange(k, device=similarity.device).expand(len(similarity), k)
    values, columns = similarity.topk(k + 1)
    nearest = columns[:, :k].sort(1).values
    tied = values[:, k - 1] == values[:, k]
    if bool(tied.any()):
        rows, last = similarity[tied], values[tied, k - 1 : k]
        above, equal = rows > last, rows == last
        room = k - above.sum(1, keepdim=True)
        taken = above | (equal & (equal.cumsum(1, dtype=torch.int32) <= room))
        nearest[tied] = taken.nonzero()[:, 1].view(-1, k)
    return nearest
