"""One contract, every implementation of the exchange."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch

from peers.method.target_selection import TargetSelection
from peers.method.targets import median, trimmed_mean
from peers.transport.values import Missed
from tests.contracts import scenarios
from tests.contracts.arenas import Arena, CollectiveArena, FaultyArena, InProcessArena
from tests.contracts.coordinated_arena import CoordinatedArena
from tests.contracts.scenarios import SEED, SHORT, Spec

SEPARATE = ((0,), (1,), (2,), (3,))
PACKED = ((0, 1), (2, 3))
UNEVEN = ((0, 1), (2,))


FIXED: dict[str, Callable[[], Arena]] = {
    "inprocess": InProcessArena,
    "collective": CollectiveArena,
    "faulty": FaultyArena,
}
ELASTIC: dict[str, Callable[[], Arena]] = {
    "stream": CoordinatedArena,
    "shared": functools.partial(CoordinatedArena, shared=True),
    "tls": functools.partial(CoordinatedArena, tls=True),
}


@pytest.fixture(scope="module")
def arena(request: pytest.FixtureRequest) -> Iterator[Arena]:
    """A place where groups of an implementation can be made."""
    made = {**FIXED, **ELASTIC}[request.param]()
    yield made
    made.close()


every_exchange = pytest.mark.parametrize("arena", [*FIXED, *ELASTIC], indirect=True)
fixed_exchange = pytest.mark.parametrize("arena", FIXED, indirect=True)
elastic_exchange = pytest.mark.parametrize("arena", ELASTIC, indirect=True)


def tree(parts: dict[int, np.ndarray]) -> np.ndarray:
    """The reference sum: a binary tree over ids, written as a recursion over ranges of ids."""

    def over(low: int, high: int) -> np.ndarray | None:
        if high - low == 1:
            return parts.get(low)
        middle = (low + high) // 2
        left, right = over(low, middle), over(middle, high)
        return left if right is None else right if left is None else left + right

    total = over(0, 8)
    assert total is not None
    return total


@pytest.mark.parametrize(
    ("hosted", "wire"),
    [(SEPARATE, "float32"), (PACKED, "bf16"), (UNEVEN, "float32"), (((0,), (1,)), "bf16")],
    ids=["4x1", "2x2-bf16", "2+1", "2x1-bf16"],
)
@every_exchange
def test_total_is_the_tree_sum_of_what_was_sent(arena: Arena, hosted: tuple[tuple[int, ...], ...], wire: str) -> None:
    """Bit for bit, in float32 whatever the wire carries, for every way to pack the peers into workers."""
    spec = Spec(hosted, wire=wire, shape=(7, 5))
    for worker, results in enumerate(arena.run(scenarios.rounds, spec)):
        for round_, result in enumerate(results):
            sent = {peer: scenarios.reference_sent(spec, peer, round_) for peer in range(spec.group)}
            np.testing.assert_array_equal(result["total"], tree(sent))
            assert result["contributors"] == tuple(range(spec.group))
            assert result["count"] == spec.group
            assert result["round"] == round_
            assert set(result["sent"]) == set(hosted[worker])
            for peer, z in result["sent"].items():
                np.testing.assert_array_equal(z, sent[peer])


@every_exchange
def test_receipts_are_equal_for_all_and_differ_between_rounds(arena: Arena) -> None:
    """The receipt names round, epoch, contributors and the total's digest, the same for every worker."""
    results = arena.run(scenarios.rounds, Spec(SEPARATE))
    for round_ in range(3):
        assert len({worker[round_]["receipt"] for worker in results}) == 1
    assert len({result["receipt"].digest for result in results[0]}) == 3


@pytest.mark.parametrize(
    ("rule", "k", "hosted", "wire"),
    [
        ("random_peer", 1, SEPARATE, "bf16"),
        ("random_peer", 1, PACKED, "float32"),
        ("roles", 1, PACKED, "bf16"),
        ("neighbours", 2, SEPARATE, "float32"),
        ("median", 1, PACKED, "float32"),
        ("trimmed_mean", 1, SEPARATE, "bf16"),
    ],
)
@every_exchange
def test_members_are_those_the_rule_asks_for(
    arena: Arena, rule: str, k: int, hosted: tuple[tuple[int, ...], ...], wire: str
) -> None:
    """Each worker gets the outputs its peers listen to in this round, exact, and nobody else's."""
    spec = Spec(hosted, rule=rule, k=k, wire=wire)
    for worker, results in enumerate(arena.run(scenarios.rounds, spec)):
        for round_, result in enumerate(results):
            drawn = TargetSelection(rule, SEED, k).sources(round_, range(4))
            mine = hosted[worker]
            wanted = {source for peer in mine for source in drawn[peer]} - set(mine)
            assert result["total"] is None
            if result["aggregate"] is not None:
                wanted = set()  # the coordinator has computed the median or the trimmed mean, once for all
                sent = [torch.from_numpy(scenarios.reference_sent(spec, peer, round_)) for peer in range(4)]
                expected = median(sent) if rule == "median" else trimmed_mean(sent, 0.25)
                np.testing.assert_array_equal(result["aggregate"], expected.numpy())
            assert result["sources"] == {peer: drawn[peer] for peer in mine}
            assert set(result["members"]) == wanted
            for peer, z in result["members"].items():
                np.testing.assert_array_equal(z, scenarios.reference_sent(spec, peer, round_))


@every_exchange
def test_join_agrees_on_members_and_on_the_newest_round_that_all_have(arena: Arena) -> None:
    """Peers have saved up to round 40 or 30: the group begins at 30."""
    for ticket, _ in arena.run(scenarios.tickets_and_reports, Spec(PACKED)):
        assert ticket.members == (0, 1, 2, 3)
        assert ticket.first_round == 30
        assert ticket.epoch >= 1


