"""The processes of one load: started once, idle between passes, told what to run by pipe."""

from __future__ import annotations

import multiprocessing
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection, wait
from typing import Protocol

import torch

from peers.data.batches import open_data
from peers.networks import registry as networks
from tests.benchmarks.measure import interleaved, note
from tests.benchmarks.service_load import service
from tests.benchmarks.step_cases import EXCHANGES, Arrangement, Kind, Load
from tests.benchmarks.step_worker import WINDOW, Failed, Order, Post, Span, serve

START = 600.0
"""Seconds for a process to be ready, or to answer an order: torch may have to compile its networks."""

LEAST = 3
"""Rounds in a pass: of fewer, the processes' starts would be too large a part."""

PRELOADED = ["tests.benchmarks.step_worker", "torch._dynamo", "torch.utils.tensorboard"]
"""Imported once, in the server that all processes are forked from: with what optimizers and records import later."""


class OutOfMemoryError(RuntimeError):
    """The load does not fit the GPU."""


@dataclass(frozen=True)
class Pass:
    """One pass of one arrangement: it ends when the last process has done its rounds.

    Attributes:
        rounds: that each process did.
        seconds: from the first process's begin to the last one's end.
        exchange: seconds between publishing and the consensus, mean over processes; only of a timed pass.
    """

    rounds: int
    seconds: float
    exchange: float

    @property
    def rate(self) -> float:
        """Rounds a second."""
        return self.rounds / self.seconds


class Run(Protocol):
    """Runs so many rounds of one arrangement."""

    def __call__(self, rounds: int, timed: bool = False) -> Pass: ...


class Group:
    """As many processes as an arrangement has workers.

    Args:
        load: what they compute.
        kinds: exchanges that they are all members of.
        workers: their number.
        coordinators: addresses, by kind.
        folder: for records.
    """

    def __init__(
        self, load: Load, kinds: Sequence[Kind], workers: int, coordinators: dict[Kind, str], folder: str
    ) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOADED)
        self._store = torch.distributed.TCPStore("127.0.0.1", 0, None, is_master=True, wait_for_workers=False)
        self._pipes: list[Connection] = []
        self._processes = []
        self._patience = 10.0
        barrier = context.Barrier(workers)
        for rank in range(workers):
            ours, theirs = context.Pipe()
            post = Post(load, tuple(kinds), rank, workers, self._store.port, coordinators, folder, barrier)
            process = context.Process(target=serve, args=(theirs, post), daemon=True)
            process.start()
            theirs.close()
            self._pipes.append(ours)
            self._processes.append(process)
        try:
            self._answers()
        except BaseException:
            self.close()
            raise

    def run(self, kind: Kind, rounds: int, timed: bool = False) -> Pass:
        """Rounds in one arrangement, in all processes."""
        for pipe in self._pipes:
            pipe.send(Order(kind, rounds, timed))
        spans = self._answers()
        seconds = max(span.ended for span in spans) - min(span.began for span in spans)
        return Pass(rounds, seconds, sum(span.exchange for span in spans) / len(spans))

    def close(self) -> None:
        """End the processes."""
        for pipe in self._pipes:
            pipe.close()  # the process reads the end
        for process in self._processes:
            process.join(self._patience)
            if process.is_alive():
                process.kill()
                process.join()
            process.close()

    def _answers(self) -> list[Span]:
        """Of all processes; the first failure is raised at once: the others may wait for a member that is gone."""
        answers: dict[Connection, Span] = {}
        deadline = time.monotonic() + START
        while len(answers) < len(self._pipes):
            ready = wait([pipe for pipe in self._pipes if pipe not in answers], deadline - time.monotonic())
            if not ready:
                raise TimeoutError(f"{len(self._pipes) - len(answers)} processes did not answer within {START:g} s")
            for pipe in ready:
                answer = pipe.recv()
                if isinstance(answer, Failed):
                    self._patience = 0.0  # the others wait for the one that failed
                    raise (OutOfMemoryError if answer.memory else RuntimeError)(answer.text)
                answers[pipe] = answer
        return list(answers.values())


@contextmanager
def running(load: Load, arrangements: Sequence[Arrangement]) -> Iterator[dict[str, Run]]:
    """The processes of these arrangements, as functions by name.

    Raises:
        OutOfMemoryError: the GPU is too small.
    """
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        kinds = {each.kind for each in arrangements}
        coordinators = {kind: stack.enter_context(_coordinator(load)) for kind in kinds & {"shared", "stream"}}
        groups: dict[tuple[str, int], Group] = {}
        for place in dict.fromkeys(map(_place, arrangements)):
            own = [each.kind for each in arrangements if _place(each) == place]
            groups[place] = Group(load, own, place[1], coordinators, folder)
            stack.callback(groups[place].close)
        yield {each.name: partial(groups[_place(each)].run, each.kind) for each in arrangements}


@dataclass(frozen=True)
class Measured:
    """What was found for one load.

    Attributes:
        rates: rounds a second of each pass, by arrangement.
        shares: of a round between publishing and the consensus, of each timed pass, by arrangement with an exchange.
    """

    rates: dict[str, list[float]]
    shares: dict[str, list[float]]


def measured(load: Load, cases: Sequence[Arrangement], passes: int, seconds: float, timed: int = 0) -> Measured:
    """Interleaved passes of all arrangements of a load, and so many timed ones after them.

    Args:
        load: what is computed.
        cases: who computes it.
        passes: of each case.
        seconds: that a pass is to take.
        timed: passes with a watch on the exchange, of those cases that have one.

    Raises:
        OutOfMemoryError: the GPU is too small.
    """
    with running(load, cases) as runs:
        rounds = {name: paced(run, seconds) for name, run in runs.items()}
        note(f"{load.network}, {load.peers} peers, rounds in a pass: {rounds}")
        rates = interleaved({name: _rate(run, rounds[name]) for name, run in runs.items()}, passes, warm=False)
        watched = {each.name: _share(runs[each.name], rounds[each.name]) for each in cases if each.kind in EXCHANGES}
        return Measured(rates, interleaved(watched, timed, warm=False))


def paced(run: Run, seconds: float) -> int:
    """Rounds that take about so long, once the first ones have warmed everything up."""
    run(2)
    rounds, took = 1, 0.0
    while took < seconds / 4:
        rounds *= 2
        took = run(rounds).seconds
    return max(LEAST, round(rounds * seconds / took))


@contextmanager
def _coordinator(load: Load) -> Iterator[str]:
    """The address of a coordinator for the load's group, in a process of its own."""
    config = load.config("none", 1)
    data = open_data(config.data, config.run.seed, torch.device("cpu"))
    shape = (config.data.batch, networks.check_widths([config.network_of(0)], data.shape))
    times = {"heartbeat": 20.0, "round_deadline": WINDOW, "join_window": WINDOW}
    with service(rounds=10**9, shape=shape, group=load.peers, **times) as (address, _, _):
        yield address


def _place(of: Arrangement) -> tuple[str, int]:
    """Which processes an arrangement runs in: loops have their own, the others share those of their number."""
    return (of.kind if of.kind.startswith("loop") else "trainers", of.workers)


def _rate(run: Run, rounds: int) -> Callable[[], float]:
    return lambda: run(rounds).rate


def _share(run: Run, rounds: int) -> Callable[[], float]:
    def one() -> float:
        found = run(rounds, timed=True)
        return found.exchange / found.seconds

    return one
