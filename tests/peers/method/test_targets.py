"""Targets are what the rules and controls say, out of a real exchange, and are missing where there is none."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from fractions import Fraction
from math import floor
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from peers.config.schema import ConsensusConfig
from peers.method.target_selection import TargetSelection
from peers.method.targets import Missing, controlled, median, peer_target, trimmed_mean
from peers.transport.values import Consensus
from tests.peers.groups import Array, exchanged, mean_of, on_wire

SEED = 11
ROUND = 5
RULES: dict[str, dict[str, Any]] = {
    "mean": {"target": "mean"},
    "frozen": {"target": "frozen"},
    "random_peer": {"target": "random_peer"},
    "roles": {"target": "roles"},
    "neighbours-1": {"target": "neighbours", "k": 1},
    "neighbours-2": {"target": "neighbours", "k": 2},
    "neighbours-3": {"target": "neighbours", "k": 3},
    "median": {"target": "median"},
    "trimmed-0": {"target": "trimmed_mean", "q": 0.0},
    "trimmed-0.125": {"target": "trimmed_mean", "q": 0.125},
    "trimmed-0.25": {"target": "trimmed_mean", "q": 0.25},
    "trimmed-0.4": {"target": "trimmed_mean", "q": 0.4},
}
CONTROLS = ["none", "independent", "shuffled", "noise"]


def section(**values: Any) -> ConsensusConfig:
    """The section of the configuration that names rule, control and weight."""
    return ConsensusConfig.model_validate(values)


def normal(seed: int, *shape: int) -> Tensor:
    """Values of a standard normal distribution."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def group_outputs(count: int, rows: int = 12, width: int = 5) -> dict[int, Tensor | None]:
    """{peer: [B, D]}, of a different mean for each peer, so that no rule can be taken for another."""
    return {peer: 3 * normal(100 + peer, rows, width) + peer for peer in range(count)}


def expected(values: Mapping[str, Any], sent: Mapping[int, Array], drawn: Mapping[int, Sequence[int]]) -> list[Any]:
    """Each peer's target by the rule's definition: an array, or the reason why there is none."""
    everyone = [sent[peer] for peer in sorted(sent)]
    targets: list[Any] = []
    for peer in sorted(sent):
        others = [sent[other] for other in sorted(sent) if other != peer]
        if not others:
            targets.append("alone")
        elif values["target"] in ("mean", "frozen"):
            targets.append(mean_of(others))
        elif values["target"] == "median":
            targets.append(np.median(np.stack(everyone), axis=0))
        elif values["target"] == "trimmed_mean":
            cut = floor(Fraction(str(values["q"])) * len(everyone))
            targets.append(np.sort(np.stack(everyone), axis=0)[cut : len(everyone) - cut].mean(axis=0))
        else:
            heard = [sent[source] for source in drawn[peer]]
            targets.append(mean_of(heard) if heard else "stands_still")
    return targets


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("wire", ["float32", "bf16", "float16"])
@pytest.mark.parametrize("count", [1, 2, 3, 8])
@pytest.mark.parametrize("name", RULES)
def test_rule_gives_the_target_of_its_definition(name: str, count: int, wire: str, workers: int) -> None:
    """For every rule, size, wire and packing, each peer's target is the definition's, or missing for its reason."""
    config = section(**RULES[name])
    rule = TargetSelection.of(config, SEED)
    outputs = group_outputs(count)
    seen = exchanged(outputs, rule, wire=wire, round_=ROUND, workers=workers)
    sent = {peer: on_wire(z, wire) for peer, z in outputs.items() if z is not None}
    wanted = expected(RULES[name], sent, rule.sources(ROUND, range(count)))
    for peer in range(count):
        target = peer_target(seen[peer], peer, config)
        if isinstance(wanted[peer], str):
            assert target == Missing(wanted[peer])
        else:
            assert isinstance(target, Tensor)
            assert target.dtype == torch.float32
            np.testing.assert_allclose(target.numpy(), wanted[peer], rtol=0, atol=2e-5)


