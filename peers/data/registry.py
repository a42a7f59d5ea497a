"""Where images come from: each data set as two stores of uint8 images, one for training and one for test.

digits                     those that scikit-learn bundles
synthetic                  noise over one pattern for each class, from a fixed seed
cifar10 ... stl10          torchvision's (peers.data.torchvision_sets)
image_folder               a folder of images for each class (peers.data.torchvision_sets)
"""

from __future__ import annotations

import gzip
import importlib.util
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from peers.config.schema import DataConfig
from peers.common.errors import DataError
from peers.common.seeds import numpy_generator
from peers.data.image_store import Arrays, Loaded

_DIGITS_TEST = (
    "000004883526104000164101934205001a00080102240028062c1e081108960a009019120420f8a0028110e040080a9a3044"
    "15244942c0a00a2030804004d821408b8020004885c400104008a0900005486800301000020ec409001224840083b8013c21"
    "a69c0a0204000f48400804a4184902124061e5008024604e94376a819216015480004842a0a4180a5000a40b8561e6881080"
    "49124c80c02205068e000109f202c141398813c009190000148e01008410a0e10033282900c144c8c0680a01029302920309"
    "22a6402c26042108a8608198c8a01412861202128138a41500"
)
"""Test rows of digits, a bit each: drawn once by scikit-learn's train_test_split (450 rows, stratified, seed 0)."""

_REINSTALL = "install scikit-learn again (another version of it, if this one has moved them)"


def load(config: DataConfig) -> Loaded:
    """Open the data set that a configuration names.

    Raises:
        ConfigError: image_folder without data.image_size.
        DataError: the images are missing or damaged, or there is no folder to look in.
    """
    if config.name == "digits":
        return _digits()
    if config.name == "synthetic":
        return _synthetic(config)
    from peers.data import torchvision_sets

    if config.name == "image_folder":
        return torchvision_sets.image_folder(config)
    return torchvision_sets.torchvision_dataset(config)


def _digits() -> Loaded:
    table = _digits_table()  # [1797, 65]: 64 pixels in 0..16, then the label
    images = torch.from_numpy(table[:, :64] * 15).view(-1, 1, 8, 8)  # values 0..16 become 0..240
    labels = torch.from_numpy(table[:, 64].astype(np.int64))
    judged = np.unpackbits(np.frombuffer(bytes.fromhex(_DIGITS_TEST), np.uint8), count=len(table)).astype(bool)
    train, test = (torch.from_numpy(np.flatnonzero(rows)) for rows in (~judged, judged))
    return Loaded(Arrays(images[train], labels[train]), Arrays(images[test], labels[test]), 10)


def _digits_table() -> npt.NDArray[np.uint8]:
    """The file that scikit-learn's `load_digits` reads, without the seconds that importing scikit-learn takes."""
    spec = importlib.util.find_spec("sklearn")  # finds the folder, imports nothing
    folders = list(spec.submodule_search_locations or ()) if spec else []
    if not folders:
        raise DataError("data.name = 'digits' needs scikit-learn, which bundles the images: pip install scikit-learn")
    path = Path(folders[0], "datasets", "data", "digits.csv.gz")
    try:
        with gzip.open(path, "rt", encoding="ascii") as file:
            table = np.loadtxt(file, delimiter=",", dtype=np.uint8, ndmin=2)
    except (OSError, EOFError, zlib.error, ValueError) as exc:
        raise DataError(f"{path}: expected the digits that scikit-learn bundles, found {exc}; {_REINSTALL}") from exc
    if table.shape != (1797, 65):
        raise DataError(f"{path}: expected 1797 rows of 64 pixels and a label, found {table.shape}; {_REINSTALL}")
    return table


def _synthetic(config: DataConfig) -> Loaded:
    """Integers alone, so that the images are the same on every machine: half a coarse 4x4 pattern, half noise."""
    side, classes = config.image_size or 32, 10
    coarse = numpy_generator(0, "synthetic").integers(0, 128, (classes, config.channels, 4, 4), dtype=np.uint8)
    place = np.arange(side) * 4 // side
    patterns = coarse[:, :, place[:, None], place]  # [classes, C, side, side]
    stores = []
    for split, count in enumerate((config.images, config.images // 4)):
        labels = np.arange(count) % classes
        noise = numpy_generator(0, "synthetic", split).integers(0, 128, (count, *patterns.shape[1:]), dtype=np.uint8)
        noise += patterns[labels]
        stores.append(Arrays(torch.from_numpy(noise), torch.from_numpy(labels)))
    return Loaded(stores[0], stores[1], classes)
