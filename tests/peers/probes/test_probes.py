"""Features and probes, with scikit-learn as the reference."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from threadpoolctl import threadpool_limits
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from peers.probes.features import NotFiniteError, extract, pixels, with_norm_statistics
from peers.probes.knn import knn_accuracy, knn_predict
from peers.probes.linear import Labelled, Rows, fit, linear_probe

CPU = torch.device("cpu")
GRID = (1e-4, 1e-3, 1e-2, 1e-1)


class Images:
    """A split in memory, as `peers.data.batches.Split`; remembers which indices it was asked for."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.images, self.labels = images, labels
        self.asked: list[np.ndarray] = []

    def __len__(self) -> int:
        return len(self.images)

    def stream(self, batches: Iterator[np.ndarray]) -> Iterator[Tensor]:
        """Batches of images."""
        for indices in batches:
            self.asked.append(np.asarray(indices))
            yield self.images[torch.from_numpy(np.asarray(indices))]


@dataclass
class FakeData:
    """As `peers.data.batches.Data`."""

    train: Any
    validation: Any
    test: Any
    classes: int = 10


@dataclass
class Largest(TorchFunctionMode):
    """Size in values of the largest tensor that any operation returned."""

    values: int = 0

    def __post_init__(self) -> None:
        super().__init__()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for part in result if isinstance(result, tuple) else (result,):
            # Views and in-place results own no memory of their own.
            if isinstance(part, Tensor) and part._base is None and not any(part is given for given in args):
                self.values = max(self.values, part.numel())
        return result


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Small matrices on several threads spend their time waiting where the cores are shared."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with threadpool_limits(1):
        yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def digits() -> FakeData:
    """1,212 / 135 / 450 digits, pixels about as `peers.data.batches` normalizes them."""
    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(images))
    x = torch.from_numpy((images[order] - images.mean()) / images.std()).float().view(-1, 1, 8, 8)
    y = torch.from_numpy(labels[order])
    ends = ((0, 1212), (1212, 1347), (1347, 1797))
    return FakeData(*(Images(x[start:end], y[start:end]) for start, end in ends))


def labelled(split: Images) -> Labelled:
    """Pixels and labels of a split."""
    return split.images.flatten(1), split.labels


def gaussian(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    """Standard normal values, reproducible."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def network(norm: bool = True) -> nn.Sequential:
    """A random three-layer network of 8x8 images."""
    layers: list[nn.Module] = [nn.Flatten()]
    for seed, width in enumerate((64, 32, 32)):
        linear = nn.Linear(width, 32, bias=False)
        linear.weight.data = gaussian(32, width, seed=seed) / width**0.5
        layers += [linear, nn.BatchNorm1d(32) if norm else nn.Identity(), nn.ReLU()]
    return nn.Sequential(*layers)


# Features


def test_features_are_those_of_the_network_in_evaluation_mode(digits: FakeData) -> None:
    """Chunked extraction equals one forward pass, in the order of the indices, as plain float32 on the CPU."""
    net, split = network(), Images(*(part[:100] for part in (digits.train.images, digits.train.labels)))
    indices = np.random.default_rng(1).permutation(100)[:37]
    with torch.no_grad():
        expected = copy.deepcopy(net).eval()(split.images)
    found = extract(net, split, CPU, chunk=16)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(extract(net, split, CPU, indices=indices, chunk=10), expected[indices])
    assert torch.equal(pixels(split, indices=indices, chunk=10), split.images.flatten(1)[indices])
    assert (found.dtype, found.is_inference(), found.requires_grad) == (torch.float32, False, False)


def test_extraction_never_asks_for_more_images_than_a_chunk(digits: FakeData) -> None:
    """Images pass in chunks, so that the split's images are never held all at once."""
    split = Images(digits.train.images, digits.train.labels)
    extract(network(), split, CPU, chunk=100)
    pixels(split, chunk=100)
    with_norm_statistics(network(), split, 1000, 0, chunk=100)
    assert max(len(indices) for indices in split.asked) == 100
    assert len(split.asked) == 13 + 13 + 10


def test_extraction_leaves_the_network_as_it_was(digits: FakeData) -> None:
    """Weights, buffers and the mode of every module stay, also when the forward pass fails."""
    net = network().train()
    net[2].eval()
    before, modes = copy.deepcopy(net.state_dict()), [module.training for module in net.modules()]
    extract(net, digits.validation, CPU)
    with pytest.raises(RuntimeError, match="shapes"):
        extract(net, Images(torch.ones(4, 1, 3, 3), torch.zeros(4)), CPU)
    assert [module.training for module in net.modules()] == modes
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())


def test_no_images_have_no_features(digits: FakeData) -> None:
    """An empty selection is refused instead of giving an empty matrix."""
    with pytest.raises(ValueError, match="of no images"):
        extract(network(), digits.train, CPU, indices=np.array([], dtype=np.int64))


