"""Groups that span hosts: a cable is pulled, names lead astray, and the run ends all the same, or says why not."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.clusters.hosts import Host, hosts, why_not
from tests.commands import BIN, TINY, WORKER, Running, rounds_recorded, run, settings, summary, weights
from tests.conftest import Start

pytestmark = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))

COORDINATOR = str(BIN / "coordinator")
TOKEN = "the group's own secret, 0123456789"  # noqa: S105  # of these tests alone
ROUNDS, PAUSE = 600, 0.04
"""The slowest peer takes so many seconds for a round: the run outlasts what happens to the others."""
SLOW = (
    "import sys, time; from peers.exchange.coordinated import CoordinatedExchange as Slow; publish = Slow.publish; "
    f"Slow.publish = lambda *given, **named: (time.sleep({PAUSE}), publish(*given, **named))[1]; "
    "from peers.worker.worker import main; sys.exit(main())"
)
"""A worker on a slow host."""
LOST = "(timed out|No route to host)"
"""What becomes of a connection through a cable that is pulled: it depends on whether the host's address was known."""


@pytest.fixture(scope="module")
def three() -> Iterator[list[Host]]:
    """Hosts hosta, hostb and hostc."""
    with hosts() as made:
        yield made


class SpreadGroup:
    """A coordinator on the first host, secured; its peers find it by that host's name.

    Args:
        start: starts commands, and reaps them when the test ends.
        cwd: the folder that the hosts share.
        host: where the coordinator runs.
    """

    def __init__(self, start: Start, cwd: Path, host: Host) -> None:
        self.start, self.cwd, self.host = start, cwd, host
        code, output = run((COORDINATOR, "certs", "certs", "--host", host.name), cwd)
        assert code == 0, output
        (cwd / "token").touch(0o600)
        (cwd / "token").write_text(TOKEN)
        (cwd / "config.yaml").write_text("{}\n")
        self.flags = settings(
            *TINY, "exchange.heartbeat=2", "exchange.round_deadline=4", "exchange.join_window=60",
            "exchange.shared_memory=false", "run.name=run", f"run.rounds={ROUNDS}", "group.peers=3", "probe.every=0",
            "security.certs=certs", "security.token_file=token",
        )  # fmt: skip
        command = (COORDINATOR, "serve", "config.yaml", *self.flags, "--bind", "0.0.0.0:0")
        advertise = settings(f"coordinator.advertise={host.name}")
        self.coordinator = start(host.command(*command, *advertise, "--address-file", "address"), cwd, name="serve")
        self.coordinator.until((cwd / "address").is_file)
        self.address = (cwd / "address").read_text()

    def worker(self, host: Host, peer: int, *program: str) -> Running:
        """Start a worker on a host."""
        program = program or WORKER
        flags = ("--config", "config.yaml", *self.flags, "--coordinator", self.address, "--peer", str(peer))
        return self.start(host.command(*program, *flags), self.cwd, name=f"worker-{peer}")

    def members(self) -> set[int]:
        """Ids of the peers that are members now, as `coordinator status` shows them."""
        secrets = ("--certs", "certs", "--token-file", "token")
        folder = self.cwd / "command"
        folder.mkdir(exist_ok=True)
        command = self.host.command("env", f"--chdir={self.cwd}", COORDINATOR, "status", self.address, "--json")
        code, output = run((*command, *secrets), folder)
        assert code == 0, output
        workers: list[dict[str, Any]] = json.loads(output)["workers"]
        return {peer for worker in workers if worker["state"] == "member" for peer in worker["peers"]}


def test_a_host_is_cut_off_and_comes_back(three: list[Host], start: Start, tmp_path: Path) -> None:
    """Its peer is expelled and the others go on; plugged in again it joins as a new incarnation; all end well."""
    hosta, hostb, hostc = three
    group = SpreadGroup(start, tmp_path, hosta)
    assert re.fullmatch(r"hosta:\d+", group.address)
    workers = [
        group.worker(hostb, 0), group.worker(hostb, 1, sys.executable, "-c", SLOW), group.worker(hostc, 2)
    ]  # fmt: skip
    folder = tmp_path / "runs" / "run"
    workers[0].until(lambda: rounds_recorded(folder) > 10)
    hostc.cut()
    try:
        workers[0].until(lambda: group.members() == {0, 1})
        at = rounds_recorded(folder)
        workers[0].until(lambda: rounds_recorded(folder) > at + 10)
    finally:
        hostc.restore()
    workers[2].until(lambda: "joining again" in workers[2].output.read_text())
    workers[0].until(lambda: group.members() == {0, 1, 2})
    for running in (*workers, group.coordinator):
        code, output = running.wait()
        assert code == 0, output
    reports = {report["peer"]: report for report in summary(folder)["per_peer"]}
    assert reports.keys() == {0, 1, 2}
    assert reports[2]["skips"]["expelled"] == 1
    assert reports[0]["stepped"] > reports[2]["stepped"]


