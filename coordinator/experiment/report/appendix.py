"""The appendix: recipes that were not kept, configurations, versions, hardware, how to repeat it, and the folders."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from coordinator.experiment.report.load import CellFolder, ExperimentFolder, Recipes, Sources
from coordinator.experiment.report.render import (
    ReportPart,
    ReportSection,
    Table,
    TableCell,
    TableColumn,
    render_macro,
)
from coordinator.experiment.report.settings import changes, experiment_file, resolved, sweep_file
from coordinator.experiment.report.words import NONE, count, general, number, scrub
from peers.config.schema import Config

VERSIONS = ("peer-consensus", "torch", "torchvision", "numpy", "scipy", "scikit-learn", "matplotlib")


def section(sources: Sources) -> ReportSection:
    """Everything that a reader needs who would repeat it."""
    recipes = [(one, _recipes(one)) for one in sources.recipes]
    configured = [
        (experiment, _changes(experiment, base), resolved(base))
        for experiment in sources.experiments
        if (base := experiment.config(experiment.results.claim)) is not None
    ]
    files = [
        *(("experiment", one, experiment_file(one)) for one in sources.experiments),
        *(("sweep", one, sweep_file(one)) for one in sources.sweeps),
    ]
    parts = [
        _part("recipes", "Rejected recipes", recipes=recipes) if recipes else None,
        _part("configuration", "Configuration", configured=configured) if configured else None,
        _part("reproduce", "How to repeat it", files=files, places=dict.fromkeys(one.place for one in sources.folders)),
        _part("versions", "Versions and hardware", terms=_versions(sources)),
        _part("folders", "Folders", folders=sources.folders),
    ]
    return ReportSection("appendix", "Appendix", [part for part in parts if part is not None], headed=True)


def _part(key: str, title: str, **values: Any) -> ReportPart:
    return ReportPart(key, title, render_macro("appendix", key, **values))


def _recipes(recipes: Recipes) -> Table:
    """What was tried and not kept, as it was written down."""
    columns = []
    for place, title in enumerate(recipes.header):
        values = [row[place] for row in recipes.rows if row[place]]
        columns.append(TableColumn(title, numeric=bool(values) and None not in map(_number, values)))
    return Table(columns, [[TableCell(scrub(value) or NONE, _number(value)) for value in row] for row in recipes.rows])


def _changes(experiment: ExperimentFolder, base: Config) -> Table:
    """What each arm sets otherwise than the claim."""
    claim = experiment.results.claim
    rows = []
    for arm in experiment.arms:
        config = experiment.config(arm)
        differs = changes(base, config) if config else {}
        changed = ", ".join(f"{key}: {scrub(general(value))}" for key, value in differs.items())
        rows.append([TableCell(arm), TableCell(changed or (NONE if arm != claim else "the claim: as below"))])
    return Table([TableColumn("arm", numeric=False), TableColumn("changes", numeric=False)], rows)


def _versions(sources: Sources) -> list[tuple[str, str]]:
    here = {"python": platform.python_version(), **{name: _version(name) for name in VERSIONS}}
    terms = [("This page was made with", _joined(here))]
    for sweep in sources.sweeps:
        recorded = sweep.about.get("versions")
        if isinstance(recorded, Mapping) and recorded:
            terms.append((f"{sweep.title} was run with", _joined(recorded)))
    terms.append(("Machine that made this page", _machine()))
    return terms + [(one.title, ran) for one in sources.folders if (ran := _ran(one.cells))]


def _ran(cells: Sequence[CellFolder]) -> str:
    """How the groups ran, as far as they wrote it down."""
    done = [cell.summary for cell in cells if cell.summary]
    if not done:
        return ""
    facts = [f"{count(len(done), 'group')} finished"]
    seconds = [float(one["seconds"]) for one in done if isinstance(one.get("seconds"), int | float)]
    if seconds:
        mean, minutes = number(sum(seconds) / len(seconds)), number(sum(seconds) / 60)
        facts.append(f"{mean} s of training each on average, {minutes} min in all")
    devices = sorted({cell.config.device for cell in cells if cell.config is not None})
    gpus = sorted({str(one["gpu"]) for one in done if one.get("gpu")})
    facts += [f"{kind}: {', '.join(names)}" for kind, names in (("device", devices), ("GPU", gpus)) if names]
    return "; ".join(facts)


def _machine() -> str:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return f"{platform.system()} on {platform.machine()}, {_processor()}, {count(cores, 'core')}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, "") or platform.processor() or "processor unknown"


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


def _joined(versions: Mapping[str, object]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())


def _number(value: str) -> float | None:
    try:
        return float(value.replace("\N{MINUS SIGN}", "-"))
    except ValueError:
        return None
