"""Real coordinators and real clients: everybody gets the same bits, whatever carries them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xxhash

from coordinator.service.aggregate import robust
from peers.common.errors import DisagreementError, ExchangeError
from peers.common.summation import tree_sum
from peers.method.target_selection import TargetSelection
from peers.transport.client import StreamClient
from peers.transport.replies import Outcome, RefusedError
from peers.transport.values import Consensus, Missed, RunEnded
from protos.consensus_pb2 import INDEX_HELD, OVER, RUNNING
from protos.tensors import NAMES, Float32, as_sent
from tests.coordinator.service.processes import Coordinator, coordinator, info, together
from tests.coordinator.service.settled import BATCH

SHAPE = (4, 8)


def outputs(peer: int, shape: tuple[int, int] = SHAPE) -> Float32:
    """Of very different sizes, so that the order of addition shows."""
    return (np.random.default_rng(peer).standard_normal(shape) * 10.0 ** (peer % 5)).astype(np.float32)


def one_round(
    client: StreamClient, peers: tuple[int, ...], round_: int, shape: tuple[int, int] = SHAPE
) -> Consensus[Float32]:
    """Publish for the hosted peers; the round must close."""
    client.publish(round_, {peer: outputs(peer, shape) for peer in peers}, BATCH)
    outcome = client.result(20)
    assert isinstance(outcome, Consensus), outcome
    return outcome


def run_group(at: Coordinator, *hosted: tuple[int, ...], rounds: int = 2, **options: Any) -> list[Consensus[Float32]]:
    """Workers that host these peers, for some rounds; each worker's last result."""
    shape, wire = options.get("shape", SHAPE), options.get("wire", "float32")
    shared = options.get("shared", True)

    def worker(peers: tuple[int, ...]) -> Callable[[], Consensus[Float32]]:
        def live() -> Consensus[Float32]:
            client = at.client(shared=shared)
            admission = client.join(info(*peers, shape=shape, wire=wire, rule=at.settings.rule.name, insist=True))
            assert admission.peers == peers
            result = [one_round(client, peers, round_, shape) for round_ in range(rounds)][-1]
            assert client.shares_memory == shared
            client.leave()
            client.close()
            return result

        return live

    return together(*(worker(peers) for peers in hosted))


def reference(peers: tuple[int, ...], wire: str, shape: tuple[int, int] = SHAPE) -> bytes:
    """The total by its definition."""
    sent = {peer: torch.from_numpy(as_sent(outputs(peer, shape), NAMES[wire])) for peer in peers}
    return bytes(tree_sum(sent).numpy().tobytes())


@pytest.mark.parametrize("wire", ["float32", "bf16", "float16"])
@pytest.mark.parametrize("shared", [False, True], ids=["stream", "shared memory"])
def test_everybody_gets_the_total_of_the_definition(tmp_path: Path, wire: str, shared: bool) -> None:
    """Four peers, two of them in one worker: the same total, receipt and bits on stream and shared memory."""
    with coordinator(tmp_path, group=4) as at:
        results = run_group(at, (0,), (1,), (2, 3), wire=wire, shared=shared)
    due = reference((0, 1, 2, 3), wire)
    for result in results:
        assert result.total is not None
        assert result.total.tobytes() == due
        assert result.digest == xxhash.xxh3_128_hexdigest(due)
        assert (result.contributors, result.group, result.count) == ((0, 1, 2, 3), (0, 1, 2, 3), 4)
    assert np.array_equal(results[2].sent[3], as_sent(outputs(3), NAMES[wire]))


def test_partial_sums_stand_at_the_lowest_id(tmp_path: Path) -> None:
    """Workers that host peers 0, 2 and 1, 3: each adds its own first, and its sum takes its lowest peer's place."""
    with coordinator(tmp_path, group=4) as at:
        results = run_group(at, (0, 2), (1, 3))
    partial = {low: torch.from_numpy(outputs(low) + outputs(low + 2)) for low in (0, 1)}
    for result in results:
        assert result.total is not None
        assert result.total.tobytes() == tree_sum(partial).numpy().tobytes()
        assert result.contributors == (0, 1, 2, 3)


