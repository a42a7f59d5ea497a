"""What the doctor looks at, and what it says: a subject goes into each check, findings come out."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Literal, TypeAlias

from peers.common.errors import ConfigError, PeersError
from peers.config.loading import load, updated
from peers.config.schema import Config
from peers.worker.placement import DEFAULT_PEERS

if TYPE_CHECKING:
    from peers.worker.preflight import Grounds

Level: TypeAlias = Literal["ok", "warning", "error"]


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        level: error: a run would fail, or be refused. warning: it would run, but not as it should.
        name: of the check.
        text: what was found, with the value and what was expected.
        remedy: what to do; empty where all is well.
    """

    level: Level
    name: str
    text: str
    remedy: str = ""

    def as_json(self) -> dict[str, str]:
        """As JSON values."""
        return asdict(self)


def ok(name: str, text: str) -> Finding:
    """All is well."""
    return Finding("ok", name, text)


def warning(name: str, text: str, remedy: str) -> Finding:
    """It would run, but not as it should."""
    return Finding("warning", name, text, remedy)


def error(name: str, text: str, remedy: str) -> Finding:
    """A run would fail, or be refused."""
    return Finding("error", name, text, remedy)


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


@dataclass(frozen=True)
class Subject:
    """A configuration on this machine.

    Attributes:
        config: as loaded, or the defaults where it cannot be; `group.peers` is settled.
        source: the file that was named, or None.
        problems: why the configuration cannot be used, a text each.
        address: HOST:PORT of a coordinator that this machine's peers are to reach, or None.
        now: UTC.
    """

    config: Config
    source: str | None = None
    problems: tuple[str, ...] = ()
    address: str | None = None
    now: datetime.datetime = field(default_factory=_now)

    @classmethod
    def of(cls, path: str | None, sets: tuple[str, ...] = (), address: str | None = None) -> Subject:
        """The subject that a command line names; an unusable configuration becomes its problems."""
        problems: tuple[str, ...] = ()
        try:
            config = load(path, sets)
            config = updated(config, group={"peers": config.group.peers or DEFAULT_PEERS})
        except ConfigError as exc:
            config, problems = updated(Config(), group={"peers": DEFAULT_PEERS}), tuple(listed(exc))
        return cls(config, path, problems, address or config.exchange.address)

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
        """Processes that `coordinator launch` starts on this machine; None where others decide where they run."""
        return self.workers if self.config.launcher.kind == "local" and self.address is None else None

    @cached_property
    def grounds(self) -> Grounds | PeersError:
        """What a launch stands on: images, widths, lengths; or why it would not start. Downloads nothing."""
        import torch

        from peers.worker.preflight import check

        try:
            return check(updated(self.config, data={"download": False}), torch.device("cpu"))
        except PeersError as exc:
            return exc


Check: TypeAlias = Callable[[Subject], Iterator[Finding]]


def listed(exc: ConfigError) -> Iterator[str]:
    """The problems that an error lists below its first line, each with whose they are; or its whole text."""
    head, *problems = str(exc).splitlines()
    if not problems or not all(line.startswith(("  ", "- ")) for line in problems):
        yield str(exc)
        return
    source = head.split(" has ")[0].rstrip(":")
    yield from (f"{source}: {line.strip().removeprefix('- ')}" for line in problems)
