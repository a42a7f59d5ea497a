"""What can be said of a few seeds: intervals, paired tests, effect sizes, corrections.

The unit of every test is the group, that is, one seed: peers of a group are no independent samples, so each value here
is the mean over a group's peers. Values are paired by their place: the same group before training, or in its control.
Nothing here can see whether the pairing is right, and no result depends on the order of the pairs.

Wrong input is a ValueError that says what was expected and what was found. What cannot be computed is None, never nan.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import mean, stdev
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

from coordinator.experiment.power import seeds_needed

Values: TypeAlias = Sequence[float] | NDArray[np.floating[Any]]
Interval: TypeAlias = tuple[float, float]
Alternative: TypeAlias = Literal["two-sided", "greater"]

LEVEL = 0.95
FEWEST_SEEDS = 5  # below, a p-value says more about the assumptions than about the seeds
RESAMPLES = 9_999
BOOTSTRAP_SEED = 0
GRID = 2.0**40
DIGITS = 12


@dataclass(frozen=True)
class Summary:
    """One sample of per-seed values.

    Attributes:
        n: seeds.
        mean: over the seeds.
        deviation: standard deviation with n - 1; None for one seed, and so are both intervals.
        t_interval: 95 % interval of the mean by Student's t. The one to quote.
        bootstrap_interval: 95 % interval of the mean by the bootstrap, bias-corrected and accelerated (BCa), with fixed
            draws. It assumes no distribution, but is too narrow for few seeds: far beside the t interval, it is a
            warning. BCa is undefined where all values are equal; the percentile bootstrap stands in, which is then
            that value twice.
    """

    n: int
    mean: float
    deviation: float | None
    t_interval: Interval | None
    bootstrap_interval: Interval | None


@dataclass(frozen=True)
class Comparison:
    """Two samples a and b, paired by seed; everything is about the differences a - b.

    Attributes:
        n: pairs, which are seeds.
        difference: mean of the differences.
        deviation: their standard deviation with n - 1; None for one seed, as is all that rests on it.
        t_interval: 95 % interval of the mean difference by Student's t, two-sided whatever the alternative.
        bootstrap_interval: the same by the bootstrap; see `Summary`.
        alternative: of both tests; "greater" asks whether a is greater than b.
        p: of the paired t-test. 1.0 where all differences are 0 (the limit of an effect of none).
        wilcoxon_p: of Wilcoxon's signed-rank test, exact with ties as well; differences of 0 are dropped. 1.0 where
            all are 0.
        wilcoxon_floor: the smallest `wilcoxon_p` that so many non-zero differences can give, however large they are:
            with 5 seeds 0.0625 two-sided (never below 0.05!) and 0.03125 for "greater".
        why_no_p: why `p` is None, in words; empty where it is not. Below five seeds both tests are refused. Where all
            differences are the same but not 0, the t-test is degenerate, and Wilcoxon's p stands alone.
        d_z: effect size, difference / deviation; 0.0 where all differences are 0, None where it is infinite.
        hedges: d_z without its upward bias in small samples; None below three seeds.
        seeds_80: seeds that find a difference of this d_z with power 0.8, at alpha 0.05, two-sided; None where
            `d_z` is None or ten thousand would not do. It takes d_z at its word: from few seeds, a rough guess.
        seeds_90: the same with power 0.9.
        corrected: `p` after Holm's correction over its family; None outside of a family.
        wilcoxon_corrected: `wilcoxon_p` after Holm's correction over the same family.
    """

    n: int
    difference: float
    deviation: float | None
    t_interval: Interval | None
    bootstrap_interval: Interval | None
    alternative: Alternative
    p: float | None
    wilcoxon_p: float | None
    wilcoxon_floor: float
    why_no_p: str
    d_z: float | None
    hedges: float | None
    seeds_80: int | None
    seeds_90: int | None
    corrected: float | None = None
    wilcoxon_corrected: float | None = None


def summarize(values: Values) -> Summary:
    """Mean, deviation and intervals of per-seed values.

    Args:
        values: one for each seed.

    Raises:
        ValueError: there is none, or one is not finite.
    """
    sample = _checked(values, "values").tolist()
    n, centre = len(sample), mean(sample)
    if n < 2:
        return Summary(n, centre, None, None, None)
    deviation = stdev(sample)
    half = float(stats.t.isf((1 - LEVEL) / 2, n - 1)) * deviation / math.sqrt(n)
    return Summary(n, centre, deviation, (centre - half, centre + half), _bootstrap(sample, centre, deviation))


def compare(a: Values, b: Values, *, alternative: Alternative = "two-sided") -> Comparison:
    """What can be said of a - b.

    Args:
        a: one value for each seed.
        b: of the same seeds in the same order.
        alternative: "two-sided", or "greater" for a hypothesis that was fixed before anybody saw the values.

    Raises:
        ValueError: the lengths differ, there is no value, one is not finite, or the alternative is unknown.
    """
    if alternative not in ("two-sided", "greater"):
        raise ValueError(f"expected alternative 'two-sided' or 'greater', found {alternative!r}")
    differences = _differences(_checked(a, "a"), _checked(b, "b"))
    summary = summarize(differences)
    why_no_p = _why_no_p(summary)
    d_z = _effect(summary)
    return Comparison(
        n=summary.n,
        difference=summary.mean,
        deviation=summary.deviation,
        t_interval=summary.t_interval,
        bootstrap_interval=summary.bootstrap_interval,
        alternative=alternative,
        p=None if why_no_p else _t_test(summary, alternative),
        wilcoxon_p=None if summary.n < FEWEST_SEEDS else _wilcoxon(differences, alternative),
        wilcoxon_floor=_smallest_wilcoxon(differences, alternative),
        why_no_p=why_no_p,
        d_z=d_z,
        hedges=None if d_z is None or summary.n < 3 else d_z * _small_sample_factor(summary.n),
        seeds_80=None if d_z is None else seeds_needed(d_z, 0.8),
        seeds_90=None if d_z is None else seeds_needed(d_z, 0.9),
    )


def family(
    pairs: Mapping[str, tuple[Values, Values]], *, alternative: Alternative = "two-sided"
) -> dict[str, Comparison]:
    """Compare several pairs that one claim rests on, and correct for their number.

    Args:
        pairs: (a, b) under the name of each comparison.
        alternative: of all tests.

    Returns:
        the comparisons under the same names, in the same order; `corrected` and `wilcoxon_corrected` are filled in
        for those that have such a p, over all that have one.

    Raises:
        ValueError: as `compare`, with the name of the pair.
    """
    comparisons = {}
    for name, (a, b) in pairs.items():
        try:
            comparisons[name] = compare(a, b, alternative=alternative)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
    corrected = holm({name: one.p for name, one in comparisons.items() if one.p is not None})
    ranked = holm({name: one.wilcoxon_p for name, one in comparisons.items() if one.wilcoxon_p is not None})
    return {
        name: replace(one, corrected=corrected.get(name), wilcoxon_corrected=ranked.get(name))
        for name, one in comparisons.items()
    }


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Holm's step-down correction: bounds the chance of any false positive in the family, whatever ties its tests.

    The k-th smallest of m p-values is multiplied by m - k + 1; then none may be below a smaller one's, or above 1.
    S. Holm, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of Statistics 6, 1979.

    Args:
        p_values: of the whole family, those without success as well.

    Returns:
        adjusted p-values under the same names, in the same order.

    Raises:
        ValueError: a p-value is not between 0 and 1.
    """
    for name, p in p_values.items():
        if not 0 <= p <= 1:
            raise ValueError(f"{name}: expected a p-value between 0 and 1, found {p}")
    adjusted = dict.fromkeys(p_values, 1.0)
    floor = 0.0
    for place, name in enumerate(sorted(p_values, key=lambda name: p_values[name])):
        floor = max(floor, min(1.0, (len(p_values) - place) * p_values[name]))
        adjusted[name] = floor
    return adjusted


