"""Evaluator: the same probes on the same images for every network of a run.

What is drawn (training images, the images that re-estimate batch norm, the live subsets) follows from the run's seed
alone, so that every peer, before and after training, in every process, is evaluated alike. Labels enter here and
nowhere else. An evaluator changes nothing after its construction: threads may share one.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from peers.common.errors import ConfigError, DivergedError
from peers.common.seeds import numpy_generator
from peers.probes import features
from peers.probes.features import NotFiniteError
from peers.probes.knn import knn_accuracy
from peers.probes.linear import Labelled, linear_probe

if TYPE_CHECKING:
    from peers.config.schema import ProbeConfig
    from peers.data.batches import Data, Split

_log = logging.getLogger(__name__)

Extract = Callable[["Split", np.ndarray | None], Tensor]
"""Features [n, D] of some images of a split (None: all)."""


class Evaluator:
    """Probes of one run.

    Args:
        config: how features are evaluated.
        data: the images; the test split is read only if `config.split` says so.
        seed: the run's seed.
        device: where networks live, and where the probes run.

    Raises:
        ConfigError: the configuration and the number of images contradict each other; lists every problem.
    """

    def __init__(self, config: ProbeConfig, data: Data, seed: int, device: torch.device) -> None:
        _check(config, data)
        self._config, self._data, self._seed, self._device = config, data, seed, device
        self._train = drawn(len(data.train), config.train_images, seed, "probe_train")
        self._live_train = drawn(len(data.train), config.live_images, seed, "probe_live_train")
        self._live_validation = drawn(len(data.validation), config.live_images, seed, "probe_live_validation")
        self._evaluated = data.test if config.split == "test" else data.validation
        self._train_y = self._labels(data.train, self._train)
        self._evaluated_y = self._labels(self._evaluated, None)
        self._validation_y = self._labels(data.validation, None)
        self._live_train_y = self._labels(data.train, self._live_train)
        self._live_validation_y = self._labels(data.validation, self._live_validation)
        order = torch.from_numpy(numpy_generator(seed, "probe_choose").permutation(len(self._train)))
        self._held_out, self._fitted = order.tensor_split([max(1, len(order) // 10)])

    def network(self, network: nn.Module) -> dict[str, float]:
        """Evaluate a network's features, with batch-norm statistics estimated anew on a copy.

        Returns:
            percent correct on `config.split`: {"knn": ..., "linear": ...}; without "linear" if it is switched off.

        Raises:
            DivergedError: the features are not finite.
        """
        with _reported():
            return self._probes(self._extractor(network, self._config.norm_images))

    def pixels(self) -> dict[str, float]:
        """Raw-pixel baseline: the same probes on the normalized pixels, without any network."""
        return self._probes(lambda split, indices: features.pixels(split, indices=indices).to(self._device))

    def live(self, network: nn.Module) -> float:
        """k-NN on small subsets of the training and validation images, never test images: for use while it trains.

        Batch-norm statistics are estimated anew here too, on at most `config.live_images` images.

        Returns:
            percent correct.

        Raises:
            DivergedError: the features are not finite.
        """
        extract = self._extractor(network, min(self._config.norm_images, self._config.live_images))
        with _reported():
            return self._knn(
                (extract(self._data.train, self._live_train), self._live_train_y),
                (extract(self._data.validation, self._live_validation), self._live_validation_y),
            )

    def _probes(self, extract: Extract) -> dict[str, float]:
        train = extract(self._data.train, self._train), self._train_y
        evaluated = extract(self._evaluated, None), self._evaluated_y
        scores = {"knn": self._knn(train, evaluated)}
        if not self._config.linear:
            return scores
        if self._config.split == "test":
            choose = extract(self._data.validation, None), self._validation_y
        else:
            # The evaluated images must not choose: a tenth of the training images does, and is not fitted.
            (x, y), held_out, fitted = train, self._held_out, self._fitted
            choose, train = (x[held_out], y[held_out]), (x[fitted], y[fitted])
        return scores | {"linear": self._linear(train, choose, evaluated)}

    def _knn(self, train: Labelled, evaluated: Labelled) -> float:
        return knn_accuracy(
            *train,
            *evaluated,
            k=self._config.knn_k,
            temperature=self._config.knn_temperature,
            classes=self._data.classes,
        )

    def _linear(self, train: Labelled, choose: Labelled, evaluated: Labelled) -> float:
        probe = linear_probe(
            train,
            choose,
            evaluated,
            classes=self._data.classes,
            grid=self._config.linear_l2,
            steps=self._config.linear_steps,
        )
        _log.debug("linear probe: %s", probe)
        return probe.accuracy

    def _extractor(self, network: nn.Module, norm_images: int) -> Extract:
        twin = features.with_norm_statistics(network, self._data.train, norm_images, self._seed)
        return lambda split, indices: features.extract(twin, split, self._device, indices=indices).to(self._device)

    def _labels(self, split: Split, indices: np.ndarray | None) -> Tensor:
        labels = split.labels if indices is None else split.labels[torch.from_numpy(indices)]
        return labels.to(self._device)


def _check(config: ProbeConfig, data: Data) -> None:
    problems = []
    for name, most in (("probe.train_images", config.train_images), ("probe.live_images", config.live_images)):
        images = len(data.train) if most is None else min(most, len(data.train))
        if config.knn_k > images:
            problems.append(
                f"probe.knn_k must not exceed the training images that are compared with: found {config.knn_k} and "
                f"{images} ({name}: {most or 'all'}, training split: {len(data.train)}); lower probe.knn_k or use more "
                f"images"
            )
    if min(config.linear_l2) < 0:
        problems.append(f"probe.linear_l2 must be strengths of at least 0: found {list(config.linear_l2)}")
    if problems:
        raise ConfigError("\n".join(problems))


def drawn(images: int, most: int | None, seed: int, purpose: str) -> np.ndarray:
    """Indices of at most so many of a number of images, drawn by seed, ascending: reading in order is what disks like.

    Args:
        images: how many there are.
        most: how many are wanted; None: all.
        seed: the run's seed.
        purpose: what they are drawn for; other purposes get other images.
    """
    if most is None or most >= images:
        return np.arange(images)
    return np.sort(numpy_generator(seed, purpose).permutation(images)[:most])


@contextmanager
def _reported() -> Iterator[None]:
    try:
        yield
    except NotFiniteError as exc:
        raise DivergedError(f"the network cannot be judged: {exc}; try a lower optimizer.learning_rate") from exc
