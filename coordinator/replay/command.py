"""`coordinator replay`: runs a run again, with a bar while it does, and prints what was compared and what differs."""

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
        found = replay(
            Path(folder),
            Path(state) if state is not None else None,
            progress=lambda done, rounds: bar.update(task, completed=done, total=rounds),
        )
    if as_json:
        sys.stdout.write(json.dumps(found.as_json()) + "\n")
    else:
        _show(found, console)
    return 0 if found.equal else 1


def _show(found: Replayed, console: Console) -> None:
    table = Table("replayed", "", "compared", "")
    table.add_row("rounds closed", str(found.rounds), "receipts", str(found.receipts))
    table.add_row("rounds void", str(found.voided), "checkpoints", str(found.checkpoints))
    table.add_row("lives", str(found.lives), "peers", ", ".join(map(str, found.peers)) or "none")
    console.print(table)
    for doubt in found.doubts:
        console.print(f"note: {doubt}", soft_wrap=True)
    if found.equal:
        console.print(
            "equal: all receipts, and all weights, buffers and optimizer states that were kept, bit for bit",
            soft_wrap=True,
        )
        return
    console.print(f"{len(found.differences)} differences, the first of them:", soft_wrap=True)
    for difference in found.differences[:SHOWN]:
        console.print(f"  {difference}", soft_wrap=True)
