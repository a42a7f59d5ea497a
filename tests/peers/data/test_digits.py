"""Digits are the images that scikit-learn bundles, read from a file of this project."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from peers.common.errors import DataError
from peers.config.schema import DataConfig
from peers.data import registry as datasets
from peers.data.image_store import Arrays

DIGITS = DataConfig(name="digits")


def test_digits_are_scikit_learns_own_split() -> None:
    """Images, labels and their order are what load_digits and a stratified train_test_split give, bit for bit."""
    found = datasets.load(DIGITS)
    images, labels = load_digits(return_X_y=True)
    parts = train_test_split(np.arange(len(labels)), test_size=450, stratify=labels, random_state=0)
    for store, rows in zip((found.train, found.test), map(np.sort, parts), strict=True):
        assert isinstance(store, Arrays)
        assert store.images.dtype == torch.uint8
        assert np.array_equal(store.images.flatten(1), images[rows] * 15)
        assert store.labels.tolist() == labels[rows].tolist()


def test_digits_do_without_importing_scikit_learn() -> None:
    """A worker needs no scikit-learn."""
    code = (
        "import sys; from peers.config import schema; from peers.data import registry; "
        "registry.load(schema.DataConfig(name='digits')); "
        "sys.exit('sklearn' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0


@pytest.mark.parametrize("keep", [None, 0, 1000, -1000])
def test_damaged_digits_are_named(keep: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing or cut file is named, with what to do."""
    path = tmp_path / "digits.npz"
    if keep is not None:
        path.write_bytes(datasets._DIGITS.read_bytes()[:keep])
    monkeypatch.setattr(datasets, "_DIGITS", path)
    with pytest.raises(DataError, match=r"digits\.npz: .*install peer-consensus again"):
        datasets.load(DIGITS)
