"""One peer's round: the step is the gradient of the objective's definition, and what is skipped is counted."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from peers.common.errors import DivergedError
from peers.config.schema import Config, OptimizerConfig
from peers.method.peer import NON_FINITE, Peer, learning_rate
from peers.method.target_selection import TargetSelection
from peers.networks import registry as networks
from tests.peers.groups import (
    BATCH,
    CPU,
    DIGEST,
    SHAPE,
    WIDTH,
    Group,
    closed,
    config_of,
    exchanged,
    images_of,
    one_thread,
)

RULES: list[dict[str, Any]] = [
    {"target": "mean"},
    {"target": "random_peer"},
    {"target": "roles"},
    {"target": "neighbours", "k": 2},
    {"target": "median"},
    {"target": "trimmed_mean", "q": 0.3},
    {"target": "frozen"},
]
LOSSES = ["cosine", "mse", "standardized_mse", "kl"]


@pytest.fixture(autouse=True, scope="module")
def _quick() -> Iterator[None]:
    with one_thread():
        yield


def objective(name: str, z: Tensor, t: Tensor, temperature: float) -> Tensor:
    """The losses from their definitions, in elementary operations; z and t [B, D] float64, t a constant."""
    if name == "cosine":
        return (1 - (z * t).sum(dim=1) / (z.square().sum(dim=1) * t.square().sum(dim=1)).sqrt()).mean()
    if name == "mse":
        return (z - t).square().mean()
    if name == "standardized_mse":
        u, v = ((a - a.mean(dim=0)) / (a.var(dim=0, correction=0) + 1e-8).sqrt() for a in (z, t))
        return (u - v).square().mean()
    p, q = ((a / temperature).exp() / (a / temperature).exp().sum(dim=1, keepdim=True) for a in (t, z))
    return (p * (p / q).log()).sum(dim=1).mean()


def goal_of(config: Config, outputs: Mapping[int, Tensor], peer: int, round_: int) -> Tensor | None:
    """The rule's target for one peer from everybody's outputs [B, D] float64; None stands still."""
    name, ids = config.consensus.target, sorted(outputs)
    if name in ("mean", "frozen"):
        return torch.stack([outputs[other] for other in ids if other != peer]).mean(dim=0)
    ordered = torch.stack([outputs[other] for other in ids]).sort(dim=0).values
    if name == "median":
        return (ordered[(len(ids) - 1) // 2] + ordered[len(ids) // 2]) / 2
    if name == "trimmed_mean":
        cut = math.floor(config.consensus.q * len(ids))
        return ordered[cut : len(ids) - cut].mean(dim=0)
    sources = TargetSelection.of(config.consensus, config.run.seed).sources(round_, ids)[peer]
    return torch.stack([outputs[source] for source in sources]).mean(dim=0) if sources else None


def teachers_of(config: Config, group: Group) -> dict[int, nn.Module]:
    """Whose outputs are published: for frozen the networks as they were born, built here; otherwise those of now."""
    if config.consensus.target == "frozen":
        return {
            peer.id: networks.build(config.network_of(peer.id), SHAPE, seed=config.run.seed, peer=peer.id).double()
            for peer in group.peers
        }
    return {peer.id: copy.deepcopy(peer.network).double() for peer in group.peers}


@pytest.mark.parametrize("weight", [1.0, 0.4])
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["target"])
def test_step_is_the_gradient_of_the_definition(rule: dict[str, Any], loss: str, weight: float) -> None:
    """After some rounds, each weight moves by -rate * the reference objective's gradient on a copy in float64."""
    consensus = {**rule, "loss": loss, "weight": weight, "temperature": 0.5}
    config = config_of(
        consensus=consensus,
        group={"peers": 4},
        network={"norm": "layer", "depth": 1},  # every image has outputs that are not all zero
        optimizer={"name": "sgd", "learning_rate": 0.05, "momentum": 0.0},
    )
    group = Group(config)
    for round_ in range(2):
        group.round(round_)
    copies, teachers = [copy.deepcopy(peer.network).double() for peer in group.peers], teachers_of(config, group)
    images = images_of(2).double()
    published = {peer: network(images).detach() for peer, network in teachers.items()}
    steps = group.round(2)
    for peer, network, step in zip(group.peers, copies, steps, strict=True):
        goal = goal_of(config, published, peer.id, 2)
        if goal is None:
            assert step.skipped == "stands_still"
            assert all(torch.equal(a, b.float()) for a, b in pairs(peer.network, network))
            continue
        z = network(images)
        value = objective(loss, z, (1 - weight) * z.detach() + weight * goal, config.consensus.temperature)
        gradients = torch.autograd.grad(value, list(network.parameters()))
        assert step.skipped is None
        assert step.loss == pytest.approx(value.item(), rel=1e-4, abs=1e-6)
        assert step.gradient == pytest.approx(math.sqrt(sum(float(g.square().sum()) for g in gradients)), rel=1e-3)
        for (now, before), gradient in zip(pairs(peer.network, network), gradients, strict=True):
            torch.testing.assert_close(now.double(), before - 0.05 * gradient, rtol=1e-5, atol=2e-6)