@every_exchange
def test_leave_gives_every_report_to_every_worker(arena: Arena) -> None:
    """Reports are JSON values, unchanged."""
    expected = {peer: {"name": f"peer {peer}", "score": peer / 3} for peer in range(4)}
    assert [reports for _, reports in arena.run(scenarios.tickets_and_reports, Spec(PACKED))] == [expected] * 2


@every_exchange
def test_without_a_common_checkpoint_the_group_begins_at_zero(arena: Arena) -> None:
    """Round 0, the initialization, is what all have."""
    assert arena.run(scenarios.no_common_checkpoint, Spec(((0,), (1,)))) == [0, 0]


@pytest.mark.parametrize("hosted", [SEPARATE, PACKED], ids=["4x1", "2x2"])
@every_exchange
def test_who_abstains_is_in_no_sum(arena: Arena, hosted: tuple[tuple[int, ...], ...]) -> None:
    """Count and contributors say so; a round without any is empty, or void; after that the group goes on."""
    spec = Spec(hosted)
    for first, second, third in arena.run(scenarios.abstaining, spec):
        np.testing.assert_array_equal(
            first["total"], tree({peer: scenarios.reference_sent(spec, peer, 0) for peer in (1, 2, 3)})
        )
        assert first["contributors"] == (1, 2, 3)
        assert 0 not in first["sent"]
        if isinstance(second, Missed):
            assert second.reason == "void"
        else:
            assert second["total"] is None
            assert second["contributors"] == ()
        assert third["contributors"] == (0, 1, 2, 3)


@every_exchange
def test_a_source_that_abstains_is_missing_not_zero(arena: Arena) -> None:
    """Rules on members get nothing in place of outputs that were not sent."""
    for first, *_ in arena.run(scenarios.abstaining, Spec(SEPARATE, rule="median")):
        assert 0 not in first["members"]
        assert first["contributors"] == (1, 2, 3)


@every_exchange
def test_all_hear_who_leaves_in_the_same_round(arena: Arena) -> None:
    """So that a fixed group ends together."""
    for before, last in arena.run(scenarios.leaving, Spec(PACKED)):
        assert before["leaving"] == []
        assert last["leaving"] == [2, 3]


@fixed_exchange
def test_different_batches_are_refused_with_both_digests(arena: Arena) -> None:
    """Nobody trains on a sum over different images."""
    for text in arena.run(scenarios.other_batch, Spec(SEPARATE)):
        assert text.startswith("DisagreementError: round 0: peers [0] and [3] saw different batches")
        assert scenarios.DIGEST.hex() in text
        assert bytes(16).hex() in text


@pytest.mark.parametrize(
    ("scenario", "name", "values"),
    [
        (scenarios.other_configuration, "configuration", ("same", "other")),
        (scenarios.other_width, "output shape [B, D]", ("(6, 5)", "(6, 99)")),
    ],
)
@fixed_exchange
def test_who_does_not_fit_is_refused_at_the_door(
    arena: Arena, scenario: scenarios.Spec, name: str, values: tuple[str, str]
) -> None:
    """The error names the peers that differ, in what, and both values."""
    for text in arena.run(scenario, Spec(SEPARATE)):
        assert text.startswith("DisagreementError: peers [0] and [3] differ in " + name)
        assert all(value in text for value in values)


@fixed_exchange
def test_a_silent_member_is_an_error_within_the_deadline(arena: Arena) -> None:
    """No wait is longer than the round deadline; the error names the round."""
    *waiting, silent = arena.run(scenarios.one_never_publishes, Spec(((0,), (1,)), deadline=SHORT))
    assert silent == "silent"
    assert all(text.startswith("ExchangeError: round 0:") for text in waiting)


@elastic_exchange
def test_an_elastic_group_refuses_the_odd_one_out_and_goes_on(arena: Arena) -> None:
    """The majority's batch counts; the other member's publication enters no sum, and it hears both digests."""
    spec = Spec(SEPARATE)
    *others, odd = arena.run(scenarios.minority, spec)
    for result in others:
        assert result["contributors"] == (0, 1, 2)
        np.testing.assert_array_equal(
            result["total"], tree({peer: scenarios.reference_sent(spec, peer, 0) for peer in range(3)})
        )
    assert odd.startswith("DisagreementError:")
    assert scenarios.DIGEST.hex() in odd
    assert bytes(16).hex() in odd


@elastic_exchange
def test_an_elastic_group_goes_on_without_a_silent_member(arena: Arena) -> None:
    """The round closes at its deadline without it; it is told that it is late, and is back in the next round."""
    *others, silent = arena.run(scenarios.silent_member, Spec(SEPARATE, deadline=SHORT))
    for first, second in others:
        assert first["contributors"] == (0, 1, 2)
        assert second["contributors"] == (0, 1, 2, 3)
    late, second = silent
    assert isinstance(late, Missed)
    assert (late.reason, late.next_round) == ("late", 1)
    assert second["contributors"] == (0, 1, 2, 3)


@elastic_exchange
def test_who_gives_up_waiting_is_told_how_long_it_was_and_may_wait_again(arena: Arena) -> None:
    """The error tells the whole wait, though a worker looks up from it every second; nothing is lost by it."""
    *others, late = arena.run(scenarios.short_of_patience, Spec(SEPARATE))
    for gave_up, contributors in others:
        assert re.fullmatch(r"NoAnswerError: no answer of 127\.0\.0\.1:\d+ within 1\.5 s: look at its status", gave_up)
        assert contributors == (0, 1, 2, 3)
    assert late == ("", (0, 1, 2, 3))
