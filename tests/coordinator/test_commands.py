"""`coordinator serve`, `status`, `stop` and `certs`, as an operator runs them: real processes, text, exit codes."""

from __future__ import annotations

import json
import re
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coordinator.certificates import make_certs
from coordinator.service.from_config import settings_of
from peers.common.hosts import WILDCARDS, own_address
from peers.config import loading as configfile
from peers.transport.access import Access
from peers.transport.client import StreamClient
from peers.transport.replies import RefusedError
from peers.transport.values import Missed, PeerWish, RunEnded, WorkerInfo
from tests.commands import BIN, TINY, WORKER, Running, rounds_recorded, run, settings
from tests.conftest import Start
from tests.coordinator.service.processes import together, until

SCREEN = 24
COORDINATOR = str(BIN / "coordinator")
TOKEN = "the group's own secret, 0123456789"  # noqa: S105  # of these tests alone
WRONG_TOKEN = "not the secret of this group"  # noqa: S105  # of these tests alone
BATCH = b"b" * 16
RUN = ("run.name=run", "group.peers=2", "run.rounds=3")
SMALL = (*RUN, "data.batch=4", "network.width=8")
"""A run whose outputs are [4, 8], for peers that are played by the test."""


@pytest.fixture(autouse=True)
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty configuration where the commands run, and no token but the one that a test gives."""
    monkeypatch.delenv("PEERS_TOKEN", raising=False)
    (tmp_path / "config.yaml").write_text("{}\n")


def serve(start: Start, cwd: Path, *arguments: str, name: str = "serve", sets: Sequence[str] = RUN) -> Running:
    """A coordinator that listens; its address is in the file `address`."""
    command = (COORDINATOR, "serve", "config.yaml", *settings(*sets), "--address-file", "address", *arguments)
    running = start(command, cwd, name=name)
    running.until(lambda: (cwd / "address").is_file())
    return running


def address(cwd: Path) -> str:
    """Where to reach the coordinator from this host, whatever others are told."""
    host, _, port = (cwd / "address").read_text().rpartition(":")
    assert host not in WILDCARDS
    assert int(port) > 0
    return f"127.0.0.1:{port}"


def command(cwd: Path, *arguments: str, code: int = 0) -> str:
    """Run a `coordinator` command to its end; its output."""
    found, output = run((COORDINATOR, *arguments), cwd)
    assert found == code, output
    assert TOKEN not in output
    assert WRONG_TOKEN not in output
    return output


def on_a_screen(output: str, *texts: str) -> None:
    """An error for its reader: these words, within a screen, without a traceback."""
    for text in texts:
        assert text in output
    assert "Traceback" not in output
    assert len(output.splitlines()) <= SCREEN, output


def refused(cwd: Path, *texts: str, sets: Sequence[str] = RUN, flags: Sequence[str] = ()) -> str:
    """A `serve` that must not start: exit 2, one screen, no address file."""
    flags = (*settings(*sets), *flags, "--address-file", "refused-address")
    output = command(cwd, "serve", "config.yaml", *flags, code=2)
    on_a_screen(output, "error: ", *texts)
    assert not (cwd / "refused-address").exists()
    return output


def lines(log: str) -> list[dict[str, Any]]:
    """A log of JSON, all of it; each line says when (UTC), how grave, who and what."""
    parsed: list[dict[str, Any]] = [json.loads(line) for line in log.splitlines()]
    for line in parsed:
        at = datetime.fromisoformat(line["time"])
        assert at.utcoffset() == timedelta(0)
        assert abs(datetime.now(UTC) - at) < timedelta(minutes=5)
        assert line["level"] in ("DEBUG", "INFO", "WARNING", "ERROR")
        assert isinstance(line["logger"], str)
        assert line["message"]
        assert line["run"] in ("run", "other")
    return parsed


def one(log: list[dict[str, Any]], words: str) -> dict[str, Any]:
    """The fields of the one line whose message matches."""
    (found,) = [line for line in log if re.search(words, line["message"])]
    return {name: found[name] for name in ("run", "round", "peers", "worker", "code") if name in found}


def assert_nowhere(cwd: Path, *secrets: str) -> None:
    """No file but the token files holds a secret: no output, no log, no store, no saved configuration."""
    files = [path for path in cwd.rglob("*") if path.is_file() and not path.name.startswith("token")]
    assert len(files) > 1
    for path in files:
        for secret in secrets:
            assert secret.encode() not in path.read_bytes(), path


class Played:
    """A worker that the test plays, with one peer whose outputs are [4, 8]."""

    def __init__(self, cwd: Path, peer: int) -> None:
        agreed = settings_of(configfile.load(str(cwd / "config.yaml"), list(SMALL))).agreed
        self.peer = peer
        self.info = WorkerInfo("run", (PeerWish(peer),), (4, 8), agreed=agreed, name=f"node{peer}")
        self.client = StreamClient(Access(address(cwd), token=TOKEN))

    def join(self) -> None:
        self.client.join(self.info)

    def publish(self, round_: int, value: float = 1.0) -> None:
        self.client.publish(round_, {self.peer: np.full((4, 8), value, np.float32)}, BATCH)

    @property
    def bearer(self) -> str:
        return self.client._ticket.bearer

    def close(self) -> None:
        self.client.close()


@contextmanager
def pair(cwd: Path) -> Iterator[tuple[Played, Played]]:
    """Two members."""
    with closing(Played(cwd, 0)) as zero, closing(Played(cwd, 1)) as one:
        together(zero.join, one.join)
        yield zero, one


# serve


def test_serving_needs_no_torch_and_keeps_its_state_in_the_runs_folder(start: Start, tmp_path: Path) -> None:
    """From the first import to SIGTERM, which ends it with 0, torch stays out; the address is the one it listens on."""
    code = (
        "import sys; from coordinator.cli import main; code = main(); sys.exit('torch' in sys.modules and 99 or code)"
    )
    flags = ("serve", "config.yaml", *settings(*RUN), "--bind", "127.0.0.1:0", "--address-file", "address")
    running = start((sys.executable, "-c", code, *flags), tmp_path, name="serve")
    running.until((tmp_path / "address").is_file)
    assert json.loads(command(tmp_path, "status", address(tmp_path), "--json"))["run_id"] == "run"
    running.process.terminate()
    found, output = running.wait()
    assert found == 0, output
    assert f"INFO coordinator: coordinator of run run listens on {address(tmp_path)}" in output
    assert (tmp_path / "runs" / "run" / "coordinator" / "coordinator.sqlite").is_file()


def test_configurations_that_no_coordinator_can_serve(tmp_path: Path) -> None:
    """Epochs, and networks whose outputs cannot be added: refused before anything is written."""
    refused(tmp_path, "run.epochs = 2.0", "give run.rounds", sets=("run.name=run", "run.epochs=2.0"))
    widths = ("run.name=run", "network=[{name: mlp, width: 64}, {name: mlp, width: 32}]")
    refused(tmp_path, "64", "32", "width", sets=widths)
    assert not (tmp_path / "runs").exists()


def test_a_state_folder_of_another_run_is_left_alone(start: Start, tmp_path: Path) -> None:
    """In use, or of another run: refused with the folder's name, and what to do."""
    running = serve(start, tmp_path, "--state", "state")
    refused(tmp_path, "state folder state is in use by another coordinator", flags=("--state", "state"))
    running.process.terminate()
    assert running.wait()[0] == 0
    before = (tmp_path / "state" / "coordinator.sqlite").read_bytes()
    other = ("run.name=other", "group.peers=2", "run.rounds=3")
    texts = ("state folder state belongs to another run", "run_id is run, expected other", "--state")
    refused(tmp_path, *texts, sets=other, flags=("--state", "state"))
    as_json = ("serve", "config.yaml", *settings(*other), "--state", "state", "--log-json")
    assert "belongs to another run" in lines(command(tmp_path, *as_json, code=2))[-1]["message"]
    assert (tmp_path / "state" / "coordinator.sqlite").read_bytes() == before


