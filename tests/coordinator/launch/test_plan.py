"""A plan says in full what will be started, before anything is."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.launch.plan import TRAVELLING, make_plan
from peers.common.errors import ConfigError
from peers.config.loading import load, parse
from peers.worker.placement import Placement, hosted, with_group


def test_text_for_a_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run, folder, launcher, exchange, each process with its peers, log and command, then the configuration."""
    for name in TRAVELLING:
        monkeypatch.delenv(name, raising=False)
    tree = {
        "run": {"name": "demo", "out": "results"},
        "group": {"peers": 5, "peers_per_worker": 2},
        "exchange": {"wire": "bf16"},
        "launcher": {"max_restarts": 1},
    }
    head, configuration = make_plan(parse(tree)).text().split("configuration\n")
    command = "    python -m peers.worker --config results/demo/config.yaml --resume auto"
    assert head.splitlines() == [
        "run       demo",
        "folder    results/demo",
        "launcher  local: processes of this machine, at most 1 restarts",
        "exchange  auto, bf16 on the wire",
        "meets at  a store in the launcher, localhost, a free port",
        "processes 3",
        "  worker 0: peers 0-1, log logs/worker-0.log",
        command,
        "  worker 1: peers 2-3, log logs/worker-1.log",
        command,
        "  worker 2: peers 4, log logs/worker-2.log",
        command,
        "environment",
        "files",
        "  results/demo/config.yaml  the configuration below",
        "  results/demo/metrics.jsonl  a record a line, while it runs",
        "  results/demo/checkpoints  each peer's own weights",
        "  results/demo/summary.json  the results, at the end",
    ]
    assert all(line.startswith("  ") for line in configuration.splitlines())
    assert parse(yaml.safe_load(configuration)) == make_plan(parse(tree)).config


def test_what_is_open_is_settled(tmp_path: Path) -> None:
    """Peers and name are in the plan's configuration, so that the workers and a later resume find the same run."""
    plan = make_plan(parse({"run": {"out": str(tmp_path), "seed": 2}, "consensus": {"target": "roles"}}))
    assert (plan.config.group.peers, plan.config.run.name) == (4, "digits-mlp-roles-4peers-seed2")
    assert plan.folder.path == tmp_path / "digits-mlp-roles-4peers-seed2"
    assert make_plan(plan.config) == plan
    assert plan.max_restarts == plan.config.launcher.max_restarts
    assert not plan.folder.path.exists()


def test_workers_read_the_saved_configuration(tmp_path: Path) -> None:
    """The commands name this interpreter and the configuration that `prepare` saves: the plan's, unchanged."""
    plan = make_plan(parse({"run": {"out": str(tmp_path)}}))
    plan.folder.prepare(plan.config, "refuse")
    for process in plan.processes:
        command = list(process.command)
        assert command[:3] == [sys.executable, "-m", "peers.worker"]
        assert load(command[command.index("--config") + 1]) == plan.config
        assert command[-2:] == ["--resume", "auto"]


def test_one_process_for_an_exchange_in_process() -> None:
    """exchange.kind = inprocess packs all peers into one worker."""
    plan = make_plan(parse({"group": {"peers": 3}, "exchange": {"kind": "inprocess"}}))
    assert [process.peers for process in plan.processes] == [(0, 1, 2)]
    assert plan.config.group.peers_per_worker == 3


@settings(max_examples=40)
@given(peers=st.integers(2, 60), per_worker=st.integers(1, 70))
def test_plan_and_workers_agree_on_who_hosts_whom(peers: int, per_worker: int) -> None:
    """What the plan says of a process is what that worker finds out by itself from its place."""
    plan = make_plan(parse({"group": {"peers": peers, "peers_per_worker": per_worker}}))
    world = len(plan.processes)
    for rank, process in enumerate(plan.processes):
        place = Placement(rank, world, rank, world)
        assert hosted(with_group(plan.config, place), place) == process.peers
        assert (process.name, process.log) == (f"worker {rank}", f"logs/worker-{rank}.log")


def test_contradictions_with_the_settled_group_are_refused() -> None:
    """What becomes impossible once the number of peers is known is an error of the plan, not of its workers."""
    with pytest.raises(ConfigError, match=r"consensus\.k = 9: a peer has only 3 others"):
        make_plan(parse({"consensus": {"target": "neighbours", "k": 9}}))
