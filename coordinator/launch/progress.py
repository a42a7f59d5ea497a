"""Progress of a running group, read from its metrics.jsonl: a bar in a terminal, plain lines elsewhere."""

from __future__ import annotations

import json
import os
import statistics
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

KEYS = ("loss", "disagreement", "effective_rank", "knn_live", "knn_live_baseline")
WAITING = "waiting for the first round: workers start and judge their networks at initialization"


@dataclass
class RunStatus:
    """Newest values of a running group.

    Attributes:
        rounds: length of the run; 0 while unknown.
        done: rounds done.
        rate: rounds per second, over the last records.
        latest: {peer: {key: newest value}}.
    """

    rounds: int
    done: int = 0
    rate: float = 0.0
    latest: dict[int, dict[str, float]] = field(default_factory=dict)

    def mean(self, key: str) -> float | None:
        """Mean over the peers of the newest value of a key; None before there is one."""
        values = [values[key] for values in self.latest.values() if key in values]
        return statistics.fmean(values) if values else None

    def line(self) -> str:
        """The status in one line."""
        parts = [f"round {self.done}/{self.rounds}", f"{self.rate:.1f} rounds/s"]
        for key, title, digits in (
            ("loss", "loss", 4),
            ("disagreement", "disagreement", 4),
            ("effective_rank", "rank", 1),
        ):
            value = self.mean(key)
            if value is not None:
                parts.append(f"{title} {value:.{digits}f}")
        now, before = self.mean("knn_live"), self.mean("knn_live_baseline")
        if now is not None and before is not None:
            parts.append(f"k-NN {now:.1f} (was {before:.1f}, validation)")
        return "  ".join(parts)


class MetricsFollower:
    """Reads what is new in a metrics.jsonl.

    Args:
        path: of the file; it may not exist yet.
        rounds: length of the run.
    """

    def __init__(self, path: Path, rounds: int) -> None:
        self.status = RunStatus(rounds)
        self._path = path
        self._position = 0
        self._inode: int | None = None
        self._seen: list[tuple[float, int]] = []

    def poll(self, now: float) -> RunStatus:
        """Read on, as of `now` seconds; begins again when the file was replaced (a resumed run trims it)."""
        try:
            with self._path.open("rb") as file:
                inode = os.fstat(file.fileno()).st_ino
                if inode != self._inode:
                    self._inode, self._position = inode, 0
                    self.status.done, self.status.latest = 0, {}
                file.seek(self._position)
                data = file.read()
        except FileNotFoundError:
            return self.status
        complete = data[: data.rfind(b"\n") + 1]
        self._position += len(complete)
        for line in complete.splitlines():
            self._take(json.loads(line))
        self._measure(now)
        return self.status

    def _take(self, record: dict[str, Any]) -> None:
        values = self.status.latest.setdefault(record["peer"], {})
        values.update({key: record[key] for key in KEYS if key in record})
        if "receipt" in record:
            self.status.done = record["round"] + 1

    def _measure(self, now: float) -> None:
        if not self._seen or self._seen[-1][1] != self.status.done:
            self._seen = [*self._seen[-20:], (now, self.status.done)]
        (then, before), (_, done) = self._seen[0], self._seen[-1]
        if done > before and now > then:
            self.status.rate = (done - before) / (now - then)


class Display:
    """Shows a follower's status until it is closed; a context manager with a thread of its own.

    Args:
        follower: what to show.
        console: where; a terminal gets a bar, anything else a line for each tenth of the run.
    """

    def __init__(self, follower: MetricsFollower, console: Console) -> None:
        self._follower = follower
        self._console = console
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="progress", daemon=True)

    def __enter__(self) -> Display:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._closing.set()
        self._thread.join()

    def _run(self) -> None:
        if self._console.is_terminal:
            self._show_bar()
        else:
            self._print_lines()

    def _show_bar(self) -> None:
        columns = (BarColumn(30), TextColumn("{task.description}", markup=False))
        with Progress(*columns, console=self._console, transient=True) as bar:
            task = bar.add_task(WAITING, total=max(1, self._follower.status.rounds))
            while not self._closing.wait(0.25):
                status = self._follower.poll(time.monotonic())
                bar.update(task, completed=status.done, description=status.line() if status.done else WAITING)
        self._console.print(self._follower.poll(time.monotonic()).line(), highlight=False)

    def _print_lines(self) -> None:
        shown = -1
        while True:
            closing = self._closing.wait(0.25)
            status = self._follower.poll(time.monotonic())
            tenth = 10 * status.done // max(1, status.rounds)
            if status.done and tenth > shown:
                shown = tenth
                self._console.print(status.line(), highlight=False, soft_wrap=True)
            if closing:
                return
