"""The step benchmark: it runs, its yardsticks do the work that they claim, and it says what it did not measure."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch

from peers.data.batches import Schedule
from peers.exchange.base import Hello
from peers.method.peer import Peer
from peers.method.target_selection import TargetSelection
from peers.transport.values import Consensus
from tests.benchmarks.step_cases import LOOPS, arrangements, in_step, limits, load_of
from tests.benchmarks.step_loop import make_optimizers, train
from tests.benchmarks.step_worker import NoExchange, Order, Post, Trainers
from tests.commands import run

ROOT = Path(__file__).parents[2]
QUICK = ("--toy", "--passes", "1", "--seconds", "0.02")


def benchmark(folder: Path, *options: str) -> tuple[int, str]:
    """Exit code and output of the script; it may see no GPU, so that it does the same everywhere."""
    command = [sys.executable, "-m", "tests.benchmarks.step", *options, "--out", str(folder / "results.json")]
    return run(command, folder, PYTHONPATH=str(ROOT), CUDA_VISIBLE_DEVICES="")


def results(folder: Path, *options: str) -> dict[str, Any]:
    """What the script saves."""
    code, output = benchmark(folder, *options)
    assert code == 0, output
    return dict(json.loads((folder / "results.json").read_text()))


def test_every_arrangement_is_measured_against_both_yardsticks(tmp_path: Path) -> None:
    """All exchanges, the same processes without one and the loops are in the table, each with rounds a second."""
    rates, overheads = results(tmp_path, *QUICK, "--networks", "mlp", "--peers", "4")["tables"]
    cases = arrangements(4)
    held = in_step(cases, 4)
    names = [f"4 peers, {each.name}" for each in [*cases, *limits(cases, 4), *held, *LOOPS]]
    assert [row[0] for row in rates["rows"]] == names
    assert all(float(row[1].split()[0]) > 0 for row in rates["rows"])
    assert all(row[3] and row[4] for row in rates["rows"][: len(cases)])
    assert [row[0] for row in overheads["rows"]] == [each.name for each in [*cases, *held]]


def test_the_gpu_benchmark_runs_on_a_cpu(tmp_path: Path) -> None:
    """The same way with toys: one peer, several in a worker, a worker for each; only compiled networks are left out."""
    found = results(tmp_path, *QUICK, "--gpu", "--device", "cpu", "--peers", "1", "2", "--batches", "16")
    (table,) = found["tables"]
    cells = {row[0]: row[1:] for row in table["rows"]}
    assert {name for name, row in cells.items() if row[0].startswith("unmeasured")} == {
        f"compiled, {who}" for who in ("one peer", "2 peers in one worker", "2 workers")
    }
    packed, share = cells["eager, 2 peers in one worker"], table["columns"].index("exchange's share, %") - 1
    assert 0 <= float(packed[share].split()[0]) <= 100


def test_without_a_gpu_nothing_is_measured_and_that_is_said(tmp_path: Path) -> None:
    """`--gpu` where there is none: tables with one line that says so."""
    tables = results(tmp_path, "--gpu")["tables"]
    assert [[row[:2] for row in table["rows"]] for table in tables] == [[["all", "unmeasured: no GPU"]]] * 2


def test_a_process_that_fails_ends_the_benchmark(tmp_path: Path) -> None:
    """Its traceback is told, and nothing waits for it."""
    code, output = benchmark(tmp_path, *QUICK, "--networks", "mlp", "--peers", "2", "--device", "cuda")
    assert code == 1
    assert "step_worker.py" in output


def test_the_loop_learns_what_the_product_learns(tmp_path: Path) -> None:
    """The researcher's loop and a packed group end with the same weights: they do the same arithmetic."""
    load, rounds = load_of("mlp", 3, toy=True), 5
    before = torch.get_num_threads()
    host = Trainers(Post(load, ("inprocess",), 0, 1, 0, {}, str(tmp_path)))
    trainer = host.trainers["inprocess"]
    own = [peer.initial_network() for peer in trainer.peers]
    host.run(Order("inprocess", rounds))
    for trainer in host.trainers.values():
        trainer.pool.close()
    config, images = trainer.config, host.data.train
    batches = [Schedule(len(images), config.data.batch, config.run.seed).indices(round_) for round_ in range(rounds)]
    train(own, make_optimizers(own, config.optimizer.learning_rate), images.batch(range(len(images))), batches)
    torch.set_num_threads(before)
    for peer, network in zip(trainer.peers, own, strict=True):
        for name, value in peer.network.state_dict().items():
            torch.testing.assert_close(value, network.state_dict()[name], rtol=1e-4, atol=1e-6, msg=name)


def test_peers_step_without_an_exchange() -> None:
    """What comes back has the form of a round's consensus: a peer alone in its process makes a step of it."""
    config = load_of("mlp", 4, toy=True).config("none", 4)
    peer = Peer(config, 1, (1, 8, 8), 10, torch.device("cpu"))
    exchange = NoExchange()
    exchange.join(Hello((1,), 4, (16, 8), {}, {1: ()}, TargetSelection.of(config.consensus, 0)))
    outputs = peer.forward(torch.randn(16, 1, 8, 8, generator=torch.Generator().manual_seed(0)))
    consensus = exchange.publish(0, {1: outputs}, b"the same batch..").result()
    assert isinstance(consensus, Consensus)
    assert consensus.count == 4
    assert peer.step(consensus).skipped is None


def test_ray_stays_out(tmp_path: Path) -> None:
    """The benchmark runs on machines without Ray: nothing that it needs imports it."""
    modules = (
        "tests.benchmarks.step, tests.benchmarks.step_worker, peers.exchange.coordinated, coordinator.service.server"
    )
    program = f"import sys, {modules}; assert not [name for name in sys.modules if name.split('.')[0] == 'ray']"
    code, output = run([sys.executable, "-c", program], tmp_path, PYTHONPATH=str(ROOT))
    assert code == 0, output
