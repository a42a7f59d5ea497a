"""Intervals, tests and corrections: scipy and statsmodels are the references, properties and simulations the rest."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower

from coordinator.experiment.statistics import Alternative, compare, family, holm, sentence, summarize

AFTER = [85.6, 84.2, 86.9, 85.1, 86.3]
BEFORE = [76.6, 76.0, 77.1, 75.2, 77.9]
SHUFFLED = [79.8, 77.1, 82.4, 78.9, 81.0]
EIGHTHS = [3.125, 0.5, 4.75, 2.25, 1.0, 2.875]  # their sums are exact, so that scipy's ties are ties
MANY_A = [5.1, 3.2, 6.7, 4.4, 5.9, 2.8, 7.3, 4.1, 6.2, 3.9, 5.5]
MANY_B = [4.7, 3.5, 5.1, 4.3, 5.2, 2.2, 7.1, 4.9, 4.8, 3.6, 4.5]  # with ties and both signs

points = st.integers(-3000, 3000).map(lambda k: k / 32)  # as accuracies are, and with ties
samples = st.lists(st.tuples(points, points), min_size=1, max_size=9)
chances = st.dictionaries(st.text(max_size=3), st.floats(0, 1), max_size=8)
light = settings(max_examples=60)


def test_a_summary_is_that_of_scipy() -> None:
    """Mean, deviation and both intervals of one sample."""
    summary = summarize(EIGHTHS)
    reference = stats.ttest_1samp(EIGHTHS, 0.0)
    assert (summary.n, summary.mean) == (6, np.mean(EIGHTHS))
    assert summary.deviation == pytest.approx(np.std(EIGHTHS, ddof=1))
    assert summary.t_interval == pytest.approx(tuple(reference.confidence_interval(0.95)))
    drawn = stats.bootstrap((sorted(EIGHTHS),), np.mean, method="BCa", n_resamples=9_999, rng=np.random.default_rng(0))
    assert summary.bootstrap_interval == pytest.approx(tuple(drawn.confidence_interval))


def test_the_bootstrap_is_reproducible_and_follows_the_scale() -> None:
    """The same values give the same interval; other units give the same interval in other units."""
    assert summarize(AFTER) == summarize(np.array(AFTER))
    low, high = summarize(AFTER).bootstrap_interval or (0.0, 0.0)
    assert summarize([value / 100 for value in AFTER]).bootstrap_interval == pytest.approx((low / 100, high / 100))
    assert min(AFTER) < low < np.mean(AFTER) < high < max(AFTER)


def test_one_value_has_neither_deviation_nor_interval() -> None:
    """None, not nan: there is nothing to say about the spread of one seed."""
    assert dataclasses.astuple(summarize([3.0])) == (1, 3.0, None, None, None)


@pytest.mark.parametrize("value", [0.0, 0.1, 76.6, -1e-200])
def test_equal_values_are_their_own_interval(value: float) -> None:
    """No spread, no warning, and no noise from adding 0.1 three times."""
    assert dataclasses.astuple(summarize([value] * 3)) == (3, value, 0.0, (value, value), (value, value))


@pytest.mark.parametrize("alternative", ["two-sided", "greater"])
@pytest.mark.parametrize(("a", "b"), [(AFTER, BEFORE), (BEFORE, AFTER), (SHUFFLED, BEFORE), (MANY_A, MANY_B)])
def test_a_comparison_is_that_of_scipy(a: list[float], b: list[float], alternative: Alternative) -> None:
    """Both p-values; interval, deviation and effect size of the differences."""
    found = compare(a, b, alternative=alternative)
    differences = np.subtract(a, b)
    reference = stats.ttest_rel(a, b, alternative=alternative)
    assert found.p == pytest.approx(reference.pvalue, rel=1e-9)
    assert found.t_interval == pytest.approx(tuple(stats.ttest_rel(a, b).confidence_interval(0.95)))
    assert found.difference == pytest.approx(differences.mean())
    assert found.deviation == pytest.approx(differences.std(ddof=1))
    assert found.d_z == pytest.approx(differences.mean() / differences.std(ddof=1))
    ranked = stats.wilcoxon(np.round(differences, 10), alternative=alternative, method=stats.PermutationMethod())
    assert found.wilcoxon_p == pytest.approx(ranked.pvalue)


def test_wilcoxon_without_ties_is_scipys_exact_test() -> None:
    """The distribution of the rank sum, for more pairs than a permutation could take."""
    differences = [(1 if k % 3 else -1) * k * 0.37 for k in range(1, 31)]
    for alternative in ("two-sided", "greater"):
        reference = stats.wilcoxon(differences, alternative=alternative, method="exact").pvalue
        assert compare(differences, [0.0] * 30, alternative=alternative).wilcoxon_p == pytest.approx(reference)


def test_seeds_needed_are_those_of_statsmodels() -> None:
    """For the measured effect size, rounded up; the corrected one is close to Hedges' usual approximation."""
    found = compare(MANY_A, MANY_B)
    assert found.d_z is not None
    for seeds, power in ((found.seeds_80, 0.8), (found.seeds_90, 0.9)):
        assert seeds == math.ceil(float(TTestPower().solve_power(effect_size=found.d_z, power=power, alpha=0.05)))
    assert found.hedges == pytest.approx(found.d_z * (1 - 3 / (4 * 10 - 1)), rel=1e-3)


