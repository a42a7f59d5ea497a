"""What the doctor examines and what it reports: a check takes a `Subject` and yields each `Finding`."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Literal, TypeAlias

from peers.common.errors import ConfigError, PeersError
from peers.common.hosts import host_in, stays_here
from peers.config.loading import load, updated
from peers.config.schema import Config
from peers.worker.placement import DEFAULT_PEERS

if TYPE_CHECKING:
    from peers.worker.preflight import RunContext


@dataclass(frozen=True)
class Finding:
    """One result of a check.

    Attributes:
        level: error: a run would fail, or be refused. warning: it would run, but not as it should.
        name: what was checked.
        text: the value, and what was expected.
        remedy: what to do; empty where the level is ok.
    """

    level: Literal["ok", "warning", "error"]
    name: str
    text: str
    remedy: str = ""


def grade(name: str, text: str, remedy: str = "", *, error: bool = False, warning: bool = False) -> Finding:
    """A finding of the level that the conditions give: error before warning, ok without either."""
    level: Literal["warning", "error"] = "error" if error else "warning"
    return Finding(level, name, text, remedy) if error or warning else Finding("ok", name, text)


def guarded(name: str, findings: Iterator[Finding]) -> Iterator[Finding]:
    """Findings as they come; an exception of the check becomes an error of this name."""
    try:
        yield from findings
    except (PeersError, OSError, ValueError) as exc:
        yield Finding("error", name, str(exc), "correct what the text names, in the file or with --set KEY=VALUE")
    except Exception as exc:
        text = f"this check could not be made: {type(exc).__name__}: {exc}"
        yield Finding("error", name, text, "correct what the text names; otherwise report it as a defect")


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


@dataclass(frozen=True)
class Subject:
    """A configuration on this machine.

    Attributes:
        config: as loaded, or the defaults where it cannot be; `group.peers` is settled.
        source: path of the configuration, or None.
        problem: why the configuration cannot be used, or None.
        address: HOST:PORT of a coordinator that this machine's peers are to reach, or None.
        now: time of the examination, UTC.
    """

    config: Config
    source: str | None = None
    problem: ConfigError | None = None
    address: str | None = None
    now: datetime.datetime = field(default_factory=_now)

    @classmethod
    def of(cls, path: str | None, sets: tuple[str, ...] = (), address: str | None = None) -> Subject:
        """The subject that a command line names; of an unusable configuration it has the problem and the defaults."""
        config, problem = Config(), None
        try:
            config = load(path, sets)
        except ConfigError as exc:
            problem = exc
        config = updated(config, group={"peers": config.group.peers or DEFAULT_PEERS})
        return cls(config, path, problem, address or config.exchange.address)

    @property
    def peers(self) -> int:
        """Peers of the group."""
        return self.config.group.peers or DEFAULT_PEERS

    @property
    def elastic(self) -> bool:
        """Whether the group meets at a coordinator."""
        return self.config.exchange.elastic or self.address is not None

    @property
    def workers(self) -> int:
        """Processes of the group."""
        inprocess = self.config.exchange.kind == "inprocess"
        return 1 if inprocess else -(-self.peers // min(self.config.group.peers_per_worker, self.peers))

    @property
    def workers_here(self) -> int | None:
        """Processes that `coordinator launch` starts on this machine; None where it starts them elsewhere."""
        return self.workers if self.config.launcher.kind == "local" and self.address is None else None

    @property
    def serves_here(self) -> bool:
        """Whether the group's coordinator would run on this machine."""
        launcher = self.config.launcher
        elsewhere = launcher.kind == "slurm" or (launcher.kind == "ray" and launcher.ray.coordinator == "actor")
        return self.address is None and not elsewhere

    @property
    def spread(self) -> bool:
        """Whether the group has members on other machines."""
        launcher, meeting = self.config.launcher, (self.config.coordinator.bind, self.address or "localhost")
        cluster = launcher.kind == "slurm" or (launcher.kind == "ray" and launcher.ray.address is not None)
        return cluster or not all(stays_here(host_in(address)) for address in meeting)

    @cached_property
    def grounds(self) -> RunContext | PeersError:
        """The images and what follows from them, or why a launch would not start. Downloads nothing."""
        import torch

        from peers.worker.preflight import check

        try:
            return check(updated(self.config, data={"download": False}), torch.device("cpu"))
        except PeersError as exc:
            return exc


Check: TypeAlias = Callable[[Subject], Iterator[Finding]]