def sentence(comparison: Comparison, unit: str = "points", digits: int = 1) -> str:
    """A comparison in plain words: the difference first, and all that it takes to doubt it.

    The interval is that of the one comparison: it may leave out 0 where the p-value of a family does not.

    Args:
        comparison: of `compare` or, for corrected p-values, `family`.
        unit: of the values.
        digits: after the decimal point of the values.
    """
    parts = [f"n = {comparison.n} seed{'s' if comparison.n > 1 else ''}"]
    if comparison.t_interval is not None:
        low, high = comparison.t_interval
        parts.insert(0, f"95 % interval {low:z.{digits}f} to {high:z.{digits}f}")
    if comparison.p is None:
        parts.append(f"no p-value: {comparison.why_no_p}")
    else:
        test = "paired t-test" if comparison.alternative == "two-sided" else "one-sided paired t-test"
        kind, p = "uncorrected", comparison.p
        if comparison.corrected is not None:
            kind, p = "Holm-corrected", comparison.corrected
        parts.append(f"{test}, {kind} {'p < 0.001' if p < 0.001 else f'p = {p:.3f}'}")
    if comparison.d_z is not None:
        parts.append(f"d_z {comparison.d_z:z.1f}")
    shown = f"{comparison.difference:+z.{digits}f}"
    return f"{shown if float(shown) else shown.lstrip('+')} {unit} ({'; '.join(parts)})"


