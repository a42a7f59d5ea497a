"""Numbers and paths as the page writes them."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Sequence
from statistics import mean, stdev

MINUS = "\N{MINUS SIGN}"
TIMES = "\N{MULTIPLICATION SIGN}"
NONE = "\N{EN DASH}"
"""Stands where there is nothing to say."""

PROBES = {"knn": "k-NN", "linear": "linear probe"}
FOR_TEMPLATES = (
    *("NONE", "TIMES", "count", "general", "headed", "interval", "listed", "number", "plural", "probe_name", "scrub"),
    *("signed", "spread"),
)
"""What templates may use of this module."""

_ABSOLUTE = re.compile(r"(?<![\w.~:/<>-])(?:/[\w.+@~-]+)+/?|\b[A-Za-z]:\\[\w.\\+@~ -]+")


def number(value: float | None, digits: int = 1) -> str:
    """A number with so many decimals, a real minus sign, and no negative zero."""
    if value is None or not math.isfinite(value):
        return NONE
    return f"{value:z.{digits}f}".replace("-", MINUS)


def signed(value: float | None, digits: int = 1) -> str:
    """A difference: with its sign, unless it rounds to 0."""
    text = number(value, digits)
    return text if text.startswith((MINUS, NONE)) or not text.strip("0.") else f"+{text}"


def interval(ends: tuple[float, float] | None, digits: int = 1) -> str:
    """An interval of differences."""
    return NONE if ends is None else f"{signed(ends[0], digits)} to {signed(ends[1], digits)}"


def spread(centre: float | None, deviation: float | None, digits: int = 1) -> str:
    """A mean with its deviation, where there is one."""
    return number(centre, digits) + ("" if deviation is None else f" ± {number(deviation, digits)}")


def p_value(p: float | None) -> str:
    """A p-value with three decimals, or that it is smaller than they can tell."""
    if p is None:
        return NONE
    return "<\N{NO-BREAK SPACE}0.001" if p < 0.001 else f"{p:.3f}"


def general(value: object) -> str:
    """A setting's value as a reader would write it: 0.001, 1e-5, cosine, true, null."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    far = bool(value) and not 1e-4 <= abs(value) < 1e6
    digits = 4 if far or (isinstance(value, float) and abs(value) < 1e4) else 6
    text = re.sub(r"e([-+])0*", lambda match: f"e{match[1].replace('+', '')}", f"{value:.{digits}g}")
    return text.replace("-", MINUS)


def count(things: int, one: str) -> str:
    """So many of them, e.g. `5 seeds`, with thousands apart."""
    return f"{things:,} {one}{'' if things == 1 else 's'}"


def plural(numbers: Iterable[int], one: str) -> str:
    """How many there are of each, e.g. `5 seeds` or `3 to 5 seeds`."""
    few, *more = sorted(set(numbers))
    return f"{few} to {more[-1]} {one}s" if more else count(few, one)


def probe_name(probe: str) -> str:
    """A probe as the page calls it."""
    return PROBES.get(probe, probe)


def headed(probe: str) -> str:
    """A probe at the beginning of a line."""
    return {"linear": "Linear probe"}.get(probe, probe_name(probe))


def listed(names: Iterable[str], last: str = "and") -> str:
    """Names in a sentence: `a, b and c`."""
    *others, end = names
    return f"{', '.join(others)} {last} {end}" if others else end


def scrub(text: str) -> str:
    """Free text without the paths of this machine: of an absolute one only the last part stays."""
    return _ABSOLUTE.sub(lambda match: "…/" + re.split(r"[/\\]", match[0].rstrip("/\\"))[-1], text)


def mean_of(values: Iterable[float | None]) -> float | None:
    """Mean of the finite ones; None where there is none."""
    kept = [value for value in values if value is not None and math.isfinite(value)]
    return mean(kept) if kept else None


def deviation_of(values: Sequence[float]) -> float | None:
    """Standard deviation with n - 1; None below two values."""
    return stdev(values) if len(values) > 1 else None
