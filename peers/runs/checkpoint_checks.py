"""Checks of a checkpoint: it is one of this peer's, as a whole, before anything of it reaches the peer.

A digest tells damage, not an enemy, who makes it fit. Neither JSON nor safetensors can carry code; what is left is to
refuse values that would end a run later, where nobody sees what they came from.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, NonNegativeInt, ValidationError
from torch import Tensor, nn

from peers.common.errors import CheckpointError, first_problem
from peers.config.schema import OptimizerConfig
from peers.method.peer import Peer, make_optimizer


class _Selected(BaseModel):
    model_config = ConfigDict(strict=True)
    rule: str
    round: NonNegativeInt
    score: float
    first: list[float] | None


class _Record(BaseModel):
    model_config = ConfigDict(strict=True)
    round: NonNegativeInt
    peer: NonNegativeInt
    incarnation: NonNegativeInt
    stepped: NonNegativeInt
    bad_in_a_row: NonNegativeInt
    skips: dict[str, NonNegativeInt]
    optimizer: list[dict[str, Any]]
    selection: _Selected | None = None
    configuration: dict[str, Any]
    tensors_digest: str
    extra: dict[str, Any]


def check_record(record: Mapping[str, Any]) -> None:
    """The JSON of a checkpoint has what it needs, of the right types.

    Raises:
        CheckpointError: names the field that is wrong, or missing.
    """
    try:
        parsed = _Record.model_validate(dict(record))
    except ValidationError as exc:
        raise CheckpointError(first_problem(exc)) from exc
    if parsed.selection is not None and parsed.selection.first is not None and len(parsed.selection.first) != 2:
        raise CheckpointError(f"selection.first: 2 numbers are expected, found {len(parsed.selection.first)}")


def check_state(peer: Peer, tensors: Mapping[str, Tensor], record: Mapping[str, Any]) -> None:
    """Tensors and settings are those of a peer of this configuration; the peer is left alone.

    Args:
        peer: whose they are to become.
        tensors: by name.
        record: the JSON, checked.

    Raises:
        CheckpointError: names the tensor, or the setting.
    """
    parts: dict[str, dict[str, Tensor]] = {"network": {}, "optimizer": {}, "selected": {}}
    for name, tensor in tensors.items():
        part, _, rest = name.partition(".")
        if part not in parts:
            raise CheckpointError(f"tensor {name!r} is none of a peer's")
        parts[part][rest] = tensor
    due = peer.network.state_dict()
    _same("network", parts["network"], due)
    if parts["selected"] or record.get("selection") is not None:
        _same("selected", parts["selected"], due)
    _check_optimizer(peer, parts["optimizer"])
    _check_settings(peer.optimizer, record["optimizer"])


def _same(part: str, found: Mapping[str, Tensor], due: Mapping[str, Tensor]) -> None:
    for name in sorted({*found, *due}):
        for problem, there in (("has no", found), ("has a strange", due)):
            if name not in there:
                raise CheckpointError(f"it {problem} tensor {f'{part}.{name}'!r}")
        _alike(f"{part}.{name}", found[name], due[name])


def _alike(name: str, found: Tensor, due: Tensor) -> None:
    if found.shape != due.shape or found.dtype != due.dtype:
        raise CheckpointError(
            f"tensor {name!r} is {found.dtype} {list(found.shape)}, expected {due.dtype} {list(due.shape)}"
        )


def _check_optimizer(peer: Peer, found: Mapping[str, Tensor]) -> None:
    """For each parameter nothing, as before the first step, or all that the optimizer keeps of one."""
    parameters = [parameter for group in peer.optimizer.param_groups for parameter in group["params"]]
    kept = _kept(peer.config.optimizer)
    names: dict[str, set[str]] = {}
    for name in found:
        place, _, key = name.partition(".")
        if place not in map(str, range(len(parameters))) or key not in kept:
            raise CheckpointError(f"tensor {f'optimizer.{name}'!r} is none of this optimizer's")
        _alike(f"optimizer.{name}", found[name], parameters[int(place)] if kept[key].dim() else kept[key])
        names.setdefault(place, set()).add(key)
    for place, keys in names.items():
        if keys != kept.keys():
            raise CheckpointError(f"it has no tensor {f'optimizer.{place}.{min(kept.keys() - keys)}'!r}")


def _kept(config: OptimizerConfig) -> dict[str, Tensor]:
    """What an optimizer keeps of a parameter, by trying: {name: of a parameter of one element, or a scalar}."""
    probe = nn.Linear(1, 1, bias=False)
    probe.weight.grad = torch.zeros(1, 1)
    tried = make_optimizer(config, probe)
    tried.step()
    return {key: torch.as_tensor(value) for key, value in tried.state[probe.weight].items() if value is not None}


def _check_settings(optimizer: torch.optim.Optimizer, found: list[dict[str, Any]]) -> None:
    """All but the learning rate, which has a schedule, is what the configuration makes of it."""
    groups = json.loads(json.dumps([dict(group, params=None) for group in optimizer.state_dict()["param_groups"]]))
    if len(found) != len(groups):
        raise CheckpointError(f"its optimizer has {len(found)} groups of parameters, expected {len(groups)}")
    for mine, saved in zip(groups, found, strict=True):
        for key, value in saved.items():
            like = _is_rate(value) if key == "lr" else key in mine and key != "params" and value == mine[key]
            if not like:
                raise CheckpointError(f"its optimizer has {key} = {value!r:.80}, expected {mine.get(key)!r}")


def _is_rate(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1e30
