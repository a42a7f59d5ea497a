"""What every exchange is put through: each scenario is one worker's side of the contract, and what it saw.

A scenario gets (exchange, worker, spec) and returns plain values; the arenas run it in every worker of a group and the
test compares what came back with a reference of its own.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from peers.common.errors import ExchangeError
from peers.exchange.base import Exchange, Hello, Pending, receipt_of
from peers.method.target_selection import TargetSelection
from peers.transport.values import Consensus

SEED = 7
AMPLE, SHORT = 10.0, 2.0
"""Seconds of a round: none ends for want of time on a busy machine; one ends soon, where that is what is looked at."""
IMPATIENCE = 1.5
"""Seconds that some wait, of a round that takes longer."""
RUN = "contract"
DIGEST = bytes(range(16))


@dataclass(frozen=True)
class Spec:
    """A group: which peers each worker hosts, what rule it follows, how outputs travel, how long a round may take."""

    hosted: tuple[tuple[int, ...], ...]
    rule: str = "mean"
    k: int = 1
    wire: str = "float32"
    shape: tuple[int, int] = (6, 5)
    deadline: float = AMPLE

    @property
    def group(self) -> int:
        return sum(len(peers) for peers in self.hosted)

    def hello(self, worker: int) -> Hello:
        peers = self.hosted[worker]
        rule = TargetSelection(self.rule, SEED, self.k)
        return Hello(
            peers, self.group, self.shape, {"configuration": "same"}, dict.fromkeys(peers, ()), rule, self.wire
        )


def outputs_of(spec: Spec, peer: int, round_: int) -> torch.Tensor:
    """Outputs that any process can make again: the reference needs all of them."""
    generator = torch.Generator().manual_seed(1000 * round_ + peer)
    return torch.randn(spec.shape, generator=generator) * 10.0 ** (peer % 4 - 1)


def seen(consensus: Consensus[Tensor]) -> dict[str, Any]:
    """A consensus as plain values, which travel between processes."""
    return {
        "round": consensus.round,
        "epoch": consensus.epoch,
        "contributors": consensus.contributors,
        "count": consensus.count,
        "total": None if consensus.total is None else consensus.total.numpy().copy(),
        "sent": {peer: z.numpy().copy() for peer, z in consensus.sent.items()},
        "aggregate": None if consensus.aggregate is None else consensus.aggregate.numpy().copy(),
        "members": {peer: z.numpy().copy() for peer, z in consensus.members.items()},
        "sources": dict(consensus.sources),
        "leaving": sorted(consensus.leaving),
        "receipt": receipt_of(consensus),
    }


def closed(pending: Pending) -> Consensus[Tensor]:
    """The consensus of a round that must close for this worker."""
    outcome = pending.result()
    assert isinstance(outcome, Consensus), outcome
    return outcome


def rounds(exchange: Exchange, worker: int, spec: Spec, count: int = 3) -> list[dict[str, Any]]:
    """Join, a few rounds, leave; the outputs are overwritten right after each publish."""
    exchange.join(spec.hello(worker))
    results = []
    for round_ in range(count):
        outputs = {peer: outputs_of(spec, peer, round_) for peer in spec.hosted[worker]}
        pending = exchange.publish(round_, outputs, DIGEST)
        for z in outputs.values():
            z.fill_(float("nan"))  # allowed: publish has taken what it needs
        results.append(seen(closed(pending)))
    exchange.leave({peer: {} for peer in spec.hosted[worker]})
    return results


def tickets_and_reports(exchange: Exchange, worker: int, spec: Spec) -> Any:
    """What joining and leaving give back; peers have saved different rounds."""
    saved = {peer: tuple(range(10, 50 - 10 * (peer % 2), 10)) for peer in spec.hosted[worker]}
    ticket = exchange.join(replace(spec.hello(worker), saved=saved))
    reports = exchange.leave({peer: {"name": f"peer {peer}", "score": peer / 3} for peer in spec.hosted[worker]})
    return ticket, dict(reports)


def no_common_checkpoint(exchange: Exchange, worker: int, spec: Spec) -> Any:
    """One peer has saved nothing."""
    saved = {peer: () if peer == 0 else (10, 20) for peer in spec.hosted[worker]}
    ticket = exchange.join(replace(spec.hello(worker), saved=saved))
    exchange.leave({})
    return ticket.first_round


def abstaining(exchange: Exchange, worker: int, spec: Spec) -> Any:
    """Peer 0 abstains in round 0, everybody in round 1, nobody in round 2."""
    exchange.join(spec.hello(worker))
    results = []
    for round_ in range(3):
        outputs = {
            peer: None if round_ == 1 or (round_ == 0 and peer == 0) else outputs_of(spec, peer, round_)
            for peer in spec.hosted[worker]
        }
        outcome = exchange.publish(round_, outputs, DIGEST).result()
        results.append(seen(outcome) if isinstance(outcome, Consensus) else outcome)
    exchange.leave({})
    return results


def leaving(exchange: Exchange, worker: int, spec: Spec) -> Any:
    """The last worker says in round 1 that it leaves."""
    exchange.join(spec.hello(worker))
    results = []
    for round_ in range(2):
        outputs = {peer: outputs_of(spec, peer, round_) for peer in spec.hosted[worker]}
        goes = round_ == 1 and worker == len(spec.hosted) - 1
        results.append(seen(closed(exchange.publish(round_, outputs, DIGEST, leaving=goes))))
    exchange.leave({})
    return results


def other_batch(exchange: Exchange, worker: int, spec: Spec) -> str:
    """The last worker saw another batch; every worker gets the same refusal."""
    exchange.join(spec.hello(worker))
    digest = DIGEST if worker < len(spec.hosted) - 1 else bytes(16)
    outputs = {peer: outputs_of(spec, peer, 0) for peer in spec.hosted[worker]}
    return _refusal(lambda: exchange.publish(0, outputs, digest).result())


def other_configuration(exchange: Exchange, worker: int, spec: Spec) -> str:
    """The last worker was started with another configuration."""
    hello = spec.hello(worker)
    if worker == len(spec.hosted) - 1:
        hello = replace(hello, agreed={"configuration": "other"})
    return _refusal(lambda: exchange.join(hello))


def other_width(exchange: Exchange, worker: int, spec: Spec) -> str:
    """The last worker's networks have another output width."""
    hello = spec.hello(worker)
    if worker == len(spec.hosted) - 1:
        hello = replace(hello, shape=(spec.shape[0], 99))
    return _refusal(lambda: exchange.join(hello))


