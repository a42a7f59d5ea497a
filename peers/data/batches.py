"""The images of a run, and which of them make up each round: every peer computes the same batch alone.

    data = open_data(config.data, seed, device)
    schedule = Schedule(len(data.train), config.data.batch, seed)
    for images in data.train.stream(schedule.from_round(0)):     # [B, C, H, W], normalized, on the device
        ...

Images stay uint8 until they are gathered, except small sets, which are normalized once. Where all of them fit
`data.budget_mib` they live on the device; otherwise those in memory are gathered there, and those in files are decoded
ahead by worker processes. The values are the same.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import multiprocessing
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from peers.common.errors import DataError
from peers.common.seeds import numpy_generator
from peers.config.schema import DataConfig
from peers.data.image_store import Arrays, Files, ImageStore, Loaded
from peers.data.registry import load

Indices = npt.NDArray[np.int64]
T = TypeVar("T")

STATISTICS_IMAGES = 4096
"""Training images in files that mean and deviation are estimated from."""
SMALL = 16 * 2**20
"""Bytes of float32 images up to which a whole set is normalized once, instead of each batch anew."""


class Split:
    """A part of the images: read it by index, 0 to len - 1.

    Attributes:
        labels: [n] int64 on the CPU.
    """

    def __init__(self, store: ImageStore, rows: Tensor, scale: tuple[Tensor, Tensor], workers: int) -> None:
        """Make a part of a store.

        Args:
            store: uint8 images, or normalized ones.
            rows: [n] int64 on the CPU, the part's images by their rows in the store.
            scale: mean and deviation in units of 0..255, each [C, 1, 1] float32 on the device of the batches.
            workers: processes that decode a stream of files; 0: this one.
        """
        self.labels = store.labels[rows]
        self._store, self._rows, self._scale, self._workers = store, rows, scale, workers

    def __len__(self) -> int:
        return len(self._rows)

    def batch(self, indices: npt.ArrayLike | Tensor) -> Tensor:
        """Images by index.

        Args:
            indices: [b] integers below len(self).

        Returns:
            [b, C, H, W] float32 on the device, normalized to mean 0 and deviation 1 per channel.

        Raises:
            IndexError: an index is out of range.
            DataError: a file cannot be read.
        """
        return self._normalize(_take(self._store, self._rows_of(indices)))

    def stream(self, batches: Iterable[npt.ArrayLike | Tensor]) -> Iterator[Tensor]:
        """`batch` for a sequence of indices, which may be endless.

        Images in files are decoded ahead: the sequence is read some batches earlier than they are given out.
        """
        return map(self._normalize, _stream(self._store, map(self._rows_of, batches), self._workers))

    def _rows_of(self, indices: npt.ArrayLike | Tensor) -> Tensor:
        chosen = indices.cpu() if isinstance(indices, Tensor) else torch.tensor(indices, dtype=torch.int64)
        return self._rows[chosen]

    def _normalize(self, images: Tensor) -> Tensor:
        return images if images.is_floating_point() else _normalized(images, self._scale)


@dataclass(frozen=True)
class Data:
    """A data set, opened for a run.

    Attributes:
        train: what peers train on, and probes fit.
        validation: a part of the training images, drawn by the run's seed.
        test: the published test images.
        shape: (C, H, W) of an image.
        classes: number of classes.
        fingerprint: 32 hex digits, BLAKE2b-128 of name, sizes, shape, labels and content (of relative paths and sizes
            for files that are streamed). Peers with the same one see the same images under the same index.
        mean: of each channel of `train`, in units of 0..1.
        std: deviation of each channel likewise; 1 for a constant channel. Both are exact sums over all images in
            memory, and over `STATISTICS_IMAGES` of an image_folder, drawn by the run's seed.
    """

    train: Split
    validation: Split
    test: Split
    shape: tuple[int, int, int]
    classes: int
    fingerprint: str
    mean: tuple[float, ...]
    std: tuple[float, ...]


def open_data(config: DataConfig, seed: int, device: torch.device) -> Data:
    """Open the data set that a configuration names, and hold out its validation images.

    Args:
        config: the section `data`.
        seed: the run's seed; draws the validation images.
        device: where batches are wanted.

    Raises:
        ConfigError: image_folder without data.image_size.
        DataError: the images are missing, damaged or too few, or there is no folder to look in.
    """
    loaded = load(config)
    train_rows, validation_rows = _held_out(len(loaded.train.labels), config.validation, seed)
    seen = train_rows
    if isinstance(loaded.train, Files) and len(train_rows) > STATISTICS_IMAGES:
        drawn = numpy_generator(seed, "statistics").choice(len(train_rows), STATISTICS_IMAGES, replace=False)
        seen = train_rows[torch.from_numpy(np.sort(drawn))]
    stores, fingerprint = _place(loaded, config, [len(train_rows), len(validation_rows)], device)
    mean, std = _statistics(_stream(stores[0], _chunks(seen, stores[0]), config.loader_workers))
    scale = (_per_channel(mean, device), _per_channel(std, device))
    stores = [_small_normalized(store, scale) for store in stores]
    splits = [
        Split(store, rows, scale, config.loader_workers)
        for store, rows in (
            (stores[0], train_rows),
            (stores[0], validation_rows),
            (stores[1], torch.arange(len(stores[1].labels))),
        )
    ]
    return Data(splits[0], splits[1], splits[2], stores[0].shape, loaded.classes, fingerprint, mean, std)


def _held_out(images: int, share: float, seed: int) -> tuple[Tensor, Tensor]:
    """Rows of the training part and of the validation part, both ascending."""
    count = max(1, round(images * share))
    if count >= images:
        raise DataError(
            f"the training split has {images} images, of which data.validation={share} holds out {count}: none is left "
            f"to train on; use more images or a smaller data.validation"
        )
    drawn = torch.from_numpy(numpy_generator(seed, "validation").permutation(images))
    return drawn[count:].sort().values, drawn[:count].sort().values


def _place(loaded: Loaded, config: DataConfig, parts: list[int], device: torch.device) -> tuple[list[ImageStore], str]:
    """Both stores where the budget puts them, and the fingerprint of what they hold."""
    stores = [loaded.train, loaded.test]
    size = sum(len(store.labels) * math.prod(store.shape) for store in stores)
    resident = size <= config.budget_mib * 2**20
    if resident:
        stores = [_decoded(store, config.loader_workers) if isinstance(store, Files) else store for store in stores]
    digest = hashlib.blake2b(digest_size=16)
    about = [config.name, loaded.classes, *parts, *(len(store.labels) for store in stores), *stores[0].shape]
    digest.update(json.dumps(about).encode())
    for store in stores:
        digest.update(store.labels.numpy().astype("<i8").data)
        for part in store.content():
            digest.update(part)
    if resident:
        stores = [Arrays(s.images.to(device), s.labels) if isinstance(s, Arrays) else s for s in stores]
    return stores, digest.hexdigest()


def _statistics(batches: Iterable[Tensor]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation of each channel in units of 0..1, rounded once: the sums are integers."""
    count, total, squares = 0, torch.zeros((), dtype=torch.int64), torch.zeros((), dtype=torch.int64)
    for images in batches:
        wide = images.to(torch.int32)
        count += images.numel() // images.shape[1]
        # 32 bits hold the sum of a row's squares (of at most 1024 pixels) and are several times faster than 64.
        total = total + wide.sum(3, dtype=torch.int32).sum((0, 2)).cpu()
        squares = squares + wide.square_().sum(3, dtype=torch.int32).sum((0, 2)).cpu()
    pairs = list(zip(total.tolist(), squares.tolist(), strict=True))
    mean = tuple(one / (255 * count) for one, _ in pairs)
    variance = [(count * two - one * one) / (255 * count) ** 2 for one, two in pairs]
    return mean, tuple(math.sqrt(value) or 1.0 for value in variance)


