"""Checks of the software: the configuration, the installed packages, the launcher's programs, the images."""

from __future__ import annotations

import importlib.util
import platform
import shutil
from collections.abc import Iterator
from importlib import metadata

from coordinator.doctor.findings import Finding, Subject, grade
from peers.common.errors import ConfigError, DataError, PeersError
from peers.config.schema import CoordinatorConfig
from peers.runs.run_folder import run_name

DISTRIBUTION = "peer-consensus"
PROGRAMS = ("sbatch", "scontrol", "scancel")
"""Of Slurm, which its launcher calls here; the job itself finds srun on its nodes."""


def configuration(subject: Subject) -> Iterator[Finding]:
    """The configuration loads, its processes fit together, and its coordinator would start."""
    from coordinator.launch.plan import make_plan
    from coordinator.service.from_config import settings_of
    from peers.config.credentials import read_token

    if subject.problem is not None:
        yield Finding("error", "configuration", str(subject.problem), "correct it; the other checks use the defaults")
        return
    make_plan(subject.config)
    if subject.address is None and (
        subject.config.exchange.elastic or subject.config.coordinator != CoordinatorConfig()
    ):
        try:
            read_token(subject.config.security)
        except ConfigError:
            return  # the check of the token reports it
        settings_of(subject.config)
    source = subject.source or "the defaults"
    text = f"{source}: run {run_name(subject.config)}, {subject.peers} peers in {subject.workers} workers"
    yield grade("configuration", text)


def packages(subject: Subject) -> Iterator[Finding]:
    """Python and every required package are there, in the required versions."""
    from packaging.requirements import Requirement
    from packaging.specifiers import SpecifierSet

    if _version(DISTRIBUTION) is None:
        remedy = "`uv sync`, or `pip install -e .` in the clone"
        yield grade("packages", f"{DISTRIBUTION} is not installed", remedy, warning=True)
        return
    python, asked = platform.python_version(), metadata.metadata(DISTRIBUTION)["Requires-Python"]
    remedy = "make an environment of such a Python"
    yield grade("python", f"{python}, expected {asked}", remedy, error=python not in SpecifierSet(asked))
    # torchvision names the one torch that its binaries were built for.
    owners = [owner for owner in (DISTRIBUTION, "torchvision") if _version(owner) is not None]
    for requirement in (Requirement(text) for owner in owners for text in metadata.requires(owner) or ()):
        name, version = requirement.name, _version(requirement.name)
        unused = name == "ray" and subject.config.launcher.kind != "ray"
        if unused or (requirement.marker is not None and not requirement.marker.evaluate()):
            continue
        if version is None or not requirement.specifier.contains(version, prereleases=True):
            text = f"{name} is {version or 'not installed'}, expected {requirement.specifier}"
            yield grade("packages", text, f"`uv sync`, or pip install '{name}{requirement.specifier}'", error=True)
    yield grade("packages", f"torch {_version('torch')}, grpcio {_version('grpcio')}, ray {_version('ray')}")


def launcher(subject: Subject) -> Iterator[Finding]:
    """The package or the programs that start the workers are there."""
    kind, missing = subject.config.launcher.kind, []
    if kind == "ray":
        missing = [] if importlib.util.find_spec("ray") else ["ray"]
    elif kind == "slurm":
        missing = [program for program in PROGRAMS if shutil.which(program) is None]
    text = f"launcher.kind = {kind!r}" + (f", and there is no {', '.join(missing)}" if missing else "")
    yield grade("launcher", text, "install it, or run this where it is: Slurm's login node", error=bool(missing))


def data(subject: Subject) -> Iterator[Finding]:
    """The images are there and fit the configuration; the fingerprint identifies them."""
    grounds, config = subject.grounds, subject.config.data
    if isinstance(grounds, DataError) and config.download:
        text = f"data.name = {config.name!r} is not here yet; the first run downloads it (data.download = true)"
        yield grade("data", text, "let one worker download it before many start at once", warning=True)
    elif isinstance(grounds, DataError):
        remedy = "set PEERS_DATA or data.root to the folder of the images, or data.download = true"
        yield grade("data", str(grounds), remedy, error=True)
    elif isinstance(grounds, PeersError):
        raise grounds
    else:
        images = grounds.data
        counts = f"{len(images.train)} to train, {len(images.validation)} to validate, {len(images.test)} to test"
        yield grade("data", f"{config.name}: {counts}, {'x'.join(map(str, images.shape))}; {grounds.rounds} rounds")
        yield grade("fingerprint", f"{images.fingerprint}: the same on every machine of the group")


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
