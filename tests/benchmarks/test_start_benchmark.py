"""The benchmark of starting a group works, at its smallest size."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.timeout(600)
def test_it_measures_every_way_to_start_a_group(tmp_path: Path) -> None:
    """One pass, two workers against one: each has a time, and a row in the table."""
    command = [sys.executable, "-m", "tests.benchmarks.start", "--workers", "1", "2", "--passes", "1"]
    command += ["--out", str(tmp_path / "start.json")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr
    made = json.loads((tmp_path / "start.json").read_text())
    assert {len(values) for values in made["details"]["passes"].values()} == {1}
    assert [row[0] for row in made["tables"][0]["rows"]] == ["launch", "launch, coordinator", "torchrun"]