def one_never_publishes(exchange: Exchange, worker: int, spec: Spec) -> str:
    """The last worker joins and then stays silent; the others hear of it within the deadline."""
    exchange.join(spec.hello(worker))
    if worker == len(spec.hosted) - 1:
        return "silent"
    outputs = {peer: outputs_of(spec, peer, 0) for peer in spec.hosted[worker]}
    return _refusal(lambda: exchange.publish(0, outputs, DIGEST).result())


def _refusal(call: Any) -> str:
    try:
        call()
    except ExchangeError as exc:
        return f"{type(exc).__name__}: {exc}"
    return "no error"


def minority(exchange: Exchange, worker: int, spec: Spec) -> Any:
    """The last worker saw another batch; an elastic group refuses it and goes on."""
    exchange.join(spec.hello(worker))
    digest = DIGEST if worker < len(spec.hosted) - 1 else bytes(16)
    outputs = {peer: outputs_of(spec, peer, 0) for peer in spec.hosted[worker]}
    try:
        return seen(closed(exchange.publish(0, outputs, digest)))
    except ExchangeError as exc:
        return f"{type(exc).__name__}: {exc}"


def silent_member(exchange: Exchange, worker: int, spec: Spec) -> Any:
    """The last worker stays silent in round 0 and comes back in round 1."""
    exchange.join(spec.hello(worker))
    outcomes = []
    for round_ in range(2):
        outputs = {peer: outputs_of(spec, peer, round_) for peer in spec.hosted[worker]}
        if round_ == 0 and worker == len(spec.hosted) - 1:
            time.sleep(1.5 * spec.deadline)  # the fault itself
        outcome = exchange.publish(round_, outputs, DIGEST).result()
        outcomes.append(seen(outcome) if isinstance(outcome, Consensus) else outcome)
    exchange.leave({})
    return outcomes


def short_of_patience(exchange: Exchange, worker: int, spec: Spec) -> Any:
    """The last worker publishes late, but in time; the others give up waiting before, and then wait again."""
    exchange.join(spec.hello(worker))
    outputs = {peer: outputs_of(spec, peer, 0) for peer in spec.hosted[worker]}
    if worker == len(spec.hosted) - 1:
        time.sleep(2 * IMPATIENCE)  # the fault itself
    pending = exchange.publish(0, outputs, DIGEST)
    gave_up = "" if worker == len(spec.hosted) - 1 else _refusal(lambda: pending.result(IMPATIENCE))
    found = closed(pending).contributors
    exchange.leave({})
    return gave_up, found


def reference_sent(spec: Spec, peer: int, round_: int) -> np.ndarray:
    """What the others read of a peer's outputs, from the definition of bf16: round to nearest even at 16 bits."""
    z = outputs_of(spec, peer, round_).numpy()
    if spec.wire == "float32":
        return z
    bits = z.view(np.uint32).astype(np.uint64)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000
    return rounded.astype(np.uint32).view(np.float32)
