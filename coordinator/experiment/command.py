"""`coordinator experiment` and `coordinator sweep`: run what is not finished, and say what the results are.

Libraries that take seconds are imported once there are results: what is wrong with a file is said at once.
"""

from __future__ import annotations

import re
import shutil
import signal
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from coordinator.experiment import matrix, runner
from coordinator.experiment.matrix import Experiment
from coordinator.experiment.runner import Progress, RunnerEnd
from coordinator.experiment.sweep import plan
from coordinator.experiment.sweep.plan import Sweep
from peers.common.errors import ExchangeError, RunFolderError

FAILED = 1
"""Exit code where groups have failed."""
_POINT = re.compile(r"p\d{3,}-seed\d+")


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
        _check_arms(asked.folder)
        _remove(asked.folder)
    runner.check(asked.cells, "experiment")
    section = asked.section
    _print(console, f"experiment {section.name}: {len(asked.arms)} arms x {len(section.seeds)} seeds, {_amount(asked)}")
    end = runner.run(asked.cells, section.parallel, partial(_show_progress, console))
    return _stopped(end, console) or _conclude_experiment(asked, end, console)


def sweep(path: str, sets: Sequence[str], *, overwrite: bool, console: Console) -> int:
    """Run a sweep to its table; arguments, exit code and errors are those of `experiment`."""
    asked = plan.load(path, sets)
    _check_points(asked.folder)
    if overwrite:
        _remove(asked.folder)
    runner.check(asked.cells, "sweep")
    section, report = asked.section, partial(_show_progress, console)
    title = f"sweep {section.name} ({section.method}): {len(asked.points)} points x {len(section.seeds)} seeds"
    if section.method == "asha":
        from coordinator.experiment.sweep import asha  # imports Optuna

        rounds = ", ".join(map(str, asha.all_looks(asked)))
        _print(console, f"{title}, looks at rounds {rounds}, {_at_a_time(asked)}")
        end = asha.run(asked, report)
    else:
        _print(console, f"{title}, {_amount(asked)}")
        end = runner.run(asked.cells, section.parallel, report)
    return _stopped(end, console) or _conclude_sweep(asked, end, console)


def _amount(asked: Experiment | Sweep) -> str:
    left = sum(not cell.finished for cell in asked.cells)
    return f"{left} of {len(asked.cells)} groups to run, {_at_a_time(asked)}"


def _at_a_time(asked: Experiment | Sweep) -> str:
    most = runner.at_once(asked.cells, asked.section.parallel)
    return f"{most} at a time; everything goes to {asked.folder}"


def _show_progress(console: Console, progress: Progress, text: str) -> None:
    _print(console, f"{progress}: {text}")


def _stopped(end: RunnerEnd, console: Console) -> int:
    """Exit code after a signal; 0 where there was none."""
    if end.signal is None:
        return 0
    _print(console, f"stopped by {signal.Signals(end.signal).name}; the same command continues")
    return 128 + end.signal


def _conclude_experiment(asked: Experiment, end: RunnerEnd, console: Console) -> int:
    from coordinator.experiment import results, show

    collected = results.collect(asked, end.failed)
    if collected is None:
        _print(console, "no seed has all its arms: nothing can be compared")
        return FAILED if end.failed else ExchangeError.exit_code
    results.write(collected, asked.folder)
    for table in show.tables(collected):
        console.print(table)
    _print(console, *show.verdict(collected))
    _keep_recipes(asked)
    return _finish(asked.folder, ("results.json", "results.csv"), end, console)


def _conclude_sweep(asked: Sweep, end: RunnerEnd, console: Console) -> int:
    from coordinator.experiment.sweep import files, results, show

    collected = results.collect(asked, end.failed)
    files.write(collected)
    _print(console, show.title(collected))
    print_table(show.table(collected), console)
    _print(console, *show.sentences(collected))
    return _finish(asked.folder, files.NAMES, end, console)


def _finish(folder: Path, names: Iterable[str], end: RunnerEnd, console: Console) -> int:
    """Write the report, name all files of results, and return the exit code."""
    from coordinator.experiment.report.command import write_report

    page = write_report([folder], folder)
    _print(console, *(f"  {path}" for path in (*(folder / name for name in names), page)))
    return FAILED if end.failed else 0


def _print(console: Console, *lines: str) -> None:
    for line in lines:
        console.print(line, soft_wrap=True)


def print_table(table: Table, console: Console) -> None:
    """In a file or a pipe as wide as it is: there is no edge to wrap it at."""
    before = console.width
    if not console.is_terminal:
        console.width = max(before, Measurement.get(console, console.options.update(max_width=10_000), table).maximum)
    console.print(table)
    console.width = before


def _keep_recipes(asked: Experiment) -> None:
    """Put the table of recipes, and its text, where a report of the folder finds them."""
    if asked.recipes is None:
        return
    shutil.copyfile(asked.recipes, asked.folder / "recipes.csv")
    words = asked.recipes.with_suffix(".md")
    if words.is_file():
        shutil.copyfile(words, asked.folder / "recipes.md")


def _remove(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)


def _check_arms(folder: Path) -> None:
    """Refuse to delete a folder that is nothing of this project's."""
    if folder.exists() and not (folder / "cells").is_dir():
        raise RunFolderError(f"{folder} exists and is not an experiment (no cells); choose another experiment.name")


def _check_points(folder: Path) -> None:
    """Refuse a folder that is an experiment, or nothing of this project's: a sweep would mix with it, or delete it."""
    inside = list((folder / "cells").iterdir()) if (folder / "cells").is_dir() else []
    foreign = [place.name for place in inside if not _POINT.fullmatch(place.name)]
    if foreign or (folder.exists() and any(folder.iterdir()) and not (folder / "cells").is_dir()):
        what = f"cells/{foreign[0]}" if foreign else "no cells"
        raise RunFolderError(f"{folder} exists and is not a sweep ({what}); choose another sweep.name")