def _checked(values: Values, name: str) -> NDArray[np.float64]:
    """The values as an array, if they can be used."""
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1:
        raise ValueError(f"{name}: expected one number for each seed, found the shape {array.shape}")
    if not array.size:
        raise ValueError(f"{name}: expected at least 1 value, found none")
    wrong = np.flatnonzero(~np.isfinite(array))
    if wrong.size:
        raise ValueError(f"{name}: expected finite values, found {array[wrong[0]]} at place {wrong[0]}")
    return array


def _differences(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """Differences a - b without the noise of binary fractions.

    85.6 - 85.5 is not 0.1, and not 76.6 - 76.5 either. Left alone, such noise turns equal differences into distinct
    ones: a degenerate t-test into one with p = 1e-60, tied ranks into untied ones.
    """
    if len(a) != len(b):
        raise ValueError(f"expected pairs, that is, two samples of the same seeds; found {len(a)} and {len(b)} values")
    scale = float(max(np.abs(a).max(), np.abs(b).max()))
    if not scale:
        return np.zeros_like(a)
    decimals = min(DIGITS - 1 - math.floor(math.log10(scale)), 300)
    return np.round(a - b, decimals) + 0.0  # no -0.0


def _bootstrap(sample: Sequence[float], centre: float, deviation: float) -> Interval:
    """BCa interval of the mean, mirrored when the sample is, and the same for every order of the values.

    On a grid of integers sums are exact, so that resamples with the same values in another order have the same mean, as
    the correction of the bias supposes.
    """
    if not deviation:
        return (centre, centre)
    grid = np.sort(np.rint((np.array(sample) - centre) / deviation * GRID))
    mirrored = -grid[::-1]
    turn = tuple(mirrored) > tuple(grid)
    result = stats.bootstrap(
        (mirrored if turn else grid,),
        np.mean,
        confidence_level=LEVEL,
        n_resamples=RESAMPLES,
        method="BCa",
        rng=np.random.default_rng(BOOTSTRAP_SEED),
    )
    low, high = (float(end) * deviation / GRID for end in result.confidence_interval)
    return (centre - high, centre - low) if turn else (centre + low, centre + high)


def _why_no_p(differences: Summary) -> str:
    """Why there is no t-test; empty if there is one."""
    if differences.n < FEWEST_SEEDS:
        return f"a test takes at least {FEWEST_SEEDS} seeds, found {differences.n}"
    if not differences.deviation and differences.mean:
        return f"all {differences.n} differences are equal, which leaves a t-test no deviation to judge them by"
    return ""


def _effect(differences: Summary) -> float | None:
    """Mean of the differences in units of their deviation."""
    if differences.deviation:
        return differences.mean / differences.deviation
    return 0.0 if differences.deviation is not None and not differences.mean else None


def _small_sample_factor(n: int) -> float:
    """Hedges' factor for n - 1 degrees of freedom, exact: d_z times it is unbiased for normal differences."""
    half = (n - 1) / 2
    return math.exp(float(special.gammaln(half) - special.gammaln(half - 0.5))) / math.sqrt(half)


def _t_test(differences: Summary, alternative: Alternative) -> float:
    """P-value of the t-test of a mean difference of 0."""
    if not differences.deviation:
        return 1.0
    t = differences.mean / differences.deviation * math.sqrt(differences.n)
    if alternative == "greater":
        return float(stats.t.sf(t, differences.n - 1))
    return float(2 * stats.t.sf(abs(t), differences.n - 1))


def _wilcoxon(differences: NDArray[np.float64], alternative: Alternative) -> float:
    """P-value of the signed-rank test, exact: the distribution of the rank sum over all choices of signs.

    scipy's own is exact with ties for up to 13 pairs only.
    """
    nonzero = differences[differences != 0]
    # Tied ranks are halves; twice the ranks are whole numbers, which index the distribution.
    ranks = np.rint(2 * stats.rankdata(np.abs(nonzero))).astype(int)
    chances = np.ones(1)
    for rank in ranks:
        chances = (np.pad(chances, (0, rank)) + np.pad(chances, (rank, 0))) / 2
    found = int(ranks[nonzero > 0].sum())
    at_least = float(chances[found:].sum())
    if alternative == "greater":
        return min(1.0, at_least)
    return min(1.0, 2 * min(at_least, float(chances[: found + 1].sum())))


def _smallest_wilcoxon(differences: NDArray[np.float64], alternative: Alternative) -> float:
    """What the signed-rank test gives when all non-zero differences are positive."""
    one_sided = 0.5 ** int(np.count_nonzero(differences))
    return one_sided if alternative == "greater" else min(1.0, 2 * one_sided)
