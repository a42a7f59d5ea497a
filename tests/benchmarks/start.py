"""How long a group takes to start: `uv run python -m tests.benchmarks.start [--workers 1 8] [--passes 5]`.

From the command to the first round that has closed, for the bundled digits and a small network, by `coordinator launch`
(workers are forked from one process that has imported torch) and by torchrun (each worker imports it by itself).
"""

from __future__ import annotations

import argparse
import signal
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from tests.benchmarks.measure import Figure, Table, interleaved, over, save
from tests.commands import LAUNCH, Running, rounds_recorded, settings, torchrun

PATIENCE = 300.0
"""Seconds that a group may take."""
ENDLESS = ("run.rounds=1000000", "run.name=run", "probe.every=0", "metrics.every=1")


def sizes(workers: int) -> tuple[int, int]:
    """Peers of the group, and of a worker: two at least, since a lone peer has no consensus."""
    peers = max(2, workers)
    return peers, peers // workers


def started(command: tuple[str, ...]) -> float:
    """Seconds until the first round of a command's group has closed; then the group is stopped."""
    with tempfile.TemporaryDirectory() as name:
        cwd = Path(name)
        (cwd / "empty.yaml").write_text("")
        began = time.perf_counter()
        running = Running(command, cwd)
        try:
            running.until(lambda: rounds_recorded(cwd / "runs" / "run") > 0, PATIENCE)
            seconds = time.perf_counter() - began
            running.process.send_signal(signal.SIGTERM)
            running.wait(PATIENCE)
        finally:
            running.reap()
    return seconds


def cases(workers: list[int]) -> dict[str, Callable[[], float]]:
    """All ways to start each number of workers."""
    made: dict[str, Callable[[], float]] = {}
    for number in workers:
        peers, each = sizes(number)
        flags = settings(*ENDLESS, f"group.peers={peers}", f"group.peers_per_worker={each}")
        by_launch = (*LAUNCH, "empty.yaml", *flags)
        made[f"launch {number}"] = partial(started, by_launch)
        made[f"launch, coordinator {number}"] = partial(started, (*by_launch, *settings("exchange.kind=coordinator")))
        made[f"torchrun {number}"] = partial(started, (*torchrun(number), *flags))
    return made


def main() -> None:
    """Measure and save."""
    parser = argparse.ArgumentParser(description="Time from a command to the first round of its group.")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--passes", type=int, default=5)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    passes = interleaved(cases(given.workers), given.passes, warm=given.passes > 1)
    least = min(given.workers)
    rows = []
    for way in ("launch", "launch, coordinator", "torchrun"):
        figures = [Figure.of(passes[f"{way} {number}"]).text(1) for number in given.workers]
        ratios = [
            over(passes[f"{way} {number}"], passes[f"{way} {least}"]).text()
            for number in given.workers
            if number != least
        ]
        rows.append([way, *figures, *ratios])
    columns = ["started by", *(f"{number} workers, s" for number in given.workers)]
    columns += [f"{number} over {least}" for number in given.workers if number != least]
    note = "Seconds from the command to the first closed round: median of the passes with quartiles."
    save("start", [Table("Start of a group", note, columns, rows)], {"passes": passes}, given.out)


if __name__ == "__main__":
    main()
