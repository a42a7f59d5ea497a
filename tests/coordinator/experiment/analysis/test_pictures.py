"""Pictures, pixel by pixel, and the flat picture of features."""

from __future__ import annotations

import io
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.linalg import orthogonal_procrustes
from scipy.spatial.distance import pdist
from torch import Tensor, nn

from coordinator.experiment.analysis import pictures
from coordinator.experiment.analysis.embedding import aligned, embed
from coordinator.experiment.analysis.pictures import GAP, LARGEST, OTHER, SAME, TILE
from peers.config.schema import NetworkConfig
from peers.networks import registry as networks


def opened(data: bytes) -> np.ndarray:
    """Pixels of a PNG, [H, W, 4]."""
    with Image.open(io.BytesIO(data)) as image:
        assert (image.format, image.mode) == ("PNG", "RGBA")
        return np.asarray(image)


def gaussian(*shape: int, seed: int = 0) -> Tensor:
    """Standard normal values, reproducible."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_filters_are_scaled_one_by_one_around_grey() -> None:
    """0 is mid grey, the largest weight white or black; a second filter of other size looks the same."""
    weight = torch.tensor([[[[0.0, 2.0], [-2.0, 1.0]]]])
    pixels = opened(pictures.filter_grid(torch.cat([weight, weight / 1000, 0 * weight])))
    half = TILE // 2
    assert pixels.shape == (TILE, 3 * TILE + 2 * GAP, 4)
    assert [int(pixels[row, column, 0]) for row in (0, TILE - 1) for column in (0, TILE - 1)] == [128, 255, 0, 191]
    assert np.array_equal(pixels[:, TILE + GAP : 2 * TILE + GAP], pixels[:, :TILE])
    assert (pixels[:, 2 * (TILE + GAP) :, :3] == 128).all()
    assert (pixels[:half, :half] == pixels[0, 0]).all()  # nearest: no blending
    assert not pixels[:, TILE : TILE + GAP].any()  # the gap is clear


def test_filters_of_colour_stand_in_rows_of_eight() -> None:
    """At most 64 of them; channels are red, green and blue; what a row lacks is clear."""
    weight = torch.zeros(70, 3, 3, 3)
    weight[:, 1] = 1
    pixels = opened(pictures.filter_grid(weight))
    tile = TILE // 3 * 3
    assert pixels.shape == (8 * tile + 7 * GAP, 8 * tile + 7 * GAP, 4)
    assert pixels[5, 5].tolist() == [128, 255, 128, 255]
    nine = opened(pictures.filter_grid(weight[:9]))
    assert nine.shape[0] == 2 * tile + GAP
    assert nine[-1, 5, 3] == 255
    assert not nine[tile + GAP :, tile + GAP :].any()


def test_first_filters_are_those_of_the_first_layer() -> None:
    """Of a convolution as they are, of an MLP as images; none for two channels."""
    mlp = networks.build(NetworkConfig(depth=2, width=5), (3, 8, 6), seed=0, peer=0)
    found = pictures.first_filters(mlp, (3, 8, 6))
    assert found is not None
    assert found.shape == (5, 3, 8, 6)
    image = gaussian(1, 3, 8, 6)
    assert torch.allclose((found * image).sum((1, 2, 3)), mlp[1](image.flatten(1))[0], atol=1e-5)
    conv = networks.build(NetworkConfig(name="convnet", depth=2, width=4), (1, 8, 8), seed=0, peer=0)
    filters = pictures.first_filters(conv, (1, 8, 8))
    assert filters is not None
    assert torch.equal(filters, conv[0].weight)
    assert pictures.first_filters(nn.Sequential(nn.Conv2d(2, 3, 3)), (2, 8, 8)) is None


def test_the_nearest_are_those_of_the_cosine_from_the_mean() -> None:
    """Brute force over all pairs; of equals the first ones."""
    z, queries = gaussian(50, 6) + 4, gaussian(7, 6, seed=1) + 4
    mean = z.double().mean(0)
    a, b = (queries.double() - mean).numpy(), (z.double() - mean).numpy()
    cosine = a @ b.T / np.linalg.norm(a, axis=1)[:, None] / np.linalg.norm(b, axis=1)
    assert pictures.nearest(z, queries, 5).tolist() == np.argsort(-cosine, axis=1)[:, :5].tolist()
    twice = torch.cat([z[:3], z[:3]])
    assert pictures.nearest(twice, z[:1], 2).tolist() == [[0, 3]]


def test_neighbours_stand_beside_their_query_in_frames() -> None:
    """A row for each query; before, and behind a gap after; blue is the same class, orange another."""
    queries = torch.full((2, 1, 8, 8), 0.2)
    before, after = torch.full((2, 3, 1, 8, 8), 0.4), torch.full((2, 3, 1, 8, 8), 0.6)
    hits = torch.tensor([[True, False, True], [False, False, False]])
    pixels = opened(pictures.neighbour_grid(queries, [(before, hits), (after, ~hits)]))
    cell = TILE + 2 * GAP
    step, wide = cell + GAP, cell + 6 * GAP
    assert pixels.shape == (2 * cell + GAP, 2 * (wide + 2 * step) + cell, 4)
    middle = cell // 2
    assert pixels[middle, middle].tolist() == [51, 51, 51, 255]
    assert not pixels[0, 0].any()  # the query has no frame
    starts = [[group + place * step for place in range(3)] for group in (wide, wide + 2 * step + wide)]
    for row in range(2):
        for group, (value, same) in zip(starts, ((102, hits), (153, ~hits)), strict=True):
            for start, hit in zip(group, same[row], strict=True):
                top = row * step
                assert tuple(pixels[top, start, :3]) == (SAME if hit else OTHER)
                assert pixels[top + middle, start + middle].tolist() == [value] * 3 + [255]


def test_large_images_are_reduced() -> None:
    """To at most 80 pixels, proportions kept; colours and values outside 0..1 survive."""
    image = torch.zeros(1, 3, 200, 100)
    image[:, 0] = 1.2
    pixels = opened(pictures.neighbour_grid(image, []))
    assert pixels.shape == (LARGEST + 2 * GAP, LARGEST // 2 + 2 * GAP, 4)
    assert pixels[40, 20].tolist() == [255, 0, 0, 255]


def clusters(seed: int = 0) -> tuple[Tensor, np.ndarray]:
    """Three clear clusters of 20 rows in 10 dimensions, and their labels."""
    labels = np.arange(60) % 3
    return 5 * gaussian(3, 10, seed=1)[labels] + gaussian(60, 10, seed=seed), labels


def test_an_embedding_keeps_clusters_and_is_reproducible() -> None:
    """Each point's closest one is of its own cluster; the same features give the same places."""
    z, labels = clusters()
    points = embed(z)
    assert points.shape == (60, 2)
    distance = np.linalg.norm(points[:, None] - points, axis=2)
    np.fill_diagonal(distance, np.inf)
    assert (labels[distance.argmin(1)] == labels).mean() > 0.95
    assert np.array_equal(points, embed(z))