def test_beyond_loopback_each_missing_part_is_named(start: Start, tmp_path: Path) -> None:
    """Without certificates, without a token, without both: refused by name; `security.insecure` allows it."""
    (tmp_path / "token").write_text(TOKEN)
    certs, token, bind = "security.certs=certs", "security.token_file=token", ("--bind", "0.0.0.0:0")
    tls, secret = r"tls \(security.certs\)", r"token \(security.token_file, or PEERS_TOKEN\)"
    for sets, missing in (((), f"{tls} and {secret}"), ((token,), tls), ((certs,), secret)):
        output = refused(tmp_path, "0.0.0.0:0, which others can reach", sets=(*RUN, *sets), flags=bind)
        assert re.search(f"without {missing}: set what is missing", output), output
    serve(start, tmp_path, *bind, sets=(*RUN, "security.insecure=true"))
    assert (tmp_path / "address").read_text().startswith(f"{own_address()}:")
    assert "run run: forming (0 of 2 peers have joined)" in command(tmp_path, "status", address(tmp_path))


# status and stop


def test_status_and_stop(start: Start, tmp_path: Path) -> None:
    """Status tells round, members and whose fault each wait was; watching it ends with the run, which stop ends."""
    running = serve(start, tmp_path, sets=SMALL)
    at = address(tmp_path)
    watch = start((COORDINATOR, "status", at, "--watch", "--json"), tmp_path, name="watch")
    watch.until(lambda: "FORMING" in watch.output.read_text())
    with pair(tmp_path) as (zero, one_):
        zero.publish(0)
        until(lambda: any(worker.published for worker in zero.client.status().workers), "peer 0 has published")
        one_.publish(0)
        together(lambda: zero.client.result(20), lambda: one_.client.result(20))
        status = json.loads(command(tmp_path, "status", at, "--json"))
        picture = run((COORDINATOR, "status", at), tmp_path, COLUMNS="160")[1]
        assert command(tmp_path, "stop", at, "--reason", "seen enough") == ""
        zero.publish(1)
        assert zero.client.result(20) == RunEnded("stopped: seen enough")
        together(zero.client.leave, one_.client.leave)
    workers = {worker["name"]: worker for worker in status["workers"]}
    assert workers["node1"]["waited_for"] > workers["node0"]["waited_for"] == 0
    assert {name: worker["peers"] for name, worker in workers.items()} == {"node0": [0], "node1": [1]}
    assert [(worker["state"], worker["rounds"]) for worker in status["workers"]] == [("member", "1")] * 2
    assert {"run_id": "run", "phase": "RUNNING", "round": "1", "rounds": "3", "closed": "1"}.items() <= status.items()
    for words in ("run run: running", "round 1 of 3, epoch 1; 1 closed, 0 void", "waited for", "node0", "node1"):
        assert words in picture
    found, seen = watch.wait()
    assert found == 0, seen
    assert json.loads(seen.splitlines()[-1])["text"] == "stopped: seen enough"
    assert running.wait()[0] == 0
    assert "the run has ended: stopped: seen enough" in running.output.read_text()


