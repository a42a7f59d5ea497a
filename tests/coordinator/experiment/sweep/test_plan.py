"""A sweep is checked as a whole before any of its groups starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from coordinator.experiment.sweep import keys
from coordinator.experiment.sweep.asha import all_looks
from coordinator.experiment.sweep.plan import load
from peers.common.errors import ConfigError

ROOT = Path(__file__).parents[4]


def written(folder: Path, text: str) -> str:
    """Path of a file with this text."""
    path = folder / "sweep.yaml"
    path.write_text(text)
    return str(path)


def test_every_point_and_seed_is_a_run_of_its_own(tmp_path: Path) -> None:
    """Seed by seed; what a point varies reaches its configuration, what the file says reaches all."""
    text = """
sweep: {name: wide, seeds: [3, 4], space: {network.width: [16, 32], group.peers: [2, 8], run.rounds: [5]}}
network: [{name: mlp, depth: 2}, {name: convnet}]
optimizer: {learning_rate: 0.5}
"""
    sweep = load(written(tmp_path, text), ["optimizer.momentum=0.5"])
    assert [cell.name for cell in sweep.cells[:5]] == [*(f"p00{place} seed 3" for place in range(4)), "p000 seed 4"]
    assert sweep.first == sweep.cells[:4]
    assert (len(sweep.cells), sweep.folder) == (8, Path("runs/wide"))
    config = sweep.cells[-1].config
    assert [(network.name, network.width) for network in config.network] == [("mlp", 32), ("convnet", 32)]
    assert (config.group.peers, config.group.peers_per_worker, config.run.rounds, config.run.seed) == (8, 8, 5, 4)
    assert (config.optimizer.learning_rate, config.optimizer.momentum) == (0.5, 0.5)
    assert config.run.out == "runs/wide/cells"


@pytest.mark.parametrize(("text", "split"), [("", "validation"), ("probe: {split: test}", "test")])
def test_a_sweep_looks_at_test_images_only_where_its_file_says_so(text: str, split: str, tmp_path: Path) -> None:
    """Recipes are chosen on validation images."""
    sweep = load(written(tmp_path, f"sweep: {{space: {{data.batch: [32, 64]}}}}\n{text}\n"))
    assert {sweep.split, *(cell.config.probe.split for cell in sweep.cells)} == {split}


def test_asha_looks_by_itself_at_its_grace_and_its_multiples(tmp_path: Path) -> None:
    """Without `probe.every` the live k-NN is measured as often as the first look asks for."""
    text = "sweep: {method: asha, samples: 2, asha: {grace: 15}, space: {data.batch: [32, 64]}}\nrun: {rounds: 405}\n"
    sweep = load(written(tmp_path, text))
    assert {cell.config.probe.every for cell in sweep.cells} == {15}
    assert all_looks(sweep) == [15, 45, 135]


ASHA = "sweep: {method: asha, samples: 2, space: {data.batch: [32, 64]}}\n"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "sweep: {space: {optimizer.learning_rate: [1e-3, -1]}}",
            "point p001 (optimizer.learning_rate = -1), has 1 problem:\n  optimizer.learning_rate = -1: expected",
        ),
        ("sweep: {space: {network.width: [16, wide]}}", "point p001 (network.width = 'wide')"),
        ("sweep: {space: {consensus.loss: [cosin]}}", "expected one of cosine, mse, standardized_mse, kl (did you"),
        ("sweep: {space: {group.peers: [1]}}", "point p000 (group.peers = 1), has 1 problem:\n  group.peers = 1"),
        ("sweep: {space: {network.1.width: [8]}}", "network.1.width: network has 1 architecture, from 0 on"),
        ("sweep: {sampels: 3}", "sweep.sampels: unknown key (did you mean 'samples'?)"),
        ("sweep: {method: random, samples: 0}", "sweep.samples = 0: "),
        ("sweep: {method: best}", "sweep.method = 'best': expected one of grid, random, asha"),
        ("sweep: {space: {}}\nnetwork: {width: -1}", "network.width = -1"),
        ("sweep: {space: {data.batch: [32]}}\nprobe: {linear: false}", "sweep.metric = 'linear': probe.linear is"),
        (f"{ASHA}probe: {{every: 0}}", "probe.every = 0: ASHA looks at the live k-NN"),
        (f"{ASHA}probe: {{every: 3}}", "probe.every = 3: must divide sweep.asha.grace = 20"),
        (f"{ASHA}run: {{rounds: 20}}", "sweep.asha.grace = 20: the first look must come before the end, run.rou"),
        (f"{ASHA}run: {{epochs: 2}}", "run.epochs = 2.0: ASHA counts in rounds; give run.rounds"),
        (f"{ASHA}launcher: {{ray: {{address: 'ray://head:10001'}}}}", "'ray://head:10001': groups run where laun"),
        ("sweep: {asha: {factor: 1}}", "sweep.asha.factor = 1: "),
    ],
)  # fmt: skip
def test_what_makes_no_sweep_is_refused(text: str, words: str, tmp_path: Path) -> None:
    """Before anything runs: the point, the field, its value and what was expected."""
    with pytest.raises(ConfigError) as caught:
        load(written(tmp_path, text))
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("key", "tree", "expected"),
    [
        ("network.width", {}, {"network": {"width": 1}}),
        ("network.width", {"network": None, "a": 2}, {"network": {"width": 1}, "a": 2}),
        ("network.width", {"network": {"depth": 2}}, {"network": {"depth": 2, "width": 1}}),
        ("network.width", {"network": [{"width": 2}, {}]}, {"network": [{"width": 1}, {"width": 1}]}),
        ("network.1.width", {"network": [{"width": 2}, {}]}, {"network": [{"width": 2}, {"width": 1}]}),
        ("network.0.width", {"network": {"width": 2}}, {"network": [{"width": 1}]}),
        ("device", {"data": {}}, {"data": {}, "device": 1}),
    ],
)
def test_a_key_is_set_where_the_file_has_it(key: str, tree: dict[str, object], expected: dict[str, object]) -> None:
    """In one architecture, in all of a list, or in one of them; the tree itself stays as it is."""
    before = repr(tree)
    assert keys.placed(tree, key, 1) == expected
    assert repr(tree) == before


@pytest.mark.parametrize("name", ["sweep_learning_rate", "peers_scaling", "sweep_asha"])
def test_the_sweeps_that_come_with_the_project_can_be_run(name: str) -> None:
    """Each of their points makes a run; only those that nothing is chosen from look at test images."""
    sweep = load(str(ROOT / "deploy" / "experiments" / f"{name}.yaml"))
    assert len(sweep.cells) == len(sweep.points) * 5
    assert sweep.split == ("validation" if name == "sweep_asha" else "test")
