"""Digits are the images that scikit-learn bundles, read without importing it."""

from __future__ import annotations

import gzip
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from peers.data import registry as datasets
from peers.config.schema import DataConfig
from peers.common.errors import DataError
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
    """Its import would cost every worker seconds; the bundled file is read as it lies there."""
    code = (
        "import sys; from peers.config import schema; from peers.data import registry; registry.load(schema.DataConfig(name='digits'));"
        "sys.exit('sklearn' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0


def test_digits_that_are_not_where_scikit_learn_has_them_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A missing, damaged or different file is named with what to do; and so is a missing scikit-learn."""
    folder = tmp_path / "sklearn" / "datasets" / "data"
    folder.mkdir(parents=True)
    (tmp_path / "sklearn" / "__init__.py").touch()
    monkeypatch.delitem(sys.modules, "sklearn")
    monkeypatch.syspath_prepend(str(tmp_path))
    whole = gzip.compress(b"1,2\n")
    for content, problem in (
        (None, "No such file"),
        (whole[:-9], "ended before"),
        (b"1,2", "gzip"),
        (whole, r"\(1, 2\)"),
    ):
        if content is not None:
            (folder / "digits.csv.gz").write_bytes(content)
        with pytest.raises(DataError, match=rf"digits\.csv\.gz: .*{problem}.*install scikit-learn again"):
            datasets.load(DIGITS)
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(DataError, match="pip install scikit-learn"):
        datasets.load(DIGITS)