@pytest.mark.parametrize("name", RULES)
def test_targets_do_not_depend_on_the_packing(name: str) -> None:
    """One worker with eight peers and four workers with two each arrive at the same bits."""
    config = section(**RULES[name])
    rule = TargetSelection.of(config, SEED)
    together = exchanged(group_outputs(8), rule, wire="bf16", round_=ROUND)
    apart = exchanged(group_outputs(8), rule, wire="bf16", round_=ROUND, workers=4)
    for peer in range(8):
        one, two = peer_target(together[peer], peer, config), peer_target(apart[peer], peer, config)
        assert torch.equal(one, two) if isinstance(one, Tensor) and isinstance(two, Tensor) else one == two


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("name", RULES)
def test_who_abstained_has_no_target_and_is_in_none(name: str, workers: int) -> None:
    """A peer whose outputs were not finite skips; the others' targets are the definition's without it."""
    config = section(**RULES[name])
    rule = TargetSelection.of(config, SEED)
    outputs = group_outputs(4) | {2: None}
    seen = exchanged(outputs, rule, round_=ROUND, workers=workers)
    sent = {peer: on_wire(z, "float32") for peer, z in outputs.items() if z is not None}
    drawn = rule.sources(ROUND, range(4))
    assert peer_target(seen[2], 2, config) == Missing("abstained")
    wanted = expected(RULES[name], sent, {peer: [s for s in drawn[peer] if s != 2] for peer in drawn})
    for peer, goal in zip(sorted(sent), wanted, strict=True):
        target = peer_target(seen[peer], peer, config)
        if isinstance(goal, str):
            reason = "no_source" if drawn[peer] else "stands_still"
            assert target == Missing(reason)
        else:
            assert isinstance(target, Tensor)
            np.testing.assert_allclose(target.numpy(), goal, rtol=0, atol=2e-5)


@pytest.mark.parametrize("name", ["median", "trimmed-0.25"])
def test_an_aggregate_made_elsewhere_is_the_target(name: str) -> None:
    """What an exchange computed once for all is used as it is; who abstained or is alone still has no target."""
    config, aggregate = section(**RULES[name]), normal(1, 12, 5)
    seen = Consensus(0, 1, (0, 2), None, {0: normal(2, 12, 5), 1: normal(3, 12, 5)}, aggregate=aggregate)
    target = peer_target(seen, 0, config)
    assert isinstance(target, Tensor)
    assert torch.equal(target, aggregate)
    assert peer_target(seen, 1, config) == Missing("abstained")
    assert peer_target(dataclasses.replace(seen, contributors=(0,)), 0, config) == Missing("alone")


def test_a_source_that_abstained_is_not_replaced() -> None:
    """Whoever drew only peers that abstained is told "no_source": it never trains on a made-up target."""
    config = section(target="random_peer")
    rule = TargetSelection.of(config, SEED)
    drawn = rule.sources(ROUND, range(3))
    silent = drawn[0][0]
    seen = exchanged(group_outputs(3) | {silent: None}, rule, round_=ROUND)
    assert peer_target(seen[0], 0, config) == Missing("no_source")


@pytest.mark.parametrize("name", RULES)
def test_left_alone_by_the_others(name: str) -> None:
    """When all others abstain there is no consensus, whatever the rule; when all abstain, nobody has one."""
    config = section(**RULES[name])
    rule = TargetSelection.of(config, SEED)
    outputs = group_outputs(4)
    seen = exchanged({0: None, 1: outputs[1], 2: None, 3: None}, rule, round_=ROUND)
    assert peer_target(seen[1], 1, config) == Missing("alone")
    assert peer_target(seen[0], 0, config) == Missing("abstained")
    silent = exchanged(dict.fromkeys(range(4)), rule, round_=ROUND)
    assert [peer_target(silent[peer], peer, config) for peer in range(4)] == [Missing("abstained")] * 4


@settings(max_examples=40)
@given(seed=st.integers(0, 2**31), count=st.integers(3, 9), size=st.floats(1e3, 1e30), sign=st.sampled_from([-1, 1]))
def test_robust_rules_stay_among_the_good(seed: int, count: int, size: float, sign: int) -> None:
    """One peer with absurd values cannot push median or trimmed mean out of the range of the others."""
    good = [normal(seed + peer, 4, 3) for peer in range(count - 1)]
    bad = torch.full((4, 3), sign * size)
    low, high = torch.stack(good).min(dim=0).values, torch.stack(good).max(dim=0).values
    for result in (median([*good, bad]), trimmed_mean([bad, *good], 0.4)):
        assert (result >= low - 1e-6).all()
        assert (result <= high + 1e-6).all()


def control(
    name: str, target: Tensor, own: Tensor, *, peer: int = 0, round_: int = 0, seed: int = SEED, w: float = 1.0
) -> Tensor:
    """The target that the loss sees under a control."""
    return controlled(target, own, section(control=name, weight=w), seed, peer, round_)


