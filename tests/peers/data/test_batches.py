"""Images are what they should be, and every peer computes the same batch alone."""

from __future__ import annotations

import gzip
import hashlib
import os
import shutil
import struct
from pathlib import Path
from unittest.mock import Mock
from urllib.error import URLError

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from PIL import Image
from torchvision import datasets as published

from peers.common.errors import ConfigError, DataError
from peers.config.schema import DataConfig
from peers.data import registry as datasets
from peers.data import torchvision_sets as readers
from peers.data.batches import Data, Schedule, Split, batch_digest, open_data

CIFAR = "cifar-10-batches-py"
REAL = os.environ.get("PEERS_DATA", "")
real_cifar = pytest.mark.skipif(not (Path(REAL) / CIFAR).is_dir(), reason=f"needs PEERS_DATA with {CIFAR}")


@pytest.fixture(autouse=True)
def _no_folder_from_outside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("PEERS_DATA", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


def opened(seed: int = 0, **settings: object) -> Data:
    """Data on the CPU; files are decoded in this process unless a test asks for others."""
    return open_data(DataConfig.model_validate({"loader_workers": 0} | settings), seed, torch.device("cpu"))


def everything(split: Split) -> torch.Tensor:
    """All images of a split."""
    return split.batch(np.arange(len(split)))


def pixels(data: Data, split: Split) -> torch.Tensor:
    """The uint8 images behind a split: what normalization did, undone."""
    mean, std = (torch.tensor(values, dtype=torch.float64).view(-1, 1, 1) for values in (data.mean, data.std))
    return ((everything(split).double() * std + mean) * 255).round().to(torch.uint8)


def image_folder(root: Path, *, images: int = 6, side: tuple[int, int] = (12, 20)) -> Path:
    """Noise in files: two classes, two splits."""
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for name in ("cat", "dog"):
            (root / split / name).mkdir(parents=True)
            for number in range(images):
                noise = rng.integers(0, 256, (*side, 3), dtype=np.uint8)
                Image.fromarray(noise).save(root / split / name / f"{number}.png")
    return root


def idx_files(root: Path, *, pack: bool = False) -> None:
    """MNIST in miniature, in its own format: 20 images each."""
    (raw := root / "MNIST" / "raw").mkdir(parents=True)
    images = np.random.default_rng(0).bytes(20 * 28 * 28)
    for split in ("train", "t10k"):
        (raw / f"{split}-images-idx3-ubyte").write_bytes(struct.pack(">HBBIII", 0, 8, 3, 20, 28, 28) + images)
        (raw / f"{split}-labels-idx1-ubyte").write_bytes(struct.pack(">HBBI", 0, 8, 1, 20) + bytes(range(10)) * 2)
    for path in list(raw.iterdir()) if pack else []:
        path.with_name(path.name + ".gz").write_bytes(gzip.compress(path.read_bytes()))


def test_digits_are_the_bundled_ones() -> None:
    """Digits are scikit-learn's, times 15, split 1347 / 450 with all classes alike, whatever the run's seed."""
    data, other = opened(), opened(seed=1)
    assert (len(data.train) + len(data.validation), len(data.test)) == (1347, 450)
    assert (data.shape, data.classes) == ((1, 8, 8), 10)
    assert set(pixels(data, data.test).unique().tolist()) == {15 * value for value in range(17)}
    assert torch.equal(pixels(data, data.test), pixels(other, other.test))
    assert data.test.labels.bincount().min() >= 43
    assert data.fingerprint == other.fingerprint == "929f49a21093ea15b4cf73e1a1c7d3d9"


def test_training_and_validation_images_are_the_training_split_divided() -> None:
    """Validation is the asked share of the training split, chosen by seed; with train it makes up the whole of it."""
    whole = datasets.load(DataConfig(name="synthetic", images=100, image_size=8)).train
    held_out = []
    for seed in (0, 1):
        data = opened(seed, name="synthetic", images=100, image_size=8, validation=0.3)
        assert (len(data.train), len(data.validation), len(data.test)) == (70, 30, 25)
        parts = torch.cat([pixels(data, data.train), pixels(data, data.validation)])
        assert sorted(bytes(image.flatten()) for image in parts) == sorted(bytes(i.flatten()) for i in whole.images)
        held_out.append(pixels(data, data.validation))
    assert not torch.equal(*held_out)


def test_statistics_are_those_of_the_training_part() -> None:
    """Mean and deviation are the training part's, in units of 0..1, to the last digits of float64."""
    data = opened(name="synthetic", images=500)
    values = pixels(data, data.train).double().div(255).transpose(0, 1).flatten(1)
    assert data.mean == pytest.approx(values.mean(1).tolist(), rel=1e-13)
    assert data.std == pytest.approx(values.std(1, correction=0).tolist(), rel=1e-13)
    batch = everything(data.train).double()
    assert batch.mean((0, 2, 3)).abs().max() < 1e-6
    assert (batch.std((0, 2, 3), correction=0) - 1).abs().max() < 1e-6


def test_a_constant_channel_stays_finite(tmp_path: Path) -> None:
    """A channel without any variation becomes zero, not a division by zero."""
    for path in image_folder(tmp_path).rglob("*.png"):
        Image.new("RGB", (4, 4), (7, 0, 255)).save(path)
    data = opened(name="image_folder", root=str(tmp_path), image_size=4)
    assert data.std == (1.0, 1.0, 1.0)
    assert everything(data.train).abs().max() < 1e-6


def test_synthetic_images_are_reproducible_and_have_classes() -> None:
    """Synthetic images do not depend on the run's seed, and the nearest class mean tells their class."""
    data = opened(name="synthetic", images=200, channels=1, image_size=16)
    assert data.shape == (1, 16, 16)
    assert data.fingerprint == opened(seed=5, name="synthetic", images=200, channels=1, image_size=16).fingerprint
    train, test = everything(data.train).flatten(1), everything(data.test).flatten(1)
    centres = torch.stack([train[data.train.labels == label].mean(0) for label in range(10)])
    assert (torch.cdist(test, centres).argmin(1) == data.test.labels).float().mean() > 0.9


def test_streamed_and_resident_images_are_equal(tmp_path: Path) -> None:
    """An image folder gives the same values, bit for bit, whether decoded ahead, on demand, or held in memory."""
    image_folder(tmp_path, images=30)
    settings = {"name": "image_folder", "root": str(tmp_path), "image_size": 64}
    resident = opened(**settings)
    streamed = opened(**settings, budget_mib=1)
    ahead = opened(**settings, budget_mib=1, loader_workers=1)
    assert resident.fingerprint != streamed.fingerprint == ahead.fingerprint  # contents against paths and sizes
    assert (resident.mean, resident.std, resident.shape) == (streamed.mean, streamed.std, (3, 64, 64))
    schedule = Schedule(len(resident.train), 8, 0)
    state = torch.get_rng_state()
    streams = [data.train.stream(schedule.from_round(2)) for data in (resident, streamed, ahead)]
    for round_ in range(2, 12):
        expected = resident.train.batch(schedule.indices(round_))
        assert torch.equal(expected, streamed.train.batch(schedule.indices(round_)))
        assert all(torch.equal(expected, next(stream)) for stream in streams)
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(everything(resident.test), everything(streamed.test))


def test_images_in_memory_above_the_budget_are_the_same() -> None:
    """A data set in memory that exceeds the budget gives the same batches and the same fingerprint."""
    held, above = (opened(name="synthetic", images=600, budget_mib=budget) for budget in (64, 1))
    assert held.fingerprint == above.fingerprint
    assert torch.equal(everything(held.train), everything(above.train))


def test_image_folders_are_resized_and_cropped(tmp_path: Path) -> None:
    """The shorter side is resized and the centre cut out; `test` is taken before `val`."""
    image_folder(tmp_path, images=2, side=(8, 16))
    shutil.copytree(tmp_path / "val", tmp_path / "test")
    picture = np.zeros((8, 16, 3), np.uint8)
    picture[:, 4:12] = 200
    Image.fromarray(picture).save(tmp_path / "test" / "cat" / "0.png")
    data = opened(name="image_folder", root=str(tmp_path), image_size=8)
    assert pixels(data, data.test)[0].unique().tolist() == [200]


def test_a_batch_may_be_asked_for_in_several_ways() -> None:
    """Arrays (read-only ones too), lists and tensors of indices give the same batch; beyond the end is an error."""
    split = opened().train
    fixed = np.array([3, 1])
    fixed.flags.writeable = False
    for indices in (fixed, [3, 1], torch.tensor([3, 1])):
        assert torch.equal(split.batch(indices), torch.cat([split.batch([3]), split.batch([1])]))
    with pytest.raises(IndexError):
        split.batch([len(split)])


def test_the_fingerprint_tells_data_apart(tmp_path: Path) -> None:
    """One flipped pixel, one moved label, another share of validation: each changes the fingerprint."""
    root = image_folder(tmp_path, side=(8, 8))
    settings = {"name": "image_folder", "root": str(root), "image_size": 8}
    seen = [opened(**settings).fingerprint, opened(**settings, validation=0.5).fingerprint]
    path = root / "train" / "cat" / "0.png"
    picture = np.array(Image.open(path))
    picture[4, 4, 1] ^= 1
    Image.fromarray(picture).save(path)
    seen.append(opened(**settings).fingerprint)
    path.rename(root / "train" / "dog" / "00.png")
    seen.append(opened(**settings).fingerprint)
    assert len(set(seen)) == 4
    assert opened(**settings).fingerprint == seen[-1]


@examples()  # a busy machine is no counterexample
@given(st.integers(2, 40), st.integers(1, 40), st.integers(0, 2**62), st.integers(0, 5))
def test_an_epoch_is_a_permutation(images: int, batch: int, seed: int, epoch: int) -> None:
    """An epoch's rounds are disjoint, full, and as many as fit; each is a function of (seed, round) alone."""
    batch = min(batch, images)
    schedule = Schedule(images, batch, seed)
    first = epoch * schedule.rounds_per_epoch
    rounds = [schedule.indices(first + place) for place in range(schedule.rounds_per_epoch)]
    seen = np.concatenate(rounds)
    assert all(indices.shape == (batch,) and indices.dtype == np.int64 for indices in rounds)
    assert len(set(seen.tolist())) == len(seen) == images // batch * batch
    assert 0 <= seen.min() <= seen.max() < images
    np.testing.assert_array_equal(Schedule(images, batch, seed).indices(first), rounds[0])
    np.testing.assert_array_equal(next(schedule.from_round(first)), rounds[0])


def test_epochs_and_seeds_differ() -> None:
    """Another epoch and another seed give another order, and going back gives the first one again."""
    schedule = Schedule(64, 64, 0)
    first = schedule.indices(0)
    assert not np.array_equal(first, schedule.indices(1))
    assert not np.array_equal(first, Schedule(64, 64, 1).indices(0))
    first[:] = 0  # the caller's own copy
    np.testing.assert_array_equal(np.sort(schedule.indices(0)), np.arange(64))


def test_a_batch_larger_than_the_data_is_refused() -> None:
    """The error names both numbers; so is a negative round refused."""
    with pytest.raises(DataError, match=r"data\.batch is 129, but the training part has 128 images; set"):
        Schedule(128, 129, 0)
    with pytest.raises(ValueError, match="found -1"):
        Schedule(4, 2, 0).indices(-1)


def test_the_batch_digest_depends_on_everything() -> None:
    """Round, each index, their order and the fingerprint all change the digest; the integers' width does not."""
    indices = np.array([5, 7, 9])
    digest = batch_digest(3, indices, "ab")
    assert digest == hashlib.blake2b(struct.pack("<4q", 3, 5, 7, 9) + b"ab", digest_size=16).digest()
    moved, swapped = np.array([5, 7, 10]), indices[::-1]
    others = {batch_digest(3, moved, "ab"), batch_digest(3, swapped, "ab"), batch_digest(3, indices, "ac")}
    assert len({digest, batch_digest(4, indices, "ab"), *others}) == 5
    assert digest == batch_digest(3, indices.astype(np.int32), "ab")


def test_mnist_is_read_from_its_own_format(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Images and labels of idx files arrive as written, from the folder that PEERS_DATA names."""
    idx_files(tmp_path, pack=True)
    monkeypatch.setenv("PEERS_DATA", str(tmp_path))
    data = opened(name="mnist")
    raw = (tmp_path / "MNIST/raw/t10k-images-idx3-ubyte").read_bytes()[16:]
    assert pixels(data, data.test).numpy().tobytes() == raw
    assert data.test.labels.tolist() == [number % 10 for number in range(20)]


@pytest.mark.parametrize("damage", ["truncated", "empty", "flipped", "label", "type"])
def test_damaged_mnist_is_told(tmp_path: Path, damage: str) -> None:
    """Whatever is wrong with an idx file, the error says damaged, where, and what to do."""
    idx_files(tmp_path, pack=damage == "flipped")
    part = "labels-idx1" if damage == "label" else "images-idx3"
    path = tmp_path / f"MNIST/raw/train-{part}-ubyte"
    content = bytearray(path.read_bytes())
    if damage == "type":
        content[2] = 10  # no such type
    elif damage in ("flipped", "label"):
        content[-1] ^= 64
    path.write_bytes(content[: {"truncated": 1000, "empty": 0}.get(damage, len(content))])
    with pytest.raises(
        DataError, match=r"mnist is damaged under .*; restore these files, or delete them .*download=true"
    ):
        opened(name="mnist", root=str(tmp_path))


def test_svhn_and_stl10_are_turned_upright(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SVHN's [H, W, C, n] and STL-10's column-major images become [n, C, H, W]; labels start at 0."""
    io = pytest.importorskip("scipy.io")
    rng = np.random.default_rng(0)
    small, large = (rng.integers(0, 256, (10, 3, side, side), dtype=np.uint8) for side in (32, 96))
    labels = np.arange(1, 11, dtype=np.uint8)
    (tmp_path / "stl10_binary").mkdir()
    for split in ("train", "test"):
        io.savemat(tmp_path / f"{split}_32x32.mat", {"X": small.transpose(2, 3, 1, 0), "y": labels[:, None]})
        (tmp_path / f"stl10_binary/{split}_X.bin").write_bytes(large.transpose(0, 1, 3, 2).tobytes())
        (tmp_path / f"stl10_binary/{split}_y.bin").write_bytes(labels.tobytes())
    unchecked = {split: ["", f"{split}_32x32.mat", None] for split in ("train", "test")}
    monkeypatch.setattr(published.SVHN, "split_list", unchecked)
    monkeypatch.setattr(readers._LabelledSTL10, "train_list", [["train_X.bin", None], ["train_y.bin", None]])
    monkeypatch.setattr(readers._LabelledSTL10, "test_list", [["test_X.bin", None], ["test_y.bin", None]])
    for name, images, expected in (("svhn", small, [*range(1, 10), 0]), ("stl10", large, [*range(10)])):
        data = opened(name=name, root=str(tmp_path))
        assert np.array_equal(pixels(data, data.test).numpy(), images)
        assert data.test.labels.tolist() == expected


def test_no_folder_is_told() -> None:
    """Without any folder the error names the setting, the environment variable and the way to download."""
    with pytest.raises(
        DataError, match=rf"neither data\.root nor .* PEERS_DATA is set; .* holds {CIFAR}, .*download=true"
    ):
        opened(name="cifar10")
    with pytest.raises(
        DataError, match=r"PEERS_DATA is set; set one of them to the folder that holds train/ and test/"
    ):
        opened(name="image_folder", image_size=8, download=True)


def test_missing_files_are_told(tmp_path: Path) -> None:
    """Files that are not there are listed, apart from damaged ones, with the folder that was searched."""
    with pytest.raises(
        DataError, match=rf"cifar10 not found under {tmp_path}: {CIFAR}/data_batch_1, .* holds {CIFAR}, or --set"
    ):
        opened(name="cifar10", root=str(tmp_path))
    idx_files(tmp_path)
    (tmp_path / "MNIST/raw/t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(DataError, match=r"under \S+: MNIST/raw/t10k-labels-idx1-ubyte; set data\.root / PEERS_DATA"):
        opened(name="mnist", root=str(tmp_path))


def test_damaged_cifar_is_told(tmp_path: Path) -> None:
    """Files with other content than the published one are damaged, not missing; the error lists them."""
    (tmp_path / CIFAR).mkdir()
    for name in ("test_batch", "batches.meta", *(f"data_batch_{number}" for number in range(1, 6))):
        (tmp_path / CIFAR / name).write_bytes(b"something else")
    with pytest.raises(
        DataError, match=rf"cifar10 is damaged under {tmp_path}: {CIFAR}/data_batch_1, .*; restore these"
    ):
        opened(name="cifar10", root=str(tmp_path))


def test_downloads_go_where_they_belong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With `download` and no folder torchvision fills ~/.cache/peers; with a root, that; once is enough."""
    calls = []

    def download(reader: published.MNIST) -> None:
        calls.append(reader.root)
        if not reader._check_exists():
            idx_files(Path(reader.root))

    monkeypatch.setattr(published.MNIST, "download", download)
    cache = tmp_path / "home/.cache/peers"
    assert len(opened(name="mnist", download=True).test) == 20
    assert set(calls) == {str(cache)}
    calls.clear()
    assert len(opened(name="mnist", download=True).test) == len(opened(name="mnist", root=str(cache)).test) == 20
    assert not calls
    opened(name="mnist", download=True, root=str(tmp_path / "there"))
    assert set(calls) == {str(tmp_path / "there")}


def test_a_failed_download_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A download that does not come through is neither missing nor damaged: the error says what failed."""
    monkeypatch.setattr(published.CIFAR10, "download", Mock(side_effect=URLError("no route")))
    with pytest.raises(DataError, match=r"cifar10 could not be downloaded to .*no route.*check the network"):
        opened(name="cifar10", root=str(tmp_path), download=True)


def test_image_folder_errors_are_told(tmp_path: Path) -> None:
    """No size, no folders, too few images, different classes: each is told with what to do."""
    with pytest.raises(ConfigError, match=r"data\.image_size is not set; .*--set data\.image_size=64"):
        opened(name="image_folder", root=str(tmp_path))
    settings = {"name": "image_folder", "root": str(tmp_path), "image_size": 8}
    with pytest.raises(DataError, match=r"no images under \S+/train: .*; expected \S+/train/CLASS/IMAGE, .*data\.root"):
        opened(**settings)
    image_folder(tmp_path, images=1)
    with pytest.raises(DataError, match=r"has 2 images, of which data\.validation=0\.8 holds out 2: none is left"):
        opened(**settings, validation=0.8)
    (tmp_path / "val/dog").rename(tmp_path / "val/fox")
    with pytest.raises(DataError, match=r"hold different classes: dog, fox are in one of them only"):
        opened(**settings)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_undecodable_image_is_told(tmp_path: Path, workers: int) -> None:
    """A damaged image is named, and no traceback is shown, wherever it was decoded."""
    image_folder(tmp_path)
    path = tmp_path / "train/dog/3.png"
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(DataError) as caught:
        opened(name="image_folder", root=str(tmp_path), image_size=8, loader_workers=workers)
    assert str(caught.value).startswith(f"{path} cannot be read as an image: ")
    assert "Traceback" not in str(caught.value)


@real_cifar
def test_cifar10_is_read() -> None:
    """Sizes, balance and the well-known statistics of the published data set are right."""
    data = opened(name="cifar10", root=REAL)
    assert (len(data.train), len(data.validation), len(data.test)) == (45000, 5000, 10000)
    assert data.mean == pytest.approx((0.4914, 0.4822, 0.4465), abs=5e-4)
    assert data.std == pytest.approx((0.2470, 0.2435, 0.2616), abs=5e-4)
    assert data.test.labels.bincount().tolist() == [1000] * 10
    assert data.test.labels[:4].tolist() == [3, 8, 8, 0]


@real_cifar
def test_a_truncated_batch_of_cifar10_is_told(tmp_path: Path) -> None:
    """A batch that lost its last byte is damaged, and it alone is named."""
    shutil.copytree(Path(REAL) / CIFAR, tmp_path / CIFAR, copy_function=os.symlink)
    batch = tmp_path / CIFAR / "data_batch_3"
    batch.unlink()
    batch.write_bytes((Path(REAL) / CIFAR / batch.name).read_bytes()[:-1])
    with pytest.raises(DataError, match=rf"damaged under {tmp_path}: {CIFAR}/data_batch_3; restore"):
        opened(name="cifar10", root=str(tmp_path))
