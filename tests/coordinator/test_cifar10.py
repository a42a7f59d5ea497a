"""The main job on real photographs, where the data is at hand."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.commands import LAUNCH, run, settings, summary

ROOT = Path(__file__).parents[2]
DATA = Path(os.environ.get("PEERS_DATA", "")) / "cifar-10-batches-py"

pytestmark = pytest.mark.skipif(
    not DATA.is_dir(),
    reason="real CIFAR-10 is not at hand: set PEERS_DATA to the folder that holds cifar-10-batches-py",
)


def test_a_convnet_on_cifar10_ends_with_its_table(tmp_path: Path) -> None:
    """deploy/cifar10.yaml, made small enough for a CPU: two convnets, 30 rounds, probes on part of the images."""
    small = settings(
        "run.rounds=30",
        "data.batch=64",
        "network.name=convnet",
        "network.depth=4",
        "network.width=16",
        "group.peers=2",
        "group.peers_per_worker=1",
        "precision=float32",
        "probe.train_images=2000",
        "probe.norm_images=512",
        "probe.linear_steps=20",
        "probe.live_images=500",
    )
    code, output = run((*LAUNCH, str(ROOT / "deploy" / "cifar10.yaml"), *small), tmp_path, timeout=280)
    assert code == 0, output
    result = summary(tmp_path / "runs" / "cifar10")
    assert result["rounds"] == 30
    assert result["exchange"] == "collective"
    assert 20 < result["baseline"]["linear"] < 60  # far from chance (10), far from what supervision gives
    assert 30 < result["pixels"]["knn"] < 45
    assert all(report["stepped"] == 30 for report in result["per_peer"])
