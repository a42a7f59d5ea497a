"""What a sweep varies: ranges, draws and grids as pure functions, and everything that is refused before a run."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.experiment.sweep.points import points
from coordinator.experiment.sweep.space import Range, SweepSection, Values, axes

UNIFORM = st.floats(0, 1, exclude_max=True)
POSITIVE = st.floats(1e-12, 1e12)


def section(space: dict[str, Any], **values: Any) -> SweepSection:
    """A sweep over a space."""
    return SweepSection.model_validate({"space": space, **values})


def drawn(space: dict[str, Any], **values: Any) -> list[dict[str, Any]]:
    """The points of a sweep, without their names."""
    asked = section(space, **values)
    found, problems = axes(asked)
    assert problems == []
    return [point.values for point in points(asked, found)]


@given(st.tuples(POSITIVE, POSITIVE).filter(lambda ends: ends[0] < ends[1]), UNIFORM)
def test_a_logarithmic_range_is_uniform_in_the_logarithm(ends: tuple[float, float], u: float) -> None:
    """Equal parts of the draw are equal parts of the logarithm, and no value is outside."""
    low, high = ends
    value = Range("optimizer.learning_rate", low, high, True, None, False).at(u)
    assert low <= value <= high
    assert math.log(value) == pytest.approx(math.log(low) + u * (math.log(high) - math.log(low)), abs=1e-9)


@given(st.integers(1, 1000), st.integers(1, 1000), st.integers(1, 300), st.booleans(), UNIFORM)
def test_integers_lie_on_their_steps(low: int, length: int, step: int, log: bool, u: float) -> None:
    """Whatever is drawn: an int, within the bounds, whole steps above the low end."""
    value = Range("network.width", low, low + max(length, step), log, step, True).at(u)
    assert isinstance(value, int)
    assert low <= value <= low + max(length, step)
    assert (value - low) % step == 0


@pytest.mark.parametrize("log", [False, True])
def test_every_integer_of_a_range_is_drawn(log: bool) -> None:
    """Both ends as well; evenly, or the smaller ones more often."""
    axis = Range("network.depth", 2, 6, log, None, True)
    seen = [axis.at(place / 10_000) for place in range(10_000)]
    counts = [seen.count(value) for value in range(2, 7)]
    assert sum(counts) == 10_000
    assert counts == sorted(counts, reverse=True)
    assert (max(counts) - min(counts) <= 1) is not log
    assert min(counts) > 1000


def test_steps_of_numbers_carry_no_noise() -> None:
    """0.1, 0.2, 0.3: not 0.30000000000000004, and never above the high end."""
    axis = Range("consensus.weight", 0.1, 0.35, False, 0.1, False)
    assert sorted({axis.at(place / 100) for place in range(100)}) == [0.1, 0.2, 0.3]


def test_a_grid_is_in_the_order_of_its_file() -> None:
    """All combinations, the last axis fastest; points are numbered in that order."""
    asked = section({"network.name": ["mlp", "convnet"], "group.peers": [8, 2], "optimizer.learning_rate": [0.1]})
    found, _ = axes(asked)
    made = points(asked, found)
    assert [point.name for point in made] == ["p000", "p001", "p002", "p003"]
    assert [tuple(point.values.values()) for point in made] == [
        ("mlp", 8, 0.1), ("mlp", 2, 0.1), ("convnet", 8, 0.1), ("convnet", 2, 0.1)
    ]  # fmt: skip


@given(st.integers(0, 2**63 - 1))
def test_draws_are_the_seeds_alone(seed: int) -> None:
    """The same seed gives the same points; more of them, or another axis, leave what was drawn as it is."""
    rate = {"optimizer.learning_rate": {"low": 1e-5, "high": 1e-1, "log": True}}
    few = drawn(rate, method="random", samples=3, seed=seed)
    more = drawn({**rate, "consensus.loss": ["cosine", "mse"]}, method="asha", samples=6, seed=seed)
    assert [point["optimizer.learning_rate"] for point in more[:3]] == [
        few[place][key] for place in range(3) for key in rate
    ]
    assert len({tuple(point.values()) for point in more}) == 6
    assert drawn(rate, method="random", samples=3, seed=(seed + 1) % 2**63) != few


def test_a_small_space_is_drawn_without_repetition() -> None:
    """Six points are all that there are: six draws are these six."""
    found = drawn({"group.peers": [2, 4, 8], "consensus.loss": ["cosine", "mse"]}, method="random", samples=6)
    assert sorted(tuple(point.values()) for point in found) == sorted(itertools.product([2, 4, 8], ["cosine", "mse"]))


def test_keys_may_be_written_as_sections() -> None:
    """As `--set sweep.space.network.width=[16, 32]` does; the later of two wins."""
    found, problems = axes(
        section(
            {
                "network.width": [8, 9],
                "network": {"width": [16, 32], "0": {"depth": [1, 2]}},
                "optimizer": {"learning_rate": [1, 2]},
            }
        )
    )
    assert problems == []
    assert found == (
        Values("network.width", (16, 32)), Values("network.0.depth", (1, 2)), Values("optimizer.learning_rate", (1, 2))
    )  # fmt: skip


@pytest.mark.parametrize(
    ("space", "values", "words"),
    [
        ({}, {}, "sweep.space: name what is varied"),
        ({"optimizer.learnin_rate": [1]}, {}, "unknown key of the configuration (did you mean 'optimizer.l"),
        ({"optimizer": [1, 2]}, {}, "sweep.space.optimizer: is a section; name a key in it, such as optimizer.name"),
        ({"run.seed": [1, 2]}, {}, "sweep.space.run.seed: cannot be swept: list the seeds in sweep.seeds"),
        ({"probe.split": ["test"]}, {}, "all points of a sweep are judged on the same images"),
        ({"launcher.ray.cpus": [1, 2]}, {}, "launcher.ray.cpus: cannot be swept"),
        ({"data.batch": 32}, {}, "sweep.space.data.batch = 32: expected a list of values, or a range"),
        ({"data.batch": []}, {}, "sweep.space.data.batch = []: expected at least one value"),
        ({"data.batch": [32, 64, 32]}, {}, "data.batch: the value 32 is given twice"),
        ({"consensus.weight": [1, 0.5, 1.0]}, {}, "consensus.weight: the value 1.0 is given twice"),
        ({"data.batch": {"low": 2, "high": 4}}, {}, "a grid takes lists of values"),
        ({"data.batch": [2], "run.rounds": [1]}, {"seeds": (1, 1)}, "sweep.seeds = [1, 1]: a seed is given twice"),
        ({"network.width": list(range(1, 102)), "network.depth": list(range(1, 101))}, {}, "101 x 100 = 10100 points"),
        ({"data.batch": [2, 4]}, {"method": "random", "samples": 3}, "sweep.samples = 3: the space has 2 points"),
        ({"consensus.loss": {"low": 0, "high": 1}}, {"method": "random"}, "a range is for numbers; list its values"),
        ({"data.download": {"low": 0, "high": 1}}, {"method": "random"}, "a range is for numbers; list its values"),
        ({"probe.linear_l2": {"low": 0, "high": 1}}, {"method": "random"}, "a range is for numbers; list its values"),
        ({"data.batch": {"low": 4, "high": 4}}, {"method": "random"}, "data.batch: low = 4 must be below high = 4"),
        ({"data.batch": {"low": 4}}, {"method": "asha"}, "data.batch.high = None: expected a number"),
        ({"data.batch": {"low": 4.5, "high": 8}}, {"method": "asha"}, "data.batch.low = 4.5: expected an integer"),
        ({"data.batch": {"low": 4, "high": 8, "hihg": 8}}, {"method": "asha"}, "hihg: unknown key (did you mean 'h"),
        ({"data.batch": {"low": 4, "high": 8, "log": 1}}, {"method": "asha"}, "log = 1: expected true or false"),
        ({"data.batch": {"low": 4, "high": 8, "step": 5}}, {"method": "asha"}, "batch.step = 5: expected a number"),
        (
            {"optimizer.weight_decay": {"low": 0, "high": 1, "log": True}},
            {"method": "random"},
            "optimizer.weight_decay: low = 0.0 must be above 0 where log is true",
        ),
        (
            {"optimizer.weight_decay": {"low": 0, "high": math.inf}},
            {"method": "random"},
            "optimizer.weight_decay.high = inf: expected a number",
        ),
    ],
)  # fmt: skip
def test_what_spans_no_space_is_refused(space: dict[str, Any], values: dict[str, Any], words: str) -> None:
    """The key, what it says and what was expected."""
    _, problems = axes(section(space, **values))
    assert len(problems) == 1
    assert words in problems[0]
