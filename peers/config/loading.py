"""Loads, merges, checks and saves a configuration; every problem comes back in one readable error."""

from __future__ import annotations

import difflib
import hashlib
import json
import math
import re
import reprlib
import typing
from collections.abc import Hashable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from peers.common.errors import ConfigError
from peers.common.hosts import host_in, stays_here
from peers.config.schema import Config

Tree = dict[str, Any]
C = TypeVar("C", bound=Config)
DEFAULT_ROUNDS = 100

_HINTS = {
    "missing": "a value is missing",
    "dict_type": "expected a mapping of keys to values",
    "model_type": "expected a mapping of keys to values",
    "tuple_type": "expected a mapping, or a list",
    "model_attributes_type": "expected a mapping of keys to values",
}


_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxstring, _SHORT.maxother, _SHORT.maxlong = 2, 200, 200, 200
_SHORT.maxlist = _SHORT.maxtuple = _SHORT.maxset = _SHORT.maxdict = 20


class _Loader(yaml.SafeLoader):
    """SafeLoader that reads 1e-3 as a number (YAML 1.1 asks for a dot) and refuses a key given twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        plain = [key for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
        keys = [self.construct_object(key, deep=deep) for key in plain]
        for key in keys:
            if keys.count(key) > 1:
                raise ConfigError(f"{key!r} is given twice in the mapping at {node.start_mark}")
        return {str(key): value for key, value in super().construct_mapping(node, deep=deep).items()}

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """As its base, which leaves a date of month 99, or a tag that does not fit, to whoever happens to call it."""
        try:
            return super().construct_object(node, deep=deep)
        except (ValueError, KeyError, OverflowError) as exc:
            text = f"{_shown(node.value)} is no {node.tag.rpartition(':')[2]}: {exc}"
            raise yaml.constructor.ConstructorError(None, None, text, node.start_mark) from exc


class _Dumper(yaml.SafeDumper):
    """SafeDumper that quotes what `_Loader` would read as a number."""


_NOT_BASE_60 = {
    "tag:yaml.org,2002:int": re.compile(r"^[-+]?(0b[01_]+|0x[\da-fA-F_]+|0[0-7_]+|0|[1-9][\d_]*)$"),
    "tag:yaml.org,2002:float": re.compile(
        r"^[-+]?(\d[\d_]*\.[\d_]*|\.\d[\d_]*)([eE][-+]\d+)?$|^[-+]?\.(?i:inf)$|^\.(?i:nan)$"
    ),
}
for _side in (_Loader, _Dumper):
    # YAML 1.1 reads 01:30:00 as a number in base 60: here a time limit stays the text that it is.
    _side.yaml_implicit_resolvers = {
        first: [(tag, _NOT_BASE_60.get(tag, pattern)) for tag, pattern in found]
        for first, found in _side.yaml_implicit_resolvers.items()
    }
    _side.add_implicit_resolver(
        "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
    )


def load(path: str | Path | None = None, sets: Sequence[str] = ()) -> Config:
    """The configuration in a YAML file (default: the embedded defaults), changed by `key.path=value` settings.

    Raises:
        ConfigError: the file cannot be read, or holds problems; the text lists all of them.
    """
    return parse(read(path, sets), source=str(path) if path is not None else "the configuration")


def read(path: str | Path | None, sets: Sequence[str] = ()) -> Tree:
    """What a YAML file says, changed by `key.path=value` settings; not checked yet.

    Raises:
        ConfigError: the file cannot be read, or a setting leads nowhere.
    """
    tree = _read(Path(path)) if path is not None else {}
    for setting in sets:
        _apply(tree, setting)
    return tree


def parse(tree: Tree, source: str = "the configuration") -> Config:
    """The configuration that a tree of plain values stands for.

    Raises:
        ConfigError: lists every problem with its path, its value and what is allowed.
    """
    return parse_as(Config, tree, source)


def parse_as(schema: type[C], tree: Tree, source: str) -> C:
    """As `parse`, for a schema with more sections.

    Args:
        schema: `Config`, or made of it.
        tree: sections by name.
        source: for the head of an error.
    """
    try:
        config = schema.model_validate(tree)
    except ValidationError as exc:
        raise _error(source, [_describe(dict(error), tree, schema) for error in exc.errors()]) from exc
    problems = list(contradictions(config))
    if problems:
        raise _error(source, problems)
    return config


def plain(config: Config) -> Tree:
    """The configuration as plain values, as YAML and JSON write it; a single network stands without its list."""
    tree: Tree = config.model_dump(mode="json")
    if len(tree["network"]) == 1:
        tree["network"] = tree["network"][0]
    return tree


def dump(config: Config) -> str:
    """The configuration as YAML that `load` reads back."""
    text: str = yaml.dump(plain(config), Dumper=_Dumper, sort_keys=False, allow_unicode=True)
    return text


def updated(config: Config, **values: Mapping[str, Any]) -> Config:
    """A copy with some values of some sections replaced, e.g. `updated(c, run={"seed": 1})`."""
    tree = plain(config)
    for section, changes in values.items():
        tree[section].update(changes)
    return parse(tree)


def rounds_of(config: Config, rounds_per_epoch: int) -> int:
    """How many rounds the run has, where epochs are given, from the rounds that make an epoch."""
    if config.run.epochs is not None:
        # Rounded first: 9.8 x 195 is 1911.0000000000002 in floating point.
        return max(1, math.ceil(round(config.run.epochs * rounds_per_epoch, 6)))
    return config.run.rounds or DEFAULT_ROUNDS


def identity(config: Config, rounds: int) -> dict[str, Any]:
    """What determines the weights, as {dotted key: value}: two runs that agree in it may share checkpoints.

    Where the run lives, how it is launched, probed and recorded does not count; its length does only where the
    learning rate depends on it.
    """
    tree = plain(config)
    kept = {key: tree[key] for key in ("data", "network", "consensus", "optimizer", "precision", "compile")}
    for key in ("root", "download", "budget_mib", "loader_workers"):
        kept["data"].pop(key)
    kept["consensus"].pop("max_skips")
    kept["run"] = {"seed": config.run.seed}
    kept["group"] = {"peers": config.group.peers}
    kept["exchange"] = {"wire": config.exchange.wire}
    if config.optimizer.schedule != "constant":
        kept["run"]["rounds"] = rounds
    return dict(_flat(kept))


def identity_digest(facts: Mapping[str, Any]) -> str:
    """Hex BLAKE2b-128 of an identity."""
    return hashlib.blake2b(json.dumps(facts, sort_keys=True).encode(), digest_size=16).hexdigest()


def contradictions(config: Config) -> Iterator[str]:
    """Combinations of valid values that make no run, one text each."""
    run, data, group, exchange = config.run, config.data, config.group, config.exchange
    if run.rounds is not None and run.epochs is not None:
        yield f"run.rounds = {run.rounds} and run.epochs = {run.epochs}: give one of them"
    if not config.network:
        yield "network = []: give one architecture, or a list of them"
    if group.peers == 1 and config.consensus.control != "independent":
        yield "group.peers = 1: a lone peer has no consensus and would skip every round; use 2 or more"
    if group.peers is not None and config.consensus.target == "neighbours" and config.consensus.k >= group.peers:
        yield f"consensus.k = {config.consensus.k}: a peer has only {group.peers - 1} others (group.peers)"
    if group.peers is not None and exchange.kind == "inprocess" and group.peers_per_worker not in (1, group.peers):
        yield "exchange.kind = 'inprocess': one process hosts all peers; use collective for several workers"
    if group.peers is not None and exchange.elastic and config.coordinator.min_peers > group.peers:
        yield f"coordinator.min_peers = {config.coordinator.min_peers}: more than group.peers = {group.peers}"
    yield from _launcher_contradictions(config)
    if config.security.mutual and config.security.certs is None:
        yield "security.mutual = true: needs security.certs, the folder of the certificates"
    if not exchange.heartbeat < exchange.round_deadline <= exchange.join_window:
        yield (
            f"exchange: heartbeat {exchange.heartbeat} s, round_deadline {exchange.round_deadline} s and join_window "
            f"{exchange.join_window} s: expected heartbeat < round_deadline <= join_window"
        )
    rounds = run.rounds or (DEFAULT_ROUNDS if run.epochs is None else None)
    if rounds is not None and config.optimizer.warmup >= rounds:
        yield f"optimizer.warmup = {config.optimizer.warmup}: must be shorter than run.rounds = {rounds}"
    if data.name == "image_folder" and data.image_size is None:
        yield "data.image_size: needed for image_folder; the side in pixels that images are resized and cropped to"
    if data.image_size is not None and data.name not in ("image_folder", "synthetic"):
        yield f"data.image_size = {data.image_size}: only for image_folder and synthetic, {data.name} has its own size"
    if any(l2 < 0 for l2 in config.probe.linear_l2):
        yield f"probe.linear_l2 = {list(config.probe.linear_l2)}: expected strengths of 0 or more"


def _launcher_contradictions(config: Config) -> Iterator[str]:
    launcher, elastic = config.launcher, config.exchange.elastic
    gpus = launcher.ray.gpus
    if launcher.kind == "ray" and gpus is not None and gpus % 1 and not elastic:
        yield (
            f"launcher.ray.gpus = {gpus:g}: NCCL refuses two ranks on one GPU; host several peers in a worker with "
            f"group.peers_per_worker, or use exchange.kind = 'coordinator'"
        )
    if launcher.kind == "ray" and gpus and config.device == "cpu":
        yield f"launcher.ray.gpus = {gpus:g}: device = 'cpu' uses none; leave it out"
    if launcher.kind == "slurm" and launcher.slurm.gpus_per_node and config.device == "cpu":
        yield f"launcher.slurm.gpus_per_node = {launcher.slurm.gpus_per_node}: device = 'cpu' uses none; leave it out"
    if launcher.kind == "ray" and not launcher.ray.cpus and not gpus and config.device != "cuda":
        yield "launcher.ray.cpus = 0: a worker without GPUs must reserve some CPU, such as 0.5"
    slurm, peers = launcher.slurm, config.group.peers
    if launcher.kind == "slurm" and slurm.nodes > 1 and elastic and stays_here(host_in(config.coordinator.bind)):
        yield (
            f"coordinator.bind = {config.coordinator.bind!r}: the other nodes of launcher.slurm.nodes = {slurm.nodes} "
            f"cannot reach loopback; use 0.0.0.0:0 with security.certs and a token, or with security.insecure = true"
        )
    if launcher.kind == "slurm" and peers is not None:
        workers = -(-peers // min(config.group.peers_per_worker, peers))
        if workers % slurm.nodes or slurm.tasks_per_node not in (None, workers // slurm.nodes):
            per_node = "" if slurm.tasks_per_node is None else f" and tasks_per_node = {slurm.tasks_per_node}"
            yield (
                f"launcher.slurm.nodes = {slurm.nodes}{per_node}: group.peers = {peers} with group.peers_per_worker = "
                f"{config.group.peers_per_worker} makes {workers} workers, which must fill the nodes evenly"
            )
        elif (slurm.gpus_per_node or 0) % (workers // slurm.nodes):
            yield (
                f"launcher.slurm.gpus_per_node = {slurm.gpus_per_node}: {workers // slurm.nodes} workers on each node "
                f"cannot share them out evenly; host several peers in a worker with group.peers_per_worker"
            )


def _read(path: Path) -> Tree:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(f"cannot read the configuration {path}: {exc}") from exc
    try:
        tree = _value(text)
    except yaml.YAMLError as exc:
        raise ConfigError(f"{path} is not valid YAML: {exc}") from exc
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: expected a mapping of sections, found a {type(tree).__name__}")
    return tree


def _value(text: str) -> Any:
    try:
        return yaml.load(text, _Loader)  # noqa: S506  # a SafeLoader
    except RecursionError as exc:
        raise yaml.YAMLError("it is nested too deeply") from exc


def _apply(tree: Tree, setting: str) -> None:
    path, equals, text = setting.partition("=")
    keys = path.strip().split(".")
    if not equals or not all(keys):
        raise ConfigError(f"--set {setting}: expected key.path=value, for example optimizer.learning_rate=1e-3")
    try:
        value = _value(text)
    except yaml.YAMLError as exc:
        raise ConfigError(f"--set {setting}: {text!r} is not a YAML value: {exc}") from exc
    node: Any = tree
    for place, key in enumerate(keys):
        last = place == len(keys) - 1
        if isinstance(node, list):
            if not key.isdecimal() or int(key) >= len(node):
                raise ConfigError(f"--set {setting}: {'.'.join(keys[:place])} is a list of {len(node)}, not {key!r}")
            node[int(key)] = value if last else node[int(key)]
            node = node[int(key)]
        elif isinstance(node, dict):
            if last or node.get(key) is None:
                node[key] = value if last else {}
            node = node[key]
        else:
            raise ConfigError(f"--set {setting}: {'.'.join(keys[:place])} is a value, it has no {key!r} in it")


def _error(source: str, problems: Sequence[str]) -> ConfigError:
    head = f"{source} has {len(problems)} problem{'s' * (len(problems) > 1)}:"
    return ConfigError("\n".join([head, *(f"  {problem}" for problem in problems)]))


def _describe(error: Mapping[str, Any], tree: Tree, schema: type[BaseModel]) -> str:
    loc = [str(part) for part in error["loc"]]
    if loc[:1] == ["network"] and len(loc) > 1 and not isinstance(tree.get("network"), list):
        del loc[1]  # the user wrote a mapping; the schema holds a list of one
    path, value = ".".join(loc) or "the whole", error["input"]
    shown = f"{path} = {_shown(value)}" if not isinstance(value, dict) else path
    if error["type"] == "extra_forbidden":
        allowed = _fields_at(loc[:-1], schema)
        return f"{path}: unknown key{nearest(loc[-1], allowed)}; known here: {', '.join(allowed)}"
    if error["type"] == "literal_error":
        names = re.findall(r"'([^']*)'", str(error["ctx"]["expected"]))
        meant = str(value) if value is None or isinstance(value, str) else ""
        return f"{shown}: expected one of {', '.join(names)}{nearest(meant, names)}"
    if error["type"] == "string_pattern_mismatch" and loc[-1] != "name":
        return f"{shown}: expected text of one line"
    if error["type"] == "string_pattern_mismatch":
        return f"{shown}: expected letters, digits, '.', '_' and '-', beginning with a letter or digit"
    message = _HINTS.get(error["type"], str(error["msg"]).replace("Input should be", "expected"))
    return f"{shown}: {message}"


def _shown(value: Any) -> str:
    """A value for an error's text: as it was given, but for what is too long to be read, which aliases make easily."""
    return _SHORT.repr(value)


def nearest(word: str, names: Sequence[str]) -> str:
    """A hint at the name that was meant, to go behind an error's text; empty where none is near."""
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.5)
    return f" (did you mean {close[0]!r}?)" if close else ""


def _fields_at(loc: Sequence[str], model: type[BaseModel]) -> list[str]:
    for part in loc:
        if part.isdigit():
            continue
        kind = model.model_fields[part].annotation
        for candidate in (kind, *typing.get_args(kind)):
            if isinstance(candidate, type) and issubclass(candidate, BaseModel):
                model = candidate
    return list(model.model_fields)


def _flat(tree: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(tree, dict):
        for key in sorted(tree):
            yield from _flat(tree[key], f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(tree, list) and any(isinstance(item, dict) for item in tree):
        for place, item in enumerate(tree):
            yield from _flat(item, f"{prefix}.{place}")
    else:
        yield prefix, tree
