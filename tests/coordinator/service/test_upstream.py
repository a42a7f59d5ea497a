"""Trees of coordinators: relays add up, the root closes, and everybody is told the same. Real processes."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coordinator.service.aggregate import digest
from coordinator.service.relay.upstream import batches
from peers.common.errors import DisagreementError, ExchangeError
from peers.transport.client import StreamClient
from peers.transport.replies import Outcome
from peers.transport.values import Consensus, RunEnded
from protos.consensus_pb2 import RUNNING, WAITING
from protos.tensors import Float32
from tests.coordinator.service.light_peer import batch
from tests.coordinator.service.processes import (
    Coordinator,
    LightPeer,
    coordinator,
    info,
    receipts_agree,
    together,
    until,
)
from tests.coordinator.service.trees import Relay, Tree, tree

SHAPE = (4, 8)
TIMES = {"heartbeat": 2.0, "round_deadline": 8.0, "join_window": 40.0}
HALVES = ((0, 1), (2, 3))


def outputs(peer: int, round_: int) -> Float32:
    """Of very different sizes, so that the order of addition shows."""
    dice = np.random.default_rng(1000 * round_ + peer)
    return (dice.standard_normal(SHAPE) * 10.0 ** (peer % 4)).astype(np.float32)


def played(at: Coordinator, peer: int, rounds: int) -> Callable[[], list[tuple[Any, ...]]]:
    """A peer that this process plays to the end of the run; what it is told of each round."""

    def play() -> list[tuple[Any, ...]]:
        client = at.client()
        client.join(info(peer, insist=True, window=30.0))
        told = []
        for round_ in range(rounds):
            client.publish(round_, {peer: outputs(peer, round_)}, batch(round_))
            result = client.result(30)
            assert isinstance(result, Consensus), result
            assert result.total is not None
            assert digest([result.total.tobytes()]).hex() == result.digest
            told.append((result.round, result.epoch, result.contributors, result.group, result.total.tobytes()))
        client.leave()
        client.close()
        return told

    return play


def contributors(peer: LightPeer) -> list[int]:
    """Of the newest round that a peer was told of."""
    lines = peer.lines("Consensus")
    return list(lines[-1]["contributors"]) if lines else []


def go_on(*peers: LightPeer, rounds: int = 10) -> None:
    """Wait until so many more rounds have closed for all of these."""
    due = {peer: len(peer.lines("Consensus")) + rounds for peer in peers}
    until(lambda: all(len(peer.lines("Consensus")) >= due[peer] for peer in peers), "rounds go on")


@contextmanager
def running(folder: Path, **changes: Any) -> Iterator[Tree]:
    """Two relays with two light peers each, some rounds under way."""
    with tree(folder / "tree", *HALVES, **{"group": 4, "rounds": 100_000, **TIMES, **changes}) as made:
        made.populate(0, 1, 2, 3)
        go_on(*made.peers.values())
        yield made


def stop(made: Tree, reason: str) -> None:
    """End the run at the root; everybody who was not killed must end with 0, for this reason."""
    client = made.root.client()
    client.stop(reason)
    client.close()
    for peer in (peer for peer in made.peers.values() if peer.process.returncode != -signal.SIGKILL):
        assert peer.process.wait(30) == 0
        assert peer.lines()[-1]["kind"] == "RunEnded"
        assert peer.lines()[-1]["reason"] == f"stopped: {reason}"
    assert [at.ended() for at in (made.root, *made.relays)] == [0, 0, 0]


def test_a_tree_gives_the_bits_of_a_flat_group(tmp_path: Path) -> None:
    """Thirty rounds: total, digest, round, epoch, contributors and members, for each of the four peers."""
    rounds = 30
    with coordinator(tmp_path, group=4, rounds=rounds) as at:
        flat = together(*(played(at, peer, rounds) for peer in range(4)))
        assert at.ended() == 0
    with tree(tmp_path / "tree", *HALVES, group=4, rounds=rounds) as made:
        below = together(*(played(made.relays[peer // 2], peer, rounds) for peer in range(4)))
        assert [each.ended() for each in (made.root, *made.relays)] == [0, 0, 0]
    assert flat == below
    assert len({json.dumps(str(told)) for told in below}) == 1


def test_a_relay_below_a_relay(tmp_path: Path) -> None:
    """Three levels: a root, a relay with a peer of its own, and one below it that has two; the bits of a flat group."""
    rounds = 5
    with coordinator(tmp_path, group=4, rounds=rounds) as at:
        flat = together(*(played(at, peer, rounds) for peer in range(4)))
    with tree(tmp_path / "tree", (0, 3), group=4, rounds=rounds, **TIMES) as made:
        lowest = Relay(tmp_path / "lowest", made.relays[0], 0, 1, group=4, rounds=rounds, **TIMES)
        try:
            lowest.start()
            homes = (lowest, lowest, made.relays[0], made.relays[0])
            below = together(*(played(homes[peer], peer, rounds) for peer in range(4)))
            assert [each.ended() for each in (made.root, *made.relays, lowest)] == [0, 0, 0]
        finally:
            lowest.kill()
    assert flat == below


def test_a_killed_peer_is_missed_by_nobody_else(tmp_path: Path) -> None:
    """SIGKILL below one relay: it goes on with the other, the count is right everywhere; the peer may come back."""
    with running(tmp_path) as made:
        made.peers[1].reap()
        others = [made.peers[peer] for peer in (0, 2, 3)]
        until(lambda: all(contributors(peer) == [0, 2, 3] for peer in others), "the others go on")
        go_on(*others)
        status = made.root.client()
        workers = {tuple(worker.peers): list(worker.absent) for worker in status.status().workers}
        assert workers == {(0, 1): [1], (2, 3): []}
        status.close()
        made.populate(1)
        until(lambda: all(contributors(peer) == [0, 1, 2, 3] for peer in others), "it is back")
        assert made.peers[1].lines("joined")[-1]["incarnations"] == [1]
        assert not any(peer.lines("Expelled") for peer in others)
        stop(made, "enough")
        receipts_agree(made.peers.values())


def test_a_killed_relay_comes_back_with_its_members(tmp_path: Path) -> None:
    """SIGKILL: the other half goes on; started again on its address and state, its members are in again, unharmed."""
    with running(tmp_path) as made:
        made.relays[0].kill()
        rest = [made.peers[2], made.peers[3]]
        until(lambda: all(contributors(peer) == [2, 3] for peer in rest), "the other half goes on")
        go_on(*rest)
        made.relays[0].start()
        until(lambda: all(contributors(peer) == [0, 1, 2, 3] for peer in made.peers.values()), "all are in again")
        for peer in made.peers.values():
            assert len(peer.lines("joined")) == 1, "nobody had to join again"
        stop(made, "by the test")
        receipts_agree(made.peers.values())


def test_a_killed_root_comes_back_and_no_round_is_lost(tmp_path: Path) -> None:
    """SIGKILL: relays and their members wait; the next root continues, round by round, with the same members."""
    with running(tmp_path) as made:
        for _ in range(2):
            made.root.kill()
            made.root.start()
            go_on(*made.peers.values())
        stop(made, "enough")
        seen = receipts_agree(made.peers.values())
        assert sorted(seen) == list(range(len(seen))), "a round is missing"
        assert all(receipt[1] == (0, 1, 2, 3) for receipt in seen.values())


def test_a_stopped_relay_is_expelled_and_joins_again(tmp_path: Path) -> None:
    """SIGSTOP beyond the heartbeat: the other half goes on; when it wakes, its members lose rounds, not membership."""
    with running(tmp_path) as made:
        relay = made.relays[0].process
        assert relay is not None
        relay.send_signal(signal.SIGSTOP)
        rest = [made.peers[2], made.peers[3]]
        until(lambda: all(contributors(peer) == [2, 3] for peer in rest), "the other half goes on")
        relay.send_signal(signal.SIGCONT)
        until(lambda: all(contributors(peer) == [0, 1, 2, 3] for peer in made.peers.values()), "all are in again")
        assert all(len(peer.lines("joined")) == 1 for peer in made.peers.values())
        missed = [line["round"] for line in made.peers[0].lines("late")]
        assert missed, "what went on without it is not told as if it had been there"
        stop(made, "enough")
        assert not set(missed) & {line["round"] for line in made.peers[0].lines("Consensus")}
        receipts_agree(made.peers.values())


def test_one_peer_alone_in_a_tree_waits_for_others(tmp_path: Path) -> None:
    """Three of four die: no round is spent on the last one; the root waits, and goes on as soon as one is back."""
    with running(tmp_path) as made:
        for peer in (1, 2, 3):
            made.peers[peer].reap()
        client = made.root.client()
        until(lambda: client.status().phase == WAITING, "the root waits")
        assert "1 peers are left, at least 2 are needed" in client.status().text
        below = made.relays[0].client()
        until(lambda: below.status().phase == WAITING, "its relay waits")
        assert below.status().text == "waits for the group above to open a round"
        below.close()
        waiting_at = client.status().round
        made.populate(1)
        until(lambda: contributors(made.peers[0]) == [0, 1], "two are enough")
        assert client.status().phase == RUNNING
        told = [line["round"] for line in made.peers[0].lines() if "round" in line and line["round"] >= waiting_at]
        assert told[0] == waiting_at, "rounds were spent while there was nobody to listen to"
        client.close()
        stop(made, "enough")


def test_a_relay_without_peers_holds_nobody_up(tmp_path: Path) -> None:
    """Both peers of a relay die: the others go on without a delay; a newcomer is in, as a new incarnation."""
    with running(tmp_path) as made:
        for peer in (2, 3):
            made.peers[peer].reap()
        until(lambda: contributors(made.peers[0]) == [0, 1], "the others go on")
        go_on(made.peers[0], made.peers[1], rounds=50)
        made.populate(3)
        until(lambda: contributors(made.peers[0]) == [0, 1, 3], "the newcomer contributes")
        assert made.peers[3].lines("joined")[-1]["incarnations"] == [1]
        stop(made, "enough")
        receipts_agree(made.peers.values())


@contextmanager
def members(made: Tree) -> Iterator[dict[int, StreamClient]]:
    """Four members that the test plays, by peer."""
    clients = {peer: made.relays[peer // 2].client() for peer in range(4)}
    together(*(lambda peer=peer: clients[peer].join(info(peer, insist=True, window=30.0)) for peer in clients))
    yield clients
    for client in clients.values():
        client.close()


def one_round(
    clients: dict[int, StreamClient], round_: int, digests: dict[int, bytes] | None = None, *, abstains: int = -1
) -> list[Outcome | ExchangeError]:
    """Everybody publishes; what each of them gets, errors as values."""

    def publish(peer: int) -> Callable[[], Outcome | ExchangeError]:
        def call() -> Outcome | ExchangeError:
            values = None if peer == abstains else outputs(peer, round_)
            clients[peer].publish(round_, {peer: values}, (digests or {}).get(peer, batch(round_)))
            try:
                return clients[peer].result(30)
            except ExchangeError as exc:
                return exc

        return call

    return together(*(publish(peer) for peer in clients))


def test_who_abstains_is_in_no_sum(tmp_path: Path) -> None:
    """One peer's outputs were not finite: it gets the others' total, with a receipt that does not name it."""
    with tree(tmp_path / "tree", *HALVES, group=4) as made, members(made) as clients:
        told = one_round(clients, 0, abstains=2)
        total = (outputs(0, 0) + outputs(1, 0)) + outputs(3, 0)
        for result in told:
            assert isinstance(result, Consensus)
            assert result.contributors == (0, 1, 3)
            assert result.total is not None
            assert result.total.tobytes() == total.tobytes()


def test_the_gate_above_bounds_a_sum_by_its_number_of_peers(tmp_path: Path) -> None:
    """Two peers may have twice one's norm; a sum beyond that is refused, and its peers abstain: no round is lost."""
    with tree(tmp_path / "tree", *HALVES, group=4, root_only={"norm_bound": 10.0}) as made, members(made) as clients:
        for round_, (large, due) in enumerate(((9.0, (0, 1, 2, 3)), (11.0, (0, 1)))):
            for peer, client in clients.items():
                values = np.full(SHAPE, large if peer > 1 else 1.0, np.float32)
                client.publish(round_, {peer: values}, batch(round_))
            for client in clients.values():
                result = client.result(30)
                assert isinstance(result, Consensus)
                assert result.contributors == due
                assert result.total is not None
                assert float(result.total[0, 0]) == (20.0 if len(due) == 4 else 2.0)


