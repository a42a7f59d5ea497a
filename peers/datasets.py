"""Where images come from: each data set as two stores of uint8 images, one for training and one for test.

digits                     scikit-learn's, bundled
synthetic                  noise over one pattern for each class, from a fixed seed
cifar10 ... stl10          torchvision's (peers.published)
image_folder               a folder of images for each class (peers.published)
"""

from __future__ import annotations

import numpy as np
import torch

from peers.config import DataConfig
from peers.seeds import numpy_generator
from peers.stores import Arrays, Loaded


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
    from peers import published

    return published.image_folder(config) if config.name == "image_folder" else published.published(config)


def _digits() -> Loaded:
    # Only this data set needs scikit-learn, which takes seconds to import.
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    found = load_digits()
    images = torch.from_numpy((found.images * 15).astype(np.uint8)).unsqueeze(1)  # values 0..16 become 0..240
    labels = torch.from_numpy(found.target.astype(np.int64))
    parts = train_test_split(np.arange(len(labels)), test_size=450, stratify=found.target, random_state=0)
    train, test = (torch.from_numpy(np.sort(rows)) for rows in parts)
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
