"""How many seeds it takes, and what so many seeds can find: the power of a two-sided paired t-test."""

from __future__ import annotations

import math

from scipy import optimize, special, stats

ALPHA = 0.05
SMALLEST_ALPHA = 0.001  # below, the noncentral t with one degree of freedom does not converge
MOST_SEEDS = 10_000


def seeds_needed(d_z: float, power: float = 0.8, alpha: float = ALPHA) -> int | None:
    """The fewest seeds with which a two-sided paired t-test finds an effect.

    Args:
        d_z: mean of the differences in units of their standard deviation; the sign does not matter.
        power: chance to find it.
        alpha: level of the test.

    Returns:
        at least 2; None for no effect, and where more than ten thousand would be needed.

    Raises:
        ValueError: d_z is not finite, or 0.001 <= alpha < power < 1 does not hold.
    """
    _check_level(power, alpha)
    if not math.isfinite(d_z):
        raise ValueError(f"expected a finite d_z, found {d_z}")
    effect = abs(d_z)
    both = float(stats.norm.isf(alpha / 2) + stats.norm.isf(1 - power))
    if both > effect * math.sqrt(MOST_SEEDS):
        return None
    # The normal approximation is a little too small, unless the power is close to alpha: either way it is near.
    enough = max(2, math.ceil((both / effect) ** 2))
    while enough > 2 and _power(effect, enough - 1, alpha) >= power:
        enough -= 1
    while _power(effect, enough, alpha) < power:
        enough += 1
    return enough if enough <= MOST_SEEDS else None


def detectable(n: int, power: float = 0.8, alpha: float = ALPHA) -> float:
    """The smallest d_z, a difference in units of its standard deviation, that n seeds find with this power.

    Args:
        n: seeds, at least 2.
        power: chance to find it with a two-sided paired t-test.
        alpha: level of the test.

    Raises:
        ValueError: n is below 2, or 0.001 <= alpha < power < 1 does not hold.
    """
    _check_level(power, alpha)
    if n < 2:
        raise ValueError(f"expected at least 2 seeds, found {n}")
    high = 1.0
    while _power(high, n, alpha) < power:
        high *= 2
    return float(optimize.brentq(lambda effect: _power(effect, n, alpha) - power, 0.0, high))


def _check_level(power: float, alpha: float) -> None:
    if not SMALLEST_ALPHA <= alpha < power < 1:
        raise ValueError(f"expected {SMALLEST_ALPHA} <= alpha < power < 1, found alpha {alpha} and power {power}")


def _power(effect: float, n: int, alpha: float) -> float:
    """Chance that a two-sided paired t-test of n seeds finds an effect >= 0."""
    critical = float(-special.stdtrit(n - 1, alpha / 2))
    shift = min(effect * math.sqrt(n), 16 * critical)  # far beyond any doubt, and the last that converges
    # The functions beneath scipy.stats.nct, which takes a hundred times as long for one value.
    near = 1 - float(special.nctdtr(n - 1, shift, critical))
    far = float(special.nctdtr(n - 1, shift, -critical))
    return near + (0.0 if math.isnan(far) else far)  # nan where it is next to nothing
