"""Where images come from: each data set as two stores of uint8 images, one for training and one for test.

digits                     8x8 images of handwritten digits, in digits.npz beside this file
synthetic                  noise over one pattern for each class, from a fixed seed
cifar10 ... stl10          torchvision's (peers.data.torchvision_sets)
image_folder               a folder of images for each class (peers.data.torchvision_sets)
"""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

import numpy as np
import torch

from peers.common.errors import DataError
from peers.common.seeds import numpy_generator
from peers.config.schema import DataConfig
from peers.data.image_store import Arrays, Loaded

_DIGITS = Path(__file__).with_name("digits.npz")  # digits.txt says where the images come from


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
    try:
        with _DIGITS.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            pixels, classes, is_test = file["images"], file["labels"], file["test"]  # [1797, 8, 8], [1797], [1797]
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile, zlib.error) as exc:
        raise DataError(f"{_DIGITS}: expected the digits, found {exc}; install peer-consensus again") from exc
    images = torch.from_numpy(pixels * 15).unsqueeze(1)  # values 0..16 become 0..240
    labels = torch.from_numpy(classes.astype(np.int64))
    train, test = (torch.from_numpy(np.flatnonzero(rows)) for rows in (~is_test, is_test))
    return Loaded(Arrays(images[train], labels[train]), Arrays(images[test], labels[test]), 10)


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
