"""The evaluator: which images it reads, and that it puts the probes together as it says."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from peers.common.errors import ConfigError, DivergedError
from peers.config.schema import DataConfig, ProbeConfig
from peers.data.batches import Data, Split, open_data
from peers.probes import evaluator as module
from peers.probes.evaluator import Evaluator
from peers.probes.features import extract, with_norm_statistics
from peers.probes.knn import knn_accuracy
from peers.probes.linear import linear_probe

CPU = torch.device("cpu")
GRID = (1e-3, 1e-1)
FAST = ProbeConfig(linear_l2=GRID, linear_steps=20)


class Sealed:
    """A split that nobody may read."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"{name} of a sealed split was read")


class Counting:
    """A split that remembers how often each image was read."""

    def __init__(self, split: Split) -> None:
        self.split, self.labels = split, split.labels
        self.reads = torch.zeros(len(split), dtype=torch.int64)

    def __len__(self) -> int:
        return len(self.split)

    def stream(self, batches: Any) -> Any:
        """As that of the split."""
        for indices in batches:
            self.reads[torch.as_tensor(indices)] += 1
            yield self.split.batch(indices)


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Small matrices on several threads spend their time waiting where the cores are shared."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def digits() -> Data:
    """Digits as a run sees them."""
    return open_data(DataConfig(), 0, CPU)


def network(norm: bool = True) -> nn.Sequential:
    """A random two-layer network of 8x8 images."""
    generator = torch.Generator().manual_seed(0)
    layers: list[nn.Module] = [nn.Flatten()]
    for width in (64, 32):
        linear = nn.Linear(width, 32, bias=not norm)
        linear.weight.data = torch.randn(32, width, generator=generator) / width**0.5
        layers += [linear, nn.BatchNorm1d(32) if norm else nn.Identity(), nn.ReLU()]
    return nn.Sequential(*layers)


def test_a_network_is_judged_by_both_probes_on_test_images(digits: Data) -> None:
    """The numbers are those of the probes on features of a re-estimated copy, the L2 chosen on validation images."""
    net = network()
    found = Evaluator(FAST, digits, 0, CPU).network(net)
    twin = with_norm_statistics(net, digits.train, FAST.norm_images, 0)
    train, validation, test = (
        (extract(twin, split, CPU), split.labels) for split in (digits.train, digits.validation, digits.test)
    )
    assert found == {
        "knn": knn_accuracy(*train, *test, k=20, temperature=0.07, classes=10),
        "linear": linear_probe(train, validation, test, classes=10, grid=GRID, steps=20).accuracy,
    }
    assert all(60 < value < 100 for value in found.values())


def test_the_network_and_its_running_statistics_do_not_matter_to_each_other(digits: Data) -> None:
    """Whatever the running statistics are, they do not move the result, and judging does not move them."""
    evaluator, net = Evaluator(FAST, digits, 0, CPU), network().train()
    expected = evaluator.network(net), evaluator.live(net)
    net[2].running_mean += 100
    net[5].running_var *= 1e-6
    before = copy.deepcopy(net.state_dict())
    assert (evaluator.network(net), evaluator.live(net)) == expected
    assert net.training
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())


def test_pixels_are_judged_as_a_network_is(digits: Data) -> None:
    """The baseline is what an identity network gets."""
    evaluator = Evaluator(FAST, digits, 0, CPU)
    assert evaluator.pixels() == evaluator.network(nn.Flatten())
    assert evaluator.pixels()["knn"] > 95


def test_the_linear_probe_can_be_switched_off(digits: Data) -> None:
    """Then it is left out, and validation images are not read."""
    data = replace(digits, validation=Counting(digits.validation))
    assert set(Evaluator(ProbeConfig(linear=False), data, 0, CPU).pixels()) == {"knn"}
    assert not data.validation.reads.any()


@pytest.mark.parametrize("judged", [Evaluator.pixels, lambda evaluator: evaluator.network(network())])
def test_recipes_chosen_on_validation_never_read_test_images(digits: Data, judged: Callable[[Evaluator], Any]) -> None:
    """With split: validation the test split stays sealed."""
    data = replace(digits, test=Sealed())
    assert set(judged(Evaluator(FAST.model_copy(update={"split": "validation"}), data, 0, CPU))) == {"knn", "linear"}


