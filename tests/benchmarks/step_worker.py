"""A process of the step benchmark: the product's own trainers, one for each exchange, or the researcher's loop.

It is told over a pipe how many rounds to run in which, and answers with when it began and ended. Between passes it
waits for the next order, so that one arrangement at a time has the machine.
"""

from __future__ import annotations

import os
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier

import torch
from torch import Tensor

from peers.common.memory import keep_memory
from peers.common.summation import tree_sum
from peers.data.batches import Schedule, open_data
from peers.exchange.base import Exchange, Hello, Outcome, Pending, Report
from peers.exchange.collective import CollectiveExchange
from peers.exchange.inprocess import InProcessGroup
from peers.method.peer import Peer
from peers.method.target_selection import TargetSelection
from peers.networks import registry as networks
from peers.runs.metrics import Recorder
from peers.runs.run_folder import RunFolder
from peers.transport.values import Consensus, Ticket
from peers.worker.placement import Placement, compute_threads, hosted
from peers.worker.pool import PeerPool
from peers.worker.trainer import Trainer
from tests.benchmarks.step_cases import Kind, Load
from tests.benchmarks.step_loop import make_optimizers, train

WINDOW = 120.0
"""Seconds that a group has to form, and a round to close."""


@dataclass(frozen=True)
class Post:
    """What a process is told when it starts.

    Attributes:
        load: what its peers compute.
        kinds: exchanges that it is a member of, each with peers of its own.
        rank: among the processes of its group.
        world: their number.
        port: of the store where a collective group meets.
        coordinators: addresses, by kind.
        folder: for records.
        barrier: of all processes of the group.
    """

    load: Load
    kinds: tuple[Kind, ...]
    rank: int
    world: int
    port: int
    coordinators: Mapping[Kind, str]
    folder: str
    barrier: Barrier | None = None


@dataclass(frozen=True)
class Order:
    """Run so many rounds; `timed` measures the exchange too, which slows the rest: CUDA is synchronized around it."""

    kind: Kind
    rounds: int
    timed: bool = False


@dataclass(frozen=True)
class Span:
    """When a process ran its rounds, on the clock that all processes of a machine share.

    Attributes:
        began: seconds.
        ended: seconds.
        exchange: seconds between publishing and the consensus, of all rounds; only where the order was timed.
    """

    began: float
    ended: float
    exchange: float = 0.0


@dataclass(frozen=True)
class Failed:
    """A traceback, or that memory ran out on the GPU."""

    text: str
    memory: bool = False


class NoExchange(Exchange):
    """Gives back the first round's sum whatever is published: as many bytes in hand, and none that travel.

    Args:
        barrier: where processes wait for each other in every round, if they do.
    """

    def __init__(self, barrier: Barrier | None = None) -> None:
        self._barrier = barrier
        self._count = 0
        self._total: Tensor | None = None

    def join(self, hello: Hello) -> Ticket:
        self._count = hello.group
        return Ticket(tuple(range(hello.group)), 0, 1, dict.fromkeys(hello.peers, 0))

    def publish(
        self, round_: int, outputs: Mapping[int, Tensor | None], digest: bytes, *, leaving: bool = False
    ) -> Pending:
        sent = {peer: z for peer, z in outputs.items() if z is not None}
        if self._total is None:
            self._total = tree_sum(sent) * (self._count / len(sent))
        return Closed(Consensus(round_, 1, tuple(range(self._count)), self._total, sent), self._barrier)

    def leave(self, reports: Mapping[int, Report]) -> Mapping[int, Report]:
        return reports

    def close(self) -> None: ...


class Closed(Pending):
    """A round that has closed, or closes as soon as all are there."""

    def __init__(self, outcome: Outcome, barrier: Barrier | None = None) -> None:
        self._outcome, self._barrier = outcome, barrier

    def result(self, timeout: float | None = None) -> Outcome:
        if self._barrier is not None:
            self._barrier.wait(WINDOW)
        return self._outcome


class Timed(Exchange):
    """An exchange with a watch on what lies between publishing and the consensus."""

    def __init__(self, exchange: Exchange, device: torch.device) -> None:
        self._exchange, self._device, self.seconds = exchange, device, 0.0

    def join(self, hello: Hello) -> Ticket:
        return self._exchange.join(hello)

    def publish(
        self, round_: int, outputs: Mapping[int, Tensor | None], digest: bytes, *, leaving: bool = False
    ) -> Pending:
        began = self._now()
        outcome = self._exchange.publish(round_, outputs, digest, leaving=leaving).result()
        self.seconds += self._now() - began
        return Closed(outcome)

    def leave(self, reports: Mapping[int, Report]) -> Mapping[int, Report]:
        return self._exchange.leave(reports)

    def close(self) -> None:
        self._exchange.close()

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()


