"""Groups of processes that wait, blocked, until it is their turn: so that passes interleave without start-up.

Processes are forked from a server that has imported torch and started nothing else, which takes 20 ms for each.
"""

from __future__ import annotations

import multiprocessing
import os
import statistics
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any, Protocol

import psutil

from tests.benchmarks.exchange_rounds import LEADING, PATIENCE, Pass, Served
from tests.benchmarks.usage import peak, processor_time_of

PARTING = 15.0
"""Seconds that a process may take to end by itself."""

processes = multiprocessing.get_context("forkserver")

Said = list[Pass | Served]


class Player(Protocol):
    """What a process does: peers, or the server between them."""

    def run(self, rounds: int) -> Sequence[Pass | Served]:
        """Take part in LEADING + `rounds` rounds; what was measured."""
        ...

    def close(self) -> None:
        """Release everything."""
        ...


class GroupError(Exception):
    """A process of a group failed, or did not answer."""


@dataclass(frozen=True)
class Measured:
    """One pass of one group; times and bytes are for one round.

    Attributes:
        seconds: from publishing to the sum: each peer's median over the rounds, mean over the peers.
        period: seconds from round to round.
        peer_cpu: processor seconds of one peer, mean over the peers.
        server_cpu: processor seconds of what stands between the peers; None where nothing does.
        loopback: bytes that went through the loopback interface, whosever they were.
        peer_peak: largest resident memory of a peer's process so far, bytes.
        server_peak: of what stands between them; None where nothing does.
        rounds: that were measured.
    """

    seconds: float
    period: float
    peer_cpu: float
    server_cpu: float | None
    loopback: float
    peer_peak: int
    server_peak: int | None
    rounds: int


class Group:
    """Processes that have started.

    Args:
        name: of the case, for errors.
        pipes: to the processes.
        server: a process between the peers that does not answer us, if there is one.
    """

    def __init__(self, name: str, pipes: Sequence[Connection], server: psutil.Process | None) -> None:
        self._name, self._pipes, self._server = name, pipes, server

    def run(self, rounds: int) -> Measured:
        """One pass.

        Raises:
            GroupError: a process failed, as it says, or did not answer.
        """
        cpu, loopback = self._server_cpu(), _loopback()
        for pipe in self._pipes:
            pipe.send(rounds)
        said = [each for answer in _answers(self._name, self._pipes) for each in answer]
        served = [each for each in said if isinstance(each, Served)]
        every = LEADING + rounds
        if self._server is not None:
            served = [Served((self._server_cpu() - cpu) / every, peak(self._server.pid))]
        passes = [each for each in said if isinstance(each, Pass)]
        return Measured(
            seconds=statistics.fmean(statistics.median(each.seconds) for each in passes),
            period=statistics.fmean(each.period for each in passes),
            peer_cpu=statistics.fmean(each.cpu for each in passes),
            server_cpu=served[0].cpu if served else None,
            loopback=(_loopback() - loopback) / every,
            peer_peak=max(each.peak for each in passes),
            server_peak=served[0].peak if served else None,
            rounds=rounds,
        )

    def _server_cpu(self) -> float:
        if self._server is None:
            return 0.0
        return processor_time_of(self._server.pid)


@contextmanager
def group(
    name: str, players: Sequence[Callable[[], Player]], *, server: psutil.Process | None = None
) -> Iterator[Group]:
    """Processes of one case, until the context ends.

    Args:
        name: of the case, for errors.
        players: for each process what makes its player there; must be picklable.
        server: a process between the peers that runs already.

    Raises:
        GroupError: a process could not start.
    """
    pipes, started = [], []
    patience = 0.0
    try:
        for make in players:
            ours, theirs = processes.Pipe()
            process = processes.Process(target=_serve, args=(theirs, make), daemon=True)
            process.start()
            theirs.close()
            pipes.append(ours)
            started.append(process)
        _answers(name, pipes)
        yield Group(name, pipes, server)
        patience = PARTING
    finally:
        for pipe in pipes:
            pipe.close()  # the process reads the end and ends; after a failure it may wait for others, and is killed
        for process in started:
            process.join(patience)
            if process.is_alive():
                process.kill()
                process.join()


def prepare(*modules: str) -> None:
    """Have modules imported once, before any process starts."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # numpy's and torch's, in all processes alike
    multiprocessing.set_forkserver_preload(list(modules))


def _serve(pipe: Connection, make: Callable[[], Player]) -> None:
    """A process of a group: makes its player and runs a pass whenever it is told to."""
    import torch  # preloaded

    torch.set_num_threads(1)
    try:
        player = make()
        pipe.send([])
    except Exception:
        pipe.send(traceback.format_exc())
        return
    while True:
        try:
            rounds = pipe.recv()
        except EOFError:
            player.close()
            return
        try:
            pipe.send(list(player.run(rounds)))
        except Exception:
            pipe.send(traceback.format_exc())


def _answers(name: str, pipes: Sequence[Connection]) -> list[Said]:
    """What each process says, in their order."""
    found: dict[Any, Said] = {}
    end = time.monotonic() + PATIENCE
    while len(found) < len(pipes):
        ready = wait([pipe for pipe in pipes if pipe not in found], max(0.0, end - time.monotonic()))
        if not ready:
            raise GroupError(f"{name}: {len(pipes) - len(found)} of {len(pipes)} did not answer within {PATIENCE:g} s")
        for pipe in ready:
            assert isinstance(pipe, Connection)
            try:
                said = pipe.recv()
            except EOFError:
                raise GroupError(f"{name}: process {pipes.index(pipe)} died") from None
            if isinstance(said, str):
                raise GroupError(f"{name}: process {pipes.index(pipe)} failed:\n{said}")
            found[pipe] = said
    return [found[pipe] for pipe in pipes]


def _loopback() -> int:
    return int(psutil.net_io_counters(pernic=True)["lo"].bytes_sent)
