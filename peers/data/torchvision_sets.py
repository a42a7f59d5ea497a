"""Data sets that lie in a folder of the user's: torchvision's, and folders of images.

    cifar10 ... stl10          torchvision's readers, which check MD5s, and download where they are told to
    image_folder               root/train/CLASS/IMAGE, and the same in root/test or root/val

torchvision takes seconds to import: this module is imported by the data sets that need it.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import tarfile
import warnings
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision import datasets as readers
from torchvision.datasets.utils import check_integrity
from torchvision.transforms import functional as transforms

from peers.common.errors import ConfigError, DataError
from peers.config.schema import DataConfig
from peers.data.image_store import Arrays, Files, Loaded

_UNREADABLE = (
    RuntimeError,
    OSError,
    ValueError,
    TypeError,
    LookupError,
    AssertionError,
    EOFError,
    pickle.UnpicklingError,
    tarfile.TarError,
    zlib.error,
)
"""What torchvision's readers let out where a file is not what they expect."""


def _root(config: DataConfig, holds: str, *, downloadable: bool) -> Path:
    given = config.root or os.environ.get("PEERS_DATA")
    if given:
        return Path(given).expanduser()
    cache = Path("~/.cache/peers")
    if downloadable and config.download:
        return cache.expanduser()
    hint = f", or download it to {cache} with --set data.download=true" if downloadable else ""
    raise DataError(
        f"{config.name} needs a folder: neither data.root nor the environment's PEERS_DATA is set; "
        f"set one of them to the folder that holds {holds}{hint}"
    )


class _LabelledSTL10(readers.STL10):  # type: ignore[misc]  # torchvision ships no types
    """Without the 2.6 GB of unlabelled images: the reader would insist on them, and check their MD5 for each split."""

    train_list = readers.STL10.train_list[:2]


_READERS: dict[str, tuple[Any, int]] = {
    "cifar10": (readers.CIFAR10, 10),
    "cifar100": (readers.CIFAR100, 100),
    "mnist": (readers.MNIST, 10),
    "fashion_mnist": (readers.FashionMNIST, 10),
    "svhn": (readers.SVHN, 10),
    "stl10": (_LabelledSTL10, 10),
}


def torchvision_dataset(config: DataConfig) -> Loaded:
    """One of torchvision's data sets.

    Raises:
        DataError: it is missing or damaged, or there is no folder to look in.
    """
    reader, classes = _READERS[config.name]
    files = _files(reader)
    holds = next(iter(files)).split("/")[0]
    root = _root(config, holds, downloadable=True)
    with _alone_in(root) if config.download else contextlib.nullcontext():
        missing = [path for path in files if not (root / path).is_file()]
        if missing and not config.download:
            raise DataError(
                f"{config.name} not found under {root}: {', '.join(missing)}; set data.root / PEERS_DATA to the "
                f"folder that holds {holds}, or --set data.download=true"
            )
        try:
            train, test = (_read(reader, root, train, download=bool(missing)) for train in (True, False))
        except _UNREADABLE as exc:
            raise _failure(config.name, root, files, exc, downloading=bool(missing)) from exc
    bad = _damaged(root, files) if issubclass(reader, readers.MNIST) else []
    if not (bad or all(_sound(store, classes) for store in (train, test))):
        bad = ["labels that do not fit the images"]
    if bad:
        raise _damage(config.name, root, ", ".join(bad))
    return Loaded(train, test, classes)


def _sound(store: Arrays, classes: int) -> bool:
    labels = store.labels
    return len(labels) == len(store.images) and bool(((labels >= 0) & (labels < classes)).all())


def _files(reader: Any) -> dict[str, str | None]:
    """What the reader reads below its root, and the MD5 of each file where torchvision knows it."""
    if issubclass(reader, readers.MNIST):
        return {f"{reader.__name__}/raw/{name.removesuffix('.gz')}": None for name, _ in reader.resources}
    if issubclass(reader, readers.SVHN):
        return {name: md5 for _, name, md5 in (reader.split_list["train"], reader.split_list["test"])}
    listed = [*reader.train_list, *reader.test_list]
    if issubclass(reader, readers.CIFAR10):
        listed.append((reader.meta["filename"], reader.meta["md5"]))
    return {f"{reader.base_folder}/{name}": md5 for name, md5 in listed}


def _read(reader: Any, root: Path, train: bool, *, download: bool) -> Arrays:
    by_flag = issubclass(reader, (readers.CIFAR10, readers.MNIST))
    split = {"train": train} if by_flag else {"split": "train" if train else "test"}
    with warnings.catch_warnings():
        # numpy 2.4.0 to 2.4.4 warn of the way in which CIFAR's files, pickled long ago, spell their dtype.
        warnings.simplefilter("ignore", np.exceptions.VisibleDeprecationWarning)
        found = reader(str(root), download=download, **split)
    images = np.asarray(found.data)
    if images.ndim == 3:  # MNIST: no channels
        images = images[:, None]
    elif images.shape[-1] == 3:  # CIFAR: channels last
        images = images.transpose(0, 3, 1, 2)
    labels = np.asarray(found.targets if hasattr(found, "targets") else found.labels)
    return Arrays(torch.from_numpy(np.ascontiguousarray(images)), torch.from_numpy(labels.astype(np.int64)))


