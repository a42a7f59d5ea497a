"""Many light publishers: `python -m tests.benchmarks.light_service [--peers 64] [--rounds 2000]`.

Each publisher is a client with a connection of its own; several share a process, so that one machine can hold them.
Reports the coordinator's memory over the rounds, its descriptors, and rounds a second.
"""

from __future__ import annotations

import argparse
import json
import sys
import threading

from peers.transport.access import Access
from peers.transport.client import StreamClient
from tests.benchmarks.light_publishers import publishers
from tests.benchmarks.service_load import Clock, Samples, service


def main() -> None:
    """Run the load and write the figures."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--peers", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=2000)
    parser.add_argument("--shape", type=int, nargs=2, default=(64, 128))
    given = parser.parse_args()
    shape = (given.shape[0], given.shape[1])
    times = {"heartbeat": 20.0, "round_deadline": 60.0, "join_window": 120.0}
    with (
        service(rounds=given.rounds, shape=shape, group=given.peers, linger=True, **times) as (address, process, _),
        publishers([address], given.peers, shape) as started,
    ):
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