def pairs(one: nn.Module, two: nn.Module) -> list[tuple[Tensor, Tensor]]:
    """Their parameters side by side, detached."""
    return [(a.detach(), b.detach()) for a, b in zip(one.parameters(), two.parameters(), strict=True)]


def test_frozen_teachers_never_move() -> None:
    """However far the peers have come, what they publish is the output of the networks as they were born."""
    config = config_of(consensus={"target": "frozen"}, optimizer={"learning_rate": 0.05})
    group = Group(config)
    for round_ in range(4):
        group.round(round_)
    for peer in group.peers:
        born = networks.build(config.network[0], SHAPE, seed=config.run.seed, peer=peer.id)
        assert any(not torch.equal(a, b) for a, b in pairs(peer.network, born))
        published = peer.forward(images_of(9))
        assert published is not None
        torch.testing.assert_close(published, born(images_of(9)).detach(), rtol=1e-6, atol=1e-6)


def test_networks_of_a_group_are_born_different_and_again_the_same() -> None:
    """Weights follow from seed, peer and incarnation, and `initial_network` gives the first ones back bit for bit."""
    config = config_of()
    group = Group(config)
    born = [copy.deepcopy(peer.network) for peer in group.peers]
    group.round(0)
    for peer, network in zip(group.peers, born, strict=True):
        assert all(torch.equal(a, b) for a, b in pairs(peer.initial_network(), network))
    others = [Peer(config, 0, SHAPE, 20, CPU, incarnation=1), Peer(config_of(run={"seed": 1}), 0, SHAPE, 20, CPU)]
    firsts = [next(iter(network.parameters())) for network in (*born, *(peer.network for peer in others))]
    assert len({tuple(weights.flatten().tolist()) for weights in firsts}) == 5


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
@pytest.mark.parametrize("loss", LOSSES)
def test_independent_peers_keep_their_weights(loss: str, optimizer: str) -> None:
    """Without a signal and without weight decay nothing but batch-norm statistics moves: the control stands still."""
    config = config_of(
        consensus={"control": "independent", "loss": loss}, optimizer={"name": optimizer, "weight_decay": 0.0}
    )
    group = Group(config)
    before = [copy.deepcopy(peer.network) for peer in group.peers]
    for round_ in range(10):
        assert [step.skipped for step in group.round(round_)] == [None] * 3
    for peer, network in zip(group.peers, before, strict=True):
        for now, then in pairs(peer.network, network):
            torch.testing.assert_close(now, then, rtol=1e-6, atol=1e-7)
        norms = [name for name in network.state_dict() if name.endswith("running_mean")]
        assert norms
        assert all(not torch.equal(peer.network.state_dict()[name], network.state_dict()[name]) for name in norms)


def test_a_lone_independent_peer_takes_its_steps() -> None:
    """The one group of a single peer that the configuration accepts needs no consensus: it does not skip."""
    group = Group(config_of(consensus={"control": "independent"}, group={"peers": 1}))
    assert [step.skipped for step in group.round(0)] == [None]


@pytest.mark.parametrize("control", ["shuffled", "noise"])
def test_controls_move_the_weights_otherwise(control: str) -> None:
    """A control trains as the method does, toward something else; the recorded target is still the rule's."""
    plain, controlled = Group(config_of()), Group(config_of(consensus={"control": control}))
    for one, two in zip(plain.round(0), controlled.round(0), strict=True):
        assert one.target is not None
        assert two.target is not None
        assert torch.equal(one.target, two.target)
        assert two.loss != one.loss
    for one_peer, two_peer in zip(plain.peers, controlled.peers, strict=True):
        assert any(not torch.equal(a, b) for a, b in pairs(one_peer.network, two_peer.network))


