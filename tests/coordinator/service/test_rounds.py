"""When a round closes, and what each publication is answered."""

from __future__ import annotations

import pytest

from coordinator.service.rounds import Publication, Rounds, SettledRound
from protos.consensus_pb2 import (
    BATCH_MISMATCH,
    DUPLICATE,
    FUTURE,
    LATE,
    OK,
    STALE,
    VOID,
    WRONG_EPOCH,
)

ONE, OTHER = b"1" * 16, b"2" * 16


def publication(
    worker: int,
    round_: int = 0,
    *,
    epoch: int = 1,
    batch: bytes = ONE,
    checksum: int = 7,
    abstains: bool = False,
    leaving: bool = False,
) -> Publication:
    """Of a worker that hosts the peer of its own number."""
    peers = ((), (worker,)) if abstains else ((worker,), ())
    return Publication(worker, round_, epoch, batch, *peers, checksum=checksum, leaving=leaving)


def opened(workers: int = 4, *, min_peers: int = 2, quorum: float = 0.5) -> Rounds:
    """Round 0, open for workers 0, 1, ... at time 0, with a deadline of ten seconds."""
    rounds = Rounds(min_peers, quorum, 10.0)
    rounds.open(0, 1, {worker: (worker,) for worker in range(workers)}, 0.0)
    return rounds


def test_closes_when_all_have_published() -> None:
    """The last publication closes the round, whatever the deadline; its receipt names all in order of ids."""
    rounds = opened(3)
    for worker, when in ((2, 1.0), (0, 2.0), (1, 5.0)):
        assert rounds.settle(when) is None
        assert rounds.offer(publication(worker), when) == OK
    settled = rounds.settle(5.0)
    assert settled is not None
    assert (settled.code, settled.contributors, settled.epoch) == (OK, (0, 1, 2), 1)
    assert settled.waited == {1: 3.0}, "the others waited three seconds for worker 1"


def test_deadline_counts_from_the_first_publication() -> None:
    """Nothing happens until somebody publishes; ten seconds later the quorum closes the round without the rest."""
    rounds = opened(4)
    assert rounds.settle(1000.0) is None
    rounds.offer(publication(1), 1000.0)
    rounds.offer(publication(3), 1001.0)
    assert rounds.settle(1009.9) is None
    settled = rounds.settle(1010.0)
    assert settled is not None
    assert (settled.code, settled.contributors, settled.missed) == (OK, (1, 3), (0, 2))
    assert settled.waited == {0: 9.0, 2: 9.0}


@pytest.mark.parametrize(
    ("workers", "quorum", "min_peers", "due"),
    [(4, 0.5, 2, 2), (5, 0.5, 2, 3), (10, 0.7, 2, 7), (3, 0.1, 2, 2), (2, 1, 1, 2)],
)
def test_quorum_is_rounded_up_and_at_least_the_minimum(workers: int, quorum: float, min_peers: int, due: int) -> None:
    """ceil(share x peers), and never below the minimum of peers."""
    assert opened(workers, quorum=quorum, min_peers=min_peers).quorum() == due


def test_without_the_quorum_the_round_is_void_for_all() -> None:
    """One publication of four at the deadline: void, also for the one that published."""
    rounds = opened(4)
    rounds.offer(publication(1), 0.0)
    settled = rounds.settle(10.0)
    assert settled is not None
    assert (settled.code, settled.contributors, settled.answers) == (VOID, (), {1: VOID})
    assert "1 of 4, at least 2 are needed" in settled.text


def test_what_was_accepted_stays_when_its_worker_goes() -> None:
    """A worker that is expelled after it published is in the sum; one that is expelled before is not waited for."""
    rounds = opened(3)
    rounds.offer(publication(0), 0.0)
    rounds.remove(0)
    rounds.remove(1)
    rounds.offer(publication(2), 0.0)
    settled = rounds.settle(0.0)
    assert settled is not None
    assert (settled.contributors, settled.missed) == ((0, 2), ())


