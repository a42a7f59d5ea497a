"""Attributes of images whose properties are known, and how much of features they explain."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import Ridge
from sklearn.metrics import r2_score
from torch import Tensor

from coordinator.experiment.analysis.attributes import ORIENTATIONS, describe, edges, luminance
from coordinator.experiment.analysis.content import RIDGE, Explained

EDGE_NAMES = [f"edges {o}° {band}" for band in ("low", "middle", "high") for o in ORIENTATIONS]


def gaussian(*shape: int, seed: int = 0) -> Tensor:
    """Standard normal values, reproducible."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def grating(side: int, orientation: float, cycles: float, phase: float = 0.0) -> Tensor:
    """[1, side, side]: stripes that run in a direction, 45 rising to the right, of so many cycles per pixel."""
    down, right = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    angle = math.radians(orientation)
    across = right * math.sin(angle) + down * math.cos(angle)
    return (0.5 + 0.4 * torch.cos(2 * math.pi * cycles * across + phase)).unsqueeze(0)


def values(images: Tensor) -> dict[str, list[float]]:
    """Attributes by name."""
    found = describe(images)
    return {name: column.tolist() for name, column in zip(found.names, found.values.T, strict=True)}


def test_stripes_that_rise_to_the_right_rise_in_the_picture() -> None:
    """The test's own stripes: along 45 degrees, one up and one right, brightness stays."""
    image = grating(16, 45, 1 / 8)[0]
    assert torch.allclose(image[1:, :-1], image[:-1, 1:], atol=1e-6)
    assert not torch.allclose(image[1:, 1:], image[:-1, :-1], atol=0.1)
    assert torch.allclose(grating(16, 0, 1 / 8)[0, :, 0:1].expand(16, 16), grating(16, 0, 1 / 8)[0], atol=1e-6)


@pytest.mark.parametrize("phase", [0.0, 1.0, 2.5])
@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize(("band", "cycles"), [("low", 1 / 16), ("middle", 1 / 8), ("high", 1 / 4)])
def test_each_grating_has_its_filter(orientation: int, band: str, cycles: float, phase: float) -> None:
    """Stripes of one direction and frequency answer in one filter most: the others give half as much or less."""
    found = edges(grating(64, orientation, cycles, phase))
    best = found.values[0].sort(descending=True)
    assert found.names[int(best.indices[0])] == f"edges {orientation}° {band}"
    assert best.values[1] < 0.55 * best.values[0]
    # The root of the mean square of 0.4 cos is 0.4 / sqrt 2.
    assert best.values[0] == pytest.approx(0.4 / math.sqrt(2), rel=0.1)


def test_small_images_have_the_bands_that_fit() -> None:
    """8 x 8: one and two cycles per image; 4 x 4: one. The direction is still seen."""
    for side, names in ((8, ("low", "high")), (4, ("high",)), (28, ("low", "middle", "high"))):
        found = edges(gaussian(2, side, side))
        assert found.names == tuple(f"edges {o}° {name}" for name in names for o in ORIENTATIONS)
        assert bool((found.values > 0).all())
    for orientation in ORIENTATIONS:
        found = edges(grating(8, orientation, 1 / 4))
        assert found.names[int(found.values[0].argmax())] == f"edges {orientation}° high"


def test_edges_follow_contrast_not_brightness() -> None:
    """Twice the contrast is twice the value; a brighter image has the same; a flat one none."""
    images = gaussian(3, 32, 32)
    once = edges(images).values
    assert torch.allclose(edges(2 * images).values, 2 * once, rtol=1e-4)
    assert torch.allclose(edges(images + 5).values, once, rtol=1e-3)
    assert edges(torch.full((1, 32, 32), 0.7)).values.max() < 1e-6


