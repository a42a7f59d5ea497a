"""Who listens to whom: a pure function of the seed, the round and the members, fair in the long run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from fractions import Fraction

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from peers.config.schema import ConsensusConfig
from peers.method.target_selection import TargetSelection, trimmed

DRAWN = ["random_peer", "roles", "neighbours"]
ON_MEMBERS = [*DRAWN, "median", "trimmed_mean"]
EXAMPLES = settings(max_examples=60)

seeds = st.integers(0, 2**63 - 1)
rounds = st.integers(0, 10**9)
members = st.sets(st.integers(0, 4095), min_size=2, max_size=12).map(sorted)


@pytest.mark.parametrize(
    ("name", "seed", "round_", "expected"),
    [
        ("random_peer", 0, 0, {0: (4,), 1: (0,), 2: (3,), 3: (4,), 4: (3,)}),
        ("random_peer", 0, 7, {0: (1,), 1: (2,), 2: (1,), 3: (2,), 4: (1,)}),
        ("random_peer", 123456789, 41, {0: (3,), 1: (4,), 2: (3,), 3: (0,), 4: (1,)}),
        ("roles", 0, 0, {0: (), 1: (2,), 2: (), 3: (4,), 4: ()}),
        ("roles", 0, 7, {0: (2,), 1: (), 2: (), 3: (), 4: (1,)}),
        ("roles", 123456789, 41, {0: (), 1: (), 2: (1,), 3: (), 4: (0,)}),
        ("neighbours", 0, 0, {0: (3, 1), 1: (4, 2), 2: (0, 3), 3: (1, 4), 4: (2, 0)}),
        ("neighbours", 0, 7, {0: (1, 4), 1: (4, 2), 2: (3, 0), 3: (0, 1), 4: (2, 3)}),
        ("neighbours", 123456789, 41, {0: (4, 1), 1: (2, 3), 2: (3, 0), 3: (0, 4), 4: (1, 2)}),
    ],
)
def test_draws_stay_what_they_are(name: str, seed: int, round_: int, expected: dict[int, tuple[int, ...]]) -> None:
    """Recorded draws: a change of them would change every run in progress, and part peers of different versions."""
    assert dict(TargetSelection(name, seed, k=2).sources(round_, range(5))) == expected


@EXAMPLES
@given(name=st.sampled_from(ON_MEMBERS), seed=seeds, round_=rounds, ids=members, data=st.data())
def test_draw_depends_on_its_arguments_alone(
    name: str, seed: int, round_: int, ids: list[int], data: st.DataObject
) -> None:
    """The same seed, round and members give the same draw, in whatever order the members are told."""
    shuffled = data.draw(st.permutations(ids))
    drawn = dict(TargetSelection(name, seed, k=2).sources(round_, ids))
    assert dict(TargetSelection(name, seed, k=2).sources(round_, shuffled)) == drawn
    assert dict(TargetSelection(name, seed, k=2).sources(round_, tuple(reversed(ids)))) == drawn


@EXAMPLES
@given(name=st.sampled_from(ON_MEMBERS), seed=seeds, round_=rounds, ids=members, k=st.integers(1, 14))
def test_everyone_hears_other_members_only(name: str, seed: int, round_: int, ids: list[int], k: int) -> None:
    """Every member has an entry; whom it hears are members, none twice, and never itself."""
    drawn = TargetSelection(name, seed, k=k).sources(round_, ids)
    assert sorted(drawn) == ids
    for peer, sources in drawn.items():
        assert peer not in sources
        assert len(set(sources)) == len(sources)
        assert set(sources) <= set(ids)


@EXAMPLES
@given(seed=seeds, round_=rounds, ids=members)
def test_roles_make_half_the_group_students(seed: int, round_: int, ids: list[int]) -> None:
    """floor(n / 2) students have one teacher each, no teacher is a student or has two; all others stand still."""
    drawn = TargetSelection("roles", seed).sources(round_, ids)
    students = {peer for peer, sources in drawn.items() if sources}
    teachers = [teacher for student in students for teacher in drawn[student]]
    assert len(students) == len(teachers) == len(ids) // 2
    assert len(set(teachers)) == len(teachers)
    assert not students & set(teachers)


@EXAMPLES
@given(seed=seeds, round_=rounds, ids=members, k=st.integers(1, 14))
def test_neighbours_hear_and_are_heard_k_times(seed: int, round_: int, ids: list[int], k: int) -> None:
    """On a ring every peer hears the k next ones, so each is heard exactly k times; k is at most all the others."""
    drawn = TargetSelection("neighbours", seed, k=k).sources(round_, ids)
    expected = min(k, len(ids) - 1)
    assert {len(sources) for sources in drawn.values()} == {expected}
    assert Counter(j for sources in drawn.values() for j in sources) == dict.fromkeys(ids, expected)
    # One ring: whoever hears the next k hears first the one who hears the k after that.
    following = {peer: sources[0] for peer, sources in drawn.items()}
    for peer, sources in drawn.items():
        walk, place = [], peer
        for _ in range(expected):
            place = following[place]
            walk.append(place)
        assert tuple(walk) == sources


@pytest.mark.parametrize("name", ["median", "trimmed_mean"])
def test_robust_rules_hear_all_others(name: str) -> None:
    """They need every member's outputs, in every round."""
    assert TargetSelection(name, 3).sources(9, [5, 1, 8]) == {1: (5, 8), 5: (1, 8), 8: (1, 5)}