def test_hedges_is_unbiased() -> None:
    """Over many samples of five differences the corrected effect size is on average the true one; d_z is too large."""
    factor = (compare(AFTER, BEFORE).hedges or 0.0) / (compare(AFTER, BEFORE).d_z or 1.0)
    drawn = np.random.default_rng(1).normal(1.0, 1.0, (100_000, 5))
    d_z = (drawn.mean(1) / drawn.std(1, ddof=1)).mean()
    assert d_z > 1.2
    assert d_z * factor == pytest.approx(1.0, abs=0.01)


@pytest.mark.parametrize(("alternative", "floor"), [("two-sided", 0.0625), ("greater", 0.03125)])
def test_the_floor_of_wilcoxon(alternative: Alternative, floor: float) -> None:
    """Five seeds cannot give less, however large the effect; each difference of 0 doubles that."""
    found = compare(AFTER, BEFORE, alternative=alternative)
    assert found.wilcoxon_p == found.wilcoxon_floor == floor
    found = compare(AFTER, [*BEFORE[:-1], AFTER[-1]], alternative=alternative)
    assert found.wilcoxon_p == found.wilcoxon_floor == 2 * floor


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_no_p_below_five_seeds(n: int) -> None:
    """Both tests are refused in words; differences and, from two seeds on, intervals stay."""
    found = compare(AFTER[:n], BEFORE[:n])
    assert found.p is found.wilcoxon_p is None
    assert found.why_no_p == f"a test takes at least 5 seeds, found {n}"
    assert found.difference == pytest.approx(np.mean(AFTER[:n]) - np.mean(BEFORE[:n]))
    assert (found.t_interval is None) == (found.bootstrap_interval is None) == (found.d_z is None) == (n == 1)
    assert (found.hedges is None) == (n < 3)


def test_no_difference_at_all() -> None:
    """An arm that changes nothing: p is 1, the effect 0, and no number of seeds would find it."""
    found = compare(AFTER, AFTER)
    assert (found.p, found.wilcoxon_p, found.wilcoxon_floor, found.why_no_p) == (1.0, 1.0, 1.0, "")
    assert (found.difference, found.deviation, found.d_z, found.hedges) == (0.0, 0.0, 0.0, 0.0)
    assert found.t_interval == found.bootstrap_interval == (0.0, 0.0)
    assert found.seeds_80 is found.seeds_90 is None


@pytest.mark.parametrize("shift", [9.1, 0.1, -1e-3])
def test_the_same_difference_everywhere_is_degenerate(shift: float) -> None:
    """No t-test and no effect size, in words, though the differences differ by the noise of binary fractions."""
    values = [0.1, 85.6, 1.7, 33.3, 7.9]
    shifted = [value + shift for value in values]
    assert len(set(np.subtract(shifted, values))) > 1
    found = compare(shifted, values)
    assert found.p is found.d_z is found.hedges is found.seeds_80 is None
    assert found.why_no_p.startswith("all 5 differences are equal")
    assert found.difference == shift
    assert found.t_interval == found.bootstrap_interval == (shift, shift)
    assert found.wilcoxon_p == 0.0625


@light
@given(pairs=samples, turn=st.randoms(use_true_random=False))
def test_the_order_of_seeds_changes_nothing(pairs: list[tuple[float, float]], turn: object) -> None:
    """Pairs may come in any order, to the last bit."""
    shuffled = list(pairs)
    turn.shuffle(shuffled)  # type: ignore[attr-defined]
    assert compare(*zip(*shuffled, strict=True)) == compare(*zip(*pairs, strict=True))


