"""`coordinator serve --upstream`, as an operator runs it: real processes, text, exit codes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from coordinator.certificates import make_certs
from coordinator.service.from_config import settings_of
from peers.config import loading as configfile
from peers.config.credentials import access
from peers.transport.client import StreamClient
from peers.transport.values import Consensus, PeerWish, RunEnded, WorkerInfo
from tests.commands import BIN, Running, run, settings
from tests.conftest import Start
from tests.coordinator.service.processes import together, until
from tests.coordinator.service.settled import BATCH

SCREEN = 24
COORDINATOR = str(BIN / "coordinator")
TOKEN = "the group's own secret, 0123456789"  # noqa: S105  # of these tests alone
SMALL = ("run.name=run", "group.peers=4", "run.rounds=3", "data.batch=4", "network.width=8")
"""A run whose outputs are [4, 8], for peers that are played by the test."""
IMPATIENT = ("exchange.heartbeat=0.2", "exchange.round_deadline=0.5", "exchange.join_window=1")


@pytest.fixture(autouse=True)
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty configuration where the commands run, and no token but the one that a test gives."""
    monkeypatch.delenv("PEERS_TOKEN", raising=False)
    (tmp_path / "config.yaml").write_text("{}\n")


def serve(start: Start, cwd: Path, name: str, *arguments: str, sets: Sequence[str] = SMALL) -> tuple[Running, str]:
    """A coordinator that listens, and its address."""
    file = cwd / f"{name}.address"
    command = (COORDINATOR, "serve", "config.yaml", *settings(*sets), "--address-file", str(file), *arguments)
    running = start(command, cwd, name=name)
    running.until(file.is_file)
    return running, file.read_text()


def refused(cwd: Path, code: int, text: str, *arguments: str, sets: Sequence[str] = SMALL) -> None:
    """A relay that must not start: this exit code, a screen of text, no state and no address file."""
    flags = (*settings(*sets), "--address-file", "refused-address", "--state", "refused-state")
    found, output = run((COORDINATOR, "serve", "config.yaml", *flags, *arguments), cwd)
    assert found == code, output
    assert text in output.partition("error: ")[2]
    assert "Traceback" not in output
    assert len(output.splitlines()) <= SCREEN, output
    assert not (cwd / "refused-address").exists()
    assert not (cwd / "refused-state").exists()


@pytest.mark.parametrize(
    ("arguments", "sets", "text"),
    [
        (("--upstream", "127.0.0.1:1"), (), "--upstream comes without --peers FIRST-LAST"),
        (("--peers", "0-1"), (), "--peers comes without --upstream ADDRESS"),
        (("--upstream", "nowhere", "--peers", "0-1"), (), "'nowhere': expected HOST:PORT"),
        (("--upstream", "127.0.0.1:99999", "--peers", "0-1"), (), "expected HOST:PORT"),
        (("--upstream", "127.0.0.1:1", "--peers", "1-0"), (), "--peers is '1-0': expected FIRST-LAST"),
        (("--upstream", "127.0.0.1:1", "--peers", "some"), (), "--peers is 'some': expected FIRST-LAST"),
        (("--upstream", "127.0.0.1:1", "--peers", "2-5"), (), "peers are 2 to 5, the group has 4"),
        (
            ("--upstream", "127.0.0.1:1", "--peers", "0-1"),
            ("consensus.target=median",),
            "rule is 'median': a relay adds outputs up",
        ),
        (("--upstream", "127.0.0.1:1", "--peers", "0-1"), ("consensus.target=roles",), "rule is 'roles': a relay"),
    ],
)
def test_what_makes_no_relay_is_refused(
    tmp_path: Path, arguments: Sequence[str], sets: Sequence[str], text: str
) -> None:
    """Flags that belong together, addresses, ids, rules that do not live on sums: exit 2, before anybody is asked."""
    refused(tmp_path, 2, text, *arguments, sets=(*SMALL, *sets))


