"""How many bytes a run takes, as far as its configuration tells."""

from __future__ import annotations

from coordinator.doctor.findings import Subject
from peers.common.errors import PeersError
from peers.config.schema import OptimizerConfig


def shown(size: float) -> str:
    """A number of bytes for a reader."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def checkpoint_bytes(subject: Subject) -> int:
    """Of the group's largest checkpoint: weights, buffers and the optimizer's state. 0 where the images are unknown."""
    return _largest(subject) * (1 + _moments(subject.config.optimizer))


def training_bytes(subject: Subject) -> int:
    """What the group's largest peer holds while it learns, without activations: a gradient on top of a checkpoint."""
    return _largest(subject) * (2 + _moments(subject.config.optimizer))


def output_bytes(subject: Subject) -> int:
    """Of one peer's outputs [B, D] in float32."""
    from peers.networks.widths import common_width

    return 4 * subject.config.data.batch * common_width(subject.config)


def _largest(subject: Subject) -> int:
    from peers.networks.registry import weight_bytes

    grounds = subject.grounds
    if isinstance(grounds, PeersError):
        return 0
    return max(weight_bytes(network, grounds.data.shape) for network in subject.config.network)


def _moments(optimizer: OptimizerConfig) -> int:
    """Tensors of the size of the weights that the optimizer keeps."""
    return int(optimizer.momentum > 0) if optimizer.name == "sgd" else 2