def test_torchrun_on_two_hosts_whose_own_names_are_loopback(three: list[Host], start: Start, tmp_path: Path) -> None:
    """As on Debian: the group forms over gloo, and has the weights that one process gives."""
    _, hostb, hostc = three
    flags = settings(*TINY, "run.rounds=20", "group.peers=2", "group.threads=1")
    # By the name: torchrun looks up its host's own name to find out whether the store is its to open.
    rendezvous = ("--nnodes=2", "--nproc_per_node=1", "--rdzv-backend=c10d", f"--rdzv-endpoint={hostb.name}:29400")
    command = (str(BIN / "torchrun"), *rendezvous, "-m", "peers.worker", *flags, *settings("run.name=two"))
    agents = [start(host.command(*command), name=host.name) for host in (hostb, hostc)]
    code, output = run((*WORKER, *flags, *settings("run.name=one", "exchange.kind=inprocess")), tmp_path)
    assert code == 0, output
    outputs = []
    for agent in agents:
        code, output = agent.wait()
        assert code == 0, output
        outputs.append(output)
    assert sum(output.count("baseline    now") for output in outputs) == 1
    assert weights(tmp_path / "runs" / "two") == weights(tmp_path / "runs" / "one")


# what a worker says when it cannot reach the others


def test_names_and_cables_that_lead_nowhere(three: list[Host], start: Start, tmp_path: Path) -> None:
    """A coordinator's name that is loopback, a host that nobody reaches, a name that nobody knows: exit 3, in words."""
    _, hostb, hostc = three
    times = ("exchange.heartbeat=1", "exchange.round_deadline=2", "exchange.join_window=2")
    cases = {
        "hostb:7070": (hostb, "nothing answers at hostb:7070: hostb is 127.0.1.1: this machine itself"),
        "hosta:7070": (hostb, "nothing answers at hosta:7070: the connection was refused; start the coordinator there"),
        "10.99.0.1:7070": (hostc, f"nothing answers at 10.99.0.1:7070: {LOST}; look for a firewall"),
        "nowhere:7070": (hostb, "nowhere does not resolve: "),
    }
    hostc.cut()
    try:
        started = []
        for number, (address, (host, text)) in enumerate(cases.items()):
            command = (*WORKER, *settings(*TINY, *times, "group.peers=2"), "--coordinator", address)
            started.append((start(host.command(*command), name=f"worker-{number}"), text))
        for running, text in started:
            code, output = running.wait()
            assert code == 3, output
            assert re.search(f"the coordinator cannot be reached: {text}", output), output
            assert "Traceback" not in output
    finally:
        hostc.restore()


def test_a_coordinator_whose_name_leads_its_peers_astray_does_not_start(three: list[Host], tmp_path: Path) -> None:
    """Loopback to itself, unknown, or of an interface that is not there: exit 2; without a name it is its address."""
    hostb = three[1]
    (tmp_path / "config.yaml").write_text("{}\n")
    for value, text in {
        "coordinator.advertise=hostb": "coordinator.advertise = 'hostb' is 127.0.1.1",
        "coordinator.advertise=nowhere": "coordinator.advertise = 'nowhere' does not resolve",
        "exchange.interface=eth7": "exchange.interface = 'eth7' is not on this machine; it has eth0, lo",
    }.items():
        flags = settings(value, "security.insecure=true", "coordinator.bind=0.0.0.0:0")
        code, output = run(hostb.command(COORDINATOR, "serve", "config.yaml", *flags), tmp_path)
        assert code == 2, output
        assert text in output
    assert not (tmp_path / "runs").exists()


def test_a_group_that_does_not_form_says_where_it_would_have_met(
    three: list[Host], start: Start, tmp_path: Path
) -> None:
    """The other host is cut off, or has not started anything: exit 3, with MASTER_ADDR, MASTER_PORT and what to do."""
    _, hostb, hostc = three
    flags = settings(*TINY, "exchange.heartbeat=1", "exchange.round_deadline=2", "exchange.join_window=2")
    place = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1", "MASTER_PORT": "29401"}
    place["TORCHELASTIC_USE_AGENT_STORE"] = "True"
    hostc.cut()
    try:
        refused = start(hostb.command(*WORKER, *flags), name="refused", MASTER_ADDR="hosta", **place)
        cut = start(hostc.command(*WORKER, *flags), name="cut", MASTER_ADDR="hosta", **place)
        itself = start(hostb.command(*WORKER, *flags), name="itself", MASTER_ADDR="hostb", **place)
        for running, texts in {
            refused: ("hosta:29401", "and nothing listens there: look at"),
            cut: ("hosta:29401", f"{LOST}; look for a firewall"),
            itself: ("hostb:29401", "hostb is 127.0.1.1 here, this machine itself", "--local-addr"),
        }.items():
            code, output = running.wait()
            assert code == 3, output
            assert "the group did not form within 2 s (exchange.join_window)" in output
            for text in texts:
                assert re.search(text, output), output
    finally:
        hostc.restore()
