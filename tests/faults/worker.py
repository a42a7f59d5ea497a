"""`python -m tests.faults.worker --faults FILE …flags of peers.worker`: a worker that carries out a fault plan.

    FILE          JSON array of faults (`faulty_exchange.Fault`); more may be written into it while workers run
    FILE.fired    gets each fault that begins, a JSON line
    FILE.gate     where it is there: the number of rounds that may be published; for others workers wait until it grows
    FILE.at-N     the process of peer N's worker and the round before which it waits at the gate, or last did
    FILE.held     gets a JSON line for each round that waited at the gate: peers, round, seconds, the wall clock then
    FILE.bearer-N gets the secret that speaks for the worker of peer N, where a fault has it stolen

A worker that is started again leaves out what has happened to its process already.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import json
import logging
import os
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from peers.common.files import write_atomically
from peers.exchange.base import Exchange, Pending
from peers.exchange.coordinated import CoordinatedExchange
from peers.runs.run_folder import append_line
from peers.worker import worker
from tests.faults.faulty_exchange import ONCE, Fault, FaultyExchange

LOOK = 0.002
"""Seconds between two looks at the gate."""
EARLY = ("torch._dynamo", "sklearn.datasets", "sklearn.neighbors")
"""What a worker imports when it first needs it: on a busy machine that takes longer than the deadlines of tests."""
STOLEN = "stolen_bearer"
"""A kind of these workers alone: the worker tells its secret, as a process that was broken into would."""

logger = logging.getLogger("tests.faults.worker")


def beside(path: Path, what: str) -> Path:
    """A file that belongs to a file of faults."""
    return path.with_name(f"{path.name}.{what}")


def load(path: Path) -> list[Fault]:
    """The faults of a file."""
    return [Fault(**fault) for fault in json.loads(path.read_text())]


def fired(path: Path) -> list[Fault]:
    """What has begun of the faults of a file, in that order."""
    told = beside(path, "fired")
    return [Fault(**json.loads(line)) for line in told.read_text().splitlines()] if told.is_file() else []


class SteeredExchange(FaultyExchange):
    """A faulty exchange that learns of its faults while it runs, and waits at a gate.

    Args:
        inner: the exchange proper.
        path: of the faults.
    """

    def __init__(self, inner: Exchange, path: Path) -> None:
        super().__init__(inner, (), self._append)
        self._path, self._seen, self._open = path, 0, 0
        self._pause = threading.Event()  # `time.sleep` fails where a library makes another wall clock
        self._over = set(fired(path))
        self._known: set[Fault] = set()
        self._stolen: set[Fault] = set()

    def publish(
        self, round_: int, outputs: Mapping[int, Tensor | None], digest: bytes, *, leaving: bool = False
    ) -> Pending:
        self._wait(round_, sorted(outputs))
        self._learn()
        for fault in [fault for fault in self._stolen if fault.peer in outputs and fault.round <= round_]:
            self._stolen.remove(fault)
            self._give_away(fault)
        return super().publish(round_, outputs, digest, leaving=leaving)

    def _append(self, fault: Fault) -> None:
        append_line(beside(self._path, "fired"), dataclasses.asdict(fault))

    def _learn(self) -> None:
        """Read the file again, if it has changed."""
        changed = self._path.stat().st_mtime_ns
        if changed == self._seen:
            return
        self._seen = changed
        for fault in load(self._path):
            again = fault in self._over and (fault.kind in (*ONCE, STOLEN) or fault.rounds == 1)
            if fault in self._known or again:
                continue
            self._known.add(fault)
            if fault.kind == STOLEN:
                self._stolen.add(fault)
            else:
                self._left.append(fault)

    def _wait(self, round_: int, peers: list[int]) -> None:
        began, gate, told = time.monotonic(), beside(self._path, "gate"), False
        while round_ >= self._open and gate.is_file() and round_ >= (now := int(gate.read_text())):
            self._open = now
            if not told:
                told = True
                for peer in peers:
                    write_atomically(beside(self._path, f"at-{peer}"), f"{os.getpid()} {round_}".encode())
            self._pause.wait(LOOK)  # until whoever carries out the plan lets the round begin
        held = time.monotonic() - began
        if held > LOOK:
            line = {"peers": peers, "round": round_, "seconds": held, "clock": time.time()}
            append_line(beside(self._path, "held"), line)

    def _give_away(self, fault: Fault) -> None:
        inner: Any = self._inner
        assert isinstance(inner, CoordinatedExchange), "only a coordinator's members have bearers"
        write_atomically(beside(self._path, f"bearer-{fault.peer}"), inner._client._ticket.bearer.encode())
        self._append(fault)


class FaultyWorker(worker.Worker):
    """A worker whose exchange is wrapped."""

    plan: Path

    def _exchange(self) -> tuple[Exchange, str]:
        inner, kind = super()._exchange()
        return SteeredExchange(inner, self.plan), kind


def held(path: Path) -> Iterator[dict[str, Any]]:
    """What was told of rounds that waited at the gate."""
    told = beside(path, "held")
    yield from (json.loads(line) for line in told.read_text().splitlines()) if told.is_file() else ()


def waits(path: Path, peer: int) -> tuple[int, int] | None:
    """The process of a peer's worker and the round before which it waits at the gate, or last did."""
    told = beside(path, f"at-{peer}")
    if not told.is_file():
        return None
    process, round_ = told.read_text().split()
    return int(process), int(round_)


def main(arguments: list[str] | None = None) -> int:
    """Run a worker as this process; returns its exit code."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--faults", type=Path, required=True)
    options, rest = parser.parse_known_args(arguments)
    for name in EARLY:
        importlib.import_module(name)
    FaultyWorker.plan = options.faults.resolve()
    module: Any = worker
    module.Worker = FaultyWorker
    return worker.main(rest)


if __name__ == "__main__":
    sys.exit(main())
