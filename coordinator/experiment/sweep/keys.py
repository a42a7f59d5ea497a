"""Dotted keys of the configuration: which there are, what they take, and how one is set in a tree of plain values."""

from __future__ import annotations

import functools
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, TypeAlias

from pydantic import BaseModel

from peers.common.errors import ConfigError
from peers.config.loading import Tree, nearest
from peers.config.schema import Config

Kind: TypeAlias = Literal["integer", "number", "other"]

FIXED = {
    "run.name": "each group has the name of its point and seed",
    "run.seed": "list the seeds in sweep.seeds",
    "run.out": "groups are kept below the sweep's folder, sweep.out",
    "exchange.kind": "each group is one process",
    "group.peers_per_worker": "each group is one process",
    "probe.split": "all points of a sweep are judged on the same images",
}
"""Keys that a sweep cannot vary, and why."""
NO_NUMBERS = ("launcher", "coordinator", "security")
"""Sections that say nothing about what a group in one process computes."""


def kind(key: str) -> Kind:
    """What a known key takes.

    Args:
        key: dotted; `network.0.width` is the width of the first of several architectures.
    """
    return _kinds()[_schema_key(key)]


def trouble(key: str) -> str | None:
    """Why a sweep cannot vary a key; None if it can."""
    known, place = _kinds(), _schema_key(key)
    if place in FIXED:
        return f"cannot be swept: {FIXED[place]}"
    if place.split(".")[0] in NO_NUMBERS:
        return "cannot be swept: each group is one process, and nothing in it depends on this"
    if place in known:
        return None
    inside = [name for name in known if name.startswith(f"{place}.")]
    if inside:
        return f"is a section; name a key in it, such as {inside[0]}"
    return f"unknown key of the configuration{nearest(place, list(known))}"


def is_section(key: str) -> bool:
    """Whether there are keys below a key."""
    return any(name.startswith(f"{_schema_key(key)}.") for name in _kinds())


def placed(tree: Mapping[str, Any], key: str, value: object) -> Tree:
    """A tree with one value set; where `network` lists several architectures, `network.width` sets it in each.

    Args:
        tree: configuration, as its file says it.
        key: dotted, known.
        value: plain.

    Raises:
        ConfigError: the key names an architecture that the list does not have.
    """
    return _placed(tree, key.split("."), value, key)


def _placed(tree: Mapping[str, Any], parts: Sequence[str], value: object, key: str) -> Tree:
    head, rest = parts[0], parts[1:]
    if not rest:
        return {**tree, head: value}
    inner = tree.get(head) or {}
    several = list(inner) if isinstance(inner, list | tuple) else [inner]
    if rest[0].isdecimal():
        place = int(rest[0])
        if place >= len(several):
            raise ConfigError(f"{key}: {head} has {len(several)} architecture{'s' * (len(several) > 1)}, from 0 on")
        several[place] = _placed(several[place], rest[1:], value, key)
        return {**tree, head: several}
    changed = [_placed(one, rest, value, key) for one in several]
    return {**tree, head: changed if isinstance(inner, list | tuple) else changed[0]}


def _schema_key(key: str) -> str:
    return ".".join(part for part in key.split(".") if not part.isdecimal())


@functools.cache
def _kinds() -> dict[str, Kind]:
    return dict(_walk(Config, ""))


def _walk(section: type[BaseModel], prefix: str) -> Iterator[tuple[str, Kind]]:
    for name, field in section.model_fields.items():
        inside = [one for one in (field.annotation, *typing.get_args(field.annotation)) if _is_section(one)]
        if inside:
            yield from _walk(inside[0], f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", _kind(field.annotation)


def _is_section(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _kind(annotation: Any) -> Kind:
    """Of a field, or of what it is where it may be left out."""
    kinds = [one for one in (annotation, *typing.get_args(annotation)) if one in (int, float)]
    if typing.get_origin(annotation) is tuple or not kinds:
        return "other"
    return "integer" if kinds[0] is int else "number"
