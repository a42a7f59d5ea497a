"""The appendix: recipes that were not kept, configurations, versions, hardware, how to repeat it, and the folders."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path

from coordinator.experiment.report import markup
from coordinator.experiment.report.load import CellFolder, ExperimentFolder, Recipes, Sources, SweepFolder
from coordinator.experiment.report.markup import Column, Entry, Section
from coordinator.experiment.report.settings import changes, experiment_file, resolved, sweep_file
from coordinator.experiment.report.words import NONE, count, general, number, scrub

VERSIONS = ("peer-consensus", "torch", "torchvision", "numpy", "scipy", "scikit-learn", "matplotlib")


def section(sources: Sources) -> Section:
    """Everything that a reader needs who would repeat it."""
    parts = [
        ("recipes", "Rejected recipes", "".join(_recipes(one) for one in sources.recipes)),
        ("configuration", "Configuration", "".join(map(_configuration, sources.experiments))),
        ("reproduce", "How to repeat it", _commands(sources)),
        ("versions", "Versions and hardware", _versions(sources)),
        ("folders", "Folders", _folders(sources)),
    ]
    kept = [part for part in parts if part[2]]
    body = "".join(markup.heading(3, title, key) + html for key, title, html in kept)
    return Section("appendix", "Appendix", body, [(key, title) for key, title, _ in kept])


def _recipes(recipes: Recipes) -> str:
    """What was tried and not kept, as it was written down."""
    numeric = [
        any(row[place] for row in recipes.rows)
        and all(not row[place] or _number(row[place]) is not None for row in recipes.rows)
        for place in range(len(recipes.header))
    ]
    columns = [Column(title, numeric=is_number) for title, is_number in zip(recipes.header, numeric, strict=True)]
    rows = [[Entry(scrub(value) or NONE, _number(value)) for value in row] for row in recipes.rows]
    caption = f"{count(len(rows), 'recipe')} tried in {recipes.place} and not kept, or failed"
    return "".join(markup.paragraph(scrub(text)) for text in recipes.paragraphs) + markup.table(caption, columns, rows)


def _configuration(experiment: ExperimentFolder) -> str:
    results = experiment.results
    base = experiment.config(results.claim)
    if base is None:
        return ""
    rows = []
    for arm in experiment.arms:
        config = experiment.config(arm)
        differs = changes(base, config) if config else {}
        told = ", ".join(f"{key}: {scrub(general(value))}" for key, value in differs.items())
        rows.append([Entry(arm), Entry(told or (NONE if arm != results.claim else "the claim: as below"))])
    table = markup.table(
        f"{results.experiment}: what each arm changes",
        [Column("arm", numeric=False), Column("changes", numeric=False)],
        rows,
    )
    whole = markup.details(f"{results.experiment}: {results.claim}, every setting", markup.code(resolved(base)))
    return table + whole


def _commands(sources: Sources) -> str:
    parts = []
    for experiment in sources.experiments:
        name = experiment.results.experiment
        parts.append(_repeat("experiment", name, experiment_file(experiment)))
    for sweep in sources.sweeps:
        name = str(sweep.about["name"])
        note = ""
        if sweep.about["method"] != "grid":
            note = (
                "Its draws also depend on sweep.seed, and on sweep.asha where points were stopped, which the results "
                "do not hold: this file has their defaults."
            )
        parts.append(_repeat("sweep", name, sweep_file(sweep), note))
    folders = [one.place for one in _all(sources)]
    again = f"uv run coordinator report {' '.join(dict.fromkeys(folders))}"
    return "".join(parts) + markup.paragraph("This page again, from the folders:") + markup.code(again)


def _repeat(command: str, name: str, file: str | None, note: str = "") -> str:
    """A command, and the file that it takes."""
    said = markup.code(f"uv run coordinator {command} {name}.yaml")
    if file is None:
        return said
    told = f"{name}.yaml, in full; what it does not say has its default. Data outside of the package: PEERS_DATA=DIR."
    return said + markup.details(told, markup.code(file)) + (markup.paragraph(note, "note") if note else "")


def _versions(sources: Sources) -> str:
    here = {"python": platform.python_version(), **{name: _version(name) for name in VERSIONS}}
    terms = [("This page was made with", _joined(here))]
    for sweep in sources.sweeps:
        recorded = sweep.about.get("versions")
        if isinstance(recorded, Mapping) and recorded:
            terms.append((f"{sweep.about['name']} was run with", _joined(recorded)))
    terms.append(("Machine that made this page", _machine()))
    for name, cells in _groups(sources):
        ran = _ran(cells)
        if ran:
            terms.append((name, ran))
    return markup.terms(terms)


def _groups(sources: Sources) -> Iterator[tuple[str, Sequence[CellFolder]]]:
    for experiment in sources.experiments:
        yield experiment.results.experiment, experiment.cells
    for sweep in sources.sweeps:
        yield str(sweep.about["name"]), sweep.cells


def _ran(cells: Sequence[CellFolder]) -> str:
    """How the groups ran, as far as they wrote it down."""
    done = [cell.summary for cell in cells if cell.summary]
    if not done:
        return ""
    told = [f"{count(len(done), 'group')} finished"]
    seconds = [float(one["seconds"]) for one in done if isinstance(one.get("seconds"), int | float)]
    if seconds:
        mean, minutes = number(sum(seconds) / len(seconds)), number(sum(seconds) / 60)
        told.append(f"{mean} s of training each on average, {minutes} min in all")
    devices = sorted({cell.config.device for cell in cells if cell.config is not None})
    if devices:
        told.append(f"device: {', '.join(devices)}")
    gpus = sorted({str(one["gpu"]) for one in done if one.get("gpu")})
    if gpus:
        told.append(f"GPU: {', '.join(gpus)}")
    return "; ".join(told)


def _folders(sources: Sources) -> str:
    parts = []
    for one in _all(sources):
        names = "\n".join(f"{one.place}/cells/{cell.path.name}" for cell in one.cells)
        parts.append(markup.details(f"{one.place}: {count(len(one.cells), 'run folder')}", markup.code(names or NONE)))
    return "".join(parts)


def _all(sources: Sources) -> list[ExperimentFolder | SweepFolder]:
    return [*sources.experiments, *sources.sweeps]


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
