"""One peer of hivemind's averager, for `exchange --hivemind PYTHON`: run by that Python, where hivemind is installed.

    uv venv ../hivemind && uv pip install --python ../hivemind/bin/python hivemind psutil
    uv run python -m tests.benchmarks.exchange --hivemind ../hivemind/bin/python

Peer 0 tells the address of its hash table first. Then, each in a line of JSON: it is ready; for each number of rounds
that comes, what it measured.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, replace

import hivemind
import psutil
import torch

from tests.benchmarks.exchange_rounds import LEADING, PATIENCE, Array, Outputs, Peer, Setting
from tests.benchmarks.usage import processor_time_of

ROUNDED = 1e-5
"""Relative error that is none: the averager divides, the peer multiplies."""
GATHERING = 0.5
"""Seconds that a group may take to gather; it begins as soon as all are there."""


class Averaged:
    """An averager of one tensor in a group of all peers."""

    def __init__(self, setting: Setting, first: str | None) -> None:
        self._peers = setting.peers
        self._dht = hivemind.DHT(
            initial_peers=[first] if first else [], host_maddrs=["/ip4/127.0.0.1/tcp/0"], start=True
        )
        if first is None:
            tell(str(self._dht.get_visible_maddrs()[0]))
        self._averager = hivemind.DecentralizedAverager(
            [torch.zeros(setting.shape)],
            self._dht,
            prefix="exchange",
            target_group_size=setting.peers,
            min_group_size=setting.peers,
            min_matchmaking_time=GATHERING,
            request_timeout=GATHERING / 2,
            start=True,
        )

    def exchange(self, round_: int, outputs: Array) -> Array:
        with self._averager.get_tensors() as tensors:
            tensors[0].copy_(torch.from_numpy(outputs))
        while self._averager.step(timeout=PATIENCE) is None:
            sys.stderr.write(f"hivemind: no group in round {round_}, again\n")
        with self._averager.get_tensors() as tensors:
            return (tensors[0] * self._peers).numpy()

    def close(self) -> None:
        self._averager.shutdown()
        self._dht.shutdown()


def family_time() -> float:
    """Processor time so far of this process and all below it: hivemind has three for each peer, seconds."""
    here = psutil.Process()
    return sum(processor_time_of(process.pid) for process in (here, *here.children(recursive=True)))


def tell(value: object) -> None:
    """A line of JSON."""
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


def main() -> None:
    """Take part in rounds until standard input ends."""
    peer, peers, rows, columns, *first = sys.argv[1:]
    setting = Setting(int(peers), (int(rows), int(columns)))
    torch.set_num_threads(1)
    endpoint = Averaged(setting, first[0] if first else None)
    one = Peer(endpoint, Outputs(int(peer), setting, ROUNDED))
    tell("ready")
    for line in sys.stdin:
        cpu, rounds = family_time(), int(line)
        (measured,) = one.run(rounds)
        tell(asdict(replace(measured, cpu=(family_time() - cpu) / (LEADING + rounds))))
    one.close()


if __name__ == "__main__":
    main()
