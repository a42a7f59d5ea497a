"""Is what this project stands on installed, in the versions that it asks for? And what the launcher needs?"""

from __future__ import annotations

import importlib.util
import platform
import shutil
from collections.abc import Iterator
from importlib import metadata
from typing import TYPE_CHECKING

from coordinator.doctor.findings import Finding, Subject, error, ok, warning

if TYPE_CHECKING:
    from packaging.requirements import Requirement

DISTRIBUTION = "peer-consensus"
OPTIONAL = {"ray": "launcher.kind = 'ray'"}
"""Packages that only some configurations need."""
SLURM = ("sbatch", "scontrol", "scancel")
"""Programs that the Slurm launcher calls here; the job itself finds srun on its nodes."""


def packages(subject: Subject) -> Iterator[Finding]:
    """Python and every requirement of the installed distribution, against the versions that are there."""
    from packaging.requirements import Requirement
    from packaging.specifiers import SpecifierSet

    try:
        about = metadata.metadata(DISTRIBUTION)
    except metadata.PackageNotFoundError:
        text = f"{DISTRIBUTION} is not installed here, so that the versions it asks for are unknown"
        yield warning("packages", text, "install it: `uv sync`, or `pip install -e .` in the clone")
        return
    asked = SpecifierSet(about["Requires-Python"] or "")
    if platform.python_version() in asked:
        yield ok("python", f"{platform.python_version()} ({asked})")
    else:
        yield error("python", f"{platform.python_version()}, expected {asked}", "make an environment of such a Python")
    requirements = [Requirement(text) for text in metadata.requires(DISTRIBUTION) or ()]
    needed = [one for one in requirements if one.marker is None or one.marker.evaluate()]
    fitting = []
    for one in sorted(needed, key=lambda requirement: requirement.name):
        found = _version(one.name)
        if found is not None and one.specifier.contains(found, prereleases=True):
            fitting.append(f"{one.name} {found}")
        elif one.name not in OPTIONAL or subject.config.launcher.kind == one.name:
            yield _unfit(one, found)
    yield ok("packages", ", ".join(fitting))
    yield from _pair("torchvision", "torch")


def launcher(subject: Subject) -> Iterator[Finding]:
    """What starts the workers: Ray's package, Slurm's programs."""
    kind = subject.config.launcher.kind
    if kind == "ray":
        found = _version("ray") if importlib.util.find_spec("ray") else None
        if found is None:
            text = "launcher.kind = 'ray', and ray cannot be imported"
            yield error("launcher", text, "pip install ray, or use launcher.kind = 'local'")
        else:
            yield ok("launcher", f"ray {found}")
    elif kind == "slurm":
        missing = [program for program in SLURM if shutil.which(program) is None]
        if missing:
            text = f"launcher.kind = 'slurm', and there is no {', '.join(missing)} on PATH"
            yield error("launcher", text, "run this on a login node of the cluster, or load its Slurm module")
        else:
            yield ok("launcher", f"slurm: {shutil.which(SLURM[0])}")
    else:
        yield ok("launcher", "local: processes of this machine")


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _unfit(requirement: Requirement, found: str | None) -> Finding:
    what = "is not installed" if found is None else f"is {found}"
    text = f"{requirement.name} {what}, expected {requirement.specifier}"
    return error("packages", text, f"`uv sync`, or pip install '{requirement.name}{requirement.specifier}'")


def _pair(name: str, other: str) -> Iterator[Finding]:
    """Two packages whose binaries must be of one build: what the first says of the second."""
    from packaging.requirements import Requirement

    try:
        asked = [Requirement(text) for text in metadata.requires(name) or ()]
    except metadata.PackageNotFoundError:
        return  # said above
    found = _version(other)
    for one in asked:
        if one.name == other and found is not None and not one.specifier.contains(found, prereleases=True):
            text = f"{name} {_version(name)} was built for {other}{one.specifier}, and {other} is {found}"
            yield error("packages", text, f"install {name} and {other} together, from the same index")
