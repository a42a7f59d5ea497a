"""A configuration's problems come back all at once, each with its path, its value and what is allowed."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peers.common.errors import ConfigError
from peers.config.loading import dump, load, parse
from peers.config.schema import Config


def problems(tree: dict[str, Any]) -> list[str]:
    """What is wrong with a tree, a line each."""
    with pytest.raises(ConfigError) as caught:
        parse(tree, source="it")
    head, *lines = str(caught.value).splitlines()
    assert head == f"it has {len(lines)} problem{'s' if len(lines) > 1 else ''}:"
    assert all(line.startswith("  ") for line in lines)
    return [line.strip() for line in lines]


def loaded(text: str, tmp_path: Path) -> Config:
    """The configuration in a YAML text."""
    path = tmp_path / "run.yaml"
    path.write_text(text, encoding="utf-8")
    return load(path)


def test_every_problem_is_in_one_error() -> None:
    """Unknown keys, wrong types, bounds, choices and items of lists are listed together, each by its path."""
    found = problems(
        {
            "run": {"seed": -1, "name": "a b", "rouds": 5},
            "data": {"name": "cifar11", "batch": "64", "validation": 1.5},
            "network": [{"depth": 0}, {"name": "rsnet18"}],
            "consensus": {"q": 0.5, "weight": 0, "control": None},
            "optimizer": {"learning_rate": float("nan")},
            "exchange": [1, 2],
            "probe": {"linear_l2": [0.1, "x"]},
            "optimiser": {},
            "device": "gpu",
        }
    )
    assert sorted(found) == sorted(
        [
            "run.seed = -1: expected greater than or equal to 0",
            "run.name = 'a b': expected letters, digits, '.', '_' and '-', beginning with a letter or digit",
            "run.rouds: unknown key (did you mean 'rounds'?); known here: name, seed, rounds, epochs, out",
            "data.name = 'cifar11': expected one of digits, cifar10, cifar100, mnist, fashion_mnist, svhn, stl10, "
            "image_folder, synthetic (did you mean 'cifar10'?)",
            "data.batch = '64': expected a valid integer",
            "data.validation = 1.5: expected less than 0.9",
            "network.0.depth = 0: expected greater than or equal to 1",
            "network.1.name = 'rsnet18': expected one of mlp, convnet, resnet18, resnet34, resnet50, vgg11, vgg11_bn, "
            "vgg13, vgg13_bn, vgg16, vgg16_bn, densenet121 (did you mean 'resnet18'?)",
            "consensus.q = 0.5: expected less than 0.5",
            "consensus.weight = 0: expected greater than 0",
            "consensus.control = None: expected one of none, independent, shuffled, noise (did you mean 'none'?)",
            "optimizer.learning_rate = nan: expected a finite number",
            "exchange = [1, 2]: expected a mapping of keys to values",
            "probe.linear_l2.1 = 'x': expected a valid number",
            f"optimiser: unknown key (did you mean 'optimizer'?); known here: {', '.join(Config.model_fields)}",
            "device = 'gpu': expected one of auto, cpu, cuda (did you mean 'cpu'?)",
        ]
    )


def test_a_single_network_is_named_as_it_was_written() -> None:
    """Who wrote a mapping sees `network.depth`, not the place in a list that was never written."""
    assert problems({"network": {"depht": 3}}) == [
        "network.depht: unknown key (did you mean 'depth'?); known here: name, depth, width, norm, init, small_images"
    ]
    assert problems({"network": {"width": 1.5}}) == ["network.width = 1.5: expected a valid integer"]


def test_a_network_given_by_name_alone_is_explained() -> None:
    """`network: mlp` is a likely slip: the text says that a mapping is expected, not a Python type."""
    (problem,) = problems({"network": "mlp"})
    assert "tuple" not in problem
    assert "mapping" in problem


def test_a_word_that_is_like_nothing_gets_no_suggestion() -> None:
    """Nearest names are offered only where one is near."""
    (problem,) = problems({"xyzzy": 1})
    assert "did you mean" not in problem
    assert problem.startswith("xyzzy: unknown key; known here: run, ")


@pytest.mark.parametrize(
    ("tree", "texts"),
    [
        ({"run": {"rounds": 5, "epochs": 1.0}}, ["run.rounds = 5 and run.epochs = 1.0: give one of them"]),
        ({"network": []}, ["network = []: give one architecture, or a list of them"]),
        ({"group": {"peers": 1}}, ["group.peers = 1: a lone peer has no consensus and would skip every round; use 2"]),
        (
            {"consensus": {"target": "neighbours", "k": 4}, "group": {"peers": 4}},
            ["consensus.k = 4: a peer has only 3 others (group.peers)"],
        ),
        (
            {"exchange": {"kind": "inprocess"}, "group": {"peers": 4, "peers_per_worker": 2}},
            ["exchange.kind = 'inprocess': one process hosts all peers; use collective for several workers"],
        ),
        (
            {"exchange": {"heartbeat": 60.0}},
            ["exchange: heartbeat 60.0 s, round_deadline 60.0 s and join_window 600.0"],
        ),
        ({"exchange": {"round_deadline": 601.0}}, ["expected heartbeat < round_deadline <= join_window"]),
        (
            {"optimizer": {"warmup": 20}, "run": {"rounds": 20}},
            ["optimizer.warmup = 20: must be shorter than run.rounds = 20"],
        ),
        ({"optimizer": {"warmup": 100}}, ["optimizer.warmup = 100: must be shorter than"]),
        (
            {"exchange": {"kind": "coordinator"}, "coordinator": {"min_peers": 5}, "group": {"peers": 4}},
            ["coordinator.min_peers = 5: more than group.peers = 4"],
        ),
        ({"security": {"mutual": True}}, ["security.mutual = true: needs security.certs"]),
        ({"data": {"name": "image_folder"}}, ["data.image_size: needed for image_folder"]),
        ({"data": {"name": "mnist", "image_size": 32}}, ["data.image_size = 32: only for image_folder and synthetic"]),
        ({"probe": {"linear_l2": [0.1, -0.1]}}, ["probe.linear_l2 = [0.1, -0.1]: expected strengths of 0 or more"]),
        (
            {"run": {"rounds": 5, "epochs": 1.0}, "group": {"peers": 1}, "network": [], "optimizer": {"warmup": 9}},
            ["give one of them", "network = []", "a lone peer", "optimizer.warmup = 9"],
        ),
    ],
)
def test_contradictions_are_refused(tree: dict[str, Any], texts: list[str]) -> None:
    """Values that are valid one by one but make no run together are refused, all of them at once."""
    found = problems(tree)
    assert len(found) == len(texts)
    for text in texts:
        assert any(text in problem for problem in found)


@pytest.mark.parametrize(
    "tree",
    [
        {"consensus": {"target": "neighbours", "k": 3}, "group": {"peers": 4}},
        {"exchange": {"kind": "inprocess"}, "group": {"peers": 4, "peers_per_worker": 4}},
        {"exchange": {"heartbeat": 1.0, "round_deadline": 600.0, "join_window": 600.0}},
        {"optimizer": {"warmup": 19}, "run": {"rounds": 20}},
        {"data": {"name": "image_folder", "image_size": 32}},
        {"probe": {"linear_l2": [0.0]}},
    ],
)
def test_the_edge_of_a_contradiction_is_allowed(tree: dict[str, Any]) -> None:
    """The last value before each contradiction passes."""
    assert isinstance(parse(tree), Config)


def test_numbers_in_scientific_notation_are_numbers(tmp_path: Path) -> None:
    """1e-3 is a number although YAML 1.1 asks for a dot; a quoted one is a text, and refused as such."""
    for text, value in (("1e-3", 1e-3), ("2E-2", 2e-2), ("1.5e-3", 1.5e-3), (".5e1", 5.0), ("+1e+0", 1.0), ("3", 3.0)):
        assert loaded(f"optimizer: {{learning_rate: {text}}}", tmp_path).optimizer.learning_rate == value
        assert load(None, [f"optimizer.learning_rate={text}"]).optimizer.learning_rate == value
    assert loaded("probe: {linear_l2: [1e-3, 1E1]}", tmp_path).probe.linear_l2 == (1e-3, 10.0)
    with pytest.raises(ConfigError, match=r"optimizer\.learning_rate = '1e-3': expected a valid number"):
        loaded('optimizer: {learning_rate: "1e-3"}', tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        "run: {seed: 1}\ndata: {}\nrun: {seed: 2}\n",
        "run:\n  seed: 1\n  name: x\n  seed: 1\n",
        "network: [{width: 1, width: 1}]",
    ],
)
def test_a_key_given_twice_is_refused(text: str, tmp_path: Path) -> None:
    """Plain YAML would let the last one win in silence; the text names the key and the place."""
    with pytest.raises(ConfigError, match=r"'(run|seed|width)' is given twice in the mapping at .*line \d"):
        loaded(text, tmp_path)


def test_merge_keys_and_anchors_work(tmp_path: Path) -> None:
    """YAML's own way to repeat a block is available, and what is merged may be overridden."""
    text = "network:\n  - &base {name: mlp, width: 8}\n  - {<<: *base, depth: 2}\n  - {<<: *base, width: 16}\n"
    networks = loaded(text, tmp_path).network
    assert [(network.width, network.depth) for network in networks] == [(8, 5), (8, 2), (16, 5)]