def test_each_wrong_publication_has_its_own_code() -> None:
    """Future, wrong epoch, duplicate, late and stale are told apart."""
    rounds = opened(2)
    assert rounds.offer(publication(0, 5), 0.0) == FUTURE
    assert rounds.offer(publication(0, epoch=9), 0.0) == WRONG_EPOCH
    assert rounds.offer(publication(0), 0.0) == OK
    assert rounds.offer(publication(0, checksum=8), 0.0) == DUPLICATE
    assert rounds.offer(publication(0), 0.0) == OK, "the same bytes again, after a reconnect"
    rounds.settle(10.0)
    rounds.open(1, 1, {0: (0,), 1: (1,)}, 10.0)
    assert rounds.offer(publication(1, 0), 10.0) == LATE
    assert rounds.offer(publication(0, 0, checksum=8), 10.0) == DUPLICATE
    rounds.offer(publication(0, 1), 10.0)
    rounds.offer(publication(1, 1), 10.0)
    rounds.settle(10.0)
    rounds.open(2, 1, {0: (0,), 1: (1,)}, 10.0)
    assert rounds.offer(publication(0, 0), 10.0) == STALE


def test_a_lost_answer_is_given_again() -> None:
    """The publication of the last round again: answered with that round, though the next is open."""
    rounds = opened(2)
    rounds.offer(publication(0), 0.0)
    rounds.offer(publication(1), 0.0)
    settled = rounds.settle(0.0)
    rounds.open(1, 1, {0: (0,), 1: (1,)}, 0.0)
    assert rounds.offer(publication(0), 1.0) is settled


def test_one_liar_voids_nothing() -> None:
    """Whoever published first, the batch of the majority stands; the other worker is refused, with both digests."""
    rounds = opened(3)
    rounds.offer(publication(0, batch=OTHER), 0.0)
    rounds.offer(publication(1), 0.0)
    rounds.offer(publication(2), 0.0)
    settled = rounds.settle(0.0)
    assert settled is not None
    assert settled.contributors == (1, 2)
    assert settled.answers == {0: BATCH_MISMATCH, 1: OK, 2: OK}
    assert ONE.hex() in settled.text
    assert OTHER.hex() in settled.text
    assert "peers [0]" in settled.text


def test_a_tie_of_batches_is_void_for_all() -> None:
    """Two that disagree: nobody can tell who is right, both are told of the mismatch."""
    rounds = opened(2)
    rounds.offer(publication(0, batch=OTHER), 0.0)
    rounds.offer(publication(1), 0.0)
    settled = rounds.settle(0.0)
    assert settled is not None
    assert (settled.contributors, settled.answers) == ((), {0: BATCH_MISMATCH, 1: BATCH_MISMATCH})


def test_abstaining_is_publishing() -> None:
    """A peer without finite outputs holds nobody up and is no contributor; if all abstain the round is void."""
    rounds = opened(3)
    rounds.offer(publication(0, abstains=True), 0.0)
    rounds.offer(publication(1), 0.0)
    rounds.offer(publication(2, leaving=True), 0.0)
    settled = rounds.settle(0.0)
    assert settled is not None
    assert (settled.contributors, settled.leaving) == ((1, 2), (2,))
    rounds.open(1, 1, {0: (0,), 1: (1,)}, 0.0)
    rounds.offer(publication(0, 1, abstains=True), 0.0)
    rounds.offer(publication(1, 1, abstains=True), 0.0)
    void = rounds.settle(0.0)
    assert void is not None
    assert (void.code, "abstained" in void.text) == (VOID, True)


def test_settled_rounds_survive_being_kept() -> None:
    """A settled round is the same after it was a JSON object."""
    rounds = opened(3)
    rounds.offer(publication(0, batch=OTHER), 0.0)
    rounds.offer(publication(1), 0.5)
    rounds.offer(publication(2, leaving=True), 1.5)
    settled = rounds.settle(1.5)
    assert settled is not None
    assert SettledRound.from_json(settled.as_json()) == settled
