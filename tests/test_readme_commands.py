"""Commands of the READMEs, run as they stand in a copy of `deploy/`, but for a few rounds."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

import pytest

from tests.commands import BIN, Running, run, settings
from tests.conftest import Start
from tests.readme_commands import ROOT, all_lines, words

pytestmark = pytest.mark.process

SMALL = settings(
    "run.rounds=4",
    "group.peers=2",
    "probe.linear_steps=5",
    "probe.linear_l2=[0.01]",
    "probe.train_images=200",
    "metrics.tensorboard=false",
    "exchange.round_deadline=20",
)
PEER = "uv run python -m peers.worker --coordinator 127.0.0.1:7070 --config deploy/local.yaml"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a reader stands, with nothing in `runs` yet."""
    monkeypatch.delenv("PEERS_TOKEN", raising=False)
    shutil.copytree(ROOT / "deploy", tmp_path / "deploy")
    return tmp_path


def command(line: str, *more: str) -> list[str]:
    """A command of a README as an argument vector, with further arguments."""
    assert line in all_lines(), f"no README has: {line}"
    program, *arguments = words(line)
    return [sys.executable if program == "python" else str(BIN / program), *arguments, *more]


def test_a_run_and_its_replay(folder: Path) -> None:
    """README.md's first commands, in a reader's order: run, continued, replayed."""
    launch = "uv run coordinator launch deploy/local.yaml"
    results = {
        line: run(command(line, *more), folder)
        for line, more in {
            launch: SMALL,
            f"{launch} --resume auto": SMALL,
            "uv run coordinator replay runs/local": (),
        }.items()
    }
    assert {line: output for line, (code, output) in results.items() if code != 0} == {}
    table = results[launch][1]
    shown = (ROOT / "README.md").read_text().split("```text\n")[1].split("```")[0].splitlines()
    assert shown[0] == "run local: 4 peers in 4 workers, 100 rounds; everything goes to runs/local"
    assert "run local: 2 peers in 2 workers, 4 rounds; everything goes to runs/local" in table.splitlines()
    assert shown[2].split() in [line.split() for line in table.splitlines()]
    assert re.search(r"^accuracy in percent on the test split, .*; 4 rounds in .* collective exchange", table, re.M)
    assert (folder / "runs/local/summary.json").is_file()


def test_a_group_by_hand(folder: Path, start: Start) -> None:
    """coordinator/README.md's service: two workers with and without an id, status, stop."""
    sets = [*SMALL, *settings("run.rounds=100000")]

    def begin(name: str, line: str, *more: str) -> Running:
        arguments = [word.replace("127.0.0.1:7070", address) for word in command(line, *more)]
        return start(arguments, folder, name=name)

    address = "127.0.0.1:0"
    serve = begin(
        "serve", "uv run coordinator serve deploy/local.yaml --bind 127.0.0.1:7070", "--address-file", "address", *sets
    )
    serve.until(lambda: (folder / "address").is_file())
    address = (folder / "address").read_text().strip()
    workers = [begin("first", f"{PEER} --peer 0", *sets)]
    serve.until(lambda: "joins with peers [0]" in serve.output.read_text())  # or the second one may take its id
    workers.append(begin("second", PEER, *sets))
    status = begin("status", "uv run coordinator status 127.0.0.1:7070 --watch")
    status.until(lambda: "running" in status.output.read_text().lower())
    code, output = begin("stop", "uv run coordinator stop 127.0.0.1:7070").wait()
    assert code == 0, output
    for running in (*workers, serve, status):
        code, output = running.wait()
        assert code == 0, output
    assert "stopped by `coordinator stop`" in workers[0].output.read_text()


def test_recipes_without_a_clone(folder: Path) -> None:
    """README.md's commands of an installed package: the version, and a recipe to edit that launches."""
    shutil.rmtree(folder / "deploy")
    for line, text in {"coordinator --version": "coordinator ", "coordinator init local": "local.yaml"}.items():
        code, output = run(command(line), folder)
        assert code == 0, output
        assert text in output
    code, output = run(command("coordinator launch local", "--dry-run"), folder)
    assert code == 0, output
    assert (folder / "local.yaml").read_bytes() == (ROOT / "deploy/local.yaml").read_bytes()


def test_certificates_for_several_hosts(folder: Path) -> None:
    """coordinator/README.md's first step beyond loopback: the files that its text names."""
    code, output = run(command("uv run coordinator certs certs --host node1 --host 10.0.0.5"), folder)
    assert code == 0, output
    assert {"ca.pem", "peer.pem", "peer.key"} <= {path.name for path in (folder / "certs").iterdir()}
