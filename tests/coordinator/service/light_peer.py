"""A light peer as a process: publishes random outputs until the run ends, writes down each outcome as a JSON line.

Rejoins when it is expelled. Used by tests that kill and stop processes, and by the benchmarks.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from typing import Any, TextIO

import numpy as np

from peers.transport.access import Access
from peers.transport.client import StreamClient
from peers.transport.replies import Outcome
from peers.transport.values import Consensus, Expelled, Missed, PeerWish, RunEnded, Ticket, WorkerInfo


def outputs(peer: int, round_: int, shape: tuple[int, int]) -> np.ndarray[Any, np.dtype[np.float32]]:
    """What a light peer publishes: cheap, and different for each peer and round."""
    return np.full(shape, np.float32(peer + 1) / (round_ + 1), np.float32)


def batch(round_: int) -> bytes:
    """The batch digest of a round."""
    return round_.to_bytes(16, "little")


def told(outcome: Outcome) -> dict[str, Any]:
    """An outcome as a JSON object."""
    line: dict[str, Any] = {"kind": type(outcome).__name__, "at": time.time()}
    if isinstance(outcome, Consensus):
        return {
            **line,
            "round": outcome.round,
            "epoch": outcome.epoch,
            "contributors": outcome.contributors,
            "digest": outcome.digest,
        }
    if isinstance(outcome, Missed):
        return {**line, "kind": outcome.reason, "round": outcome.round, "reason": outcome.text}
    return {**line, "reason": outcome.text}


def live(client: StreamClient, admission: Ticket, shape: tuple[int, int], pause: float, out: TextIO) -> Outcome:
    """Publish round after round until the membership ends; the outcome that ended it."""
    round_ = admission.first_round
    while True:
        client.publish(round_, {peer: outputs(peer, round_, shape) for peer in admission.peers}, batch(round_))
        outcome = client.result()
        out.write(json.dumps(told(outcome)) + "\n")
        out.flush()
        if isinstance(outcome, Expelled | RunEnded):
            return outcome
        round_ = outcome.next_round
        if pause:
            time.sleep(pause)


def main() -> None:
    """Live as long as the run lasts."""
    parser = argparse.ArgumentParser()
    parser.add_argument("address")
    parser.add_argument("out")
    parser.add_argument("--peer", type=int, default=None)
    parser.add_argument("--shape", type=int, nargs=2, default=(4, 8))
    parser.add_argument("--pause", type=float, default=0.0)
    parser.add_argument("--stream", action="store_true")
    parser.add_argument("--token")
    parser.add_argument("--ca")
    given = parser.parse_args()
    shape = (given.shape[0], given.shape[1])
    client = StreamClient(Access(given.address, token=given.token, ca=given.ca), shared=not given.stream)
    info = WorkerInfo("run", (PeerWish(given.peer),), shape)
    with open(given.out, "a") as out:
        while True:
            admission = client.join(info)
            joined = {"kind": "joined", "peers": admission.peers, "incarnations": list(admission.incarnations.values())}
            out.write(json.dumps({**joined, "round": admission.first_round}) + "\n")
            out.flush()
            if isinstance(live(client, admission, shape, given.pause, out), RunEnded):
                break
        client.leave(dict.fromkeys(admission.peers, b'{"light": true}'))
        client.close()


if __name__ == "__main__":
    sys.exit(main())
