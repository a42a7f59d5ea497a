"""A group that learns below relays learns what a flat one does, bit for bit; its results are those of all."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.commands import BIN, TINY, Running, settings, summary, weights
from tests.conftest import Start

RUN = ("run.name=run", "run.rounds=20", "group.peers=4", "exchange.kind=coordinator", "probe.every=0")


class Group:
    """Coordinators and workers of one run in one folder, as an operator starts them."""

    def __init__(self, start: Start, cwd: Path) -> None:
        cwd.mkdir()
        (cwd / "config.yaml").write_text("{}\n")
        self._start, self.cwd = start, cwd
        self.all: list[Running] = []

    def serve(self, name: str, *arguments: str) -> str:
        """Start a coordinator; its address."""
        file = self.cwd / f"{name}.address"
        command = (str(BIN / "coordinator"), "serve", "config.yaml", *settings(*TINY, *RUN), *arguments)
        running = self._start((*command, "--address-file", str(file)), self.cwd, name=name)
        running.until(file.is_file)
        self.all.append(running)
        return file.read_text()

    def worker(self, address: str, peer: int) -> None:
        """Start a worker."""
        command = (sys.executable, "-m", "peers.worker", "--config", "config.yaml", *settings(*TINY, *RUN))
        flags = ("--coordinator", address, "--peer", str(peer))
        self.all.append(self._start((*command, *flags), self.cwd, name=f"worker-{peer}"))

    def results(self) -> dict[str, bytes]:
        """All end with 0, and the results are those of all four; their weights."""
        for running in self.all:
            code, output = running.wait()
            assert code == 0, output
        folder = self.cwd / "runs" / "run"
        assert [report["peer"] for report in summary(folder)["per_peer"]] == [0, 1, 2, 3]
        return weights(folder)


@pytest.mark.timeout(600)
def test_workers_below_relays_learn_the_same_weights(start: Start, tmp_path: Path) -> None:
    """Two relays with two workers each, against one coordinator with all four: twenty rounds, the same weights."""
    flat, tree = Group(start, tmp_path / "flat"), Group(start, tmp_path / "tree")
    address = flat.serve("coordinator")
    for peer in range(4):
        flat.worker(address, peer)
    expected = flat.results()
    root = tree.serve("root")
    for first in (0, 2):
        relay = tree.serve(f"relay-{first}", "--upstream", root, "--peers", f"{first}-{first + 1}")
        for peer in (first, first + 1):
            tree.worker(relay, peer)
    assert tree.results() == expected