@pytest.mark.parametrize("shared", [False, True], ids=["stream", "shared memory"])
@pytest.mark.parametrize("rows", [2048, 2049])
def test_payloads_around_the_message_limit(tmp_path: Path, rows: int, shared: bool) -> None:
    """[2048, 512] float32 is exactly gRPC's default limit, one row more takes two messages; both arrive."""
    shape = (rows, 512)
    with coordinator(tmp_path, shape=shape) as at:
        results = run_group(at, (0,), (1,), shape=shape, shared=shared)
    assert [result.total.tobytes() if result.total is not None else b"" for result in results] == [
        reference((0, 1), "float32", shape)
    ] * 2


@pytest.mark.parametrize("shared", [False, True], ids=["stream", "shared memory"])
def test_rules_on_members_give_exactly_what_was_drawn(tmp_path: Path, shared: bool) -> None:
    """Each worker gets its peers' sources that it does not host itself, and nobody else's outputs."""
    rule = TargetSelection("neighbours", 3, k=1)
    with coordinator(tmp_path, group=4, rule=rule) as at:
        results = run_group(at, (0,), (1,), (2, 3), shared=shared)
    drawn = rule.sources(1, (0, 1, 2, 3))
    for result, peers in zip(results, [(0,), (1,), (2, 3)], strict=True):
        due = {source for peer in peers for source in drawn[peer]} - set(peers)
        assert result.total is None
        assert set(result.members) == due
        assert all(np.array_equal(values, outputs(peer)) for peer, values in result.members.items())
    assert len({result.digest for result in results}) == 1


@pytest.mark.parametrize(("name", "cut"), [("median", None), ("trimmed_mean", 1)])
def test_robust_rules_are_computed_once_for_all(tmp_path: Path, name: str, cut: int | None) -> None:
    """Median and trimmed mean come back as one tensor, over all contributors."""
    with coordinator(tmp_path, group=4, rule=TargetSelection(name, 0, q=0.25)) as at:
        results = run_group(at, (0,), (1, 2), (3,))
    due = robust([outputs(peer) for peer in range(4)], cut)
    for result in results:
        assert result.aggregate is not None
        assert result.aggregate.tobytes() == due.tobytes()


def pair(at: Coordinator) -> tuple[StreamClient, StreamClient]:
    """Two members, peers 0 and 1."""
    clients = (at.client(), at.client())
    together(*(lambda place=place: clients[place].join(info(place)) for place in (0, 1)))
    return clients


def outcomes(clients: Mapping[int, StreamClient], round_: int, **changes: Any) -> list[Outcome | Exception]:
    """Publish with each client, each of its own peer; what each of them gets, errors as values."""

    def one(peer: int) -> Callable[[], Outcome | Exception]:
        def publish() -> Outcome | Exception:
            clients[peer].publish(round_, {peer: outputs(peer)}, **{"digest": BATCH, **changes.get(f"p{peer}", {})})
            try:
                return clients[peer].result(20)
            except ExchangeError as exc:
                return exc

        return publish

    return together(*(one(peer) for peer in clients))


def test_abstaining_late_and_leaving(tmp_path: Path) -> None:
    """An abstainer is no contributor; who misses the deadline is late; the last word of who leaves can be read."""
    with coordinator(tmp_path, group=3, heartbeat=0.5, round_deadline=0.5, max_missed=9) as at:
        clients = [at.client() for _ in range(3)]
        together(*(lambda place=place: clients[place].join(info(place)) for place in range(3)))
        clients[2].publish(0, {2: None}, BATCH)
        first, second = outcomes({0: clients[0], 1: clients[1]}, 0)
        third = clients[2].result(20)
        for outcome in (first, second, third):
            assert isinstance(outcome, Consensus)
            assert outcome.contributors == (0, 1)
        outcomes({0: clients[0], 1: clients[1]}, 1)  # closes at its deadline, without peer 2
        clients[2].publish(1, {2: outputs(2)}, BATCH)
        assert clients[2].result(20) == Missed(1, "late", "it closed without this worker", 2)
        clients[1].publish(2, {1: outputs(1)}, BATCH, leaving=True)
        clients[2].publish(2, {2: outputs(2)}, BATCH)
        last = one_round(clients[0], (0,), 2)
        assert last.leaving == {1}
        assert isinstance(clients[1].result(20), Consensus)
        assert clients[1].leave({1: b'{"knn": 85.5}'}) == {1: b'{"knn": 85.5}'}
        for client in clients:
            client.close()


