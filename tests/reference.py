"""The README's configuration reference, made from the schema: `uv run python -m tests.reference` prints it."""

from __future__ import annotations

import sys
import typing
from collections.abc import Iterator
from typing import Any

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from peers.config import Config, NetworkConfig


def lines() -> Iterator[str]:
    """A table row for every field, in the order of the schema."""
    yield "| key | default | values | meaning |"
    yield "| --- | --- | --- | --- |"
    for name, field in Config.model_fields.items():
        section = NetworkConfig if name == "network" else field.annotation
        if isinstance(section, type) and issubclass(section, BaseModel):
            for key, inner in section.model_fields.items():
                yield _row(f"{name}.{key}", inner)
        else:
            yield _row(name, field)


def _row(path: str, field: FieldInfo) -> str:
    default = yaml.safe_dump(_plain(field.default), default_flow_style=True).strip().removesuffix("\n...").strip()
    return f"| `{path}` | {default} | {_values(field.annotation)} | {field.description} |".replace("|  |", "| |")


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _values(annotation: Any) -> str:
    arguments = typing.get_args(annotation)
    if typing.get_origin(annotation) is typing.Literal:
        return ", ".join(map(str, arguments))
    if type(None) in arguments:
        return _values(arguments[0])
    if arguments:
        return "list of numbers"
    return {int: "integer", float: "number", str: "text", bool: "true, false"}[annotation]


if __name__ == "__main__":
    sys.stdout.write("\n".join(lines()) + "\n")