def test_edges_are_the_energy_of_filtered_images() -> None:
    """By Parseval: the same as to filter the image, transform it back, and take the mean of its squares."""
    side = 16
    image = gaussian(1, side, side)
    window = np.hanning(side + 2)[1:-1]
    window = np.outer(window, window)
    shown = np.fft.fft2((image[0].numpy() - float(image.mean())) * window)
    down, right = np.meshgrid(np.fft.fftfreq(side), np.fft.fftfreq(side), indexing="ij")
    octaves = np.log2(np.maximum(np.hypot(down, right), 1e-9) / (1 / 8))
    radial = np.where(np.abs(octaves) < 1, np.cos(np.pi / 2 * octaves), 0)
    angle = np.arctan2(-down, right) - np.radians(45 + 90)
    filtered = np.fft.ifft2(shown * radial * np.cos(angle) ** 3)
    expected = math.sqrt((np.abs(filtered) ** 2).sum() / (window**2).sum())
    found = edges(image)
    assert float(found.values[0, found.names.index("edges 45° middle")]) == pytest.approx(expected, rel=1e-4)


def test_luminance_and_colour_of_known_images() -> None:
    """Pure colours: their luminance, red minus green, yellow minus blue; no spread, no contrast, no edges."""
    pure = torch.eye(3).view(3, 3, 1, 1).expand(-1, -1, 16, 16)
    found = values(pure)
    assert list(found)[:4] == ["luminance", "colour red - green", "colour yellow - blue", "colour spread"]
    assert found["luminance"] == pytest.approx([0.299, 0.587, 0.114])
    assert found["colour red - green"] == pytest.approx([1, -1, 0])
    assert found["colour yellow - blue"] == pytest.approx([0.5, 0.5, -1])
    for name in ("colour spread", "contrast", "contrast top left", "edges 0° high"):
        assert found[name] == pytest.approx([0, 0, 0], abs=1e-5)
    mixed = torch.cat([pure[:1, :, :8], pure[1:2, :, :8]], dim=2)  # red above green: red - green is +1 and -1
    assert values(mixed)["colour spread"] == pytest.approx([1.0])
    assert values(mixed)["colour red - green"] == pytest.approx([0.0])


def test_other_numbers_of_channels() -> None:
    """One has no colour; two and four have a column for each but the last, and how far channels lie apart."""
    assert not any(name.startswith("colour") for name in describe(gaussian(2, 1, 8, 8)).names)
    images = torch.tensor([0.1, 0.3, 0.5, 0.7]).view(1, 4, 1, 1).expand(1, 4, 8, 8)
    found = values(images)
    assert found["colour channel 1"] == pytest.approx([-0.3])
    assert found["colour spread"] == pytest.approx([float(np.std([0.1, 0.3, 0.5, 0.7]))])
    assert [name for name in found if name.startswith("colour")][-2:] == ["colour channel 3", "colour spread"]
    assert torch.equal(luminance(images), images.mean(1))


def test_contrast_is_that_of_the_place() -> None:
    """A chessboard in one quadrant: deviation there, a part of it over the whole image, none elsewhere."""
    image = torch.full((1, 1, 8, 8), 0.5)
    image[0, 0, 4:, :4] += 0.2 * (1 - 2 * (torch.arange(16).view(4, 4) + torch.arange(4)[:, None]).remainder(2))
    found = values(image)
    assert found["contrast bottom left"] == pytest.approx([0.2], rel=1e-3)
    assert found["contrast"] == pytest.approx([0.1], rel=1e-3)
    for place in ("top left", "top right", "bottom right"):
        assert found[f"contrast {place}"] == pytest.approx([0], abs=1e-6)


def test_groups_are_the_first_words() -> None:
    """Columns by group, in order; "all" has every one."""
    found = describe(gaussian(2, 3, 32, 32))
    groups = found.groups
    assert list(groups) == ["luminance", "colour", "contrast", "edges", "all"]
    assert [found.names[column] for column in groups["edges"]] == EDGE_NAMES
    assert groups["all"] == list(range(found.values.shape[1]))
    assert sum(len(groups[name]) for name in list(groups)[:-1]) == len(groups["all"])
    with pytest.raises(ValueError, match=r"4 x 4 or larger: found \[2, 3, 32, 3\]"):
        describe(gaussian(2, 3, 32, 3))


