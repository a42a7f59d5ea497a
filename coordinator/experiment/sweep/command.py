"""`coordinator sweep`: run what is not finished, and say which point did best.

Libraries that take seconds are imported once there is something to show: what is wrong with a sweep is said at once.
"""

from __future__ import annotations

import re
import shutil
import signal
from collections.abc import Sequence

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from coordinator.experiment import runner
from coordinator.experiment.runner import Course, Ending
from coordinator.experiment.sweep import asha
from coordinator.experiment.sweep.plan import Sweep, load
from peers.common.errors import RunFolderError

FAILED = 1
"""Exit code where groups have failed."""
_CELL = re.compile(r"p\d{3,}-seed\d+")


def sweep(path: str, sets: Sequence[str], *, overwrite: bool, console: Console) -> int:
    """Run a sweep to its table.

    Args:
        path: of its YAML.
        sets: `key.path=value` settings on top.
        overwrite: begin anew, instead of going on with what is there.
        console: where to show progress and tables.

    Returns:
        exit code: 0; 1 where groups have failed; 128 + n after signal n, with all groups saved.

    Raises:
        PeersError: the sweep cannot be run as asked.
    """
    asked = load(path, sets)
    _check_folder(asked)
    if overwrite and asked.folder.exists():
        shutil.rmtree(asked.folder)
    runner.check(asked.cells, "sweep")
    console.print(_beginning(asked), soft_wrap=True)
    ending = _run(asked, console)
    if ending.signal is not None:
        console.print(f"stopped by {signal.Signals(ending.signal).name}; the same command continues", soft_wrap=True)
        return 128 + ending.signal
    _conclude(asked, ending, console)
    return FAILED if ending.failed else 0


def _run(asked: Sweep, console: Console) -> Ending:
    def told(course: Course, text: str) -> None:
        from coordinator.experiment.show import progress

        console.print(progress(course, text), soft_wrap=True)

    if asked.section.method == "asha":
        return asha.run(asked, told)
    return runner.run(asked.cells, asked.section.parallel, told)


def _beginning(asked: Sweep) -> str:
    section = asked.section
    left = sum(not cell.finished for cell in asked.cells)
    what, most = (
        f"{left} of {len(asked.cells)} groups to run",
        f"{runner.at_once(asked.cells, section.parallel)} at a time",
    )
    if section.method == "asha":
        what = f"looks at rounds {', '.join(map(str, asha.all_looks(asked)))}"
        if section.parallel is None and asked.first[0].config.launcher.ray.address is not None:
            most = "as many at a time as the cluster has room for"
    return (
        f"sweep {section.name} ({section.method}): {len(asked.points)} points x {len(section.seeds)} seeds, {what}, "
        f"{most}; everything goes to {asked.folder}"
    )


def _conclude(asked: Sweep, ending: Ending, console: Console) -> None:
    from coordinator.experiment.report.command import write_report
    from coordinator.experiment.sweep import files, results, show

    found = results.collect(asked, ending.failed)
    files.write(found)
    console.print(show.title(found), soft_wrap=True)
    print_table(show.table(found), console)
    for line in show.sentences(found):
        console.print(line, soft_wrap=True)
    written = [asked.folder / name for name in files.NAMES]
    for path in (*written, write_report([asked.folder], asked.folder)):
        console.print(f"  {path}", soft_wrap=True)


def print_table(table: Table, console: Console) -> None:
    """In a file or a pipe as wide as it is: there is no edge to wrap it at."""
    before = console.width
    if not console.is_terminal:
        console.width = max(before, Measurement.get(console, console.options.update(max_width=10_000), table).maximum)
    console.print(table)
    console.width = before


def _check_folder(asked: Sweep) -> None:
    """Refuse a folder that is an experiment, or nothing of this project's: a sweep would mix with it, or delete it."""
    folder = asked.folder
    inside = list((folder / "cells").iterdir()) if (folder / "cells").is_dir() else []
    foreign = [place.name for place in inside if not _CELL.fullmatch(place.name)]
    if foreign or (folder.exists() and any(folder.iterdir()) and not (folder / "cells").is_dir()):
        found = f"cells/{foreign[0]}" if foreign else "no cells"
        raise RunFolderError(f"{folder} exists and is not a sweep ({found}); choose another sweep.name")