@light
@given(pairs=samples)
def test_a_comparison_is_antisymmetric(pairs: list[tuple[float, float]]) -> None:
    """Swapped, a and b give the negative differences and intervals, and the same two-sided p-values."""
    a, b = zip(*pairs, strict=True)
    forth, back = compare(a, b), compare(b, a)
    negated = {
        field: -value for field in ("difference", "d_z", "hedges") if (value := getattr(forth, field)) is not None
    }
    if forth.t_interval:
        negated["t_interval"] = (-forth.t_interval[1], -forth.t_interval[0])
    expected = dataclasses.replace(forth, **negated, bootstrap_interval=back.bootstrap_interval)
    assert back == expected
    differences = sorted(np.subtract(a, b))
    assume(differences != sorted(np.subtract(b, a)))  # draws from such a sample are not symmetric themselves
    if forth.bootstrap_interval and back.bootstrap_interval:
        assert back.bootstrap_interval == (-forth.bootstrap_interval[1], -forth.bootstrap_interval[0])


@light
@given(pairs=samples, alternative=st.sampled_from(["two-sided", "greater"]))
def test_every_figure_is_sane(pairs: list[tuple[float, float]], alternative: Alternative) -> None:
    """No nan anywhere, p between its floor and 1, intervals around the mean, and a sentence for everything."""
    a, b = zip(*pairs, strict=True)
    found = compare(a, b, alternative=alternative)
    figures = [value for value in dataclasses.astuple(found) if isinstance(value, int | float | tuple)]
    assert np.all(np.isfinite(np.hstack(figures)))
    if found.wilcoxon_p is not None:
        assert found.wilcoxon_floor <= found.wilcoxon_p + 1e-12 <= 1 + 1e-12
    for interval in (found.t_interval, found.bootstrap_interval):
        assert interval is None or interval[0] <= found.difference <= interval[1]
    assert (found.p is None) == bool(found.why_no_p)
    assert "nan" not in sentence(found)


def test_one_sided_p_values_of_both_directions_add_up() -> None:
    """The t-test's to 1: a is greater than b, or b than a."""
    forth, back = (compare(*pair, alternative="greater").p for pair in ((AFTER, BEFORE), (BEFORE, AFTER)))
    assert forth is not None
    assert back is not None
    assert forth + back == pytest.approx(1.0)
    assert forth < 0.001 < back


@pytest.mark.parametrize(
    "p_values",
    [[0.01, 0.04, 0.03, 0.005], [0.5, 0.5, 0.5], [0.02], [0.011, 0.02, 0.9, 1.0, 0.0, 0.011], [0.05, 0.06, 0.07, 0.08]],
)
def test_holm_is_that_of_statsmodels(p_values: list[float]) -> None:
    """The same adjusted values, under the names and in the order that came in."""
    named = {f"arm {place}": p for place, p in enumerate(p_values)}
    adjusted = holm(named)
    assert list(adjusted) == list(named)
    assert list(adjusted.values()) == pytest.approx(multipletests(p_values, method="holm")[1])


@given(p_values=chances)
def test_holm_only_raises_and_keeps_the_order(p_values: dict[str, float]) -> None:
    """No adjusted p is below its raw one or above 1; a smaller raw p never ends above a larger one."""
    adjusted = holm(p_values)
    assert all(p_values[name] <= adjusted[name] <= 1 for name in p_values)
    ordered = [adjusted[name] for name in sorted(p_values, key=lambda name: p_values[name])]
    assert ordered == sorted(ordered)


@pytest.mark.parametrize("p", [-0.01, 1.01, math.nan])
def test_holm_refuses_what_is_no_p(p: float) -> None:
    """By its name and value."""
    with pytest.raises(ValueError, match=f"arm: expected a p-value between 0 and 1, found {p}"):
        holm({"arm": p})


def test_a_family_corrects_whoever_has_a_p() -> None:
    """Members without a t-test, or with too few seeds, neither get a corrected p nor make the others pay."""
    pairs = {
        "gain": (AFTER, BEFORE),
        "control": (SHUFFLED, BEFORE),
        "same": (AFTER, AFTER),
        "degenerate": ([value + 9 for value in AFTER], AFTER),
        "few": (AFTER[:3], BEFORE[:3]),
    }
    found = family(pairs)
    assert list(found) == list(pairs)
    raw = {name: compare(*pair) for name, pair in pairs.items()}
    tested = ["gain", "control", "same"]
    reference = multipletests([raw[name].p for name in tested], method="holm")[1]
    assert [found[name].corrected for name in tested] == pytest.approx(list(reference))
    ranked = [*tested, "degenerate"]
    reference = multipletests([raw[name].wilcoxon_p for name in ranked], method="holm")[1]
    assert [found[name].wilcoxon_corrected for name in ranked] == pytest.approx(list(reference))
    assert found["degenerate"].corrected is found["few"].corrected is found["few"].wilcoxon_corrected is None
    bare = {name: dataclasses.replace(one, corrected=None, wilcoxon_corrected=None) for name, one in found.items()}
    assert bare == raw
    assert family({}) == {}