def test_a_coordinator_above_that_is_not_there(tmp_path: Path) -> None:
    """Tried for the join window, then exit 3: what was tried, and why it failed."""
    text = "the coordinator cannot be reached: nothing answers at 127.0.0.1:1"
    refused(tmp_path, 3, text, "--upstream", "127.0.0.1:1", "--peers", "0-1", sets=(*SMALL, *IMPATIENT))


def test_a_coordinator_above_that_does_not_fit(start: Start, tmp_path: Path) -> None:
    """Another run, another token, or no time left for the relay's own peers: refused, with both values."""
    (tmp_path / "token").write_text(TOKEN)
    (tmp_path / "wrong").write_text("another group's secret, 0123456789")
    times = ("exchange.heartbeat=2", "exchange.round_deadline=3")
    secret = ("security.token_file=token",)
    _, address = serve(start, tmp_path, "root", sets=(*SMALL, *times, *secret))
    above = ("--upstream", address, "--peers", "0-1")
    refused(tmp_path, 3, "has run 'run' of 3 rounds", *above, sets=(*SMALL, "run.name=other", *secret))
    refused(tmp_path, 3, "does not accept this token", *above, sets=(*SMALL, "security.token_file=wrong"))
    refused(tmp_path, 3, "does not accept a worker without the group's token", *above)
    refused(tmp_path, 2, "a relay half of that for its own peers, 1.5 s", *above, sets=(*SMALL, *times, *secret))


def test_a_tree_with_certificates_and_a_token(start: Start, tmp_path: Path) -> None:
    """One folder of certificates and one token for all: both relays get in, three rounds close, all end with 0."""
    make_certs(tmp_path / "certs", ["127.0.0.1"])
    (tmp_path / "token").write_text(TOKEN)
    secrets = (f"security.certs={tmp_path / 'certs'}", "security.mutual=true", f"security.token_file={tmp_path}/token")
    sets = (*SMALL, *secrets)
    root, above = serve(start, tmp_path, "root", sets=sets)
    relays = [
        serve(start, tmp_path, f"relay{first}", "--upstream", above, "--peers", f"{first}-{first + 1}", sets=sets)
        for first in (0, 2)
    ]
    loaded = configfile.load(str(tmp_path / "config.yaml"), list(sets))
    agreed = {**settings_of(loaded).agreed, "data fingerprint": "the same"}

    def play(peer: int) -> list[float]:
        client = StreamClient(access(loaded, relays[peer // 2][1]))
        client.join(WorkerInfo("run", (PeerWish(peer),), (4, 8), agreed=agreed, insist=True))
        totals = []
        for round_ in range(3):
            client.publish(round_, {peer: np.full((4, 8), peer, np.float32)}, BATCH)
            result = client.result(30)
            assert isinstance(result, Consensus), result
            assert result.total is not None
            totals.append(float(result.total[0, 0]))
        client.publish(3, {peer: np.full((4, 8), peer, np.float32)}, BATCH)
        assert client.result(30) == RunEnded("complete")
        asked = ("status", relays[0][1], "--certs", "certs", "--mutual", "--token-file", "token")
        if peer == 0:
            code, output = run((COORDINATOR, *asked), tmp_path)
            assert code == 0, output
            assert f"a relay of {above}" in output.replace("\n", "")
            assert json.loads(run((COORDINATOR, *asked, "--json"), tmp_path)[1])["upstream"] == above
        client.leave()
        client.close()
        return totals

    assert together(*(lambda peer=peer: play(peer) for peer in range(4))) == [[6.0] * 3] * 4
    for running, _ in (*relays, (root, above)):
        until(lambda running=running: running.process.poll() is not None, "it ends by itself")
        code, output = running.wait()
        assert code == 0, output
        assert "coordinator stops: complete" in output
    assert (tmp_path / "runs" / "run" / "coordinator-2-3" / "coordinator.sqlite").is_file()
