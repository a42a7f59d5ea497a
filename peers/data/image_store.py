"""Where images lie once a data set is open: in memory, or in files."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor


@dataclass(frozen=True, eq=False)
class Arrays:
    """Images in memory.

    Attributes:
        images: [n, C, H, W] uint8, or float32 once they are normalized; contiguous, on any device.
        labels: [n] int64 on the CPU.
    """

    images: Tensor
    labels: Tensor

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of an image."""
        channels, height, width = self.images.shape[1:]
        return channels, height, width

    def content(self) -> Iterator[Any]:
        """The bytes that tell this store from another."""
        yield self.images.cpu().numpy().data


@dataclass(frozen=True, eq=False)
class Files:
    """Images in files, to be decoded by `decode`.

    Attributes:
        root: folder that the paths are relative to.
        paths: of the n images, with forward slashes.
        labels: [n] int64 on the CPU.
        side: pixels of the square that each is resized and cropped to.
    """

    root: Path
    paths: tuple[str, ...]
    labels: Tensor
    side: int

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of a decoded image."""
        return 3, self.side, self.side

    def content(self) -> Iterator[Any]:
        """The bytes that tell this store from another: paths and sizes, not the images themselves."""
        for path in self.paths:
            yield f"{path}\0{(self.root / path).stat().st_size}\n".encode()


ImageStore = Arrays | Files


@dataclass(frozen=True)
class Loaded:
    """A data set as it was published: its training and test images, and the number of classes."""

    train: ImageStore
    test: ImageStore
    classes: int