@pytest.mark.parametrize("name", ["mean", "frozen"])
def test_rules_on_the_sum_ask_for_nobody(name: str) -> None:
    """They are of kind "sum" and have no sources; all others are of kind "members"."""
    assert TargetSelection(name, 0).kind == "sum"
    assert TargetSelection(name, 0).sources(0, [0, 1, 2]) == {0: (), 1: (), 2: ()}
    assert {TargetSelection(other, 0).kind for other in ON_MEMBERS} == {"members"}


@pytest.mark.parametrize("name", ["mean", "frozen", *ON_MEMBERS])
def test_a_lone_member_hears_nobody(name: str) -> None:
    """Alone there is no one to listen to; of no members nothing is asked."""
    assert TargetSelection(name, 0, k=1).sources(4, [17]) == {17: ()}
    assert TargetSelection(name, 0, k=1).sources(4, []) == {}


def test_rule_is_the_one_that_the_configuration_names() -> None:
    """Name, k and q come from the section, the seed from the run."""
    section = ConsensusConfig.model_validate({"target": "trimmed_mean", "k": 3, "q": 0.1})
    assert TargetSelection.of(section, 42) == TargetSelection("trimmed_mean", 42, 3, 0.1)


@pytest.mark.parametrize("name", DRAWN)
def test_draws_differ_by_round_and_seed(name: str) -> None:
    """Among 8 peers neither two rounds in a row nor two neighbouring seeds repeat each other as a habit."""
    draws = [[dict(TargetSelection(name, seed).sources(round_, range(8))) for round_ in range(20)] for seed in range(3)]
    for one, two in ((draws[0][:-1], draws[0][1:]), (draws[0], draws[1]), (draws[1], draws[2])):
        assert sum(a == b for a, b in zip(one, two, strict=True)) <= 1


def chi_square(outcomes: Iterable[object], cells: int) -> float:
    """Pearson's statistic of how often each outcome came, against equal shares of `cells` of them."""
    counts = Counter(outcomes)
    expected = counts.total() / cells
    seen = sum((count - expected) ** 2 / expected for count in counts.values())
    return seen + (cells - len(counts)) * expected


def test_random_peer_is_uniform_and_independent() -> None:
    """Over 6,000 rounds each of 4 peers draws each other equally often, and two peers' draws are independent.

    Bounds are the 0.999 quantiles of chi-square with 2 and 8 degrees of freedom.
    """
    drawn = [TargetSelection("random_peer", 5).sources(round_, range(4)) for round_ in range(6000)]
    for peer in range(4):
        assert chi_square((sources[peer] for sources in drawn), 3) < 13.8
    assert chi_square(((sources[0], sources[1]) for sources in drawn), 9) < 26.1
    in_a_row = [(a[2], b[2]) for a, b in zip(drawn[::2], drawn[1::2], strict=True)]
    assert chi_square(in_a_row, 9) < 26.1


def test_roles_are_uniform_over_pairs() -> None:
    """Of 3 peers, the 6 pairs of a student and its teacher come equally often (chi-square, 5 degrees, 0.999)."""
    draws = [TargetSelection("roles", 5).sources(round_, range(3)) for round_ in range(6000)]
    pairs = [(student, *teachers) for drawn in draws for student, teachers in drawn.items() if teachers]
    assert len(pairs) == 6000
    assert chi_square(pairs, 6) < 20.5


def test_rings_are_uniform() -> None:
    """Of 4 peers, the 6 rings come equally often (chi-square, 5 degrees, 0.999)."""
    draws = [TargetSelection("neighbours", 5).sources(round_, range(4)) for round_ in range(6000)]
    assert chi_square((tuple(sorted(drawn.items())) for drawn in draws), 6) < 20.5


@settings(max_examples=300)
@given(hundredths=st.integers(0, 49), count=st.integers(1, 4096))
@example(hundredths=29, count=100)  # 0.29 * 100 is 28.999999999999996
@example(hundredths=7, count=100)  # 0.07 * 100 is 7.000000000000001
def test_trimmed_is_the_exact_floor(hundredths: int, count: int) -> None:
    """For shares as people write them, the cut is floor(q n) of the exact fraction."""
    exact = Fraction(hundredths, 100) * count
    assert trimmed(hundredths / 100, count) == exact.numerator // exact.denominator


@settings(max_examples=300)
@given(q=st.floats(0, 0.5, exclude_max=True), count=st.integers(1, 4096))
@example(q=0.49999999999, count=2)
def test_trimming_leaves_something(q: float, count: int) -> None:
    """Every share that the configuration allows, all below one half, leaves at least one value."""
    assert 0 <= 2 * trimmed(q, count) < count
