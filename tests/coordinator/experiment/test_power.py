"""How many seeds it takes: statsmodels is the reference."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from statsmodels.stats.power import TTestPower

from coordinator.experiment.power import MOST_SEEDS, detectable, seeds_needed


def reference_power(d_z: float, seeds: int) -> float:
    """Power by statsmodels, tail by tail: it gives nan for the far one where that is next to nothing."""
    tails = (TTestPower().power(d_z, seeds, 0.025, alternative=tail) for tail in ("larger", "smaller"))
    return float(np.nansum(list(tails)))


@pytest.mark.parametrize("alpha", [0.05, 0.01])
@pytest.mark.parametrize("power", [0.5, 0.8, 0.9])
@pytest.mark.parametrize("d_z", [0.1, 0.35, 0.8, 1.3, 2.0])
def test_seeds_needed_are_those_of_statsmodels(d_z: float, power: float, alpha: float) -> None:
    """Its solution in fractions of a seed, rounded up; the sign of the effect does not matter."""
    solution = TTestPower().solve_power(effect_size=d_z, power=power, alpha=alpha, alternative="two-sided")
    assert seeds_needed(d_z, power, alpha) == seeds_needed(-d_z, power, alpha) == math.ceil(float(solution))


@settings(max_examples=60)
@given(d_z=st.floats(0.05, 20), power=st.floats(0.06, 0.999))
def test_seeds_needed_suffice_and_one_less_does_not(d_z: float, power: float) -> None:
    """The power that statsmodels gives the answer is enough, and that of one seed less is not."""
    seeds = seeds_needed(d_z, power)
    assert seeds is not None
    assert reference_power(d_z, seeds) >= power - 1e-9
    assert seeds == 2 or reference_power(d_z, seeds - 1) < power + 1e-9


@pytest.mark.parametrize("n", [3, 5, 10, 40])
def test_detectable_is_that_of_statsmodels(n: int) -> None:
    """The effect size that its solver finds for so many seeds."""
    solution = TTestPower().solve_power(nobs=n, power=0.8, alpha=0.05, alternative="two-sided")
    assert detectable(n) == pytest.approx(float(solution), rel=1e-6)


@pytest.mark.parametrize("n", [2, 3, 5, 100, 10_000])
@pytest.mark.parametrize("alpha", [0.05, 0.001])
def test_detectable_and_needed_are_inverse(n: int, alpha: float) -> None:
    """So many seeds suffice for what they can find, and not for a little less."""
    effect = detectable(n, 0.9, alpha)
    assert seeds_needed(effect * (1 + 1e-9), 0.9, alpha) == n
    assert (seeds_needed(effect * (1 - 1e-9), 0.9, alpha) or n + 1) == n + 1


def test_five_seeds() -> None:
    """What the usual five seeds can find: 1.7 deviations with power 0.8, 2.0 with 0.9."""
    assert detectable(5) == pytest.approx(1.682, abs=1e-3)
    assert detectable(5, 0.9) == pytest.approx(1.966, abs=1e-3)


def test_extremes() -> None:
    """A huge effect takes two seeds; for none, or next to none, there is no number."""
    assert seeds_needed(1e300) == 2
    assert seeds_needed(0.0) is None
    assert seeds_needed(0.001) is None
    assert seeds_needed(detectable(MOST_SEEDS) * 0.9999) is None


@pytest.mark.parametrize(
    ("d_z", "power", "alpha", "found"),
    [
        (math.nan, 0.8, 0.05, "found nan"),
        (math.inf, 0.8, 0.05, "found inf"),
        (1.0, 1.0, 0.05, "found alpha 0.05 and power 1.0"),
        (1.0, 0.05, 0.05, "found alpha 0.05 and power 0.05"),
        (1.0, 0.8, 0.0001, "found alpha 0.0001 and power 0.8"),
        (1.0, math.nan, 0.05, "found alpha 0.05 and power nan"),
    ],
)
def test_refusals(d_z: float, power: float, alpha: float, found: str) -> None:
    """What makes no sense is refused with what was found."""
    with pytest.raises(ValueError, match=found):
        seeds_needed(d_z, power, alpha)


def test_one_seed_detects_nothing() -> None:
    """A paired t-test takes two seeds at least."""
    with pytest.raises(ValueError, match="at least 2 seeds, found 1"):
        detectable(1)