def test_norm_statistics_are_the_mean_and_variance_of_the_activations(digits: FakeData) -> None:
    """After one chunk each layer of the copy holds the mean and unbiased variance of what it saw; the network stays."""
    net = network().train()
    before = copy.deepcopy(net.state_dict())
    twin = with_norm_statistics(net, digits.train, 5000, seed=3, chunk=5000)
    x = digits.train.images
    for layer, other in zip(net, twin, strict=True):
        if isinstance(other, nn.BatchNorm1d):
            torch.testing.assert_close(other.running_mean, x.mean(0))
            torch.testing.assert_close(other.running_var, x.var(0))
        x = copy.deepcopy(layer)(x).detach()
    assert net.training
    assert not any(module.training for module in twin.modules())
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())


def test_norm_statistics_are_averaged_over_equal_chunks_of_drawn_images(digits: FakeData) -> None:
    """Several chunks give the plain mean of their statistics; the draw follows the seed and has no doubles."""
    split, net = Images(digits.train.images, digits.train.labels), network()
    twin = with_norm_statistics(net, split, 250, seed=3, chunk=100)
    chunks, (first, second) = list(split.asked), [twin, with_norm_statistics(net, split, 250, seed=3, chunk=100)]
    assert [len(chunk) for chunk in chunks] == [84, 83, 83]
    assert len(np.unique(np.concatenate(chunks))) == 250
    seen = [net[:2](split.images[chunk]) for chunk in chunks]
    torch.testing.assert_close(first[2].running_mean, torch.stack([x.mean(0) for x in seen]).mean(0).detach())
    torch.testing.assert_close(first[2].running_var, torch.stack([x.var(0) for x in seen]).mean(0).detach())
    assert all(torch.equal(one, two) for one, two in zip(first.buffers(), second.buffers(), strict=True))
    assert not torch.equal(first[2].running_mean, with_norm_statistics(net, split, 250, seed=4)[2].running_mean)


def test_norm_statistics_do_not_depend_on_the_order_of_a_split() -> None:
    """Images that lie in the order of their classes are mixed: the variance is that of all, not that within a class."""
    levels = torch.arange(10.0).repeat_interleave(100).view(-1, 1)
    twin = with_norm_statistics(nn.Sequential(nn.BatchNorm1d(1)), Images(levels, levels), 1000, seed=0, chunk=100)
    assert float(twin[0].running_var) == pytest.approx(float(levels.var()), rel=0.05)


def test_a_network_without_batch_norm_is_just_copied(digits: FakeData) -> None:
    """Nothing is estimated, and the copy is in evaluation mode."""
    net, split = network(norm=False), Images(digits.train.images, digits.train.labels)
    twin = with_norm_statistics(net, split, 100, seed=0)
    assert twin is not net
    assert not twin.training
    assert torch.equal(extract(twin, split, CPU), extract(net, split, CPU))


# k-NN


def sklearn_votes(train: Labelled, test_x: Tensor, k: int, temperature: float) -> np.ndarray:
    """The same probe of scikit-learn, in float64."""
    x, mean = train[0].double().numpy(), train[0].double().numpy().mean(0)

    def weights(distance: np.ndarray) -> np.ndarray:
        return np.exp((1 - distance) / temperature)

    model = KNeighborsClassifier(k, weights=weights, algorithm="brute", metric="cosine")
    return model.fit(x - mean, train[1].numpy()).predict(test_x.double().numpy() - mean)


@pytest.mark.parametrize("k", [1, 5, 20, 1212])
def test_knn_is_scikit_learns_on_digits(digits: FakeData, k: int) -> None:
    """Every vote, and so the accuracy, is that of KNeighborsClassifier on centred features."""
    train, (x, y) = labelled(digits.train), labelled(digits.test)
    expected = sklearn_votes(train, x, k, 0.07)
    assert np.array_equal(knn_predict(*train, x, k=k, temperature=0.07, classes=10).numpy(), expected)
    accuracy = knn_accuracy(*train, x, y, k=k, temperature=0.07, classes=10, chunk=64)
    assert accuracy == pytest.approx(100 * (expected == y.numpy()).mean(), abs=1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_knn_is_scikit_learns_on_random_features(seed: int) -> None:
    """Features without any structure, far from the origin, with labels of some classes only."""
    train = gaussian(300, 12, seed=seed, dtype=torch.float64) + 5, torch.arange(300) % 7
    x = gaussian(200, 12, seed=100 + seed, dtype=torch.float64) + 5
    found = knn_predict(*train, x, k=9, temperature=0.2, classes=30)
    assert np.array_equal(found.numpy(), sklearn_votes(train, x, 9, 0.2))


@settings(max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 3)), min_size=2, max_size=12), st.data())
def test_knn_settles_ties_by_order(rows: list[tuple[int, int]], data: st.DataObject) -> None:
    """Of equally similar rows the first ones vote, of equal votes the lowest class wins, whatever the chunk."""
    axes = torch.tensor([[0.0, 0], [1, 0], [0, 1]])
    half = axes[[axis for axis, _ in rows]]
    train_x, train_y = torch.cat([half, -half]), torch.tensor([label for _, label in rows] * 2)  # their mean is zero
    k = data.draw(st.integers(1, len(train_x)))
    expected = []
    for row in axes:
        order = sorted(range(len(train_x)), key=lambda i: (-float(row @ train_x[i]), i))[:k]
        votes = [sum(math.exp(float(row @ train_x[i])) for i in order if train_y[i] == c) for c in range(4)]
        expected.append(max(range(4), key=lambda c: (votes[c], -c)))
    for chunk in (1, 3):
        found = knn_predict(train_x.double(), train_y, axes.double(), k=k, temperature=1.0, classes=4, chunk=chunk)
        assert found.tolist() == expected


