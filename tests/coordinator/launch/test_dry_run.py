"""`coordinator launch deploy/cluster.yaml --dry-run` for each launcher, word by word."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.commands import LAUNCH, run, settings

ROOT = Path(__file__).parents[3]
GOLDEN = ROOT / "tests" / "golden"
CASES = {
    "local": ("launcher.kind=local",),
    "local-collective": ("launcher.kind=local", "exchange.kind=collective"),
    "ray": ("launcher.kind=ray",),
    "ray-collective": (
        "launcher.kind=ray",
        "launcher.ray.address=ray://head:10001",
        "launcher.ray.runtime_env={pip: [torch]}",
        "exchange.kind=collective",
        "device=cuda",
    ),
    "slurm": ("launcher.kind=slurm",),
    "slurm-collective": (
        "launcher.kind=slurm",
        "exchange.kind=collective",
        "device=cuda",
        "launcher.slurm.nodes=2",
        "launcher.slurm.cpus_per_task=8",
        "launcher.slurm.memory=64G",
        "launcher.slurm.partition=gpu",
        "launcher.slurm.account=lab",
        "launcher.slurm.extra=['--constraint=a100']",
        "launcher.slurm.setup=['module load cuda']",
    ),
}


def printed(folder: Path, *sets: str) -> str:
    """What the command prints, with this machine's own paths taken out."""
    environment = {"PEERS_DATA": "", "PEERS_TOKEN": "a secret of the group, 0123456789"}
    shutil.copy(ROOT / "deploy" / "cluster.yaml", folder)
    code, output = run((*LAUNCH, "cluster.yaml", *settings(*sets), "--dry-run"), folder, **environment)
    assert code == 0, output
    return output.replace(sys.executable, "PYTHON").replace(str(folder), "FOLDER")


@pytest.mark.parametrize("case", CASES)
def test_a_dry_run_is_its_golden_text(case: str, tmp_path: Path) -> None:
    """Processes, addresses, environment, resources, files, job script and configuration; a secret is not shown.

    Where a change is meant: `UPDATE_GOLDEN=1 uv run pytest tests/coordinator/launch/test_dry_run.py`, then read it.
    """
    text, path = printed(tmp_path, *CASES[case]), GOLDEN / f"launch-{case}.txt"
    assert "a secret of the group" not in text
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_text(text)
    assert text == path.read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cluster.yaml", "output.txt"]


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
@pytest.mark.parametrize("case", [case for case in CASES if case.startswith("slurm")])
def test_a_job_script_is_clean_bash(case: str, tmp_path: Path) -> None:
    """Shellcheck finds nothing."""
    script = printed(tmp_path, *CASES[case]).split("job script\n")[1].split("configuration\n")[0]
    path = tmp_path / "job.sbatch"
    path.write_text("".join(line[2:] + "\n" for line in script.splitlines()))
    done = subprocess.run(["shellcheck", str(path)], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout
