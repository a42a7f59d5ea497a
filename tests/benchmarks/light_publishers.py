"""Light publishers: clients without torch, each with a connection of its own, several in the threads of a process.

    with publishers(["127.0.0.1:7070"], 64, (64, 128), out, watch=[pid]) as started:
        for process in started: process.wait()
    watched = Watched(**json.loads(out.read_text()))    rounds as peer 0 saw them, and what the watched processes used

Peers are shared out evenly over the addresses, in order: relays have aligned blocks of them.
"""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from peers.transport.access import Access
from peers.transport.client import StreamClient
from peers.transport.values import Consensus, PeerWish, RunEnded, WorkerInfo
from tests.benchmarks.service_load import ROOT
from tests.benchmarks.usage import processor_time_of
from tests.coordinator.service.light_peer import batch, outputs

EACH = 16
"""Publishers in one process."""
WINDOW = 60.0
WARM = 5
"""Rounds before anything is watched."""


@dataclass(frozen=True)
class Watched:
    """What peer 0 saw.

    Attributes:
        seconds: between two results, for each round after the first ones.
        cpu: processor seconds of each watched process in that time.
        mib: resident memory of each, at the end.
    """

    seconds: list[float]
    cpu: list[float]
    mib: list[float]


@contextmanager
def publishers(
    addresses: Sequence[str],
    peers: int,
    shape: tuple[int, int],
    out: Path | None = None,
    *,
    watch: Sequence[int] = (),
    shared: bool = True,
) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Processes that publish until the run ends.

    Args:
        addresses: of the coordinators, each for as many peers.
        peers: of the whole group.
        shape: (B, D) of the outputs.
        out: gets `Watched` as JSON.
        watch: processes to watch.
        shared: use shared memory.
    """
    command = [sys.executable, "-m", "tests.benchmarks.light_publishers", "--addresses", *addresses]
    command += ["--peers", str(peers), "--shape", *map(str, shape), *([] if shared else ["--stream"])]
    last = [] if out is None else ["--out", str(out), "--watch", *map(str, watch)]
    started = []
    try:
        for first in range(0, peers, EACH):
            arguments = [*command, "--first", str(first), *(() if first else last)]
            started.append(subprocess.Popen(arguments, cwd=ROOT))  # the project's own command
        yield started
    finally:
        for process in started:
            process.kill()
            process.wait(30)


def rounds(client: StreamClient, first: int, peer: int, shape: tuple[int, int]) -> Iterator[int]:
    """Publish round after round until the run ends; yields the number of each round that closed."""
    round_ = first
    while True:
        client.publish(round_, {peer: outputs(peer, round_, shape)}, batch(round_))
        outcome = client.result()
        if isinstance(outcome, RunEnded):
            return
        if not isinstance(outcome, Consensus):
            raise TypeError(f"peer {peer}: round {round_} did not close: {outcome}")
        yield round_
        round_ = outcome.next_round


def watched(numbers: Iterator[int], watch: Sequence[int]) -> Watched:
    """Go through all rounds with an eye on the clock, and on other processes at the start and at the end."""
    for _ in itertools.islice(numbers, WARM):
        pass
    before = [processor_time_of(pid) for pid in watch]
    times = [time.perf_counter(), *(time.perf_counter() for _ in numbers)]
    cpu = [processor_time_of(pid) - start for pid, start in zip(watch, before, strict=True)]
    mib = [psutil.Process(pid).memory_info().rss / 2**20 for pid in watch]
    return Watched([later - earlier for earlier, later in itertools.pairwise(times)], cpu, mib)


def main() -> None:
    """Publish for some peers of a group, until its run ends."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--addresses", nargs="+", required=True)
    parser.add_argument("--peers", type=int, required=True)
    parser.add_argument("--first", type=int, required=True)
    parser.add_argument("--shape", type=int, nargs=2, required=True)
    parser.add_argument("--stream", action="store_true")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--watch", type=int, nargs="*", default=())
    given = parser.parse_args()
    shape = (given.shape[0], given.shape[1])
    share = given.peers // len(given.addresses)

    def live(peer: int) -> None:
        client = StreamClient(Access(given.addresses[peer // share]), shared=not given.stream)
        admission = client.join(WorkerInfo("run", (PeerWish(peer),), shape, insist=True, window=WINDOW))
        numbers = rounds(client, admission.first_round, peer, shape)
        if peer == 0 and given.out is not None:
            given.out.write_text(json.dumps(asdict(watched(numbers, given.watch))))
        else:
            for _ in numbers:
                pass
        client.leave()
        client.close()

    last = min(given.first + EACH, given.peers)
    with ThreadPoolExecutor(EACH) as pool:
        list(pool.map(live, range(given.first, last)))


if __name__ == "__main__":
    main()
