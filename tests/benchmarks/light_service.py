"""Many light publishers: `python -m tests.benchmarks.light_service [--peers 64] [--rounds 2000]`.

Each publisher is a client with a connection of its own; several share a process, so that one machine can hold them.
Reports the coordinator's memory over the rounds, its descriptors, and rounds a second.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import threading
from io import StringIO

from peers.exchange.stream import StreamClient
from peers.exchange.stream_access import Access
from peers.exchange.stream_outcomes import PeerWish, WorkerInfo
from tests.benchmarks.service_load import ROOT, Clock, Samples, service
from tests.coordinator.service.light_peer import live

EACH = 16
"""Publishers in one process."""


def publish(address: str, first: int, count: int, shape: tuple[int, int]) -> None:
    """Publishers of peers `first`, `first` + 1, ... in this process, until the run ends."""

    def one(peer: int) -> None:
        client = StreamClient(Access(address))
        admission = client.join(WorkerInfo("run", (PeerWish(peer),), shape, window=60.0))
        live(client, admission, shape, 0.0, StringIO())
        client.leave()
        client.close()

    threads = [threading.Thread(target=one, args=(first + place,)) for place in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def main() -> None:
    """Run the load and write the figures."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--peers", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=2000)
    parser.add_argument("--shape", type=int, nargs=2, default=(64, 128))
    parser.add_argument("--publish", nargs=3, metavar=("ADDRESS", "FIRST", "COUNT"))
    given = parser.parse_args()
    shape = (given.shape[0], given.shape[1])
    if given.publish:
        publish(given.publish[0], int(given.publish[1]), int(given.publish[2]), shape)
        return
    times = {"heartbeat": 20.0, "round_deadline": 60.0, "join_window": 120.0}
    with service(rounds=given.rounds, shape=shape, group=given.peers, linger=True, **times) as (address, process, _):
        command = [sys.executable, "-m", "tests.benchmarks.light_service", "--shape", *map(str, shape), "--publish"]
        started = [
            subprocess.Popen([*command, address, str(first), str(min(EACH, given.peers - first))], cwd=ROOT)
            for first in range(0, given.peers, EACH)
        ]
        watching = StreamClient(Access(address))
        samples, clock, rates = Samples(), Clock(), []
        while any(publisher.poll() is None for publisher in started):
            threading.Event().wait(1.0)
            round_ = watching.status().round
            samples.take(process, round_)
            rates.append(clock.rate(round_))
        status = watching.status()
        watching.close()
        figures = {**samples.report(), "rounds per second": round(sorted(rates)[len(rates) // 2], 1)}
        figures.update({"peers": given.peers, "shape": shape, "closed": status.closed, "void": status.voided})
        sys.stdout.write(json.dumps(figures) + "\n")


if __name__ == "__main__":
    main()
