"""`coordinator experiment`: run what is not finished, and say what was found."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Sequence

from rich.console import Console

from coordinator.experiment import matrix, results, runner, show
from coordinator.experiment.report.command import write_report
from peers.common.errors import ExchangeError, RunFolderError

FAILED = 1
"""Exit code where groups have failed."""


def experiment(path: str, sets: Sequence[str], *, overwrite: bool, console: Console) -> int:
    """Run an experiment to its table.

    Args:
        path: of its YAML.
        sets: `key.path=value` settings on top.
        overwrite: begin anew, instead of going on with what is there.
        console: where to show progress and tables.

    Returns:
        exit code: 0; 1 where groups have failed; 128 + n after signal n, with all groups saved.

    Raises:
        PeersError: the experiment cannot be run as asked.
    """
    asked = matrix.load(path, sets)
    if overwrite:
        _remove(asked)
    runner.check(asked.cells, "experiment")
    waiting = [cell for cell in asked.cells if not cell.finished]
    most = runner.at_once(asked.cells, asked.section.parallel)
    console.print(
        f"experiment {asked.section.name}: {len(asked.arms)} arms x {len(asked.section.seeds)} seeds, "
        f"{len(waiting)} of {len(asked.cells)} groups to run, {most} at a time; everything goes to {asked.folder}",
        soft_wrap=True,
    )
    ending = runner.run(
        asked.cells,
        asked.section.parallel,
        lambda course, text: console.print(show.progress(course, text), soft_wrap=True),
    )
    if ending.signal is not None:
        name = signal.Signals(ending.signal).name
        console.print(f"stopped by {name}; the same command continues", soft_wrap=True)
        return 128 + ending.signal
    found = results.collect(asked, ending.failed)
    if found is None:
        console.print("no seed has all its arms: nothing can be compared")
        return FAILED if ending.failed else ExchangeError.exit_code
    results.write(found, asked.folder)
    for table in show.tables(found):
        console.print(table)
    for line in show.verdict(found):
        console.print(line, soft_wrap=True)
    _keep_recipes(asked)
    page = write_report([asked.folder], asked.folder)
    for written in (asked.folder / "results.json", asked.folder / "results.csv", page):
        console.print(f"  {written}", soft_wrap=True)
    return FAILED if ending.failed else 0


def _keep_recipes(asked: matrix.Experiment) -> None:
    """Put the table of recipes, and its text, where a report of the folder finds them."""
    if asked.recipes is None:
        return
    shutil.copyfile(asked.recipes, asked.folder / "recipes.csv")
    words = asked.recipes.with_suffix(".md")
    if words.is_file():
        shutil.copyfile(words, asked.folder / "recipes.md")


def _remove(asked: matrix.Experiment) -> None:
    folder = asked.folder
    if folder.exists() and not (folder / "cells").is_dir():
        raise RunFolderError(f"{folder} exists and is not an experiment (no cells); choose another experiment.name")
    if folder.exists():
        shutil.rmtree(folder)