@contextlib.contextmanager
def _alone_in(root: Path) -> Iterator[None]:
    """The workers of a host start together: the first one downloads, the others wait and find the files."""
    import fcntl

    with contextlib.ExitStack() as stack:
        # Where no file can be made, none can be downloaded either, and the reader says so: nothing to guard.
        with contextlib.suppress(OSError):
            root.mkdir(parents=True, exist_ok=True)
            fcntl.flock(stack.enter_context((root / ".download.lock").open("w")), fcntl.LOCK_EX)
        yield


def _failure(name: str, root: Path, files: dict[str, str | None], exc: Exception, *, downloading: bool) -> DataError:
    missing = [path for path in files if not (root / path).is_file()]
    if downloading and missing:
        return DataError(
            f"{name} could not be downloaded to {root}: {exc}; check the network and the folder's permissions, "
            f"or bring {', '.join(missing)} there by other means"
        )
    if isinstance(exc, OSError):
        return DataError(f"{name} cannot be read under {root}: {exc}; check the permissions of the files")
    return _damage(name, root, ", ".join(_damaged(root, files)) or str(exc))


def _damage(name: str, root: Path, what: str) -> DataError:
    return DataError(
        f"{name} is damaged under {root}: {what}; restore these files, "
        f"or delete them and start again with --set data.download=true"
    )


def _damaged(root: Path, files: dict[str, str | None]) -> list[str]:
    """Files that differ from their MD5, or, where only the archive's is known, from the archive beside them."""
    return [path for path, md5 in files.items() if not (check_integrity(root / path, md5) and _as_packed(root / path))]


def _as_packed(path: Path) -> bool:
    archive = path.with_name(path.name + ".gz")
    if not archive.is_file():
        return True
    stored = int.from_bytes(archive.read_bytes()[-8:-4], "little")  # gzip ends with CRC-32 and length
    return zlib.crc32(path.read_bytes()) == stored


def image_folder(config: DataConfig) -> Loaded:
    """A folder of images for each class, below train/ and below test/ or val/.

    Raises:
        ConfigError: data.image_size is not set.
        DataError: there are no images, or the classes differ.
    """
    if config.image_size is None:
        raise ConfigError(
            "image_folder brings all images to one size, but data.image_size is not set; "
            "set its side in pixels, e.g. --set data.image_size=64"
        )
    root = _root(config, "train/ and test/ (or val/)", downloadable=False)
    judged = next((name for name in ("test", "val") if any((root / name).glob("*/"))), "val")
    stores, classes = [], []
    for split in ("train", judged):
        try:
            found = readers.ImageFolder(str(root / split))
        except FileNotFoundError as exc:
            raise DataError(
                f"image_folder found no images under {root / split}: {exc}; expected {root}/train/CLASS/IMAGE, "
                f"and the same in {root}/test or {root}/val; set data.root / PEERS_DATA"
            ) from exc
        paths = tuple(Path(path).relative_to(root).as_posix() for path, _ in found.samples)
        labels = torch.tensor([label for _, label in found.samples], dtype=torch.int64)
        stores.append(Files(root, paths, labels, config.image_size))
        classes.append(found.classes)
    if classes[0] != classes[1]:
        differ = sorted({*classes[0]} ^ {*classes[1]})
        raise DataError(
            f"{root}/train and {root}/{judged} hold different classes: {', '.join(differ[:8])} "
            f"{'is' if len(differ) == 1 else 'are'} in one of them only; give both the same folders"
        )
    return Loaded(stores[0], stores[1], len(classes[0]))


def decode(root: Path, paths: Sequence[str], side: int) -> Tensor | str:
    """Images as RGB, shorter side resized to `side` (bilinear, antialiased), centre crop: [b, 3, side, side] uint8.

    Returns:
        the images; or, where a file cannot be read, a text for the user. It is returned and not raised because a
        DataLoader puts the traceback of its worker process into the text of what it raises again.
    """
    images = torch.empty((len(paths), 3, side, side), dtype=torch.uint8)
    for place, path in enumerate(paths):
        try:
            with Image.open(root / path) as image:
                resized = transforms.resize(image.convert("RGB"), [side])
        except Exception as exc:  # Pillow's decoders let out anything on damaged bytes
            return f"{root / path} cannot be read as an image: {type(exc).__name__}: {exc}; restore it or remove it"
        images[place] = transforms.pil_to_tensor(transforms.center_crop(resized, [side, side]))
    return images
