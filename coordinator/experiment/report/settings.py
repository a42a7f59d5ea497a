"""Configurations as a report tells them: what an arm changes, and a file that repeats an experiment or a sweep."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import PurePath
from typing import Any

import yaml

from coordinator.experiment.matrix import SUPERVISED
from coordinator.experiment.report.analysed import analysed
from coordinator.experiment.report.load import ExperimentFolder, SweepFolder
from coordinator.experiment.runs import merged
from peers.config.loading import Tree, dump, plain
from peers.config.schema import Config

_OWN = ("run.name", "run.seed", "run.out", "exchange.kind", "group.peers_per_worker")
"""What an experiment sets by itself."""
_ABSENT = object()


def changes(base: Config, other: Config) -> dict[str, Any]:
    """What another configuration sets otherwise, by dotted key; nothing of what every group has of its own."""
    before, after = dict(_flat(plain(base))), dict(_flat(plain(other)))
    return {key: value for key, value in after.items() if key not in _OWN and before.get(key, _ABSENT) != value}


def resolved(config: Config) -> str:
    """All of a configuration as YAML, without paths of this machine."""
    return "\n".join(_relative(line) for line in dump(config).splitlines())


def experiment_file(experiment: ExperimentFolder) -> str | None:
    """YAML with which `coordinator experiment` repeats an experiment; None where its configurations are missing."""
    results = experiment.results
    base = experiment.config(results.claim)
    if base is None:
        return None
    arms: dict[str, Tree] = {}
    for arm in experiment.arms:
        config = experiment.config(arm)
        if config is None:
            return None
        arms[arm] = _nested(changes(base, config))
    section: Tree = {"name": results.experiment, "seeds": list(results.seeds), "claim": results.claim}
    if any(SUPERVISED in values for values in results.values.values()):
        section["supervised"] = True
    section["analyse"] = [one.arm for one in analysed(experiment)]
    return _written({"experiment": {**section, "arms": arms}, **_common(base)})


def sweep_file(sweep: SweepFolder) -> str | None:
    """YAML with which `coordinator sweep` repeats a sweep; None where no configuration is left of it."""
    base = next((cell.config for cell in sweep.cells if cell.config is not None), None)
    if base is None:
        return None
    about = sweep.about
    section: Tree = {key: about[key] for key in ("name", "method", "seeds", "metric")}
    if about["method"] != "grid":
        section["samples"] = len(sweep.points)
    section["space"] = {key: axis.get("values", axis) for key, axis in about["space"].items()}
    return _written({"sweep": section, **_common(base, about["space"])})


def _common(config: Config, varied: Mapping[str, Any] | None = None) -> Tree:
    """What a file must say besides: all that is no default, was not varied and is no path of this machine."""
    varied = varied or {}
    kept = changes(Config(), config)
    kept = {
        key: value for key, value in kept.items() if not any(key == one or key.startswith(f"{one}.") for one in varied)
    }
    return _nested({key: value for key, value in kept.items() if not _is_absolute(value)})


def _written(tree: Tree) -> str:
    text: str = yaml.safe_dump(tree, sort_keys=False, allow_unicode=True, default_flow_style=None, width=110)
    return text


def _flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _nested(values: Mapping[str, Any]) -> Tree:
    tree: Tree = {}
    for key, value in values.items():
        for name in reversed(key.split(".")):
            value = {name: value}
        tree = merged(tree, value)
    return tree


def _is_absolute(value: object) -> bool:
    return isinstance(value, str) and PurePath(value).is_absolute()


def _relative(line: str) -> str:
    """A line of YAML; of an absolute path only its end stays."""
    return re.sub(r": (['\"]?)/(?:[^'\"]*/)?([^/'\"]+)\1$", r": \1…/\2\1", line)
