"""Writer of the configuration reference in peers/README.md, from the schema: `uv run python -m tests.reference`."""

from __future__ import annotations

import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from coordinator.experiment.matrix import ExperimentSection
from coordinator.experiment.sweep.space import SweepSection
from peers.config.schema import Config, NetworkConfig
from tests.benchmarks.readme import between_marks

README = Path(__file__).parents[1] / "peers" / "README.md"


def written() -> str:
    """The whole README, with the reference as it should be."""
    return between_marks(README.read_text(), "configuration", "tests/reference.py", "\n".join(lines()))


def lines() -> Iterator[str]:
    """A table row for every field, in the order of the schema."""
    yield "| key | default | values | meaning |"
    yield "| --- | --- | --- | --- |"
    for path, field in (*fields(), *fields(ExperimentSection, "experiment."), *fields(SweepSection, "sweep.")):
        yield _row(path, field)


def fields(section: type[BaseModel] = Config, prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Every key of the configuration with its dotted path, in the order of the schema."""
    for name, field in section.model_fields.items():
        inner = NetworkConfig if name == "network" else field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield from fields(inner, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", field


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
    if typing.get_origin(annotation) is typing.Annotated:
        return _values(arguments[0])
    if typing.get_origin(annotation) is tuple:
        inner = (typing.get_args(arguments[0]) or arguments)[0]  # without its bounds
        return "list of numbers" if inner in (int, float) else "list of texts"
    if typing.get_origin(annotation) is dict:
        return "mapping"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "a section"
    return {int: "integer", float: "number", str: "text", bool: "true, false"}[annotation]


if __name__ == "__main__":
    README.write_text(written())