def _normalized(images: Tensor, scale: tuple[Tensor, Tensor]) -> Tensor:
    """Two operations of which each rounds once, so that the CPU and the GPU give the same bits."""
    mean, deviation = scale
    return images.to(mean.device, non_blocking=True).to(torch.float32).sub_(mean).div_(deviation)


def _small_normalized(store: ImageStore, scale: tuple[Tensor, Tensor]) -> ImageStore:
    if isinstance(store, Files) or 4 * store.images.numel() > SMALL:
        return store
    return Arrays(_normalized(store.images, scale), store.labels)


def _chunks(rows: Tensor, store: ImageStore) -> Sequence[Tensor]:
    """Rows in pieces of about four million values, whatever the size of the images."""
    return torch.split(rows, max(1, 2**22 // math.prod(store.shape)))


def _per_channel(values: Sequence[float], device: torch.device) -> Tensor:
    return torch.tensor([255 * value for value in values], dtype=torch.float32, device=device).view(-1, 1, 1)


def _take(store: ImageStore, rows: Tensor) -> Tensor:
    """Images [b, C, H, W] of rows [b] (on the CPU), as the store has them and where it lives."""
    if isinstance(store, Files):
        return _checked(_Decoder(store).__getitems__(rows.tolist()))
    return store.images.index_select(0, rows.to(store.images.device, non_blocking=True))


def _stream(store: ImageStore, batches: Iterable[Tensor], workers: int) -> Iterator[Tensor]:
    """`_take` for a sequence of rows, with images in files decoded ahead by worker processes."""
    if isinstance(store, Arrays):
        return (_take(store, rows) for rows in batches)
    loader = DataLoader(
        _Decoder(store),
        batch_sampler=(rows.tolist() for rows in batches),
        collate_fn=_as_is,
        num_workers=workers,
        multiprocessing_context=_process_context() if workers else None,
        # The loader draws a seed for its workers; by default from the global generator, which others use.
        generator=torch.Generator(),
    )
    return _checked_all(loader, store.root, workers)


def _process_context() -> BaseContext:
    """Workers forked from a server: a plain fork would copy the locks of running threads (gRPC, CUDA) as they are.

    The server imports this module, and torch with it, once for all workers of all streams.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["__main__", __name__, "peers.data.torchvision_sets"])
    return context


def _checked_all(loader: DataLoader[Any], root: Path, workers: int) -> Iterator[Tensor]:
    ahead = iter(loader)
    while True:
        try:
            found = next(ahead)
        except StopIteration:
            return
        except RuntimeError as exc:
            raise DataError(
                f"a process that decodes images under {root} ended early: {exc}; "
                f"lower data.loader_workers (now {workers}) if memory ran out"
            ) from exc
        yield _checked(found)


class _Decoder(Dataset[Any]):
    """Decodes batches of files, here or in a worker process; see `decode` for what it returns."""

    def __init__(self, files: Files) -> None:
        self._root, self._paths, self._side = files.root, files.paths, files.side

    def __getitems__(self, rows: list[int]) -> Tensor | str:
        from peers.data.torchvision_sets import decode  # imports torchvision, which takes seconds

        return decode(self._root, [self._paths[row] for row in rows], self._side)


def _as_is(batch: T) -> T:
    return batch


def _checked(found: Tensor | str) -> Tensor:
    if isinstance(found, str):
        raise DataError(found)
    return found


def _decoded(files: Files, workers: int) -> Arrays:
    images = torch.empty((len(files.paths), *files.shape), dtype=torch.uint8)
    start = 0
    for part in _stream(files, _chunks(torch.arange(len(images)), files), workers):
        images[start : start + len(part)] = part
        start += len(part)
    return Arrays(images, files.labels)


class Schedule:
    """Which images make up each round: a pure function of (run seed, round).

    An epoch visits each image once in a random order; what is left over at its end, less than a batch, is dropped.
    """

    def __init__(self, images: int, batch: int, seed: int) -> None:
        """Plan the rounds.

        Args:
            images: size of the training part.
            batch: images in a round.
            seed: the run's seed.

        Raises:
            DataError: a batch is larger than the training part.
        """
        if batch > images:
            raise DataError(
                f"data.batch is {batch}, but the training part has {images} images; "
                f"set data.batch to at most {images}, or use more images"
            )
        self.rounds_per_epoch = images // batch
        self._images, self._batch, self._seed = images, batch, seed
        self._latest: tuple[int, Indices] = (-1, np.empty(0, np.int64))

    def indices(self, round_: int) -> Indices:
        """[B] int64, the images of a round (0, 1, ...) by their index in the training part."""
        if round_ < 0:
            raise ValueError(f"rounds count from 0, found {round_}")
        epoch, place = divmod(round_, self.rounds_per_epoch)
        known, order = self._latest
        if known != epoch:
            order = numpy_generator(self._seed, "batches", epoch).permutation(self._images)
            self._latest = epoch, order
        return order[place * self._batch : (place + 1) * self._batch].copy()

    def from_round(self, round_: int) -> Iterator[Indices]:
        """The indices of this round and of all that follow, without end."""
        return map(self.indices, itertools.count(round_))


def batch_digest(round_: int, indices: Indices, fingerprint: str) -> bytes:
    """16 bytes that two peers have in common if and only if they see the same images in the same round.

    BLAKE2b-128 of the round, the indices (both int64, little-endian) and the data's fingerprint.
    """
    digest = hashlib.blake2b(struct.pack("<q", round_), digest_size=16)
    digest.update(np.ascontiguousarray(indices, dtype="<i8").data)
    digest.update(fingerprint.encode())
    return digest.digest()
