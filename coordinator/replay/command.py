"""Command `coordinator replay`: runs the replay with a progress bar and prints what differs."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from coordinator.replay.result import Replayed
from coordinator.replay.run import replay

SHOWN = 10
"""Differences that are printed; the others follow from them more often than not."""


def run(folder: str, state: str | None, *, as_json: bool, console: Console) -> int:
    """Replay a run and print what was found.

    Args:
        folder: of the run.
        state: of its coordinator; None is where the configuration says.
        as_json: one JSON object instead of a table.
        console: where the table goes.

    Returns:
        0 where all is equal, 1 where something differs.

    Raises:
        PeersError: it cannot be replayed; exit code 2.
    """
    columns = (TextColumn("round"), MofNCompleteColumn(), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=as_json or not console.is_terminal) as bar:
        task = bar.add_task("replay", total=None)
        replayed = replay(
            Path(folder),
            Path(state) if state is not None else None,
            progress=lambda done, rounds: bar.update(task, completed=done, total=rounds),
        )
    if as_json:
        sys.stdout.write(json.dumps(replayed.as_json()) + "\n")
    else:
        _show(replayed, console)
    return 0 if replayed.equal else 1


def _show(replayed: Replayed, console: Console) -> None:
    table = Table("replayed", "", "compared", "")
    table.add_row("rounds closed", str(replayed.rounds), "receipts", str(replayed.receipts))
    table.add_row("rounds void", str(replayed.voided), "checkpoints", str(replayed.checkpoints))
    table.add_row("lives", str(replayed.lives), "peers", ", ".join(map(str, replayed.peers)) or "none")
    console.print(table)
    for doubt in replayed.doubts:
        console.print(f"note: {doubt}", soft_wrap=True)
    if replayed.equal:
        console.print(
            "equal: all receipts, and all weights, buffers and optimizer states that were kept, bit for bit",
            soft_wrap=True,
        )
        return
    console.print(f"{len(replayed.differences)} differences, the first of them:", soft_wrap=True)
    for difference in replayed.differences[:SHOWN]:
        console.print(f"  {difference}", soft_wrap=True)
