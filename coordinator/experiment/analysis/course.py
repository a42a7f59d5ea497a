"""How a group's features change while it learns: measures of all its outputs, round by round."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from coordinator.experiment.analysis.geometry import alignment, linear_cka, spectrum, uniformity
from peers.method.losses import leave_one_out
from peers.probes.collapse import disagreement, effective_rank


@dataclass(frozen=True)
class Moment:
    """A group at one round; each value is a mean over its peers, or over their pairs.

    Attributes:
        values: by name: effective_rank, disagreement, cka_peers, cka_initial, alignment, uniformity; nan where it is
            not defined, such as what takes two peers.
        spectrum: singular values of the centred features over the largest.
    """

    values: Mapping[str, float]
    spectrum: Sequence[float]


def measure(outputs: Sequence[Tensor], initial: Sequence[Tensor]) -> Moment:
    """Measure a group.

    Args:
        outputs: of each peer, [n, D] for the same n images.
        initial: outputs of the same peers for the same images at initialization.
    """
    pairs = list(itertools.combinations(outputs, 2))
    values = {
        "effective_rank": mean(effective_rank(z) for z in outputs),
        "disagreement": mean(_disagreements(outputs)),
        "cka_peers": mean(linear_cka(x, y) for x, y in pairs),
        "cka_initial": mean(linear_cka(x, y) for x, y in zip(outputs, initial, strict=True)),
        "alignment": mean(alignment(x, y) for x, y in pairs),
        "uniformity": mean(uniformity(z) for z in outputs),
    }
    return Moment(values, means(spectrum(z) for z in outputs))


def mean(values: Iterable[float]) -> float:
    """The mean; nan of nothing."""
    found = list(values)
    return math.fsum(found) / len(found) if found else math.nan


def means(rows: Iterable[Sequence[float]]) -> list[float]:
    """The mean of rows of equal length, column by column."""
    averaged: list[float] = np.mean(list(rows), axis=0).tolist()
    return averaged


def _disagreements(outputs: Sequence[Tensor]) -> list[float]:
    """Of each peer, 1 - cos to the mean of the others."""
    if len(outputs) < 2:
        return []
    total = torch.stack([z.float() for z in outputs]).sum(0)
    return [disagreement(z, leave_one_out(total, z.float(), len(outputs))) for z in outputs]