def test_judged_validation_images_do_not_choose_the_strength(digits: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    """With split: validation a tenth of the training features chooses, and only the rest is fitted."""
    calls: list[tuple[Any, ...]] = []

    def spy(*parts: tuple[Tensor, Tensor], **options: Any) -> Any:
        calls.append(parts)
        return linear_probe(*parts, **options)

    monkeypatch.setattr(module, "linear_probe", spy)
    evaluator = Evaluator(FAST.model_copy(update={"split": "validation"}), digits, 0, CPU)
    evaluator.pixels()
    (fitted, choose, judged) = calls[0]
    rows = [tuple(row) for x in (fitted[0], choose[0]) for row in x.tolist()]
    everything = digits.train.batch(range(len(digits.train))).flatten(1)
    assert sorted(rows) == sorted(tuple(row) for row in everything.tolist())
    assert len(choose[0]) == len(digits.train) // 10
    assert torch.equal(judged[1], digits.validation.labels)
    for x, y in (fitted, choose):  # rows still have their own labels
        place = torch.cdist(x[:20], everything).argmin(1)
        assert torch.equal(digits.train.labels[place], y[:20])


def test_live_reads_a_few_training_and_validation_images_only(digits: Data) -> None:
    """The same small subsets each time, never the test split."""
    data = replace(
        digits, train=Counting(digits.train), validation=Counting(digits.validation), test=Counting(digits.test)
    )
    evaluator = Evaluator(ProbeConfig(live_images=64, knn_k=5), data, 0, CPU)
    net = network(norm=False)
    first = evaluator.live(net)
    assert evaluator.live(net) == first
    assert 20 < first < 100
    for split, images in ((data.train, 64), (data.validation, 64), (data.test, 0)):
        assert sorted(split.reads.unique().tolist()) == sorted({0, 2 if images else 0})
        assert int((split.reads > 0).sum()) == images


def test_live_estimates_norm_statistics_on_few_images(digits: Data) -> None:
    """Batch norm costs at most live_images further images."""
    data = replace(digits, train=Counting(digits.train))
    Evaluator(ProbeConfig(live_images=64), data, 0, CPU).live(network())
    assert int(data.train.reads.sum()) == 2 * 64


def test_training_images_are_drawn_by_seed(digits: Data) -> None:
    """The same for every evaluator of a run, others in another run; ascending, with their own labels."""
    reads = []
    for seed in (0, 0, 1):
        data = replace(digits, train=Counting(digits.train))
        Evaluator(ProbeConfig(train_images=100, linear=False), data, seed, CPU).pixels()
        reads.append(data.train.reads)
    assert [int(count.sum()) for count in reads] == [100, 100, 100]
    assert torch.equal(reads[0], reads[1])
    assert not torch.equal(reads[0], reads[2])


def test_a_subset_keeps_its_labels(digits: Data) -> None:
    """Drawn images vote with their own labels: 600 of them classify digits well."""
    assert Evaluator(ProbeConfig(train_images=600, linear=False), digits, 0, CPU).pixels()["knn"] > 90


def test_contradictions_are_refused_at_construction(digits: Data) -> None:
    """More neighbours than images, or a negative strength: every problem is named, before anything runs."""
    config = ProbeConfig(knn_k=50, train_images=40, live_images=30, linear_l2=(0.1, -1.0))
    with pytest.raises(ConfigError) as caught:
        Evaluator(config, digits, 0, CPU)
    first, second, third = str(caught.value).splitlines()
    assert "found 50 and 40 (probe.train_images: 40, training split: " in first
    assert "found 50 and 30 (probe.live_images: 30" in second
    assert third == "probe.linear_l2 must be strengths of at least 0: found [0.1, -1.0]"
    with pytest.raises(ConfigError, match=rf"found 5000 and {len(digits.train)} \(probe.train_images: all"):
        Evaluator(ProbeConfig(knn_k=5000), digits, 0, CPU)


def test_a_diverged_network_is_named_as_such(digits: Data) -> None:
    """Features that are not finite end in an error for the user that counts them."""
    net = network()
    net[4].weight.data[3] = math.nan
    evaluator = Evaluator(FAST, digits, 0, CPU)
    n = len(digits.test)
    with pytest.raises(DivergedError, match=f"cannot be judged: {n} of {n * 32} test feature .* in {n} of {n} rows"):
        evaluator.network(net)
    with pytest.raises(DivergedError, match="cannot be judged"):
        evaluator.live(net)
