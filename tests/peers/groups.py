"""Small groups for tests: peers on random images, and one round of an exchange between workers in threads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from peers.config.loading import parse
from peers.config.schema import Config
from peers.exchange.base import Hello, Pending
from peers.exchange.inprocess import InProcessGroup
from peers.method.peer import Peer, Step
from peers.method.target_selection import TargetSelection
from peers.transport.values import Consensus

SHAPE = (1, 6, 6)
BATCH = 16
WIDTH = 8
DIGEST = b"the same batch.."
CPU = torch.device("cpu")

Array = NDArray[np.float64]


@contextmanager
def one_thread() -> Iterator[None]:
    """Networks this small are slower on several compute threads, many times so where the cores are busy."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def config_of(**sections: Any) -> Config:
    """A configuration with a small MLP, changed section by section."""
    network = {"depth": 2, "width": WIDTH, **sections.pop("network", {})}
    return parse({"network": network, "data": {"batch": BATCH}, "group": {"peers": 3}, **sections})


def images_of(round_: int, seed: int = 0) -> Tensor:
    """[B, C, H, W] of random pixels, the same for all peers of a round."""
    generator = torch.Generator().manual_seed(1000 * seed + round_)
    return torch.randn(BATCH, *SHAPE, generator=generator)


class Group:
    """All peers of a configuration in one worker, joined.

    Args:
        config: names the peers, the rule and the wire.
        rounds: length of the run, for the learning-rate schedule.
    """

    def __init__(self, config: Config, rounds: int = 20) -> None:
        members = tuple(range(config.group.peers or 0))
        self.peers = [Peer(config, peer, SHAPE, rounds, CPU) for peer in members]
        self.exchange = InProcessGroup().exchange()
        rule = TargetSelection.of(config.consensus, config.run.seed)
        saved: dict[int, tuple[int, ...]] = dict.fromkeys(members, ())
        self.exchange.join(Hello(members, len(members), (BATCH, WIDTH), {}, saved, rule, config.exchange.wire))

    def round(self, round_: int) -> list[Step]:
        """One round of all peers; what each did."""
        published = {peer.id: peer.forward(images_of(round_)) for peer in self.peers}
        consensus = closed(self.exchange.publish(round_, published, DIGEST))
        return [peer.step(consensus) for peer in self.peers]


def closed(pending: Pending) -> Consensus[Tensor]:
    """What a round came to in a group that nobody leaves early."""
    outcome = pending.result()
    assert isinstance(outcome, Consensus)
    return outcome


def exchanged(
    outputs: Mapping[int, Tensor | None],
    rule: TargetSelection,
    *,
    wire: str = "float32",
    round_: int = 0,
    workers: int = 1,
) -> dict[int, Consensus[Tensor]]:
    """What each peer's worker gets back when all publish once.

    Args:
        outputs: {peer: [B, D]} for peers 0 to N - 1; None abstains.
        rule: what is asked of the exchange.
        wire: dtype of publications.
        round_: number of the round.
        workers: how many workers share the peers, in blocks; each is a thread.
    """
    members = sorted(outputs)
    blocks = [tuple(int(i) for i in block) for block in np.array_split(members, min(workers, len(members)))]
    group = InProcessGroup(len(blocks), round_deadline=20, join_window=20)
    shape = next((z.shape[0], z.shape[1]) for z in [*outputs.values(), torch.zeros(1, 1)] if z is not None)

    def work(block: tuple[int, ...]) -> Consensus[Tensor]:
        exchange = group.exchange()
        exchange.join(Hello(block, len(members), shape, {}, dict.fromkeys(block, ()), rule, wire))
        return closed(exchange.publish(round_, {peer: outputs[peer] for peer in block}, DIGEST))

    with ThreadPoolExecutor(len(blocks)) as pool:
        seen = list(pool.map(work, blocks))
    return {peer: consensus for block, consensus in zip(blocks, seen, strict=True) for peer in block}


def on_wire(outputs: Tensor, wire: str) -> Array:
    """Outputs as the others read them, in double precision; bf16 is rounded by hand, to nearest, ties to even."""
    values = outputs.detach().numpy().astype(np.float32)
    if wire == "float16":
        values = values.astype(np.float16).astype(np.float32)
    if wire == "bf16":
        bits = values.view(np.uint32)
        values = ((bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000).astype(np.uint32).view(np.float32)
    return values.astype(np.float64)


def mean_of(arrays: Sequence[Array]) -> Array:
    """Their mean, element by element."""
    return np.asarray(np.stack(arrays).mean(axis=0))