def test_who_stands_still_changes_in_nothing_but_norm_statistics() -> None:
    """Under roles a peer without a teacher counts a skip, keeps its weights, and has nan for loss and gradient."""
    group = Group(config_of(consensus={"target": "roles"}))
    before = [copy.deepcopy(peer.network) for peer in group.peers]
    steps = group.round(0)
    assert sorted(step.skipped or "" for step in steps) == ["", "stands_still", "stands_still"]
    for peer, network, step in zip(group.peers, before, steps, strict=True):
        stood = step.skipped is not None
        assert stood == all(torch.equal(a, b) for a, b in pairs(peer.network, network))
        assert stood == math.isnan(step.loss) == math.isnan(step.gradient)
        assert (peer.stepped, dict(peer.skips)) == ((0, {"stands_still": 1}) if stood else (1, {}))
        assert (step.target is None) == stood
        assert (step.outputs.shape, step.outputs.requires_grad) == ((BATCH, WIDTH), False)


def test_non_finite_outputs_abstain_then_give_up() -> None:
    """A peer whose outputs are not finite hands in nothing, is skipped as "abstained", and gives up by name."""
    config = config_of(consensus={"max_skips": 3})
    group = Group(config)
    sick = group.peers[1]
    with torch.no_grad():
        next(iter(sick.network.parameters())).fill_(math.nan)
    assert sick.forward(images_of(0)) is None
    for round_ in range(2):
        steps = group.round(round_)
        assert [step.skipped for step in steps] == [None, "abstained", None]
    with pytest.raises(DivergedError, match=r"peer 1: .*3 rounds in a row.*abstained.*max_skips = 3") as caught:
        group.round(2)
    assert "optimizer.learning_rate = 0.001" in str(caught.value)
    assert dict(sick.skips) == {"abstained": 3}


def test_a_loss_that_is_not_finite_is_skipped() -> None:
    """An overflow in the loss costs the step, not the weights: nothing is written, and the reason is its own."""
    config = config_of(consensus={"loss": "mse"}, group={"peers": 2})
    peer = Peer(config, 0, SHAPE, 20, CPU)
    before = copy.deepcopy(peer.network)
    own = peer.forward(images_of(0))
    consensus = exchanged({0: own, 1: torch.full((BATCH, WIDTH), 3e38)}, TargetSelection.of(config.consensus, 0))[0]
    step = peer.step(consensus)
    assert step.skipped == "non_finite_loss"
    assert step.target is not None
    assert all(torch.equal(a, b) for a, b in pairs(peer.network, before))
    assert dict(peer.skips) == {"non_finite_loss": 1}


def _explode(parameter: Tensor) -> None:
    assert parameter.grad is not None
    parameter.grad.fill_(math.inf)


def test_a_gradient_that_is_not_finite_is_skipped() -> None:
    """A finite loss with an infinite gradient costs the step, not the weights nor the optimizer's state."""
    config = config_of(consensus={"loss": "mse"}, group={"peers": 2}, optimizer={"name": "adam"})
    peer = Peer(config, 0, SHAPE, 20, CPU)
    before = copy.deepcopy(peer.network)
    own = peer.forward(images_of(0))
    for parameter in peer.network.parameters():
        parameter.register_post_accumulate_grad_hook(_explode)  # type: ignore[no-untyped-call]  # torch has no types for it
    consensus = exchanged({0: own, 1: torch.ones(BATCH, WIDTH)}, TargetSelection.of(config.consensus, 0))[0]
    assert peer.step(consensus).skipped == "non_finite_gradient"
    assert all(torch.equal(a, b) for a, b in pairs(peer.network, before))
    assert not peer.optimizer.state_dict()["state"]


def test_a_good_round_or_a_rest_forgives_the_bad_ones() -> None:
    """Only non-finite rounds in a row end a peer: any other round begins the count again."""
    config = config_of(consensus={"max_skips": 2})
    group = Group(config)
    sick = group.peers[0]
    good = copy.deepcopy(sick.network.state_dict())
    for round_ in range(6):
        if round_ % 2:
            sick.network.load_state_dict(good)
        else:
            with torch.no_grad():
                next(iter(sick.network.parameters())).fill_(math.nan)
        group.round(round_)
    assert (sick.stepped, dict(sick.skips)) == (3, {"abstained": 3})
    assert set(NON_FINITE) == {"abstained", "non_finite_loss", "non_finite_gradient"}


