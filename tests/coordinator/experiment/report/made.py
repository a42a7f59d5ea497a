"""Folders of an experiment and of sweeps, as the commands leave them, with results that were made up."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import image

from coordinator.experiment import matrix, results
from coordinator.experiment.runs import Cell, make_cell
from peers.config.loading import dump

ARMS = ("consensus", "independent", "shuffled")
SEEDS = (0, 1, 2, 3, 4)
PEERS = 2
ROUNDS = 60
GAINS = {
    # Each seed's gain: k-NN is a clear case; on the linear probe the shuffled target does as well as the consensus.
    "knn": {"consensus": (9.1, 8.2, 9.6, 8.8, 9.3), "independent": (0.0,) * 5, "shuffled": (3.2, 2.4, 3.9, 3.1, 2.9)},
    "linear": {
        "consensus": (12.1, 10.2, 13.6, 11.8, 12.3),
        "independent": (0.0,) * 5,
        "shuffled": (11.9, 10.9, 12.9, 12.1, 11.7),
    },
}
BEFORE = {"knn": (76.5, 77.1, 75.8, 76.9, 76.2), "linear": (70.1, 71.0, 69.8, 70.7, 72.3)}
PIXELS = {"knn": 98.2, "linear": 96.4}
FAILED = {
    "shuffled seed 5": "shuffled seed 5 ended with 4; the end of /srv/lab/runs/x/logs/worker-0.stderr:\n  diverged"
}
EXPERIMENT = """
experiment:
  name: made
  seeds: [0, 1, 2, 3, 4]
  analyse: [consensus]
  arms:
    consensus: {}
    independent: {consensus: {control: independent}}
    shuffled: {consensus: {control: shuffled}}
