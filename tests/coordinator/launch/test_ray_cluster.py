"""The Ray launcher before a cluster that loses actors and nodes: real ones, of Ray's own processes."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clusters.ray_nodes import RayNodes, of_launcher, ray_nodes
from tests.commands import BIN, LAUNCH, TINY, Running, rounds_recorded, run, settings, summary
from tests.conftest import Start

RUN = (
    *TINY[:-1],
    "run.name=run",
    "group.peers=4",
    "checkpoint.every=50",
    "probe.every=0",
    "launcher.ray.strategy=SPREAD",
)


@pytest.fixture(scope="module")
def cluster() -> Iterator[RayNodes]:
    """Three nodes of two CPUs each, the head among them."""
    with ray_nodes(2, 2, head=2) as cluster_nodes:
        yield cluster_nodes


@pytest.fixture
def nodes(cluster: RayNodes) -> RayNodes:
    """The cluster, with a new node for each that a test before has lost."""
    while len(cluster.nodes) < 2:
        cluster.add(2)
    return cluster


def launched(start: Start, cwd: Path, *flags: str) -> Running:
    """The launch of a run of four peers."""
    (cwd / "empty.yaml").write_text("")
    return start((*LAUNCH, "empty.yaml", *settings(*RUN, "launcher.kind=ray", *flags)))


@pytest.mark.timeout(600)
def test_a_killed_actor_and_a_lost_node_do_not_end_the_run(nodes: RayNodes, start: Start, tmp_path: Path) -> None:
    """Four peers on three nodes, one actor is killed, then a node is lost with all on it: the run ends with its table.

    What was lost comes back by itself, on another node, with its own weights, while the others go on.
    """
    folder = tmp_path / "runs" / "run"
    times = ("exchange.heartbeat=2", "exchange.round_deadline=10", "coordinator.min_peers=3", "run.rounds=1800")
    running = launched(start, tmp_path, f"launcher.ray.address={nodes.address}", "exchange.kind=coordinator", *times)
    running.until(lambda: rounds_recorded(folder) >= 100)
    assert "4 workers on 3 of the cluster's 3 nodes" in running.output.read_text()
    workers = [process for process in nodes.actors(folder) if of_launcher(process, "WorkerActor")]
    assert len(workers) == 4
    workers[0].kill()
    running.until(lambda: restarts(running) == 1)
    seen = rounds_recorded(folder)
    running.until(lambda: rounds_recorded(folder) >= seen + 50)
    nodes.lose(nodes.nodes[0])
    running.until(lambda: restarts(running) >= 2)
    check_end(running, folder, nodes, "coordinator")


def test_groups_of_an_experiment_run_on_a_cluster(nodes: RayNodes, tmp_path: Path) -> None:
    """Each is a launch on the cluster; two at a time, in the folder of the experiment, with the same end as here."""
    (tmp_path / "tiny.yaml").write_text(
        "experiment: {name: tiny, seeds: [0, 1], parallel: 2, arms: {consensus: {}}}\n"
        f"launcher: {{kind: ray, ray: {{address: '{nodes.address}'}}}}\ngroup: {{peers: 2}}\n"
    )
    flags = settings(*TINY, "run.rounds=20", "probe.every=0")
    code, output = run((str(BIN / "coordinator"), "experiment", "tiny.yaml", *flags), tmp_path)
    assert code == 0, output
    assert "2/2 groups: " in output
    for seed in (0, 1):
        log = tmp_path / "runs" / "tiny" / "cells" / f"consensus-seed{seed}" / "logs" / "launch.stderr"
        assert "on 1 of the cluster's 3 nodes" in log.read_text()


@pytest.mark.timeout(600)
def test_a_fixed_group_goes_back_to_its_checkpoints_when_a_node_is_lost(
    nodes: RayNodes, start: Start, tmp_path: Path
) -> None:
    """The group that torch.distributed holds together starts again as a whole, on the nodes that are left."""
    folder = tmp_path / "runs" / "run"
    running = launched(start, tmp_path, f"launcher.ray.address={nodes.address}", "run.rounds=600")
    running.until(lambda: rounds_recorded(folder) >= 100)
    nodes.lose(nodes.nodes[0])
    running.until(lambda: restarts(running) == 1)
    check_end(running, folder, nodes, "collective")


def test_a_lost_coordinator_comes_back_where_it_was(nodes: RayNodes, start: Start, tmp_path: Path) -> None:
    """Its actor is killed: started again on its node, address and state, and no peer is lost with it."""
    folder = tmp_path / "runs" / "run"
    where = (f"launcher.ray.address={nodes.address}", "exchange.kind=coordinator")
    # A busy machine may take longer than the default of 5 s to start an actor, and be told that it found nobody.
    running = launched(start, tmp_path, *where, "exchange.heartbeat=15", "run.rounds=600")
    running.until(lambda: rounds_recorded(folder) >= 100)
    (service,) = [process for process in nodes.actors(folder) if of_launcher(process, "CoordinatorActor")]
    service.kill()
    code, output = running.wait()
    assert code == 0, output
    assert "coordinator was lost" in output
    assert restarts(running) == 1
    assert [report["skips"] for report in summary(folder)["per_peer"]] == [{}] * 4
    assert nodes.left(folder) == []


def restarts(running: Running) -> int:
    """How many a launch has told of."""
    return len(re.findall(r"^restart \d of 3", running.output.read_text(), re.MULTILINE))


def check_end(running: Running, folder: Path, nodes: RayNodes, exchange: str) -> None:
    """Exit code 0, a table, all four peers with their own weights, no actor left."""
    code, output = running.wait(300)
    assert code == 0, output
    assert re.search(r"worker \d was lost", output)
    assert re.search(r"^k-NN .*^linear ", output, re.MULTILINE | re.DOTALL)
    result = summary(folder)
    assert result["exchange"] == exchange
    assert {report["peer"] for report in result["per_peer"]} == {0, 1, 2, 3}
    assert {report["incarnation"] for report in result["per_peer"]} == {0}, "who comes back has its own weights"
    assert nodes.left(folder) == []


def test_nodes_without_a_common_disk(start: Start, tmp_path: Path) -> None:
    """What a worker writes on a node of its own reaches the launcher: progress, logs, the results; not its weights."""
    if subprocess.run(["unshare", "--mount", "true"], check=False, capture_output=True).returncode:
        pytest.skip("mounts of its own need root: unshare --mount is not possible here")
    folder = tmp_path / "runs" / "run"
    (tmp_path / "runs").mkdir()
    with ray_nodes(head=1) as nodes:
        nodes.join_with_own_disk(tmp_path / "runs", cpus=1)
        flags = (f"launcher.ray.address={nodes.address}", "launcher.ray.strategy=STRICT_SPREAD", "group.peers=2")
        code, output = launched(start, tmp_path, *flags, "run.rounds=300").wait()
        assert code == 0, output
        assert "2 workers on 2 of the cluster's 2 nodes" in output
        assert re.search(r"^round 300/300 .*^k-NN .*^linear ", output, re.MULTILINE | re.DOTALL)
        assert nodes.left(folder) == []
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for peer in (0, 1):
        assert {record["round"] for record in records if record["peer"] == peer and "loss" in record} == set(range(300))
        assert f"hosts peers [{peer}]" in (folder / "logs" / f"worker-{peer}.stderr").read_text()
    assert len(list(folder.glob("checkpoints/peer-*/latest"))) == 1
    assert [path.name for path in folder.glob(".launcher-*")] == []


def test_a_cluster_without_room_says_what_it_has(nodes: RayNodes, tmp_path: Path) -> None:
    """More workers than fit: exit code 2 after the placement timeout, with what is asked for and what is there."""
    (tmp_path / "empty.yaml").write_text("")
    asked = ("launcher.kind=ray", f"launcher.ray.address={nodes.address}", "launcher.ray.placement_timeout=1")
    code, output = run((*LAUNCH, "empty.yaml", *settings(*RUN, *asked, "launcher.ray.cpus=2")), tmp_path)
    assert code == 2, output
    assert "4 workers of 2 CPUs and 0 GPUs each, SPREAD; it has 3 nodes with 6 CPUs" in output


def test_a_cluster_that_is_not_there(tmp_path: Path) -> None:
    """Exit code 2, the address, and what to do; without Ray itself: how to install it."""
    (tmp_path / "empty.yaml").write_text("")
    asked = ("launcher.kind=ray", "launcher.ray.address=127.0.0.1:1")
    code, output = run((*LAUNCH, "empty.yaml", *settings(*RUN, *asked)), tmp_path)
    assert code == 2, output
    assert "launcher.ray.address = '127.0.0.1:1': nothing answers at 127.0.0.1:1" in output
    (tmp_path / "ray.py").write_text("raise ImportError('no Ray here')\n")
    code, output = run((*LAUNCH, "empty.yaml", *settings(*RUN, *asked), "--overwrite"), tmp_path, PYTHONPATH=".")
    assert code == 2, output
    assert "pip install 'ray>=2.50'" in output