@pytest.mark.parametrize("text", ["", "# nothing but a comment\n", "{}"])
def test_an_empty_file_is_the_defaults(text: str, tmp_path: Path) -> None:
    """A file need not say anything."""
    assert loaded(text, tmp_path) == Config()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("run: [", "run.yaml is not valid YAML"),
        ("- run\n- data\n", "expected a mapping of sections, found a list"),
        ("just text", "expected a mapping of sections, found a str"),
        ("run: !!python/object:os.system {}", "is not valid YAML"),
        ("? [a, b]\n: 1\n", "run.yaml"),
    ],
)
def test_a_file_that_is_no_configuration_is_named(text: str, message: str, tmp_path: Path) -> None:
    """Whatever stands in the file, the error is ours and names it; nothing in it is executed."""
    with pytest.raises(ConfigError, match=message.replace(".", r"\.")):
        loaded(text, tmp_path)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    """A missing file, a folder, and bytes that are not UTF-8 are told apart from bad values."""
    (tmp_path / "latin.yaml").write_bytes("run: {name: caf\xe9}".encode("latin-1"))
    for path in (tmp_path / "none.yaml", tmp_path, tmp_path / "latin.yaml"):
        with pytest.raises(ConfigError, match="cannot read the configuration"):
            load(path)


def test_settings_change_single_values(tmp_path: Path) -> None:
    """`--set` goes over the file, value by value; later ones win; null asks for the default again."""
    path = tmp_path / "run.yaml"
    path.write_text("run: {seed: 3, name: x}\nnetwork: [{width: 8}, {width: 16}]\nprobe:\n")
    sets = [
        "run.seed=4",
        " run.seed =5",
        "run.name=null",
        "run.out=a=b",
        "network.1.width=32",
        "network.0.name=convnet",
        "probe.linear_l2=[1e-2, 1e-1]",
        "probe.linear_l2.1=5e-1",
        "data={batch: 16}",
        "data.validation=0.2",
        "device=cpu",
        "metrics.tensorboard=false",
    ]
    config = load(path, sets)
    assert (config.run.seed, config.run.name, config.run.out) == (5, None, "a=b")
    assert [(network.name, network.width) for network in config.network] == [("convnet", 8), ("mlp", 32)]
    assert config.probe.linear_l2 == (1e-2, 5e-1)
    assert (config.data.batch, config.data.validation, config.device) == (16, 0.2, "cpu")
    assert config.metrics.tensorboard is False


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        (["run.seed"], "--set run.seed: expected key.path=value, for example optimizer.learning_rate=1e-3"),
        (["=5"], "--set =5: expected key.path=value"),
        (["run..seed=5"], "--set run..seed=5: expected key.path=value"),
        (["run.seed=[1"], "--set run.seed=[1: '[1' is not a YAML value"),
        (["run.seed=1", "run.seed.x=1"], "--set run.seed.x=1: run.seed is a value, it has no 'x' in it"),
        (["network=[{}]", "network.1.width=8"], "--set network.1.width=8: network is a list of 1, not '1'"),
        (["network=[{}]", "network.x.width=8"], "--set network.x.width=8: network is a list of 1, not 'x'"),
        (["network=[{}]", "network.-1.width=8"], "--set network.-1.width=8: network is a list of 1, not '-1'"),
        (["run.sede=5"], "run.sede: unknown key (did you mean 'seed'?)"),
        (["run={seed: 1, seed: 2}"], "'seed' is given twice"),
        (["optimizer.learning_rate="], "optimizer.learning_rate = None: expected a valid number"),
    ],
)
def test_a_bad_setting_is_quoted(sets: list[str], message: str) -> None:
    """The error shows the setting as it was typed and what was expected."""
    with pytest.raises(ConfigError) as caught:
        load(None, sets)
    assert message in str(caught.value)