run: {rounds: 60}
group: {peers: 2}
optimizer: {schedule: cosine}
"""


def experiment(
    folder: Path, *, failed: Mapping[str, str] | None = None, metrics: bool = True, analysis: bool = True
) -> Path:
    """An experiment of three arms and five seeds; returns its folder, `folder`/made.

    Args:
        folder: where.
        failed: groups that did not end.
        metrics: whether groups have metrics.jsonl.
        analysis: whether the groups of the claim were analysed.
    """
    source = folder / "made.yaml"
    source.write_text(EXPERIMENT)
    asked = matrix.load(str(source), [f"experiment.out={folder}"])
    for cell in asked.cells:
        _cell(cell, metrics)
        if cell.analysed:
            _analysis(cell, written=analysis)
    found = results.collect(asked, failed or {})
    assert found is not None
    results.write(found, asked.folder)
    if not analysis:
        for cell in asked.cells:
            (cell.folder.path / "analysis.json").unlink(missing_ok=True)
    return asked.folder


def _cell(cell: Cell, metrics: bool) -> None:
    folder = cell.folder.path
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(dump(cell.config))
    place = SEEDS.index(cell.seed)
    baseline = {probe: BEFORE[probe][place] for probe in BEFORE}
    gain = {probe: GAINS[probe][cell.arm][place] for probe in GAINS}
    summary = {
        "seed": cell.seed,
        "rounds": ROUNDS,
        "seconds": 1.5,
        "split": "test",
        "selection": "last",
        "baseline": baseline,
        "final": {probe: baseline[probe] + gain[probe] for probe in baseline},
        "gain": gain,
        "pixels": PIXELS,
        "per_peer": [{"peer": peer, "skips": {}} for peer in range(PEERS)],
    }
    (folder / "summary.json").write_text(json.dumps(summary))
    if metrics:
        strength = {"consensus": 1.0, "independent": 0.0, "shuffled": 0.5}[cell.arm]
        _metrics(folder / "metrics.jsonl", cell.seed, strength, ROUNDS)


def _metrics(path: Path, seed: int, strength: float, rounds: int) -> None:
    draws = np.random.default_rng(seed)
    lines = []
    for round_ in range(0, rounds, 5):
        for peer in range(PEERS):
            left = math.exp(-round_ / 25) * strength + (1 - strength)
            noise = float(draws.normal(0, 0.02))
            record = {
                "round": round_,
                "peer": peer,
                "loss": 0.7 * left + noise,
                "disagreement": 0.7 * left + 0.5 * noise,
                "effective_rank": 44 - 24 * strength * (1 - math.exp(-round_ / 30)) + 20 * noise,
                "count": PEERS,
                "knn_live": 77 + 12 * strength * (1 - math.exp(-round_ / 15)) + 30 * noise,
                "skipped": None,
            }
            lines.append(json.dumps(record | ({"knn_live_baseline": 77 + 30 * noise} if round_ == 0 else {})))
    path.write_text("\n".join([*lines, '{"round": 60, "pe']))  # cut off, as by a crash


def _analysis(cell: Cell, *, written: bool) -> None:
    """What was looked at; or an empty file, for an experiment that counts a group as finished by it."""
    folder, draws = cell.folder.path, np.random.default_rng(cell.seed)
    described: dict[str, Any] = {}
    if written:
        (folder / "analysis").mkdir()
        for name in ("filters-before", "filters-after", "neighbours"):
            image.imsave(folder / "analysis" / f"{name}.png", draws.random((48, 96, 3)))
        described = {"schema": 1, "arm": cell.arm, "seed": cell.seed, "peers": PEERS, "split": "test", "images": 135}
        described |= _measured(draws) | _seen(draws)
        described["transfer"] = {
            "data": "mnist",
            "before": {"knn": 70.0, "linear": 65.0},
            "after": {"knn": 74.0 + cell.seed / 5, "linear": 72.0},
            "pixels": {"knn": 96.0, "linear": 92.0},
        }
    (folder / "analysis.json").write_text(json.dumps(described))


def _measured(draws: np.random.Generator) -> dict[str, Any]:
    """Course and spectrum."""

    def near(*values: float) -> list[float]:
        return _near(draws, values)

    return {
        "rounds": [0, 3, 10, 30, 60],
        "course": {
            "effective_rank": near(44, 42, 37, 30, 26),
            "disagreement": near(0.72, 0.55, 0.3, 0.1, 0.05),
            "cka_peers": [None, *near(0.5, 0.6, 0.75, 0.8)],
            "cka_initial": near(1.0, 0.97, 0.9, 0.8, 0.76),
            "alignment": near(1.4, 1.1, 0.6, 0.2, 0.1),
            "uniformity": near(-2.2, -2.1, -2.0, -1.9, -1.85),
        },
        "spectrum": [[math.exp(-place / fall) for place in range(64)] for fall in near(20, 19, 17, 14, 12)],
    }


def _seen(draws: np.random.Generator) -> dict[str, Any]:
    """What is inside of the networks before and after, and pictures of it."""
    labels = [int(label) for label in draws.integers(0, 10, 150)]
    digits = [str(label) for label in range(10)]
    attributes = ["luminance", "contrast", "edges 0° low", "edges 45° low", "edges 90° low", "edges 135° low"]

    def both(before: Sequence[float], after: Sequence[float], scale: float = 0.02) -> list[list[float]]:
        return [_near(draws, before, scale), _near(draws, after, scale)]

    def cloud(apart: float) -> list[list[float]]:
        centres = [(apart * math.cos(label), apart * math.sin(1.7 * label)) for label in labels]
        return [[x + float(draws.normal()), y + float(draws.normal())] for x, y in centres]

    return {
        "stages": {
            "names": ["pixels", *(f"layer {layer}" for layer in range(1, 6))],
            "knn": both([97, 93, 89, 85, 80, 76.6], [97, 94, 92, 90, 88, 85.6], 0.005),
        },
        "content": {
            "names": ["luminance", "contrast", "edges", "all"],
            "explained": both([0.11, 0.09, 0.42, 0.51], [0.05, 0.06, 0.5, 0.57]),
            "detail": {
                "names": attributes,
                "explained": both([0.11, 0.09, 0.12, 0.1, 0.09, 0.11], [0.05, 0.06, 0.17, 0.14, 0.12, 0.16]),
            },
        },
        "classes": {
            "names": digits,
            "knn": both([90, 70, 75, 72, 80, 74, 88, 79, 62, 70], [96, 80, 86, 82, 88, 84, 94, 88, 76, 80]),
        },
        "embedding": {"labels": labels, "before": cloud(1.5), "after": cloud(4)},
        "pictures": {
            "filters": ["analysis/filters-before.png", "analysis/filters-after.png"],
            "neighbours": "analysis/neighbours.png",
        },
    }


def _near(draws: np.random.Generator, values: Sequence[float], scale: float = 0.02) -> list[float]:
    return [value * (1 + float(draws.normal(0, scale))) for value in values]


def sweep(folder: Path, method: str = "grid", split: str = "validation") -> Path:
    """A sweep of two settings, three seeds; returns its folder, `folder`/METHOD. For asha, some points were stopped.

    The gain is highest at a learning rate of 0.003 and 8 peers, which is p006.
    """
    rates, peers = [1e-4, 1e-3, 3e-3, 3e-2], [2, 4, 8]
    points = [(rate, count) for rate in rates for count in peers]
    points.insert(6, points.pop(points.index((3e-3, 8))))
    home = folder / method
    listed, rows = [], []
    for place, (rate, count) in enumerate(points):
        state = "finished"
        if method == "asha":
            state = "stopped" if place % 3 == 1 else "failed" if place == 11 else "finished"
        name, values = f"p{place:03d}", {"optimizer.learning_rate": rate, "group.peers": count}
        why = {"stopped": "by ASHA at round 20", "failed": "out of memory in /srv/lab/run.py"}.get(state, "")
        listed.append({"name": name, "values": values, "state": state, "why": why})
        for seed in (100, 101, 102) if state == "finished" else (100,):
            tree = {"optimizer": {"learning_rate": rate}, "group": {"peers": count}, "probe": {"split": split}}
            cell = make_cell("made", tree, home / "cells", name, seed)
            cell.folder.path.mkdir(parents=True)
            (cell.folder.path / "config.yaml").write_text(dump(cell.config))
            far = abs(math.log10(rate / 3e-3))
            if method == "asha":
                _metrics(
                    cell.folder.path / "metrics.jsonl", seed, max(0.0, 1 - far / 2), 60 if state == "finished" else 20
                )
            for probe, scale in (("knn", 0.6), ("linear", 1.0)):
                gain = scale * (14 - 6 * far + 1.5 * math.log2(count) + 0.7 * math.sin(seed + place))
                scores: list[Any] = [70.0, 70 + gain, gain] if state == "finished" else ["", "", ""]
                rounds = 60 if state == "finished" else 20
                rows.append([name, seed, state, rate, count, probe, *scores, 95.0, rounds, 30.5, 0.05, 0])
    space = {"optimizer.learning_rate": {"values": rates}, "group.peers": {"values": peers}}
    about = {"name": method, "method": method, "split": split, "seeds": [100, 101, 102], "metric": "linear"}
    about |= {"schema": 1, "space": space, "points": listed, "versions": {"python": "3.11.7", "torch": "2.15.0"}}
    (home / "sweep.json").write_text(json.dumps(about))
    columns = ["point", "seed", "state", *space, "probe", "before", "after", "gain", "pixels", "rounds"]
    with (home / "results.csv").open("w", newline="") as file:
        csv.writer(file).writerows([[*columns, "effective_rank", "disagreement", "skips"], *rows])
    return home


def recipes(folder: Path) -> None:
    """A list of recipes that were not kept, in a folder."""
    (folder / "recipes.csv").write_text("recipe,k-NN gain,why\nmse loss,-4.2,collapsed\n<b>vgg</b>,1.5,unstable\n")
    (folder / "recipes.md").write_text("These were tried first.\n\nNone of them <held>.\n")
