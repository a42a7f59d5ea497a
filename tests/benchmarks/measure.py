"""What all benchmarks share: interleaved passes, medians with their spread, and one file of results for each.

    cases = {"gloo": one_pass, "stream": another}       each pass returns a figure: seconds, rounds a second
    passes = interleaved(cases, 7, seed=0)              {case: [figure of each pass]}, a new order in each pass
    ratio = over(passes["stream"], passes["gloo"])      of the same pass: what slows the machine slows both
    save("exchange", command(), [Table(...)], passes)   results/exchange.json, which README.md is made from

A figure of one pass varies by up to 2x on a shared machine. A ratio within one pass varies less.
"""

from __future__ import annotations

import json
import os
import platform
import random
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Figure:
    """A median with its quartiles.

    Attributes:
        median: of all passes.
        low: first quartile.
        high: third quartile.
    """

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Figure:
        """Of at least one value."""
        if len(values) == 1:
            return cls(values[0], values[0], values[0])
        low, median, high = statistics.quantiles(values, n=4, method="inclusive")
        return cls(median, low, high)

    def text(self, digits: int = 2, scale: float = 1.0) -> str:
        """Median and quartiles for a table: 0.45 (0.43-0.49)."""
        median, low, high = (f"{value * scale:.{digits}f}" for value in (self.median, self.low, self.high))
        return f"{median} ({low}-{high})"


@dataclass(frozen=True)
class Table:
    """A table as people read it.

    Attributes:
        title: what it shows, in a few words.
        note: how to read it, in a sentence or two.
        columns: headings.
        rows: as many texts in each.
    """

    title: str
    note: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]

    def markdown(self) -> str:
        """The table in Markdown, its first column aligned to the left, figures to the right."""
        line = ["---", *["---:"] * (len(self.columns) - 1)]
        body = "\n".join("| " + " | ".join(row) + " |" for row in (self.columns, line, *self.rows))
        return f"**{self.title}.** {self.note}\n\n{body}"


def interleaved(
    cases: Mapping[str, Callable[[], float]], passes: int, seed: int = 0, warm: bool = True
) -> dict[str, list[float]]:
    """Run each case once in each pass, in an order drawn anew.

    Args:
        cases: {name: runs once and returns a figure}.
        passes: how many; at least five for anything that is told.
        seed: of the order.
        warm: run all once before, unmeasured.
    """
    draw = random.Random(seed)  # noqa: S311  # an order, no secret
    found: dict[str, list[float]] = {name: [] for name in cases}
    for turn in range(-int(warm), passes):
        for name in draw.sample(list(cases), len(cases)):
            figure = cases[name]()
            if turn >= 0:
                found[name].append(figure)
        note(f"pass {turn + 1} of {passes}")
    return found


def over(values: Sequence[float], yardstick: Sequence[float]) -> Figure:
    """Ratio to the yardstick, pass by pass."""
    return Figure.of([value / unit for value, unit in zip(values, yardstick, strict=True)])


def note(text: str) -> None:
    """Tell how far a benchmark is."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def machine() -> dict[str, Any]:
    """What figures were taken on: never a host's name."""
    import torch  # takes seconds, which few callers have paid already

    found = {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory GiB": round(psutil.virtual_memory().total / 2**30),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
    }
    return found | {name: version(name) for name in ("torch", "grpcio", "numpy")}


def command() -> str:
    """The command that this process was started with, as a user types it; where its results went is left out."""
    name, given = Path(sys.argv[0]).stem, sys.argv[1:]
    if "--out" in given:
        at = given.index("--out")
        given = given[:at] + given[at + 2 :]
    return " ".join(["uv run python -m", f"tests.benchmarks.{name}", *given])


def save(name: str, tables: Sequence[Table], details: Mapping[str, Any], out: Path | None = None) -> None:
    """Print the tables, and write them with everything behind them.

    Args:
        name: of the benchmark.
        tables: for people, and for README.md.
        details: whatever else was measured: every pass, so that others can judge the spread.
        out: file; by default results/NAME.json, beside this module.
    """
    made = {
        "command": command(),
        "date": datetime.now(UTC).date().isoformat(),
        "machine": machine(),
        "tables": [asdict(table) for table in tables],
        "details": details,
    }
    out = out or RESULTS / f"{name}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(made, indent=1) + "\n")
    sys.stdout.write("\n\n".join(table.markdown() for table in tables) + f"\n\nwritten to {out}\n")


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()
