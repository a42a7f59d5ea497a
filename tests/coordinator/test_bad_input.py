"""Bad input, as users give it: one screen of text, an exit code, no traceback, nothing left half-written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml

from tests.commands import LAUNCH, TINY, WORKER, run, settings, torchrun

SCREEN = 24


def refused(command: tuple[str, ...], cwd: Path, *texts: str, code: int = 2) -> str:
    """Run a command that must fail, within a screen, without a traceback, leaving no run behind."""
    before = {path for path in cwd.rglob("*") if path.is_file()}
    found, output = run(command, cwd)
    assert found == code, output
    for text in texts:
        assert text in output
    assert "Traceback" not in output
    assert len(output.splitlines()) <= SCREEN, output
    assert {path for path in cwd.rglob("*") if path.is_file()} - before <= {cwd / "output.txt"}
    return output


def launch(cwd: Path, tree: dict[str, object], *sets: str) -> tuple[str, ...]:
    """The launch of a configuration."""
    (cwd / "config.yaml").write_text(yaml.safe_dump(tree))
    return (*LAUNCH, "config.yaml", *settings(*sets))


def test_every_problem_of_a_file_is_listed_at_once(tmp_path: Path) -> None:
    """Unknown key, wrong type, unknown name, NaN: each with path, value, what is allowed, and the nearest name."""
    tree = {
        "optimizer": {"lerning_rate": 0.1, "learning_rate": float("nan")},
        "group": {"peers": "four"},
        "consensus": {"loss": "cosin"},
        "datas": {},
    }
    output = refused(launch(tmp_path, tree), tmp_path, "config.yaml has 5 problems:")
    assert "optimizer.lerning_rate: unknown key (did you mean 'learning_rate'?)" in output
    assert "optimizer.learning_rate = nan: expected a finite number" in output
    assert "group.peers = 'four': expected a valid integer" in output
    assert (
        "consensus.loss = 'cosin': expected one of cosine, mse, standardized_mse, kl (did you mean 'cosine'?)" in output
    )
    assert "datas: unknown key (did you mean 'data'?)" in output


def test_a_missing_file_and_broken_yaml(tmp_path: Path) -> None:
    """Both name the file."""
    refused((*LAUNCH, "nowhere.yaml"), tmp_path, "cannot read the configuration nowhere.yaml")
    (tmp_path / "broken.yaml").write_text("run: [1, 2\n")
    refused((*LAUNCH, "broken.yaml"), tmp_path, "broken.yaml is not valid YAML")


def test_missing_data(tmp_path: Path) -> None:
    """The error says where it looked and how to turn the download on."""
    (tmp_path / "empty").mkdir()
    refused(
        launch(tmp_path, {"data": {"name": "cifar10", "root": "empty"}}), tmp_path, "empty", "data.download", "cifar10"
    )


def test_a_damaged_data_file(tmp_path: Path) -> None:
    """Damaged is not missing."""
    folder = tmp_path / "data" / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    for name in ("batches.meta", "test_batch", *(f"data_batch_{n}" for n in range(1, 6))):
        (folder / name).write_bytes(b"\x80\x04 cut off")
    refused(launch(tmp_path, {"data": {"name": "cifar10", "root": "data"}}), tmp_path, "damaged", "data")


def test_widths_that_do_not_agree(tmp_path: Path) -> None:
    """The error says which peers have which width."""
    tree = {"network": [{"name": "mlp", "width": 64}, {"name": "mlp", "width": 32}], "group": {"peers": 4}}
    output = refused(launch(tmp_path, tree), tmp_path)
    for word in ("0, 2", "64", "1, 3", "32"):
        assert word in output


def test_a_batch_larger_than_the_data(tmp_path: Path) -> None:
    """Both numbers are named."""
    refused(launch(tmp_path, {"data": {"batch": 5000}}), tmp_path, "data.batch", "5000", "1212")


def test_an_unwritable_output_folder(tmp_path: Path) -> None:
    """A file stands where the folder should be made."""
    (tmp_path / "file").write_text("")
    refused(launch(tmp_path, {}, *TINY, "run.out=file/runs"), tmp_path, "run.out = 'file/runs'", "cannot write")


def test_checkpoints_of_another_configuration_and_damaged_ones(tmp_path: Path) -> None:
    """The differing fields are listed; a flipped bit in the tensors is found by their digest. Nothing is changed."""
    command = launch(tmp_path, {"run": {"name": "r", "rounds": 3}, "group": {"peers": 2}}, *TINY)
    alone = (*WORKER, "--config", "config.yaml", *settings(*TINY))  # one process is enough to leave checkpoints
    assert run(alone, tmp_path)[0] == 0
    before = {path: path.read_bytes() for path in (tmp_path / "runs").rglob("*") if path.is_file()}
    refused(
        (*command, *settings("optimizer.learning_rate=0.5", "network.width=16"), "--resume", "auto"),
        tmp_path,
        "was made with another configuration",
        "network.width: 32 in the checkpoint, 16 now",
        "optimizer.learning_rate: 0.001 in the checkpoint, 0.5 now",
    )
    assert {path: path.read_bytes() for path in (tmp_path / "runs").rglob("*") if path.is_file()} == before
    path = next((tmp_path / "runs" / "r" / "checkpoints" / "peer-000").glob("*.safetensors"))
    data = np.fromfile(path, dtype=np.uint8)
    data[-5] ^= 1
    data.tofile(path)
    code, output = run((*alone, "--resume", "auto"), tmp_path)
    assert code == 2, output
    assert "is damaged" in output
    assert path.name in output
    assert "Traceback" not in output


def test_too_few_processes(tmp_path: Path) -> None:
    """The error says how many there must be, and which flag says so."""
    code, output = run((*torchrun(2), *settings(*TINY, "group.peers=4")), tmp_path)
    assert code != 0
    assert "needs 4 processes, and there are 2" in output
    assert "--nproc_per_node=4" in output
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("sets", "texts"),
    [
        (("run.rounds=3", "run.epochs=2.0"), ("run.rounds", "run.epochs")),
        (("probe.knn_k=100000",), ("probe.knn_k",)),
    ],
)
def test_combinations_that_make_no_run(sets: tuple[str, ...], texts: tuple[str, ...], tmp_path: Path) -> None:
    """Refused by the worker, before anything is written."""
    refused((*WORKER, *settings(*TINY, *sets)), tmp_path, *texts)