@settings(max_examples=150)
@given(
    sets=st.lists(
        st.text("run.seednetwork.0123=[]{}:, \u00b2\u0663-!&*", max_size=20)
        | st.sampled_from(["network=[{}]", "network.0.width=8", "run.seed=1", "probe=", "network=[]"]),
        max_size=4,
    )
)
def test_no_setting_gets_past_as_anything_but_an_error_of_ours(sets: list[str]) -> None:
    """Whatever is typed, it makes a configuration or a ConfigError, never another exception."""
    with contextlib.suppress(ConfigError):
        assert isinstance(load(None, sets), Config)


@pytest.mark.parametrize("text", ["01:30:00", "1:00:00", "90", "2-00"])
def test_a_time_limit_stays_what_was_written(tmp_path: Path, text: str) -> None:
    """YAML 1.1 reads 01:30:00 as 5400 in base 60: here it is the text that Slurm takes."""
    path = tmp_path / "config.yaml"
    path.write_text(f"launcher:\n  kind: slurm\n  slurm: {{time: {text}}}\n")
    assert load(path).launcher.slurm.time == text
    path.write_text(dump(load(path)))
    assert load(path).launcher.slurm.time == text


def test_a_launcher_may_be_its_name(tmp_path: Path) -> None:
    """`launcher: slurm` is short for `launcher: {kind: slurm}`."""
    path = tmp_path / "config.yaml"
    path.write_text("launcher: slurm\n")
    assert load(path) == load(sets=["launcher.kind=slurm"]) == load(sets=["launcher=slurm"])


