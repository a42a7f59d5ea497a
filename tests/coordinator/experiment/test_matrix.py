"""An experiment is checked as a whole before any of its groups starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from coordinator.experiment.matrix import CONTROLS, load
from coordinator.experiment.runs import merged
from peers.common.errors import ConfigError
from peers.config.loading import identity


def written(folder: Path, text: str) -> str:
    """Path of a file with this text."""
    path = folder / "experiment.yaml"
    path.write_text(text)
    return str(path)


def test_arms_of_a_seed_differ_in_what_the_arm_says_alone(tmp_path: Path) -> None:
    """Without arms all controls are run; their identities are equal but for the keys of the arm."""
    experiment = load(written(tmp_path, "network: {width: 32}\noptimizer: {learning_rate: 0.01}\n"))
    assert [cell.name for cell in experiment.cells[:6]] == [*(f"{arm} seed 0" for arm in CONTROLS), "consensus seed 1"]
    assert len(experiment.cells) == len(CONTROLS) * 5
    facts = {cell.arm: identity(cell.config, 100) for cell in experiment.cells if cell.seed == 3}
    assert {value["network.width"] for value in facts.values()} == {32}
    for arm, changes in CONTROLS.items():
        differing = {key for key, value in facts[arm].items() if value != facts["consensus"][key]}
        assert differing == {f"consensus.{key}" for key in changes.get("consensus", {})}


def test_settings_reach_all_arms_and_the_experiment_itself(tmp_path: Path) -> None:
    """--set changes what the cells have in common, or the experiment; an arm's own value wins over the common one."""
    path = written(tmp_path, "experiment: {arms: {consensus: {}, wide: {network: {width: 128}}}}\n")
    experiment = load(path, ["network.width=16", "network.depth=2", "experiment.seeds=[7]", "experiment.name=other"])
    widths = {cell.arm: (cell.config.network[0].width, cell.config.network[0].depth) for cell in experiment.cells}
    assert widths == {"consensus": (16, 2), "wide": (128, 2)}
    assert {cell.seed for cell in experiment.cells} == {7}
    assert experiment.folder == Path("runs") / "other"
    config = experiment.cells[0].config
    assert (config.run.name, config.run.out) == ("consensus-seed7", "runs/other/cells")
    assert (config.exchange.kind, config.group.peers, config.group.threads) == ("inprocess", 4, 1)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "experiment: {claim: nothing}",
            "experiment.claim = 'nothing': expected one of the arms, consensus, independent",
        ),
        ("experiment: {seeds: [1, 1]}", "experiment.seeds = [1, 1]: a seed is given twice"),
        ("experiment: {seeds: []}", "experiment.seeds = (): "),
        ("experiment: {seed: [1]}", "experiment.seed: unknown key (did you mean 'seeds'?)"),
        ("experiment: {arms: {consensus: {}, odd: {consensus: {control: odd}}}}", "arm odd"),
        ("network: {width: -1}", "network.width = -1"),
        ("experiment: {recipes: none.csv}", "experiment.recipes = 'none.csv': there is no file "),
        ("experiment: {recipes: empty.csv}", "experiment.recipes = 'empty.csv': is empty; expected a line of column"),
        ("experiment: {analyse: [odd]}", "experiment.analyse names 'odd': expected arms, consensus, independent"),
        ("experiment: {supervised: true}\nlauncher: ray", "experiment.supervised = true: runs on this machine"),
        ("experiment: {analyse: [consensus]}\nlauncher: slurm", "experiment.analyse = ['consensus']: reads weights"),
        (
            "experiment: {supervised: true, claim: supervised, arms: {supervised: {}}}",
            "experiment.arms: 'supervised' is the name of the upper bound",
        ),
    ],
)
def test_what_makes_no_experiment_is_refused(text: str, words: str, tmp_path: Path) -> None:
    """The field, its value and what was expected, before anything runs; a problem of an arm names the arm."""
    (tmp_path / "empty.csv").touch()
    with pytest.raises(ConfigError) as caught:
        load(written(tmp_path, text))
    assert words in str(caught.value)


def test_merging_changes_neither_of_its_trees() -> None:
    """Sections are merged key by key; lists and values are replaced."""
    common, changes = {"a": {"b": 1, "c": [1, 2]}, "d": 1}, {"a": {"c": [3]}, "e": {"f": 2}}
    assert merged(common, changes) == {"a": {"b": 1, "c": [3]}, "d": 1, "e": {"f": 2}}
    assert common == {"a": {"b": 1, "c": [1, 2]}, "d": 1}


def test_the_claim_is_analysed_and_the_upper_bound_is_no_arm(tmp_path: Path) -> None:
    """Snapshots are kept for all arms alike; the supervised group has the configuration that all have in common."""
    path = written(tmp_path, "experiment: {supervised: true, seeds: [3], transfer: {name: digits}}")
    experiment = load(path)
    assert [cell.arm for cell in experiment.cells] == [*CONTROLS, "supervised"]
    assert [cell.arm for cell in experiment.cells if cell.analysed] == ["consensus"]
    assert [cell.arm for cell in experiment.cells if cell.supervised] == ["supervised"]
    assert "supervised" not in experiment.arms
    assert {cell.config.checkpoint.snapshots for cell in experiment.cells if not cell.supervised} == {6}
    assert load(path, ["checkpoint.snapshots=2"]).cells[0].config.checkpoint.snapshots == 2
    assert load(path, ["experiment.analyse=[]"]).cells[0].config.checkpoint.snapshots == 0
