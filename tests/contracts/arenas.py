"""Where a scenario runs: one way to make a group of workers for each implementation of the exchange."""

from __future__ import annotations

import multiprocessing
import os
import threading
import traceback
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import Any, Protocol

import torch

from peers.exchange.base import Exchange
from peers.exchange.collective import CollectiveExchange
from peers.exchange.inprocess import InProcessGroup
from tests.contracts.scenarios import Spec
from tests.faults.faulty_exchange import FaultyExchange

Scenario = Callable[[Exchange, int, Spec], Any]
WINDOW = 30.0


class Arena(Protocol):
    """Runs a scenario in every worker of a group; returns what each saw, by worker."""

    def run(self, scenario: Scenario, spec: Spec) -> list[Any]: ...

    def close(self) -> None: ...


def run_in_threads(scenario: Scenario, spec: Spec, exchanges: Sequence[Exchange]) -> list[Any]:
    """A scenario with a thread for each worker; the exchanges are closed when all have ended."""
    results: list[Any] = [None] * len(exchanges)

    def work(worker: int, exchange: Exchange) -> None:
        try:
            results[worker] = scenario(exchange, worker, spec)
        except BaseException as exc:  # handed to the test, which raises it
            results[worker] = exc

    threads = [threading.Thread(target=work, args=item) for item in enumerate(exchanges)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WINDOW)
    for exchange in exchanges:
        exchange.close()
    return _checked(results)


class InProcessArena:
    """Workers are threads."""

    def run(self, scenario: Scenario, spec: Spec) -> list[Any]:
        group = InProcessGroup(len(spec.hosted), round_deadline=spec.deadline, join_window=WINDOW)
        return run_in_threads(scenario, spec, [group.exchange() for _ in spec.hosted])

    def close(self) -> None: ...


class FaultyArena(InProcessArena):
    """Workers are threads, and each has a fault plan with nothing in it."""

    def run(self, scenario: Scenario, spec: Spec) -> list[Any]:
        group = InProcessGroup(len(spec.hosted), round_deadline=spec.deadline, join_window=WINDOW)
        exchanges = [FaultyExchange(group.exchange(), (), lambda fault: None) for _ in spec.hosted]
        return run_in_threads(scenario, spec, exchanges)


class CollectiveArena:
    """Workers are processes that meet over gloo; they are started once and serve many scenarios."""

    def __init__(self, workers: int = 4) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipes: list[Connection] = []
        self._processes = []
        for worker in range(workers):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs, worker), daemon=True)
            process.start()
            theirs.close()
            self._pipes.append(ours)
            self._processes.append(process)

    def run(self, scenario: Scenario, spec: Spec) -> list[Any]:
        world = len(spec.hosted)
        store = torch.distributed.TCPStore("127.0.0.1", 0, None, is_master=True, wait_for_workers=False)
        for pipe in self._pipes[:world]:
            pipe.send((scenario, spec, world, store.port))
        results = []
        for pipe in self._pipes[:world]:
            if not pipe.poll(WINDOW + spec.deadline):
                raise TimeoutError(f"{scenario.__name__}: a worker did not answer")
            results.append(pipe.recv())
        return _checked(results)

    def close(self) -> None:
        for pipe in self._pipes:
            pipe.close()  # the worker reads the end and ends
        for process in self._processes:
            process.join(10)
            if process.is_alive():
                process.kill()
                process.join()
            process.close()


def _serve(pipe: Connection, worker: int) -> None:
    """A worker process of the collective arena: one scenario after the other, a group each."""
    torch.set_num_threads(1)
    while True:
        try:
            scenario, spec, world, port = pipe.recv()
        except EOFError:
            return
        os.environ.update(
            MASTER_ADDR="127.0.0.1",
            MASTER_PORT=str(port),
            RANK=str(worker),
            WORLD_SIZE=str(world),
            TORCHELASTIC_USE_AGENT_STORE="True",  # the store lives with the test, never in a worker
        )
        exchange = CollectiveExchange(torch.device("cpu"), round_deadline=spec.deadline, join_window=WINDOW)
        try:
            pipe.send(scenario(exchange, worker, spec))
        except BaseException as exc:
            pipe.send(RuntimeError(f"worker {worker}: {''.join(traceback.format_exception(exc))}"))
        finally:
            exchange.close()


def _checked(results: list[Any]) -> list[Any]:
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return results
