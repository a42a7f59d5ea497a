"""Each peer is judged by the weights that its own criterion liked best, and a checkpoint remembers them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from peers.config.loading import identity
from peers.config.schema import SelectionConfig
from peers.method.best_checkpoint import Selection, unsupervised
from peers.method.peer import Peer
from peers.runs.checkpoint import Checkpoints
from tests.commands import TINY, WORKER, run, settings, summary
from tests.peers.groups import DIGEST, Group, closed, config_of, images_of, one_thread

POSITIVE = st.floats(1e-3, 1e3)


@pytest.fixture(autouse=True, scope="module")
def _quick() -> Iterator[None]:
    with one_thread():
        yield


@given(POSITIVE, POSITIVE, st.floats(0.01, 0.99), st.floats(0.01, 0.99))
def test_the_criterion_wants_agreement_without_collapse(d: float, rank: float, less: float, lower: float) -> None:
    """0 at first; better for less disagreement at one rank, worse for a lower rank at one agreement."""
    first = d, rank
    assert unsupervised(first, first) == 0
    agreed = unsupervised((d * less, rank), first)
    assert 0 < agreed <= 1
    assert unsupervised((d * less, rank * lower), first) < agreed
    assert unsupervised((d / less, rank), first) < 0


def test_the_criterion_is_the_product_that_is_documented() -> None:
    """Disagreement from 0.5 to 0.2 and rank from 40 to 30: 0.6 * 0.75."""
    assert unsupervised((0.2, 30.0), (0.5, 40.0)) == pytest.approx(0.45)
    assert math.isnan(unsupervised((0.0, 30.0), (0.0, 40.0)))
    assert math.isnan(unsupervised((0.1, 0.0), (0.5, 0.0)))


def offered(*scores: float) -> Selection:
    """A selection that was offered networks whose weight is the round, with these scores."""
    selection = Selection(SelectionConfig(rule="unsupervised", every=1))
    for round_, score in enumerate(scores):
        network = torch.nn.Linear(1, 1)
        torch.nn.init.constant_(network.weight, round_)
        selection.offer(round_, score, network)
        torch.nn.init.constant_(network.weight, -1)  # what is kept must be a copy
    return selection


@pytest.mark.parametrize(
    ("scores", "best"), [((0.0, 0.3, 0.2), 1), ((0.0, 0.3, 0.3), 1), ((0.0, math.nan, 0.1), 2), ((0.0, -1.0), 0)]
)
def test_the_best_finite_score_is_kept(scores: tuple[float, ...], best: int) -> None:
    """Of equals the earlier; what is not finite never."""
    kept = offered(*scores).best
    assert kept is not None
    assert (kept.round, kept.score) == (best, scores[best])
    assert kept.state["weight"].item() == best


def test_the_last_round_needs_no_looks() -> None:
    """The default neither looks nor keeps; the others look at round 0 and at every multiple."""
    assert not any(Selection(SelectionConfig()).due(round_) for round_ in range(20))
    looking = Selection(SelectionConfig(rule="validation", every=7))
    assert [round_ for round_ in range(20) if looking.due(round_)] == [0, 7, 14]
    assert looking.record() is None


def looked(group: Group, rounds: range, live: list[float] | None = None) -> None:
    """Rounds in which every peer looks before it steps; `live` is what k-NN says of each round."""
    for round_ in rounds:
        published = {peer.id: peer.forward(images_of(round_)) for peer in group.peers}
        consensus = closed(group.exchange.publish(round_, published, DIGEST))
        for peer in group.peers:
            peer.evaluate(consensus, lambda _, round_=round_: live[round_] if live else math.nan)  # type: ignore[misc]
            peer.step(consensus)


def weights(peer: Peer) -> list[torch.Tensor]:
    """A peer's weights, copied."""
    return [parameter.detach().clone() for parameter in peer.network.parameters()]


def test_what_is_judged_are_the_weights_that_made_the_best_outputs() -> None:
    """Validation k-NN is best at round 2: the weights after two rounds, whatever came later."""
    group = Group(config_of(selection={"rule": "validation", "every": 1}))
    looked(group, range(2), [10.0, 20.0])
    before = weights(group.peers[0])
    looked(group, range(2, 5), [10.0, 20.0, 30.0, 25.0, 5.0])
    peer = group.peers[0]
    assert peer.selection.best is not None
    assert peer.selection.best.round == 2
    chosen = list(peer.selected_network().parameters())
    assert all(torch.equal(one, two) for one, two in zip(chosen, before, strict=True))
    assert not any(torch.equal(one, two) for one, two in zip(weights(peer), before, strict=True) if one.ndim > 1)


def test_a_checkpoint_remembers_what_was_kept(tmp_path: Path) -> None:
    """A peer that comes back in the middle goes on with the same best weights, first look included."""
    config = config_of(selection={"rule": "unsupervised", "every": 1}, optimizer={"learning_rate": 0.01})
    straight, first, second = (Group(config) for _ in range(3))
    looked(straight, range(8))
    looked(first, range(4))
    places = [Checkpoints(tmp_path / str(peer.id), identity(config, 20)) for peer in first.peers]
    for place, peer, other in zip(places, first.peers, second.peers, strict=True):
        place.save(peer, 4, {})
        place.load(other, 4)
        assert other.selection.record() == peer.selection.record() is not None
    looked(second, range(4, 8))
    for one, two in zip(straight.peers, second.peers, strict=True):
        assert one.selection.record() == two.selection.record()
        for left, right in zip(one.selected_network().parameters(), two.selected_network().parameters(), strict=True):
            assert torch.equal(left, right)


def test_a_run_says_which_rounds_it_is_judged_by(tmp_path: Path) -> None:
    """The table and the summary name the rule and each peer's round; with labels they say so. Snapshots are kept."""
    flags = settings(*TINY, "run.rounds=30", "group.peers=2", "run.name=chosen", "checkpoint.snapshots=3")
    rule = settings("selection.rule=validation", "selection.every=10")
    code, output = run((*WORKER, *flags, *rule), tmp_path)
    assert code == 0, output
    result = summary(tmp_path / "runs" / "chosen")
    assert result["selection"] == "validation"
    rounds = [report["selected"] for report in result["per_peer"]]
    assert set(rounds) <= {0, 10, 20}
    text = f"judged by each peer's best round by k-NN on validation images, with their labels: {rounds[0]}, {rounds[1]}"
    assert text in output
    found = sorted(path.name for path in (tmp_path / "runs" / "chosen" / "snapshots" / "peer-001").iterdir())
    assert found == [f"round-{round_:08d}.safetensors" for round_ in (1, 5, 30)]


def test_scores_of_another_rule_are_not_taken_over(tmp_path: Path) -> None:
    """A run that goes on with another rule begins its looks anew: k-NN in percent would beat any product of shares."""
    group = Group(config_of(selection={"rule": "validation", "every": 1}))
    looked(group, range(2), [10.0, 20.0])
    peer = group.peers[0]
    place = Checkpoints(tmp_path, identity(peer.config, 20))
    place.save(peer, 2, {})
    other = Group(config_of(selection={"rule": "unsupervised", "every": 1})).peers[0]
    place.load(other, 2)
    assert other.selection.best is None