def test_interrupting_a_watch_is_no_error(start: Start, tmp_path: Path) -> None:
    """Ctrl-C ends it with 128 + SIGINT and not a word; the coordinator goes on."""
    serve(start, tmp_path)
    # A shell may have started these tests in the background, where SIGINT is ignored, and children inherit that.
    heard = "import os, signal, sys; signal.signal(2, signal.SIG_DFL); os.execv(sys.argv[1], sys.argv[1:])"
    command_ = (COORDINATOR, "status", address(tmp_path), "--watch", "--json")
    watch = start((sys.executable, "-c", heard, *command_), tmp_path, name="watch")
    watch.until(lambda: "FORMING" in watch.output.read_text())
    watch.process.send_signal(signal.SIGINT)
    found, output = watch.wait()
    assert found == 128 + signal.SIGINT, output
    assert "Traceback" not in output
    assert "FORMING" in command(tmp_path, "status", address(tmp_path), "--json")


def test_addresses_where_no_coordinator_is(start: Start, tmp_path: Path) -> None:
    """Nobody listens: exit 3. No address at all, or a port that there is not: exit 2. Both with what was expected."""
    cases = {
        "127.0.0.1:1": (3, "nothing answers at 127.0.0.1:1"),
        "nonsense": (2, "expected HOST:PORT"),
        "127.0.0.1:99999": (2, "expected HOST:PORT"),
    }
    started = [
        (start((COORDINATOR, verb, where), tmp_path, name=f"{verb}-{number}"), *cases[where])
        for verb in ("status", "stop")
        for number, where in enumerate(cases)
    ]
    for running, code, text in started:
        found, output = running.wait()
        assert found == code, output
        on_a_screen(output, "error: ", text)


# logs


