"""One network, looked at closely: what each stage and each class gains, and what its features are made of."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from coordinator.experiment.analysis.attributes import Attributes, describe
from coordinator.experiment.analysis.content import Explained
from coordinator.experiment.analysis.stages import Staged
from peers.config.schema import Config, NetworkConfig
from peers.data.batches import Data, Split
from peers.probes import features
from peers.probes.evaluator import drawn
from peers.probes.knn import knn_accuracy, knn_predict

COURSE_IMAGES = 1000
"""Most validation images that the course is measured on."""

EMBEDDED = 1000
"""Most of the judged images that are embedded."""

PROBE_IMAGES = 4000
"""Most training images that neighbours are looked for among, and most images that are judged by them."""


@dataclass(frozen=True)
class Images:
    """The images of an analysis, the same for every network; indices into the splits, ascending.

    Attributes:
        data: of the run.
        judged: `probe.split`.
        course: validation images.
        train: training images.
        test: judged images.
        embedded: places in `test`.
    """

    data: Data
    judged: Split
    course: np.ndarray
    train: np.ndarray
    test: np.ndarray
    embedded: np.ndarray

    @classmethod
    def of(cls, config: Config, data: Data) -> Images:
        """Draw them by the run's seed; training images as the run's own probes do."""
        seed, judged = config.run.seed, data.test if config.probe.split == "test" else data.validation
        most = max(min(config.probe.train_images or PROBE_IMAGES, PROBE_IMAGES), config.probe.knn_k)
        test = drawn(len(judged), PROBE_IMAGES, seed, "analysis_judged")
        return cls(
            data,
            judged,
            drawn(len(data.validation), COURSE_IMAGES, seed, "analysis_course"),
            drawn(len(data.train), most, seed, "probe_train"),
            test,
            drawn(len(test), EMBEDDED, seed, "analysis_embedded"),
        )


@dataclass(frozen=True)
class Close:
    """What a close look found.

    Attributes:
        stages: {stage: percent correct by its k-NN}.
        classes: percent correct of each class, by the output's k-NN; nan where no image of it is judged.
        groups: {attribute group: share of the output's variance that it explains}.
        detail: {attribute: the same for it alone}.
    """

    stages: dict[str, float]
    classes: list[float]
    groups: dict[str, float]
    detail: dict[str, float]


class Lens:
    """Looks at networks of one run closely; labels and attributes of its images are read once.

    Args:
        config: of the run.
        images: of the analysis.
        device: where networks live.
    """

    def __init__(self, config: Config, images: Images, device: torch.device) -> None:
        self._probe, self._images, self._device = config.probe, images, device
        self._train_y = images.data.train.labels[torch.from_numpy(images.train)].to(device)
        self._judged_y = images.judged.labels[torch.from_numpy(images.test)].to(device)
        self._fitted = attributes_of(images.data, images.data.train, images.train)
        self._held_out = attributes_of(images.data, images.data.validation, images.course)

    def outputs(self, network: nn.Module) -> Tensor:
        """[n, D] of the validation images."""
        return features.extract(network, self._images.data.validation, self._device, indices=self._images.course)

    def look(self, config: NetworkConfig, network: nn.Module, outputs: Tensor) -> tuple[Close, Tensor, Tensor]:
        """Look at a network; returns its outputs for the training images and for the judged ones, too.

        Args:
            config: its architecture.
            network: with the batch-norm statistics that it is to be measured with.
            outputs: its own, see `outputs`.

        Raises:
            NotFiniteError: its features are not finite.
        """
        staged, images = Staged(config, network), self._images
        train = staged.split(features.extract(staged, images.data.train, self._device, indices=images.train))
        judged = staged.split(features.extract(staged, images.judged, self._device, indices=images.test))
        explained = Explained((self._fitted.values, train[-1]), (self._held_out.values, outputs))
        found = Close(
            {name: self._accuracy(x, y) for name, x, y in zip(staged.names, train, judged, strict=True)},
            self._classes(train[-1], judged[-1]),
            {name: explained.by(columns) for name, columns in self._fitted.groups.items()},
            {name: explained.by([column]) for column, name in enumerate(self._fitted.names)},
        )
        return found, train[-1], judged[-1]

    def _accuracy(self, train: Tensor, judged: Tensor) -> float:
        """Percent correct by k-NN, as the run's own probe has it."""
        return knn_accuracy(
            train.to(self._device),
            self._train_y,
            judged,
            self._judged_y,
            k=self._probe.knn_k,
            temperature=self._probe.knn_temperature,
            classes=self._images.data.classes,
        )

    def _classes(self, train: Tensor, judged: Tensor) -> list[float]:
        """The same for each class alone; nan for a class without images."""
        voted = knn_predict(
            train.to(self._device),
            self._train_y,
            judged,
            k=self._probe.knn_k,
            temperature=self._probe.knn_temperature,
            classes=self._images.data.classes,
        )
        count = self._images.data.classes
        right = torch.bincount(self._judged_y[voted == self._judged_y], minlength=count).double()
        share: list[float] = (100 * right / torch.bincount(self._judged_y, minlength=count)).tolist()
        return share


def attributes_of(data: Data, split: Split, indices: np.ndarray) -> Attributes:
    """Attributes of some images of a split, on the CPU."""
    names: tuple[str, ...] = ()
    values = []
    for batch in split.stream(np.array_split(indices, -(-len(indices) // features.CHUNK))):
        found = describe(raw(data, batch))
        names = found.names
        values.append(found.values.cpu())
    return Attributes(names, torch.cat(values))


def raw(data: Data, images: Tensor) -> Tensor:
    """Images [n, C, H, W] in 0..1, as they were before they were normalized."""
    mean, deviation = (images.new_tensor(values).view(-1, 1, 1) for values in (data.mean, data.std))
    return images * deviation + mean
