"""Does the configuration make a run at all, and a coordinator where it asks for one?"""

from __future__ import annotations

from collections.abc import Iterator

from coordinator.doctor.findings import Finding, Subject, error, listed, ok
from peers.common.errors import ConfigError
from peers.config.schema import CoordinatorConfig
from peers.runs.run_folder import run_name


def configuration(subject: Subject) -> Iterator[Finding]:
    """It loads, its processes fit, and its coordinator would start."""
    source = subject.source or "the defaults"
    if subject.problems:
        remedy = "correct it; the checks below are made with the defaults"
        yield from (error("configuration", problem, remedy) for problem in subject.problems)
        return
    problems = [*_plan(subject), *_service(subject)]
    remedy = "change the named fields, in the file or with --set KEY=VALUE"
    yield from (error("configuration", problem, remedy) for problem in problems)
    if not problems:
        text = f"{source}: run {run_name(subject.config)}, {subject.peers} peers in {subject.workers} workers"
        yield ok("configuration", text)


def _plan(subject: Subject) -> Iterator[str]:
    """Why `coordinator launch` would start nothing."""
    from coordinator.launch.plan import make_plan

    try:
        make_plan(subject.config)
    except ConfigError as exc:
        yield from listed(exc)


def _service(subject: Subject) -> Iterator[str]:
    """Why `coordinator serve` would not start, in its own words."""
    from coordinator.service.from_config import settings_of
    from peers.config.credentials import read_token

    asked = subject.config.exchange.elastic or subject.config.coordinator != CoordinatorConfig()
    if subject.address is not None or not asked:
        return  # the coordinator is not made here
    try:
        read_token(subject.config.security)
    except ConfigError:
        return  # the check of the token says so
    try:
        settings_of(subject.config)
    except ConfigError as exc:
        yield from listed(exc)