def test_the_log_as_json_names_rounds_peers_and_codes_but_no_secret(start: Start, tmp_path: Path) -> None:
    """A join, a leave, a void round, a refused publication, a stranger and the end, each with its fields."""
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    (tmp_path / "token-wrong").write_text(WRONG_TOKEN)
    running = serve(start, tmp_path, "--log-json", sets=(*SMALL, "security.token_file=token"))
    with pair(tmp_path) as (zero, one_):
        zero.publish(0)
        # The stream and the call to leave are two ways: which arrives first would be a matter of luck.
        until(lambda: any(worker.published for worker in zero.client.status().workers), "peer 0 has published")
        one_.client.leave()
        assert isinstance(zero.client.result(20), Missed)
        zero.publish(1, float("nan"))
        with pytest.raises(RefusedError, match="NOT_FINITE"):
            zero.client.result(20)
        bearers = (zero.bearer, one_.bearer)
    text = "does not accept this token"
    on_a_screen(command(tmp_path, "status", address(tmp_path), "--token-file", "token-wrong", code=3), text)
    on_a_screen(command(tmp_path, "status", address(tmp_path), code=3), "asks for the group's token: --token-file FILE")
    command(tmp_path, "stop", address(tmp_path), "--token-file", "token", "--reason", "that is all")
    found, output = running.wait()
    assert found == 0, output
    log = lines(output)
    joined = one(log, r"\(node1\) joins with peers \[1\]")
    worker = joined.pop("worker")
    assert joined == {"run": "run", "round": 0, "peers": [1]}
    assert one(log, r"peers \[1\]: it left") == {"run": "run", "round": 1, "peers": [1], "worker": worker}
    assert one(log, "round 0 is void") == {"run": "run", "round": 0, "peers": [0, 1], "code": "VOID"}
    refusal = one(log, "publication of worker . refused")
    assert refusal == {"run": "run", "round": 1, "peers": [0], "worker": 3 - worker, "code": "NOT_FINITE"}
    for reason in ("wrong token", "no token"):
        assert one(log, f"refused: {reason}") == {"run": "run", "code": "UNAUTHENTICATED"}
    assert one(log, "the run has ended: stopped: that is all") == {"run": "run", "round": 1, "code": "ENDED"}
    assert_nowhere(tmp_path, TOKEN, WRONG_TOKEN, *bearers)


# certs, and everything that they are for


def test_a_secured_group_reaches_its_table_and_strangers_learn_why_not(start: Start, tmp_path: Path) -> None:
    """Mutual TLS and a token beyond loopback: two workers end with the table; those without the right secrets are
    refused with exit 3, each with its own reason, and no secret is written anywhere.
    """  # noqa: D205  # the claim has two sentences
    paths = command(tmp_path, "certs", "certs", "--host", "127.0.0.1").splitlines()
    assert sorted(paths) == sorted(str(path.relative_to(tmp_path)) for path in (tmp_path / "certs").iterdir())
    make_certs(tmp_path / "other", ["127.0.0.1"])
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    (tmp_path / "token-wrong").write_text(WRONG_TOKEN)
    certs, token = ("security.certs=certs", "security.mutual=true"), "security.token_file=token"
    coordinator = serve(start, tmp_path, "--bind", "0.0.0.0:0", "--log-json", sets=(*TINY, *RUN, *certs, token))
    at = address(tmp_path)

    def worker(name: str, peer: int, *sets: str) -> Running:
        flags = ("--config", "config.yaml", "--coordinator", at, "--peer", str(peer))
        return start((*WORKER, *flags, *settings(*TINY, *RUN, *sets)), tmp_path, name=name)

    members = [worker("zero", 0, *certs, token)]
    strangers = {
        "does not accept a worker without the group's token": worker("tokenless", 1, *certs),
        "does not accept this token": worker("wrong", 1, *certs, "security.token_file=token-wrong"),
        "is not one of the authority in other": worker("foreign", 1, "security.certs=other", certs[1], token),
        "speaks TLS: give its authority's certificate": worker("plain", 1, token),
    }
    secrets = ("--certs", "certs", "--mutual", "--token-file", "token")
    assert json.loads(command(tmp_path, "status", at, "--json", *secrets))["rounds"] == "3"
    on_a_screen(command(tmp_path, "status", at, "--token-file", "token", code=3), "speaks TLS")
    for text, stranger in strangers.items():
        found, output = stranger.wait()
        assert found == 3, output
        on_a_screen(output, text)
    members.append(worker("one", 1, *certs, token))
    outputs = []
    for running in (*members, coordinator):
        found, output = running.wait()
        assert found == 0, output
        outputs.append(output)
    (table,) = [output for output in outputs if "baseline" in output]
    assert re.search(r"k-NN +\d", table)
    assert rounds_recorded(tmp_path / "runs" / "run") == 3
    assert one(lines(outputs[-1]), "the run has ended") == {"run": "run", "round": 3, "code": "ENDED"}
    assert_nowhere(tmp_path, TOKEN, WRONG_TOKEN)
