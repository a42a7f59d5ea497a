"""`coordinator replay` on runs of fixed groups: equal bit for bit, or the first thing that differs, by name."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from coordinator.cli import main
from coordinator.replay import Difference, replay
from tests.commands import LAUNCH, TINY, WORKER, rounds_recorded, run, settings
from tests.conftest import Start

PLAIN = ("run.name=run", "run.rounds=25", "checkpoint.every=10", "probe.linear=false", "probe.every=0")
RULES = ("group.peers=3", "exchange.wire=bf16", "selection.rule=unsupervised", "selection.every=6")


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three peers in one process, with a narrow wire and a choice of weights."""
    cwd = tmp_path_factory.mktemp("plain")
    code, output = run((*WORKER, *settings(*TINY, *PLAIN, *RULES)), cwd)
    assert code == 0, output
    return cwd / "runs" / "run"


@pytest.fixture
def copied(plain: Path, tmp_path: Path) -> Path:
    """That run, to be altered."""
    return Path(shutil.copytree(plain, tmp_path / "run", symlinks=True))


def test_a_run_in_one_process(plain: Path) -> None:
    """All receipts, and weights, buffers, optimizers and selections of all peers; nothing in the folder changes."""
    before = {path: path.read_bytes() for path in plain.rglob("*") if path.is_file()}
    threads, seen = torch.get_num_threads(), list[tuple[int, int]]()
    found = replay(plain, progress=lambda done, rounds: seen.append((done, rounds)))
    assert found.equal
    assert (found.rounds, found.voided, found.lives, found.receipts) == (25, 0, 3, 25)
    assert (found.checkpoints, found.peers, found.doubts) == (6, (0, 1, 2), ())
    assert seen == [(done, 25) for done in range(1, 26)]
    assert {path: path.read_bytes() for path in plain.rglob("*") if path.is_file()} == before
    assert torch.get_num_threads() == threads


def flip(path: Path, at: int, bit: int = 1) -> None:
    """Alter one bit of a file; `at` from the end."""
    data = bytearray(path.read_bytes())
    data[-at] ^= bit
    path.write_bytes(bytes(data))


def replaced(path: Path, old: str, new: str) -> None:
    """Alter a text once."""
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def test_one_bit_of_a_checkpoint(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 1: round, peer, tensor, place and both values with their bits, and that the digest does not fit."""
    flip(copied / "checkpoints" / "peer-001" / "round-00000025.safetensors", at=1)
    assert main(["replay", str(copied), "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert not found["equal"]
    (difference,) = found["differences"]
    assert (difference["round"], difference["peer"]) == (25, 1)
    assert difference["what"].startswith("selected.")
    assert ", one of 1 values that differ, of its checkpoint" in difference["what"]
    (expected, found_bits) = (difference[name].partition("(")[2] for name in ("expected", "found"))
    assert int(expected[:-1], 16) ^ int(found_bits[:-1], 16) in (1 << 24, 1 << 56)
    assert main(["replay", str(copied)]) == 1
    output = capsys.readouterr().out
    assert "1 differences, the first of them:\n  round 25, peer 1: selected." in output


def test_one_count_of_a_checkpoint(copied: Path) -> None:
    """What stands beside the tensors is compared, too."""
    replaced(copied / "checkpoints" / "peer-002" / "round-00000020.json", '"stepped": 20', '"stepped": 21')
    assert replay(copied).differences == (Difference(20, 2, "stepped of its checkpoint", "21", "20"),)


def test_one_letter_of_a_receipt(copied: Path) -> None:
    """The round is named, with the digest that was told and the one that was found; the weights agree all the same."""
    lines = (copied / "metrics.jsonl").read_text().splitlines()
    told = json.loads(next(line for line in lines if '"round": 7, "peer": 0' in line))["receipt"]
    replaced(copied / "metrics.jsonl", told, f"{told[:-1]}{int(told[-1], 16) ^ 1:x}")
    (difference,) = replay(copied).differences
    assert (difference.round, difference.found) == (7, told)
    assert difference.what == "the digest of the receipt of contributors 0, 1, 2"


def test_another_life(copied: Path) -> None:
    """One bit of a journal makes it another network: it differs from the first round on."""
    replaced(copied / "journal" / "peer-001.jsonl", '"incarnation": 0', '"incarnation": 1')
    found = replay(copied)
    assert found.differences[0].round == 0
    assert found.differences[0].what.startswith("the digest of the receipt")


@pytest.mark.parametrize(
    ("harm", "text"),
    [
        (lambda it: shutil.rmtree(it / "journal"), "has no journal of the peers [0, 1, 2]"),
        (lambda it: (it / "journal" / "peer-001.jsonl").unlink(), "has no journal of the peers [1]"),
        (lambda it: (it / "config.yaml").unlink(), "is not a run: it has no config.yaml"),
        (lambda it: flip(it / "journal" / "peer-001.jsonl", at=2), "line 2 of"),
        (lambda it: replaced(it / "journal" / "peer-001.jsonl", '"cpu"', '"Some GPU"'), "computed on Some GPU"),
        (lambda it: replaced(it / "config.yaml", "kind: auto", "kind: coordinator"), "journal.jsonl cannot be read"),
        (
            lambda it: replaced(it / "journal" / "peer-001.jsonl", '{"round": 0', '{"round": 24'),
            "peer 1 has a checkpoint of round 20, and no life in its journal was there",
        ),
    ],
)
def test_what_cannot_be_replayed(
    copied: Path, harm: Callable[[Path], object], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 2 and one reason: journals that are missing, damaged or incomplete, a GPU, no coordinator's journal."""
    harm(copied)
    assert main(["replay", str(copied)]) == 2
    assert text in capsys.readouterr().err


def test_another_version_is_a_doubt(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Bits may differ with another PyTorch: that is said, and compared all the same."""
    replaced(copied / "journal" / "peer-001.jsonl", f'"torch": "{torch.__version__}"', '"torch": "1.0"')
    assert main(["replay", str(copied)]) == 0
    output = capsys.readouterr().out
    assert f"note: PyTorch: 1.0 in the run, {torch.__version__} here: bits may differ" in output
    assert "equal: all receipts, and all weights" in output


def test_a_launched_group_that_was_killed_and_resumed(start: Start, tmp_path: Path) -> None:
    """Two workers over gloo, one of them killed: rounds between checkpoint and kill were done twice."""
    (tmp_path / "two.yaml").write_text("{}\n")
    flags = settings(*TINY, *PLAIN, "run.rounds=120", "group.peers=3", "group.peers_per_worker=2")
    running = start((*LAUNCH, "two.yaml", *flags))
    folder = tmp_path / "runs" / "run"
    running.until(lambda: rounds_recorded(folder) >= 25)
    running.workers()[0].kill()
    code, output = running.wait()
    assert code == 0, output
    found = replay(folder)
    assert found.differences == ()
    assert (found.rounds, found.lives, found.peers) == (120, 6, (0, 1, 2))
    assert found.receipts >= 120
