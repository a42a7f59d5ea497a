"""Snapshots: a network's weights at chosen rounds, for analysis; a run does not need them to resume.

    RUN/snapshots/peer-000/round-00000012.safetensors    weights and buffers after 12 rounds

The network at initialization is not among them: it is built again from the seed.
"""

from __future__ import annotations

import re

import safetensors.torch
from torch import Tensor, nn

from peers.common.errors import CheckpointError
from peers.common.files import write_atomically
from peers.runs.run_folder import RunFolder

_NAME = re.compile(r"round-(\d+)\.safetensors")


def chosen(count: int, rounds: int) -> tuple[int, ...]:
    """At most `count` rounds of a run, 1 to `rounds`, in equal steps of the logarithm: most happens early.

    Args:
        count: how many; 0: none.
        rounds: length of the run; always the last of them.
    """
    if count == 0:
        return ()
    steps = max(1, count - 1)
    spread = {round(rounds ** (step / steps)) for step in range(count)} if count > 1 else set()
    return tuple(sorted(spread | {rounds}))


def save(folder: RunFolder, peer: int, round_: int, network: nn.Module) -> None:
    """Keep a network as it is after `round_` rounds.

    Raises:
        CheckpointError: the folder cannot be written.
    """
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in network.state_dict().items()}
    place = folder.snapshots(peer)
    try:
        place.mkdir(parents=True, exist_ok=True)
        write_atomically(place / f"round-{round_:08d}.safetensors", safetensors.torch.save(tensors))
    except OSError as exc:
        raise CheckpointError(f"peer {peer}: cannot keep a snapshot in {place}: {exc}") from exc


def rounds(folder: RunFolder, peer: int) -> list[int]:
    """Rounds that a peer has snapshots of, ascending; never 0."""
    place = folder.snapshots(peer)
    if not place.is_dir():
        return []
    return sorted(int(m[1]) for path in place.iterdir() if (m := _NAME.fullmatch(path.name)))


def load(folder: RunFolder, peer: int, round_: int) -> dict[str, Tensor]:
    """State of a peer's network after `round_` rounds, on the CPU.

    Raises:
        CheckpointError: it is not there or cannot be read.
    """
    path = folder.snapshots(peer) / f"round-{round_:08d}.safetensors"
    try:
        return safetensors.torch.load(path.read_bytes())
    except (OSError, ValueError, safetensors.SafetensorError) as exc:
        raise CheckpointError(f"cannot read the snapshot {path}: {exc}") from exc
