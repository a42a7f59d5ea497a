"""Why the shuffled control gains early: is it where a gradient step goes, or that weights move at all?

    uv run python -m tests.benchmarks.weight_directions

For digits and the recipe of deploy/experiments/digits.yaml, after 60 rounds, on validation images, seeds 100 to 104:
the gain of trained groups, and the gain of the same initial networks whose every tensor has moved just as far in a
random direction; and how much of the first layer's change lies in the first 8 of the 64 principal directions of the
images.
"""

from __future__ import annotations

import copy
import statistics
import sys
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from peers.config import loading as configfile
from peers.data.batches import Data, Schedule, batch_digest
from peers.exchange.base import Hello
from peers.exchange.inprocess import InProcessGroup
from peers.method.peer import Peer
from peers.method.target_selection import TargetSelection
from peers.transport.values import Consensus
from peers.worker.placement import Placement, with_group
from peers.worker.preflight import RunContext, check

ROUNDS = 60
SEEDS = range(100, 105)
DIRECTIONS = 8
CPU = torch.device("cpu")


def main() -> None:
    """Print a line for the consensus, and one for the shuffled control."""
    torch.set_num_threads(1)
    for control in ("none", "shuffled"):
        found = [measured(control, seed) for seed in SEEDS]
        parts = [
            f"{name} {statistics.fmean(values):+.2f} ± {statistics.stdev(values):.2f}"
            for name in found[0]
            for values in [[one[name] for one in found]]
        ]
        sys.stdout.write(f"control {control}: {'; '.join(parts)}\n")
        sys.stdout.flush()


def measured(control: str, seed: int) -> dict[str, float]:
    """Gains in points, and shares of squared weights, of one group."""
    sets = [
        *("probe.split=validation", "exchange.kind=inprocess", "optimizer.name=sgd", "optimizer.learning_rate=0.03"),
        *(f"run.rounds={ROUNDS}", f"run.seed={seed}", f"consensus.control={control}"),
    ]
    config = with_group(configfile.load(None, sets), Placement())
    grounds = check(config, CPU)
    peers = [Peer(config, i, grounds.data.shape, ROUNDS, CPU) for i in range(config.group.peers or 0)]
    before = [copy.deepcopy(peer.network) for peer in peers]
    train(peers, grounds)
    after = [peer.network for peer in peers]
    moved = [elsewhere(old, new, seed) for old, new in zip(before, after, strict=True)]
    axes = principal(grounds.data)
    first = [(next(old.parameters()), next(new.parameters())) for old, new in zip(before, after, strict=True)]
    start, trained, random = (scores(grounds, networks) for networks in (before, after, moved))
    return {
        **{f"{probe} gain, trained": trained[probe] - start[probe] for probe in start},
        **{f"{probe} gain, moved at random": random[probe] - start[probe] for probe in start},
        "share of the change": statistics.fmean(share(new - old, axes) for old, new in first),
        "share of the initial weights": statistics.fmean(share(old, axes) for old, _ in first),
    }


def train(peers: Sequence[Peer], grounds: RunContext) -> None:
    """All rounds of a group in this process."""
    config, data = peers[0].config, grounds.data
    ids = tuple(peer.id for peer in peers)
    exchange = InProcessGroup().exchange()
    saved: dict[int, tuple[int, ...]] = dict.fromkeys(ids, ())
    shape = (config.data.batch, grounds.width)
    exchange.join(
        Hello(ids, len(ids), shape, {}, saved, TargetSelection.of(config.consensus, config.run.seed), "float32")
    )
    schedule = Schedule(len(data.train), config.data.batch, config.run.seed)
    for round_ in range(ROUNDS):
        indices = schedule.indices(round_)
        images = data.train.batch(indices)
        published = {peer.id: peer.forward(images) for peer in peers}
        outcome = exchange.publish(round_, published, batch_digest(round_, indices, data.fingerprint)).result()
        if not isinstance(outcome, Consensus):
            raise TypeError(f"expected a consensus in round {round_}, found {outcome}")
        for peer in peers:
            peer.step(outcome)


@torch.no_grad()
def elsewhere(old: nn.Module, new: nn.Module, seed: int) -> nn.Module:
    """A copy of the old network with each tensor moved as far as the new one's, in a random direction."""
    network, generator = copy.deepcopy(old), torch.Generator().manual_seed(seed)
    for mine, was, now in zip(network.parameters(), old.parameters(), new.parameters(), strict=True):
        step = torch.randn(was.shape, generator=generator)
        mine.add_(step * ((now - was).norm() / step.norm()))
    return network


def scores(grounds: RunContext, networks: Sequence[nn.Module]) -> dict[str, float]:
    """Accuracies on validation images, percent, means over networks."""
    found = [grounds.evaluator.network(network) for network in networks]
    return {probe: statistics.fmean(one[probe] for one in found) for probe in found[0]}


def principal(data: Data) -> Tensor:
    """[DIRECTIONS, pixels]: the directions in which the training images vary most."""
    images = data.train.batch(range(len(data.train))).flatten(1)
    return torch.linalg.svd(images - images.mean(0), full_matrices=False).Vh[:DIRECTIONS]


def share(weights: Tensor, axes: Tensor) -> float:
    """How much of the squared weights [units, pixels] lies in these directions."""
    return float((weights.detach() @ axes.T).pow(2).sum() / weights.detach().pow(2).sum())


if __name__ == "__main__":
    main()