def test_a_round_that_was_missed_is_counted_and_its_outputs_are_dropped() -> None:
    """A skip from outside has its own reason, ends a row of bad rounds, and leaves nothing to step from."""
    config = config_of(consensus={"max_skips": 2})
    group = Group(config)
    peer = group.peers[0]
    for reason in ("abstained", "late", "abstained", "void"):
        peer.forward(images_of(0))
        peer.skip(reason)
    assert dict(peer.skips) == {"abstained": 2, "late": 1, "void": 1}
    assert peer.stepped == 0
    others = {other: torch.ones(BATCH, WIDTH) for other in range(3)}
    with pytest.raises(RuntimeError, match="before forward"):
        peer.step(exchanged(others, TargetSelection.of(config.consensus, 0))[0])


def test_step_needs_a_forward_of_its_own() -> None:
    """The outputs of one forward serve one step: a second step is refused."""
    group = Group(config_of())
    published = {peer.id: peer.forward(images_of(0)) for peer in group.peers}
    consensus = closed(group.exchange.publish(0, published, DIGEST))
    group.peers[0].step(consensus)
    with pytest.raises(RuntimeError, match="before forward"):
        group.peers[0].step(consensus)


def test_forward_is_in_training_mode_whatever_a_probe_left() -> None:
    """Publications are made with the batch's own statistics, also after the network was judged in evaluation mode."""
    peer, judged = (Peer(config_of(), 0, SHAPE, 20, CPU) for _ in range(2))
    judged.network.eval()
    one, two = peer.forward(images_of(0)), judged.forward(images_of(0))
    assert one is not None
    assert two is not None
    assert torch.equal(one, two)


def test_bf16_forward_publishes_float32() -> None:
    """With precision bf16 only the forward pass is rounded: publications and weights are float32."""
    group = Group(config_of(precision="bf16"))
    exact = Group(config_of())
    rough, fine = group.peers[0].forward(images_of(0)), exact.peers[0].forward(images_of(0))
    assert rough is not None
    assert fine is not None
    assert rough.dtype == torch.float32
    assert not torch.equal(rough, fine)
    torch.testing.assert_close(rough, fine, rtol=0.1, atol=0.1)
    assert {parameter.dtype for parameter in group.peers[0].network.parameters()} == {torch.float32}


@pytest.mark.filterwarnings("ignore")  # the compiler's own, of the libraries that it looks for
def test_a_compiled_peer_learns_the_same_and_is_probed_and_saved_as_any_other() -> None:
    """`compile` changes rounding alone: same weights within 1e-5 after three rounds, under the same names."""
    plain, compiled = Group(config_of()), Group(config_of(compile=True))
    for round_ in range(3):
        plain.round(round_)
        compiled.round(round_)
    for one, two in zip(plain.peers, compiled.peers, strict=True):
        assert one.network.state_dict().keys() == two.network.state_dict().keys()
        for name, value in one.network.state_dict().items():
            torch.testing.assert_close(value, two.network.state_dict()[name], rtol=1e-4, atol=1e-5)
        assert two.selected_network() is two.network


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_learning_rate_warms_up_and_follows_its_schedule(schedule: str) -> None:
    """Linear from zero through the warm-up; then constant, or half a cosine that would reach zero at the end."""
    config = OptimizerConfig.model_validate({"learning_rate": 0.8, "warmup": 3, "schedule": schedule})
    rates = [learning_rate(config, round_, 11) for round_ in range(12)]
    assert rates[:4] == pytest.approx([0.2, 0.4, 0.6, 0.8])
    if schedule == "constant":
        assert rates[3:] == [0.8] * 9
    else:
        assert rates[3:] == pytest.approx([0.4 * (1 + math.cos(math.pi * step / 8)) for step in range(9)])
        assert rates[7] == pytest.approx(0.4)
        assert rates[11] == pytest.approx(0.0, abs=1e-12)


def test_optimizer_gets_the_rate_of_the_round() -> None:
    """The scheduled rate of the consensus's round is the one that the step was made with."""
    group = Group(config_of(optimizer={"learning_rate": 0.5, "warmup": 4, "name": "sgd", "momentum": 0.0}))
    group.round(1)
    assert [entry["lr"] for entry in group.peers[0].optimizer.param_groups] == [pytest.approx(0.2)]