def test_knn_is_safe_at_the_edges(digits: FakeData) -> None:
    """A low temperature is 1-NN, and the scale of the features is nothing, at any magnitude."""
    train, test = labelled(digits.train), labelled(digits.test)
    nearest = knn_accuracy(*train, *test, k=1, temperature=1.0, classes=10)
    assert knn_accuracy(*train, *test, k=20, temperature=1e-6, classes=10) == nearest
    for scale in (1e-30, 1e30):
        x, y = (part[0] * scale for part in (train, test))
        assert knn_accuracy(x, train[1], y, test[1], k=1, temperature=1.0, classes=10) == pytest.approx(
            nearest, abs=0.5
        )


def test_knn_memory_is_bounded_by_the_chunk() -> None:
    """50,000 training rows: nothing beyond a copy of them and [chunk, n] similarities, and the same accuracy."""
    train = gaussian(50_000, 64), torch.arange(50_000) % 10
    test = gaussian(300, 64, seed=1), torch.arange(300) % 10
    with Largest() as seen:
        chunked = knn_accuracy(*train, *test, k=20, temperature=0.07, classes=10, chunk=75)
    assert seen.values == 75 * 50_000
    assert chunked == knn_accuracy(*train, *test, k=20, temperature=0.07, classes=10, chunk=300)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"k": 6}, r"k must lie in 1 .. 5, the number of training rows: found 6"),
        ({"k": 0}, r"k must lie in 1 .. 5"),
        (
            {"train_x": torch.tensor([[1.0, math.nan], *[[0, 1]] * 3, [math.inf] * 2])},
            "3 of 10 training .* in 2 of 5 rows",
        ),
        ({"test_x": torch.full((2, 2), math.inf)}, "4 of 4 test feature values are not finite"),
        ({"test_y": torch.tensor([0, 3])}, r"test labels must lie in 0 .. 2: found 0 .. 3"),
        ({"train_y": torch.zeros(4, dtype=torch.int64)}, r"found \[5, 2\] and \[4\]"),
        ({"train_x": torch.ones(0, 2), "train_y": torch.zeros(0)}, r"found \[0, 2\] and \[0\]"),
    ],
)
def test_knn_refuses_what_it_cannot_use(change: dict[str, Any], text: str) -> None:
    """The error names the part, what was expected and what was found."""
    arguments = {"train_x": gaussian(5, 2), "train_y": torch.zeros(5, dtype=torch.int64), "k": 2}
    arguments |= {"test_x": gaussian(2, 2), "test_y": torch.zeros(2, dtype=torch.int64)}
    with pytest.raises(ValueError, match=text):
        knn_accuracy(**(arguments | change), temperature=1.0, classes=3)


# Linear


@pytest.mark.parametrize("l2", GRID)
def test_linear_fit_is_scikit_learns_on_digits(digits: FakeData, l2: float) -> None:
    """Objective within 1e-3 and accuracy within 0.3 points of LogisticRegression(C = 1 / (n l2))."""
    (x, y), (test_x, test_y) = labelled(digits.train), labelled(digits.test)
    rows = Rows(x, y, 10)
    found = fit(rows, l2=l2, steps=300)
    x, test_x = rows.standard.apply(x), rows.standard.apply(test_x)
    model = LogisticRegression(C=1 / (len(x) * l2), max_iter=2000, tol=1e-6).fit(x.double().numpy(), y.numpy())

    def objective(weight: Tensor, bias: Tensor) -> float:
        loss = nn.functional.cross_entropy(x.double() @ weight.double().T + bias.double(), y)
        return float(loss + l2 / 2 * weight.double().square().sum())

    reference = objective(torch.from_numpy(model.coef_), torch.from_numpy(model.intercept_))
    assert objective(found.weight, found.bias) == pytest.approx(reference, rel=1e-3)
    assert found.objective == pytest.approx(objective(found.weight, found.bias), rel=1e-5)
    accuracy = float(((test_x @ found.weight.T + found.bias).argmax(1) == test_y).double().mean())
    assert accuracy == pytest.approx(model.score(test_x.numpy(), test_y.numpy()), abs=0.003)


