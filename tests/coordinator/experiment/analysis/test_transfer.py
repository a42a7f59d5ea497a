"""Features on another data set: how its images are made to fit, and that the judge's protocol is kept."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from coordinator.experiment.analysis.past import Past
from coordinator.experiment.analysis.transfer import Adapter, Transfer
from peers.common.errors import ConfigError, DataError
from peers.config.schema import DataConfig
from peers.data.batches import Data, open_data
from peers.probes.evaluator import Evaluator
from tests.coordinator.experiment.analysis.finished import config_of, disturbed, end

CPU = torch.device("cpu")
OTHER = DataConfig(name="synthetic", image_size=10, channels=1, images=120)


@pytest.fixture(scope="module")
def grey() -> Data:
    """Other images: one channel, 10 x 10."""
    return open_data(OTHER, 3, CPU)


def gaussian(*shape: int) -> Tensor:
    """Standard normal values, reproducible."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def test_images_that_fit_stay_as_they_are(grey: Data) -> None:
    """Same size and channels: nothing is computed."""
    images = gaussian(4, 1, 10, 10)
    assert torch.equal(Adapter(grey, (1, 10, 10))(images), images)


def test_a_grey_image_is_repeated(grey: Data) -> None:
    """For a network of colour images every channel is the grey one."""
    images = gaussian(4, 1, 10, 10)
    found = Adapter(grey, (3, 10, 10))(images)
    assert found.shape == (4, 3, 10, 10)
    assert all(torch.equal(channel, images[:, 0]) for channel in found.unbind(1))


@pytest.mark.parametrize(("channels", "shares"), [(3, (0.299, 0.587, 0.114)), (2, (0.5, 0.5))])
def test_colour_becomes_luminance(grey: Data, channels: int, shares: tuple[float, ...]) -> None:
    """That of the pixels before they were normalized, to mean 0 and the deviation of channels that move together."""
    mean, deviation = (
        tuple(0.1 * (c + 1) for c in range(channels)),
        tuple(0.3 - 0.1 * c + 0.05 for c in range(channels)),
    )
    raw = torch.rand(5, channels, 10, 10, generator=torch.Generator().manual_seed(0))
    scale = [torch.tensor(values).view(-1, 1, 1) for values in (mean, deviation)]
    data = replace(grey, shape=(channels, 10, 10), mean=mean, std=deviation)
    light = sum(share * raw[:, c] for c, share in enumerate(shares))
    centre, spread = (sum(s * v for s, v in zip(shares, values, strict=True)) for values in (mean, deviation))
    found = Adapter(data, (1, 10, 10))((raw - scale[0]) / scale[1])
    assert torch.allclose(found[:, 0], (light - centre) / spread, atol=1e-5)
    four = Adapter(data, (4, 10, 10))((raw - scale[0]) / scale[1])
    assert torch.equal(four, found.expand(-1, 4, -1, -1))


def test_sizes_change_smoothly(grey: Data) -> None:
    """Constants stay; stripes too fine for the smaller image become their mean; larger images are bilinear."""
    small = Adapter(grey, (1, 5, 5))
    stripes = (1.0 - 2 * ((torch.arange(40) + 1) // 2 % 2)).expand(1, 1, 40, 40)
    assert small(stripes).abs().max() < 0.1  # without smoothing: 1
    assert torch.allclose(small(torch.full((1, 1, 40, 40), 0.7)), torch.tensor(0.7))
    images = gaussian(2, 1, 10, 10)
    expected = F.interpolate(images, (16, 12), mode="bilinear", align_corners=False)
    assert torch.allclose(Adapter(grey, (1, 16, 12))(images), expected, atol=1e-6)


def test_transfer_is_the_judges_protocol_on_other_images(grey: Data, tmp_path: Path) -> None:
    """Means over the peers of what a judge of the other data finds, before and after; and its raw pixels."""
    config = config_of(tmp_path)
    end(config, {0: [9], 1: [4, 9]})
    found = Transfer(Past(config), OTHER).result()
    judge = Evaluator(config.probe, grey, 3, CPU)
    assert found["data"] == "synthetic"
    assert found["pixels"] == judge.pixels()
    for name, round_ in (("before", 0), ("after", 9)):
        adapted = [nn.Sequential(Adapter(grey, (3, 8, 8)), disturbed(config, peer, round_)) for peer in (0, 1)]
        scores = [judge.network(network) for network in adapted]
        expected = {probe: sum(score[probe] for score in scores) / 2 for probe in ("knn", "linear")}
        assert found[name] == pytest.approx(expected, abs=1e-9)
    assert found["before"] != found["after"]


def test_transfer_refuses_what_cannot_be_probed(tmp_path: Path) -> None:
    """No images, or fewer than there are neighbours."""
    config = config_of(tmp_path, probe={"knn_k": 150})
    end(config, {0: [9], 1: [9]})
    past = Past(config)
    with pytest.raises(ConfigError, match="found 150 and 108"):
        Transfer(past, OTHER)
    with pytest.raises(DataError, match="nowhere"):
        Transfer(past, DataConfig(name="mnist", root=str(tmp_path / "nowhere")))