def test_without_control_the_target_is_the_rules() -> None:
    """Control "none" and weight 1 change nothing."""
    target, own = normal(1, 16, 4), normal(2, 16, 4)
    assert torch.equal(control("none", target, own), target)


def test_independent_steps_toward_itself() -> None:
    """Its target is the peer's own output, exactly, whatever the others said."""
    own = normal(2, 16, 4)
    for w in (1.0, 0.3):
        assert torch.equal(control("independent", normal(1, 16, 4), own, w=w), own)


def test_shuffled_is_a_permutation_of_the_rows() -> None:
    """The same rows in another order, neither torn apart nor left in place."""
    target, own = normal(1, 64, 4), normal(2, 64, 4)
    shuffled = control("shuffled", target, own)
    assert sorted(map(tuple, shuffled.tolist())) == sorted(map(tuple, target.tolist()))
    assert (shuffled != target).any(dim=1).sum() > 50


def test_noise_has_the_targets_mean_and_deviation_and_nothing_else() -> None:
    """Over 40,000 rows: mean and deviation of each dimension agree, nothing correlates, rows are Gaussian.

    Bounds are about five standard errors.
    """
    rows = 40_000
    scale, centre = torch.tensor([0.1, 1.0, 30.0]), torch.tensor([-5.0, 0.0, 100.0])
    mixing = torch.tensor([[1.0, 0.0, 0.0], [0.9, 0.44, 0.0], [0.0, 0.0, 1.0]])  # dimensions 0 and 1 correlate
    target = (normal(1, rows, 3) @ mixing.T) * scale + centre
    noise = control("noise", target, normal(2, rows, 3))
    deviation = target.std(dim=0, correction=0)
    assert ((noise.mean(dim=0) - target.mean(dim=0)) / deviation).abs().max() < 5 / rows**0.5
    assert (noise.std(dim=0, correction=0) / deviation - 1).abs().max() < 5 / (2 * rows) ** 0.5
    between = torch.corrcoef(torch.cat([noise, target], dim=1).T)[:3]
    between[:, :3] -= torch.eye(3)
    assert between.abs().max() < 5 / rows**0.5
    standard = (noise - noise.mean(dim=0)) / noise.std(dim=0)
    assert (standard**3).mean(dim=0).abs().max() < 5 * (6 / rows) ** 0.5
    assert ((standard**4).mean(dim=0) - 3).abs().max() < 5 * (24 / rows) ** 0.5


@pytest.mark.parametrize("name", ["shuffled", "noise"])
def test_what_a_control_draws_follows_from_seed_peer_and_round(name: str) -> None:
    """Equal seeds give equal draws; another seed, peer or round gives another one."""
    target, own = normal(1, 32, 4), normal(2, 32, 4)
    drawn = control(name, target, own, peer=1, round_=2)
    assert torch.equal(drawn, control(name, target, own, peer=1, round_=2))
    torch.rand(5)  # the global generator does not matter
    assert torch.equal(drawn, control(name, target, own, peer=1, round_=2))
    for other in ({"seed": SEED + 1}, {"peer": 2}, {"round_": 3}, {"peer": 2, "round_": 1}):
        assert not torch.equal(drawn, control(name, target, own, **{"peer": 1, "round_": 2, **other}))


@pytest.mark.parametrize("w", [0.001, 0.25, 0.5, 0.999, 1.0])
@pytest.mark.parametrize("name", CONTROLS)
def test_weight_blends_own_output_and_target(name: str, w: float) -> None:
    """With weight w every target, controlled or not, is (1 - w) own + w of what it would be with weight 1."""
    target, own = normal(1, 16, 4), normal(2, 16, 4)
    whole = control(name, target, own).double().numpy()
    blend = control(name, target, own, w=w).double().numpy()
    np.testing.assert_allclose(blend, (1 - w) * own.double().numpy() + w * whole, rtol=0, atol=1e-6)


@pytest.mark.parametrize("w", [0.5, 1.0])
@pytest.mark.parametrize("name", CONTROLS)
def test_goal_carries_no_gradient_and_leaves_its_sources_alone(name: str, w: float) -> None:
    """What the loss sees is detached, even from the peer's own outputs; shape stays; neither argument is written to."""
    target, own = normal(1, 16, 4), normal(2, 16, 4).requires_grad_()
    before = target.clone(), own.detach().clone()
    goal = control(name, target, own, w=w)
    assert not goal.requires_grad
    assert (goal.shape, goal.dtype) == (target.shape, torch.float32)
    assert torch.equal(target, before[0])
    assert torch.equal(own.detach(), before[1])