def parts(seed: int = 0, noise: float = 1.0) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Features [n, 3] that are a linear function of 5 attributes plus noise, for 60 images and for 40 others."""
    a = gaussian(100, 5, seed=seed) * torch.tensor([1.0, 10, 0.1, 1, 1]) + torch.tensor([0.0, 50, 0, 1, 0])
    z = a @ gaussian(5, 3, seed=seed + 1) + noise * gaussian(100, 3, seed=seed + 2) + 7
    return (a[:60], z[:60]), (a[60:], z[60:])


@pytest.mark.parametrize("columns", [[0], [1], [2, 4], [0, 1, 2, 3, 4]])
@pytest.mark.parametrize("noise", [0.0, 1.0, 30.0])
def test_explained_is_scikit_learns(columns: list[int], noise: float) -> None:
    """Ridge on standardized attributes, R^2 weighted by variance on the other images; negative values are kept."""
    (a, z), (b, y) = parts(noise=noise)
    mean, deviation = a[:, columns].mean(0), a[:, columns].std(0, correction=0)
    scaled = [((x[:, columns] - mean) / deviation).double().numpy() for x in (a, b)]
    model = Ridge(alpha=RIDGE * len(a)).fit(scaled[0], z.double().numpy())
    expected = r2_score(y.double().numpy(), model.predict(scaled[1]), multioutput="variance_weighted")
    assert Explained((a, z), (b, y)).by(columns) == pytest.approx(expected, abs=1e-6)


def test_explained_of_what_is_and_is_not_there() -> None:
    """All of a linear function, nothing of unrelated features: below 0, as a fit to noise serves nobody."""
    (a, z), (b, y) = parts(noise=0)
    assert Explained((a, z), (b, y)).by(range(5)) == pytest.approx(1, abs=1e-4)
    unrelated = Explained((a, gaussian(60, 3, seed=9)), (b, gaussian(40, 3, seed=10))).by(range(5))
    assert -0.5 < unrelated < 0


@settings(max_examples=20)
@given(st.integers(0, 10**6), st.floats(-2, 2))
def test_explained_ignores_units_and_turns(seed: int, exponent: float) -> None:
    """Attributes in other units, features turned and scaled: the same share."""
    (a, z), (b, y) = parts(seed)
    basis = torch.linalg.qr(gaussian(3, 3, seed=seed)).Q * 10**exponent
    share = Explained((a, z), (b, y)).by([0, 1, 3])
    assert Explained((a * 7 - 2, z @ basis), (b * 7 - 2, y @ basis)).by([0, 1, 3]) == pytest.approx(share, abs=1e-4)


def test_constants_explain_nothing_and_cannot_be_explained() -> None:
    """A constant attribute gives 0 or a little below, beside others it changes nothing; constant features give nan."""
    (a, z), (b, y) = parts()
    a[:, 2] = b[:, 2] = 0.1
    explained = Explained((a, z), (b, y))
    assert -0.2 < explained.by([2]) <= 0
    assert explained.by([0, 2]) == pytest.approx(explained.by([0]), abs=1e-12)
    assert math.isnan(Explained((a, z), (b, torch.full_like(y, 0.3))).by([0]))


def test_explained_refuses_other_shapes() -> None:
    """Attributes without their features, or features of another network."""
    (a, z), (b, y) = parts()
    for wrong in (((a, z[1:]), (b, y)), ((a, z), (b[:, 1:], y)), ((a, z[:, 1:]), (b, y)), ((a[:0], z[:0]), (b, y))):
        with pytest.raises(ValueError, match="attributes and features of the same images"):
            Explained(*wrong)
