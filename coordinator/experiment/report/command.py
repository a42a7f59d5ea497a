"""`coordinator report`: reads the folders of experiments and sweeps, and writes one page with its figures beside it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from coordinator.experiment.report import page
from coordinator.experiment.report.load import load
from peers.common.errors import RunFolderError
from peers.common.files import write_atomically

NAME = "report.html"
FIGURES = "figures"


def report(folders: Sequence[str], out: str | None, *, console: Console) -> int:
    """Write the report of some folders.

    Args:
        folders: of experiments and sweeps.
        out: folder of the report; by default the first of them.
        console: where to say where it is.

    Returns:
        exit code.

    Raises:
        PeersError: a folder cannot be reported on, or the report cannot be written.
    """
    paths = [Path(folder) for folder in folders]
    console.print(f"  {write_report(paths, Path(out) if out is not None else paths[0])}", soft_wrap=True)
    return 0


def write_report(folders: Sequence[Path], out: Path) -> Path:
    """Write report.html, and each of its figures as figures/NAME.svg and figures/NAME.png.

    The same folders give the same bytes, with the same versions on the same machine.

    Args:
        folders: of experiments and sweeps, in the order of the page.
        out: folder of the report; made if it is not there.

    Returns:
        path of the page.

    Raises:
        RunFolderError: a folder is missing, not finished or damaged, or `out` cannot be written.
        ConfigError: the configuration of a run cannot be read.
    """
    sources = load(folders)
    try:
        figures = out / FIGURES
        figures.mkdir(parents=True, exist_ok=True)
        html, panels = page.make(sources)
        for panel in panels:
            write_atomically(figures / f"{panel.name}.svg", panel.file)
            write_atomically(figures / f"{panel.name}.png", panel.png)
        write_atomically(out / NAME, html.encode())  # last: it is there when all is
    except OSError as exc:
        raise RunFolderError(
            f"cannot write the report in {out}: {exc.strerror or exc}; choose another folder with --out DIR"
        ) from exc
    return out / NAME
