"""The files of a sweep's results: sweep.json, and the same rows as results.csv and results.parquet.

The same cells give the same bytes.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from typing import Any

import pyarrow
import pyarrow.parquet

from coordinator.experiment.sweep.results import SweepResults
from peers.common.files import write_atomically

NAMES = ("sweep.json", "results.csv", "results.parquet")
SCHEMA = 1
"""Version of sweep.json."""
_AFTER = (
    ("probe", pyarrow.string()),
    ("before", pyarrow.float64()),
    ("after", pyarrow.float64()),
    ("gain", pyarrow.float64()),
    ("pixels", pyarrow.float64()),
    ("rounds", pyarrow.int64()),
    ("effective_rank", pyarrow.float64()),
    ("disagreement", pyarrow.float64()),
    ("skips", pyarrow.int64()),
)
"""Columns after those of the axes."""


def write(results: SweepResults) -> None:
    """Save the results in the sweep's folder."""
    folder, rows = results.sweep.folder, table(results)
    text = json.dumps(described(results), indent=1, ensure_ascii=False)
    write_atomically(folder / "sweep.json", f"{text}\n".encode())
    lines = io.StringIO()
    writer = csv.writer(lines, lineterminator="\n")
    writer.writerow(rows.column_names)
    writer.writerows([_cell(value) for value in row.values()] for row in rows.to_pylist())
    write_atomically(folder / "results.csv", lines.getvalue().encode())
    packed = io.BytesIO()
    pyarrow.parquet.write_table(rows, packed)
    write_atomically(folder / "results.parquet", packed.getvalue())


def described(results: SweepResults) -> dict[str, Any]:
    """What sweep.json says."""
    section = results.sweep.section
    return {
        "schema": SCHEMA,
        "name": section.name,
        "method": section.method,
        "split": results.sweep.split,
        "seeds": list(section.seeds),
        "metric": section.metric,
        "space": {axis.key: axis.plain() for axis in results.sweep.axes},
        "points": [
            {"name": one.point.name, "values": one.point.values, "state": one.state, "why": one.why}
            for one in results.outcomes
        ],
        "versions": dict(results.versions),
    }


def table(results: SweepResults) -> pyarrow.Table:
    """All rows, with a column for each axis."""
    columns = {
        "point": pyarrow.array([row.point for row in results.rows], pyarrow.string()),
        "seed": pyarrow.array([row.seed for row in results.rows], pyarrow.int64()),
        "state": pyarrow.array([row.state for row in results.rows], pyarrow.string()),
    }
    for axis in results.sweep.axes:
        columns[axis.key] = _column([row.values[axis.key] for row in results.rows])
    for name, kind in _AFTER:
        columns[name] = pyarrow.array([getattr(row, name) for row in results.rows], kind)
    return pyarrow.table(columns)


def _column(values: Sequence[Any]) -> pyarrow.Array:
    """Values of an axis in the type that holds them all; what has none, such as lists, as JSON."""
    kinds = {type(value) for value in values if value is not None}
    for fitting, kind in (
        ({bool}, pyarrow.bool_()),
        ({int}, pyarrow.int64()),
        ({int, float}, pyarrow.float64()),
        ({str}, pyarrow.string()),
    ):
        if kinds <= fitting:
            return pyarrow.array(values, kind)
    return pyarrow.array([json.dumps(value) for value in values], pyarrow.string())


def _cell(value: Any) -> Any:
    """As CSV: true and false as JSON writes them."""
    return json.dumps(value) if isinstance(value, bool) else value
