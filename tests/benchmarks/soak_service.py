"""A long run with comings and goings: `python -m tests.benchmarks.soak_service [--rounds 10000] [--every 50]`.

Four publishers at [64, 128]; every 50 rounds one of them leaves, or is killed, in turn, and another joins. Reports the
coordinator's memory, descriptors and threads over the rounds, and shared memory left behind.
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
from pathlib import Path

from peers.transport.access import Access
from peers.transport.client import StreamClient
from peers.transport.replies import RefusedError
from peers.transport.shared_memory import FOLDER
from peers.transport.values import Consensus, PeerWish, Ticket, WorkerInfo
from protos.consensus_pb2 import ENDED
from tests.benchmarks.service_load import Clock, Samples, service
from tests.coordinator.service.light_peer import batch, outputs

SHAPE = (64, 128)


class Member(threading.Thread):
    """A publisher that can be told to leave in good order, or to vanish."""

    def __init__(self, address: str) -> None:
        super().__init__(daemon=True)
        self.client = StreamClient(Access(address))
        self.leave = threading.Event()
        self.vanish = threading.Event()
        self.skipped = 0
        self.start()

    def run(self) -> None:
        """Live until told otherwise, or until the run ends."""
        try:
            self.live(self.client.join(WorkerInfo("run", (PeerWish(),), SHAPE, window=60.0)))
            if not self.vanish.is_set():
                self.client.leave()
        except RefusedError as exc:
            if exc.code != ENDED:
                raise  # the last newcomers find the run complete; anything else is a fault
        finally:
            self.client.close()

    def live(self, admission: Ticket) -> None:
        """Publish round after round."""
        round_ = admission.first_round
        while not self.vanish.is_set():
            leaving = self.leave.is_set()
            values = {peer: outputs(peer, round_, SHAPE) for peer in admission.peers}
            self.client.publish(round_, values, batch(round_), leaving=leaving)
            outcome = self.client.result()
            if leaving or not hasattr(outcome, "next_round"):
                return
            self.skipped += not isinstance(outcome, Consensus)
            round_ = outcome.next_round


def segments() -> set[Path]:
    """Shared memory that has a name."""
    return set(FOLDER.glob("peer-consensus-*"))


def main() -> None:
    """Run the load and write the figures."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=10_000)
    parser.add_argument("--every", type=int, default=50)
    parser.add_argument("--members", type=int, default=4)
    given = parser.parse_args()
    before, samples, clock = segments(), Samples(), Clock()
    times = {"heartbeat": 1.0, "round_deadline": 5.0, "join_window": 60.0}
    with service(rounds=given.rounds, shape=SHAPE, group=given.members, linger=True, **times) as (address, process, _):
        members = [Member(address) for _ in range(given.members)]
        watching, due, changes = StreamClient(Access(address)), given.every, 0
        while (status := watching.status()).round < given.rounds:
            threading.Event().wait(0.01)
            if status.round < due:
                continue
            due, changes = status.round + given.every, changes + 1
            oldest = members.pop(0)
            (oldest.vanish if changes % 4 == 0 else oldest.leave).set()
            members.append(Member(address))
            samples.take(process, status.round)
        rate = clock.rate(given.rounds)
        for member in members:
            member.join(30)
        status = watching.status()
        watching.close()
    figures = {**samples.report(), "rounds per second": round(rate, 1), "changes": changes, "closed": status.closed}
    figures.update({"void": status.voided, "epoch": status.epoch, "segments left": len(segments() - before)})
    sys.stdout.write(json.dumps(figures) + "\n")


if __name__ == "__main__":
    main()