def test_linear_probe_takes_the_strength_that_validation_prefers(digits: FakeData) -> None:
    """Of strengths fitted one by one, the best on the choosing rows is judged, of equals the stronger."""
    train, choose, judged = (labelled(split) for split in (digits.train, digits.validation, digits.test))
    train = train[0][:200], train[1][:200]
    grid = (1e-4, 10.0, 1e-2)
    best: tuple[float, float, float] | None = None
    for l2 in sorted(grid):
        one = linear_probe(train, choose, choose, classes=10, grid=(l2,), steps=500)
        judge = linear_probe(train, choose, judged, classes=10, grid=(l2,), steps=500)
        best = max(best or (0, 0, 0), (one.accuracy, l2, judge.accuracy))
    found = linear_probe(train, choose, judged, classes=10, grid=grid, steps=500)
    assert best is not None
    assert (found.l2, found.accuracy) == (best[1], pytest.approx(best[2], abs=0.5))
    separable = torch.tensor([[-1.0], [1.0]]), torch.tensor([0, 1])
    assert linear_probe(separable, separable, separable, classes=2, grid=(0.01, 0.1), steps=50).l2 == 0.1


def test_linear_probe_in_blocks_equals_that_in_one_piece() -> None:
    """50,000 rows beyond the budget are standardized block by block: same fit, bounded tensors."""
    x, y = gaussian(50_000, 64) * 3 + 1, torch.arange(50_000) % 10
    x[:, :10] += nn.functional.one_hot(y, 10)
    whole = fit(Rows(x, y, 10), l2=1e-3, steps=5)
    with Largest() as seen:
        blocks = fit(Rows(x, y, 10, budget=2**18), l2=1e-3, steps=5)
    assert seen.values <= 2**18 // 32
    assert Rows(x[:, :4], y, 1000, budget=2**18).block * 1000 <= 2**18 // 32  # logits are bounded too
    torch.testing.assert_close(blocks.weight, whole.weight, rtol=1e-3, atol=1e-5)


def test_linear_probe_is_deterministic_and_draws_nothing(digits: FakeData) -> None:
    """The same in every run, whatever the global generator's state, which stays as it is."""
    parts = [labelled(split) for split in (digits.train, digits.validation, digits.test)]
    found = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        state = torch.get_rng_state()
        found.append(linear_probe(*parts, classes=10, grid=GRID, steps=20))
        assert torch.equal(torch.get_rng_state(), state)
    assert found[0] == found[1]
    assert (found[0].iterations, found[0].converged) == (20, False)
    assert linear_probe(*parts, classes=10, grid=(0.1,), steps=200).converged


def test_linear_probe_without_some_classes_or_variation(digits: FakeData) -> None:
    """Classes that training lacks are allowed; constant dimensions count for nothing, here or in the judged rows."""
    x, y = labelled(digits.train)
    few = x[y < 4], y[y < 4]
    plain = linear_probe(few, few, labelled(digits.test), classes=10, grid=(0.1,), steps=100)
    assert 30 < plain.accuracy < 45
    constant = torch.full((len(few[0]), 2), 7.3)
    constant[::2, 1] = torch.nextafter(constant[0, 0], torch.tensor(8.0))  # one ulp: rounding, not variation
    train = torch.cat([few[0], constant], 1), few[1]
    rows = Rows(*train, 10)
    assert rows.standard.scale[-2:].tolist() == [0, 0]
    test_x, test_y = labelled(digits.test)
    judged = torch.cat([test_x, gaussian(len(test_x), 2) * 1e6], 1), test_y
    assert linear_probe(train, train, judged, classes=10, grid=(0.1,), steps=100).accuracy == plain.accuracy


def test_linear_probe_refuses_what_it_cannot_use(digits: FakeData) -> None:
    """Values that are not finite are counted, impossible strengths named."""
    good = labelled(digits.validation)
    bad = good[0].clone(), good[1]
    bad[0][3, 4:6] = math.nan
    for parts, what in (
        ((bad, good, good), "training"),
        ((good, bad, good), "validation"),
        ((good, good, bad), "test"),
    ):
        with pytest.raises(NotFiniteError, match=f"2 of 8640 {what} feature values are not finite, in 1 of 135 rows"):
            linear_probe(*parts, classes=10, grid=GRID, steps=5)
    for grid in ((), (0.1, -1.0)):
        with pytest.raises(ValueError, match="L2 strengths must be at least 0"):
            linear_probe(good, good, good, classes=10, grid=grid, steps=5)
