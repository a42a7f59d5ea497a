"""A worker finds its place in torchrun's environment, and the peers that fall to it."""

from __future__ import annotations

import os
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from peers.common.errors import ConfigError
from peers.config.loading import parse
from peers.config.schema import Config
from peers.worker.placement import DEFAULT_PEERS, Placement, compute_threads, device_of, hosted, with_group


def group(**values: Any) -> Config:
    """A configuration with a group section."""
    return parse({"group": values})


def test_without_torchrun_a_worker_is_alone() -> None:
    """An environment without its variables is a world of one; other programs' LOCAL_RANK does not count."""
    assert Placement.of({}) == Placement(0, 1, 0, 1, 0)
    assert Placement.of({"LOCAL_RANK": "3", "PATH": "/bin"}) == Placement()


def test_torchruns_variables_are_read() -> None:
    """Rank, world, their counterparts on this host, and how often the group was started again."""
    environment = {
        "RANK": "5",
        "WORLD_SIZE": "8",
        "LOCAL_RANK": "1",
        "LOCAL_WORLD_SIZE": "4",
        "TORCHELASTIC_RESTART_COUNT": "2",
    }
    assert Placement.of(environment) == Placement(rank=5, world=8, local_rank=1, local_world=4, restarts=2)
    assert Placement.of({"RANK": "1", "WORLD_SIZE": "2"}) == Placement(1, 2, 1, 2, 0)


@pytest.mark.parametrize(
    ("environment", "found"),
    [
        ({"RANK": "1"}, "'WORLD_SIZE'"),
        ({"WORLD_SIZE": "2"}, "'RANK'"),
        ({"RANK": "one", "WORLD_SIZE": "2"}, "'one'"),
        ({"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": ""}, "''"),
    ],
)
def test_half_an_environment_is_refused(environment: dict[str, str], found: str) -> None:
    """Part of the variables, or one that is no number, is named with what to do; it is no world of one."""
    with pytest.raises(ConfigError, match="unset RANK and WORLD_SIZE") as caught:
        Placement.of(environment)
    assert found in str(caught.value)


def test_a_single_process_hosts_the_whole_group() -> None:
    """Alone, a worker hosts all peers whatever peers_per_worker says; by default there are four."""
    for config, peers in ((group(), DEFAULT_PEERS), (group(peers=7), 7), (group(peers=6, peers_per_worker=2), 6)):
        settled = with_group(config, Placement())
        assert (settled.group.peers, settled.group.peers_per_worker) == (peers, peers)
        assert hosted(settled, Placement()) == tuple(range(peers))


def test_under_torchrun_there_is_a_peer_for_each_place() -> None:
    """Without group.peers the processes decide: as many peers as they have room for."""
    assert with_group(group(), Placement(0, 3)).group.peers == 3
    assert with_group(group(peers_per_worker=2), Placement(2, 3)).group.peers == 6
    assert with_group(group(peers=5, peers_per_worker=2), Placement(0, 3)).group.peers == 5


@pytest.mark.parametrize(
    ("values", "world", "needed"),
    [({"peers": 4}, 2, 4), ({"peers": 4}, 8, 4), ({"peers": 5, "peers_per_worker": 2}, 2, 3), ({"peers": 2}, 3, 2)],
)
def test_too_few_and_too_many_processes_are_refused(values: dict[str, int], world: int, needed: int) -> None:
    """The text says how many processes the peers need, how many there are, and the flag to give."""
    with pytest.raises(ConfigError) as caught:
        with_group(group(**values), Placement(0, world))
    per_worker = values.get("peers_per_worker", 1)
    assert str(caught.value) == (
        f"group.peers = {values['peers']} with group.peers_per_worker = {per_worker} needs {needed} processes, and "
        f"there are {world}: start torchrun with --nproc_per_node={needed}, or set group.peers or "
        f"group.peers_per_worker"
    )


def test_several_processes_cannot_meet_in_one() -> None:
    """exchange.kind = inprocess is refused where there are several workers."""
    config = parse({"group": {"peers": 2}, "exchange": {"kind": "inprocess"}})
    with pytest.raises(ConfigError, match=r"exchange\.kind = 'inprocess'.*there are 2: use collective"):
        with_group(config, Placement(0, 2))


def test_settled_groups_are_checked_again() -> None:
    """What contradicts the number of peers is found once that number is known."""
    config = parse({"consensus": {"target": "neighbours", "k": 3}})
    assert with_group(config, Placement()).group.peers == 4
    with pytest.raises(ConfigError, match=r"consensus\.k = 3: a peer has only 1 others"):
        with_group(config, Placement(0, 2))


@settings(max_examples=60)
@given(peers=st.integers(2, 200), per_worker=st.integers(1, 20))
def test_every_peer_has_one_host(peers: int, per_worker: int) -> None:
    """The workers' peers, in rank order, are all peers once: peers_per_worker in a row, at the end maybe fewer."""
    world = -(-peers // per_worker)
    if world == 1:
        per_worker = peers
    config = with_group(group(peers=peers, peers_per_worker=per_worker), Placement(0, world))
    shares = [hosted(config, Placement(rank, world)) for rank in range(world)]
    assert [peer for share in shares for peer in share] == list(range(peers))
    assert {len(share) for share in shares[:-1]} <= {per_worker}
    assert 1 <= len(shares[-1]) <= per_worker


def test_device_follows_what_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """The CPU when asked for; auto takes the GPU of the local rank, if there is one; cuda without is refused."""
    chosen: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert device_of(parse({}), Placement()) == torch.device("cpu")
    with pytest.raises(ConfigError, match="device = 'cuda': no GPU is visible"):
        device_of(parse({"device": "cuda"}), Placement())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert device_of(parse({"device": "cpu"}), Placement()) == torch.device("cpu")
    assert chosen == []
    assert device_of(parse({}), Placement(3, 4, 1, 2)) == torch.device("cuda", 1)
    assert chosen == [torch.device("cuda", 1)]


def test_workers_do_not_share_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """More workers than GPUs on a host are refused, with the packing that would fit; on the CPU they may be many."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ConfigError, match=r"4 workers on this host and 2 GPUs.*group\.peers_per_worker = 2"):
        device_of(group(peers=4), Placement(0, 4, 0, 4))
    assert device_of(parse({"device": "cpu"}), Placement(0, 4, 0, 4)) == torch.device("cpu")


def test_cores_are_shared_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """As configured, or the host's cores divided by its peers, and never none."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3})
    assert [compute_threads(None, peers) for peers in (1, 2, 3, 4, 5, 100)] == [4, 2, 1, 1, 1, 1]
    assert compute_threads(3, 100) == 3


def test_a_coordinated_worker_keeps_its_packing() -> None:
    """Under a coordinator a worker is alone in its world, and still hosts no more than its own share."""
    settled = with_group(parse({"exchange": {"kind": "coordinator"}, "group": {"peers_per_worker": 2}}), Placement())
    assert (settled.group.peers, settled.group.peers_per_worker) == (DEFAULT_PEERS, 2)