def test_another_batch_is_refused_by_name_wherever_it_is_noticed(tmp_path: Path) -> None:
    """Within a relay's peers nobody can tell of two; of two relays the larger counts: digests and peers are named."""
    other = b"x" * 16
    with tree(tmp_path / "tree", (0, 1), (2, 3), (4, 4), group=5, max_refused=9) as made:
        clients = {peer: made.relays[peer // 2].client() for peer in range(5)}
        together(*(lambda peer=peer: clients[peer].join(info(peer, insist=True, window=30.0)) for peer in clients))
        tie = one_round(clients, 0, {1: other})
        for peer in (0, 1):
            assert isinstance(tie[peer], DisagreementError)
            assert f"peers [0] saw {batch(0).hex()}" in str(tie[peer])
            assert f"peers [1] saw {other.hex()}" in str(tie[peer])
        assert all(isinstance(told, Consensus) and told.contributors == (2, 3, 4) for told in tie[2:])
        above = one_round(clients, 1, {4: other})
        assert isinstance(above[4], DisagreementError)
        assert f"peers [0, 1, 2, 3] saw {batch(1).hex()}, peers [4] saw {other.hex()}" in str(above[4])
        assert all(isinstance(told, Consensus) and told.contributors == (0, 1, 2, 3) for told in above[:4])
        after = one_round(clients, 2)
        assert all(isinstance(told, Consensus) and told.count == 5 for told in after)
        for client in clients.values():
            client.close()


def test_without_a_root_the_tree_ends(tmp_path: Path) -> None:
    """It does not come back within the join window: relays end with 3, and their members are told why."""
    times = {"heartbeat": 2.0, "round_deadline": 4.0, "join_window": 8.0}
    with tree(tmp_path / "tree", *HALVES, group=4, **times) as made, members(made) as clients:
        one_round(clients, 0)
        made.root.kill()
        for told in one_round(clients, 1):
            assert isinstance(told, RunEnded)
            assert "did not come back within 8.0 s" in told.text
        together(*(lambda client=client: client.leave() for client in clients.values()))
        assert [relay.ended() for relay in made.relays] == [3, 3]


def test_last_words_reach_everybody(tmp_path: Path) -> None:
    """Who leaves with a report gets those of all peers, also of other relays; here one fills a message."""
    with tree(tmp_path / "tree", *HALVES, group=4, rounds=1, report_bytes=15) as made, members(made) as clients:
        one_round(clients, 0)
        words = {peer: json.dumps({"peer": peer}).encode() for peer in clients}
        said = together(*(lambda peer=peer: clients[peer].leave({peer: words[peer]}, wait=20) for peer in clients))
        assert said == [words] * 4
        assert [at.ended() for at in (made.root, *made.relays)] == [0, 0, 0]


@pytest.mark.parametrize(("sizes", "due"), [((), [0]), ((5, 5, 5), [2, 1]), ((20, 1), [1, 1])])
def test_last_words_go_up_in_bounded_messages(sizes: tuple[int, ...], due: list[int]) -> None:
    """At most ten bytes here; one that is larger goes alone, and there is always a message."""
    reports = dict(enumerate(b"x" * size for size in sizes))
    made = list(batches(reports, 10))
    assert [len(some) for some in made] == due
    assert {peer: report for some in made for peer, report in some.items()} == reports
