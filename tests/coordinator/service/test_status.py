"""What an operator sees: status, watching, metrics; and who made the others wait."""

from __future__ import annotations

import re
import threading
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from peers.transport.access import Access
from peers.transport.client import StreamClient
from peers.transport.values import Consensus
from protos import consensus_pb2 as pb
from protos.consensus_pb2_grpc import CoordinatorStub
from tests.coordinator.service.processes import Coordinator, coordinator, info, together, until
from tests.coordinator.service.settled import BATCH


def pair(at: Coordinator) -> list[StreamClient]:
    """Two members, peers 0 and 1."""
    clients = [at.client(), at.client()]
    together(*(lambda place=place: clients[place].join(info(place, name=f"node{place}")) for place in (0, 1)))
    return clients


def publish(client: StreamClient, peer: int, round_: int) -> None:
    """One publication."""
    client.publish(round_, {peer: np.ones((4, 8), np.float32)}, BATCH)


def test_status_tells_who_made_the_others_wait(tmp_path: Path) -> None:
    """Round, epoch, members, their names; peer 1 publishes half a second after peer 0: the wait is its."""
    with coordinator(tmp_path) as at:
        clients = pair(at)
        publish(clients[0], 0, 0)
        halfway = until(
            lambda: [s for s in [clients[0].status()] if s.workers[0].published or s.workers[1].published], ""
        )
        by_name = {worker.name: worker for worker in halfway[0].workers}
        assert (by_name["node0"].published, by_name["node1"].published) == (True, False)
        threading.Event().wait(0.5)
        publish(clients[1], 1, 0)
        assert all(isinstance(client.result(20), Consensus) for client in clients)
        status = clients[0].status()
        by_name = {worker.name: worker for worker in status.workers}
        assert by_name["node0"].waited_for == 0.0
        assert by_name["node1"].waited_for == pytest.approx(0.5, abs=0.4)
        assert (status.phase, status.round, status.epoch, status.closed, status.rounds) == (pb.RUNNING, 1, 1, 1, 1000)
        assert {worker.state for worker in status.workers} == {"member"}
        assert all(worker.connected for worker in status.workers)
        for client in clients:
            client.close()


def test_watching_goes_from_forming_to_over(tmp_path: Path) -> None:
    """A watcher sees the group form, run and end; then the watch ends by itself."""
    with coordinator(tmp_path, linger=True) as at:
        channel = Access(at.address).channel()
        stub: Any = CoordinatorStub(channel)  # type: ignore[no-untyped-call]  # generated
        watch = stub.WatchStatus(pb.WatchRequest(interval=0.05), timeout=20)
        first = next(watch)
        assert (first.phase, first.text) == (pb.FORMING, "0 of 2 peers have joined")
        clients = pair(at)
        until(lambda: next(watch).phase == pb.RUNNING, "the group runs")
        clients[0].stop("seen enough")
        together(*(client.leave for client in clients))
        last = list(watch)[-1]
        assert (last.phase, last.text, len(last.workers)) == (pb.OVER, "stopped: seen enough", 0)
        for client in clients:
            client.close()
        channel.close()


def test_metrics_are_served_on_a_port_of_their_own(tmp_path: Path) -> None:
    """Rounds, members, bytes and refusals, as Prometheus reads them."""
    with coordinator(tmp_path, metrics_port=0) as at:
        clients = pair(at)
        for peer, client in enumerate(clients):
            publish(client, peer, 0)
        assert all(isinstance(client.result(20), Consensus) for client in clients)
        found = re.search(r"metrics on (http://\S+)", at.log)
        assert found is not None
        with urllib.request.urlopen(found[1], timeout=10) as reply:  # noqa: S310  # our own server
            text = reply.read().decode()
        for line in (
            'consensus_rounds_total{result="closed"} 1.0',
            "consensus_members 2.0",
            "consensus_epoch 1.0",
            "consensus_received_bytes_total 256.0",
            'consensus_sent_bytes_total{way="shared"} 256.0',
        ):
            assert line in text
        for client in clients:
            client.close()