def test_without_a_quorum_the_round_is_void_for_all(tmp_path: Path) -> None:
    """One of three publishes, two are needed: void, for the reason that says so."""
    with coordinator(tmp_path, group=3, heartbeat=0.5, round_deadline=0.5, max_missed=9) as at:
        clients = [at.client() for _ in range(3)]
        together(*(lambda place=place: clients[place].join(info(place)) for place in range(3)))
        clients[0].publish(0, {0: outputs(0)}, BATCH)
        outcome = clients[0].result(20)
        assert isinstance(outcome, Missed)
        assert "1 of 3, at least 2 are needed" in outcome.text
        assert outcome.next_round == 1
        for client in clients:
            client.close()


def test_different_batches_are_refused_with_both_digests(tmp_path: Path) -> None:
    """Of two that disagree nobody trains, and both errors carry both digests."""
    with coordinator(tmp_path) as at:
        clients = pair(at)
        told = outcomes(dict(enumerate(clients)), 0, p1={"digest": b"x" * 16})
        for outcome in told:
            assert isinstance(outcome, DisagreementError)
            assert BATCH.hex() in str(outcome)
            assert (b"x" * 16).hex() in str(outcome)
        for client in clients:
            client.close()


def test_a_run_ends_by_itself(tmp_path: Path) -> None:
    """After the last round everybody is told `complete`, reports are exchanged, the process ends with 0."""
    with coordinator(tmp_path, rounds=3) as at:
        clients = pair(at)
        assert clients[0].status().phase == RUNNING
        for round_ in range(3):
            outcomes(dict(enumerate(clients)), round_)
        assert outcomes(dict(enumerate(clients)), 3) == [RunEnded("complete")] * 2
        status = clients[0].status()
        assert (status.phase, status.text, status.closed, status.voided) == (OVER, "complete", 3, 0)
        reports = together(
            *(
                lambda place=place: clients[place].leave({place: json.dumps(place).encode()}, wait=10)
                for place in (0, 1)
            )
        )
        assert reports == [{0: b"0", 1: b"1"}] * 2
        assert at.ended() == 0
        for client in clients:
            client.close()


def test_a_run_that_cannot_form_ends_with_a_status(tmp_path: Path) -> None:
    """One peer of two, until the end of the join window: told why, exit code 3."""
    times = {"heartbeat": 0.5, "round_deadline": 0.5, "join_window": 0.6}
    with coordinator(tmp_path, **times) as at:
        client = at.client()
        with pytest.raises(RefusedError, match=r"1 peers after 0\.6 s, at least 2 are needed"):
            client.join(info(0))
        client.close()
        assert at.ended() == 3


def test_who_does_not_fit_is_turned_away(tmp_path: Path) -> None:
    """Another run, shape, rule or data: both values are named. A held id is waited for only as long as asked."""
    with coordinator(tmp_path, group=3, agreed={"configuration": "c1"}) as at:
        first = at.client()
        agreed = {"configuration": "c1", "data": "d1"}
        joining = info(0, agreed=agreed)

        def forming() -> None:
            with pytest.raises(ExchangeError):
                first.join(joining)

        def others() -> None:
            client = at.client()
            for wrong, text in (
                (info(1, shape=(5, 8), agreed=agreed), r"\[5, 8\], expected \[4, 8\]"),
                (info(1, rule="roles", agreed=agreed), "target rule: roles, expected mean"),
                (info(1, agreed={"configuration": "c2"}), "configuration: c2, expected c1"),
                (info(1), "configuration: missing, expected c1"),
            ):
                with pytest.raises(DisagreementError, match=text):
                    client.join(wrong)
            while not client.status().workers:
                pass
            with pytest.raises(DisagreementError, match="data: d2, expected d1"):
                client.join(info(1, agreed={**agreed, "data": "d2"}))
            with pytest.raises(RefusedError) as refused:
                client.join(info(0, agreed=agreed, insist=True, window=0.5))
            assert refused.value.code == INDEX_HELD
            client.stop("test")
            client.close()

        together(forming, others)
        first.close()