def test_an_embedding_is_of_directions() -> None:
    """As the k-NN probe sees them: features that are longer or shorter, seen from their mean, lie where they lay."""
    half = torch.randint(-8, 9, (20, 5), generator=torch.Generator().manual_seed(0)).double()
    z = torch.cat([half, -half])  # whole numbers around 0: all arithmetic is exact
    lengths = 2.0 ** (torch.arange(40) % 20 % 5)
    assert np.array_equal(embed(z * lengths[:, None]), embed(z))


def test_an_embedding_of_nothing_is_nothing() -> None:
    """Collapsed features have no places, nor have too few; one dimension is enough."""
    assert not embed(torch.full((20, 3), 0.1)).any()
    assert embed(gaussian(3, 2)).tolist() == [[0, 0]] * 3
    assert np.isfinite(embed(gaussian(5, 1))).all()


@pytest.mark.parametrize("mirror", [[[0.0, 1], [1, 0]], [[1.0, 0], [0, 1]]])
def test_alignment_is_scipys_procrustes(mirror: list[list[float]]) -> None:
    """Turned and mirrored back, distances kept, the centre moved."""
    rng = np.random.default_rng(0)
    to = rng.normal(size=(30, 2)) + 5
    points = (to - 5) @ np.array(mirror) @ np.array([[0.6, 0.8], [-0.8, 0.6]]) * 2 - 1
    found = aligned(points, to)
    rotation, _ = orthogonal_procrustes(points - points.mean(0), to - to.mean(0))
    assert found == pytest.approx((points - points.mean(0)) @ rotation + to.mean(0))
    assert pdist(found) == pytest.approx(pdist(points))
    assert (found - to.mean(0)) / 2 + to.mean(0) == pytest.approx(to)
    with pytest.raises(ValueError, match=r"one shape: found \[30, 2\] and \[29, 2\]"):
        aligned(points, to[1:])


def test_scikit_learn_waits_until_it_is_needed() -> None:
    """It takes seconds to import: not before something is embedded."""
    code = "import sys, coordinator.experiment.analysis.run; sys.exit('sklearn' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=120).returncode == 0
