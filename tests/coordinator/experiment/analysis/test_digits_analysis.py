"""What a real group learns on digits, and that it is the group of the run's own summary that was looked at."""

from __future__ import annotations

import json
import logging
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from coordinator.experiment.analysis.run import analyse
from peers.config.loading import parse
from peers.config.schema import Config
from peers.data.batches import open_data
from peers.runs.run_folder import RunFolder
from peers.worker.placement import Placement, with_group
from peers.worker.process import StopSignal
from peers.worker.worker import work


@dataclass(frozen=True)
class Run:
    """A finished run and its analysis."""

    config: Config
    folder: RunFolder
    summary: dict[str, Any]
    analysis: dict[str, Any]


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Three peers, 60 rounds, in this process."""
    config = with_group(
        parse(
            {
                "run": {"name": "digits-seed0", "rounds": 60, "out": str(tmp_path_factory.mktemp("runs"))},
                "group": {"peers": 3, "threads": 1},
                "probe": {"every": 0, "linear_steps": 5, "train_images": 1000},
                "metrics": {"tensorboard": False, "every": 60},
                "checkpoint": {"snapshots": 3},
                "device": "cpu",
            }
        ),
        Placement(),
    )
    root, before = logging.getLogger(), list(logging.getLogger().handlers)
    assert work(config, Placement(), "refuse", StopSignal()) == 0
    for handler in [handler for handler in root.handlers if handler not in before]:
        root.removeHandler(handler)
        handler.close()
    folder = RunFolder.of(config)
    analysis = json.loads(analyse(config).read_bytes())
    return Run(config, folder, json.loads(folder.summary.read_bytes()), analysis)


def test_the_output_is_what_the_summary_has(digits: Run) -> None:
    """The last stage, and the mean over classes by their numbers, are the run's own k-NN before and after."""
    expected = [digits.summary[when]["knn"] for when in ("baseline", "final")]
    assert [knn[-1] for knn in digits.analysis["stages"]["knn"]] == pytest.approx(expected, rel=1e-5)
    labels = open_data(digits.config.data, 0, torch.device("cpu")).test.labels
    count = torch.bincount(labels).double()
    shares = [float((torch.tensor(knn).double() @ count) / len(labels)) for knn in digits.analysis["classes"]["knn"]]
    assert shares == pytest.approx(expected, abs=1e-2)


def test_peers_come_together(digits: Run) -> None:
    """They agree more and more, lie closer, and move away from where they began; their outputs lose rank."""
    found, course = digits.analysis, digits.analysis["course"]
    assert (found["rounds"], found["peers"], found["images"]) == ([0, 1, 8, 60], 3, 135)
    assert course["cka_initial"][0] == 1
    for name, sign in (
        ("disagreement", -1),
        ("alignment", -1),
        ("effective_rank", -1),
        ("cka_initial", -1),
        ("cka_peers", 1),
        ("uniformity", 1),
    ):
        steps = [later - earlier for earlier, later in zip(course[name], course[name][1:], strict=False)]
        assert all(sign * step > 0 for step in steps), (name, course[name])
    assert course["cka_peers"][-1] > 0.6 > 0.4 > course["cka_peers"][0]


def test_what_is_learned_is_in_the_deep_layers(digits: Run) -> None:
    """The last layer gains most; attributes of the images explain more of it, all of them more than any group."""
    before, after = digits.analysis["stages"]["knn"]
    gains = [late - early for early, late in zip(before, after, strict=True)]
    assert gains[-1] == max(gains) > 4
    assert before == sorted(before, reverse=True)  # random layers lose what the pixels had
    names, explained = digits.analysis["content"]["names"], digits.analysis["content"]["explained"]
    assert names == ["luminance", "contrast", "edges", "all"]
    for row in explained:
        assert row[-1] > max(row[:-1]) - 0.03
    assert explained[1][-1] > explained[0][-1] + 0.1


def test_the_same_run_gives_the_same_bytes(digits: Run) -> None:
    """JSON and pictures alike."""
    paths = [digits.folder.path / "analysis.json", *sorted((digits.folder.path / "analysis").iterdir())]
    before = [path.read_bytes() for path in paths]
    analyse(digits.config)
    assert len(paths) == 4
    assert [path.read_bytes() for path in paths] == before


def test_without_snapshots_the_last_checkpoint_serves(digits: Run, tmp_path: Path) -> None:
    """The first and the last round are the same as with them."""
    config = digits.config.model_copy(update={"run": digits.config.run.model_copy(update={"out": str(tmp_path)})})
    shutil.copytree(digits.folder.path, RunFolder.of(config).path)
    shutil.rmtree(RunFolder.of(config).path / "snapshots")
    found = json.loads(analyse(config).read_bytes())
    assert found["rounds"] == [0, 60]
    assert {**found, "rounds": [], "course": {}, "spectrum": []} == {
        **digits.analysis, "rounds": [], "course": {}, "spectrum": [],
    }  # fmt: skip
    for name, values in digits.analysis["course"].items():
        assert found["course"][name] == [values[0], values[-1]]