class Trainers:
    """The trainers of one process, joined."""

    def __init__(self, post: Post) -> None:
        keep_memory()  # as a worker does
        self._post, self.device = post, torch.device(post.load.device)
        config = post.load.config("none", post.world)
        self.data = open_data(config.data, config.run.seed, self.device)
        self.threads = compute_threads(config.group.threads, post.load.peers)
        self.trainers = {kind: self._trainer(kind) for kind in post.kinds}

    def run(self, order: Order) -> Span:
        """Rounds of one trainer, after those that it has done."""
        trainer = self.trainers[order.kind]
        exchange, watch = trainer.exchange, Timed(trainer.exchange, self.device)
        trainer.exchange = watch if order.timed else exchange
        first = trainer.rounds
        trainer.rounds += order.rounds
        began = _finished(self.device)
        done = trainer.run(first)
        ended = _finished(self.device)
        trainer.exchange = exchange
        if done < trainer.rounds or any(peer.skips for peer in trainer.peers):
            raise RuntimeError(f"{order.kind}: rounds without a step: {[dict(peer.skips) for peer in trainer.peers]}")
        return Span(began, ended, watch.seconds)

    def _trainer(self, kind: Kind) -> Trainer:
        post = self._post
        config = post.load.config(kind, post.world, post.folder)
        ids = hosted(config, Placement(post.rank, post.world))
        group = config.group.peers or 0
        width = networks.check_widths([config.network_of(peer) for peer in range(group)], self.data.shape)
        exchange = self._exchange(kind)
        rule = TargetSelection.of(config.consensus, config.run.seed)
        shape = (config.data.batch, width)
        exchange.join(Hello(ids, group, shape, {}, dict.fromkeys(ids, ()), rule, config.exchange.wire))
        folder = RunFolder.of(config)
        folder.enter(config)
        peers = [Peer(config, peer, self.data.shape, 0, self.device) for peer in ids]
        return Trainer(
            config=config,
            peers=peers,
            exchange=exchange,
            data=self.data,
            rounds=0,
            pool=PeerPool(post.load.peers // post.world, self.device, self.threads, post.world),
            recorder=Recorder(folder, list(ids), 0, config.metrics.tensorboard),
            live=lambda peer: float("nan"),
            save=lambda peer, done: None,
            stopping=lambda: False,
            live_before={},
            keep=lambda peer, done: None,
            snapshots=(),
        )

    def _exchange(self, kind: Kind) -> Exchange:
        if kind in ("none", "barrier"):
            return NoExchange(self._post.barrier if kind == "barrier" else None)
        if kind in ("inprocess", "compiled"):
            return InProcessGroup().exchange()
        if kind == "collective":
            return self._collective()
        from peers.exchange.coordinated import CoordinatedExchange  # imports gRPC
        from peers.transport.access import Access

        access = Access(self._post.coordinators[kind])
        return CoordinatedExchange(access, "run", self.device, join_window=WINDOW, shared_memory=kind == "shared")

    def _collective(self) -> Exchange:
        place = {"RANK": self._post.rank, "WORLD_SIZE": self._post.world, "MASTER_PORT": self._post.port}
        os.environ.update({name: str(value) for name, value in place.items()}, MASTER_ADDR="127.0.0.1")
        os.environ["TORCHELASTIC_USE_AGENT_STORE"] = "True"  # the store lives with the benchmark
        return CollectiveExchange(self.device, round_deadline=WINDOW, join_window=WINDOW)


class Loop:
    """The researcher's loop."""

    def __init__(self, post: Post) -> None:
        torch.set_num_threads(len(os.sched_getaffinity(0)) if post.kinds == ("loop",) else 1)
        self.device = torch.device(post.load.device)
        config = post.load.config("none", 1)
        data = open_data(config.data, config.run.seed, self.device)
        self.networks = [
            networks.build(config.network_of(i), data.shape, seed=config.run.seed, peer=i).to(self.device)
            for i in range(post.load.peers)
        ]
        self.optimizers = make_optimizers(self.networks, config.optimizer.learning_rate)
        self.images = data.train.batch(range(len(data.train)))
        self.batches = Schedule(len(data.train), config.data.batch, config.run.seed).from_round(0)
        self.bf16 = config.precision == "bf16"

    def run(self, order: Order) -> Span:
        began = _finished(self.device)
        train(self.networks, self.optimizers, self.images, islice(self.batches, order.rounds), self.bf16)
        return Span(began, _finished(self.device))


def serve(pipe: Connection, post: Post) -> None:
    """The process: answer each order, until the pipe is closed."""
    try:
        host = Loop(post) if post.kinds[0].startswith("loop") else Trainers(post)
        pipe.send(None)
        while (order := _next(pipe)) is not None:
            pipe.send(host.run(order))
    except Exception as exc:  # handed to the benchmark, which tells it
        pipe.send(Failed(traceback.format_exc(), isinstance(exc, torch.cuda.OutOfMemoryError)))


def _next(pipe: Connection) -> Order | None:
    try:
        order: Order = pipe.recv()
    except EOFError:
        return None
    return order


def _finished(device: torch.device) -> float:
    """The time, once all that was asked of the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