def test_false_positives_are_as_rare_as_promised() -> None:
    """Null experiments, five seeds, four arms correlated within the seed: 5 % each, at most 5 % of families after Holm.

    The bounds hold the count of 200 experiments with a chance of 99 %, if the true rate is 5 %.
    """
    experiments, seeds, arms = 200, 5, 4
    draws = np.random.default_rng(2026)
    raw, any_corrected = np.zeros(arms), 0
    for _ in range(experiments):
        group = draws.normal(76.0, 2.0, (seeds, 1))
        values = group + draws.normal(0.0, 1.0, (seeds, arms + 1))
        found = family({f"arm {arm}": (values[:, arm], values[:, arms]) for arm in range(arms)})
        raw += [one.p is not None and one.p < 0.05 for one in found.values()]
        any_corrected += any(one.corrected is not None and one.corrected < 0.05 for one in found.values())
        assert not any((one.wilcoxon_corrected or 0.0) < 0.05 for one in found.values())
    few, many = stats.binom.interval(0.99, experiments, 0.05)
    assert np.all((few <= raw) & (raw <= many)), raw
    assert any_corrected <= many


def test_intervals_cover_what_they_promise() -> None:
    """95 % of t intervals have the true mean of five values; of the bootstrap's fewer, as its docstring says."""
    draws = np.random.default_rng(7)
    held = np.zeros(2)
    for _ in range(300):
        summary = summarize(draws.normal(0.0, 1.0, 5))
        for place, interval in enumerate((summary.t_interval, summary.bootstrap_interval)):
            held[place] += interval is not None and interval[0] <= 0.0 <= interval[1]
    few, many = stats.binom.interval(0.99, 300, 0.95)
    assert few <= held[0] <= many
    assert 0.7 * 300 < held[1] < few


def test_sentences() -> None:
    """Each says the difference, its interval, the seeds, which test it was, and whether it was corrected."""
    pairs = {"gain": (AFTER, BEFORE), "control": (SHUFFLED, BEFORE), "same": (AFTER, AFTER)}
    found = family(pairs)
    assert sentence(found["gain"]) == (
        "+9.1 points (95 % interval 8.1 to 10.0; n = 5 seeds; paired t-test, Holm-corrected p < 0.001; d_z 11.6)"
    )
    assert sentence(found["control"], "percent", 2) == (
        "+3.28 percent (95 % interval 1.41 to 5.15; n = 5 seeds; paired t-test, Holm-corrected p = 0.016; d_z 2.2)"
    )
    assert sentence(found["same"]) == (
        "0.0 points (95 % interval 0.0 to 0.0; n = 5 seeds; paired t-test, Holm-corrected p = 1.000; d_z 0.0)"
    )
    assert "one-sided paired t-test, uncorrected p = 1.000" in sentence(compare(BEFORE, AFTER, alternative="greater"))
    assert sentence(compare(BEFORE[:1], AFTER[:1])) == (
        "-9.0 points (n = 1 seed; no p-value: a test takes at least 5 seeds, found 1)"
    )


@pytest.mark.parametrize(
    ("a", "b", "found"),
    [
        (AFTER, BEFORE[:4], "found 5 and 4 values"),
        ([], [], "a: expected at least 1 value, found none"),
        (AFTER, [*BEFORE[:4], math.nan], "b: expected finite values, found nan at place 4"),
        ([1.0, math.inf], [1.0, 2.0], "a: expected finite values, found inf at place 1"),
        ([[1.0, 2.0]], [[1.0, 2.0]], r"a: expected one number for each seed, found the shape \(1, 2\)"),
        (3.0, 2.0, r"a: expected one number for each seed, found the shape \(\)"),
    ],
)
def test_refusals(a: list[float], b: list[float], found: str) -> None:
    """What was expected and what was found; in a family with the name of the pair."""
    with pytest.raises(ValueError, match=found):
        compare(a, b)
    with pytest.raises(ValueError, match=f"^control: .*{found}"):
        family({"control": (a, b)})


def test_an_unknown_alternative_is_refused() -> None:
    """Before anything is computed."""
    with pytest.raises(ValueError, match="expected alternative 'two-sided' or 'greater', found 'less'"):
        compare(AFTER, BEFORE, alternative="less")  # type: ignore[arg-type]
