"""Do features that were learned on one data set serve on another?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from coordinator.experiment.analysis.attributes import LUMA
from coordinator.experiment.analysis.course import mean
from coordinator.experiment.analysis.past import Past
from peers.config.schema import DataConfig
from peers.data.batches import Data, open_data
from peers.probes.evaluator import Evaluator


class Adapter(nn.Module):
    """Makes images of one data set fit networks of another: resized, with the channels that they expect.

    Sizes change by bilinear interpolation, smoothed where it reduces; proportions are not kept. A single channel is
    repeated; several become their luminance, which is repeated. Images stay as they were normalized, with the
    statistics of their own set; luminance is divided by the deviation that it has where the channels move together,
    sum of share * std.

    Args:
        data: images of the other set.
        shape: (C, H, W) that the network takes.
    """

    shares: Tensor

    def __init__(self, data: Data, shape: tuple[int, int, int]) -> None:
        super().__init__()
        self._channels, self._size = shape[0], list(shape[1:])
        count = data.shape[0]
        luma = torch.tensor(LUMA if count == 3 else [1 / count] * count)
        shares = luma * torch.tensor(data.std)
        self.register_buffer("shares", shares / shares.sum())

    def forward(self, images: Tensor) -> Tensor:
        """[B, C, H, W] for the network of normalized images [B, C', H', W']."""
        if list(images.shape[2:]) != self._size:
            images = F.interpolate(images, self._size, mode="bilinear", align_corners=False, antialias=True)
        if images.shape[1] == self._channels:
            return images
        if images.shape[1] > 1:
            images = torch.einsum("bchw,c->bhw", images, self.shares).unsqueeze(1)
        return images.expand(-1, self._channels, -1, -1)


class Transfer:
    """The probes of a run on another data set: the same protocol, batch norm re-estimated on its training images.

    Args:
        past: the run.
        other: the other data set.

    Raises:
        ConfigError: the run's probes do not fit the other set.
        DataError: its images are not there.
    """

    def __init__(self, past: Past, other: DataConfig) -> None:
        self._past, self._other = past, other
        seed = past.config.run.seed
        data = open_data(other, seed, past.device)
        self._judge = Evaluator(past.config.probe, data, seed, past.device)
        self._adapter = Adapter(data, past.grounds.data.shape).to(past.device)

    def result(self) -> dict[str, str | Mapping[str, float]]:
        """What each probe finds before and after training, percent, mean over the peers; and on the raw pixels.

        Raises:
            DivergedError: features are not finite.
        """
        before, after = (
            _mean([self._judge.network(self._adapted(peer, round_)) for peer in self._past.peers])
            for round_ in (self._past.rounds[0], self._past.rounds[-1])
        )
        return {"data": self._other.name, "before": before, "after": after, "pixels": self._judge.pixels()}

    def _adapted(self, peer: int, round_: int) -> nn.Module:
        return nn.Sequential(self._adapter, self._past.weights(peer, round_))


def _mean(scores: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {probe: mean(score[probe] for score in scores) for probe in scores[0]}
