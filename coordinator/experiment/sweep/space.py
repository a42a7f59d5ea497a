"""What a sweep varies, as its file says it, checked key by key.

    sweep: {name: rates, method: random, samples: 20, space: {optimizer.learning_rate: {low: 1e-4, high: 1, log: true}}}
    data: ...           # and the other sections of a run: what the points have in common

`probe.split` is `validation` unless the file says otherwise: recipes are never chosen on test images.
"""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from coordinator.experiment.sweep import keys
from peers.config.schema import Config, Section

LARGEST = 10_000
"""Points of a sweep, at most."""
_RANGE = ("low", "high", "log", "step")


def _as_tuple(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


class AshaSection(Section):
    """When ASHA looks at a point, and how many go on."""

    grace: int = Field(20, ge=1, description="Rounds before the first look.")
    factor: int = Field(
        3, ge=2, description="One in so many of the points goes on at each look; the next look is so many times later."
    )


class SweepSection(Section):
    """What is varied, how, and where it is kept."""

    name: str = Field("sweep", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="Folder of the sweep below `out`.")
    out: str = Field("runs", min_length=1, description="Folder that holds the sweeps.")
    seeds: Annotated[tuple[Annotated[int, Field(ge=0, lt=2**63)], ...], BeforeValidator(_as_tuple)] = Field(
        (0, 1, 2, 3, 4), min_length=1, description="One group for each point and seed."
    )
    method: Literal["grid", "random", "asha"] = Field(
        "grid",
        description="grid: all combinations. random: draws. asha: draws, trained with the first seed, of which the "
        "poor ones are stopped early by live k-NN on validation images; those that finish are run with all seeds.",
    )
    samples: int = Field(20, ge=1, le=LARGEST, description="Points, for random and asha.")
    seed: int = Field(0, ge=0, lt=2**63, description="Draws the points, for random and asha.")
    metric: Literal["linear", "knn"] = Field(
        "linear", description="The probe whose gain over the random network is maximized."
    )
    parallel: int | None = Field(None, ge=1, description="Groups at a time. Default: as many as have a core a peer.")
    space: dict[str, Any] = Field(
        {},
        description="By dotted key, what is varied: a list of values, or for random and asha a range {low, high, log, "
        "step}. Any key that changes what a group computes.",
    )
    asha: AshaSection = AshaSection()


class SweepConfig(Config):
    """A configuration file of a sweep: a run's, and the section that multiplies it."""

    sweep: SweepSection = SweepSection()


@dataclass(frozen=True)
class Values:
    """An axis that is a list.

    Attributes:
        key: of the configuration, dotted.
        values: plain, in the order of the file.
    """

    key: str
    values: tuple[Any, ...]

    @property
    def count(self) -> int:
        """How many values it has."""
        return len(self.values)

    def at(self, u: float) -> Any:
        """The value that a uniform draw from [0, 1) stands for."""
        return self.values[int(u * len(self.values))]

    def plain(self) -> dict[str, Any]:
        """As JSON."""
        return {"values": list(self.values)}


@dataclass(frozen=True)
class Range:
    """An axis that is an interval, its ends among it.

    Attributes:
        key: of the configuration, dotted.
        low: smallest value.
        high: bound of the largest.
        log: draw uniformly in the logarithm.
        step: between neighbouring values; None: every number, or every integer.
        whole: values are integers.
    """

    key: str
    low: float
    high: float
    log: bool
    step: float | None
    whole: bool

    @property
    def count(self) -> int | None:
        """How many values it has; None for a continuum."""
        if self.whole:
            return int(self.high - self.low) // int(self.step or 1) + 1
        if self.step is None:
            return None
        return math.floor((self.high - self.low) / self.step + 1e-9) + 1

    def at(self, u: float) -> float:
        """The value that a uniform draw from [0, 1) stands for."""
        count = self.count
        if count is None:
            return min(max(self._between(self.high, u), self.low), self.high)
        step = self.step or 1
        # Each value is drawn for the interval from itself to the next one: the ends are no rarer than the others.
        place = min(int((self._between(self.low + count * step, u) - self.low) / step), count - 1)
        return int(self.low + place * step) if self.whole else min(float(f"{self.low + place * step:.12g}"), self.high)

    def plain(self) -> dict[str, Any]:
        """As JSON."""
        step = {} if self.step is None else {"step": self.step}
        return {"low": self.low, "high": self.high, "log": self.log, **step}

    def _between(self, high: float, u: float) -> float:
        if self.log:
            return math.exp(math.log(self.low) + u * (math.log(high) - math.log(self.low)))
        return self.low + u * (high - self.low)


Axis = Values | Range


def axes(section: SweepSection) -> tuple[tuple[Axis, ...], list[str]]:
    """What a section varies, in its order, and all that is wrong with it."""
    problems: list[str] = []
    found: dict[str, Axis] = {}
    for key, asked in dict(_flat(section.space)).items():
        wrong = keys.trouble(key)
        axis = f"{key}: {wrong}" if wrong else _axis(key, asked, section.method)
        if isinstance(axis, str):
            problems.append(f"sweep.space.{axis}")
        else:
            found[key] = axis
    if not section.space:
        problems.append("sweep.space: name what is varied, such as optimizer.learning_rate: [1e-4, 1e-3]")
    if len(set(section.seeds)) < len(section.seeds):
        problems.append(f"sweep.seeds = {list(section.seeds)}: a seed is given twice")
    if not problems:
        problems += _too_many(section, tuple(found.values()))
    return tuple(found.values()), problems


def _flat(space: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Keys in dots, whether they were written so or, as `--set` does, as sections in sections."""
    for name, value in space.items():
        key = f"{prefix}{name}"
        if isinstance(value, Mapping) and keys.is_section(key):
            yield from _flat(value, f"{key}.")
        else:
            yield key, value


def _axis(key: str, asked: object, method: str) -> Axis | str:
    """An axis, or what is wrong with it."""
    if isinstance(asked, Mapping):
        if method == "grid":
            return f"{key}: a grid takes lists of values; use sweep.method = random or asha for a range"
        return _range(key, asked)
    if not isinstance(asked, list):
        return f"{key} = {asked!r}: expected a list of values, or a range {{low: ..., high: ...}}"
    if not asked:
        return f"{key} = []: expected at least one value"
    same = [json.dumps(float(value) if type(value) is int else value, sort_keys=True) for value in asked]
    twice = [value for place, value in enumerate(asked) if same[place] in same[:place]]
    if twice:
        return f"{key}: the value {twice[0]!r} is given twice"
    return Values(key, tuple(asked))


def _range(key: str, asked: Mapping[str, Any]) -> Range | str:
    kind = keys.kind(key)
    unknown = [name for name in asked if name not in _RANGE]
    if unknown:
        close = difflib.get_close_matches(unknown[0], _RANGE, n=1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        return f"{key}.{unknown[0]}: unknown key{hint}; a range has {', '.join(_RANGE)}"
    if kind == "other":
        return f"{key}: a range is for numbers; list its values"
    if not isinstance(asked.get("log", False), bool):
        return f"{key}.log = {asked['log']!r}: expected true or false"
    for name in ("low", "high", *(("step",) if asked.get("step") is not None else ())):
        value = asked.get(name)
        if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
            return f"{key}.{name} = {value!r}: expected a number"
        if kind == "integer" and value != int(value):
            return f"{key}.{name} = {value!r}: expected an integer, as {key} is one"
    whole = kind == "integer"
    low, high = (int(asked[name]) if whole else float(asked[name]) for name in ("low", "high"))
    step = asked.get("step")
    if low >= high:
        return f"{key}: low = {low} must be below high = {high}"
    if asked.get("log") and low <= 0:
        return f"{key}: low = {low} must be above 0 where log is true"
    if step is not None and not 0 < step <= high - low:
        return f"{key}.step = {step}: expected a number above 0 that fits between low and high"
    return Range(key, low, high, bool(asked.get("log")), step if step is None or not whole else int(step), whole)


def _too_many(section: SweepSection, found: tuple[Axis, ...]) -> Iterator[str]:
    counts = [axis.count for axis in found]
    if None in counts:
        return
    size = math.prod(count for count in counts if count is not None)
    if section.method == "grid" and size > LARGEST:
        shown = " x ".join(map(str, counts))
        yield f"sweep.space: a grid of {shown} = {size} points; {LARGEST} at most, or draw some with method random"
    if section.method != "grid" and size < section.samples:
        yield f"sweep.samples = {section.samples}: the space has {size} points; ask for fewer, or use method grid"