@pytest.mark.parametrize(
    ("tree", "problem"),
    [
        (
            {"launcher": {"kind": "ray", "ray": {"gpus": 0.5}}},
            r"launcher\.ray\.gpus = 0\.5: NCCL refuses two ranks on one GPU; host several peers in a worker with "
            r"group\.peers_per_worker, or use exchange\.kind = 'coordinator'",
        ),
        (
            {"launcher": {"kind": "ray", "ray": {"gpus": 1}}, "device": "cpu"},
            r"launcher\.ray\.gpus = 1: device = 'cpu' uses none",
        ),
        (
            {"launcher": {"kind": "slurm", "slurm": {"gpus_per_node": 2}}, "device": "cpu"},
            r"launcher\.slurm\.gpus_per_node = 2: device = 'cpu' uses none",
        ),
        (
            {"launcher": {"kind": "slurm", "slurm": {"nodes": 2}}, "group": {"peers": 6, "peers_per_worker": 2}},
            r"launcher\.slurm\.nodes = 2: group\.peers = 6 with group\.peers_per_worker = 2 makes 3 workers, "
            r"which must fill the nodes evenly",
        ),
        (
            {"launcher": {"kind": "slurm", "slurm": {"tasks_per_node": 3}}, "group": {"peers": 4}},
            r"launcher\.slurm\.nodes = 1 and tasks_per_node = 3: .* makes 4 workers",
        ),
        (
            {"launcher": {"slurm": {"partition": "a\nb"}}},
            r"launcher\.slurm\.partition = 'a\\nb': expected text of one line",
        ),
        (
            {"launcher": "slrm"},
            r"launcher\.kind = 'slrm': expected one of local, ray, slurm .did you mean 'slurm'",
        ),
    ],
)
def test_launchers_that_cannot_work_are_refused(tree: dict[str, Any], problem: str) -> None:
    """What a cluster could not run is an error before anything is submitted, with what to do."""
    with pytest.raises(ConfigError, match=problem):
        parse(tree)


def test_a_part_of_a_gpu_suits_a_coordinator() -> None:
    """Several workers may share a GPU where outputs do not travel over NCCL."""
    parse({"launcher": {"kind": "ray", "ray": {"gpus": 0.5}}, "exchange": {"kind": "coordinator"}})
